"""Mode masked: masks cancel, dropouts are repaired up to the threshold, and every lie is loud and has a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError, OutOfRange
from koinon.privacy import SealingKey, Setting, Transcript, Values
from koinon.privacy.masked import Masked
from koinon.privacy.masking import Masks, MaskSecrets, announce, reveal, threshold, usable_key
from koinon.wire import MaskAnnouncement, MaskReveal
from tests.unit.privacy.federation import TASK, node, random_updates, seeded

MASKED = Masked()
ROUND = 3


@dataclass
class Cohort:
    """One round of nodes; `masks` is what the log would hold."""

    updates: list[Values]
    bits: int = 16
    silent: frozenset[int] = frozenset()
    secrets: dict[bytes, MaskSecrets] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = [node(i) for i in range(len(self.updates))]
        self.sealing = {name: SealingKey(keccak(b"sealing" + name)) for name in self.nodes}
        cohort = {name: self.sealing[name].public for name in sorted(self.nodes)}
        announced: dict[bytes, MaskAnnouncement] = {}
        for place, name in enumerate(self.nodes):
            if place not in self.silent:
                made = announce(TASK, ROUND, name, cohort, seeded(f"announce {place}"))
                self.secrets[name], announced[name] = made
        self.masks = Masks(TASK, ROUND, tuple(sorted(self.nodes)), announced)
        self.setting = Setting(
            task=TASK,
            round=ROUND,
            replicas=4,
            dimension=len(self.updates[0]),
            bits=self.bits,
            cohort=len(self.updates),
        )

    def public(self, place: int) -> bytes:
        name = self.nodes[place]
        mine = replace(self.setting, masks=self.masks, key_share=encode(self.secrets[name]))
        protected = MASKED.protect(mine, name, self.updates[place], seeded("unused"))
        assert protected.pieces == (b"",) * 4
        return protected.public

    def publics(self, accepted: list[int]) -> dict[bytes, bytes]:
        return {self.nodes[place]: self.public(place) for place in accepted}

    def reveals(self, accepted: list[int], revealers: list[int]) -> dict[bytes, MaskReveal]:
        names = [self.nodes[place] for place in accepted]
        return {
            self.nodes[place]: reveal(self.masks, self.nodes[place], self.sealing[self.nodes[place]], names)
            for place in revealers
        }

    def open(self, accepted: list[int], revealers: list[int] | None = None) -> Values:
        revealed = self.reveals(accepted, accepted if revealers is None else revealers)
        setting = replace(self.setting, masks=replace(self.masks, revealed=revealed))
        publics = self.publics(accepted)
        opened = MASKED.open(setting, Transcript(publics))
        np.testing.assert_array_equal(MASKED.verify(setting, Transcript(publics), opened.witness), opened.values)
        return opened.values

    def total(self, accepted: list[int]) -> Values:
        return np.sum([self.updates[place] for place in accepted], axis=0)


def test_masks_cancel_in_the_sum_of_all() -> None:
    cohort = Cohort(random_updates(5, 1_000))
    everybody = list(range(5))
    np.testing.assert_array_equal(cohort.open(everybody), cohort.total(everybody))


@pytest.mark.parametrize("nodes", [3, 4, 7])
def test_every_dropout_up_to_the_threshold_is_repaired(nodes: int) -> None:
    cohort = Cohort(random_updates(nodes, 50))
    for lost in range(nodes - threshold(nodes) + 1):
        for dropped in combinations(range(nodes), lost):
            accepted = [place for place in range(nodes) if place not in dropped]
            np.testing.assert_array_equal(cohort.open(accepted), cohort.total(accepted))


def test_a_node_that_never_announced_is_no_part_of_the_masks() -> None:
    cohort = Cohort(random_updates(4, 50), silent=frozenset({2}))
    np.testing.assert_array_equal(cohort.open([0, 1, 3]), cohort.total([0, 1, 3]))


def test_any_threshold_of_revealers_opens_and_one_fewer_does_not() -> None:
    cohort = Cohort(random_updates(7, 20))
    everybody = list(range(7))
    for revealers in combinations(everybody, threshold(7)):
        np.testing.assert_array_equal(cohort.open(everybody, list(revealers)), cohort.total(everybody))
    with pytest.raises(CannotOpen, match="4 nodes revealed their shares, 5 are needed"):
        cohort.open(everybody, everybody[:4])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), nodes=st.integers(3, 6), bits=st.sampled_from([8, 16, 24]))
def test_extremes_of_every_sign_add_exactly(data: st.DataObject, nodes: int, bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    row = st.lists(st.sampled_from([-limit, -1, 0, 1, limit]), min_size=9, max_size=9)
    updates = [np.array(data.draw(row), dtype=np.int64) for _ in range(nodes)]
    cohort = Cohort(updates, bits=bits)
    dropped = data.draw(st.sets(st.integers(0, nodes - 1), max_size=nodes - threshold(nodes)))
    accepted = [place for place in range(nodes) if place not in dropped]
    np.testing.assert_array_equal(cohort.open(accepted), cohort.total(accepted))


# --- what the vectors and shares tell ----------------------------------------------------------------------------


def test_a_masked_vector_looks_uniform_whatever_it_hides() -> None:
    cohort = Cohort([np.zeros(40_000, dtype=np.int64)] * 3)
    words = np.frombuffer(cohort.public(0), dtype="<u4")
    counts = np.bincount(words >> 28, minlength=16)
    assert ((counts - 2_500) ** 2 / 2_500).sum() < 45  # chi-square with 15 degrees of freedom
    assert cohort.public(0) != cohort.public(1)


def test_without_its_own_mask_a_node_that_was_thought_lost_stays_hidden() -> None:
    """All keys of the others, as a dropout's repair would give them, do not unmask a late update: b_i is missing."""
    cohort = Cohort(random_updates(4, 200))
    late = np.frombuffer(cohort.public(0), dtype="<u4").copy()
    others = replace(cohort.masks, revealed=cohort.reveals([1, 2, 3], [1, 2, 3]))
    setting = replace(cohort.setting, masks=others)
    opened = MASKED.open(setting, Transcript(cohort.publics([1, 2, 3]))).values
    np.testing.assert_array_equal(opened, cohort.total([1, 2, 3]))
    with pytest.raises(CannotOpen):
        MASKED.open(setting, Transcript({node(0): late.tobytes(), **cohort.publics([1, 2, 3])}))


