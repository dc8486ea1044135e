"""Updates whose inner product with a public direction is proved to be large enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from koinon.errors import InvalidProof, OutOfRange
from koinon.privacy import Protected, Setting, Values
from koinon.privacy.shares import Shares, public_bytes
from koinon.privacy.validation import Alignment, Bound
from koinon.privacy.validation.field import Plane, inner
from koinon.privacy.validation.squares import four_squares
from scripts._cheats import protect_anything
from tests.unit.privacy.federation import TASK, node, random_updates, seeded

SHARES = Shares()
NORM = 1000
X = np.array([30, -500, 0, 77, 1, -1, 640, 12], dtype=np.int64)
G = np.array([-32768, 5, 32767, 0, -7, 3, 100, 9], dtype=np.int64)


def setting_of(least: int, *, x: Values = X, g: Values = G, replicas: int = 4, norm: int = NORM) -> Setting:
    alignment = Alignment(g.astype("<i2").tobytes(), least)
    return Setting(TASK, 3, replicas, len(x), 16, 16, norm=norm, alignment=alignment)


def acceptors(setting: Setting, protected: Protected) -> set[int]:
    found = set()
    for replica in range(setting.replicas):
        try:
            SHARES.check(setting, node(0), protected.public, replica, protected.pieces[replica])
            found.add(replica)
        except InvalidProof:
            pass
    return found


@pytest.mark.parametrize("replicas", [1, 4, 7])
@pytest.mark.parametrize("margin", [0, 1, 10**6])
def test_an_update_that_is_aligned_enough_is_accepted(replicas: int, margin: int) -> None:
    setting = setting_of(int(X @ G) - margin, replicas=replicas)
    protected = SHARES.protect(setting, node(0), X, seeded("a"))
    assert len(protected.public) == public_bytes(setting)
    assert acceptors(setting, protected) == set(range(replicas))


def test_an_update_that_is_not_is_not_protected() -> None:
    with pytest.raises(OutOfRange, match=f"is 1 below the least, {int(X @ G) + 1}"):
        SHARES.protect(setting_of(int(X @ G) + 1), node(0), X, seeded("a"))


def test_without_a_direction_yet_every_bounded_update_is_aligned() -> None:
    setting = setting_of(0, g=G * 0)
    assert acceptors(setting, SHARES.protect(setting, node(0), X, seeded("a"))) == {0, 1, 2, 3}


@pytest.mark.parametrize("dimension", [1, 7, 300, 70_000])
def test_any_dimension_is_proved(dimension: int) -> None:
    x = random_updates(1, dimension, bits=8)[0]
    g = random_updates(1, dimension, seed=5)[0]
    setting = setting_of(int(x @ g) - 12345, x=x, g=g, norm=int(np.linalg.norm(x)) + 1)
    assert acceptors(setting, SHARES.protect(setting, node(0), x, seeded("d"))) == {0, 1, 2, 3}


def filled(slack: tuple[int, ...]) -> Values:
    return np.array([*X, *four_squares(NORM**2 - int(X @ X)), *slack], dtype=np.int64)


@pytest.mark.parametrize(
    ("short", "slack"), [(1, (0, 0, 0, 0)), (4, (2, 0, 0, 0)), (-4, (1, 1, 1, 0)), (10**6, (1000, 0, 0, 0))]
)
def test_an_update_whose_slack_is_not_the_difference_is_refused_by_all(short: int, slack: tuple[int, ...]) -> None:
    """Squares cannot be negative: what falls short has no slack, and no other slack fits."""
    setting = setting_of(int(X @ G) + short)
    assert acceptors(setting, protect_anything(setting, node(0), filled(slack), seeded("c"))) == set()


def test_a_norm_above_the_bound_is_refused_however_aligned_it_is() -> None:
    values = filled((0, 0, 0, 0))
    values[0] += 1
    setting = setting_of(int(values[: len(X)] @ G))
    assert acceptors(setting, protect_anything(setting, node(0), values, seeded("c"))) == set()


def test_a_proof_for_another_direction_or_least_value_is_refused() -> None:
    setting = setting_of(int(X @ G) - 9)
    protected = SHARES.protect(setting, node(0), X, seeded("a"))
    assert setting.alignment is not None
    for other in (
        replace(setting.alignment, least=setting.alignment.least + 1),
        replace(setting.alignment, direction=(G + 1 * (G == 3)).astype("<i2").tobytes()),
    ):
        assert acceptors(replace(setting, alignment=other), protected) == set()


@pytest.mark.parametrize("position", range(-30, 0, 3))
def test_every_number_of_the_proof_counts(position: int) -> None:
    setting = setting_of(int(X @ G) - 9)
    protected = SHARES.protect(setting, node(0), X, seeded("a"))
    public = bytearray(protected.public)
    public[24 * position] ^= 1
    assert acceptors(setting, replace(protected, public=bytes(public))) == set()


def test_the_masks_hide_the_slack_of_the_alignment_too() -> None:
    plain, aligned = Bound.of(62_006, 2**20, 4), Bound.of(62_006, 2**20, 4, aligned=True)
    assert plain.hiding_bits > aligned.hiding_bits >= 40
    assert aligned.soundness_bits > 160
    assert aligned.proof_bytes - plain.proof_bytes == 24 * (3 + 8)


def test_inner_products_are_exact_at_the_extremes_across_blocks() -> None:
    size = (1 << 20) + 3
    words, direction = np.full(2 * size, 2**16 - 1, dtype="<u2"), np.full(size, -(2**15), dtype=np.int16)
    assert inner([Plane(words, 0, 2)], direction) == -(2**15) * (2**32 - 1) * size
