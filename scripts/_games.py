"""The games that attacks play, and what counts as a leak.

One update: ten clients take part in a round, and the adversary is asked *whose* an image is: the victim's, or another
honest client's of the same round. The round's sum is known to it and says nothing about that (all weights are equal):
whatever it finds comes from the update itself. With fewer than three honest clients, strangers' images join theirs.

    inversion    every client has one image; the victim's must be picked among the honest clients'
    membership   every client has eight; the AUC of the victim's images over the others'

Sums and models: was an image in the round (the training), or in nobody's set? No mode hides that; noise may.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations

import numpy as np

from koinon.privacy.budget import epsilon
from koinon.privacy.masking import threshold

from ._adversaries import View, aggregator, coalition, edge_server, guesses, outsider
from ._inference import Detector, Rate, Scorer, auc, auc_rate, by_loss, cosine, hit_rate, invert, picks, psnr
from ._liars import lied_to
from ._victims import (
    LEARNING_RATE,
    NORM,
    PIXELS,
    Floats,
    Images,
    Kept,
    PaillierKeys,
    Scenario,
    Sent,
    digits,
    gradients,
    hold_round,
    integers,
    layers,
    new_model,
    noise_plan,
)

CLIENTS, IMAGES, STRANGERS = 10, 8, 80
PAILLIER_BITS, PAILLIER_ROUNDS = 2048, 3
"""The floor, for speed; and rounds at most, since partial openings are slow."""
DELTA = 1e-5
SECRET, LEAKS, REPORTED = "secret", "leaks", "reported"

SCENARIOS = (
    Scenario("plain", "plain"),
    Scenario("shares, validated, n=4", "shares", 4, NORM),
    Scenario("shares, validated, n=7", "shares", 7, NORM),
    Scenario("shares, n=4", "shares", 4),
    Scenario("shares, n=7", "shares", 7),
    Scenario("paillier", "paillier"),
    Scenario("masked", "masked"),
)
MULTIPLIERS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Adversary:
    """`views` gives one view for each coalition of this kind; `expected` is what the documents claim. Coalitions of
    replicas are judged one by one; those of nodes together, since each leaves other victims."""

    label: str
    expected: str
    views: Callable[[Sent, Kept], list[View]]
    together: bool = False


@dataclass(frozen=True)
class Played:
    """A round with one game's images: `images[i]` are node i's, `unit` is what one integer is worth."""

    sent: Sent
    kept: Kept
    images: tuple[Images, ...]
    strangers: Images
    model: Floats
    unit: float
    noise: float
    """The variance that noise gives to a coordinate of one update's gradient."""

    def strangers_like(self, images: Images, count: int) -> list[Images]:
        """`count` sets of strangers' images, each as large as `images`."""
        size = len(images)
        return [self.strangers.take(np.arange(i * size, (i + 1) * size)) for i in range(count)]


@dataclass
class Tally:
    """What one guess scored, over victims: `sizes` members and strangers of the AUC, or candidates of a pick."""

    hits: list[bool] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    psnrs: list[float] = field(default_factory=list)
    aucs: dict[str, list[float]] = field(default_factory=dict)
    sizes: tuple[int, int] = (0, 0)
    sketch: Floats = field(default_factory=lambda: np.zeros(PIXELS))
    truth: Floats = field(default_factory=lambda: np.zeros(PIXELS))


@dataclass(frozen=True)
class Finding:
    """One mode under one adversary. The strongest of all that was tried, and the name of that."""

    mode: str
    adversary: str
    expected: str
    hits: Rate
    cosine: float
    psnr: float
    hits_by: str
    auc: Rate
    auc_by: str
    sketch: Floats
    truth: Floats
    epsilon: float | None = None

    @property
    def kept(self) -> bool:
        """Whether it is as the documents say: no attack informs, or both leak."""
        if self.expected == SECRET:
            return not self.hits.leaks and not self.auc.informs
        return self.expected == REPORTED or (self.hits.leaks and self.auc.leaks)


# --- adversaries ---------------------------------------------------------------------------------------------------


