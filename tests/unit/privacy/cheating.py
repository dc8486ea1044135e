"""A node that runs the protocol of validated shares on any integers that it likes."""

from __future__ import annotations

from koinon.privacy import Entropy, Protected, Setting, Values
from koinon.privacy import shares as inside
from koinon.privacy.validation import mask_vector, prove


def protect_anything(setting: Setting, node: bytes, filled: Values, entropy: Entropy) -> Protected:
    """What it sends for `filled` (the update, then the four integers that should fill up its norm)."""
    seeds = [entropy(inside.SEED_BYTES) for _ in inside.subsets(setting)]
    bound = inside._bound(setting)
    public = mask_vector(bound, filled, seeds)
    public += b"".join(inside._commitment(setting, node, number, seed) for number, seed in enumerate(seeds))
    public += prove(bound, inside._context(setting, node), public, filled, seeds, setting.alignment)
    pieces = [inside._pack({i: seeds[i] for i in inside.held_by(setting, r)}) for r in range(setting.replicas)]
    return Protected(public, tuple(pieces))