def test_no_reveal_holds_shares_of_both_secrets_of_a_node() -> None:
    cohort = Cohort(random_updates(4, 5))
    one = reveal(cohort.masks, node(1), cohort.sealing[node(1)], [node(0), node(1), node(2)])
    other = reveal(cohort.masks, node(1), cohort.sealing[node(1)], [node(1), node(2), node(3)])
    differing = [a != b for a, b in zip(one.shares, other.shares, strict=True)]
    assert sum(differing) == 2
    assert all(len(share) == 32 for share in one.shares + other.shares)


def test_secrets_are_in_no_repr() -> None:
    secrets, _ = announce(TASK, ROUND, node(0), {node(0): SealingKey(b"\x01" * 32).public}, seeded("repr"))
    assert secrets.key.hex() not in repr(secrets)
    assert repr(secrets.key) not in repr(secrets)


# --- lies --------------------------------------------------------------------------------------------------------

Change = Callable[[MaskAnnouncement], MaskAnnouncement]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda said: msgspec.structs.replace(said, seed_commitment=b"\x05" * 32), id="seed"),
        pytest.param(lambda said: msgspec.structs.replace(said, public_key=b"\x09" + bytes(31)), id="key"),
    ],
)
def test_a_dealer_whose_shares_give_something_else_is_named(lie: Change) -> None:
    cohort = Cohort(random_updates(4, 10))
    accepted = [0, 1, 2] if lie(cohort.masks.announced[node(3)]).public_key[0] == 9 else [0, 1, 2, 3]
    publics = cohort.publics(accepted)
    revealed = cohort.reveals(accepted, [0, 1, 2])
    false = {**cohort.masks.announced, node(3): lie(cohort.masks.announced[node(3)])}
    setting = replace(cohort.setting, masks=replace(cohort.masks, announced=false, revealed=revealed))
    with pytest.raises(CannotOpen, match=f"node 0x{node(3).hex()} dealt do not give"):
        MASKED.open(setting, Transcript(publics))


