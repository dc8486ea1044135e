"""Validated shares: bounded updates pass, every cheat is refused, f liars change neither, and tasks that can't be
sound are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import isqrt

import numpy as np
import pytest
from scipy.stats import chisquare

from koinon.errors import BadPiece, CannotOpen, ConfigError, InvalidProof, OutOfRange
from koinon.privacy import Protected, Setting, Values
from koinon.privacy import shares as shares_module
from koinon.privacy.shares import Shares, public_bytes, subsets
from koinon.privacy.validation import Bound, mask_vector, prove, squares
from koinon.privacy.validation.field import ELEMENT_BYTES, Contraction, P, Plane, element_bytes, elements
from koinon.privacy.validation.masks import Planes, expand
from koinon.privacy.validation.squares import fill_up, four_squares
from scripts._cheats import forged_in_one_mask, protect_anything
from tests.unit.privacy.federation import TASK, Federation, node, random_updates, seeded

SHARES = Shares()
NORM = 1000
X = np.array([30, -500, 0, 77, 1, -1, 640, 12], dtype=np.int64)
HUGE = np.array([30, -500, 0, 77, 1, -1, 6400, 12], dtype=np.int64)


def setting_of(replicas: int = 4, dimension: int = len(X), norm: int = NORM) -> Setting:
    return Setting(TASK, 3, replicas, dimension, 16, 16, norm=norm)


def accepts(setting: Setting, protected: Protected, replica: int, *, sender: bytes = node(0)) -> bool:
    try:
        SHARES.check(setting, sender, protected.public, replica, protected.pieces[replica])
    except InvalidProof:
        return False
    return True


def acceptors(setting: Setting, protected: Protected) -> set[int]:
    return {replica for replica in range(setting.replicas) if accepts(setting, protected, replica)}


def edited(protected: Protected, change: Callable[[bytearray], None]) -> Protected:
    public = bytearray(protected.public)
    change(public)
    return replace(protected, public=bytes(public))


def cheat_with(setting: Setting, filled: Values) -> Protected:
    return protect_anything(setting, node(0), filled, seeded("cheat"))


def proof_start(setting: Setting) -> int:
    return shares_module._committed_bytes(setting)


# --- what honest nodes do passes -------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 4, 7, 10])
def test_a_bounded_update_is_accepted_by_all_replicas_and_its_sum_is_exact(replicas: int) -> None:
    federation = Federation("shares", [X, -X, np.zeros_like(X)], replicas=replicas, norm=NORM)
    for name, protected in federation.protected.items():
        assert all(accepts(federation.setting, protected, i, sender=name) for i in range(replicas))
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 12, 13, 60, 61, 1000, 70_000])
def test_any_dimension_is_proved(dimension: int) -> None:
    values = random_updates(1, dimension, bits=8)[0]
    setting = setting_of(dimension=dimension, norm=isqrt(int(values @ values)) + 1)
    protected = SHARES.protect(setting, node(0), values, seeded("d"))
    assert acceptors(setting, protected) == {0, 1, 2, 3}
    assert len(protected.public) == public_bytes(setting)


@pytest.mark.parametrize("values", [[600, 800], [0, -1000], [0, 0], [-1, 1]])
def test_the_bound_itself_is_allowed(values: list[int]) -> None:
    setting = setting_of(dimension=2)
    assert acceptors(setting, SHARES.protect(setting, node(0), np.array(values), seeded("b"))) == {0, 1, 2, 3}


def test_an_update_above_the_bound_is_not_protected() -> None:
    with pytest.raises(OutOfRange, match="norm 6420 where 1000"):
        SHARES.protect(setting_of(), node(0), HUGE, seeded("b"))
    with pytest.raises(OutOfRange, match="where 1000"):
        fill_up(NORM, np.array([2**62, 2**62]))  # its square overflows int64


@pytest.mark.parametrize("top", [8, 9, 10])
def test_masked_vectors_are_their_integers_at_every_width(top: int) -> None:
    bound = replace(Bound.of(7, NORM, 4), width=top, mask_bits=8 * top - 3)
    values = np.array([NORM, -NORM, 0, 1, -1, 5, 6, 7, 8, 9, 10], dtype=np.int64)
    entropy = seeded("w")
    seeds = [entropy(32) for _ in range(4)]
    parsed = [integers(Planes.parse(bound, mask_vector(bound, values, seeds)))]
    masks = [integers(expand(bound, seed).planes) for seed in seeds]
    assert all(0 <= each < 2**bound.mask_bits for mask in masks for each in mask)
    for index, value in enumerate(values):
        shown = parsed[0][index] + NORM - 2 ** (8 * top)
        assert shown + sum(mask[index] for mask in masks) == value


def integers(planes: Planes) -> list[int]:
    tops = planes.top if planes.top is not None else np.zeros(planes.low.size, dtype=np.uint8)
    return [int(a) + (int(b) << 32) + (int(c) << 64) for a, b, c in zip(planes.low, planes.middle, tops, strict=True)]


# --- cheats are refused ----------------------------------------------------------------------------------------

CHEATS: dict[str, Values] = {
    "a norm that is too large": np.append(HUGE, [0, 0, 0, 0]),
    "a norm that is too large, slack that would fill up a larger one": np.append(HUGE, four_squares(9)),
    "a norm that is too small for its slack": np.append(X, [0, 0, 0, 0]),
    "slack that is a square too much": np.append(X, np.add(four_squares(NORM**2 - int(X @ X)), [1, 0, 0, 0])),
    "values of 2^31, whose squares vanish modulo 2^62": np.append(X * 0 + 2**31, [NORM, 0, 0, 0]),
    "values of 2^31, whose low words add nothing to a sum": np.append(X * 2**31, [0, 0, 0, 0]),
    "negative slack": np.append(HUGE, [-5000, 0, 0, 1]),
}


@pytest.mark.parametrize("name", CHEATS)
@pytest.mark.parametrize("replicas", [4, 7])
def test_a_cheat_is_refused_by_every_replica(name: str, replicas: int) -> None:
    setting = setting_of(replicas)
    assert acceptors(setting, cheat_with(setting, CHEATS[name])) == set()


def test_values_that_are_small_in_the_field_but_not_as_integers_do_not_fit_the_format() -> None:
    """The wraparound cheat: p - 5 is as good as -5 in the field. Here it is 192 bits where 64 to 80 are carried."""
    for dimension in (8, 62_006, 2**28):
        for masks in (1, 4, 21, 120):
            bound = Bound.of(dimension, 2**18, masks)
            largest = 2 ** (8 * bound.width)
            assert bound.norm + masks * (2**bound.mask_bits - 1) <= largest
            assert bound.coordinates * largest**2 + bound.norm**2 < P
            assert largest**2 < P - 5


def test_a_shift_of_the_masked_vector_by_multiples_of_its_width_is_another_integer() -> None:
    """A vector that wraps at 2^(8 width) shows a value that its low words do not betray; the proof does."""
    setting = setting_of()
    honest = SHARES.protect(setting, node(0), X, seeded("h"))

    def raise_high_word(public: bytearray) -> None:
        middle = 4 * (len(X) + 4)
        public[middle] ^= 1

    assert acceptors(setting, edited(honest, raise_high_word)) == set()


@pytest.mark.parametrize("part", ["vector", "slack", "coefficient", "answer", "number of a mask"])
def test_every_part_of_an_update_is_covered_by_the_proof(part: str) -> None:
    setting = setting_of()
    bound = shares_module._bound(setting)
    start = proof_start(setting)
    at = {
        "vector": 0,
        "slack": 4 * len(X),
        "coefficient": start + 5,
        "answer": start + ELEMENT_BYTES * bound.coefficients,
        "number of a mask": start + ELEMENT_BYTES * (bound.coefficients + bound.answers),
    }[part]
    honest = SHARES.protect(setting, node(0), X, seeded("h"))

    def flip(public: bytearray) -> None:
        public[at] ^= 1

    assert acceptors(setting, edited(honest, flip)) == set()


def test_malformed_proofs_are_refused() -> None:
    setting = setting_of()
    honest = SHARES.protect(setting, node(0), X, seeded("h"))
    for public in (honest.public[:-1], honest.public + b"\0", b"", honest.public[: proof_start(setting)]):
        with pytest.raises(BadPiece, match="bytes instead of"):
            SHARES.check(setting, node(0), public, 0, honest.pieces[0])
    outside = honest.public[:-ELEMENT_BYTES] + (2**192 - 1).to_bytes(ELEMENT_BYTES, "little")
    with pytest.raises(InvalidProof, match=f"0x{node(0).hex()}: a proof with numbers outside the field"):
        SHARES.check(setting, node(0), outside, 0, honest.pieces[0])


@pytest.mark.parametrize(
    "change", [{"task": bytes(32)}, {"round": 4}, {"norm": NORM + 1}, {"replicas": 5}, {"dimension": len(X) - 1}]
)
def test_a_proof_is_bound_to_its_place(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the seeds' commitments, which are bound as well, would let it pass."""
    setting = setting_of()
    honest = SHARES.protect(setting, node(0), X, seeded("h"))
    bound, context = shares_module._bound(setting), shares_module._context(replace(setting, **change), node(0))
    start = proof_start(setting)
    verifier = shares_module.Verifier(bound, NORM, context, honest.public[:start], honest.public[start:])
    with pytest.raises(InvalidProof):
        verifier.require_public()


