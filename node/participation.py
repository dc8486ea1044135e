"""One node's part in one round: verify, train, quantise, protect, deliver, submit.

What leaves the node is on disk first (`submissions.py`), so that a crash at any point is followed by the same bytes.
Failures of the committee or the chain are tried again until the round is over; failures of the user's code end this
node's part in the round.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from koinon import quantising
from koinon.client import CommitteeClient
from koinon.config import FederationFile
from koinon.encoding import ZERO_DIGEST, encode, from_hex, keccak, to_hex
from koinon.errors import LedgerError, Rejected, RemoteError, TrainingError, UncertifiedModel
from koinon.learning import strategy
from koinon.learning.parameters import Parameters, from_blob
from koinon.observe import PHASE_SECONDS
from koinon.opening import last_step, round_setting
from koinon.privacy import mode, piece_context, seal_to
from koinon.privacy.shares import REPLICAS_MAX
from koinon.rounds.masks import MODE as MASKED
from koinon.rounds.operations import MILLION, SubmitUpdate, TaskSpec, decode_operation
from koinon.rounds.state import MaskBoard, Round, Task
from koinon.threads import in_thread
from koinon.wire import Piece, Update

from .apps import App, Fitted, Scalar, scalar
from .masking import Masking
from .submissions import Submission, Submissions

if TYPE_CHECKING:
    from koinon.ledger import Ledger

CHAIN_WAIT_SECONDS_MAX = 60.0
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 5.0
PATIENCE_SECONDS = 0.3
"""How much longer than the quorum the slowest replicas get to take a blob or a piece."""
PATIENCE_LARGE_SECONDS = 5.0
"""The same where replicas cannot show one another the pieces that they missed (koinon.privacy.shamir_shares)."""
LOSS_MILLIONTHS_MAX = 10**15

log = logging.getLogger("koinon.node.participation")
T = TypeVar("T")


@dataclass
class Timing:
    """Seconds of this node's phases of one round."""

    seconds: dict[str, float] = field(default_factory=dict)

    async def of(self, phase: str, work: Awaitable[T]) -> T:
        begun = time.monotonic()
        try:
            return await work
        finally:
            spent = time.monotonic() - begun
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 4)
            PHASE_SECONDS.labels(phase).observe(spent)


def fit_config(spec: TaskSpec, round_: int) -> dict[str, Scalar]:
    """What the app's `fit` and `evaluate` are told: the task's config, the strategy's settings, the round."""
    config: dict[str, Scalar] = {key: scalar(text) for key, text in spec.config}
    config.update(strategy(spec.strategy, dict(spec.config)).fit_config())
    config["server_round"] = round_
    return config


