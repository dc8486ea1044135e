"""Mode `masked`: pairwise masks between the nodes (`masking`); no replica holds anything that hides an update.

    public part   the masked vector as uint32, little-endian                     piece, component, witness   none
    sum           sum of all vectors minus the masks that the nodes' reveals give, read as a signed 32-bit number

Whoever has the log and the updates opens the sum, or nobody does: fewer than t revealing nodes, or a node that dealt
false shares, end the round with an error that says so; no round succeeds unchanged. The committee is trusted for
nothing here but to go on: keys and accepted set are checked by the nodes (koinon.rounds.vouching). t colluding nodes
can unmask any node of the round, and 2t - m with a committee that lies. A node may share any vector of the ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from koinon.errors import BadPiece, CannotOpen, ConfigError

from .agreement import require_cohort, require_cohort_opens, require_no_witness
from .fixed_point import require_in_range, require_ring_fits
from .masking import Masks, add_masks, remove_masks, secrets_from
from .mode import Entropy, Held, Opened, Protected, Setting, Transcript, Values


class Masked:
    """See the module; implements `koinon.privacy.mode.Mode`. The setting brings the round's `masks`; a node's own
    setting brings its `MaskSecrets`, encoded, as `key_share`."""

    name: str = "masked"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        require_ring_fits(bits=setting.bits, cohort=setting.cohort)
        require_in_range(values, dimension=setting.dimension, bits=setting.bits)
        total = values.astype("<u4")
        add_masks(total, _masks(setting), node, secrets_from(setting.key_share))
        return Protected(total.tobytes(), (b"",) * setting.replicas)

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        if piece:
            raise BadPiece(f"node 0x{node.hex()} sent a piece of {len(piece)} bytes where this mode has none")
        if len(public) != 4 * setting.dimension:
            raise BadPiece(
                f"the vector of node 0x{node.hex()} has {len(public)} bytes instead of {4 * setting.dimension}"
            )

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        return b""

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        self.check(setting, node, public, replica, b"")
        return b""

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        """Nothing: what opens the sum is in the log."""
        require_cohort(setting, updates)
        return {}

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        require_cohort_opens(setting, transcript.publics)
        masks = _masks(setting)
        strangers = [node for node in transcript.publics if node not in masks.announced]
        if strangers:
            raise CannotOpen(f"nodes in the sum that announced no masks: {[f'0x{each.hex()}' for each in strangers]}")
        total = np.zeros(setting.dimension, dtype="<u4")
        for node, public in transcript.publics.items():
            if len(public) != 4 * setting.dimension:
                raise CannotOpen(f"the vector of node 0x{node.hex()} has {len(public)} bytes")
            total += np.frombuffer(public, dtype="<u4")
        remove_masks(total, masks, sorted(transcript.publics))
        values = total.view("<i4").astype(np.int64)
        bound = len(transcript.publics) << (setting.bits - 1)
        if max(-int(values.min()), int(values.max())) >= bound:
            raise CannotOpen("the unmasked sum is larger than the accepted updates can add to: some node lied")
        return Opened(values, b"", tuple(sorted(replica for replica, said in transcript.digests.items() if said)))

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        require_no_witness(witness)
        return self.open(setting, transcript).values


def _masks(setting: Setting) -> Masks:
    if setting.masks is None:
        raise ConfigError("mode masked needs the masks that the round's nodes announced")
    return setting.masks
