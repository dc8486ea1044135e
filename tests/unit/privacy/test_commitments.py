"""Commitments bind every node to its vector, hide it, and add up to a check of the sum that needs no trust."""

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.errors import BadPiece, CannotOpen
from koinon.privacy.commitments import (
    BLINDING_BYTES,
    COMMITMENT_BYTES,
    commit,
    draw_blinding,
    require_commitment,
    verify_sum,
)
from koinon.privacy.mode import Values

BITS = 16
LIMIT = 2 ** (BITS - 1) - 1


def vectors(count: int, dimension: int = 40) -> tuple[list[Values], list[Values], list[bytes]]:
    rng = np.random.default_rng(count)
    values = [rng.integers(-LIMIT, LIMIT + 1, dimension) for _ in range(count)]
    blindings = [draw_blinding(secrets.token_bytes) for _ in values]
    made = [commit(v, r, bits=BITS, cohort=8) for v, r in zip(values, blindings, strict=True)]
    return values, blindings, made


@settings(max_examples=30, deadline=None)
@given(data=st.data(), count=st.integers(1, 8), dimension=st.integers(1, 60))
def test_the_true_sum_always_passes(data: st.DataObject, count: int, dimension: int) -> None:
    extreme = st.sampled_from([-LIMIT, -1, 0, 1, LIMIT])
    rows = data.draw(
        st.lists(st.lists(extreme, min_size=dimension, max_size=dimension), min_size=count, max_size=count)
    )
    values = [np.array(row, dtype=np.int64) for row in rows]
    blindings = [draw_blinding(secrets.token_bytes) for _ in values]
    made = [commit(v, r, bits=BITS, cohort=8) for v, r in zip(values, blindings, strict=True)]
    verify_sum(made, np.sum(values, axis=0), np.sum(blindings, axis=0), bits=BITS, cohort=8)


@pytest.mark.parametrize(
    "lie", ["one coordinate", "two that cancel", "the blinding", "a node left out", "a node twice"]
)
def test_a_false_sum_is_refused(lie: str) -> None:
    values, blindings, made = vectors(5)
    total, blinding = np.sum(values, axis=0), np.sum(blindings, axis=0)
    match lie:
        case "one coordinate":
            total[7] += 1
        case "two that cancel":
            total[7] += 1
            total[8] -= 1
        case "the blinding":
            blinding[3] += 1
        case "a node left out":
            made.pop()
        case "a node twice":
            made.append(made[0])
    with pytest.raises(CannotOpen, match="not the one"):
        verify_sum(made, total, blinding, bits=BITS, cohort=8)


def test_a_slot_cannot_be_traded_for_its_neighbour() -> None:
    """2^width in one slot equals 1 in the next: only sums within what the nodes can add to are accepted."""
    values, blindings, made = vectors(2)
    total = np.sum(values, axis=0)
    width = BITS + 3
    total[0] += 1 << width
    total[1] -= 1
    with pytest.raises(CannotOpen, match="outside"):
        verify_sum(made, total, np.sum(blindings, axis=0), bits=BITS, cohort=8)


def test_equal_vectors_have_unequal_commitments() -> None:
    values = np.zeros(10, dtype=np.int64)
    first, second = (commit(values, draw_blinding(secrets.token_bytes), bits=BITS, cohort=8) for _ in range(2))
    assert first != second
    assert len(first) == COMMITMENT_BYTES


def test_a_blinding_is_bytes() -> None:
    drawn = draw_blinding(lambda count: bytes(range(count)))
    assert drawn.tolist() == list(range(BLINDING_BYTES))


@pytest.mark.parametrize("data", [b"", b"\x00" * 48, b"\xff" * 48, b"\x80" + b"\x01" * 47, b"\xc0" + b"\x00" * 46])
def test_what_is_no_point_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(BadPiece, match="node 0xaaaa"):
        require_commitment(b"\xaa" * 20, data)


def test_a_commitment_has_one_form_for_ever() -> None:
    """A vector: generators and packing must never change, or old rounds could not be audited."""
    made = commit(np.arange(-5, 20, dtype=np.int64), draw_blinding(lambda count: b"\x07" * count), bits=BITS, cohort=8)
    assert (
        made.hex() == "a3872ac9b0ffa1d83aec6914418f660e253bbf7727dbca9ab7697e472b630a48f581439f292dc24ba556e240ed390576"
    )
