"""Mode shares, with a proof and without, replicated and Shamir's: exact for all updates, whoever are faulty."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from math import isqrt

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koinon.encoding import keccak
from koinon.errors import BadPiece, CannotOpen
from koinon.privacy import Values
from tests.unit.privacy.federation import Federation, node, random_updates

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS = [(4, True), (4, False), (7, True), (7, False), (13, False)]
every_kind = pytest.mark.parametrize(("replicas", "proved"), KINDS)
BITS = 16
LIMIT = 2 ** (BITS - 1) - 1
COHORT = 8
ROWS = {
    "anything": st.integers(-LIMIT, LIMIT),
    "extremes": st.sampled_from([-LIMIT, LIMIT]),
    "signs": st.sampled_from([-1, 1]),
    "all zero": st.just(0),
    "the largest": st.just(LIMIT),
    "the least": st.just(-LIMIT),
}


@st.composite
def cohorts(draw: st.DrawFn) -> list[Values]:
    """1 to 8 updates of one dimension: each anything, or a special case."""
    dimension = draw(st.integers(1, 30))
    kinds = draw(st.lists(st.sampled_from(sorted(ROWS)), min_size=1, max_size=COHORT))
    rows = [draw(st.lists(ROWS[kind], min_size=dimension, max_size=dimension)) for kind in kinds]
    return [np.array(row, dtype=np.int64) for row in rows]


def federation_of(updates: list[Values], replicas: int, proved: bool) -> Federation:
    norm = isqrt(len(updates[0]) * LIMIT**2) + 1 if proved else 0
    return Federation("shares", updates, replicas=replicas, bits=BITS, cohort=COHORT, norm=norm)


@cache
def honest(replicas: int, proved: bool) -> Federation:
    return federation_of(random_updates(3, 6), replicas, proved)


def with_faults(federation: Federation, faults: Iterable[tuple[int, str]]) -> Federation:
    """The same round, in which these replicas say nothing, say something false, or show nothing of what they signed."""
    made = replace_digests(federation)
    for replica, kind in faults:
        if kind == "silent":
            del made.digests[replica]
        elif kind == "lying":
            made.lie(replica)
        else:
            made.digests[replica] = {number: keccak(b"nothing") for number in made.digests[replica]}
    return made


def replace_digests(federation: Federation) -> Federation:
    made = Federation.__new__(Federation)
    made.__dict__.update(federation.__dict__)
    made.digests = {replica: dict(said) for replica, said in federation.digests.items()}
    made.components = dict(federation.components)
    return made


def opens_with(federation: Federation, faults: tuple[tuple[int, str], ...]) -> None:
    made = with_faults(federation, faults)
    opened = made.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    assert opened.dissenters == tuple(sorted(replica for replica, kind in faults if kind != "silent"))
    np.testing.assert_array_equal(made.verify(opened.witness), federation.total)


@every_kind
@quick
@given(updates=cohorts())
def test_every_cohort_opens_exactly_and_every_honest_piece_gets_a_receipt(
    replicas: int, proved: bool, updates: list[Values]
) -> None:
    federation = federation_of(updates, replicas, proved)
    for sender, protected in federation.protected.items():
        for replica, piece in enumerate(protected.pieces):
            federation.mode.check(federation.setting, sender, protected.public, replica, piece)
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@every_kind
@quick
@given(updates=cohorts(), data=st.data())
def test_whoever_drops_out_the_sum_of_the_others_opens(
    replicas: int, proved: bool, updates: list[Values], data: st.DataObject
) -> None:
    whole = federation_of(updates, replicas, proved)
    accepted = data.draw(st.sets(st.sampled_from(sorted(whole.protected)), min_size=1))
    fewer = replace_digests(whole)
    fewer.protected = {sender: whole.protected[sender] for sender in accepted}
    for replica in range(replicas):
        fewer.say(replica, fewer.sums(replica))
    total = np.sum([values for i, values in enumerate(updates) if node(i) in accepted], axis=0)
    np.testing.assert_array_equal(fewer.open().values, total)


@pytest.mark.parametrize("proved", [True, False])
@pytest.mark.parametrize("replicas", [4, 7])
def test_every_choice_of_f_faulty_replicas_changes_nothing(replicas: int, proved: bool) -> None:
    federation = honest(replicas, proved)
    faulty = federation.setting.faulty
    for chosen in combinations(range(replicas), faulty):
        for kinds in product(("silent", "lying", "showing nothing"), repeat=faulty):
            opens_with(federation, tuple(zip(chosen, kinds, strict=True)))


@pytest.mark.parametrize("replicas", [13, 16])
@quick
@given(data=st.data())
def test_any_f_faulty_replicas_of_a_large_committee_change_nothing(replicas: int, data: st.DataObject) -> None:
    federation = honest(replicas, False)
    chosen = data.draw(st.sets(st.integers(0, replicas - 1), max_size=federation.setting.faulty))
    kinds = st.sampled_from(["silent", "lying", "showing nothing"])
    opens_with(federation, tuple((replica, data.draw(kinds)) for replica in sorted(chosen)))


@every_kind
@quick
@given(data=st.data())
def test_more_than_f_faulty_replicas_open_the_truth_or_nothing(
    replicas: int, proved: bool, data: st.DataObject
) -> None:
    """Lies that differ, that is; f+1 colluding replicas may decide a component (docs/threat-model.md)."""
    federation = honest(replicas, proved)
    chosen = data.draw(st.sets(st.integers(0, replicas - 1), min_size=federation.setting.faulty + 1))
    kinds = st.sampled_from(["silent", "lying", "showing nothing"])
    made = with_faults(federation, [(replica, data.draw(kinds)) for replica in sorted(chosen)])
    with suppress(CannotOpen):
        np.testing.assert_array_equal(made.open().values, federation.total)


@every_kind
@quick
@given(data=st.data())
def test_seeds_of_another_round_node_task_or_committee_are_refused(
    replicas: int, proved: bool, data: st.DataObject
) -> None:
    federation = honest(replicas, proved)
    setting, sender = federation.setting, node(0)
    protected, replica = federation.protected[sender], data.draw(st.integers(0, replicas - 1))
    change = data.draw(
        st.one_of(
            st.integers(0, 2**32 - 1).filter(lambda n: n != setting.round).map(lambda n: {"round": n}),
            st.binary(min_size=32, max_size=32).map(lambda task: {"task": task}),
            st.just({"replicas": {4: 5, 7: 8, 13: 14}[replicas]}),
            st.just({}),
        )
    )
    other = node(1) if not change else sender
    with pytest.raises(BadPiece):
        federation.mode.check(replace(setting, **change), other, protected.public, replica, protected.pieces[replica])  # type: ignore[arg-type]


@every_kind
@quick
@given(data=st.data())
def test_a_piece_of_another_replica_or_update_or_with_a_flipped_bit_is_refused(
    replicas: int, proved: bool, data: st.DataObject
) -> None:
    federation = honest(replicas, proved)
    protected, other = federation.protected[node(0)], federation.protected[node(1)]
    replica = data.draw(st.integers(0, replicas - 1))
    piece = bytearray(protected.pieces[replica])
    match data.draw(st.sampled_from(["replica", "update", "bit", "torn"])):
        case "replica":
            piece[:] = protected.pieces[data.draw(st.integers(0, replicas - 1).filter(lambda i: i != replica))]
        case "update":
            piece[:] = other.pieces[replica]
        case "bit":
            piece[data.draw(st.integers(0, len(piece) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "torn":
            del piece[data.draw(st.integers(0, len(piece) - 1)) :]
    with pytest.raises(BadPiece):
        federation.mode.check(federation.setting, node(0), protected.public, replica, bytes(piece))


@every_kind
def test_evidence_for_one_set_opens_no_other(replicas: int, proved: bool) -> None:
    """What replicas signed for the accepted set does not open the sum of fewer or of other updates."""
    federation = honest(replicas, proved)
    fewer = replace_digests(federation)
    fewer.protected = {sender: federation.protected[sender] for sender in sorted(federation.protected)[:2]}
    if replicas > 10:  # the sum is in the components: they say nothing of single updates
        np.testing.assert_array_equal(fewer.open().values, federation.total)
    else:
        missing = np.sum(federation.updates, axis=0) - fewer.open().values
        assert not any((missing == values).all() for values in federation.updates)