def test_a_proof_of_another_node_is_refused() -> None:
    setting = setting_of()
    honest = SHARES.protect(setting, node(0), X, seeded("h"))
    with pytest.raises(BadPiece):
        SHARES.check(setting, node(1), honest.public, 0, honest.pieces[0])
    start = proof_start(setting)
    context = shares_module._context(setting, node(1))
    verifier = shares_module.Verifier(
        shares_module._bound(setting), NORM, context, honest.public[:start], honest.public[start:]
    )
    with pytest.raises(InvalidProof):
        verifier.require_public()


def test_nobody_finds_a_proof_of_a_false_bound_by_trying() -> None:
    """A thousand tries at random: the first of the two challenges falls elsewhere each time."""
    setting = setting_of(1)
    bound, context = shares_module._bound(setting), shares_module._context(setting, node(0))
    filled = np.append(HUGE, [0, 0, 0, 0])
    passed = 0
    for number in range(1000):
        seeds = [seeded(f"try {number}")(32)]
        vector = mask_vector(bound, filled, seeds)
        proof = prove(bound, context, vector, filled, seeds)
        try:
            shares_module.Verifier(bound, NORM, context, vector, proof).require_public()
            passed += 1
        except InvalidProof:
            pass
    assert passed == 0


# --- replicas that lie -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [4, 7])
def test_a_cheat_never_gets_the_receipts_that_it_needs_whoever_lies(replicas: int) -> None:
    """Hidden from one f-subset it is seen by all others: with any f liars there are at most 2f receipts."""
    setting = setting_of(replicas)
    quorum = replicas - setting.faulty
    cheat = cheat_with(setting, np.append(HUGE, [0, 0, 0, 0]))
    for number, blind in enumerate(subsets(setting)):
        protected = forged_in_one_mask(setting, node(0), cheat, number)
        believers = acceptors(setting, protected)
        assert believers == set(blind)
        for liars in combinations(range(replicas), setting.faulty):
            assert len(believers | set(liars)) < quorum


