"""Mode `shares` as tasks name it: replicated shares for up to ten replicas, Shamir's for larger committees."""

from __future__ import annotations

from collections.abc import Sequence

from .mode import Entropy, Held, Mode, Opened, Protected, Setting, Transcript, Values
from .shamir_shares import ShamirShares
from .shares import REPLICAS_MAX, Shares

_REPLICATED, _SHAMIR = Shares(), ShamirShares()


def _of(setting: Setting) -> Mode:
    return _REPLICATED if setting.replicas <= REPLICAS_MAX else _SHAMIR


class SizedShares:
    """Implements `koinon.privacy.mode.Mode`, by the committee's size."""

    name: str = "shares"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        return _of(setting).protect(setting, node, values, entropy)

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        _of(setting).check(setting, node, public, replica, piece)

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        return _of(setting).share_with(setting, piece, replica)

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        return _of(setting).merge(setting, node, public, replica, parts)

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        return _of(setting).combine(setting, replica, updates)

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        return _of(setting).open(setting, transcript)

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        return _of(setting).verify(setting, transcript, witness)
