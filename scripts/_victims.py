"""Whom the attacks attack: clients of a small classifier of digits, and rounds in which they send their updates.

A perceptron of 64-16-10 (ReLU, softmax; 1,210 parameters) on scikit-learn's 1,797 handwritten digits of 8 x 8 pixels.
A client takes one gradient step on its own images: the strongest case for an attacker, since every further local step
blurs. Updates go through the real quantiser, the real modes and real sealed boxes; `Sent` is what leaves the nodes and
the committee, `Kept` what stays with its owners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from koinon.encoding import encode, keccak
from koinon.privacy import (
    Entropy,
    Held,
    Mode,
    Protected,
    SealingKey,
    Setting,
    Transcript,
    Values,
    mode,
    piece_context,
    seal_to,
)
from koinon.privacy.budget import NoisePlan, add_noise, plan_noise
from koinon.privacy.fixed_point import quantise
from koinon.privacy.masking import Masks, MaskSecrets, announce, reveal

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

PIXELS, HIDDEN, CLASSES = 64, 16, 10
SHAPES = ((PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
DIMENSION = sum(int(np.prod(shape)) for shape in SHAPES)
PUBLIC_IMAGES = 500
"""Images that the adversary has of its own; no client has them."""
LEARNING_RATE, CLIP, BITS = 0.1, 1.0, 16
UNIT = CLIP / (2 ** (BITS - 1) - 1)
NORM = 4 * (2 ** (BITS - 1) - 1)
"""What a validated update's norm is proved to be within; far above an honest one's."""
L2_CLIP = 0.5
"""With noise: what an update is shortened to, about the norm of one image's step."""


# --- learning ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """float64[k, 64] in 0..1 and int64[k]."""

    pixels: Floats
    labels: Labels

    def take(self, where: NDArray[np.int64]) -> Images:
        return Images(self.pixels[where], self.labels[where])

    def __len__(self) -> int:
        return len(self.labels)


@cache
def digits() -> tuple[Images, Images]:
    """(the adversary's own, the clients'), by a fixed shuffle."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    everything = Images(pixels / 16.0, labels.astype(np.int64))
    return everything.take(order[:PUBLIC_IMAGES]), everything.take(order[PUBLIC_IMAGES:])


def new_model(rng: np.random.Generator) -> Floats:
    """float64[d]: He's initialisation, no biases."""
    first = rng.normal(0, np.sqrt(2 / PIXELS), PIXELS * HIDDEN)
    second = rng.normal(0, np.sqrt(2 / HIDDEN), HIDDEN * CLASSES)
    return np.concatenate([first, np.zeros(HIDDEN), second, np.zeros(CLASSES)])


def layers(vector: Floats) -> list[Floats]:
    """The weights and biases in a flat vector."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends), SHAPES, strict=True)]


def gradients(model: Floats, images: Images) -> tuple[Floats, Floats]:
    """The loss's gradient at each image, float64[k, d], and the losses, float64[k] (cross entropy)."""
    w1, b1, w2, b2 = layers(model)
    rows = np.arange(len(images))
    before = images.pixels @ w1 + b1
    hidden = np.maximum(before, 0)
    scores = hidden @ w2 + b2
    scores -= scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    out = np.exp(logs)
    out[rows, images.labels] -= 1
    inner = (out @ w2.T) * (before > 0)
    first = np.einsum("ki,kj->kij", images.pixels, inner).reshape(len(images), -1)
    second = np.einsum("ki,kj->kij", hidden, out).reshape(len(images), -1)
    return np.concatenate([first, inner, second, out], axis=1), -logs[rows, images.labels]


def noise_plan(multiplier: float, clients: int) -> NoisePlan:
    return plan_noise(
        dimension=DIMENSION, bits=BITS, clip=CLIP, l2_clip=L2_CLIP, multiplier=multiplier, cohort_min=clients
    )


def integers(delta: Floats, plan: NoisePlan | None, rng: np.random.Generator) -> tuple[Values, float]:
    """What a node submits for `delta`, and what one unit of it is worth."""
    if plan is None:
        return quantise(delta, clip=CLIP, bits=BITS, weight=1.0, rng=rng, norm=NORM), UNIT
    shortened = delta * min(1.0, L2_CLIP / float(np.linalg.norm(delta)))
    scaled = np.clip(shortened, -CLIP, CLIP) * plan.scale
    rounded = np.floor(scaled + rng.random(delta.size)).astype(np.int64)
    return add_noise(rounded, plan, rng.bytes), 1 / plan.scale


# --- a round -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """A mode with its committee. `multiplier` > 0: with the noise that gives a sum this multiplier."""

    label: str
    mode: str
    replicas: int = 4
    norm: int = 0
    multiplier: float = 0.0

    def setting(self, clients: int, number: int, public_key: bytes = b"") -> Setting:
        """For a cohort of up to 16: the width of a Paillier slot depends on it."""
        task = keccak(self.label.encode())
        cohort = max(clients, 16)
        return Setting(task, number, self.replicas, DIMENSION, BITS, cohort, norm=self.norm, public_key=public_key)


