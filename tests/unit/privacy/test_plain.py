"""Mode plain: a hiding commitment, the narrowest packing, nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from koinon.errors import BadPiece, ConfigError
from koinon.privacy.plain import Plain, unpack
from tests.unit.privacy.federation import Federation, node, random_updates, seeded

PLAIN = Plain()


@pytest.mark.parametrize(("bits", "width"), [(8, 1), (9, 2), (16, 2), (17, 4), (24, 4), (32, 4)])
def test_a_piece_is_a_salt_and_the_narrowest_integers_that_fit(bits: int, width: int) -> None:
    federation = Federation("plain", random_updates(1, 10, bits), bits=bits)
    piece = federation.protected[node(0)].pieces[0]
    assert len(piece) == 32 + 10 * width
    np.testing.assert_array_equal(unpack(federation.setting, piece), federation.updates[0])


def test_more_than_32_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 to 32 bits"):
        Federation("plain", [np.zeros(3, dtype=np.int64)], bits=33)


def test_equal_updates_have_different_commitments() -> None:
    federation = Federation("plain", [np.zeros(5, dtype=np.int64)] * 2)
    first, second = federation.publics.values()
    assert len(first) == 32
    assert first != second


def test_the_commitment_is_bound_to_its_node() -> None:
    federation = Federation("plain", random_updates(1, 5))
    protected = federation.protected[node(0)]
    with pytest.raises(BadPiece, match="contradicts"):
        PLAIN.check(federation.setting, node(1), protected.public, 0, protected.pieces[0])


@pytest.mark.parametrize("position", [0, 31, 32, -1])
def test_another_salt_or_value_contradicts_the_commitment(position: int) -> None:
    federation = Federation("plain", random_updates(1, 5))
    protected = federation.protected[node(0)]
    piece = bytearray(protected.pieces[0])
    piece[position] ^= 1
    with pytest.raises(BadPiece, match="contradicts"):
        PLAIN.check(federation.setting, node(0), protected.public, 0, bytes(piece))


def test_a_committed_value_beyond_the_bits_is_refused_by_the_replica() -> None:
    wide = Federation("plain", [np.array([2**11, 0])], bits=13)
    narrow = Federation("plain", [np.array([0, 0])], bits=12)
    protected = wide.protected[node(0)]
    with pytest.raises(BadPiece, match="exceeds"):
        PLAIN.check(narrow.setting, node(0), protected.public, 0, protected.pieces[0])


def test_merge_ignores_lies_and_fails_when_nothing_else_came() -> None:
    federation = Federation("plain", random_updates(1, 5))
    protected = federation.protected[node(0)]
    lies = [b"", b"x" * len(protected.pieces[0])]
    merged = PLAIN.merge(federation.setting, node(0), protected.public, 1, [*lies, protected.pieces[0]])
    assert merged == protected.pieces[1]
    with pytest.raises(BadPiece, match="none of 2 parts"):
        PLAIN.merge(federation.setting, node(0), protected.public, 1, lies)


def test_entropy_is_drawn_for_the_salt_only() -> None:
    drawn: list[int] = []
    stream = seeded("s")

    def counting(size: int) -> bytes:
        drawn.append(size)
        return stream(size)

    federation = Federation("plain", random_updates(1, 5))
    PLAIN.protect(federation.setting, node(0), federation.updates[0], counting)
    assert drawn == [32]