@pytest.mark.parametrize("replicas", [4, 7])
def test_f_liars_cannot_keep_a_bounded_update_out(replicas: int) -> None:
    setting = setting_of(replicas)
    honest = SHARES.protect(setting, node(0), X, seeded("h"))
    assert acceptors(setting, honest) == set(range(replicas))
    for liars in combinations(range(replicas), setting.faulty):
        assert len(acceptors(setting, honest) - set(liars)) == replicas - setting.faulty


def test_an_auditor_refuses_an_accepted_update_whose_proof_fails_and_names_its_node() -> None:
    federation = Federation("shares", [X, -X, X], norm=NORM)
    opened = federation.open()
    cheat = cheat_with(federation.setting, np.append(HUGE, [0, 0, 0, 0]))
    federation.protected[node(0)] = cheat
    with pytest.raises(CannotOpen, match=f"update of node 0x{node(0).hex()}: the proof does not hold"):
        federation.verify(opened.witness)


def test_a_proof_is_checked_once_and_counts_for_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation("shares", [X, -X, X], norm=NORM)
    opened = federation.open()
    shares_module.forget_proofs()
    federation.verify(opened.witness)
    checked: list[object] = []
    monkeypatch.setattr(shares_module.Verifier, "require_public", lambda self: checked.append(self))
    federation.verify(opened.witness)
    assert not checked
    others = Federation("shares", [X, -X, X], norm=NORM, seed="other")
    others.verify(others.open().witness)
    assert len(checked) == 3


