"""Mode `plain`: the committee sees every update. For one organisation, and for every robust rule.

The public part is a hiding commitment (Keccak-256 over a 32-byte salt, the task, round, node and vector): it is
ordered and kept on chain without leaking a guessable update. The private piece, the same for each replica, is the
salt and the vector as little-endian two's complement of the narrowest width that `bits` allows. There is one
component, number 0: the exact sum as int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece, ConfigError, OutOfRange

from .agreement import decide, require_cohort, require_cohort_opens, require_no_witness
from .fixed_point import require_in_range
from .mode import Entropy, Held, Opened, Protected, Setting, Transcript, Values

SALT_BYTES = 32
SUM = 0


class Plain:
    """See the module; implements `koinon.privacy.mode.Mode`."""

    name: str = "plain"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        require_in_range(values, dimension=setting.dimension, bits=setting.bits)
        piece = entropy(SALT_BYTES) + values.astype(_packed(setting)).tobytes()
        return Protected(_commitment(setting, node, piece), (piece,) * setting.replicas)

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        expected = SALT_BYTES + setting.dimension * _packed(setting).itemsize
        if len(piece) != expected:
            raise BadPiece(f"the piece of node 0x{node.hex()} has {len(piece)} bytes instead of {expected}")
        if _commitment(setting, node, piece) != public:
            raise BadPiece(f"the piece of node 0x{node.hex()} contradicts its commitment")
        try:
            require_in_range(unpack(setting, piece), dimension=setting.dimension, bits=setting.bits)
        except OutOfRange as error:
            raise BadPiece(f"the update of node 0x{node.hex()}: {error.message}") from None

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        """The whole piece: every replica may see it."""
        return piece

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        for part in parts:
            try:
                self.check(setting, node, public, replica, part)
            except BadPiece:
                continue
            return part
        raise BadPiece(f"none of {len(parts)} parts is the piece of node 0x{node.hex()}")

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        require_cohort(setting, updates)
        total = np.zeros(setting.dimension, dtype="<i8")
        for held in updates:
            self.check(setting, held.node, held.public, replica, held.piece)
            total += unpack(setting, held.piece)
        return {SUM: total.tobytes()}

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        require_cohort_opens(setting, transcript.publics)
        data, dissenters = decide(setting, SUM, range(setting.replicas), transcript, size=8 * setting.dimension)
        return Opened(np.frombuffer(data, dtype="<i8").astype(np.int64), b"", tuple(sorted(dissenters)))

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        require_no_witness(witness)
        return self.open(setting, transcript).values


def unpack(setting: Setting, piece: bytes) -> Values:
    """The vector inside a checked piece: int64[dimension]. Robust rules of the committee read updates by it."""
    return np.frombuffer(piece, dtype=_packed(setting), offset=SALT_BYTES).astype(np.int64)


def _packed(setting: Setting) -> np.dtype[np.signedinteger]:
    for width in (8, 16, 32):
        if 2 <= setting.bits <= width:
            return np.dtype(f"<i{width // 8}")
    raise ConfigError(f"an update has 2 to 32 bits a coordinate, not {setting.bits}")


def _commitment(setting: Setting, node: bytes, piece: bytes) -> bytes:
    return keccak(encode(("koinon/plain/update", setting.task, setting.round, node)) + piece)
