"""Mode shares beyond ten replicas: sums are exact, liars and cheating nodes are found, and f replicas see nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from koinon.encoding import keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError, InvalidProof, OutOfRange
from koinon.privacy import Protected, Setting, Values
from koinon.privacy import reed_solomon as rs
from koinon.privacy import shamir_shares as inside
from tests.unit.privacy.federation import Federation, node, random_updates, seeded

SIZES = [11, 12, 13, 16, 31]
every_size = pytest.mark.parametrize("replicas", SIZES)


def large(updates: list[Values], replicas: int = 13, **changes: object) -> Federation:
    return Federation("shares", updates, replicas=replicas, **changes)  # type: ignore[arg-type]


def share_of(federation: Federation, replica: int, number: int = 0) -> np.ndarray:
    protected = federation.protected[node(number)]
    return inside._checked_share(federation.setting, node(number), protected.public, replica, protected.pieces[replica])


def protect_apart(setting: Setting, first: Values, second: Values, those: set[int]) -> Protected:
    """What a node sends that gives `those` replicas shares of another polynomial, each piece well committed."""
    one, other = (inside.ShamirShares().protect(setting, node(0), each, seeded(f"{each}")) for each in (first, second))
    pieces = tuple((other if i in those else one).pieces[i] for i in range(setting.replicas))
    commitments = b"".join(inside._commitment(setting, node(0), i, piece) for i, piece in enumerate(pieces))
    shares = [
        inside._checked_share(setting, node(0), commitments + one.public[len(commitments) :], i, pieces[i])
        for i in range(setting.replicas)
        if i not in those
    ][: setting.faulty + 1]
    points = [i + 1 for i in range(setting.replicas) if i not in those][: setting.faulty + 1]
    folds = [np.array(each, dtype="<u4") for each in inside._blinded_folds(setting, node(0), commitments, shares)]
    published = [rs.combine(rs.weights_at(i + 1, points), folds) for i in range(setting.faulty + 1)]
    return Protected(commitments + b"".join(each.tobytes() for each in published), pieces)


@every_size
def test_the_sum_is_exact_and_anyone_verifies_it(replicas: int) -> None:
    federation = large(random_updates(3, 50), replicas)
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    assert opened.dissenters == ()
    federation.components.clear()  # the witness is enough
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@every_size
def test_a_node_uploads_a_vector_for_each_replica_but_f(replicas: int) -> None:
    federation = large(random_updates(1, 50), replicas)
    faulty, protected = federation.setting.faulty, federation.protected[node(0)]
    sizes = [len(piece) for piece in protected.pieces]
    assert sizes == [32] * faulty + [32 + 4 * (50 + rs.FOLDS)] * (replicas - faulty)
    assert len(protected.public) == inside.public_bytes(federation.setting) == 32 * replicas + 20 * (faulty + 1)


def test_the_extremes_of_the_ring_come_back_signed() -> None:
    limit = 2**23 - 1
    federation = large([np.array([limit, -limit, 0])] * 256, bits=24, cohort=256)
    np.testing.assert_array_equal(federation.open().values, [256 * limit, -256 * limit, 0])


def test_a_cohort_whose_sum_leaves_the_field_is_refused_when_protecting() -> None:
    with pytest.raises(OutOfRange, match="257 updates of 24 bits needs 33 bits"):
        large(random_updates(1, 3, 24), bits=24, cohort=257)


def test_a_committee_above_thirty_one_and_a_norm_bound_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="at most 31 replicas, not 32"):
        large(random_updates(1, 3), 32)
    with pytest.raises(ConfigError, match="no norm is proved to a committee of 13") as caught:
        large(random_updates(1, 3), norm=1 << 20)
    assert "validate = false" in (caught.value.hint or "")


# --- replicas that lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [13, 16])
def test_f_liars_are_named_wherever_they_sit(replicas: int) -> None:
    federation = large(random_updates(2, 6), replicas)
    digests, components = dict(federation.digests), dict(federation.components)
    positions = list(combinations(range(replicas), federation.setting.faulty))
    for liars in positions[:: len(positions) // 40]:
        federation.digests, federation.components = dict(digests), dict(components)
        for liar in liars:
            federation.lie(liar)
        opened = federation.open()
        assert opened.dissenters == liars
        np.testing.assert_array_equal(opened.values, federation.total)
        np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


def test_f_silent_replicas_do_not_stop_an_opening_and_one_more_does() -> None:
    federation = large(random_updates(2, 6))
    for silent in (0, 3, 7, 12):
        del federation.digests[silent]
    np.testing.assert_array_equal(federation.open().values, federation.total)
    del federation.digests[5]
    with pytest.raises(CannotOpen, match="8 replicas showed shares of the sum where 9 are needed"):
        federation.open()


def test_liars_among_the_first_answers_are_told_apart_when_more_come() -> None:
    federation = large(random_updates(2, 6))
    late = {i: federation.digests.pop(i) for i in (9, 10, 11, 12)}
    federation.lie(0)
    with pytest.raises(CannotOpen, match="contradict one another"):
        federation.open()
    federation.digests |= {9: late[9]}
    opened = federation.open()
    assert opened.dissenters == (0,)
    np.testing.assert_array_equal(opened.values, federation.total)


def test_more_than_f_liars_who_agree_with_one_another_open_nothing() -> None:
    federation = large(random_updates(2, 6))
    other = large(random_updates(2, 6, seed=5), seed="another")
    for liar in range(5):
        federation.say(liar, other.sums(liar))
    with pytest.raises(CannotOpen, match="contradict"):
        federation.open()


def test_a_component_that_is_no_vector_of_the_field_counts_as_a_lie() -> None:
    federation = large(random_updates(2, 6))
    federation.say(1, {1: b"\xff" * 24})
    federation.say(2, {2: b"short"})
    federation.say(4, {5: federation.sums(5)[5]})
    opened = federation.open()
    assert opened.dissenters == (1, 2, 4)
    np.testing.assert_array_equal(opened.values, federation.total)


def test_a_false_witness_does_not_verify() -> None:
    federation = large(random_updates(2, 6))
    witness = federation.open().witness
    flipped = bytes([witness[0] ^ 1]) + witness[1:]
    for false in (flipped, witness[:-1], b"", b"\xff" * len(witness), bytes(len(witness))):
        with pytest.raises(CannotOpen):
            federation.verify(false)


# --- nodes that cheat ----------------------------------------------------------------------------------------------


def test_shares_of_two_polynomials_never_get_receipts_that_contradict_one_another() -> None:
    setting = large(random_updates(1, 9)).setting
    first, second = random_updates(2, 9, seed=3)
    for those in ({12}, {0, 1, 2, 3}, {4, 7, 9, 12}, set(range(8))):
        cheat = protect_apart(setting, first, second, those)
        for replica in range(13):
            if replica in those:
                with pytest.raises(InvalidProof, match=f"for replica {replica} is no share"):
                    inside.ShamirShares().check(setting, node(0), cheat.public, replica, cheat.pieces[replica])
            else:
                inside.ShamirShares().check(setting, node(0), cheat.public, replica, cheat.pieces[replica])


@pytest.mark.parametrize("change", [{"round": 4}, {"task": keccak(b"b")}, {"replicas": 16}, {"dimension": 8}], ids=str)
def test_a_piece_of_another_place_is_refused(change: dict[str, object]) -> None:
    federation = large(random_updates(1, 9))
    protected, elsewhere = federation.protected[node(0)], replace(federation.setting, **change)  # type: ignore[arg-type]
    for replica in (0, 12):
        with pytest.raises(BadPiece):
            federation.mode.check(elsewhere, node(0), protected.public, replica, protected.pieces[replica])
        with pytest.raises(BadPiece, match="contradicts its commitment"):
            federation.mode.check(federation.setting, node(1), protected.public, replica, protected.pieces[replica])
    with pytest.raises(BadPiece, match="contradicts its commitment"):
        federation.mode.check(federation.setting, node(0), protected.public, 11, protected.pieces[12])


def test_every_bit_of_pieces_and_folds_is_covered() -> None:
    federation = large(random_updates(1, 3))
    protected = federation.protected[node(0)]
    for replica in (0, 5):
        piece = protected.pieces[replica]
        for at in range(len(piece)):
            changed = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            with pytest.raises(BadPiece):
                federation.mode.check(federation.setting, node(0), protected.public, replica, changed)
    for at in range(len(protected.public)):
        public = protected.public[:at] + bytes([protected.public[at] ^ 1]) + protected.public[at + 1 :]
        with pytest.raises(BadPiece):
            federation.mode.check(federation.setting, node(0), public, 5, protected.pieces[5])


# --- who learns what -----------------------------------------------------------------------------------------------


def test_nobody_shows_another_replicas_share() -> None:
    federation = large(random_updates(1, 9))
    protected = federation.protected[node(0)]
    parts = [federation.mode.share_with(federation.setting, protected.pieces[i], 12) for i in range(12)]
    assert set(parts) == {b""}
    with pytest.raises(BadPiece, match="nobody may show replica 12"):
        federation.mode.merge(federation.setting, node(0), protected.public, 12, [protected.pieces[12], *parts])


@pytest.mark.parametrize("update", [0, 1, 2**15 - 1, -(2**15 - 1)])
def test_a_share_is_uniform_whatever_the_update_is(update: int) -> None:
    federation = large([np.full(20_000, update)], seed=f"u{update}")
    for replica in (0, 4, 12):
        counts = np.bincount(share_of(federation, replica).view(np.uint8), minlength=256)
        assert chisquare(counts).pvalue > 1e-6


def test_the_view_of_f_replicas_fits_every_other_update_as_well() -> None:
    """The simulator of the proof: for any x' there are shares, and blinds, with the same view and the same folds."""
    federation = large(random_updates(1, 30))
    setting, protected = federation.setting, federation.protected[node(0)]
    commitments, published = inside._parse_public(setting, node(0), protected.public)
    for coalition in ((0, 1, 2, 3), (9, 10, 11, 12), (0, 5, 6, 12)):
        seen = [share_of(federation, i) for i in coalition]
        points = [0, *(i + 1 for i in coalition)]
        for other in random_updates(3, 30, seed=9):
            at_zero = rs.combine(rs.weights_at(0, range(1, 6)), published)  # what the folds say of (x', blinds')
            bare = np.concatenate([rs.to_field(other), np.zeros(rs.FOLDS, dtype="<u4")])
            (plain,) = inside._blinded_folds(setting, node(0), commitments, [bare])
            blinds = (at_zero.astype(np.int64) - np.array(plain)) % rs.P
            secret = np.concatenate([rs.to_field(other), blinds.astype("<u4")])
            shares = [rs.combine(rs.weights_at(i + 1, points), [secret, *seen]) for i in range(5)]
            folds = inside._blinded_folds(setting, node(0), commitments, shares)
            np.testing.assert_array_equal(np.array(folds, dtype="<u4"), published)


