"""What the tests of the ledger client share: keys, a committee, tasks, certificates."""

from __future__ import annotations

from itertools import count
from typing import Any

from koinon.encoding import keccak
from koinon.ledger import CommitteeMember, Ledger
from koinon.signing import Signer, signing_digest
from koinon.wire import (
    Admission,
    Role,
    RoundCertificate,
)

OPERATOR = Signer(keccak(b"operator"))
REPLICAS = [Signer(keccak(b"replica %d" % index)) for index in range(4)]
MEMBERS = [
    CommitteeMember(replica.address, bytes([index + 1]) * 32, f"http://127.0.0.1:{7000 + index}")
    for index, replica in enumerate(REPLICAS)
]
INITIAL, SPEC = keccak(b"initial"), keccak(b"spec")

_tasks = count()
serials = count(10)


def admit(ledger: Ledger, member: bytes, roles: Role) -> Admission:
    admission = Admission(member=member, roles=roles, examples_max=600, sealing_key=b"\x05" * 32, serial=next(serials))
    ledger.register(admission, OPERATOR.sign(ledger.domain(), admission))
    return admission


def new_task(ledger: Ledger, budget: int = 0) -> bytes:
    spec = keccak(b"spec %d" % next(_tasks))
    task = keccak(OPERATOR.address.rjust(32, b"\0") + spec)
    ledger.create_task(task, spec, INITIAL, budget)
    return task


def certificate(task: bytes, **changes: Any) -> RoundCertificate:
    values: dict[str, Any] = {
        "task": task,
        "round": 1,
        "epoch": 0,
        "parent_model": INITIAL,
        "model": keccak(b"model 1"),
        "updates_root": keccak(b"updates"),
        "opening": keccak(b"opening"),
        "rewards_root": bytes(32),
        "rewards_total": 0,
        "participants": 3,
    }
    return RoundCertificate(**(values | changes))


def signed(ledger: Ledger, said: RoundCertificate, indices: tuple[int, ...] = (3, 0, 1)) -> list[tuple[int, bytes]]:
    digest = signing_digest(ledger.domain(), said)
    return [(index, REPLICAS[index].sign_digest(digest)) for index in indices]
