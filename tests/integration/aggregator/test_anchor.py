"""The outbox against a real chain: a process may die between any two steps, and the chain still holds all, once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.anchor import Anchor, now_ms, tell
from aggregator.outbox import Job, Kind, Outbox, Stage
from koinon.encoding import keccak
from koinon.ledger import CommitteeMember, Ledger, Network
from koinon.records import RoundCommitted, RoundOpened
from koinon.rounds.state import Round
from koinon.sending import Sender
from koinon.signing import Signer
from koinon.wire import Admission, Role, RoundCertificate, SignedReceipt
from tests.integration.aggregator.world import ROOT, free_port, until

ROUNDS = 2
CRASH_SECONDS_MAX = 20
REPLICAS = [Signer(keccak(b"replica %d" % index)) for index in range(4)]
AGGREGATOR, REGISTRAR, DEPLOYER = (Signer(keccak(word)) for word in (b"aggregator", b"registrar", b"deployer"))

CrashPoint = Callable[[Outbox, Ledger, Job], None]


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def when_queued(outbox: Outbox, ledger: Ledger, job: Job) -> None:
    die()


def when_started(outbox: Outbox, ledger: Ledger, job: Job) -> None:
    outbox.start(job)
    die()


def when_handed_over(outbox: Outbox, ledger: Ledger, job: Job) -> None:
    """The transaction is out, its receipt was never seen."""
    outbox.start(job)
    Sender._await = die  # type: ignore[assignment,method-assign]
    tell(ledger, job)
    die()  # nothing was sent: an earlier death's transaction was mined


def when_mined(outbox: Outbox, ledger: Ledger, job: Job) -> None:
    outbox.start(job)
    tell(ledger, job)
    die()


def when_confirmed(outbox: Outbox, ledger: Ledger, job: Job) -> None:
    outbox.start(job)
    outbox.confirm(job, tell(ledger, job).hash, now_ms=now_ms())  # type: ignore[union-attr]
    die()


POINTS: tuple[CrashPoint, ...] = (when_queued, when_started, when_handed_over, when_mined, when_confirmed)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    port = free_port()
    rpc = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "scripts.chain", "--port", str(port), "--engine", "embedded"]
    chain = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        until(lambda: Ledger.identify(rpc), "the chain")
        yield deployed(rpc)
    finally:
        chain.terminate()
        chain.wait(timeout=15)


def deployed(rpc: str) -> Network:
    """The contracts on a fresh chain, with an aggregator that is admitted."""
    members = [CommitteeMember(each.address, bytes([i + 1]) * 32, f"http://{i}") for i, each in enumerate(REPLICAS)]
    made = Ledger.deploy(rpc, DEPLOYER, REGISTRAR.address, members)
    network = Network(rpc, made.chain_id, made.genesis_hash, made.contracts)
    ledger = Ledger(network, AGGREGATOR)
    ledger.fund([AGGREGATOR.address])
    admission = Admission(
        member=AGGREGATOR.address, roles=int(Role.AGGREGATOR), examples_max=0, sealing_key=bytes(32), serial=1
    )
    ledger.register(admission, REGISTRAR.sign(ledger.domain(), admission))
    return network


def model(number: int) -> bytes:
    return keccak(b"model %d" % number)


def certified(ledger: Ledger, task: bytes, number: int) -> Round:
    """Round `number` as the law records it once it is certified."""
    certificate = RoundCertificate(
        task=task, round=number, epoch=0, parent_model=model(number - 1), model=model(number),
        updates_root=keccak(b"updates"), opening=keccak(b"opening"), rewards_root=keccak(b"rewards"),
        rewards_total=0, participants=3,
    )  # fmt: skip
    signatures = tuple(
        SignedReceipt(replica=index, signature=REPLICAS[index].sign(ledger.domain(), certificate))
        for index in (0, 2, 3)
    )
    return Round(
        number=number, phase="certified", parent_model=model(number - 1), cohort=(), examples_cap=1, opened_ms=1,
        deadline_ms=2, certificate=certificate, signatures=signatures,
    )  # fmt: skip


def fill(anchor: Anchor, ledger: Ledger, task: bytes) -> None:
    for number in range(1, ROUNDS + 1):
        round_ = certified(ledger, task, number)
        anchor.ensure(task, round_, Kind.OPEN_ROUND)
        anchor.ensure(task, round_, Kind.COMMIT_ROUND)


def new_task(ledger: Ledger, name: str) -> bytes:
    spec = keccak(name.encode())
    task = keccak(AGGREGATOR.address.rjust(32, b"\0") + spec)  # as koinon.rounds.rules.task_identity
    ledger.create_task(task, spec, model(0), 0)
    return task


async def drain(anchor: Anchor, outbox: Outbox, seconds: float = 20.0) -> None:
    working = asyncio.create_task(anchor.run())
    try:
        async with asyncio.timeout(seconds):
            while outbox.heads():
                await asyncio.sleep(0.02)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def history(ledger: Ledger, task: bytes) -> list[tuple[str, int]]:
    found = ledger.events(0, ledger.block_number())
    return [
        (type(each).__name__, each.round)
        for each in found
        if isinstance(each, RoundOpened | RoundCommitted) and each.task == task
    ]


ONCE = [(name, number) for number in range(1, ROUNDS + 1) for name in ("RoundOpened", "RoundCommitted")]


def crash(path: Path, network: Network, point: CrashPoint) -> None:
    """Do the next job in a forked process that dies at `point`."""
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(CRASH_SECONDS_MAX)
            outbox = Outbox(path)
            point(outbox, Ledger(network, AGGREGATOR), outbox.heads()[0])
        finally:
            os._exit(1)  # not reached when the point works
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
def test_a_crash_at_any_point_of_any_job_leaves_each_round_on_chain_once(
    tmp_path: Path, network: Network, point: CrashPoint
) -> None:
    ledger = Ledger(network, AGGREGATOR)
    task = new_task(ledger, f"crash {point.__name__}")
    path = tmp_path / "outbox.sqlite"
    outbox = Outbox(path)
    fill(Anchor(ledger, outbox), ledger, task)
    outbox.close()
    for _ in range(2 * ROUNDS if point is when_confirmed else 3):
        crash(path, network, point)
    outbox = Outbox(path)
    asyncio.run(drain(Anchor(Ledger(network, AGGREGATOR), outbox), outbox))
    assert history(ledger, task) == ONCE
    assert ledger.latest_model(task) == model(ROUNDS)
    assert outbox.counts() == {"pending": 0, "sent": 0, "confirmed": 2 * ROUNDS}


def test_a_chain_that_does_not_answer_postpones_jobs_and_loses_none(tmp_path: Path, network: Network) -> None:
    ledger = Ledger(network, AGGREGATOR)
    task = new_task(ledger, "outage")
    outbox = Outbox(tmp_path / "outbox.sqlite")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = Network(f"http://127.0.0.1:{nobody.getsockname()[1]}", 1, bytes(32), network.contracts)
        anchor = Anchor(Ledger(dead, AGGREGATOR), outbox)
        fill(anchor, ledger, task)

        async def outage() -> None:
            working = asyncio.create_task(anchor.run())
            async with asyncio.timeout(20):
                while not outbox.heads()[0].error:
                    await asyncio.sleep(0.02)
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

        asyncio.run(outage())
    (job,) = outbox.heads()
    assert (job.round, job.kind) == (1, Kind.OPEN_ROUND)
    assert job.stage in (Stage.PENDING, Stage.SENT)
    assert "no answer from the chain" in job.error
    assert history(ledger, task) == []
    asyncio.run(drain(Anchor(ledger, outbox), outbox))
    assert history(ledger, task) == ONCE


def test_a_job_that_the_chain_refuses_blocks_its_task_and_no_other(tmp_path: Path, network: Network) -> None:
    ledger = Ledger(network, AGGREGATOR)
    unknown, good = keccak(b"never created"), new_task(ledger, "good")
    outbox = Outbox(tmp_path / "outbox.sqlite")
    anchor = Anchor(ledger, outbox)
    fill(anchor, ledger, unknown)
    fill(anchor, ledger, good)

    async def scenario() -> None:
        working = asyncio.create_task(anchor.run())
        async with asyncio.timeout(20):
            while [job.task for job in outbox.heads()] != [unknown] or not outbox.heads()[0].error:
                await asyncio.sleep(0.02)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(scenario())
    assert history(ledger, good) == ONCE
    (job,) = outbox.heads()
    assert (job.task, job.round, job.kind) == (unknown, 1, Kind.OPEN_ROUND)
    assert job.error.startswith("RoundLedger__UnknownTask")


def test_jobs_that_are_queued_again_by_mistake_change_nothing_on_chain(tmp_path: Path, network: Network) -> None:
    ledger = Ledger(network, AGGREGATOR)
    task = new_task(ledger, "again")
    outbox = Outbox(tmp_path / "outbox.sqlite")
    for _ in range(2):
        anchor = Anchor(ledger, outbox)  # as after a restart
        fill(anchor, ledger, task)
        assert len(outbox.heads()) == 1
        asyncio.run(drain(anchor, outbox))
    assert history(ledger, task) == ONCE
    kept = outbox.get(task, 1, Kind.COMMIT_ROUND)
    assert kept is not None
    assert len(kept.transaction) == 32  # of the transaction that did it


def test_a_cancellation_that_meets_a_wake_up_is_not_lost(tmp_path: Path, network: Network) -> None:
    """Found by a hang: asyncio.wait_for of Python 3.11 returns, and forgets to be cancelled, when both come at once."""
    anchor = Anchor(Ledger(network, AGGREGATOR), Outbox(tmp_path / "outbox.sqlite"))

    async def scenario() -> None:
        working = asyncio.create_task(anchor.run())
        await asyncio.sleep(0.05)
        anchor._awake.set()
        await asyncio.sleep(0)
        working.cancel()
        async with asyncio.timeout(2):
            await asyncio.gather(working, return_exceptions=True)
        assert working.cancelled()

    asyncio.run(scenario())


def test_waiting_for_a_task_ends_when_one_of_its_jobs_moves(tmp_path: Path, network: Network) -> None:
    ledger = Ledger(network, AGGREGATOR)
    task = new_task(ledger, "moves")
    outbox = Outbox(tmp_path / "outbox.sqlite")

    async def scenario() -> float:
        anchor = Anchor(ledger, outbox)
        fill(anchor, ledger, task)
        started = time.monotonic()
        working = asyncio.create_task(anchor.run())
        await anchor.changed(task, 15.0)
        waited = time.monotonic() - started
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return waited

    assert asyncio.run(scenario()) < 14.0
