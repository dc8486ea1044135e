"""What every privacy mode promises, asked of each of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from koinon.encoding import keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError, OutOfRange
from koinon.privacy import Held, mode
from tests.unit.privacy.federation import COMMITTEE_MODES, Federation, node, random_updates, seeded

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
every_mode = pytest.mark.parametrize("name", COMMITTEE_MODES)
modes_that_hide = pytest.mark.parametrize("name", [name for name in COMMITTEE_MODES if name != "plain"])


def test_unknown_mode_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="rot13") as caught:
        mode("rot13")
    assert all(name in (caught.value.hint or "") for name in COMMITTEE_MODES)


@every_mode
def test_a_mode_knows_its_name(name: str) -> None:
    assert mode(name).name == name


@every_mode
@pytest.mark.parametrize("replicas", [1, 4, 7, 10])
def test_the_opened_sum_is_exact(name: str, replicas: int) -> None:
    federation = Federation(name, random_updates(3, 205), replicas=replicas)
    opened = federation.open()
    assert opened.values.dtype == np.int64
    np.testing.assert_array_equal(opened.values, federation.total)
    assert opened.dissenters == ()
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@every_mode
def test_extreme_values_of_a_full_cohort_do_not_overflow(name: str) -> None:
    limit = 2**15 - 1
    row = np.array([limit, -limit, 0, limit, -limit] * 30)
    federation = Federation(name, [row] * 16, cohort=16)
    np.testing.assert_array_equal(federation.open().values, 16 * row)


@every_mode
def test_the_order_of_updates_does_not_matter(name: str) -> None:
    federation = Federation(name, random_updates(4, 30))
    reverse = list(reversed(federation.held(2)))
    assert federation.mode.combine(federation.for_replica(2), 2, reverse) == federation.sums(2)


@every_mode
def test_a_value_beyond_the_bits_is_refused(name: str) -> None:
    federation = Federation(name, random_updates(1, 4))
    for value in (2**15, -(2**15), -(2**63), 2**63 - 1):
        with pytest.raises(OutOfRange, match="exceeds"):
            federation.mode.protect(federation.setting, node(9), np.array([0, value, 0, 0]), seeded("x"))


@every_mode
@pytest.mark.parametrize(
    "values", [np.zeros(3, dtype=np.int64), np.zeros(4), np.zeros((2, 2), dtype=np.int64)], ids=str
)
def test_another_shape_or_type_is_refused(name: str, values: np.ndarray) -> None:
    federation = Federation(name, random_updates(1, 4))
    with pytest.raises(OutOfRange, match="expected int64"):
        federation.mode.protect(federation.setting, node(9), values, seeded("x"))


@every_mode
def test_honest_pieces_pass_the_check_of_each_replica(name: str) -> None:
    federation = Federation(name, random_updates(2, 12), replicas=7)
    for sender, protected in federation.protected.items():
        for replica, piece in enumerate(protected.pieces):
            federation.mode.check(federation.setting, sender, protected.public, replica, piece)


@every_mode
def test_a_torn_public_part_is_refused_by_name(name: str) -> None:
    federation = Federation(name, random_updates(1, 12))
    sender, protected = next(iter(federation.protected.items()))
    for public in (protected.public[:-1], protected.public + b"\0", b""):
        with pytest.raises(BadPiece, match=sender.hex()):
            federation.mode.check(federation.setting, sender, public, 0, protected.pieces[0])


@every_mode
def test_a_piece_with_a_byte_more_or_less_is_refused(name: str) -> None:
    federation = Federation(name, random_updates(1, 12))
    sender, protected = next(iter(federation.protected.items()))
    torn = [protected.pieces[0] + b"\0"] + ([protected.pieces[0][:-1]] if protected.pieces[0] else [])
    for piece in torn:
        with pytest.raises(BadPiece, match=sender.hex()):
            federation.mode.check(federation.setting, sender, protected.public, 0, piece)


@every_mode
def test_one_node_cannot_be_summed_twice(name: str) -> None:
    federation = Federation(name, random_updates(2, 12))
    twice = [federation.held(0)[0]] * 2
    with pytest.raises(BadPiece, match=f"two updates of node 0x{node(0).hex()}"):
        federation.mode.combine(federation.for_replica(0), 0, twice)


@every_mode
def test_a_set_larger_than_the_cohort_is_refused(name: str) -> None:
    federation = Federation(name, random_updates(4, 12), cohort=4)
    small = replace(federation.for_replica(0), cohort=3)
    with pytest.raises(OutOfRange, match="4 updates to sum"):
        federation.mode.combine(small, 0, federation.held(0))
    with pytest.raises(OutOfRange, match="0 updates to sum"):
        federation.mode.combine(small, 0, [])
    with pytest.raises(CannotOpen, match="4 accepted updates"):
        federation.mode.open(small, federation.transcript)


@every_mode
@pytest.mark.parametrize(("replicas", "faulty"), [(4, 1), (7, 2)])
def test_f_liars_in_every_position_change_nothing_and_are_named(name: str, replicas: int, faulty: int) -> None:
    honest = Federation(name, random_updates(3, 7), replicas=replicas)
    digests, components = dict(honest.digests), dict(honest.components)
    for liars in combinations(range(replicas), faulty):
        honest.digests, honest.components = dict(digests), dict(components)
        for liar in liars:
            honest.lie(liar)
        opened = honest.open()
        assert opened.dissenters == liars
        np.testing.assert_array_equal(opened.values, honest.total)
        np.testing.assert_array_equal(honest.verify(opened.witness), honest.total)


@every_mode
@pytest.mark.parametrize(("replicas", "faulty"), [(4, 1), (7, 2)])
def test_f_silent_replicas_do_not_stop_an_opening(name: str, replicas: int, faulty: int) -> None:
    federation = Federation(name, random_updates(3, 7), replicas=replicas)
    for silent in range(faulty):
        del federation.digests[silent]
    opened = federation.open()
    assert opened.dissenters == ()
    np.testing.assert_array_equal(opened.values, federation.total)


@every_mode
def test_too_few_contributions_cannot_open(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    del federation.digests[0], federation.digests[1], federation.digests[2]
    with pytest.raises(CannotOpen):
        federation.open()


@every_mode
def test_missing_component_bytes_cannot_open(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    federation.components.clear()
    with pytest.raises(CannotOpen):
        federation.open()


@every_mode
def test_component_bytes_under_a_wrong_digest_cannot_open(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    federation.components = {key: data[::-1] for key, data in federation.components.items()}
    with pytest.raises(CannotOpen):
        federation.open()


@modes_that_hide
def test_a_replica_that_signs_a_component_it_cannot_know_is_named(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    federation.digests[2][200] = keccak(b"made up")
    opened = federation.open()
    assert opened.dissenters == (2,)
    np.testing.assert_array_equal(opened.values, federation.total)


@modes_that_hide
def test_a_public_part_of_the_wrong_size_cannot_open_and_names_its_node(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    publics = federation.publics | {node(1): b"short"}
    with pytest.raises(CannotOpen, match=node(1).hex()):
        federation.mode.open(federation.setting, replace(federation.transcript, publics=publics))


@every_mode
def test_a_witness_with_a_byte_more_is_refused(name: str) -> None:
    federation = Federation(name, random_updates(3, 7))
    with pytest.raises(CannotOpen, match="witness"):
        federation.verify(federation.open().witness + b"\0")


@every_mode
def test_secrets_stay_out_of_every_repr(name: str) -> None:
    federation = Federation(name, random_updates(1, 7))
    protected = federation.protected[node(0)]
    setting = federation.for_replica(1)
    held = Held(node(0), protected.public, protected.pieces[1])
    shown = repr(setting) + repr(protected) + repr(held)
    assert "piece" not in shown
    assert "key_share" not in shown
    for secret in (*protected.pieces, setting.key_share):
        assert not secret or (secret.hex() not in shown and repr(secret)[2:-1] not in shown)


@every_mode
def test_a_lost_piece_is_recovered_from_f_plus_one_honest_replicas(name: str) -> None:
    federation = Federation(name, random_updates(1, 9), replicas=7)
    chosen, setting, protected = federation.mode, federation.setting, federation.protected[node(0)]
    lost = 6
    for helpers in combinations(range(6), 3):
        parts = [chosen.share_with(setting, protected.pieces[i], lost) for i in helpers]
        assert chosen.merge(setting, node(0), protected.public, lost, parts) == protected.pieces[lost]