@dataclass(frozen=True)
class Sent:
    """What leaves its owners: the nodes' public parts and sealed boxes (one a replica), the component sums that the
    replicas publish, and what was opened. In mode `masked` the setting has the log's announcements and reveals."""

    setting: Setting
    publics: dict[bytes, bytes]
    boxes: dict[bytes, tuple[bytes, ...]]
    sums: dict[int, bytes]
    total: Values
    witness: bytes


@dataclass(frozen=True)
class Kept:
    """What each party keeps to itself."""

    values: dict[bytes, Values] = field(repr=False)
    pieces: dict[bytes, tuple[bytes, ...]] = field(repr=False)
    sealing: tuple[SealingKey, ...]
    key_shares: tuple[bytes, ...] = field(repr=False)
    masks: dict[bytes, MaskSecrets]
    node_sealing: dict[bytes, SealingKey]


@dataclass(frozen=True)
class PaillierKeys:
    public: bytes = b""
    shares: tuple[bytes, ...] = field(default=(), repr=False)


def addresses(count: int, number: int) -> list[bytes]:
    """The nodes of a round, ascending."""
    return sorted(keccak(encode(("node", number, i)))[:20] for i in range(count))


def hold_round(
    scenario: Scenario, number: int, updates: Sequence[Values], entropy: Entropy, keys: PaillierKeys
) -> tuple[Sent, Kept]:
    """One round of the scenario from protecting to opening, by the mode's own code. Nodes are ascending."""
    chosen = mode(scenario.mode)
    nodes = addresses(len(updates), number)
    setting = scenario.setting(len(updates), number, keys.public)
    masks, mask_secrets, node_sealing = _announced(setting, nodes, entropy) if scenario.mode == "masked" else _NOBODY
    protected: dict[bytes, Protected] = {}
    for node, values in zip(nodes, updates, strict=True):
        mine = replace(setting, masks=masks, key_share=encode(mask_secrets[node])) if masks else setting
        protected[node] = chosen.protect(mine, node, values, entropy)
    if masks:
        revealed = {node: reveal(masks, node, node_sealing[node], nodes) for node in nodes}
        setting = replace(setting, masks=replace(masks, revealed=revealed))
    sealing = tuple(SealingKey(entropy(32)) for _ in range(scenario.replicas))
    boxes = {
        node: tuple(
            seal_to(key.public, piece, piece_context(setting.task, number, node, replica))
            for replica, (key, piece) in enumerate(zip(sealing, each.pieces, strict=True))
            if piece
        )
        for node, each in protected.items()
    }
    sums, total, witness = opened(chosen, setting, protected, keys.shares)
    publics = {node: each.public for node, each in protected.items()}
    pieces = {node: each.pieces for node, each in protected.items()}
    kept = Kept(dict(zip(nodes, updates, strict=True)), pieces, sealing, keys.shares, mask_secrets, node_sealing)
    return Sent(setting, publics, boxes, sums, total, witness), kept


_NOBODY: tuple[Masks | None, dict[bytes, MaskSecrets], dict[bytes, SealingKey]] = (None, {}, {})


def _announced(
    setting: Setting, nodes: Sequence[bytes], entropy: Entropy
) -> tuple[Masks, dict[bytes, MaskSecrets], dict[bytes, SealingKey]]:
    """The nodes and one more, which announces its masks and is never heard of again."""
    invited = sorted([*nodes, keccak(encode(("dropout", setting.round)))[:20]])
    sealing = {node: SealingKey(entropy(32)) for node in invited}
    cohort = {node: key.public for node, key in sealing.items()}
    made = {node: announce(setting.task, setting.round, node, cohort, entropy) for node in invited}
    masks = Masks(setting.task, setting.round, tuple(invited), {node: said for node, (_, said) in made.items()})
    return masks, {node: own for node, (own, _) in made.items()}, sealing


def opened(
    chosen: Mode, setting: Setting, protected: dict[bytes, Protected], shares: Sequence[bytes]
) -> tuple[dict[int, bytes], Values, bytes]:
    """What 2f+1 replicas publish of a set of updates, its sum, and the witness."""
    digests: dict[int, dict[int, bytes]] = {}
    sums: dict[int, bytes] = {}
    for replica in range(setting.replicas - setting.faulty):
        mine = replace(setting, key_share=shares[replica] if shares else b"")
        held = [Held(node, each.public, each.pieces[replica]) for node, each in protected.items()]
        said = chosen.combine(mine, replica, held)
        digests[replica] = {component: keccak(data) for component, data in said.items()}
        sums |= said
    publics = {node: each.public for node, each in protected.items()}
    result = chosen.open(setting, Transcript(publics, digests, {keccak(data): data for data in sums.values()}))
    return sums, result.values, result.witness
