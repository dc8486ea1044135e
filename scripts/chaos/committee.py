"""A provisioned federation whose replicas run as real processes in a network that can be broken.

Keys, contracts and homes are koinon-provision's; then each replica's home is moved into the network: where it listens,
and where *it* reaches each of its peers. Nodes and aggregator are not started: the load speaks for members of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import tomli_w
from msgspec.structs import replace

from koinon.client import CommitteeClient
from koinon.config import FederationFile, load_party, party_signer, save_federation, write_atomically
from koinon.errors import KoinonError, Unavailable
from koinon.signing import Signer

from ..federation import LocalFederation, Say, module, tail

STATUS_SECONDS = 2.0
READY_SECONDS = 60.0
END_SECONDS = 20.0
POLL_SECONDS = 0.05

Status = dict[str, Any]


class Network(Protocol):
    """Where replicas live: see `namespaces` and `proxies`."""

    name: str
    chain_host: str

    def start(self) -> None: ...
    async def connect(self, ports: list[int]) -> None: ...
    def host(self, index: int) -> str: ...
    def url(self, source: int | None, target: int) -> str: ...
    def command(self, index: int) -> list[str]: ...
    def cut(self, source: int, target: int) -> None: ...
    def heal(self) -> None: ...
    async def disconnect(self) -> None: ...
    def stop(self) -> None: ...


class Committee(LocalFederation):
    """The replicas, by index. `open`, then `close`, come what may. Nothing but its own processes is ever signalled."""

    def __init__(self, folder: Path, network: Network, *, replicas: int = 4, say: Say = lambda line: None) -> None:
        super().__init__(folder, replicas=replicas, nodes=0, host=network.chain_host, say=say)
        self.network = network
        self.everybody = range(replicas)
        self.programs: dict[int, list[str]] = {}
        """What runs instead of koinon-replica, by index: the liars of tests/chaos."""
        self.federation: FederationFile
        self.registrar: Signer
        self.client: CommitteeClient

    # --- life --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Network, chain, homes, replicas. Unavailable with the log's tail when one does not come up."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.network.start()
        await asyncio.to_thread(self.start_chain)
        await asyncio.to_thread(self._provision)
        await self._move_in()
        registrar = self.home("registrar")
        self.registrar = party_signer(registrar, load_party(registrar))
        self.client = await CommitteeClient(self.federation).__aenter__()
        for index in self.everybody:
            self.up(index)
        await self.settled()

    async def close(self) -> None:
        """End everything that `open` made. Never raises."""
        if hasattr(self, "client"):
            await self.client.__aexit__(None, None, None)
        for index in self.everybody:
            self.signal(index, signal.SIGCONT)
        self.stop()
        await self.network.disconnect()
        self.network.stop()

    async def _move_in(self) -> None:
        federation = self.file
        homes = [self.home(name) for name in self.replicas]
        configs = [load_party(home) for home in homes]
        await self.network.connect([config.listen.port for config in configs])
        self.federation = self._as_seen(federation, None)
        for index, (home, config) in enumerate(zip(homes, configs, strict=True)):
            listen = replace(config.listen, host=self.network.host(index))
            table = msgspec.to_builtins(replace(config, listen=listen))
            write_atomically(home / "config.toml", tomli_w.dumps(table).encode())
            save_federation(home / "federation.json", self._as_seen(federation, index))

    def _as_seen(self, federation: FederationFile, source: int | None) -> FederationFile:
        entries = [
            replace(entry, url=self.network.url(source, target)) for target, entry in enumerate(federation.replicas)
        ]
        return replace(federation, replicas=tuple(entries))

    # --- processes ---------------------------------------------------------------------------------------------

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        if not name.startswith("replica-"):
            return super().command(name, arguments)
        index = int(name.removeprefix("replica-"))
        program = self.programs.get(index, module(arguments[0]))
        return [*self.network.command(index), *program, *arguments[1:]]

    def up(self, index: int) -> None:
        """Start replica `index`; see `settled`."""
        self.spawn(self.replicas[index])

    def down(self, *indices: int) -> None:
        """kill -9."""
        for index in indices:
            self.kill(self.replicas[index])

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send a signal to replica `index` if it runs."""
        if (pid := self.pids.get(self.replicas[index])) is not None:
            os.kill(pid, number)

    def pid(self, index: int) -> int | None:
        return self.pids.get(self.replicas[index])

    async def ended(self, index: int, *, seconds: float = END_SECONDS) -> int:
        """The exit code of a replica that should end by itself; Unavailable when it does not."""
        name = self.replicas[index]
        self._killed.add(name)
        deadline = time.monotonic() + seconds
        while (code := self.processes[name].poll()) is None:
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} still runs after {seconds:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        return code

    def log(self, index: int) -> str:
        """All that replica `index` has logged."""
        return (self.logs / f"{self.replicas[index]}.log").read_text(errors="replace")

    def log_tail(self, index: int) -> str:
        return tail(self.logs / f"{self.replicas[index]}.log")

    # --- what they say -----------------------------------------------------------------------------------------

    async def status(self, index: int) -> Status | None:
        """What replica `index` says of itself; None when it says nothing."""
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                return await self.client.status(index)
        except (KoinonError, TimeoutError, ValueError):
            return None

    async def statuses(self, indices: Iterable[int] | None = None) -> dict[int, Status]:
        """The statuses of those (of all) that answer."""
        asked = list(self.everybody if indices is None else indices)
        said = await asyncio.gather(*(self.status(index) for index in asked))
        return {index: status for index, status in zip(asked, said, strict=True) if status is not None}

    async def head(self) -> int:
        """How far the furthest replica has executed."""
        return max((status["sequence"] for status in (await self.statuses()).values()), default=0)

    async def view(self) -> int:
        """The view of a quorum's majority: the highest that f+1 replicas are in."""
        views = sorted((status["view"] for status in (await self.statuses()).values()), reverse=True)
        if len(views) <= self.federation.faulty:
            raise Unavailable("too few replicas say in which view they are")
        return int(views[self.federation.faulty])

    async def primary(self) -> int:
        return await self.view() % len(self.everybody)

    async def settled(self, *indices: int, seconds: float = READY_SECONDS) -> None:
        """Until these replicas (or all) are connected to a quorum and have caught up; Unavailable with a log's tail."""
        deadline = time.monotonic() + seconds
        for index in indices or self.everybody:
            while not self._is_settled(await self.status(index)):
                if self.pid(index) is None:
                    raise Unavailable(f"replica {index} ended:\n{self.log_tail(index)}")
                if time.monotonic() > deadline:
                    raise Unavailable(f"replica {index} is not ready:\n{self.log_tail(index)}")
                await asyncio.sleep(POLL_SECONDS)

    def _is_settled(self, status: Status | None) -> bool:
        if status is None:
            return False
        enough = len(status["peers"]) + 1 >= self.federation.quorum
        return bool(enough and status["active"] and not status["catching_up"])

    async def caught_up(self, target: int, *, seconds: float) -> None:
        """Until every replica runs, is in the committee's view and has executed `target`; Unavailable otherwise."""
        deadline = time.monotonic() + seconds
        while True:
            said = await self.statuses()
            behind = [index for index in self.everybody if not self._there(said.get(index), target)]
            if not behind:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"replicas {behind} have not come back in {seconds:.0f} s: {said}")
            await asyncio.sleep(POLL_SECONDS)

    async def rejoined(self, index: int, target: int, *, seconds: float = READY_SECONDS) -> dict[str, float]:
        """How long a replica whose data was lost takes until it follows (it has executed `target`, and lags no more),
        and until it votes again; Unavailable when it does not."""
        begun, found = time.monotonic(), dict[str, float]()
        while len(found) < 2:
            status, after = await self.status(index), time.monotonic() - begun
            if self._there(status, target) and status is not None:
                found.setdefault("follows", after)
                if not status["recovering"]:
                    found["votes"] = after
            if after > seconds:
                raise Unavailable(f"replica {index} has not come back in {seconds:.0f} s: {status}")
            await asyncio.sleep(POLL_SECONDS)
        return found

    def _there(self, status: Status | None, target: int) -> bool:
        if status is None or status["sequence"] < target or not status["active"]:
            return False
        return len(status["peers"]) + 1 >= self.federation.quorum

    # --- what they take ----------------------------------------------------------------------------------------

    def memory_mb(self) -> dict[int, float]:
        """Resident megabytes of each running replica (0 where /proc does not tell)."""
        return {index: _resident_mb(pid) for index in self.everybody if (pid := self.pid(index)) is not None}

    def descriptors(self, index: int) -> int:
        """Open file descriptors of replica `index` (0 where /proc does not tell)."""
        try:
            return len(os.listdir(f"/proc/{self.pid(index)}/fd"))
        except OSError:
            return 0

    def data_bytes(self, index: int) -> dict[str, int]:
        """Bytes in the data folder of replica `index`, by the first name below it; what a rename is to replace counts
        with it."""
        data, sizes = self.home(self.replicas[index]) / "data", Counter[str]()
        for path in data.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was replaced since it was listed
                about = path.stat()
                if stat.S_ISREG(about.st_mode):
                    sizes[path.relative_to(data).parts[0].removesuffix(".tmp")] += about.st_size
        return dict(sizes)

    def disk_mb(self, index: int) -> float:
        """Megabytes in the data folder of a replica."""
        return sum(self.data_bytes(index).values()) / 1e6


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
