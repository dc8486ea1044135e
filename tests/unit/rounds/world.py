"""A federation in memory: real keys and signatures, the law, no processes."""

from __future__ import annotations

from koinon.encoding import Message, encode, keccak
from koinon.rounds.law import Federation
from koinon.rounds.operations import (
    CloseRound,
    CompleteRound,
    CreateTask,
    Enrol,
    OpenRound,
    Operation,
    Outcome,
    ReportEvaluation,
    SubmitUpdate,
    TaskSpec,
)
from koinon.rounds.rules import decode_outcome
from koinon.rounds.state import Genesis, Task
from koinon.signing import Signer
from koinon.wire import Admission, Receipt, Role, RoundCertificate, SignedReceipt

MODEL = keccak(b"initial model")


def key(name: str) -> Signer:
    return Signer(keccak(name.encode()))


REPLICAS = [key(f"replica {index}") for index in range(4)]
REGISTRAR, AGGREGATOR, STRANGER = key("registrar"), key("aggregator"), key("stranger")
NODES = sorted((key(f"node {index}") for index in range(4)), key=lambda node: node.address)


class World:
    def __init__(self, *, rounds: int = 2, reward: int = 5, mode: str = "shares") -> None:
        self.law = Federation(
            Genesis(
                chain_id=31337,
                ledger=b"\x22" * 20,
                registrar=REGISTRAR.address,
                epoch=0,
                replicas=tuple(replica.address for replica in REPLICAS),
            )
        )
        self.now = 1_000_000
        for node in NODES:
            self.enrol(node, Role.NODE)
        self.enrol(AGGREGATOR, Role.AGGREGATOR)
        self.spec = TaskSpec(
            name="digits", app="digits", mode=mode, strategy="fedavg", rounds=rounds,
            initial_model=MODEL, dimension=10, reward=reward, round_ms=10_000,
        )  # fmt: skip
        self.task = self.do(NODES[0], CreateTask(spec=self.spec)).subject

    def do(self, sender: Signer, operation: Operation) -> Outcome:
        """Execute as the committee would: from bytes to bytes. Raises Rejected."""
        return decode_outcome(self.law.execute(sender.address, encode(operation), self.now))

    @property
    def record(self) -> Task:
        return self.law.state.tasks[self.task]

    def admission(self, member: Signer, role: Role, *, serial: int = 1, by: Signer = REGISTRAR) -> Enrol:
        admission = Admission(
            member=member.address, roles=int(role), examples_max=100, sealing_key=bytes(32), serial=serial
        )
        return Enrol(admission=admission, signature=by.sign(self.law.domain, admission))

    def enrol(self, member: Signer, role: Role, *, serial: int = 1) -> None:
        self.do(member, self.admission(member, role, serial=serial))

    def open(self, number: int = 1, *, cohort: list[Signer] | None = None) -> None:
        invited = tuple(sorted(node.address for node in (cohort or NODES)))
        model = self.record.model
        self.do(AGGREGATOR, OpenRound(task=self.task, round=number, parent_model=model, cohort=invited))

    def signatures(self, message: Message, who: tuple[int, ...] = (0, 1, 2)) -> tuple[SignedReceipt, ...]:
        return tuple(
            SignedReceipt(replica=index, signature=REPLICAS[index].sign(self.law.domain, message)) for index in who
        )

    def update(self, node: Signer, number: int = 1, *, examples: int = 40, content: bytes = b"") -> SubmitUpdate:
        update = keccak(node.address + content)
        receipt = Receipt(task=self.task, round=number, node=node.address, update=update, examples=examples)
        return SubmitUpdate(
            task=self.task, round=number, parent_model=self.record.model, update=update, examples=examples,
            loss=0, receipts=self.signatures(receipt),
        )  # fmt: skip

    def certificate(self, number: int = 1) -> RoundCertificate:
        model = keccak(b"model after" + bytes([number]))
        return self.law.draft_certificate(self.task, number, model=model, opening=keccak(b"opening"))

    def complete(self, number: int = 1) -> None:
        certificate = self.certificate(number)
        self.do(AGGREGATOR, CompleteRound(certificate=certificate, signatures=self.signatures(certificate)))

    def play_round(self, number: int = 1) -> None:
        self.open(number)
        for node in NODES:
            self.do(node, self.update(node, number))
        self.complete(number)

    def close(self, number: int = 1) -> None:
        self.do(AGGREGATOR, CloseRound(task=self.task, round=number))

    def evaluation(self, number: int = 1, *, accuracy: int = 500_000, examples: int = 10) -> ReportEvaluation:
        return ReportEvaluation(task=self.task, round=number, loss=0, accuracy=accuracy, examples=examples)
