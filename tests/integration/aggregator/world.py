"""A real federation on this machine: embedded chain, provisioned homes, four replica processes, an aggregator process.

Only the nodes' training is replaced, by random integers: protection, delivery, receipts and operations are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from koinon.admission import load_admission
from koinon.client import CommitteeClient
from koinon.config import FederationFile, load_federation, load_party, party_signer
from koinon.encoding import ZERO_DIGEST, encode, from_hex, keccak
from koinon.errors import BadPiece, KoinonError, Rejected, Unavailable
from koinon.learning.parameters import from_arrays, from_blob
from koinon.ledger import Ledger
from koinon.opening import last_step, round_setting
from koinon.privacy import Protected, Setting, Values, mode, piece_context, seal_to
from koinon.privacy.validation.squares import four_squares
from koinon.rounds.operations import CreateTask, SubmitUpdate, TaskSpec
from koinon.rounds.rules import task_identity
from koinon.rounds.state import Round, Task
from koinon.signing import Signer
from koinon.wire import Piece, SignedReceipt, Update
from scripts._cheats import protect_anything

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS_MAX = 60.0
EXAMPLES = 10
"""What each participant claims."""
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(ask: Callable[[], T | None], what: str, seconds: float = START_SECONDS_MAX) -> T:
    """The first true answer; AssertionError, naming `what`, when the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := ask():
                return answer
        except (OSError, KoinonError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


class World:
    def __init__(self, folder: Path, *, nodes: int = 4, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.homes = folder / "homes"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        port = free_port()
        self.rpc = f"http://127.0.0.1:{port}"
        self.start("chain", "scripts.chain", "--port", str(port), "--engine", "embedded")
        until(lambda: Ledger.identify(self.rpc), "the chain")
        self.nodes = nodes
        self.provision(*options)
        self.federation: FederationFile = load_federation(self.homes / "federation.json")
        self.ledger = Ledger.connect(self.federation.network)

    def provision(self, *options: str) -> str:
        command = ["--out", str(self.homes), "--rpc", self.rpc, "--nodes", str(self.nodes), "--port-base", "0"]
        done = subprocess.run(
            [sys.executable, "-m", "scripts.provision", *command, "--paillier-bits", "2048", *options],
            cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    # --- processes -------------------------------------------------------------------------------------------

    def start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._processes[name] = process
        return process

    def start_replicas(self) -> None:
        for index in range(len(self.federation.replicas)):
            self.start(f"replica-{index}", "pbft", "--home", str(self.homes / f"replica-{index}"))

    def start_aggregator(self) -> None:
        self.start("aggregator", "aggregator", "--home", str(self.homes / "aggregator"))

    def kill(self, name: str) -> None:
        """As the kernel does when memory is short: no chance to say goodbye."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> int:
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(timeout=15)

    def stop_all(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # --- asking ----------------------------------------------------------------------------------------------

    def ask_aggregator(self, path: str) -> Any:
        port = load_party(self.homes / "aggregator").listen.port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            body = answer.read()
        return json.loads(body) if path != "/metrics" else body.decode()

    def signer(self, party: str) -> Signer:
        home = self.homes / party
        return party_signer(home, load_party(home))

    def committed(self, task: bytes) -> int:
        record = self.ledger.task(task)
        return record.last_committed if record else 0

    def events(self, name: str, task: bytes) -> list[Any]:
        found = self.ledger.events(0, self.ledger.block_number())
        return [each for each in found if type(each).__name__ == name and getattr(each, "task", None) == task]


class Participant:
    """An edge node without a model: it protects random integers and submits them."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.home = world.homes / f"node-{index}"
        self.signer = world.signer(f"node-{index}")
        self.silent = False
        self.done: set[tuple[bytes, int]] = set()

    async def enrol(self) -> None:
        enrol = load_admission(self.home / "admission.json")
        async with CommitteeClient(self.world.federation, self.signer) as client:
            with contextlib.suppress(Rejected):  # enrolled before
                await client.submit(enrol)
        ledger = Ledger.connect(self.world.federation.network, self.signer)
        if ledger.member(self.signer.address).serial == 0:
            ledger.register(enrol.admission, enrol.signature)

    async def take_part(self, task: bytes, client: CommitteeClient, state: Task, round_: Round) -> None:
        direction = b""
        if state.spec.aligned is not None and round_.previous != ZERO_DIGEST:
            models = [from_blob(await client.get_blob(each)) for each in (round_.parent_model, round_.previous)]
            direction = last_step(*models)
        setting = round_setting(
            self.world.federation, task, state.spec, round_, {self.signer.address: EXAMPLES}, direction=direction
        )
        values = np.random.default_rng().integers(-100, 100, size=state.spec.dimension, dtype=np.int64)
        protected = self.protect(setting, state.spec.mode, values)
        address = self.signer.address
        update = Update(
            task=task, round=round_.number, node=address, mode=state.spec.mode, examples=EXAMPLES,
            public=protected.public,
        )  # fmt: skip
        digest = await client.put_blob(encode(update))

        async def deliver(index: int) -> bytes:
            box = seal_to(
                from_hex(self.world.federation.replicas[index].sealing_key),
                protected.pieces[index],
                piece_context(task, round_.number, address, index),
            )
            piece = Piece(task=task, round=round_.number, node=address, replica=index, update=digest, sealed=box)
            return await client.deliver(index, piece, EXAMPLES)

        await self.before_delivery(client, Piece(task=task, round=round_.number, node=address, replica=0, update=digest,
                                                 sealed=b""))  # fmt: skip
        receipts = await client.collect(deliver, enough=self.world.federation.quorum, what="keep the piece")
        await client.submit(
            SubmitUpdate(
                task=task, round=round_.number, parent_model=round_.parent_model, update=digest,
                examples=EXAMPLES, loss=1,
                receipts=tuple(SignedReceipt(replica=i, signature=each) for i, each in sorted(receipts.items())),
            )
        )  # fmt: skip

    async def before_delivery(self, client: CommitteeClient, piece: Piece) -> None:
        """Nothing, of honest nodes; `piece` has no replica and no box yet."""

    def protect(self, setting: Setting, name: str, values: Values) -> Protected:
        return mode(name).protect(setting, self.signer.address, values, secrets.token_bytes)

    def _wanted(self, task: bytes, round_: Round) -> bool:
        invited = self.signer.address in round_.cohort and round_.phase == "training"
        return invited and not self.silent and (task, round_.number) not in self.done

    async def run(self, task: bytes) -> None:
        async with CommitteeClient(self.world.federation, self.signer) as client:
            while True:
                try:
                    state = await client.task(task, rounds=1)
                    round_ = state.current()
                    if state.status != "active":
                        return
                    if round_ is not None and self._wanted(task, round_):
                        await self.take_part(task, client, state, round_)
                        self.done.add((task, round_.number))
                except (Unavailable, Rejected):
                    pass
                await asyncio.sleep(0.1)


class Cheat(Participant):
    """Hands in updates whose norm is above the task's bound, with the best proof that there is for them."""

    def protect(self, setting: Setting, name: str, values: Values) -> Protected:
        filled = np.append(values * 0 + setting.norm, [0, 0, 0, 0])
        return protect_anything(setting, self.signer.address, filled, secrets.token_bytes)


class TwoFaced(Participant):
    """Hands one replica a box that does not open, and all others what it should."""

    victim = 2

    async def before_delivery(self, client: CommitteeClient, piece: Piece) -> None:
        with contextlib.suppress(BadPiece):
            box = msgspec.structs.replace(piece, replica=self.victim, sealed=bytes(64))
            await client.deliver(self.victim, box, EXAMPLES)


class Opponent(Participant):
    """Hands in, as soon as there is a last step, the opposite of it, as far as the bound on the norm allows."""

    def protect(self, setting: Setting, name: str, values: Values) -> Protected:
        assert setting.alignment is not None
        step = np.frombuffer(setting.alignment.direction, dtype="<i2").astype(np.float64)
        if not step.any():
            return super().protect(setting, name, values)
        norm = setting.claim(self.signer.address).norm
        against = np.rint(step * (-0.99 * norm / np.linalg.norm(step))).astype(np.int64)
        filled = np.append(against, four_squares(norm**2 - int(against @ against)))
        return protect_anything(setting, self.signer.address, np.append(filled, [0] * 4), secrets.token_bytes)


async def create_task(world: World, submitter: str, *, on_chain: bool = True, **settings: Any) -> bytes:
    """A task on chain and in the log; its identity."""
    signer = world.signer(submitter)
    model = from_arrays([np.linspace(-1, 1, 40, dtype=np.float32), np.zeros(10, dtype=np.float64)])
    wanted: dict[str, Any] = {
        "name": f"task-{secrets.token_hex(4)}", "app": "none", "mode": "shares", "strategy": "fedavg", "rounds": 2,
        "reward": 5, "round_ms": 20_000,
    } | settings  # fmt: skip
    spec = TaskSpec(initial_model=keccak(model.blob()), dimension=model.dimension, **wanted)
    operation = CreateTask(spec=spec)
    identity = task_identity(signer.address, operation)
    if on_chain:
        escrow(world, signer, identity, spec)
    async with CommitteeClient(world.federation, signer) as client:
        await client.put_blob(model.blob())
        assert (await client.submit(operation)).subject == identity
    return identity


def escrow(world: World, signer: Signer, identity: bytes, spec: TaskSpec) -> None:
    budget = spec.reward * spec.rounds * spec.cohort_max
    Ledger.connect(world.federation.network, signer).create_task(
        identity, keccak(encode(spec)), spec.initial_model, budget
    )


async def see_through(
    world: World, nodes: list[Participant], task: bytes, *, rounds: int, seconds: float = 60.0,
    meanwhile: Callable[[], None] = lambda: None,
) -> Task:  # fmt: skip
    """Let `nodes` take part until the chain holds round `rounds`, calling `meanwhile` over and over in a thread."""
    running = [asyncio.ensure_future(node.run(task)) for node in nodes]
    try:
        async with asyncio.timeout(seconds):
            while world.committed(task) < rounds:
                await asyncio.to_thread(meanwhile)
                await asyncio.sleep(0.1)
            async with CommitteeClient(world.federation) as client:
                while (state := await client.task(task, rounds=0)).certified < rounds:
                    await asyncio.sleep(0.1)
                return state
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