def adversaries(scenario: Scenario) -> list[Adversary]:
    """Everybody against whom the threat model says something about one update."""
    if scenario.multiplier:
        return [Adversary("1 replica", REPORTED, lambda sent, kept: [coalition(sent, kept, [0])])]
    n = scenario.replicas
    f = (n - 1) // 3
    every = [list(each) for each in combinations(range(n), f)]

    def nodes(count: int, replicas: Sequence[int] = ()) -> Callable[[Sent, Kept], list[View]]:
        """Coalitions of so many nodes that no two leave the same victim."""
        left = CLIENTS - count

        def views(sent: Sent, kept: Kept) -> list[View]:
            every = sorted(kept.values)
            spared = (every[at : at + left] for at in range(0, CLIENTS - left + 1, left))
            return [coalition(sent, kept, replicas, [n for n in every if n not in few]) for few in spared]

        return views

    few = f"{f} replica{'s' * (f > 1)}"
    sees = LEAKS if scenario.mode == "plain" else SECRET
    found = [
        Adversary("outsider", SECRET, lambda sent, kept: [outsider(sent)]),
        Adversary("edge server", SECRET, lambda sent, kept: [edge_server(sent)]),
        Adversary("aggregator", SECRET, lambda sent, kept: [aggregator(sent)]),
        Adversary(few, sees, lambda sent, kept: [coalition(sent, kept, each) for each in every]),
    ]
    if scenario.mode in ("shares", "paillier"):
        most = CLIENTS - 3
        found.append(Adversary(f"{few}, {most} nodes", SECRET, nodes(most, every[-1]), together=True))
        enough = f + 1 if scenario.mode == "shares" else 2 * f + 1
        if scenario.mode == "paillier":
            found.append(
                Adversary(f"{2 * f} replicas", SECRET, lambda sent, kept: [coalition(sent, kept, range(2 * f))])
            )
        found.append(Adversary(f"{enough} replicas", LEAKS, lambda sent, kept: [coalition(sent, kept, range(enough))]))
    if scenario.mode == "masked":
        needed = threshold(CLIENTS + 1)  # one more was invited, and dropped out
        found.append(Adversary(f"{few}, {needed - 1} nodes", SECRET, nodes(needed - 1, every[-1]), together=True))
        found.append(Adversary(f"{needed} nodes", LEAKS, nodes(needed), together=True))
        third = (CLIENTS + 1) // 3

        def lying(sent: Sent, kept: Kept) -> list[View]:
            """What falls for lies; if nobody does, what the liars have of an honest round."""
            return lied_to(sent, kept, checking=True) or nodes(third, range(n))(sent, kept)

        found.append(Adversary(f"{n} lying, {third} nodes", SECRET, lying, together=True))
        unchecked = Adversary(f"{n} lying, no checks", LEAKS, partial(lied_to, checking=False), together=True)
        found.append(unchecked)
    if scenario.mode != "plain":
        found.append(Adversary(f"{CLIENTS - 1} nodes", LEAKS, nodes(CLIENTS - 1), together=True))
    return found


# --- one update ----------------------------------------------------------------------------------------------------


def attack(scenario: Scenario, rounds: int, seed: int) -> Iterator[Finding]:
    """Every adversary of a scenario against both games."""
    rng = np.random.default_rng([seed, *scenario.label.encode()])
    keys = paillier_keys() if scenario.mode == "paillier" else PaillierKeys()
    count = min(rounds, PAILLIER_ROUNDS) if scenario.mode == "paillier" else rounds
    single = [play(scenario, number, 1, rng, keys) for number in range(count)]
    many = [play(scenario, number, IMAGES, rng, keys) for number in range(count)]
    for adversary in adversaries(scenario):
        yield judge(scenario, adversary, _tallies(scenario, adversary, single), _tallies(scenario, adversary, many))


@cache
def paillier_keys() -> PaillierKeys:
    from koinon.privacy.paillier_key import generate_key, parse_key

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 2048 bits are the floor
        public, shares, _ = generate_key(PAILLIER_BITS, 4, np.random.default_rng(1).bytes)
        parse_key(public)  # it is cached
    return PaillierKeys(public, shares)


