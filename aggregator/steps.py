"""From a closed round to a certified one: collect, open, store, have it certified (docs/architecture.md, 7-9).

Everything here can be repeated, and everything that a replica says is checked: contributions and certificates by
signature, components and updates by digest. Replicas that contradict the rest are logged and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Counter

from koinon.client import CommitteeClient
from koinon.encoding import encode
from koinon.errors import CannotOpen, KoinonError, Rejected, RemoteError, Unavailable
from koinon.learning.parameters import Parameters, from_blob
from koinon.opening import ClosedRound, make_opening, next_model, open_round, public_part, signed_contributions
from koinon.privacy.mode import Opened
from koinon.rounds.law import Federation
from koinon.rounds.masks import MODE as MASKED
from koinon.rounds.operations import ReportFault
from koinon.rounds.state import Round, State, Task
from koinon.signing import Authenticated
from koinon.threads import in_thread
from koinon.wire import CertificateRequest, Contribution, Fault, RoundCertificate, SignedReceipt

FETCHES_CONCURRENT_MAX = 8
PATIENCE_FIRST_SECONDS = 0.25
PATIENCE_MAX_SECONDS = 30.0
OPEN_ATTEMPTS_MAX = 5

DISSENTERS = Counter("koinon_dissenters_total", "Replicas that contradicted the committee", ["replica", "about"])

log = logging.getLogger("koinon.aggregator.steps")


@dataclass(frozen=True)
class Result:
    """What replicas are asked to certify: digests of blobs that at least 2f+1 of them keep."""

    opening: bytes
    model: bytes


async def open_closed(client: CommitteeClient, identity: bytes, task: Task, round_: Round) -> Result:
    """Open the round's sum and store the opening, its witness and the next model.

    CannotOpen or Unavailable when the committee's answers do not suffice after OPEN_ATTEMPTS_MAX tries, each more
    patient with slow replicas than the one before.
    """
    board = await client.masks(identity) if task.spec.mode == MASKED else None
    closed = ClosedRound(await client.federation_of(round_.epoch), identity, task.spec, round_, board)
    updates = await _fetch(client, (kept.update for kept in round_.submissions.values()))
    publics = {}
    for node, kept in round_.submissions.items():
        if kept.update not in updates:
            raise Unavailable(f"no replica shows the update of 0x{node.hex()}")
        publics[node] = public_part(closed, node, updates[kept.update])
    parent = from_blob(await client.get_blob(round_.parent_model))
    contributions, opened = await _open(client, closed, publics)
    model = await in_thread(_model, closed, parent, opened)
    if opened.witness:
        await client.put_blob(opened.witness)
    stored = await client.put_blob(encode(make_opening(closed, contributions, opened.witness)))
    return Result(opening=stored, model=await client.put_blob(model))


async def _open(
    client: CommitteeClient, closed: ClosedRound, publics: dict[bytes, bytes]
) -> tuple[dict[int, Authenticated[Contribution]], Opened]:
    failure: KoinonError = CannotOpen("not tried")
    components: dict[bytes, bytes] = {}
    for attempt in range(OPEN_ATTEMPTS_MAX):
        contributions = await _contributions(client, closed, attempt)
        wanted = {digest for said in contributions.values() for _, digest in said.message.components}
        components |= await _fetch(client, wanted - set(components))
        try:
            opened = await in_thread(open_round, closed, publics, contributions, components)
        except CannotOpen as error:
            failure = error
            log.warning("cannot open yet", extra={**_about(closed), "attempt": attempt, "reason": error.message})
            continue
        for index in opened.dissenters:
            _dissent(closed, index, "component")
        return contributions, opened
    raise failure


async def _contributions(
    client: CommitteeClient, closed: ClosedRound, attempt: int
) -> dict[int, Authenticated[Contribution]]:
    """Genuine contributions of at least 2f+1 replicas; later attempts wait longer for the rest."""

    async def ask(index: int) -> bytes:
        return await client.contribution(index, closed.task, closed.round.number)

    patience = min(PATIENCE_FIRST_SECONDS * 4**attempt, PATIENCE_MAX_SECONDS)
    raw = await client.collect(
        ask, enough=client.federation.quorum, what="contribute to the opening", patience_seconds=patience
    )
    good: dict[int, Authenticated[Contribution]] = {}
    for index, sealed in raw.items():
        genuine, bad = signed_contributions(closed, [sealed])
        if index in genuine:
            good[index] = genuine[index]
        else:
            _dissent(closed, index, "contribution", "; ".join(bad.values()))
    return good


async def _fetch(client: CommitteeClient, digests: Iterable[bytes]) -> dict[bytes, bytes]:
    """The blobs that some replica has; a digest that only a liar signed may not exist anywhere."""
    slots = asyncio.Semaphore(FETCHES_CONCURRENT_MAX)

    async def fetch(digest: bytes) -> tuple[bytes, bytes | None]:
        async with slots:
            try:
                return digest, await client.get_blob(digest)
            except RemoteError as error:
                log.warning("blob not found", extra={"digest": digest.hex(), "reason": error.message})
                return digest, None

    found = await asyncio.gather(*(fetch(digest) for digest in set(digests)))
    return {digest: content for digest, content in found if content is not None}


def _model(closed: ClosedRound, parent: Parameters, opened: Opened) -> bytes:
    return next_model(closed.spec, closed.round, parent, opened.values).blob()


def expected_certificate(
    client: CommitteeClient, identity: bytes, task: Task, number: int, result: Result
) -> RoundCertificate:
    """What an honest replica signs: the law's own draft from the round's records."""
    law = Federation(client.federation.genesis, State(tasks={identity: task}))
    return law.draft_certificate(identity, number, model=result.model, opening=result.opening)


async def certify(
    client: CommitteeClient, identity: bytes, task: Task, number: int, result: Result
) -> tuple[RoundCertificate, tuple[SignedReceipt, ...]]:
    """2f+1 signatures of the expected certificate; Unavailable, with each replica's reason, when there are fewer."""
    expected = expected_certificate(client, identity, task, number, result)
    request = CertificateRequest(task=identity, round=number, opening=result.opening, model=result.model)

    async def ask(index: int) -> bytes:
        said, signature = await client.certify(index, request)
        if said != expected:
            DISSENTERS.labels(str(index), "certificate").inc()
            log.warning("dissent", extra={"replica": index, "about": "certificate", "round": number})
            raise RemoteError(f"replica {index} signed another certificate")
        return signature

    signatures = await client.collect(ask, enough=client.federation.quorum, what="certify the round")
    receipts = tuple(SignedReceipt(replica=index, signature=each) for index, each in sorted(signatures.items()))
    return expected, receipts


