"""The ordered log, replayed by somebody who trusts no replica.

Each entry needs 2f+1 signatures of `Vote(COMMIT, epoch, view, sequence, digest of the batch)` by distinct members
(Castro & Liskov 1999, section 4.2), sequences run from 1 without a gap, each request is signed by its client and takes
effect once. The replay is a fresh `koinon.rounds.law.Federation`, so its records are what the law makes of the log; so
is the succession of committees, each of which certifies the entries of its own epoch and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from koinon.config import FederationFile
from koinon.encoding import ZERO_DIGEST, digest
from koinon.errors import AuditFailure, BadSignature, KoinonError, Malformed, RemoteError, WrongEpoch
from koinon.rounds.law import Federation
from koinon.rounds.operations import Operation, Outcome, decode_operation
from koinon.rounds.rules import decode_outcome
from koinon.signing import authenticate, recover, signing_digest
from koinon.wire import CHECKPOINT_INTERVAL, CommittedBatch, Phase, Request, Vote

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
    """The merged log and its replay. `committees` has the federation as it stood in each epoch of the log; the last
    three are the lies on the way, by check."""

    entries: list[CommittedBatch] = field(default_factory=list)
    executed: list[Executed] = field(default_factory=list)
    refused: int = 0
    federation: Federation | None = None
    committees: dict[int, FederationFile] = field(default_factory=dict)
    certificates: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)


def require_entry(federation: FederationFile, entry: CommittedBatch) -> None:
    """BadSignature unless a quorum of the committee that `federation` names committed this batch at this sequence;
    WrongEpoch when it is an entry of another epoch, whoever signed it."""
    if entry.epoch != federation.epoch:
        raise WrongEpoch(f"an entry of epoch {entry.epoch}, where the committee of epoch {federation.epoch} orders")
    named = digest(entry.batch)
    vote = Vote(phase=Phase.COMMIT, epoch=entry.epoch, view=entry.view, sequence=entry.sequence, digest=named)
    what = signing_digest(federation.domain, vote)
    members = federation.replica_addresses
    signers: set[bytes] = set()
    for signature in entry.signatures:
        signer = recover(what, signature)
        if signer not in members:
            raise BadSignature(f"a commit signature over batch {named.hex()[:16]} of view {entry.view} is no member's")
        signers.add(signer)
    if len(signers) < federation.quorum:
        raise BadSignature(f"{len(signers)} members signed, {federation.quorum} are needed")


def replay(
    federation: FederationFile, logs: Sequence[ReplicaLog], *, checkpoint_interval: int = CHECKPOINT_INTERVAL
) -> History:
    """Merge the replicas' logs (a certified entry of any of them counts) and execute them under the law.

    `federation` names the first committee; the log itself says which one follows, and from where on: the operations
    ChangeCommittee, each taken up at the next multiple of `checkpoint_interval`.
    """
    return _Replay(federation, logs, checkpoint_interval).run()


class _Replay:
    """One pass over the log: an entry is judged by the committee that the entries before it lead to."""

    def __init__(self, federation: FederationFile, logs: Sequence[ReplicaLog], checkpoint_interval: int) -> None:
        self._present = federation
        self._interval = checkpoint_interval
        self._law = Federation(federation.genesis)
        self._law.keeps_all_rounds = True
        self._history = History(federation=self._law, committees={federation.epoch: federation})
        self._logs = [(log.replica, self._in_order(log)) for log in logs]
        self._numbers: dict[bytes, int] = {}
        self._time_ms = 0

    def _in_order(self, log: ReplicaLog) -> dict[int, list[CommittedBatch]]:
        """The log's entries by sequence; gaps and repetitions become findings."""
        found: dict[int, list[CommittedBatch]] = {}
        if log.problem:
            self._history.certificates.append(f"replica {log.replica}: {log.problem}")
        expected = log.entries[0].sequence if log.entries else 1
        for entry in log.entries:
            if entry.sequence != expected:
                self._history.certificates.append(
                    f"replica {log.replica}, log entry {entry.sequence}: stands where entry {expected} is due"
                )
            expected = entry.sequence + 1
            found.setdefault(entry.sequence, []).append(entry)
        return found

    def run(self) -> History:
        history = self._history
        while here := self._genuine(len(history.entries) + 1):
            sequence = len(history.entries) + 1
            first = next(iter(here.values()))
            for number, entry in here.items():
                if digest(entry.batch) != digest(first.batch):
                    history.disagreements.append(
                        f"replica {number} has another certified batch at log entry {sequence}"
                    )
            history.entries.append(first)
            self._execute(first)
            if sequence % self._interval == 0 and self._law.hand_over() != ZERO_DIGEST:
                self._present = self._present.with_committee(self._law.epoch, self._law.seats)
                history.committees[self._law.epoch] = self._present
        self._judge_rest(len(history.entries))
        return history

    def _genuine(self, sequence: int) -> dict[int, CommittedBatch]:
        """By replica, the first entry of this sequence that is certified; the others become findings."""
        kept: dict[int, CommittedBatch] = {}
        for replica, entries in self._logs:
            for entry in entries.pop(sequence, ()):
                try:
                    require_entry(self._present, entry)
                    kept.setdefault(replica, entry)
                except KoinonError as error:
                    self._history.certificates.append(f"replica {replica}, log entry {sequence}: {error.message}")
        return kept

    def _judge_rest(self, last: int) -> None:
        """What nobody's log leads up to: the committee of the last entry is the latest that is known."""
        beyond = sorted({sequence for _, entries in self._logs for sequence in entries})
        certified = [sequence for sequence in beyond if self._genuine(sequence) and sequence > last]
        if certified:
            self._history.certificates.append(
                f"log entry {last + 1} is kept by nobody in certified form, but entry {certified[0]} is"
            )

    def _execute(self, entry: CommittedBatch) -> None:
        """Execute as replicas do (pbft/execution.py): exactly once a client number, at a time that never runs back."""
        self._time_ms = max(self._time_ms, entry.batch.time_ms)
        for position, sealed in enumerate(entry.batch.requests):
            try:
                said = authenticate(Request, sealed, self._present.domain, bytes_max=REQUEST_BYTES_MAX)
            except RemoteError as error:
                self._history.requests.append(f"log entry {entry.sequence}, request {position}: {error.message}")
                continue
            sender, request = said.sender, said.message
            if request.number <= self._numbers.get(sender, -1):
                continue
            try:
                self._law.admits(sender, request.operation)
            except KoinonError:
                continue
            self._numbers[sender] = request.number
            result = self._law.execute(sender, request.operation, self._time_ms)
            _note(self._history, entry.sequence, sender, request.operation, result)


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
