"""Messages beyond a bound, or with a lie inside: refused by type, counted, held against their sender; nothing moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from koinon.encoding import Message, encode
from koinon.errors import BadSignature, KoinonError, Malformed, Oversized
from koinon.signing import Signed
from koinon.wire import COMMITTEE_MAX, Batch, Request
from pbft.certificates import batch_digest
from pbft.events import Misbehaved
from pbft.messages import (
    WINDOW_MAX,
    Body,
    CheckpointCertificate,
    PreparedProof,
    Proposal,
    Recovering,
    RecoveryResponse,
    Relay,
    SignedNewView,
    SignedViewChange,
)
from tests.unit.pbft.bench import SETTINGS, Bench
from tests.unit.pbft.hostile import VIEW, Shell, busy, harmless
from tests.unit.pbft.ignored_cases import fetching

Case = Callable[[], tuple[Bench, Message]]
CASES: dict[str, tuple[type[KoinonError], Case]] = {}
MEMBERS = (0, 1, 3)


def _refused(error: type[KoinonError], what: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES[what] = error, case
        return case

    return register


def _certificate(bench: Bench, count: int) -> CheckpointCertificate:
    """`count` good signatures, so of some members more than one."""
    votes = [bench.checkpoint(MEMBERS[number % 3], 4, b"\5" * 32) for number in range(count)]
    return CheckpointCertificate(checkpoint=votes[0].checkpoint, signatures=tuple(vote.signature for vote in votes))


def _proof(bench: Bench, count: int) -> PreparedProof:
    """With `count` good prepares."""
    proof = bench.proof(2, bench.batch(), view=VIEW)
    return replace(proof, prepares=(proof.prepares * count)[:count])


def _proofs(bench: Bench, count: int) -> tuple[PreparedProof, ...]:
    """Of so many slots; only those of the window are good."""
    good = [bench.proof(number, bench.batch(), view=VIEW) for number in range(1, min(count, SETTINGS.window + 1) + 1)]
    return (*good, *(replace(good[-1], sequence=number) for number in range(len(good) + 1, count + 1)))


def _new_view(bench: Bench, **changes: object) -> SignedNewView:
    honest = bench.new_view(2, *(bench.view_change(who, 2) for who in MEMBERS)).message
    return bench.sign_new_view(replace(honest, **changes))


def _changes(bench: Bench, count: int) -> tuple[SignedViewChange, ...]:
    return tuple(bench.view_change(number % 4, 2) for number in range(count))


def _proposals(bench: Bench, count: int) -> tuple[Proposal, ...]:
    signature = bench.prepare(0, 1, bench.batch()).signature
    return tuple(Proposal(sequence=number, digest=b"\1" * 32, signature=signature) for number in range(1, count + 1))


# --- more than fits


@_refused(BadSignature, "a checkpoint certificate with more signatures than members")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _certificate(bench, bench.n + 1)


@_refused(Malformed, "a checkpoint certificate with more signatures than any committee")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _certificate(bench, COMMITTEE_MAX + 1)


@_refused(BadSignature, "a checkpoint certificate with one signature often")
def _() -> tuple[Bench, Message]:
    bench = busy()
    certificate = _certificate(bench, 1)
    return bench, replace(certificate, signatures=certificate.signatures * bench.committee.quorum)


@_refused(BadSignature, "a view change with more prepares than members")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), bench.view_change(3, 2, _proof(bench, bench.n + 1))


@_refused(Malformed, "a view change with more prepares than any committee")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), bench.view_change(3, 2, _proof(bench, COMMITTEE_MAX + 1))


@_refused(Malformed, "a view change with more proofs than the window")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), bench.view_change(3, 2, *_proofs(bench, SETTINGS.window + 1))


@_refused(Malformed, "a view change with more proofs than any window")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), bench.view_change(3, 2, *_proofs(bench, WINDOW_MAX + 1))


@_refused(Malformed, "a view change with more signatures in its checkpoint than any committee")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), bench.view_change(3, 2, stable=_certificate(bench, COMMITTEE_MAX + 1))


@_refused(Malformed, "a new view with more view changes than members")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _new_view(Bench(3), view_changes=_changes(bench, bench.n + 1))


@_refused(Malformed, "a new view with more view changes than any committee")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _new_view(Bench(3), view_changes=_changes(bench, COMMITTEE_MAX + 1))


@_refused(Malformed, "a new view with more proposals than follow")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _new_view(bench, proposals=_proposals(bench, SETTINGS.window + 1))


@_refused(Malformed, "a new view with more proposals than any window")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), _new_view(bench, proposals=_proposals(bench, WINDOW_MAX + 1))


@_refused(Malformed, "a pre-prepare with more requests than a batch")
def _() -> tuple[Bench, Message]:
    bench = busy()
    batch = bench.batch(*(bench.request(number) for number in range(SETTINGS.batch_requests_max + 1)))
    return bench, bench.pre_prepare(4, batch, view=VIEW)


@_refused(Malformed, "a pre-prepare with more bytes than a batch")
def _() -> tuple[Bench, Message]:
    bench = busy()
    requests = (bytes(SETTINGS.batch_bytes_max // 2), bytes(SETTINGS.batch_bytes_max // 2 + 1))
    return bench, bench.pre_prepare(4, Batch(time_ms=bench.now_ms, requests=requests), view=VIEW)


@_refused(Malformed, "a body with more requests than a batch")
def _() -> tuple[Bench, Message]:
    bench, _ = fetching()
    return bench, Body(sequence=1, batch=Batch(time_ms=1, requests=(b"",) * (SETTINGS.batch_requests_max + 1)))


@_refused(Oversized, "a relay of a request beyond its bound")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), Relay(request=bench.request(9, bytes(SETTINGS.request_bytes_max)))


# --- a lie inside


def _forged(bench: Bench) -> bytes:
    """A request that nobody signed."""
    return encode(Signed(payload=encode(Request(number=9, operation=b"do")), signature=b"\xff" * 64))


@_refused(BadSignature, "a relay of a request that nobody signed")
def _() -> tuple[Bench, Message]:
    return (bench := busy()), Relay(request=_forged(bench))


@_refused(Malformed, "a relay of what is no request")
def _() -> tuple[Bench, Message]:
    return busy(), Relay(request=b"rubbish")


@_refused(BadSignature, "a pre-prepare with a request that nobody signed")
def _() -> tuple[Bench, Message]:
    bench = busy()
    return bench, bench.pre_prepare(4, bench.batch(bench.request(9), _forged(bench)), view=VIEW)


@_refused(Malformed, "a body that is not the wanted one")
def _() -> tuple[Bench, Message]:
    bench, batch = fetching()
    return bench, Body(sequence=1, batch=replace(batch, time_ms=batch.time_ms + 1))


@_refused(Malformed, "a recovery response from the last view of all")
def _() -> tuple[Bench, Message]:
    bench = Bench(2)
    bench.restart(Recovering(epoch=0, view=0, over=False))
    return bench, RecoveryResponse(epoch=0, since_ms=bench.replica._since_ms, view=2**63 - 1)


@pytest.mark.parametrize("what", sorted(CASES))
def test_it_is_refused_counted_and_held_against_its_sender(what: str, shell: Shell) -> None:
    error, case = CASES[what]
    bench, message = case()
    effects = harmless(bench, encode(message))
    assert [(effect.sender, type(effect.error)) for effect in effects if isinstance(effect, Misbehaved)] == [(3, error)]
    assert len(effects) == 1
    shell.blamed.clear()
    assert shell.counted(effects) == {error.code: 1}
    assert shell.blamed == [3]


def test_the_same_words_within_the_bounds_are_taken() -> None:
    """Else the refusals above would prove nothing."""
    bench = busy()
    for message in (
        bench.view_change(3, 2, _proof(bench, bench.committee.quorum - 1)),
        bench.view_change(0, 2, *_proofs(bench, SETTINGS.window)),
        _certificate(bench, bench.committee.quorum),
    ):
        before = bench.replica.stable, len(bench.replica._view_changes)
        bench.receive(3, message)
        assert (bench.replica.stable, len(bench.replica._view_changes)) != before
    bench, batch = fetching()
    assert bench.receive(3, Body(sequence=1, batch=batch))
    assert bench.replica.log.slot(1).digest == batch_digest(batch)
