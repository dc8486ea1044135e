"""Hostile messages to a replica at work: each is answered with a typed rejection or ignored, and nothing changes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from koinon.encoding import Message, encode
from koinon.errors import Malformed, NonCanonical, Oversized
from koinon.rounds import operations
from koinon.wire import Phase
from pbft.events import Ignored, Misbehaved, Received
from pbft.messages import (
    MESSAGE_BYTES_MAX,
    CheckpointCertificate,
    CheckpointVote,
    NewView,
    PeerMessage,
    SignedNewView,
    SignedRecoveryRequest,
    SignedViewChange,
    decode_entry,
    decode_peer,
    decode_record,
)
from tests.simulation.world import DOMAIN, signer
from tests.unit.pbft.bench import Bench
from tests.unit.pbft.hostile import KINDS, SIGNED, busy, correct, harmless, remembers


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KINDS), st.data())
def test_a_message_that_is_cut_short_or_goes_on_is_refused(kind: str, data: st.DataObject) -> None:
    raw = encode(correct()[kind])
    cut = data.draw(st.integers(0, len(raw) - 1))
    tail = data.draw(st.binary(min_size=1, max_size=40))
    for hostile in (raw[:cut], raw + tail, raw[:cut] + tail + raw[cut:]):
        if hostile == raw:
            continue
        for decoder in (decode_peer, decode_record, decode_entry):
            with contextlib.suppress(Malformed):
                assert encode(decoder(hostile)) == hostile


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_of_a_message_is_held_against_its_sender(kind: str) -> None:
    bench, raw = busy(), encode(correct()[kind])
    for cut in range(0, len(raw), max(1, len(raw) // 40)):
        (effect,) = bench.replica.step(Received(bench.now_ms, 3, raw[:cut]))
        assert isinstance(effect, Misbehaved)
        assert isinstance(effect.error, Malformed)


def test_what_is_too_long_is_refused_before_it_is_parsed() -> None:
    (effect,) = busy().replica.step(Received(0, 3, bytes(MESSAGE_BYTES_MAX + 1)))
    assert isinstance(effect, Misbehaved)
    assert isinstance(effect.error, Oversized)


def test_another_encoding_of_the_same_message_is_refused() -> None:
    raw = encode(correct()["fetch"])
    longer = raw.replace(b"\x02\xc4", b"\xcc\x02\xc4", 1)  # the number 2 in two bytes
    assert longer != raw
    with pytest.raises(NonCanonical):
        decode_peer(longer)


@pytest.mark.parametrize("kind", SIGNED)
def test_a_stranger_says_nothing(kind: str) -> None:
    """The same words under a key that has no seat."""
    message = correct()[kind]
    stranger = signer("stranger", 0)
    if isinstance(message, SignedViewChange | SignedNewView | SignedRecoveryRequest):
        forged: Message = changed(message, signature=stranger.sign(DOMAIN, message.message))
    elif isinstance(message, CheckpointCertificate):
        forged = changed(message, signatures=(stranger.sign(DOMAIN, message.checkpoint),) * 3)
    else:
        forged = changed(message, signature=stranger.sign_digest(b"\7" * 32))
    (effect,) = harmless(busy(), encode(forged))
    assert isinstance(effect, Misbehaved)


def _moved(message: PeerMessage, **fields: int) -> Message:
    """The same message, said to be of another epoch or view."""
    if hasattr(message, "vote"):
        return changed(message, vote=changed(message.vote, **fields))
    if isinstance(message, CheckpointVote | CheckpointCertificate):
        return changed(message, checkpoint=changed(message.checkpoint, **fields))
    if isinstance(message, SignedViewChange | SignedNewView | SignedRecoveryRequest):
        return changed(message, message=changed(message.message, **fields))
    return changed(message, **fields)


@pytest.mark.parametrize("kind", [kind for kind in SIGNED if "checkpoint" not in kind])
@pytest.mark.parametrize("view", [0, 2, 7, 2**63 - 1])
def test_a_signature_of_one_view_is_worth_nothing_in_another(kind: str, view: int) -> None:
    message = correct()[kind]
    moved = _moved(message, view=view)
    if moved != message:
        harmless(busy(), encode(moved))


@pytest.mark.parametrize("kind", SIGNED)
@pytest.mark.parametrize("epoch", [1, 2**32 - 1])
def test_what_is_said_to_be_of_another_epoch_is_ignored(kind: str, epoch: int) -> None:
    (effect,) = harmless(busy(), encode(_moved(correct()[kind], epoch=epoch)))
    assert isinstance(effect, Ignored)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_said_twice_counts_once(kind: str) -> None:
    bench, raw = busy(), encode(correct()[kind])
    bench.replica.step(Received(bench.now_ms, 0, raw))
    harmless(bench, raw, sender=0)


# --- mutations of valid messages, field by field


def _leaves(message: Message, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], object]]:
    """Every number, digest and signature in a message, by its path."""
    found: list[tuple[tuple[str | int, ...], object]] = []
    for name in message.__struct_fields__:
        value = getattr(message, name)
        items = list(enumerate(value)) if isinstance(value, tuple) else [(None, value)]
        for place, item in items:
            here = (*path, name) if place is None else (*path, name, place)
            found += _leaves(item, here) if isinstance(item, Message) else [(here, item)]
    return found


def _with(message: Any, path: tuple[str | int, ...], value: object) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    old = getattr(message, str(name))
    if rest and isinstance(rest[0], int):
        items = list(old)
        items[rest[0]] = _with(items[rest[0]], rest[1:], value)
        return changed(message, **{str(name): tuple(items)})
    return changed(message, **{str(name): _with(old, rest, value)})


def _other(value: object, data: st.DataObject) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = st.sampled_from([max(0, value - 1), value + 1, 0, 2**31])
        return data.draw(st.one_of(near, st.integers(0, 2**32 - 1)))
    assert isinstance(value, bytes)
    flipped = bytearray(value or b"\0")
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= data.draw(st.integers(1, 255))
    return bytes(flipped)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["view change", "new view"]), st.data())
def test_a_view_change_with_any_one_field_changed_is_refused_or_ignored(kind: str, data: st.DataObject) -> None:
    """The sender signs the changed words again, so that only what is inside can give the lie away."""
    honest = correct()[kind]
    path, value = data.draw(st.sampled_from(_leaves(honest)))
    try:
        lie = _with(honest, path, _other(value, data))
    except ValueError:
        return  # not even a message
    if lie == honest:
        return
    if path[-1] != "signature" or len(path) > 1:
        lie = changed(lie, signature=signer("replica", 0 if kind == "view change" else 2).sign(DOMAIN, lie.message))
    bench = Bench(3) if kind == "new view" else busy()
    before = remembers(bench)
    effects = bench.replica.step(Received(bench.now_ms, 0, encode(lie)))
    if kind == "view change" and path in (("message", "view"), ("message", "epoch")):
        return  # its sender may call for any view
    assert [type(effect) for effect in effects] in ([Misbehaved], [Ignored]), (path, effects)
    assert remembers(bench) == before


@pytest.mark.parametrize("lie", ["no change", "one change", "one twice", "proposal left out", "null request", "nobody"])
def test_a_new_view_with_a_forged_certificate_inside_is_refused(lie: str) -> None:
    bench = Bench(3)
    signed = correct()["new view"]
    assert isinstance(signed, SignedNewView)
    honest = signed.message
    changes, proposals = honest.view_changes, honest.proposals
    null = bench.vote(2, Phase.PRE_PREPARE, 2, 2, b"\0" * 32)
    forged: NewView = {
        "no change": changed(honest, view_changes=()),
        "one change": changed(honest, view_changes=changes[:1]),
        "one twice": changed(honest, view_changes=(changes[0], changes[0], changes[1])),
        "proposal left out": changed(honest, proposals=proposals[:-1]),
        "null request": changed(honest, proposals=(proposals[0], changed(proposals[1], digest=null.vote.digest))),
        "nobody": changed(honest, proposals=(proposals[0], changed(proposals[1], signature=changes[0].signature))),
    }[lie]
    (effect,) = harmless(bench, encode(bench.sign_new_view(forged)))
    assert isinstance(effect, Misbehaved)


# --- the law's operations


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_operation_or_refused(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert encode(operations.decode_operation(data)) == data


def test_the_honest_messages_are_taken() -> None:
    """Else the refusals above would prove nothing."""
    for kind in ("pre-prepare", "view change"):
        bench = busy()
        before = remembers(bench)
        effects = bench.replica.step(Received(bench.now_ms, 0, encode(correct()[kind])))
        assert not [effect for effect in effects if isinstance(effect, Misbehaved)]
        assert remembers(bench) != before
    bench = Bench(3)
    bench.receive(2, correct()["new view"])
    assert (bench.replica.view, bench.replica.active) == (2, True)
