"""Attacks on updates succeed where the threat model says that they do, and learn nothing where it says that they don't.

Images, models and all secrets but the ephemeral keys of sealed boxes come from fixed seeds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts import attacks
from scripts._adversaries import aggregator, coalition, edge_server, guesses, outsider
from scripts._games import (
    LEAKS,
    REPORTED,
    SCENARIOS,
    SECRET,
    Finding,
    attack,
    models,
    paillier_keys,
    play,
    sums,
)
from scripts._inference import auc, auc_rate, hit_rate, invert, psnr
from scripts._liars import lied_to
from scripts._victims import DIMENSION, PaillierKeys, Scenario, digits, gradients, new_model

BY_LABEL = {scenario.label: scenario for scenario in SCENARIOS}
ROUNDS = 2


def findings(label: str, rounds: int = ROUNDS) -> dict[str, Finding]:
    return {each.adversary: each for each in attack(BY_LABEL[label], rounds, seed=1)}


def test_one_image_is_read_exactly_from_the_gradient_of_one_image() -> None:
    image = digits()[1].take(np.arange(1))
    model = new_model(np.random.default_rng(0))
    update = -0.1 * gradients(model, image)[0][0]
    assert psnr(invert(update), image.pixels[0]) > 60


def test_gradients_are_those_of_the_loss() -> None:
    images, model = digits()[1].take(np.arange(3)), new_model(np.random.default_rng(3))
    rows, losses = gradients(model, images)
    direction = np.random.default_rng(4).normal(size=DIMENSION)
    step = 1e-6
    slopes = (gradients(model + step * direction, images)[1] - losses) / step
    np.testing.assert_allclose(rows @ direction, slopes, rtol=1e-3, atol=1e-4)


def test_plain_shows_updates_to_a_replica_and_to_nobody_else() -> None:
    found = findings("plain")
    assert found["1 replica"].hits.value == 1.0
    assert found["1 replica"].auc.value > 0.95
    assert {each.expected for name, each in found.items() if name != "1 replica"} == {SECRET}
    assert all(each.kept for each in found.values())


@pytest.mark.parametrize("label", ["shares, validated, n=4", "shares, n=4", "shares, n=7", "masked"])
def test_attacks_learn_nothing_within_a_modes_bounds_and_everything_beyond(label: str) -> None:
    found = findings(label)
    assert all(each.kept for each in found.values()), [name for name, each in found.items() if not each.kept]
    beyond = [each for each in found.values() if each.expected == LEAKS]
    assert len(beyond) == (3 if label == "masked" else 2)  # too many colluders of either kind, or no checks
    assert all(each.hits.value == 1.0 and each.auc.value > 0.95 for each in beyond)
    assert all(not each.hits.leaks for each in found.values() if each.expected == SECRET)


def test_liars_about_keys_deceive_nobody_who_checks_and_everybody_who_does_not() -> None:
    played = play(BY_LABEL["masked"], 0, 1, np.random.default_rng(7), PaillierKeys())
    assert lied_to(played.sent, played.kept, checking=True) == []
    told = lied_to(played.sent, played.kept, checking=False)
    assert len(told) == len(played.kept.values)
    for view in told:
        (victim,) = view.publics
        read = dict(guesses("masked", view, victim))["unmasked with their shares"]
        np.testing.assert_array_equal(read, played.kept.values[victim])


def test_paillier_shows_an_update_to_three_replicas_and_not_to_one() -> None:
    found = findings("paillier", 1)
    assert all(each.kept for each in found.values())
    assert found["3 replicas"].hits.value == found["9 nodes"].hits.value == 1.0
    assert found["1 replica"].auc_by != found["3 replicas"].auc_by


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.label)
def test_every_mode_opens_the_true_sum_to_its_attackers(scenario: Scenario) -> None:
    keys = paillier_keys() if scenario.mode == "paillier" else PaillierKeys()
    played = play(scenario, 0, 1, np.random.default_rng(5), keys)
    np.testing.assert_array_equal(played.sent.total, sum(played.kept.values.values()))


def test_an_adversary_has_no_secret_of_others() -> None:
    rng = np.random.default_rng(6)
    shares, masked = (play(BY_LABEL[label], 0, 1, rng, PaillierKeys()) for label in ("shares, n=4", "masked"))
    for view in (edge_server(shares.sent), outsider(shares.sent), aggregator(shares.sent)):
        assert not view.pieces
        assert not view.own
        assert not view.key_shares
    nodes = sorted(shares.kept.values)
    one = coalition(shares.sent, shares.kept, [2], nodes[:1])
    assert set(one.pieces) == {2}
    assert set(one.own) == {nodes[0]}
    assert one.pieces[2][nodes[5]] == shares.kept.pieces[nodes[5]][2]
    colluders = sorted(masked.kept.values)[:3]
    assert set(coalition(masked.sent, masked.kept, (), colluders).masks) == set(colluders)


def test_noise_blinds_both_attacks_on_a_plain_update() -> None:
    little, much = (next(attack(Scenario("noisy", "plain", multiplier=each), 3, 1)) for each in (0.1, 3.0))
    assert little.expected == much.expected == REPORTED
    assert little.auc.leaks
    assert not much.auc.leaks
    assert not much.hits.leaks
    assert little.epsilon is not None
    assert much.epsilon is not None
    assert little.epsilon > 100 > 10 > much.epsilon


def test_sums_leak_membership_and_noise_takes_it_away() -> None:
    bare, noisy = sums(3, 1, 3, 0.0), sums(3, 1, 3, 3.0)
    assert bare.epsilon is None
    assert bare.auc["whitened"].leaks
    assert not noisy.auc["whitened"].leaks


def test_a_federation_learns_while_its_last_model_is_attacked() -> None:
    found = models(1, 1, 0.0, rounds=60)
    assert found.accuracy is not None
    assert found.accuracy > 0.7
    assert 0.4 < found.auc["loss"].value < 0.8


def test_a_secret_that_leaks_and_an_attack_that_fails_are_both_reported(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings("plain")
    leaked = replace(found["1 replica"], expected=SECRET)
    blind = replace(found["aggregator"], expected=LEAKS)
    assert attacks.conclude([found["aggregator"], leaked]) == 1
    assert attacks.conclude([found["1 replica"], blind]) == 1
    assert attacks.conclude(list(found.values())) == 0
    assert "NOT as claimed" in capsys.readouterr().out


def test_command_writes_its_findings_and_refuses_unknown_modes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "found.json"
    assert attacks.main(["--quick", "--only", "plain", "--json", str(target)]) == 0
    assert '"as_claimed": true' in target.read_text()
    assert "As claimed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        attacks.main(["--only", "rot13"])


def test_rates_know_chance() -> None:
    assert not hit_rate([True] * 10 + [False] * 90, 10).leaks
    assert hit_rate([True] * 40 + [False] * 60, 10).leaks
    assert not auc_rate([0.4, 0.6] * 50, 8, 72).informs
    assert auc_rate([0.0] * 50, 8, 72).informs  # a score that is wrong each time tells as much
    assert auc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, False, True, False])) == 0.875
