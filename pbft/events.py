"""What goes into a replica (events) and what comes out (effects). `Replica.step(event)` returns effects in order.

The shell performs the effects of one step in their order: a `Persist` must be durable (fsync) before any later
effect of the list is performed. Consecutive `Persist`s may share one fsync. Every event carries the shell's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from koinon.errors import KoinonError
from koinon.wire import CHECKPOINT_INTERVAL, CheckpointCertificate, CommittedBatch, Reply

from .messages import Ballot, PeerMessage, Record

ALL = -1
"""`Send.to` of a broadcast: to every other replica."""


class Application(Protocol):
    """What the committee replicates. Pure: same calls in the same order give the same bytes everywhere."""

    def execute(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        """The result (short: it is kept for retransmission) of `sender`'s operation; refusals are results too.

        Must not raise for any bytes; an exception stops the replica.
        """

    def admits(self, sender: bytes, operation: bytes) -> None:
        """Raise a KoinonError when `sender` may not even be ordered (e.g. UnknownSigner for a stranger).

        Asked before ordering at the replica that hears the request, and again at execution, where every replica
        asks in the same state. A request refused there leaves no trace.
        """

    def pending_change(self) -> bool:
        """Whether the committee changes at the next checkpoint: then it orders empty batches rather than wait."""

    def hand_over(self) -> bytes:
        """Called at each checkpoint, before `snapshot`. If a change is pending it takes effect here, and the answer
        is what names the next committee (32 bytes, not zero); else 32 zero bytes."""

    def snapshot(self) -> bytes:
        """Canonical bytes of the whole state: equal states give equal bytes."""

    def restore(self, snapshot: bytes) -> None:
        """Become the state of `snapshot`."""


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of a peer message from replica `sender`; the shell authenticated the link."""

    now_ms: int
    sender: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """A client's sealed `Request`."""

    now_ms: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes. Send one every `Settings.tick_ms` or more often.

    `stopped_ms` of the time since the last one this process, or its clock, was not running: SIGSTOP, a paused machine,
    a clock that was set.
    """

    now_ms: int
    stopped_ms: int = 0


@dataclass(frozen=True, slots=True)
class CatchUp:
    """The answer to `NeedState`, from whomever: entries by ascending sequence, perhaps after a snapshot.

    `snapshot` is the bytes whose Keccak-256 is `certificate.checkpoint.state`. Nothing of it is trusted.
    """

    now_ms: int
    sender: int
    entries: tuple[CommittedBatch, ...] = ()
    certificate: CheckpointCertificate | None = None
    snapshot: bytes | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """The first event of a replica that has a past: what its own disk holds.

    `snapshot` belongs to the certificate (`StableCheckpoint`) written last; both None if there was none.
    `entries` is the archive after that snapshot. `records` is the journal in the order of writing.
    """

    now_ms: int
    records: tuple[Record, ...]
    entries: tuple[CommittedBatch, ...] = ()
    certificate: CheckpointCertificate | None = None
    snapshot: bytes | None = None


Event = Received | ClientRequest | Tick | CatchUp | Recovered


# --- effects -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Append `record` to the journal; durable before any later effect of the same step."""

    record: Record


@dataclass(frozen=True, slots=True)
class Send:
    """Send `encode(message)` to replica `to`, or to every other one if `to` is ALL. May be lost."""

    to: int
    message: PeerMessage


@dataclass(frozen=True, slots=True)
class Respond:
    """An answer for whoever waits for it; the shell has `Replica.seal` sign it then, alone or with others."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refuse:
    """The client's request is not taken: Malformed, BadSignature, Replayed, UnknownSigner, Unavailable (quota)...

    `client` and `number` are empty and -1 when the request could not even be read.
    """

    client: bytes
    number: int
    error: KoinonError


@dataclass(frozen=True, slots=True)
class Executed:
    """One request's fate at execution."""

    client: bytes
    number: int
    result: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """`entry` was executed: append it to the archive. `time_ms` is the time that its requests saw."""

    entry: CommittedBatch
    time_ms: int
    results: tuple[Executed, ...]


