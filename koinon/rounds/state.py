"""What the law remembers. Mutable, pure data. Maps keep the order in which the log filled them, the same for all
replicas, so that equal histories have equal bytes.

Life of a task:   active → completed | stopped | failed
Life of a round:  training → closed → certified;  training or closed → aborted;
                  training or closed → aborted when the committee that its pieces are sealed to hands over;
                  in mode `masked`, announcing → training or aborted comes first
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from koinon.encoding import U8, U32, U63, Address, Digest, Signature
from koinon.epochs import Seat
from koinon.merkle import reward_leaf, root, update_leaf
from koinon.privacy.masking import threshold
from koinon.wire import Admission, MaskAnnouncement, MaskReveal, RoundCertificate, SignedReceipt

from .operations import TaskSpec

OPEN_PHASES = ("announcing", "training", "closed")
"""The phases of a round that is neither certified nor aborted."""


ROUNDS_KEPT = 64
"""The last rounds of a task that the state remembers; the ordered log keeps all of them."""
OPENING_ROUNDS = 2
OPENING_MS_MIN = 300_000
"""A closed round that nobody can open ends after twice its time, and at least this long."""


class Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of the mutable state."""


class Genesis(msgspec.Struct, frozen=True, array_like=True):
    """What all replicas agree on before the first operation.

    `chain_id` and `ledger` make the EIP-712 domain; `replicas` are the addresses of the first committee, that of
    `epoch`, by index. Later committees are in the state.
    """

    chain_id: int
    ledger: Address
    registrar: Address
    epoch: int
    replicas: tuple[Address, ...]


class Member(Record):
    """`signature` is the registrar's, of `admission`: whoever is shown a member need not believe who shows it."""

    roles: U8
    examples_max: U32
    sealing_key: bytes
    serial: U63
    active: bool
    joined_ms: int
    signature: bytes = b""

    def admission(self, member: Address) -> Admission:
        """What `member` joined with, or was admitted with last."""
        return Admission(
            member=member,
            roles=self.roles,
            examples_max=self.examples_max,
            sealing_key=self.sealing_key,
            serial=self.serial,
        )


def nobody(time_ms: int) -> Member:
    """A party that was never admitted: what a revocation that comes first ends."""
    return Member(roles=0, examples_max=0, sealing_key=b"", serial=0, active=False, joined_ms=time_ms)


class Submission(Record):
    update: Digest
    examples: U32
    loss: int
    time_ms: int
    holders: tuple[int, ...]


class Evaluation(Record):
    """Sums over the nodes that measured this round's model; loss and accuracy are Σ millionths · examples."""

    reporters: list[Address] = msgspec.field(default_factory=list)
    examples: int = 0
    loss_sum: int = 0
    accuracy_sum: int = 0


class MaskBoard(Record):
    """What the nodes of a round of mode `masked` announced, signed (see MaskNotice) and revealed, by address; `cohort`
    is the `invited_digest` of those who were invited, `fixed` the `announced_digest` once the round goes on."""

    cohort: Digest = bytes(32)
    fixed: Digest = bytes(32)
    announced: dict[Address, MaskAnnouncement] = msgspec.field(default_factory=dict)
    signatures: dict[Address, Signature] = msgspec.field(default_factory=dict)
    revealed: dict[Address, MaskReveal] = msgspec.field(default_factory=dict)


