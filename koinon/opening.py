"""From a closed round to the next model: the steps that aggregator, replicas and auditors all repeat alike.

All inputs are public records and blobs; nothing here can be steered by who runs it. The aggregator opens
(`open_round`), everybody else verifies (`verify_opening`), and both derive the same bytes (`next_model`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from koinon import quantising
from koinon.config import FederationFile
from koinon.encoding import ZERO_DIGEST, decode, encode, from_hex, keccak
from koinon.errors import BadPiece, CannotOpen, KeyOutdated, RemoteError, UnknownSigner
from koinon.learning import strategy
from koinon.learning.parameters import Parameters
from koinon.privacy import mode
from koinon.privacy.masking import Masks
from koinon.privacy.mode import Claim, Digests, Opened, Setting, Transcript, Values
from koinon.privacy.validation.bounds import DIRECTION_MAX, Alignment
from koinon.rounds.operations import MILLION, TaskSpec
from koinon.rounds.state import MaskBoard, Round
from koinon.signing import Authenticated, Signed, authenticate
from koinon.wire import Contribution, Opening, Update

UPDATE_BYTES_MAX = 256 * 1024 * 1024


@dataclass(frozen=True)
class ClosedRound:
    """A round whose accepted set is fixed, with what binds its updates (and in mode `masked` its nodes' masks)."""

    federation: FederationFile
    task: bytes
    spec: TaskSpec
    round: Round
    board: MaskBoard | None = None
    direction: bytes = b""

    def setting(self, key_share: bytes = b"", *, claims: Mapping[bytes, int] | None = None) -> Setting:
        """`claims` are sample counts by node (None: those of the accepted updates)."""
        if claims is None:
            claims = {node: kept.examples for node, kept in self.round.submissions.items()}
        place = (self.federation, self.task, self.spec, self.round)
        return round_setting(*place, claims, key_share, self.board, self.direction)

    @property
    def wants_direction(self) -> bool:
        """Whether checking an update needs `direction`, the `last_step` to the round's parent from its `previous`."""
        return self.spec.aligned is not None and self.round.previous != ZERO_DIGEST


def round_setting(
    federation: FederationFile,
    task: bytes,
    spec: TaskSpec,
    round_: Round,
    claims: Mapping[bytes, int],
    key_share: bytes = b"",
    board: MaskBoard | None = None,
    direction: bytes = b"",
) -> Setting:
    """The privacy setting of one round, the same for every party. `federation` is the one in the round's epoch.

    `claims` are the sample counts of the nodes whose updates are made, checked or opened, by address; `direction` is
    the `last_step`, where updates have to be aligned with it and there is one.

    KeyOutdated in mode paillier, when the committee changed since its key was dealt.
    """
    public_key = committee_key(federation) if spec.mode == "paillier" else b""
    values = np.frombuffer(direction, dtype="<i2").astype(np.int64)
    length = isqrt(int(values @ values))
    alignment = None
    if spec.norm and spec.aligned is not None:
        padded = direction.ljust(2 * spec.coordinates, b"\0")  # a commitment's blinding points nowhere
        alignment = Alignment(padded, _least(spec, spec.norm, length))

    def claim(examples: int) -> Claim:
        norm = spec.norm_for(examples, round_.examples_cap)
        return Claim(examples, spec.carried(norm), _least(spec, norm, length))

    return Setting(
        task=task,
        round=round_.number,
        replicas=len(federation.replicas),
        dimension=spec.coordinates,
        bits=spec.bits,
        cohort=len(round_.cohort),
        norm=spec.carried_norm,
        alignment=alignment,
        claims={node: claim(examples) for node, examples in claims.items()},
        public_key=public_key,
        key_share=key_share,
        masks=Masks(task, round_.number, round_.cohort, board.announced, board.revealed) if board else None,
    )


def last_step(parent: Parameters, previous: Parameters) -> bytes:
    """The direction from one model to the next, int16[d] (little-endian) with the largest coordinate at 2^15 - 1."""
    step = parent.vector() - previous.vector()
    largest = float(np.abs(step).max(initial=0.0))
    if not (0.0 < largest < np.inf):
        return bytes(2 * step.size)
    scaled = np.rint(step * (DIRECTION_MAX / largest))
    return np.clip(scaled, -DIRECTION_MAX, DIRECTION_MAX).astype("<i2").tobytes()


def _least(spec: TaskSpec, norm: int, length: int) -> int:
    """The least inner product with a direction of that length, of an update whose own bound is `norm`."""
    return (spec.aligned or 0) * norm * length // MILLION


def key_is_current(federation: FederationFile) -> bool:
    """Whether the Paillier key in the file was dealt to the committee of this epoch."""
    if federation.paillier is None:
        return False
    from koinon.privacy.paillier_key import parse_key  # on demand: it needs a big-number library

    key = parse_key(from_hex(federation.paillier.public_key))
    return (key.epoch, key.replicas) == (federation.epoch, len(federation.replicas))


def committee_key(federation: FederationFile) -> bytes:
    """The committee's Paillier key; b"" in a federation without one, KeyOutdated when it is of another committee."""
    if federation.paillier is None:
        return b""
    if not key_is_current(federation):
        raise KeyOutdated(
            f"the Paillier key was dealt to another committee than that of epoch {federation.epoch}",
            hint="hold a new key ceremony (koinon ceremony), or submit the task in mode shares",
        )
    return from_hex(federation.paillier.public_key)


def public_part(closed: ClosedRound, node: bytes, blob: bytes) -> bytes:
    """The mode's public part in an update blob; BadPiece unless `node` made it for this round, and for the sample
    count with which it was accepted."""
    update = claimed_update(closed, node, blob)
    accepted = closed.round.submissions.get(node)
    if accepted is not None and accepted.examples != update.examples:
        counts = f"{update.examples} samples, and {accepted.examples} in the log"
        raise BadPiece(f"the update of 0x{node.hex()} claims {counts}")
    return update.public


def claimed_update(closed: ClosedRound, node: bytes, blob: bytes) -> Update:
    """What a blob says that `node` made for this round, accepted or not; BadPiece for another place."""
    update = decode(Update, blob, bytes_max=UPDATE_BYTES_MAX)
    said = (update.task, update.round, update.node, update.mode)
    if said != (closed.task, closed.round.number, node, closed.spec.mode):
        raise BadPiece(f"the update of 0x{node.hex()} was made for another task, round, node or mode")
    if closed.spec.commit:
        from koinon.privacy.commitments import require_commitment

        require_commitment(node, update.commitment)
    elif update.commitment:
        raise BadPiece(f"the update of 0x{node.hex()} has a commitment, which its task does not ask for")
    return update


def signed_contributions(
    closed: ClosedRound, sealed: Sequence[bytes]
) -> tuple[dict[int, Authenticated[Contribution]], dict[str, str]]:
    """The contributions that are genuine, by replica, and why the others are not."""
    good: dict[int, Authenticated[Contribution]] = {}
    bad: dict[str, str] = {}
    for number, raw in enumerate(sealed):
        try:
            said = authenticate(Contribution, raw, closed.federation.domain)
            _require_contribution(closed, said)
            good[said.message.replica] = said
        except (RemoteError, BadPiece) as error:
            bad[f"contribution {number}"] = error.message
    return good, bad


def _require_contribution(closed: ClosedRound, said: Authenticated[Contribution]) -> None:
    message, addresses = said.message, closed.federation.replica_addresses
    if message.replica >= len(addresses) or addresses[message.replica] != said.sender:
        raise UnknownSigner(f"a contribution signed by 0x{said.sender.hex()}, who is not that replica")
    expected = (closed.task, closed.round.number, closed.round.updates_root)
    if (message.task, message.round, message.updates_root) != expected:
        raise BadPiece(f"replica {message.replica} contributed to another opening")


def _digests(contributions: Mapping[int, Authenticated[Contribution]]) -> Digests:
    return {index: dict(said.message.components) for index, said in contributions.items()}


def open_round(
    closed: ClosedRound,
    publics: Mapping[bytes, bytes],
    contributions: Mapping[int, Authenticated[Contribution]],
    components: Mapping[bytes, bytes],
) -> Opened:
    """Open the sum of the accepted updates; CannotOpen names what is missing or who contradicted."""
    _require_all(closed, publics)
    return mode(closed.spec.mode).open(closed.setting(), Transcript(publics, _digests(contributions), components))


def make_opening(
    closed: ClosedRound, contributions: Mapping[int, Authenticated[Contribution]], witness: bytes
) -> Opening:
    """The evidence that is stored as a blob and named in the certificate."""
    return Opening(
        task=closed.task,
        round=closed.round.number,
        contributions=tuple(
            Signed(payload=encode(said.message), signature=said.signature) for _, said in sorted(contributions.items())
        ),
        witness=keccak(witness) if witness else ZERO_DIGEST,
    )


def verify_opening(
    closed: ClosedRound,
    opening: Opening,
    publics: Mapping[bytes, bytes],
    components: Mapping[bytes, bytes],
    witness: bytes,
) -> Values:
    """The opened sum, int64[dimension], trusting nobody beyond f replicas; CannotOpen or RemoteError otherwise."""
    _require_all(closed, publics)
    if (opening.task, opening.round) != (closed.task, closed.round.number):
        raise CannotOpen("the opening is of another round")
    good, bad = signed_contributions(closed, [encode(each) for each in opening.contributions])
    if bad:
        raise CannotOpen(f"the opening contains false contributions: {bad}")
    return mode(closed.spec.mode).verify(closed.setting(), Transcript(publics, _digests(good), components), witness)


def component_digests(opening: Opening) -> set[bytes]:
    """The blobs that a verifier may need (a digest that only a liar signed may not exist)."""
    messages = [decode(Contribution, each.payload) for each in opening.contributions]
    return {component for message in messages for _, component in message.components}


def next_model(spec: TaskSpec, round_: Round, parent: Parameters, total: Values) -> Parameters:
    """The model after this round: the strategy applied to the mean weighted by sample counts."""
    weight_sum = sum(kept.examples for kept in round_.submissions.values()) / round_.examples_cap
    return strategy(spec.strategy, dict(spec.config)).apply(parent, quantising.mean(spec, total, weight_sum=weight_sum))


def require_committed(closed: ClosedRound, updates: Mapping[bytes, bytes], total: Values) -> None:
    """CannotOpen unless `total` is what the nodes' own commitments add up to: this trusts no replica."""
    from koinon.privacy.commitments import verify_sum  # on demand: only tasks with commitments need the curve

    commitments = [decode(Update, blob, bytes_max=UPDATE_BYTES_MAX).commitment for blob in updates.values()]
    size, cohort = closed.spec.dimension, len(closed.round.cohort)
    verify_sum(commitments, total[:size], total[size:], bits=closed.spec.bits, cohort=cohort)


def _require_all(closed: ClosedRound, publics: Mapping[bytes, bytes]) -> None:
    missing = set(closed.round.submissions) - set(publics)
    if missing or set(publics) - set(closed.round.submissions):
        raise CannotOpen(f"the updates at hand are not the accepted set ({len(missing)} are missing)")