@cache
def model_of(number: int) -> tuple[Floats, Detector]:
    """The model before round `number`, and what the adversary knows of its gradients: equal for all scenarios."""
    model = new_model(np.random.default_rng(number))
    return model, Detector.train(model, digits()[0])


def play(scenario: Scenario, number: int, images: int, rng: np.random.Generator, keys: PaillierKeys) -> Played:
    """A round in which each of ten clients takes one step on `images` images of its own."""
    return _round(scenario, number, CLIENTS, images, rng, keys)


def _round(
    scenario: Scenario, number: int, clients: int, images: int, rng: np.random.Generator, keys: PaillierKeys
) -> Played:
    theirs, model = digits()[1], model_of(number)[0]
    drawn = rng.choice(len(theirs), clients * images + STRANGERS, replace=False)
    own = tuple(theirs.take(drawn[i * images : (i + 1) * images]) for i in range(clients))
    plan = noise_plan(scenario.multiplier, clients) if scenario.multiplier else None
    steps = [-LEARNING_RATE * gradients(model, each)[0].mean(axis=0) for each in own]
    made = [integers(step, plan, rng) for step in steps]
    sent, kept = hold_round(scenario, number, [values for values, _ in made], rng.bytes, keys)
    unit = made[0][1]
    noise = (plan.sigma * unit / LEARNING_RATE) ** 2 if plan else 0.0
    return Played(sent, kept, own, theirs.take(drawn[clients * images :]), model, unit, noise)


def _tallies(scenario: Scenario, adversary: Adversary, rounds: Sequence[Played]) -> dict[tuple[int, str], Tally]:
    """(coalition, what was tried) -> its scores over all victims of all rounds."""
    found: dict[tuple[int, str], Tally] = {}
    for number, played in enumerate(rounds):
        nodes = sorted(played.kept.values)
        for place, view in enumerate(adversary.views(played.sent, played.kept)):
            honest = [i for i, node in enumerate(nodes) if node not in view.own]
            pool = [played.images[i] for i in honest]
            if len(honest) < 3:
                pool += played.strangers_like(pool[0], CLIENTS - len(honest))
            rows = np.concatenate([gradients(played.model, each)[0] for each in pool])
            noise = played.noise * len(pool[0])
            scorer = model_of(number)[1].scorer(rows, noise) if len(pool[0]) > 1 else None
            for position, i in enumerate(honest):
                for tried, guess in guesses(scenario.mode, view, nodes[i]):
                    tally = found.setdefault((0 if adversary.together else place, tried), Tally())
                    _score(tally, guess * played.unit / -LEARNING_RATE, pool, position, scorer)
    return found


def _score(tally: Tally, gradient: Floats, pool: Sequence[Images], position: int, scorer: Scorer | None) -> None:
    """Add one victim's outcome: of the membership game where there is a scorer, else of the inversion game."""
    owners = np.concatenate([np.full(len(each), i) for i, each in enumerate(pool)])
    members = owners == position
    tally.sizes = int(members.sum()), int((~members).sum())
    if scorer is not None:
        for name, scores in scorer.scores(gradient).items():
            tally.aucs.setdefault(name, []).append(auc(scores, members))
        return
    image, candidates = invert(gradient), np.concatenate([each.pixels for each in pool])
    tally.hits.append(picks(image, candidates, digits()[0]) == position)
    tally.cosines.append(cosine(image, pool[position].pixels[0]))
    tally.psnrs.append(psnr(image, pool[position].pixels[0]))
    if len(tally.hits) == 1:
        tally.sketch, tally.truth = image, pool[position].pixels[0]


