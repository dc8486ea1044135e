"""A federation's whole past, made in memory: real keys, signatures, secret shares, openings and models, no process.

`Story(...)` plays a task; `evidence()` is what an auditor would gather. Tests alter one thing and look who is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from koinon.audit import Evidence, ReplicaLog
from koinon.audit.chain import ChainFacts
from koinon.audit.evidence import BlobCopy
from koinon.config import ContractAddresses, FederationFile, ReplicaEntry
from koinon.encoding import digest, encode, keccak, to_hex
from koinon.learning.parameters import Parameters, from_arrays
from koinon.opening import ClosedRound, make_opening, next_model, open_round
from koinon.privacy import Held, Protected, mode
from koinon.records import (
    Anchored,
    BlockRecord,
    BudgetEscrowed,
    CommitteeMember,
    CommitteeRecord,
    RoundCommitted,
    RoundRecord,
    TaskCreated,
    TaskRecord,
)
from koinon.rounds.law import Federation
from koinon.rounds.operations import CompleteRound, CreateTask, Enrol, OpenRound, Operation, SubmitUpdate, TaskSpec
from koinon.rounds.rules import decode_outcome
from koinon.signing import Signer, authenticate, seal
from koinon.wire import (
    Admission,
    Batch,
    CommittedBatch,
    Contribution,
    Phase,
    Receipt,
    Request,
    Role,
    SignedReceipt,
    Update,
    Vote,
)

BUDGET = 1000
REWARD = 5


def key(name: str) -> Signer:
    return Signer(keccak(name.encode()))


REPLICAS = [key(f"replica {index}") for index in range(4)]
REGISTRAR, AGGREGATOR = key("registrar"), key("aggregator")
NODES = sorted((key(f"node {index}") for index in range(3)), key=lambda node: node.address)


def address(byte: int) -> str:
    return to_hex(bytes([byte]) * 20)


FEDERATION = FederationFile(
    version=1,
    name="story",
    chain_id=4242,
    genesis_hash=to_hex(keccak(b"genesis")),
    rpc="http://127.0.0.1:1",
    contracts=ContractAddresses(
        token=address(1), registry=address(2), committee=address(3), ledger=address(4), rewards=address(5)
    ),
    registrar=to_hex(REGISTRAR.address),
    epoch=0,
    replicas=tuple(
        ReplicaEntry(address=to_hex(each.address), sealing_key=to_hex(keccak(b"x" + each.address)), url="http://x")
        for each in REPLICAS
    ),
)


@dataclass
class Story:
    """One task in mode `mode_name` with `rounds` certified rounds of three nodes."""

    rounds: int = 2
    mode_name: str = "shares"
    entries: list[CommittedBatch] = field(default_factory=list)
    blobs: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.law = Federation(FEDERATION.genesis)
        self.numbers: Iterator[int] = iter(range(1, 10_000))
        self.time_ms = 1_000_000
        self.model = from_arrays([np.zeros((2, 5), dtype=np.float32)])
        self.put(self.model.blob())
        self.anchored: list[Anchored] = []
        for node in NODES:
            self.enrol(node, Role.NODE)
        self.enrol(AGGREGATOR, Role.AGGREGATOR)
        self.spec = TaskSpec(
            name="digits", app="digits", mode=self.mode_name, strategy="fedavg", rounds=self.rounds,
            initial_model=digest(self.model), dimension=10, reward=REWARD,
        )  # fmt: skip
        self.task = self.order(NODES[0], CreateTask(spec=self.spec))
        for number in range(1, self.rounds + 1):
            self.play(number)

    def put(self, content: bytes) -> bytes:
        self.blobs[keccak(content)] = content
        return keccak(content)

    def order(self, sender: Signer, operation: Operation) -> bytes:
        """Order and execute one operation; what it created."""
        self.time_ms += 10
        sealed = seal(sender, FEDERATION.domain, Request(number=next(self.numbers), operation=encode(operation)))
        self.append(Batch(time_ms=self.time_ms, requests=(sealed,)))
        return decode_outcome(self.law.execute(sender.address, encode(operation), self.time_ms)).subject

    def append(self, batch: Batch) -> None:
        self.entries.append(certified(batch, len(self.entries) + 1))

    def enrol(self, member: Signer, role: Role) -> None:
        most = 100 if role is Role.NODE else 0
        admission = Admission(
            member=member.address, roles=int(role), examples_max=most, sealing_key=bytes(32), serial=1
        )
        self.order(member, Enrol(admission=admission, signature=REGISTRAR.sign(FEDERATION.domain, admission)))

    def play(self, number: int) -> None:
        cohort = tuple(node.address for node in NODES)
        self.order(AGGREGATOR, OpenRound(task=self.task, round=number, parent_model=digest(self.model), cohort=cohort))
        round_ = self.law.state.tasks[self.task].rounds[-1]
        closed = ClosedRound(FEDERATION, self.task, self.spec, round_)
        protected = {node.address: self.protect(closed, node, index) for index, node in enumerate(NODES)}
        for node in NODES:
            self.submit(closed, node, protected[node.address])
        self.complete(closed, protected)

    def protect(self, closed: ClosedRound, node: Signer, index: int) -> Protected:
        values = np.arange(10, dtype=np.int64) * (index + 1) - 7 * closed.round.number
        stream = iter(range(10_000))

        def entropy(size: int) -> bytes:
            seed = f"{node.address.hex()} {closed.round.number} {next(stream)}".encode()
            return hashlib.shake_256(seed).digest(size)

        return mode(self.mode_name).protect(closed.setting(claims={node.address: 40}), node.address, values, entropy)

    def submit(self, closed: ClosedRound, node: Signer, protected: Protected) -> None:
        update = self.put(
            encode(
                Update(
                    task=self.task,
                    round=closed.round.number,
                    node=node.address,
                    mode=self.mode_name,
                    examples=40,
                    public=protected.public,
                )
            )
        )
        receipt = Receipt(task=self.task, round=closed.round.number, node=node.address, update=update, examples=40)
        self.order(
            node,
            SubmitUpdate(
                task=self.task,
                round=closed.round.number,
                parent_model=digest(self.model),
                update=update,
                examples=40,
                loss=0,
                receipts=signatures(receipt),
            ),
        )

    def complete(self, closed: ClosedRound, protected: dict[bytes, Protected]) -> None:
        contributions, components = {}, {}
        for index, replica in enumerate(REPLICAS):
            held = [Held(node, each.public, each.pieces[index]) for node, each in protected.items()]
            sums = mode(self.mode_name).combine(closed.setting(), index, held)
            components |= {self.put(data): data for data in sums.values()}
            said = Contribution(
                task=self.task,
                round=closed.round.number,
                updates_root=closed.round.updates_root,
                replica=index,
                components=tuple((name, keccak(data)) for name, data in sorted(sums.items())),
            )
            contributions[index] = authenticate(Contribution, seal(replica, FEDERATION.domain, said), FEDERATION.domain)
        publics = {node: each.public for node, each in protected.items()}
        opened = open_round(closed, publics, contributions, components)
        opening = self.put(encode(make_opening(closed, contributions, opened.witness)))
        self.model = next_model(self.spec, closed.round, self.model, opened.values)
        self.finish(closed, self.model, opening)

    def finish(self, closed: ClosedRound, model: Parameters, opening: bytes) -> None:
        number = closed.round.number
        certificate = self.law.draft_certificate(self.task, number, model=self.put(model.blob()), opening=opening)
        signed = signatures(certificate)
        self.order(AGGREGATOR, CompleteRound(certificate=certificate, signatures=signed))
        self.anchored.append(
            Anchored(
                certificate=certificate,
                members=FEDERATION.replica_addresses,
                signatures=tuple((each.replica, each.signature) for each in signed),
                transaction=keccak(b"transaction" + bytes([number])),
                block=10 + number,
            )
        )

    # --- what an auditor gathers -----------------------------------------------------------------------------

    def chain(self) -> ChainFacts:
        contracts = FEDERATION.network.contracts
        place = {"block_hash": bytes(32), "log_index": 0}
        created = {"block": 5, "transaction": keccak(b"created"), **place}
        members = tuple(CommitteeMember(each.address, keccak(b"x" + each.address), "http://x") for each in REPLICAS)
        last = self.anchored[-1].certificate
        return ChainFacts(
            head=BlockRecord(20, keccak(b"head"), keccak(b"parent"), 1),
            committees=(CommitteeRecord(0, members, 3),),
            tasks=(
                TaskRecord(
                    self.task, NODES[0].address, digest(self.spec), last.model, BUDGET, last.rewards_total,
                    last.round, last.round, 0, False,
                ),
            ),
            rounds=tuple(round_record(each) for each in self.anchored),
            anchored=tuple(self.anchored),
            escrow=BUDGET,
            events=(
                TaskCreated(
                    contract=contracts.ledger, task=self.task, submitter=NODES[0].address, spec=digest(self.spec),
                    initial_model=self.spec.initial_model, budget=BUDGET, **created,
                ),
                BudgetEscrowed(
                    contract=contracts.rewards, task=self.task, payer=NODES[0].address, amount=BUDGET, **created
                ),
                *(committed(contracts.ledger, each) for each in self.anchored),
            ),
        )  # fmt: skip

    def evidence(self) -> Evidence:
        logs = tuple(ReplicaLog(index, tuple(self.entries)) for index in range(len(REPLICAS)))
        copies = {name: BlobCopy(content) for name, content in self.blobs.items()}
        return Evidence(FEDERATION, logs, self.chain(), copies)


def signatures(message: Receipt | object, who: tuple[int, ...] = (0, 1, 2)) -> tuple[SignedReceipt, ...]:
    return tuple(
        SignedReceipt(replica=index, signature=REPLICAS[index].sign(FEDERATION.domain, message))  # type: ignore[arg-type]
        for index in who
    )


def certified(batch: Batch, sequence: int, *, view: int = 0, who: tuple[int, ...] = (0, 1, 3)) -> CommittedBatch:
    vote = Vote(epoch=0, phase=Phase.COMMIT, view=view, sequence=sequence, digest=digest(batch))
    signed = tuple(REPLICAS[index].sign(FEDERATION.domain, vote) for index in who)
    return CommittedBatch(epoch=0, view=view, sequence=sequence, batch=batch, signatures=signed)


def round_record(anchored: Anchored) -> RoundRecord:
    said = anchored.certificate
    return RoundRecord(
        task=said.task, round=said.round, aggregator=AGGREGATOR.address, epoch=0, deadline_ms=1, committed=True,
        model=said.model, updates_root=said.updates_root, rewards_root=said.rewards_root,
        certificate=said.struct_hash(),
    )  # fmt: skip


def committed(ledger: bytes, anchored: Anchored) -> RoundCommitted:
    said = anchored.certificate
    return RoundCommitted(
        contract=ledger, block=anchored.block, block_hash=bytes(32), transaction=anchored.transaction, log_index=0,
        task=said.task, round=said.round, model=said.model, certificate=said, signers=0b0111,
    )  # fmt: skip
