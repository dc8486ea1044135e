"""The ordered log, replayed by somebody who trusts no replica.

Each entry needs 2f+1 signatures of `Vote(COMMIT, view, sequence, digest of the batch)` by distinct members (Castro &
Liskov 1999, section 4.2), sequences run from 1 without a gap, each request is signed by its client and takes effect
once. The replay is a fresh `koinon.rounds.law.Federation`, so its records are what the law makes of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from koinon.config import FederationFile
from koinon.encoding import digest
from koinon.errors import AuditFailure, BadSignature, KoinonError, Malformed, RemoteError, WrongEpoch
from koinon.rounds.law import Federation
from koinon.rounds.operations import Operation, Outcome, decode_operation
from koinon.rounds.rules import decode_outcome
from koinon.signing import authenticate, recover, signing_digest
from koinon.wire import CommittedBatch, Phase, Request, Vote

from .evidence import ReplicaLog

REQUEST_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Executed:
    """An operation that took effect, and where it lies in the log."""

    sequence: int
    sender: bytes
    operation: Operation
    outcome: Outcome


@dataclass
class History:
    """The merged log and its replay. `findings` are the lies on the way, by check."""

    entries: list[CommittedBatch] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    refused: int = 0
    federation: Federation | None = None
    certificates: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def require_entry(federation: FederationFile, entry: CommittedBatch) -> None:
    """BadSignature unless a quorum of distinct members committed exactly this batch at this sequence."""
    if entry.epoch != federation.epoch:
        raise WrongEpoch(f"an entry of epoch {entry.epoch} in epoch {federation.epoch}")
    vote = Vote(
        phase=Phase.COMMIT,
        epoch=entry.epoch,
        view=entry.view,
        sequence=entry.sequence,
        digest=digest(entry.batch),
    )
    what = signing_digest(federation.domain, vote)
    members = federation.replica_addresses
    signers: set[bytes] = set()
    for signature in entry.signatures:
        signer = recover(what, signature)
        if signer not in members:
            raise BadSignature(
                f"a commit signature over batch {digest(entry.batch).hex()[:16]} of view {entry.view} is no member's"
            )
        signers.add(signer)
    if len(signers) < federation.quorum:
        raise BadSignature(f"{len(signers)} members signed, {federation.quorum} are needed")


def replay(federation: FederationFile, logs: Sequence[ReplicaLog]) -> History:
    """Merge the replicas' logs (a certified entry of any of them counts) and execute them under the law."""
    history = History()
    genuine = [_genuine(federation, log, history) for log in logs]
    history.entries = _merge(federation, genuine, history)
    _execute(federation, history)
    return history


def _genuine(federation: FederationFile, log: ReplicaLog, history: History) -> dict[int, CommittedBatch]:
    """The replica's entries that are certified, by sequence; the others become findings."""
    kept: dict[int, CommittedBatch] = {}
    if log.problem:
        history.certificates.append(f"replica {log.replica}: {log.problem}")
    expected = log.entries[0].sequence if log.entries else 1
    for entry in log.entries:
        where = f"replica {log.replica}, log entry {entry.sequence}"
        if entry.sequence != expected:
            history.certificates.append(f"{where}: stands where entry {expected} is due")
        expected = entry.sequence + 1
        try:
            require_entry(federation, entry)
            kept.setdefault(entry.sequence, entry)
        except KoinonError as error:
            history.certificates.append(f"{where}: {error.message}")
    return kept


def _merge(
    federation: FederationFile, genuine: Sequence[dict[int, CommittedBatch]], history: History
) -> list[CommittedBatch]:
    """The longest certified log from 1; two certified batches at one sequence are a finding."""
    merged: list[CommittedBatch] = []
    while True:
        sequence = len(merged) + 1
        here = {number: kept[sequence] for number, kept in enumerate(genuine) if sequence in kept}
        if not here:
            break
        first = next(iter(here.values()))
        for number, entry in here.items():
            if digest(entry.batch) != digest(first.batch):
                history.disagreements.append(f"replica {number} has another certified batch at log entry {sequence}")
        merged.append(first)
    beyond = [sequence for kept in genuine for sequence in kept if sequence > len(merged)]
    if beyond:
        history.certificates.append(
            f"log entry {len(merged) + 1} is kept by nobody in certified form, but entry {min(beyond)} is"
        )
    return merged


def _execute(file: FederationFile, history: History) -> None:
    """Execute as replicas do (pbft/execution.py): exactly once a client number, at a time that never runs back."""
    federation = history.federation = Federation(file.genesis)
    numbers: dict[bytes, int] = {}
    time_ms = 0
    for entry in history.entries:
        time_ms = max(time_ms, entry.batch.time_ms)
        for position, sealed in enumerate(entry.batch.requests):
            try:
                said = authenticate(Request, sealed, file.domain, bytes_max=REQUEST_BYTES_MAX)
            except RemoteError as error:
                history.requests.append(f"log entry {entry.sequence}, request {position}: {error.message}")
                continue
            sender, request = said.sender, said.message
            if request.number <= numbers.get(sender, -1):
                continue
            try:
                federation.admits(sender, request.operation)
            except KoinonError:
                continue
            numbers[sender] = request.number
            _note(
                history,
                entry.sequence,
                sender,
                request.operation,
                federation.execute(sender, request.operation, time_ms),
            )


def _note(history: History, sequence: int, sender: bytes, operation: bytes, result: bytes) -> None:
    try:
        outcome = decode_outcome(result)
        history.executed.append(Executed(sequence, sender, decode_operation(operation), outcome))
    except KoinonError:
        history.refused += 1


def require_none(findings: Sequence[str]) -> None:
    """AuditFailure naming the first finding and how many more there are."""
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise AuditFailure(findings[0] + more)


def law_of(history: History) -> Federation:
    """The replayed state machine; Malformed before `replay` ran."""
    if history.federation is None:
        raise Malformed("the log was not replayed")
    return history.federation