def judge(
    scenario: Scenario,
    adversary: Adversary,
    inversion: dict[tuple[int, str], Tally],
    membership: dict[tuple[int, str], Tally],
) -> Finding:
    """The strongest guess of each game: the one that is furthest from chance, measured in bands."""
    picked = [(hit_rate(each.hits, sum(each.sizes)), tried, each) for (_, tried), each in inversion.items()]
    hits, hits_by, best = max(picked, key=lambda one: (one[0].value - one[0].chance) / one[0].band)
    told = [
        (auc_rate(values, *each.sizes), f"{tried}, {name}")
        for (_, tried), each in membership.items()
        for name, values in each.aucs.items()
    ]
    area, auc_by = max(told, key=lambda one: abs(one[0].value - one[0].chance) / one[0].band)
    spent = epsilon(noise_plan(scenario.multiplier, CLIENTS), [2], DELTA) if scenario.multiplier else None
    return Finding(
        mode=scenario.label,
        adversary=adversary.label,
        expected=adversary.expected,
        hits=hits,
        cosine=float(np.mean(best.cosines)),
        psnr=float(np.mean(best.psnrs)),
        hits_by=hits_by,
        auc=area,
        auc_by=auc_by,
        sketch=best.sketch,
        truth=best.truth,
        epsilon=spent,
    )


# --- sums and models -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposure:
    """What an outsider tells of the training set from what everybody sees. `epsilon` at DELTA; None without noise."""

    seen: str
    clients: int
    multiplier: float
    epsilon: float | None
    auc: dict[str, Rate]
    accuracy: float | None = None


def sums(rounds: int, seed: int, clients: int, multiplier: float) -> Exposure:
    """The opened sum of one round of mode `shares` (every mode opens the same sum): members of it against strangers."""
    rng = np.random.default_rng([seed, clients, int(1000 * multiplier)])
    scenario = Scenario("sums", "shares", multiplier=multiplier)
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        played = _round(scenario, number, clients, IMAGES, rng, PaillierKeys())
        pool = (*played.images, played.strangers)
        rows = np.concatenate([gradients(played.model, each)[0] for each in pool])
        scorer = model_of(number)[1].scorer(rows, played.noise * IMAGES)  # 1/m of the variance, m times the images
        members = np.arange(clients * IMAGES + STRANGERS) < clients * IMAGES
        gradient = played.sent.total.astype(np.float64) * (played.unit / -LEARNING_RATE / clients)
        for name, scores in scorer.scores(gradient).items():
            found.setdefault(name, []).append(auc(scores, members))
    rates = {name: auc_rate(values, clients * IMAGES, STRANGERS) for name, values in found.items()}
    spent = epsilon(noise_plan(multiplier, clients), [clients], DELTA) if multiplier else None
    return Exposure("sum of one round", clients, multiplier, spent, rates)


def models(federations: int, seed: int, multiplier: float, *, rounds: int = 100, images: int = 20) -> Exposure:
    """The last certified model of whole trainings, by its loss. Sums, exact in every mode, are added directly."""
    rng = np.random.default_rng([seed, int(1000 * multiplier)])
    plan = noise_plan(multiplier, CLIENTS) if multiplier else None
    own, theirs = digits()
    aucs, accuracies = [], []
    for _ in range(federations):
        drawn = rng.choice(len(theirs), 2 * CLIENTS * images, replace=False)
        clients = [theirs.take(drawn[i * images : (i + 1) * images]) for i in range(CLIENTS)]
        model = new_model(rng)
        for _ in range(rounds):
            steps = [-0.5 * gradients(model, each)[0].mean(axis=0) for each in clients]
            made = [integers(step, plan, rng) for step in steps]
            total = np.sum([values for values, _ in made], axis=0)
            model = model + total.astype(np.float64) * (made[0][1] / CLIENTS)
        scores = by_loss(model, theirs.take(drawn))
        aucs.append(auc(scores, np.arange(len(drawn)) < CLIENTS * images))
        accuracies.append(accuracy(model, own))
    rate = auc_rate(aucs, CLIENTS * images, CLIENTS * images)
    spent = epsilon(plan, [CLIENTS] * rounds, DELTA) if plan else None
    label = f"model after {rounds} rounds"
    return Exposure(label, CLIENTS, multiplier, spent, {"loss": rate}, float(np.mean(accuracies)))


def accuracy(model: Floats, images: Images) -> float:
    w1, b1, w2, b2 = layers(model)
    scores = np.maximum(images.pixels @ w1 + b1, 0) @ w2 + b2
    return float((scores.argmax(axis=1) == images.labels).mean())