class Round(Record):
    """`previous` is the model before the parent, from which the task's last step is known (zeros in a first round);
    `epoch` is that of the committee which opened it: to its keys the pieces are sealed. In mode `masked`, `confirmed`
    are the accepted nodes' signatures of the accepted set, until the round is over."""

    number: U32
    phase: str
    parent_model: Digest
    cohort: tuple[Address, ...]
    examples_cap: Annotated[int, msgspec.Meta(ge=1, lt=2**32)]
    opened_ms: int
    deadline_ms: int
    epoch: U32 = 0
    previous: Digest = bytes(32)
    submissions: dict[Address, Submission] = msgspec.field(default_factory=dict)
    closed_ms: int = 0
    updates_root: Digest = bytes(32)
    certified_ms: int = 0
    certificate: RoundCertificate | None = None
    signatures: tuple[SignedReceipt, ...] = ()
    evaluation: Evaluation = msgspec.field(default_factory=Evaluation)
    announced: tuple[Address, ...] = ()
    confirmed: dict[Address, Signature] = msgspec.field(default_factory=dict)
    revealed: tuple[Address, ...] = ()

    def rebuilt_updates_root(self, task: Digest) -> bytes:
        """The Merkle root over the accepted submissions, by ascending node address."""
        return root(
            [
                update_leaf(task, self.number, node, kept.update, kept.examples)
                for node, kept in sorted(self.submissions.items())
            ]
        )

    @property
    def agreed(self) -> bool:
        """Mode `masked`: whether so many confirmed the accepted set that the masks of it may be revealed."""
        return len(self.confirmed) >= threshold(len(self.cohort))

    def accuracy(self) -> float | None:
        """The nodes' weighted accuracy in [0, 1], or None before the first report."""
        seen = self.evaluation
        return seen.accuracy_sum / seen.examples / 1e6 if seen.examples else None


class Task(Record):
    """`barred`: nodes that handed in a provably false update, and in which round; they are not invited again.
    `opened`: of how many rounds the sum of so many updates was fixed, and may have been opened."""

    spec: TaskSpec
    submitter: Address
    created_ms: int
    status: str
    model: Digest
    version: int = 0
    reason: str = ""
    rounds: list[Round] = msgspec.field(default_factory=list)
    certified: int = 0
    aborted_in_a_row: int = 0
    rewards: dict[Address, int] = msgspec.field(default_factory=dict)
    barred: dict[Address, int] = msgspec.field(default_factory=dict)
    opened: dict[int, int] = msgspec.field(default_factory=dict)

    def round(self, number: int) -> Round | None:
        return next((each for each in reversed(self.rounds) if each.number == number), None)

    def current(self) -> Round | None:
        """The newest round, whatever its phase."""
        return self.rounds[-1] if self.rounds else None

    @property
    def stage(self) -> str:
        """Where the task stands, without who did his part so far: changes a few times a round, however many nodes take
        part, and whenever all of them may have something to do."""
        last = self.current()
        if last is None:
            return self.status
        return f"{self.status}.{last.number}.{last.phase}{'.agreed' if last.agreed else ''}"

    def remembers(self, number: int) -> bool:
        """Whether a round is recent enough to be kept in the state."""
        last = self.current()
        return last is not None and number > last.number - ROUNDS_KEPT

    def forget_old_rounds(self) -> None:
        self.rounds = [round_ for round_ in self.rounds if self.remembers(round_.number)]

    def opening_deadline_ms(self, round_: Round) -> int:
        """Until then a closed round may be opened and certified; afterwards any member may end it."""
        return round_.closed_ms + max(OPENING_ROUNDS * self.spec.round_ms, OPENING_MS_MIN)

    def rewards_after(self, round_: Round) -> dict[Address, int]:
        """Cumulative rewards once `round_` is certified: a fixed amount for each accepted update."""
        amounts = dict(self.rewards)
        for node in round_.submissions:
            amounts[node] = amounts.get(node, 0) + self.spec.reward
        return amounts


def rewards_root(task: Digest, amounts: dict[Address, int]) -> bytes:
    """The Merkle root over cumulative rewards, by ascending address."""
    return root([reward_leaf(task, account, amount) for account, amount in sorted(amounts.items())])


class State(Record):
    """`seats` are the committee of `epoch`, both unset before the first change (the Genesis rules until then);
    `next_seats` are those of the next epoch while a change is pending. `boards` are of the current rounds of tasks in
    mode `masked`."""

    time_ms: int = 0
    members: dict[Address, Member] = msgspec.field(default_factory=dict)
    tasks: dict[Digest, Task] = msgspec.field(default_factory=dict)
    refusals: dict[str, int] = msgspec.field(default_factory=dict)
    epoch: int = 0
    seats: tuple[Seat, ...] = ()
    next_seats: tuple[Seat, ...] = ()
    boards: dict[Digest, MaskBoard] = msgspec.field(default_factory=dict)
