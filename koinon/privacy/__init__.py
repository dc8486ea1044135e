"""Privacy modes: one exact integer sum, by several roads of trust.

`mode(name)` gives the mode that a task names. The mode `paillier` is imported when it is asked for: whoever never
uses it loads neither its big-number library nor `phe`.
"""

from __future__ import annotations

from functools import cache

from koinon.errors import ConfigError

from .masked import Masked
from .mode import Digests, Entropy, Held, Mode, Opened, Protected, Setting, Transcript, Values
from .plain import Plain
from .sealing import SealingKey, piece_context, seal_to
from .sized_shares import SizedShares

__all__ = [
    "MODES",
    "Digests",
    "Entropy",
    "Held",
    "Mode",
    "Opened",
    "Protected",
    "SealingKey",
    "Setting",
    "Transcript",
    "Values",
    "mode",
    "piece_context",
    "seal_to",
]

MODES = ("plain", "shares", "paillier", "masked")
"""The names that a task may give as its mode."""


@cache
def mode(name: str) -> Mode:
    """The mode called `name`; ConfigError, naming the known ones, when there is none."""
    if name == "plain":
        return Plain()
    if name == "shares":
        return SizedShares()
    if name == "paillier":
        from .paillier import Paillier

        return Paillier()
    if name == "masked":
        return Masked()
    raise ConfigError(f"no privacy mode is called {name!r}", hint=f"one of: {', '.join(MODES)}")
