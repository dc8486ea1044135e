"""Mode shares: what f replicas see, what f+1 see, and how a seed that doesn't fit is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chisquare

from koinon.errors import BadPiece, CannotOpen, ConfigError, OutOfRange
from koinon.privacy.keystream import CHUNK_BYTES
from koinon.privacy.shares import Shares, held_by, public_bytes, subsets
from tests.unit.privacy.federation import Federation, node, random_updates, seeded

SHARES = Shares()


def seeds_of(piece: bytes) -> dict[int, bytes]:
    return {piece[i]: piece[i + 1 : i + 33] for i in range(0, len(piece), 33)}


def keystream(seed: bytes, words: int) -> np.ndarray:
    """The PRG written out independently: AES-256-CTR from a zero counter block."""
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor().update(bytes(4 * words))
    return np.frombuffer(stream, dtype="<u4")


def what_a_coalition_is_left_with(federation: Federation, coalition: tuple[int, ...]) -> np.ndarray:
    """c plus every mask that the coalition's seeds give: x itself, if no seed is missing to it."""
    protected = federation.protected[node(0)]
    dimension = federation.setting.dimension
    rest = np.frombuffer(protected.public, dtype="<u4", count=dimension).copy()
    known: dict[int, bytes] = {}
    for replica in coalition:
        known |= seeds_of(protected.pieces[replica])
    for seed in known.values():
        rest += keystream(seed, dimension)
    return rest


@pytest.mark.parametrize("replicas", range(1, 11))
def test_sizes_are_those_of_the_design(replicas: int) -> None:
    federation = Federation("shares", random_updates(1, 9), replicas=replicas)
    faulty = (replicas - 1) // 3
    protected = federation.protected[node(0)]
    assert len(subsets(federation.setting)) == comb(replicas, faulty)
    assert len(protected.public) == public_bytes(federation.setting) == 36 + 32 * comb(replicas, faulty)
    assert {len(piece) for piece in protected.pieces} == {33 * comb(replicas - 1, faulty)}


def test_seeds_of_a_committee_above_ten_are_refused_with_the_limit() -> None:
    setting = replace(Federation("shares", random_updates(1, 3)).setting, replicas=11)
    with pytest.raises(ConfigError, match="at most n = 10 replicas, not 11"):
        SHARES.protect(setting, node(0), random_updates(1, 3)[0], seeded("x"))


def test_the_committees_size_decides_how_updates_are_shared() -> None:
    sizes = {
        replicas: len(Federation("shares", random_updates(1, 300), replicas=replicas).protected[node(0)].public)
        for replicas in (10, 11)
    }
    assert sizes == {10: 4 * 300 + 32 * 120, 11: 32 * 11 + 20 * 4}


def test_a_cohort_whose_sum_leaves_the_ring_is_refused_when_protecting() -> None:
    Federation("shares", random_updates(1, 3, 24), bits=24, cohort=256)
    with pytest.raises(OutOfRange, match="257 updates of 24 bits needs 33 bits"):
        Federation("shares", random_updates(1, 3, 24), bits=24, cohort=257)


