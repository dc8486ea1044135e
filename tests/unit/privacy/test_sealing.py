"""Sealed pieces: one keystore derives them, and a box opens in its own place only."""

from __future__ import annotations

from itertools import product

import pytest

from koinon.errors import BadPiece, PrivacyError
from koinon.privacy import SealingKey, piece_context, seal_to

TASK, NODE = b"t" * 32, b"n" * 20


def test_a_derived_key_is_a_function_of_secret_and_epoch() -> None:
    first = SealingKey.derive(b"s" * 32, 0)
    assert first.public == SealingKey.derive(b"s" * 32, 0).public
    others = {SealingKey.derive(b"s" * 32, 1).public, SealingKey.derive(b"r" * 32, 0).public}
    assert first.public not in others
    assert len(others) == 2


def test_the_derived_key_of_a_known_secret_never_changes() -> None:
    assert SealingKey.derive(bytes(range(32)), 7).public.hex() == (
        "64b05a5590bd14b1385662a18b37a07bb63aa2767f8271a1600245bb982c5b6d"
    )


def test_every_field_separates_contexts() -> None:
    contexts = [
        piece_context(task, round, node, replica)
        for task, round, node, replica in product((TASK, b"u" * 32), (1, 2), (NODE, b"m" * 20), (0, 1))
    ]
    assert len(set(contexts)) == 16


def test_a_box_opens_for_its_key_and_context_only() -> None:
    key = SealingKey.derive(b"s" * 32, 0)
    context = piece_context(TASK, 1, NODE, 0)
    box = seal_to(key.public, b"a piece", context)
    assert key.open(box, context) == b"a piece"
    for other, where, what in (
        (key, piece_context(TASK, 1, NODE, 1), box),
        (SealingKey.derive(b"s" * 32, 1), context, box),
        (key, context, box[:-1]),
        (key, context, b""),
        (key, context, box[:-1] + bytes([box[-1] ^ 1])),
    ):
        with pytest.raises(BadPiece, match="does not open"):
            other.open(what, where)


def test_a_sealing_key_does_not_show_its_secret() -> None:
    key = SealingKey.derive(b"s" * 32, 0)
    assert key.secret.hex() not in repr(key)
    assert key.public.hex() in repr(key)


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"k" * 31, b""])
def test_what_is_no_key_is_not_sealed_to(public: bytes) -> None:
    with pytest.raises(PrivacyError, match="not an X25519 public key"):
        seal_to(public, b"a piece", b"")