async def report_faults(client: CommitteeClient, identity: bytes, task: Task, round_: Round) -> None:
    """Have every node barred that f+1 replicas say handed them a provably false update in this round.

    Never raises for what replicas answer or the law refuses: the round goes on without those nodes in any case.
    """
    silent = set(round_.cohort) - set(round_.submissions) - set(task.barred)
    if not silent:
        return
    try:
        said = await _faults(client, identity, round_)
        for node in sorted(silent):
            fault = Fault(task=identity, round=round_.number, node=node)
            signatures = {index: faults[fault] for index, faults in sorted(said.items()) if fault in faults}
            if len(signatures) > client.federation.faulty:
                receipts = tuple(SignedReceipt(replica=index, signature=each) for index, each in signatures.items())
                await client.submit(ReportFault(fault=fault, signatures=receipts))
                log.warning("node barred", extra={"task": identity.hex(), "round": round_.number, "node": node.hex()})
    except (RemoteError, Rejected) as error:
        log.warning("faults not reported", extra={"round": round_.number, "reason": error.message})


async def name_contradictions(client: CommitteeClient, identity: bytes, round_: Round) -> None:
    """Count and log each replica that signed a fault about a node whose update 2f+1 others gave receipts for.

    That replica lied, or the node gave it alone a false piece: one of the two that are named. Never raises for what
    replicas answer: nothing depends on it.
    """
    try:
        said = await _faults(client, identity, round_)
    except RemoteError as error:
        log.warning("faults not heard", extra={"round": round_.number, "reason": error.message})
        return
    members = (await client.federation_of(round_.epoch)).replica_addresses
    accepted = {Fault(task=identity, round=round_.number, node=node) for node in round_.submissions}
    for index, faults in sorted(said.items()):
        for fault in sorted(accepted & set(faults), key=lambda each: each.node):
            DISSENTERS.labels(str(index), "fault").inc()
            about = {"epoch": round_.epoch, "replica": index, "address": members[index].hex(), "about": "fault"}
            where = {"task": identity.hex(), "round": round_.number, "node": fault.node.hex()}
            log.warning("a replica accuses a node whose update is accepted: one of them lied", extra={**where, **about})


async def _faults(client: CommitteeClient, identity: bytes, round_: Round) -> dict[int, dict[Fault, bytes]]:
    """What at least 2f+1 replicas say: by replica, its signature of each Fault."""
    return await client.collect(
        lambda index: client.faults(index, identity, round_.number),
        enough=client.federation.quorum,
        what="say who handed in false updates",
        patience_seconds=PATIENCE_FIRST_SECONDS,
    )


def _dissent(closed: ClosedRound, index: int, about: str, reason: str = "") -> None:
    DISSENTERS.labels(str(index), about).inc()
    log.warning("dissent", extra={**_about(closed), "replica": index, "about": about, "reason": reason})


def _about(closed: ClosedRound) -> dict[str, object]:
    return {"task": closed.task.hex(), "round": closed.round.number}