def test_the_extremes_of_the_ring_come_back_signed() -> None:
    limit = 2**23 - 1
    rows = [np.array([limit, -limit])] * 256
    federation = Federation("shares", rows, bits=24, cohort=256)
    np.testing.assert_array_equal(federation.open().values, [256 * limit, -256 * limit])


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_vectors_around_a_chunk_of_keystream_are_exact(extra: int) -> None:
    federation = Federation("shares", random_updates(2, CHUNK_BYTES // 4 + extra))
    np.testing.assert_array_equal(federation.open().values, federation.total)
    np.testing.assert_array_equal(what_a_coalition_is_left_with(federation, (0, 1)).view("<i4"), federation.updates[0])


@pytest.mark.parametrize("replicas", [4, 7, 10])
def test_every_f_subset_lacks_exactly_one_seed(replicas: int) -> None:
    setting = Federation("shares", random_updates(1, 3), replicas=replicas).setting
    for number, coalition in enumerate(subsets(setting)):
        known = {seed for replica in coalition for seed in held_by(setting, replica)}
        assert set(range(len(subsets(setting)))) - known == {number}


@pytest.mark.parametrize("update", [0, 1, 2**15 - 1, -(2**15 - 1)])
@pytest.mark.parametrize("replicas", [4, 7])
def test_an_f_subset_sees_uniform_bytes_whatever_the_update_is(update: int, replicas: int) -> None:
    federation = Federation("shares", [np.full(20_000, update)], replicas=replicas, seed=f"u{update}")
    for coalition in subsets(federation.setting):
        rest = what_a_coalition_is_left_with(federation, coalition)
        counts = np.bincount(rest.view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6


def test_one_replicas_view_fits_another_update_as_well() -> None:
    """The simulator of the proof: for any x' some mask in place of the unseen one explains the same view."""
    federation = Federation("shares", random_updates(1, 500))
    for replica in range(4):
        rest = what_a_coalition_is_left_with(federation, (replica,))
        for other in random_updates(3, 500, seed=9):
            mask = other.astype("<u4") - rest
            np.testing.assert_array_equal((rest + mask).view("<i4"), other)
            assert chisquare(np.bincount(mask.view(np.uint8), minlength=256)).pvalue > 1e-6


def test_f_plus_one_replicas_together_see_the_update() -> None:
    federation = Federation("shares", random_updates(1, 50), replicas=7)
    for coalition in combinations(range(7), 3):
        rest = what_a_coalition_is_left_with(federation, coalition)
        np.testing.assert_array_equal(rest.view("<i4"), federation.updates[0])


def test_seeds_are_fresh_for_every_update() -> None:
    federation = Federation("shares", [np.zeros(40, dtype=np.int64)] * 2)
    first, second = federation.protected.values()
    assert first.public != second.public
    assert not set(seeds_of(first.pieces[0]).values()) & set(seeds_of(second.pieces[0]).values())


def test_a_seed_that_contradicts_its_commitment_is_refused_by_number() -> None:
    federation = Federation("shares", random_updates(1, 5))
    protected = federation.protected[node(0)]
    piece = bytearray(protected.pieces[0])
    piece[34] ^= 1
    with pytest.raises(BadPiece, match=f"seed 2 of node 0x{node(0).hex()} contradicts"):
        SHARES.check(federation.setting, node(0), protected.public, 0, bytes(piece))


@pytest.mark.parametrize("change", [{"task": bytes(32)}, {"round": 4}])
def test_seeds_are_bound_to_task_and_round(change: dict[str, object]) -> None:
    federation = Federation("shares", random_updates(1, 5))
    protected = federation.protected[node(0)]
    with pytest.raises(BadPiece, match="contradicts"):
        SHARES.check(replace(federation.setting, **change), node(0), protected.public, 0, protected.pieces[0])


def test_seeds_are_bound_to_their_node() -> None:
    federation = Federation("shares", random_updates(1, 5))
    protected = federation.protected[node(0)]
    with pytest.raises(BadPiece, match="contradicts"):
        SHARES.check(federation.setting, node(1), protected.public, 0, protected.pieces[0])


def test_a_piece_of_another_replica_or_in_another_order_is_refused() -> None:
    federation = Federation("shares", random_updates(1, 5))
    protected = federation.protected[node(0)]
    entries = [protected.pieces[0][i : i + 33] for i in range(0, 99, 33)]
    with pytest.raises(BadPiece, match="gave replica 0 the seeds"):
        SHARES.check(federation.setting, node(0), protected.public, 0, protected.pieces[1])
    with pytest.raises(BadPiece, match="gave replica 0 the seeds"):
        SHARES.check(federation.setting, node(0), protected.public, 0, b"".join(entries[:2]))
    with pytest.raises(BadPiece, match="ascending"):
        SHARES.check(federation.setting, node(0), protected.public, 0, b"".join(reversed(entries)))
    with pytest.raises(BadPiece, match="ascending"):
        SHARES.check(federation.setting, node(0), protected.public, 0, entries[0] * 3)


def test_a_shared_part_holds_only_what_the_other_replica_may_see() -> None:
    federation = Federation("shares", random_updates(1, 5), replicas=7)
    pieces = federation.protected[node(0)].pieces
    for giver, taker in combinations(range(7), 2):
        part = seeds_of(SHARES.share_with(federation.setting, pieces[giver], taker))
        assert part.items() <= seeds_of(pieces[taker]).items()
        assert len(part) == comb(5, 2)


def test_merge_without_enough_parts_names_the_missing_seeds() -> None:
    federation = Federation("shares", random_updates(1, 5))
    protected = federation.protected[node(0)]
    part = SHARES.share_with(federation.setting, protected.pieces[1], 3)
    with pytest.raises(BadPiece, match=r"nobody showed seeds \[1\]"):
        SHARES.merge(federation.setting, node(0), protected.public, 3, [part])


def test_a_replica_outside_the_committee_is_a_configuration_error() -> None:
    federation = Federation("shares", random_updates(1, 5))
    with pytest.raises(ConfigError, match="replica 4"):
        held_by(federation.setting, 4)


def test_combine_checks_pieces_again() -> None:
    federation = Federation("shares", random_updates(2, 5))
    held = federation.held(0)
    with pytest.raises(BadPiece, match="contradicts"):
        SHARES.combine(federation.setting, 0, [replace(held[0], piece=held[1].piece), held[1]])


def test_two_digests_with_f_plus_one_voices_each_are_not_decided() -> None:
    federation = Federation("shares", random_updates(2, 5), replicas=5)
    for liar in (0, 1):
        sums = federation.sums(liar)
        federation.say(liar, {number: bytes(len(data)) for number, data in sums.items()})
    with pytest.raises(CannotOpen, match="more than one digest"):
        federation.open()


def test_the_same_stream_gives_the_same_bytes() -> None:
    setting = Federation("shares", random_updates(1, 5)).setting
    values = random_updates(1, 5)[0]
    assert SHARES.protect(setting, node(0), values, seeded("a")) == SHARES.protect(
        setting, node(0), values, seeded("a")
    )