# --- what it hides ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [np.zeros(8, dtype=np.int64), X, -X])
def test_a_proof_looks_random_whatever_the_update_is(values: Values) -> None:
    setting = setting_of()
    bound = shares_module._bound(setting)
    counts = np.zeros(256, dtype=np.int64)
    for number in range(300):
        protected = SHARES.protect(setting, node(0), values, seeded(f"{number}"))
        start = proof_start(setting)
        shown = protected.public[start : start + ELEMENT_BYTES * (bound.coefficients + bound.answers)]
        counts += np.bincount(np.frombuffer(shown, dtype=np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-6


def test_what_a_coalition_lacks_blinds_every_answer() -> None:
    """Without one mask's blinds each published answer is off by a random element: they alone would hide it."""
    setting = setting_of()
    bound = shares_module._bound(setting)
    entropy = seeded("blinds")
    seeds = [entropy(32) for _ in subsets(setting)]
    unseen = expand(bound, seeds[2])
    assert len(set(unseen.hidden.blinds)) == bound.answers
    assert len(set(unseen.hidden.coefficients)) == bound.coefficients


# --- parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "norm", "masks", "width"),
    [(62_006, 2**21, 4, 9), (62_006, 2**21, 21, 10), (1_126_410, 2**21, 4, 10), (100, 2**17, 4, 8),
     (2**28, 2**18, 120, 10)],
)  # fmt: skip
def test_parameters_are_those_of_the_derivation(dimension: int, norm: int, masks: int, width: int) -> None:
    bound = Bound.of(dimension, norm, masks)
    assert bound.width == width
    assert bound.soundness_bits > 160
    assert bound.hiding_bits >= 40
    assert bound.rows * bound.columns >= bound.coordinates > (bound.rows - 1) * bound.columns
    assert masks * (2**bound.mask_bits - 1) + 2 * norm <= 2 ** (8 * width)


@pytest.mark.parametrize(
    ("dimension", "norm", "masks", "reason"),
    [
        (100, 0, 4, "must lie in 1"),
        (100, 2**26 + 1, 4, "must lie in 1"),
        (2**28, 2**26, 120, r"hide 268435456 values of norm 67108864 with 2\^-33 only"),
    ],
)
def test_a_bound_that_cannot_be_proved_is_refused_with_the_reason(
    dimension: int, norm: int, masks: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        Bound.of(dimension, norm, masks)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("masks", [1, 4, 21, 120])
def test_masks_hide_all_coordinates_together_at_the_edge_of_every_width(masks: int, aligned: bool) -> None:
    """The rule is one of whole numbers: were it one of logarithms, two machines could differ and bar honest nodes."""
    for dimension in (1, 5, 62_006, 2**20 - 4):
        for norm in (1, 2**10, 2**15, 2**16 + 1, 2**21, 2**26):
            try:
                bound = Bound.of(dimension, norm, masks, aligned=aligned)
            except ConfigError:
                continue
            exact = (dimension + 4) * norm**2  # the square of the largest sum of absolute values
            assert exact <= bound.longest**2
            assert bound.longest * 2**40 <= 2**bound.mask_bits
            assert masks * (2**bound.mask_bits - 1) + 2 * norm <= 2 ** (8 * bound.width)


def test_a_cohort_whose_bounded_sum_leaves_the_ring_is_refused() -> None:
    setting = replace(setting_of(norm=2**25), cohort=64)
    with pytest.raises(OutOfRange, match="64 updates of norm 33554432"):
        SHARES.protect(setting, node(0), X, seeded("b"))


# --- the arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns", "size"), [(1, 1, 1), (3, 4, 10), (256, 5, 1280), (256, 90, 256 * 90 - 7)])
def test_contractions_are_exact_at_the_extremes(rows: int, columns: int, size: int) -> None:
    for fill in (0, 2**16 - 1, None):
        rng = np.random.default_rng(0)
        words = rng.integers(0, 2**16, 2 * size) if fill is None else np.full(2 * size, fill)
        top = rng.integers(0, 2**8, size)
        contraction = Contraction(P - 2, rows, columns)
        got = contraction.apply([Plane(words.astype("<u2"), 0, 2), Plane(top.astype(np.uint8), 4, 1)])
        values = [int(words[2 * i]) + (int(words[2 * i + 1]) << 16) + (int(top[i]) << 32) for i in range(size)]
        for base, sums in zip((P - 2, pow(P - 2, -1, P)), got, strict=True):
            expected = [
                sum(pow(base, k, P) * values[k * columns + j] for k in range(rows) if k * columns + j < size) % P
                for j in range(min(columns, 3))
            ]
            assert sums[: len(expected)] == expected


def test_more_rows_than_float64_adds_exactly_are_refused() -> None:
    with pytest.raises(ValueError, match="exact up to 256"):
        Contraction(2, 257, 1)


def test_every_small_number_and_the_awkward_large_ones_are_four_squares() -> None:
    awkward = [4**a * (8 * b + 7) + c for a in range(0, 24, 3) for b in (0, 1, 12345) for c in (0, 1)]
    for number in [*range(3000), *awkward, 2**52 - 1, 2**52]:
        assert sum(each * each for each in four_squares(number)) == number
    with pytest.raises(ValueError, match="negative"):
        squares.four_squares(-1)


def test_elements_are_read_as_they_are_written() -> None:
    values = [0, 1, P - 1, 2**191]
    assert elements(element_bytes(values)) == values
