from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koinon.encoding import decode, digest, encode, from_hex, keccak, to_hex
from koinon.errors import Malformed, NonCanonical, Oversized
from koinon.rounds.operations import CloseRound, StopTask, decode_operation
from koinon.wire import Contribution, Vote

VOTE = Vote(epoch=0, phase=2, view=1, sequence=7, digest=b"\x11" * 32)


def test_keccak_is_ethereums_and_not_nists() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_a_message_survives_the_round_trip() -> None:
    assert decode(Vote, encode(VOTE)) == VOTE


def test_two_types_with_equal_fields_have_different_bytes() -> None:
    task = bytes(32)
    assert digest(StopTask(task=task)) != digest(CloseRound(task=task, round=0))
    with pytest.raises(Malformed):
        decode(CloseRound, encode(StopTask(task=task)))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_malformed_or_canonical(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert encode(decode_operation(data)) == data


@given(st.data())
def test_a_mutated_message_never_decodes_to_the_same_value(data: st.DataObject) -> None:
    raw = bytearray(encode(VOTE))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Malformed):
        assert decode(Vote, bytes(raw)) != VOTE


def test_a_wider_integer_encoding_is_not_canonical() -> None:
    tail = encode(VOTE)
    short = msgspec.msgpack.encode(("Vote", 2, 0, 1, 7, b"\x11" * 32))
    assert short == tail
    wide = tail.replace(b"\x02\x00\x01\x07", b"\xcc\x02\x00\x01\x07", 1)
    with pytest.raises(NonCanonical):
        decode(Vote, wide)


def test_trailing_elements_and_trailing_bytes_are_refused() -> None:
    with pytest.raises(Malformed):
        decode(Vote, msgspec.msgpack.encode(("Vote", 2, 0, 1, 7, b"\x11" * 32, 0)))
    with pytest.raises(Malformed):
        decode(Vote, encode(VOTE) + b"\0")


def test_a_body_above_the_bound_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(Oversized):
        decode(Vote, b"\xff" * 100, bytes_max=99)


def test_a_short_digest_and_a_negative_number_are_malformed() -> None:
    for fields in (
        ("Vote", 2, 0, 1, 7, b"\x11" * 31),
        ("Vote", 2, 0, -1, 7, b"\x11" * 32),
        ("Vote", 2, 2**32, 1, 7, b"\x11" * 32),
        ("Vote", 256, 0, 1, 7, b"\x11" * 32),
    ):
        with pytest.raises(Malformed):
            decode(Vote, msgspec.msgpack.encode(fields))


def test_construction_checks_invariants_across_fields() -> None:
    parts = {"task": bytes(32), "round": 1, "updates_root": bytes(32), "replica": 0}
    with pytest.raises(ValueError, match="ascending"):
        Contribution(components=((1, bytes(32)), (0, bytes(32))), **parts)


def test_hexadecimal_is_parsed_strictly() -> None:
    assert from_hex(to_hex(b"\x01\x02")) == b"\x01\x02"
    with pytest.raises(Malformed):
        from_hex("0xzz")