class Participation:
    """What stays the same from round to round. `connect` gives the chain (it blocks and may raise LedgerError)."""

    def __init__(
        self,
        committee: CommitteeClient,
        connect: Callable[[], Ledger],
        submissions: Submissions,
        masking: Masking,
        node: bytes,
    ) -> None:
        self._committee = committee
        self._connect = connect
        self._submissions = submissions
        self.masking = masking
        self._node = node
        self._busy = asyncio.Lock()
        self.overruns = 0
        """Calls of the user's code that outlived their time: their threads cannot be stopped."""

    async def take_part(
        self, identity: bytes, task: Task, round_: Round, app: Callable[[], Awaitable[App]], examples_max: int
    ) -> tuple[Submission, Timing, bool]:
        """Train (unless this round's update is on disk already) and have the update ordered.

        Answers the submission, the timing and whether it was resent. Raises TrainingError, OutOfRange,
        UncertifiedModel, or Rejected when the law says that it came too late.
        """
        timing = Timing()
        record = await in_thread(lambda: self._submissions.load(identity, round_.number))
        resent = record is not None
        federation = await self._committee.federation_of(round_.epoch)  # to whose keys the pieces are sealed
        if record is None:
            board = None
            if task.spec.mode == MASKED:
                board = await self.masking.board(identity, round_)
                examples_max = await in_thread(lambda: self.masking.examples_max(identity, round_.number))
            parent = await self._parent(identity, round_)
            direction = await self._direction(task.spec, round_, parent)
            made, config = await app(), fit_config(task.spec, round_.number)
            fitting = self.run_app(lambda: made.fit(parent, config), f"app {made.name}: fit", task.spec.round_ms / 1000)
            fitted = await timing.of("train", fitting)
            record = await timing.of(
                "protect",
                in_thread(
                    lambda: self._protect(
                        federation, identity, task.spec, round_, parent, direction, fitted, examples_max, board
                    )
                ),
            )
        elif record.parent_model != round_.parent_model:
            raise UncertifiedModel(f"round {round_.number} started from another model before")
        if task.spec.mode == MASKED:
            await in_thread(lambda: self.masking.spend(identity, round_.number))
        if not record.operation:
            record = await timing.of("deliver", self._deliver(record, task.spec))
        await timing.of("submit", self._submit(record))
        if task.spec.mode == "paillier":
            await in_thread(lambda: self._prepare(federation, identity, task.spec, round_))
        return record, timing, resent

    def _prepare(self, federation: FederationFile, identity: bytes, spec: TaskSpec, round_: Round) -> None:
        """While the node waits for the others: draw the encryption randomness of its next update."""
        from koinon.privacy.paillier import prepare

        prepare(round_setting(federation, identity, spec, round_, {}), secrets.token_bytes)

    # --- train -----------------------------------------------------------------------------------------------

    async def _parent(self, identity: bytes, round_: Round) -> Parameters:
        """The round's parent model, once the chain vouches for it."""
        deadline = time.monotonic() + CHAIN_WAIT_SECONDS_MAX
        pause = BACKOFF_FIRST_SECONDS
        while (known := await in_thread(lambda: self._connect().latest_model(identity))) != round_.parent_model:
            if time.monotonic() > deadline:
                raise UncertifiedModel(
                    f"round {round_.number} starts from {to_hex(round_.parent_model)}, "
                    f"the chain's last certified model is {to_hex(known) if known else 'none'}",
                    hint="nothing is trained from a model that the chain does not hold",
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_MAX_SECONDS)
        return from_blob(await self._committee.get_blob(round_.parent_model))

    async def _direction(self, spec: TaskSpec, round_: Round, parent: Parameters) -> bytes:
        """The task's last step, where the update has to be aligned with it; b"" otherwise."""
        if spec.aligned is None or round_.previous == ZERO_DIGEST:
            return b""
        return last_step(parent, from_blob(await self._committee.get_blob(round_.previous)))

    async def run_app(self, call: Callable[[], T], what: str, seconds: float) -> T:
        """Run the user's code in a thread, one call at a time; TrainingError when it takes longer than `seconds`."""
        async with self._busy:
            try:
                return await in_thread(call, timeout_seconds=seconds)
            except TimeoutError:
                self.overruns += 1
                raise TrainingError(
                    f"{what} did not finish within {seconds:g} s",
                    hint="train less in a round, or submit the task with a longer round_seconds",
                ) from None

    # --- protect ---------------------------------------------------------------------------------------------

    def _protect(
        self,
        federation: FederationFile,
        identity: bytes,
        spec: TaskSpec,
        round_: Round,
        parent: Parameters,
        direction: bytes,
        fitted: Fitted,
        examples_max: int,
        board: MaskBoard | None,
    ) -> Submission:
        """Quantise and protect the update, seal the pieces, and put all of it on disk."""
        if parent.dimension != spec.dimension:
            raise TrainingError(f"the model has {parent.dimension} scalars, the task says {spec.dimension}")
        examples = min(fitted.examples, examples_max, round_.examples_cap)
        values = quantising.quantise(
            spec,
            fitted.parameters.vector() - parent.vector(),
            examples=examples,
            examples_cap=round_.examples_cap,
            rng=np.random.default_rng(secrets.randbits(256)),
            entropy=secrets.token_bytes,
        )
        commitment = b""
        if spec.commit:
            from koinon.privacy.commitments import commit, draw_blinding  # on demand: few tasks need the curve

            blinding = draw_blinding(secrets.token_bytes)
            commitment = commit(values, blinding, bits=spec.bits, cohort=len(round_.cohort))
            values = np.concatenate([values, blinding])
        own = self.masking.secrets(identity, round_.number) if board is not None else b""
        setting = round_setting(federation, identity, spec, round_, {self._node: examples}, own, board, direction)
        protected = mode(spec.mode).protect(setting, self._node, values, secrets.token_bytes)
        update = Update(
            task=identity,
            round=round_.number,
            node=self._node,
            mode=spec.mode,
            examples=examples,
            public=protected.public,
            commitment=commitment,
        )
        sealed = tuple(
            seal_to(from_hex(replica.sealing_key), piece, piece_context(identity, round_.number, self._node, index))
            for index, (replica, piece) in enumerate(
                zip(federation.replicas, protected.pieces, strict=True),
            )
        )
        record = Submission(
            task=identity,
            round=round_.number,
            parent_model=round_.parent_model,
            examples=examples,
            loss=millionths(fitted.loss),
            update=encode(update),
            sealed=sealed,
        )
        self._submissions.save(record)
        return record

    # --- deliver and submit ----------------------------------------------------------------------------------

    async def _deliver(self, record: Submission, spec: TaskSpec) -> Submission:
        """Hand out the update and its pieces until 2f+1 replicas gave receipts; keep the operation that they allow.

        Each replica gets its piece as soon as it has the update, and waits for no other one.
        """
        receipts: dict[int, bytes] = {}
        put = self._committee.upload(record.update)
        name = keccak(record.update)
        large = spec.mode == "shares" and len(self._committee.federation.replicas) > REPLICAS_MAX
        patience_seconds = PATIENCE_LARGE_SECONDS if large else PATIENCE_SECONDS

        async def hand(index: int) -> bytes:
            if index not in receipts:
                piece = Piece(
                    task=record.task,
                    round=record.round,
                    node=self._node,
                    replica=index,
                    update=name,
                    sealed=record.sealed[index],
                )
                await put(index)
                receipts[index] = await self._committee.deliver(index, piece, record.examples)
            return receipts[index]

        async def all_of_it() -> dict[int, bytes]:
            return await self._committee.collect(
                hand,
                enough=self._committee.federation.quorum,
                what="gave a receipt",
                patience_seconds=patience_seconds,
            )

        bound = record.bind(await self._until_over(record, all_of_it))
        await in_thread(lambda: self._submissions.save(bound))
        return bound

    async def _submit(self, record: Submission) -> None:
        operation = decode_operation(record.operation)
        if not isinstance(operation, SubmitUpdate):
            raise TrainingError("the kept operation is not an update")

        async def order() -> None:
            try:
                await self._committee.submit(operation)
            except Rejected as error:
                # nobody else can sign for this node: what the round holds of it is this update
                if error.rule != "duplicate-update" and not await self._accepted(record):
                    raise

        await self._until_over(record, order)

    async def _until_over(self, record: Submission, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat `attempt` with capped backoff while replicas or chain fail and the round still takes updates."""
        pause = BACKOFF_FIRST_SECONDS
        while True:
            try:
                return await attempt()
            except (RemoteError, LedgerError) as error:
                log.warning(
                    "tried again",
                    extra={
                        "task": record.task.hex(),
                        "round": record.round,
                        "code": error.code,
                        "reason": error.message,
                    },
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_MAX_SECONDS)
            await self._require_open(record)

    async def _accepted(self, record: Submission) -> bool:
        round_ = (await self._committee.task(record.task)).round(record.round)
        return round_ is not None and self._node in round_.submissions

    async def _require_open(self, record: Submission) -> None:
        """Rejected when the committee says that the round is over; quiet when nobody answers, or it has the update."""
        try:
            task = await self._committee.task(record.task)
        except RemoteError:
            return
        current = task.current()
        if current is not None and current.number == record.round and self._node in current.submissions:
            return
        if task.status != "active" or current is None or current.number != record.round or current.phase != "training":
            raise Rejected("round-closed", f"round {record.round} ended before the update was delivered")


def millionths(value: float, *, low: int = -LOSS_MILLIONTHS_MAX, high: int = LOSS_MILLIONTHS_MAX) -> int:
    """`value` times a million within the bounds; NaN and infinity count as the upper bound."""
    if not np.isfinite(value):
        return high
    return max(low, min(high, round(value * MILLION)))
