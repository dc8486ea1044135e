"""A network for replicas out of Linux network namespaces: one namespace a replica, a bridge in a hub namespace.

    runner 198.18.X.1 ── hub (bridge) ── replica i 198.18.X.(16+i)

Packets are dropped by iptables in the *receiving* replica's own namespace (`-m statistic` for loss), so that neither
the machine's firewall nor its bridges are touched, and deleting the namespaces undoes everything. It needs root, `ip`
and iptables. 198.18.0.0/15 is set aside for such benches (RFC 2544).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from koinon.errors import Unavailable

NAMESPACES = Path("/run/netns")
REPLICAS_MAX = 16
_OURS = re.compile(r"koinon-(\d+)-\w+")


def missing() -> str:
    """What keeps this machine from having this network; "" when nothing does."""
    if os.geteuid() != 0:
        return "not root"
    absent = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if absent:
        return f"no {' and no '.join(absent)}"
    probe = Namespaces(1)
    try:
        probe.start()
        probe.lose(1)
    except Unavailable as error:
        return error.message
    finally:
        probe.stop()
    return ""


class Namespaces:
    """The network of `replicas` replicas. `start`, then `stop`, which may be called at any time and again."""

    name = "namespaces"

    def __init__(self, replicas: int) -> None:
        if replicas > REPLICAS_MAX:
            raise Unavailable(f"at most {REPLICAS_MAX} replicas have room in this network")
        self._replicas = range(replicas)
        self._prefix = f"koinon-{os.getpid()}"
        self._subnet = f"198.18.{os.getpid() % 256}"
        self._cable = f"kn{os.getpid()}"
        self.chain_host = f"{self._subnet}.1"

    def start(self) -> None:
        """Make hub and namespaces. Unavailable with what the kernel said when one cannot be made."""
        sweep()
        hub = self._hub
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "runner", "netns", hub)
        self._plug("runner")
        _ip("address", "add", f"{self.chain_host}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        for index in self._replicas:
            own = self._own(index)
            _ip("netns", "add", own)
            _ip("-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", f"replica{index}", "netns", hub)
            self._plug(f"replica{index}")
            _ip("-n", own, "address", "add", f"{self.host(index)}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")
            _ip("-n", own, "link", "set", "lo", "up")

    def _plug(self, cable: str) -> None:
        _ip("-n", self._hub, "link", "set", cable, "master", "bridge", "up")

    @property
    def _hub(self) -> str:
        return f"{self._prefix}-hub"

    def _own(self, index: int) -> str:
        return f"{self._prefix}-r{index}"

    # --- what the committee asks

    def host(self, index: int) -> str:
        """Where replica `index` listens."""
        return f"{self._subnet}.{REPLICAS_MAX + index}"

    async def connect(self, ports: list[int]) -> None:
        """Take the replicas' ports."""
        self._ports = ports

    def url(self, source: int | None, target: int) -> str:
        """Where `source` (None: the runner) reaches `target`."""
        return f"http://{self.host(target)}:{self._ports[target]}"

    def command(self, index: int) -> list[str]:
        """What to put before the command of replica `index`."""
        return ["ip", "netns", "exec", self._own(index)]

    # --- weather

    def cut(self, source: int, target: int) -> None:
        """No packet of `source` reaches `target` any more; the other direction stays."""
        self._drop(target, "-s", self.host(source))

    def lose(self, percent: int) -> None:
        """Each packet between two replicas is lost with this probability; the clients' packets are not."""
        for index in self._replicas:
            chance = ("-m", "statistic", "--mode", "random", "--probability", str(percent / 100))
            self._drop(index, "-s", f"{self.host(0)}/28", *chance)

    def _drop(self, target: int, *which: str) -> None:
        _run(*self.command(target), "iptables", "-w", "-A", "INPUT", *which, "-j", "DROP")

    def heal(self) -> None:
        for index in self._replicas:
            _run(*self.command(index), "iptables", "-w", "-F", "INPUT")

    async def disconnect(self) -> None:
        """Nothing of this network lives in the runner."""

    def stop(self) -> None:
        for name in [self._hub, *map(self._own, self._replicas)]:
            _delete(name)
        _quietly("ip", "link", "del", self._cable)


def sweep() -> None:
    """Delete what runners left that were killed."""
    for path in NAMESPACES.glob("koinon-*"):
        found = _OURS.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _delete(path.name)
            _quietly("ip", "link", "del", f"kn{found[1]}")


def _delete(name: str) -> None:
    if (NAMESPACES / name).exists():
        _quietly("ip", "netns", "del", name)


def _quietly(*command: str) -> None:
    with contextlib.suppress(Unavailable, OSError):
        _run(*command)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