@dataclass(frozen=True, slots=True)
class SyncArchive:
    """Every entry `Committed` so far must be durable before any later effect: this replica vouches for its state."""


@dataclass(frozen=True, slots=True)
class StableCheckpoint:
    """Sync the archive, store certificate and snapshot, then rewrite the journal to exactly `retained`."""

    certificate: CheckpointCertificate
    snapshot: bytes
    retained: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """The committee handed over, `certificate` proves it, and the state at it was told as `StableCheckpoint`.

    Keep the proof (`koinon.epochs.Handover`) durably, then start a replica of the next epoch from the same disk. This
    one takes and says nothing more.
    """

    certificate: CheckpointCertificate


@dataclass(frozen=True, slots=True)
class NeedState:
    """Fetch from peers: archive entries from `from_sequence` on; if they no longer have them, the snapshot of a
    stable checkpoint. Hand in what came as `CatchUp`. Asked again every `Settings.catch_up_ms` while it lasts.
    """

    from_sequence: int
    certificate: CheckpointCertificate | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """`culprit` signed both: one phase, view and sequence, two digests. For the chain."""

    culprit: int
    first: Ballot
    second: Ballot


@dataclass(frozen=True, slots=True)
class GaveUp:
    """This replica leaves `view`, whose primary is `primary`: `reason` is "timeout", "slow", "unfair" (`pbft.pace`),
    "clock" (its batches were refused for their time) or "recovery" (who lost its journal asked for the next view; the
    primary is not to blame). `waited_ms` is how long the oldest request waited. Count it.
    """

    primary: int
    reason: str
    view: int
    waited_ms: int


@dataclass(frozen=True, slots=True)
class ClocksDiffer:
    """A batch of the primary's was not taken: its time is `ahead_ms` ahead of our clock (negative: behind). One of the
    two clocks is wrong; ours, when a quorum executes that batch all the same. Count it."""

    primary: int
    sequence: int
    time_ms: int
    ahead_ms: int


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """Replica `sender` handed in something that no correct replica sends. State is unchanged. Count it."""

    sender: int
    error: KoinonError


@dataclass(frozen=True, slots=True)
class Ignored:
    """A correct message that came too early, late or often, by `reason` (a stable short name). Count it."""

    sender: int
    reason: str


Effect = (
    Persist
    | Send
    | Respond
    | Refuse
    | Committed
    | SyncArchive
    | StableCheckpoint
    | EpochEnded
    | NeedState
    | Evidence
    | GaveUp
    | ClocksDiffer
    | Misbehaved
    | Ignored
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The bounds of one replica. All members of a committee use the same first five."""

    checkpoint_interval: int = CHECKPOINT_INTERVAL
    window: int = 256
    request_bytes_max: int = 66 * 1024
    batch_requests_max: int = 512
    batch_bytes_max: int = 1 << 20
    batch_delay_ms: int = 5
    pipeline_slots_max: int = 4
    pending_requests_max: int = 8192
    pending_per_client_max: int = 64
    future_messages_max: int = 256
    future_bytes_max: int = 8 << 20
    clock_skew_ms_max: int = 30_000
    clock_ahead_ms_max: int = 2_000
    view_timeout_ms: int = 2_000
    view_timeout_ms_max: int = 32_000
    pace_window_ms: int = 1_000
    pace_strikes_max: int = 3
    pace_floor_ms: int = 500
    pace_wait_factor: int = 4
    pace_rate_percent: int = 50
    unfair_ms: int = 1_000
    unfair_batches_max: int = 8
    recovery_ms: int = 1_800_000
    status_ms: int = 250
    catch_up_ms: int = 500
    resend_slots_max: int = 16
    tick_ms: int = 50
