"""The operations that the committee orders and the law executes; each travels in a signed `Request`.

The sender of an operation is whoever signed its request. Results are `Outcome`s.
"""

from __future__ import annotations

from math import isqrt
from typing import Annotated

from msgspec import Meta

from koinon.encoding import U32, U63, Address, Digest, Message, Name, Signature, Text, decode
from koinon.epochs import Seats
from koinon.errors import OutOfRange
from koinon.privacy.budget import NoisePlan, plan_noise
from koinon.privacy.fixed_point import require_ring_fits, rounding_slack
from koinon.privacy.validation.bounds import NORM_MAX
from koinon.wire import Admission, Fault, MaskAnnouncement, MaskReveal, Revocation, RoundCertificate, SignedReceipt

OPERATION_BYTES_MAX = 64 * 1024
COHORT_MAX = 1024
MILLION = 1_000_000
NORM_CLIPS = 64
"""The default bound on an update's norm, in clips: a mean coordinate of a fourth of the clip for LeNet-5."""
NORMS_SUM_MAX = 2**31 - 1
"""Sums of updates, of which a bounded one may have its whole norm in one coordinate, are signed 32-bit numbers."""

BLINDING_COORDINATES = 31
"""A commitment's blinding: 31 bytes that an update carries besides the model's coordinates."""
BLINDING_NORM_SQUARED = BLINDING_COORDINATES * 255**2
BLINDING_BITS = 9
"""The narrowest coordinates that carry a byte."""

RING_MODES = ("shares", "masked")
"""The modes whose sums are signed numbers of 32 bits."""

Millionths = Annotated[int, Meta(ge=-(2**62), le=2**62)]
"""A real number times a million, rounded: metrics stay integers, so that every replica keeps equal bytes."""