def test_f_replicas_that_guess_the_update_cannot_tell_from_the_commitments_whether_they_are_right() -> None:
    """They can compute the other shares then; what was committed to has a salt that nothing else depends on."""
    federation = large(random_updates(1, 30))
    setting, protected = federation.setting, federation.protected[node(0)]
    salts = [piece[: inside.SALT_BYTES] for piece in protected.pieces[setting.faulty :]]
    assert len({bytes(32), *salts}) == 1 + 9
    for replica, salt in enumerate(salts, setting.faulty):
        guessed = share_of(federation, replica).tobytes()
        assert protected.pieces[replica] == salt + guessed
        commitment = inside._commitment(setting, node(0), replica, bytes(32) + guessed)
        assert commitment not in protected.public


def test_f_plus_one_replicas_together_see_the_update() -> None:
    federation = large(random_updates(1, 30))
    for coalition in ((0, 1, 2, 3, 4), (8, 9, 10, 11, 12)):
        shares = [share_of(federation, i) for i in coalition]
        found = rs.combine(rs.weights_at(0, [i + 1 for i in coalition]), shares)
        np.testing.assert_array_equal(rs.from_field(found[:30]), federation.updates[0])


def test_equal_updates_of_two_rounds_or_nodes_have_nothing_in_common() -> None:
    row = random_updates(1, 40)[0]
    federation = large([row, row])
    first, second = (federation.protected[node(i)] for i in (0, 1))
    assert not set(first.pieces) & set(second.pieces)
    words = [set(np.frombuffer(each.public, dtype="<u4").tolist()) for each in (first, second)]
    assert not words[0] & words[1]


