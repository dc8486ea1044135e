"""A whole federation on one machine, as real processes: chain, replicas, aggregator, nodes.

    with LocalFederation(folder) as federation: ...

`folder` gets `federation/` (what koinon-provision makes), `chain/` and `logs/*.log`. Every process is a process
group of its own, so that Ctrl-C reaches only the runner, which then stops them: SIGTERM, and SIGKILL by process id to
what is left after STOP_SECONDS. Nothing else is ever signalled. On Linux a child dies with the runner, whatever kills
that one. Nodes have a lower priority than the rest: elsewhere they train on machines of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from koinon.config import FederationFile, load_federation, load_party
from koinon.errors import Unavailable

ROOT = Path(__file__).resolve().parent.parent
PREFIX = (__package__ or "scripts").removesuffix("scripts")
"""What stands before a role's module: nothing in a checkout, `koinon.` when installed."""

START_SECONDS = 180.0
PROVISION_SECONDS = 300.0
STOP_SECONDS = 10.0
COMMAND_SECONDS = 120.0
POLL_SECONDS = 0.1
NODE_NICENESS = 10
LOG_TAIL_LINES = 15

Say = Callable[[str], None]


class LocalFederation:
    """Use as a context manager: entering provisions and starts everything, leaving stops it, come what may."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 4,
        nodes: int = 5,
        paillier_bits: int = 0,
        apps: Sequence[str] = (),
        data_dir: Path | None = None,
        examples_max: int = 0,
        tls: bool = False,
        host: str = "127.0.0.1",
        say: Say = lambda line: None,
    ) -> None:
        """`apps`, `data_dir` and `examples_max` (0: its default) as of koinon-provision. The chain listens on `host`.
        `say` hears of each step.
        """
        self.folder = folder.resolve()
        self.home_folder = self.folder / "federation"
        self.logs = self.folder / "logs"
        self.replicas = [f"replica-{index}" for index in range(replicas)]
        self.nodes = [f"node-{index}" for index in range(nodes)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.rpc = ""
        self._options = [
            f"--replicas={replicas}", f"--nodes={nodes}", f"--paillier-bits={paillier_bits}", "--port-base=0",
            *(f"--app={each}" for each in apps), *(["--tls"] if tls else []),
            *([f"--data-dir={data_dir}"] if data_dir else []),
            *([f"--examples-max={examples_max}"] if examples_max else []),
        ]  # fmt: skip
        self._host = host
        self._say = say
        self._files: list[IO[bytes]] = []
        self._killed: set[str] = set()

    def __enter__(self) -> LocalFederation:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what there is -----------------------------------------------------------------------------------------

    @property
    def parties(self) -> list[str]:
        return [*self.replicas, "aggregator", *self.nodes]

    @property
    def file(self) -> FederationFile:
        return load_federation(self.home_folder / "federation.json")

    @property
    def pids(self) -> dict[str, int]:
        """The running processes by name."""
        return {name: process.pid for name, process in self.processes.items() if process.poll() is None}

    def home(self, party: str) -> Path:
        return self.home_folder / party

    # --- life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Chain, contracts, committee, aggregator, nodes. Unavailable with the log's tail when one does not come up."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.start_chain()
        self._provision()
        for party in self.parties:
            self.spawn(party)
        self.wait_ready(self.parties)

    def start_chain(self) -> None:
        """Start the chain (again, with its kept data) and wait until it answers."""
        port = int(self.rpc.rsplit(":", 1)[1]) if self.rpc else free_port()
        self.rpc = f"http://{self._host}:{port}"
        arguments = ["scripts.chain", "--host", self._host, "--port", str(port), "--data", str(self.folder / "chain")]
        self._spawn("chain", arguments)
        self._until("chain", lambda: _rpc_answers(self.rpc))
        self._say("chain is up")

    def _provision(self) -> None:
        command = [*module("scripts.provision"), "--out", str(self.home_folder), "--rpc", self.rpc, *self._options]
        log = self.logs / "provision.log"
        with log.open("ab") as file:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=PROVISION_SECONDS
            )
        if done.returncode != 0:
            raise Unavailable(f"koinon-provision failed:\n{tail(log)}")
        self._say("keys, contracts and homes are there")

    def spawn(self, party: str) -> None:
        """Start the process of `party` (it must not run); see `wait_ready`."""
        home = str(self.home(party))
        role = party.partition("-")[0]
        arguments = {
            "replica": ["pbft", "--home", home],
            "aggregator": ["aggregator", "--home", home],
            "node": ["node", "start", "--home", home],
        }[role]
        self._spawn(party, arguments)

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """The command line of a process: `arguments` begin with its module."""
        return [*module(arguments[0]), *arguments[1:]]

    def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        if name in self.pids:
            raise Unavailable(f"{name} runs already")
        self._killed.discard(name)
        log = (self.logs / f"{name}.log").open("ab")
        self._files.append(log)
        self.processes[name] = subprocess.Popen(
            self.command(name, arguments),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=partial(_prepare, NODE_NICENESS if name in self.nodes else 0),
        )

    def wait_ready(self, parties: Iterable[str]) -> None:
        """Until /readyz of each answers 200; Unavailable with the log's tail after START_SECONDS or when one ended."""
        for party in parties:
            self._until(party, lambda party=party: self.ready(party))  # type: ignore[misc]
            self._say(f"{party} is ready")

    def url(self, party: str) -> str:
        config = load_party(self.home(party))
        scheme = "https" if config.tls.certificate else "http"
        return f"{scheme}://{config.listen.host}:{config.listen.port}"

    def ready(self, party: str) -> bool:
        """Whether the party's /readyz says 200."""
        authority = self.file.tls_ca
        context = ssl.create_default_context(cadata=authority) if authority else None
        try:
            with urllib.request.urlopen(f"{self.url(party)}/readyz", timeout=2.0, context=context) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def _until(self, name: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            ended = self.processes[name].poll() is not None
            if ended or time.monotonic() > deadline:
                what = f"{name} ended" if ended else f"{name} is not ready after {START_SECONDS:.0f} s"
                raise Unavailable(f"{what}:\n{tail(self.logs / f'{name}.log')}")
            time.sleep(POLL_SECONDS)

    def run(self, name: str, *arguments: str, seconds_max: float = COMMAND_SECONDS) -> str:
        """Run a command's module (`node`, `scripts.audit`, ...) to its end; what it printed.

        Unavailable with what it said when it fails.
        """
        try:
            done = subprocess.run(
                [*module(name), *arguments],
                cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=seconds_max,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{name} {arguments[0]} took more than {seconds_max:.0f} s") from None
        if done.returncode != 0:
            raise Unavailable(f"{name} {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def submit(self, party: str, task: Path, *, mode: str, rounds: int) -> str:
        """`koinon submit` as `party`; what it printed."""
        options = ["--home", str(self.home(party)), "--mode", mode, "--rounds", str(rounds)]
        return self.run("node", "submit", str(task), *options)

    def require_alive(self) -> None:
        """Unavailable, with its log's tail, when a process ended that nobody killed."""
        for name, process in self.processes.items():
            if process.poll() is not None and name not in self._killed:
                raise Unavailable(f"{name} ended with code {process.returncode}:\n{tail(self.logs / f'{name}.log')}")

    # --- faults ------------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """kill -9, children included (koinon-chain has anvil as its child)."""
        process = self.processes[name]
        self._killed.add(name)
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def restart(self, party: str) -> None:
        """Start a party that was killed, and wait until it is ready."""
        self.spawn(party)
        self.wait_ready([party])

    def stop(self) -> None:
        """Ask all to stop, nodes first and the chain last; kill what still runs after STOP_SECONDS. Never raises."""
        with _uninterrupted():
            chain = self.processes.get("chain")
            self._end([process for name, process in self.processes.items() if name != "chain"])
            self._end([chain] if chain else [])
            for file in self._files:
                file.close()
            self._files.clear()

    def _end(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        children = {process.pid: descendants(process.pid) for process in processes if process.poll() is None}
        for process in reversed(processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                for pid in [*children.get(process.pid, []), process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()


def module(name: str) -> list[str]:
    """The command that runs a role's module with this interpreter."""
    return [sys.executable, "-m", f"{PREFIX}{name}"]


def environment() -> dict[str, str]:
    """Ours, one compute thread a process, and this checkout on the path of programs that lie elsewhere."""
    path = os.pathsep.join(each for each in (str(ROOT), os.environ.get("PYTHONPATH", "")) if each)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}


def tail(log: Path) -> str:
    """The last lines of a log."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Children and theirs, where /proc tells (Linux); else none."""
    try:
        children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []
    return [each for child in children for each in [*descendants(child), child]]


def _rpc_answers(rpc: str) -> bool:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}).encode()
    request = urllib.request.Request(rpc, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=2.0) as answer:
            return b"result" in answer.read()
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _prepare(niceness: int) -> None:
    """In the child, before exec: its priority, and SIGTERM when the runner dies (prctl PR_SET_PDEATHSIG)."""
    os.nice(niceness)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            _LIBC.prctl(1, signal.SIGTERM)


if sys.platform == "linux":
    import ctypes

    _LIBC = ctypes.CDLL(None, use_errno=True)


class _uninterrupted:
    """SIGINT and SIGTERM wait while everything is being stopped: a second Ctrl-C must not leave processes behind."""

    def __enter__(self) -> None:
        self._old: dict[int, object] = {}
        with contextlib.suppress(ValueError):  # only the main thread may
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def new_run(root: Path) -> Path:
    """A fresh folder `root`/<time> for one run, with `root`/latest pointing at it."""
    root.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = next(
        root / name for name in [stamp, *(f"{stamp}-{i}" for i in range(2, 1000))] if not (root / name).exists()
    )
    folder.mkdir()
    draft = root / f".latest-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(folder.name)
    draft.replace(root / "latest")
    return folder


def exit_on_sigterm() -> None:
    """SIGTERM ends the program as Ctrl-C does: through every `finally`."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


__all__ = ["ROOT", "LocalFederation", "environment", "exit_on_sigterm", "module", "new_run", "tail"]
