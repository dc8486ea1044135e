"""Every type that is signed or hashed keeps its bytes. `python -m tests.unit.test_vectors` rewrites the file.

A change here breaks old logs, certificates and contracts: it needs a reason in docs/adr.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from koinon import epochs, wire
from koinon.encoding import Message, encode, keccak
from koinon.epochs import Handover, Seat, epoch_change
from koinon.learning.parameters import Parameters, Tensor
from koinon.merkle import reward_leaf, update_leaf
from koinon.rounds import operations
from koinon.signing import Domain, Signed, Signer, signing_digest

VECTORS = Path(__file__).parent.parent / "vectors" / "messages.json"
DOMAIN = Domain(31337, b"\x22" * 20)
SIGNER = Signer(b"\x01" * 32)


def _d(name: str) -> bytes:
    return keccak(name.encode())


def _a(name: str) -> bytes:
    return _d(name)[:20]


SIGNATURE = SIGNER.sign_digest(_d("something"))
RECEIPT = wire.SignedReceipt(replica=2, signature=SIGNATURE)
ADMISSION = wire.Admission(member=_a("node"), roles=1, examples_max=500, sealing_key=_d("seal"), serial=3)
REVOCATION = wire.Revocation(member=_a("node"), serial=4)
SIGNED = Signed(payload=b"payload", signature=SIGNATURE)
CERTIFICATE = wire.RoundCertificate(
    task=_d("task"), round=7, epoch=1, parent_model=_d("parent"), model=_d("model"), updates_root=_d("root"),
    opening=_d("opening"), rewards_root=_d("rewards"), rewards_total=35, participants=5,
)  # fmt: skip
SPEC = operations.TaskSpec(
    name="digits", app="digits", mode="shares", strategy="fedavg", rounds=5, initial_model=_d("model"), dimension=10,
    config=(("epochs", "2"), ("learning_rate", "0.1")),
)  # fmt: skip
REPLY = wire.Reply(view=1, client=_a("node"), number=9, result=b"result")
BATCH = wire.Batch(time_ms=1_700_000_000_000, requests=(b"one", b"two"))
SEATS = (
    Seat(address=_a("one"), sealing_key=_d("key one"), url="https://one.example:7000"),
    Seat(address=_a("two"), sealing_key=_d("key two"), url="https://two.example/a-path-that-takes-more-than-one-word"),
)
CHECKPOINT = wire.Checkpoint(epoch=2, sequence=128, state=_d("state"), next=epoch_change(3, SEATS).struct_hash())
ROUND = {"task": _d("task"), "round": 7}
SHARES = wire.SealedShares(seed=_d("seed share"), key=_d("key share"), box=b"b" * 112)
ANNOUNCEMENT = wire.MaskAnnouncement(public_key=_d("mask key"), seed_commitment=_d("mask seed"), shares=(SHARES,))
REVEAL = wire.MaskReveal(shares=(b"s" * 32, b""))
MESSAGES: list[Message] = [
    ADMISSION,
    REVOCATION,
    wire.Request(number=9, operation=b"operation"),
    REPLY,
    wire.Replies(replies=(REPLY,)),
    BATCH,
    wire.Equivocation(
        index=1,
        first=wire.Vote(phase=3, epoch=2, view=1, sequence=12, digest=_d("batch")),
        first_signature=SIGNATURE,
        second=wire.Vote(phase=3, epoch=2, view=1, sequence=12, digest=_d("other")),
        second_signature=SIGNATURE,
    ),
    wire.Vote(phase=3, epoch=2, view=1, sequence=12, digest=_d("batch")),
    wire.CommittedBatch(epoch=2, view=1, sequence=12, batch=BATCH, signatures=(SIGNATURE,)),
    CHECKPOINT,
    wire.CheckpointCertificate(checkpoint=CHECKPOINT, signatures=(SIGNATURE,)),
    epoch_change(3, SEATS),
    SEATS[0],
    Handover(certificate=wire.CheckpointCertificate(checkpoint=CHECKPOINT, signatures=(SIGNATURE,)), seats=SEATS),
    wire.BlobUpload(digest=_d("blob"), size=10),
    wire.Update(**ROUND, node=_a("node"), mode="shares", examples=300, public=b"public", commitment=b"c" * 48),
    SHARES,
    ANNOUNCEMENT,
    REVEAL,
    wire.MaskNotice(
        **ROUND,
        epoch=1,
        parent_model=_d("parent"),
        examples_cap=300,
        cohort=_d("cohort"),
        announcement=_d("announcement"),
    ),
    wire.AcceptedSet(**ROUND, epoch=1, announced=_d("announced"), updates_root=_d("root")),
    wire.Piece(**ROUND, node=_a("node"), replica=1, update=_d("update"), sealed=b"sealed"),
    wire.Receipt(**ROUND, node=_a("node"), update=_d("update"), examples=300),
    RECEIPT,
    wire.Fault(**ROUND, node=_a("node")),
    wire.Contribution(**ROUND, updates_root=_d("root"), replica=1, components=((0, _d("a")), (3, _d("b")))),
    wire.Opening(**ROUND, contributions=(SIGNED,), witness=_d("witness")),
    wire.PartRequest(**ROUND, node=_a("node"), replica=1),
    wire.CertificateRequest(**ROUND, opening=_d("opening"), model=_d("model")),
    CERTIFICATE,
    wire.Refusal(code="malformed", message="why", hint="what next"),
    SIGNED,
    SPEC,
    operations.Enrol(admission=ADMISSION, signature=SIGNATURE),
    operations.Revoke(revocation=REVOCATION, signature=SIGNATURE),
    operations.CreateTask(spec=SPEC),
    operations.StopTask(task=_d("task")),
    operations.OpenRound(**ROUND, parent_model=_d("parent"), cohort=(_a("one"), _a("two"))),
    operations.SubmitUpdate(
        **ROUND, parent_model=_d("parent"), update=_d("update"), examples=300, loss=-5, receipts=(RECEIPT,)
    ),
    operations.ReportFault(fault=wire.Fault(**ROUND, node=_a("node")), signatures=(RECEIPT,)),
    operations.AnnounceMasks(**ROUND, announcement=ANNOUNCEMENT, signature=SIGNATURE),
    operations.ConfirmSet(**ROUND, signature=SIGNATURE),
    operations.RevealShares(**ROUND, reveal=REVEAL),
    operations.CloseRound(**ROUND),
    operations.CompleteRound(certificate=CERTIFICATE, signatures=(RECEIPT,)),
    operations.ReportEvaluation(**ROUND, loss=123, accuracy=950_000, examples=72),
    operations.ChangeCommittee(epoch=3, seats=SEATS),
    operations.Outcome(rule="", detail="", subject=_d("task")),
    Parameters(tensors=(Tensor(name="w", dtype="float32", shape=(2, 1), data=bytes(8)),)),
]


def vectors() -> dict[str, dict[str, str]]:
    found = {
        type(message).__name__: {
            "encoding": encode(message).hex(),
            "signing_digest": signing_digest(DOMAIN, message).hex(),
            "signature": SIGNER.sign(DOMAIN, message).hex(),
        }
        for message in MESSAGES
    }
    found["update leaf"] = {"digest": update_leaf(_d("task"), 7, _a("node"), _d("update"), 300).hex()}
    found["reward leaf"] = {"digest": reward_leaf(_d("task"), _a("node"), 35).hex()}
    found["domain"] = {"separator": DOMAIN.separator.hex()}
    return found


@pytest.mark.parametrize("name", list(vectors()))
def test_bytes_and_signatures_are_the_recorded_ones(name: str) -> None:
    assert vectors()[name] == json.loads(VECTORS.read_text())[name]


def test_every_message_of_the_wire_and_the_law_has_a_vector() -> None:
    known = {
        each.__name__
        for module in (wire, epochs, operations)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Message) and each.__module__ == module.__name__
    }
    assert known <= set(vectors())


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
