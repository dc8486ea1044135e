"""For all updates, committees and liars: sums are exact, lies are named, torn bytes are typed errors."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koinon.errors import BadPiece, CannotOpen
from koinon.privacy import Transcript, mode
from koinon.privacy.packing import Slots
from tests.unit.privacy.federation import COMMITTEE_MODES, Federation, node, random_updates

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
slow = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, list[np.ndarray]]:
    """(bits, updates): values anywhere in range, the extremes and zero among them more often."""
    bits = draw(st.integers(8, 24))
    limit = 2 ** (bits - 1) - 1
    value = st.one_of(st.sampled_from([-limit, -1, 0, 1, limit]), st.integers(-limit, limit))
    dimension = draw(st.integers(1, 40))
    update = st.lists(value, min_size=dimension, max_size=dimension)
    rows = draw(st.lists(update, min_size=1, max_size=6))
    return bits, [np.array(row, dtype=np.int64) for row in rows]


def opens_exactly(name: str, bits: int, updates: list[np.ndarray], replicas: int) -> None:
    federation = Federation(name, updates, replicas=replicas, bits=bits, cohort=8)
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    assert opened.dissenters == ()
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@quick
@given(rounds(), st.sampled_from(["plain", "shares"]), st.integers(1, 10))
def test_sums_are_exact(protected: tuple[int, list[np.ndarray]], name: str, replicas: int) -> None:
    opens_exactly(name, *protected, replicas)


@slow
@given(rounds())
def test_paillier_sums_are_exact(protected: tuple[int, list[np.ndarray]]) -> None:
    opens_exactly("paillier", *protected, 4)


@quick
@given(
    st.integers(2, 24),
    st.integers(1, 1024),
    st.sampled_from([2048, 3072, 4096]),
    st.integers(1, 300),
    st.integers(0, 2**32),
)
def test_packed_sums_unpack_to_the_sums(bits: int, cohort: int, size: int, dimension: int, seed: int) -> None:
    slots = Slots.of(dimension=dimension, bits=bits, cohort=cohort, modulus_bits=size)
    limit = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(seed)
    values = rng.choice([-limit, 0, limit, rng.integers(-limit, limit + 1)], dimension)
    packed = slots.pack(values)
    assert len(packed) == slots.integers
    assert all(cohort * number < 2 ** (size - 3) for number in packed)
    np.testing.assert_array_equal(slots.unpack([cohort * p for p in packed], cohort), cohort * values)


@pytest.mark.parametrize("name", ["plain", "shares"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_lies_of_any_f_replicas_are_named(name: str, data: st.DataObject) -> None:
    """Each liar signs any digest for any component: true ones too, equal lies too, or nothing."""
    replicas = data.draw(st.sampled_from([4, 7]))
    faulty = (replicas - 1) // 3
    federation = Federation(name, random_updates(3, 5), replicas=replicas)
    liars = data.draw(st.sets(st.integers(0, replicas - 1), max_size=faulty))
    expected = set()
    for liar in sorted(liars):
        honest = dict(federation.digests[liar])
        said = {}
        for number, digest in honest.items():
            word = data.draw(st.sampled_from([digest, b"a" * 32, b"b" * 32, None]))
            if word is not None:
                said[number] = word
            if word not in (digest, None):
                expected.add(liar)
        federation.digests[liar] = said
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    assert set(opened.dissenters) == expected


@pytest.mark.parametrize("name", ["plain", "shares"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_more_than_f_liars_are_never_believed_silently(name: str, data: st.DataObject) -> None:
    """With f+1 lies that differ, or that come with an honest f+1, nothing opens but the truth."""
    federation = Federation(name, random_updates(3, 5), replicas=7)
    for liar in data.draw(st.sets(st.integers(0, 6), min_size=3, max_size=7)):
        federation.lie(liar)
    try:
        opened = federation.open()
    except CannotOpen:
        return
    np.testing.assert_array_equal(opened.values, federation.total)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_piece_is_merged_from_f_plus_one_honest_parts_among_lies(data: st.DataObject) -> None:
    replicas = data.draw(st.sampled_from([4, 7]))
    faulty = (replicas - 1) // 3
    federation = Federation("shares", random_updates(1, 5), replicas=replicas)
    chosen, setting, protected = federation.mode, federation.setting, federation.protected[node(0)]
    lost = data.draw(st.integers(0, replicas - 1))
    others = data.draw(st.permutations([i for i in range(replicas) if i != lost]))
    parts = [chosen.share_with(setting, protected.pieces[i], lost) for i in others[: faulty + 1]]
    for liar in others[faulty + 1 : 2 * faulty + 1]:
        true = bytearray(chosen.share_with(setting, protected.pieces[liar], lost))
        spoiled = data.draw(st.sampled_from(["flipped", "torn", "random"]))
        if spoiled == "flipped":
            true[data.draw(st.integers(0, len(true) - 1))] ^= data.draw(st.integers(1, 255))
        elif spoiled == "torn":
            del true[data.draw(st.integers(0, len(true) - 1)) :]
        else:
            true = bytearray(data.draw(st.binary(max_size=200)))
        parts.insert(data.draw(st.integers(0, len(parts))), bytes(true))
    assert chosen.merge(setting, node(0), protected.public, lost, parts) == protected.pieces[lost]


@cache
def one_update(name: str) -> Federation:
    return Federation(name, random_updates(1, 20))


@pytest.mark.parametrize("name", COMMITTEE_MODES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_change_of_a_private_piece_is_refused(name: str, data: st.DataObject) -> None:
    federation = one_update(name)
    protected = federation.protected[node(0)]
    piece = protected.pieces[1]
    changed = data.draw(
        st.one_of(st.binary(max_size=len(piece) + 40), st.integers(0, len(piece)).map(lambda n: piece[:n]))
    )
    if changed == piece:
        return
    with pytest.raises(BadPiece, match=node(0).hex()):
        federation.mode.check(federation.setting, node(0), protected.public, 1, changed)


@pytest.mark.parametrize("name", COMMITTEE_MODES)
@settings(max_examples=40, deadline=None)
@given(junk=st.binary(max_size=300), parts=st.lists(st.binary(max_size=120), max_size=4))
def test_junk_is_a_typed_refusal_everywhere(name: str, junk: bytes, parts: list[bytes]) -> None:
    federation = one_update(name)
    chosen, setting = federation.mode, federation.setting
    public = federation.protected[node(0)].public
    transcript = Transcript({node(0): public}, {0: {0: junk}}, {junk: junk})
    with pytest.raises(BadPiece):
        chosen.check(setting, node(0), junk, 0, junk)
    with pytest.raises(BadPiece):
        chosen.merge(setting, node(0), junk, 0, parts)
    with pytest.raises(CannotOpen):
        chosen.open(setting, transcript)
    with pytest.raises(CannotOpen):
        chosen.verify(setting, transcript, junk)


def test_every_mode_is_looked_up_once() -> None:
    assert all(mode(name) is mode(name) for name in COMMITTEE_MODES)