# --- the field -----------------------------------------------------------------------------------------------------


def test_combinations_at_the_edge_of_the_field_are_exact() -> None:
    edge = np.full(70_000, rs.P - 1, dtype="<u4")
    expected = 31 * (rs.P - 1) * (rs.P - 1) % rs.P
    assert set(rs.combine([rs.P - 1] * 31, [edge] * 31).tolist()) == {expected}
    assert set(rs.add_up([edge] * 1024, edge.size).tolist()) == {1024 * (rs.P - 1) % rs.P}
    folding = rs.Folding(bytes(32), edge.size)
    assert folding(edge) == tuple(-int(row.sum(dtype=np.uint64)) % rs.P for row in folding._rows)


def test_words_outside_the_field_are_left_out_of_the_keystream(monkeypatch: pytest.MonkeyPatch) -> None:
    def mostly_outside(total: np.ndarray, key: bytes, operation: np.ufunc) -> None:
        total[:] = 2**32 - 1
        total[::3] = np.arange(total[::3].size)

    monkeypatch.setattr(rs, "apply_keystream", mostly_outside)
    np.testing.assert_array_equal(rs.uniform(bytes(32), 500), np.arange(500))


def test_a_polynomial_is_decoded_among_as_many_errors_as_the_bound_says_and_no_more() -> None:
    rng = np.random.default_rng(1)
    for degree, count in ((0, 3), (3, 11), (4, 13), (4, 11), (10, 31)):
        errors = (count - degree - 1) // 2
        for wrong in range(errors + 2):
            coefficients = [int(each) for each in rng.integers(0, rs.P, degree + 1)]
            values = {x: rs._evaluate(coefficients, x) for x in range(1, count + 1)}
            liars = frozenset(int(x) for x in rng.choice(count, wrong, replace=False) + 1)
            for x in liars:
                values[x] = (values[x] + int(rng.integers(1, rs.P))) % rs.P
            assert rs.wrong_points(values, degree, errors) == (liars if wrong <= errors else None)