def test_a_false_share_is_left_out_and_the_others_open() -> None:
    cohort = Cohort(random_updates(4, 10))
    everybody = [0, 1, 2, 3]
    revealed = cohort.reveals(everybody, everybody)
    revealed[node(0)] = MaskReveal(shares=(b"\x07" * 32,) * 4)
    setting = replace(cohort.setting, masks=replace(cohort.masks, revealed=revealed))
    opened = MASKED.open(setting, Transcript(cohort.publics(everybody)))
    np.testing.assert_array_equal(opened.values, cohort.total(everybody))


def test_too_many_false_shares_end_the_round_instead_of_changing_it() -> None:
    cohort = Cohort(random_updates(4, 10))
    everybody = [0, 1, 2, 3]
    revealed = cohort.reveals(everybody, everybody)
    for liar in (0, 1):
        revealed[node(liar)] = MaskReveal(shares=(b"\x07" * 32,) * 4)
    setting = replace(cohort.setting, masks=replace(cohort.masks, revealed=revealed))
    with pytest.raises(CannotOpen, match="2 shares of node"):
        MASKED.open(setting, Transcript(cohort.publics(everybody)))


def test_a_box_that_does_not_open_yields_no_share() -> None:
    cohort = Cohort(random_updates(3, 5))
    wrong = reveal(cohort.masks, node(0), SealingKey(b"\x42" * 32), [node(i) for i in range(3)])
    assert wrong.shares == (b"", b"", b"")


def test_a_vector_that_no_honest_node_makes_is_noticed() -> None:
    cohort = Cohort(random_updates(3, 10))
    publics = cohort.publics([0, 1, 2])
    changed = np.frombuffer(publics[node(1)], dtype="<u4").copy()
    changed[4] += np.uint32(1 << 30)
    publics[node(1)] = changed.tobytes()
    revealed = cohort.reveals([0, 1, 2], [0, 1, 2])
    setting = replace(cohort.setting, masks=replace(cohort.masks, revealed=revealed))
    with pytest.raises(CannotOpen, match="larger than"):
        MASKED.open(setting, Transcript(publics))


def test_a_sum_with_a_stranger_is_refused() -> None:
    cohort = Cohort(random_updates(4, 5), silent=frozenset({3}))
    setting = replace(cohort.setting, masks=replace(cohort.masks, revealed=cohort.reveals([0, 1, 2], [0, 1, 2])))
    with pytest.raises(CannotOpen, match="announced no masks"):
        MASKED.open(setting, Transcript({**cohort.publics([0, 1, 2]), node(3): bytes(20)}))


def test_a_node_masks_only_what_it_announced() -> None:
    cohort = Cohort(random_updates(3, 5))
    cohort.secrets[node(0)] = cohort.secrets[node(1)]
    with pytest.raises(BadPiece, match="did not announce"):
        cohort.public(0)


def test_masks_of_another_round_open_nothing() -> None:
    cohort = Cohort(random_updates(3, 5))
    publics = cohort.publics([0, 1, 2])
    revealed = cohort.reveals([0, 1, 2], [0, 1, 2])
    setting = replace(cohort.setting, masks=replace(cohort.masks, round=ROUND + 1, revealed=revealed))
    with pytest.raises(CannotOpen):
        MASKED.open(setting, Transcript(publics))


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_keys_of_small_order_are_no_keys(public: bytes) -> None:
    assert not usable_key(public)


def test_an_ordinary_key_is_usable() -> None:
    assert usable_key(SealingKey(b"\x11" * 32).public)


def test_what_the_mode_refuses_by_form() -> None:
    cohort = Cohort(random_updates(3, 5))
    with pytest.raises(BadPiece, match="bytes instead of"):
        MASKED.check(cohort.setting, node(0), bytes(19), 0, b"")
    with pytest.raises(BadPiece, match="has none"):
        MASKED.check(cohort.setting, node(0), bytes(20), 0, b"x")
    with pytest.raises(ConfigError, match="needs the masks"):
        MASKED.open(cohort.setting, Transcript(cohort.publics([0])))
    with pytest.raises(OutOfRange):
        MASKED.protect(replace(cohort.setting, bits=31), node(0), cohort.updates[0], seeded("x"))