class TaskSpec(Message, frozen=True):
    """What a user asks for. Its digest with the submitter is the task's identity.

    `initial_model` is the digest of a `koinon.learning.parameters.Parameters` blob; `dimension` its number of
    scalars. `clip` bounds each coordinate of an update (float32 units, in millionths), `bits` is the width of a
    quantised coordinate. Of an update in mode `shares` the L2 norm is proved to be at most `norm_bound` (millionths,
    as `clip`; 0: see `norm`) for a node of the largest sample count and less for others (`norm_for`), unless `validate`
    is off; with `aligned` also that its inner product with the task's last step g is at least that many millionths of
    the node's bound times ||g||. With a `noise_multiplier` (millionths; 0: no noise) each node clips its update to an
    L2 norm of `l2_clip` (millionths, as `clip`) and adds noise, for privacy at `delta` (millionths): see
    koinon.privacy.budget. With `commit` nodes publish Pedersen commitments.
    `cohort_min` is the least number of accepted updates with which a round may open its aggregate; `cohort_max` the
    most nodes invited. `strategy` names a file of koinon.learning; `config` is handed to it and to every node's `fit`
    as (key, value) text pairs. `reward` is paid in credits for each accepted update. `nonce` tells a second run of the
    same task from the first.
    """

    name: Name
    app: Name
    mode: Name
    strategy: Name
    rounds: Annotated[int, Meta(ge=1, le=100_000)]
    initial_model: Digest
    dimension: Annotated[int, Meta(ge=1, le=2**28)]
    clip: Annotated[int, Meta(ge=1, le=1000 * MILLION)] = MILLION
    bits: Annotated[int, Meta(ge=8, le=24)] = 16
    norm_bound: Annotated[int, Meta(ge=0, le=2**53)] = 0
    validate: bool = True
    aligned: Annotated[int, Meta(ge=-MILLION, le=MILLION)] | None = None
    noise_multiplier: Annotated[int, Meta(ge=0, le=100 * MILLION)] = 0
    l2_clip: Annotated[int, Meta(ge=0, le=2**53)] = 0
    delta: Annotated[int, Meta(ge=1, le=MILLION - 1)] = 10
    commit: bool = False
    cohort_min: Annotated[int, Meta(ge=3, le=COHORT_MAX)] = 3
    cohort_max: Annotated[int, Meta(ge=3, le=COHORT_MAX)] = 128
    round_ms: Annotated[int, Meta(ge=1_000, le=7 * 86_400_000)] = 120_000
    reward: U32 = 0
    nonce: U63 = 0
    config: tuple[tuple[Name, Text], ...] = ()

    def __post_init__(self) -> None:
        if self.cohort_min > self.cohort_max:
            raise ValueError("cohort_min is larger than cohort_max")
        keys = [key for key, _ in self.config]
        if keys != sorted(set(keys)):
            raise ValueError("config keys are not in strictly ascending order")
        if bool(self.noise_multiplier) != bool(self.l2_clip):
            raise ValueError("noise_multiplier and l2_clip go together")
        if self.commit and self.bits < BLINDING_BITS:
            raise ValueError(f"commit = true needs bits = {BLINDING_BITS} or more: a blinding is made of bytes")
        try:
            if self.mode in RING_MODES:
                require_ring_fits(bits=self.bits, cohort=self.cohort_max)
            plan = self.noise_plan
        except OutOfRange as error:
            raise ValueError(f"{error.message} ({error.hint})") from None
        if plan is not None and self.norm and self.norm < plan.norm:
            raise ValueError(f"norm_bound leaves no room for the noise: it needs {plan.norm} units, not {self.norm}")

    @property
    def noise_plan(self) -> NoisePlan | None:
        """Each node's noise; None when the task has none."""
        if not self.noise_multiplier:
            return None
        return plan_noise(
            dimension=self.dimension,
            bits=self.bits,
            clip=self.clip / MILLION,
            l2_clip=self.l2_clip / MILLION,
            multiplier=self.noise_multiplier / MILLION,
            cohort_min=self.cohort_min,
        )

    @property
    def norm(self) -> int:
        """The proved bound in units of the quantiser, rounded down; 0 when nothing is proved.

        Without a `norm_bound`: what clipping and noise may come to; without noise NORM_CLIPS times the clip, or less
        where coordinates at the clip cannot reach it (small models), or where the sum of a full cohort or a proof
        could not carry it.
        """
        if self.mode != "shares" or not self.validate:
            return 0
        limit: int = 2 ** (self.bits - 1) - 1
        if self.norm_bound:
            return max(1, self.norm_bound * limit // self.clip)
        if (plan := self.noise_plan) is not None:
            return plan.norm
        reached = isqrt(self.dimension * limit**2)
        most = min(NORM_MAX, NORMS_SUM_MAX // self.cohort_max)
        if self.commit:  # so that `carried_norm` is no more than that
            most = isqrt((most - 1) ** 2 - BLINDING_NORM_SQUARED)
        return min(NORM_CLIPS * limit, reached, most)

    def norm_for(self, examples: int, examples_cap: int) -> int:
        """The proved bound of a node that claims `examples` of at most `examples_cap` samples, rounded up: `norm` in
        proportion to the claim, but for what does not shrink with it (rounding, and noise where there is some)."""
        plan = self.noise_plan
        fixed = min(self.norm, rounding_slack(self.dimension) if plan is None else plan.unweighted)
        return fixed - (fixed - self.norm) * examples // examples_cap

    @property
    def coordinates(self) -> int:
        """How many integers an update has: the model's and, with `commit`, those of the blinding."""
        return self.dimension + (BLINDING_COORDINATES if self.commit else 0)

    @property
    def carried_norm(self) -> int:
        """The largest proved bound on all of an update's integers; 0 when nothing is proved."""
        return self.carried(self.norm)

    def carried(self, norm: int) -> int:
        """A bound on the model's integers, made one on all: with `commit`, the blinding's too."""
        return isqrt(norm**2 + BLINDING_NORM_SQUARED) + 1 if norm and self.commit else norm


class Enrol(Message, frozen=True):
    """The sender joins with an admission that the registrar signed."""

    admission: Admission
    signature: Signature


class Revoke(Message, frozen=True):
    """Anybody may hand in a revocation that the registrar signed."""

    revocation: Revocation
    signature: Signature


class CreateTask(Message, frozen=True):
    spec: TaskSpec


class StopTask(Message, frozen=True):
    task: Digest


class OpenRound(Message, frozen=True):
    """The aggregator proposes a round: which model it starts from and who is invited (ascending)."""

    task: Digest
    round: U32
    parent_model: Digest
    cohort: Annotated[tuple[Address, ...], Meta(max_length=COHORT_MAX)]


class SubmitUpdate(Message, frozen=True):
    """A node's update by digest, with 2f+1 receipts that it is kept and valid piece by piece."""

    task: Digest
    round: U32
    parent_model: Digest
    update: Digest
    examples: U32
    loss: Millionths
    receipts: tuple[SignedReceipt, ...]


class AnnounceMasks(Message, frozen=True):
    """In mode `masked`, an invited node's masks for the round, before it trains; it signs their `MaskNotice`."""

    task: Digest
    round: U32
    announcement: MaskAnnouncement
    signature: Signature


class ConfirmSet(Message, frozen=True):
    """In mode `masked`, an accepted node's signature of the `AcceptedSet` for which it is ready to reveal."""

    task: Digest
    round: U32
    signature: Signature


class RevealShares(Message, frozen=True):
    """In mode `masked`, an accepted node's shares, once enough nodes confirmed the accepted set."""

    task: Digest
    round: U32
    reveal: MaskReveal


class ReportFault(Message, frozen=True):
    """Hands in what f+1 replicas signed: a node gave each of them a false update, or no piece of it (see Fault)."""

    fault: Fault
    signatures: tuple[SignedReceipt, ...]


class CloseRound(Message, frozen=True):
    """Ends the waiting once the deadline has passed (a round closes by itself when the cohort is complete).

    A closed round that nobody could open by `Task.opening_deadline_ms` is aborted.
    """

    task: Digest
    round: U32


class CompleteRound(Message, frozen=True):
    """Hands in the certificate that 2f+1 replicas signed (signatures by ascending replica index)."""

    certificate: RoundCertificate
    signatures: tuple[SignedReceipt, ...]


class ReportEvaluation(Message, frozen=True):
    """A node's own measurement of a certified model on data that it keeps."""

    task: Digest
    round: U32
    loss: Millionths
    accuracy: Millionths
    examples: U32


class ChangeCommittee(Message, frozen=True):
    """The registrar names the committee of the next `epoch`, by index; it takes over at the next checkpoint."""

    epoch: U32
    seats: Seats


Operation = (
    Enrol
    | Revoke
    | CreateTask
    | StopTask
    | OpenRound
    | SubmitUpdate
    | ReportFault
    | CloseRound
    | CompleteRound
    | ReportEvaluation
    | ChangeCommittee
    | AnnounceMasks
    | ConfirmSet
    | RevealShares
)


def decode_operation(data: bytes) -> Operation:
    """Parse an operation; raises Malformed and its kinds."""
    operation: Operation = decode(Operation, data, bytes_max=OPERATION_BYTES_MAX)
    return operation


class Outcome(Message, frozen=True):
    """The answer of the law: `rule` is "" when the operation took effect, else the rule that refused it.

    `subject` is what the operation created (a task's identity), else empty.
    """

    rule: Text = ""
    detail: Text = ""
    subject: bytes = b""
