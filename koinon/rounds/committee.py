"""The law about the committee itself: when a change of its seats may be taken up, and what a handover does.

Rules. Only the registrar changes the committee, one change at a time, for the next epoch. The members that stay (the
same address, at whatever index) must be a quorum of the new committee: a handover then never waits for newcomers, so
a committee grows one by one (4, 5, 6, 7) and replaces or rotates as many at once as it tolerates faults. Of a
committee of fewer than four, which tolerates none, nobody may leave while it grows.
"""

from __future__ import annotations

from collections.abc import Sequence

from koinon.encoding import ZERO_ADDRESS, ZERO_DIGEST, Message
from koinon.epochs import SEATS_MAX, Seat, epoch_change, faulty_max, quorum
from koinon.errors import BadSignature
from koinon.privacy.masking import usable_key
from koinon.signing import Domain, recover, signing_digest
from koinon.wire import SignedReceipt

from .operations import ChangeCommittee, Outcome
from .rules import refuse
from .state import OPEN_PHASES, Genesis, State, Task

FAULTS_TOLERATED_FROM = 4


def require_change_fits(operation: ChangeCommittee, epoch: int, members: Sequence[bytes], state: State) -> None:
    """Rejected unless `operation` may follow the committee `members` of `epoch`."""
    if operation.epoch != epoch + 1:
        refuse("committee-change", f"the next epoch is {epoch + 1}")
    if state.next_seats:
        refuse("committee-change", f"the committee of epoch {epoch + 1} is decided already")
    seats = operation.seats
    addresses = {seat.address for seat in seats}
    if not 1 <= len(seats) <= SEATS_MAX or len(addresses) != len(seats) or ZERO_ADDRESS in addresses:
        refuse("committee-change", f"a committee has 1..{SEATS_MAX} distinct members")
    if len({seat.url for seat in seats}) != len(seats) or len({seat.sealing_key for seat in seats}) != len(seats):
        refuse("committee-change", "two members share a url or a sealing key")
    if not all(usable_key(seat.sealing_key) for seat in seats):
        refuse("committee-change", "a sealing key that nobody can seal to")
    if seats == state.seats:
        refuse("committee-change", "this is the present committee")
    _require_enough_stay(members, seats)


def _require_enough_stay(members: Sequence[bytes], seats: Sequence[Seat]) -> None:
    staying = len({seat.address for seat in seats} & set(members))
    needed = quorum(len(seats))
    if len(members) < FAULTS_TOLERATED_FROM:
        needed = min(needed, len(members))
    if staying < needed:
        refuse("committee-change", f"{staying} members stay, where the new committee needs {needed} that do")


def abort_open_round(task: Task, time_ms: int) -> None:
    """A round whose pieces were sealed to the committee that leaves: nobody is to blame, the next one is opened."""
    last = task.current()
    if task.status == "active" and last is not None and last.phase in OPEN_PHASES:
        last.phase, last.closed_ms = "aborted", time_ms
        task.version += 1


class CommitteeLaw:
    """The part of the law that is about the committee: who it is, whose signatures count, who follows it."""

    def __init__(self, genesis: Genesis, state: State | None = None) -> None:
        self.genesis = genesis
        self.domain = Domain(genesis.chain_id, genesis.ledger)
        self.state = state or State()

    @property
    def quorum(self) -> int:
        return quorum(len(self.committee))

    @property
    def epoch(self) -> int:
        """The committee's present epoch."""
        return self.state.epoch if self.state.seats else self.genesis.epoch

    @property
    def committee(self) -> tuple[bytes, ...]:
        """The present replicas' addresses by index."""
        return tuple(seat.address for seat in self.state.seats) or self.genesis.replicas

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The present committee in full; () until the first change (then federation.json says it)."""
        return self.state.seats

    def pending_change(self) -> bool:
        """Whether the committee hands over at the next checkpoint."""
        return bool(self.state.next_seats)

    def hand_over(self) -> bytes:
        """At a checkpoint: if a change is pending, the next epoch begins. The struct hash that names its committee,
        or 32 zero bytes."""
        if not self.state.next_seats:
            return ZERO_DIGEST
        self.state.epoch, self.state.seats, self.state.next_seats = self.epoch + 1, self.state.next_seats, ()
        for task in self.state.tasks.values():
            abort_open_round(task, self.state.time_ms)
        return epoch_change(self.state.epoch, self.state.seats).struct_hash()

    def _change_committee(self, sender: bytes, operation: ChangeCommittee) -> Outcome:
        if sender != self.genesis.registrar:
            refuse("role", f"0x{sender.hex()} is not the registrar")
        require_change_fits(operation, self.epoch, self.committee, self.state)
        self.state.next_seats = operation.seats
        return Outcome()

    def _require_quorum(self, rule: str, message: Message, signatures: tuple[SignedReceipt, ...]) -> None:
        """Rejected unless 2f+1 replicas (ascending) signed `message`."""
        self._require_signatures(rule, message, signatures, self.quorum)

    def _require_one_honest(self, rule: str, message: Message, signatures: tuple[SignedReceipt, ...]) -> None:
        """Rejected unless f+1 replicas (ascending) signed `message`: one of them is honest."""
        self._require_signatures(rule, message, signatures, faulty_max(len(self.committee)) + 1)

    def _require_signatures(
        self, rule: str, message: Message, signatures: tuple[SignedReceipt, ...], needed: int
    ) -> None:
        members = self.committee
        indices = [each.replica for each in signatures]
        if indices != sorted(set(indices)) or not needed <= len(indices) <= len(members):
            refuse(rule, f"{len(set(indices))} signatures in ascending order, where {needed} are needed")
        what = signing_digest(self.domain, message)
        for each in signatures:
            try:
                if recover(what, each.signature) != members[each.replica]:
                    refuse(rule, f"the signature of replica {each.replica} is somebody else's")
            except (BadSignature, IndexError):
                refuse(rule, f"the signature of replica {each.replica} is not one")
