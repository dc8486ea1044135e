"""A committee of real replica processes on loopback, without a chain.

`Committee` writes homes and starts `python -m pbft`; what a test measures or breaks is the rest (see also `walk`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import tomli_w

from koinon.client import CommitteeClient
from koinon.config import (
    JOURNAL_FILE,
    ContractAddresses,
    FederationFile,
    PaillierEntry,
    ReplicaEntry,
    create_keystore,
    save_federation,
    write_atomically,
)
from koinon.encoding import from_hex, to_hex
from koinon.epochs import Seat
from koinon.errors import KoinonError
from koinon.privacy import SealingKey, seal_to
from koinon.privacy.sealing import key_share_context
from koinon.rounds.operations import (
    Enrol,
)
from koinon.service import client_tls
from koinon.signing import Signer
from koinon.wire import Admission, Role
from scripts._committee import change
from scripts._homes import certificate_request
from scripts.tls import Certified, certify, make_authority

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "only for tests"
READY_SECONDS = 60.0
NO_CHAIN = "http://127.0.0.1:9"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Committee:
    """Homes of replicas in `folder`, and their processes. Use as a context manager: leaving it ends them."""

    def __init__(
        self, folder: Path, *, replicas: int = 4, paillier_bits: int = 0, log_level: str = "info", tls: bool = False
    ) -> None:
        self.folder = folder
        self.authority = make_authority("test") if tls else None
        self._scheme = "https" if tls else "http"
        self._log_level = log_level
        self.registrar = Signer(secrets.token_bytes(32))
        self.signers = [Signer(secrets.token_bytes(32)) for _ in range(replicas)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        sealing = [SealingKey.derive(signer.secret, 0) for signer in self.signers]
        ports = free_ports(replicas)
        shares: Sequence[bytes] = ()
        paillier = None
        if paillier_bits:
            from koinon.privacy.paillier_key import generate_key

            public, shares, _ = generate_key(paillier_bits, replicas, secrets.token_bytes)
            paillier = PaillierEntry(bits=paillier_bits, public_key=to_hex(public))
        addresses = (to_hex(bytes([number]) * 20) for number in range(1, 6))
        self.federation = FederationFile(
            version=1,
            name="test",
            chain_id=31337,
            genesis_hash=to_hex(bytes(32)),
            rpc=NO_CHAIN,
            contracts=ContractAddresses(*addresses),  # type: ignore[misc]
            registrar=to_hex(self.registrar.address),
            epoch=0,
            replicas=tuple(
                ReplicaEntry(
                    address=to_hex(signer.address),
                    sealing_key=to_hex(key.public),
                    url=f"{self._scheme}://127.0.0.1:{port}",
                )
                for signer, key, port in zip(self.signers, sealing, ports, strict=True)
            ),
            paillier=paillier,
            tls_ca=self.authority.certificate.decode() if self.authority else "",
        )
        self.first = self.federation
        self.urls = [replica.url for replica in self.federation.replicas]
        for index, (key, port) in enumerate(zip(sealing, ports, strict=True)):
            self._write_home(index, index, port)
            if paillier is not None:
                context = key_share_context(from_hex(paillier.public_key), index)
                write_atomically(self.home(index) / "paillier-share", seal_to(key.public, shares[index], context))

    def _write_home(self, index: int, seat: int, port: int, *, public_url: str = "") -> None:
        home = self.home(index)
        home.mkdir(parents=True)
        save_federation(home / "federation.json", self.first)
        write_atomically(home / "password", PASSWORD.encode())
        create_keystore(home / "keystore.json", PASSWORD, self.signers[index].secret)
        write_atomically(home / "data" / JOURNAL_FILE, b"")
        table = {"role": "replica", "index": seat, "public_url": public_url, "log_level": self._log_level}
        listen: dict[str, Any] = {"listen": {"host": "127.0.0.1", "port": port}}
        if self.authority is not None:
            listen["tls"] = {"certificate": "tls.pem", "key": "tls.key"}
            self.certify(index, self.authority)
        write_atomically(home / "config.toml", tomli_w.dumps({**table, **listen}).encode())

    def certify(self, index: int, authority: Certified, name: str = "127.0.0.1") -> None:
        """As the operator of home `index` asks, and the registrar answers: a TLS certificate for `name`."""
        request = certificate_request(self.home(index))
        write_atomically(self.home(index) / "tls.pem", certify(authority, request.read_bytes(), name, [name]))

    def newcomer(self) -> int:
        """A home without a seat, with a key of its own; its number (that of its process, not of a seat)."""
        index, (port,) = len(self.signers), free_ports(1)
        self.signers.append(Signer(secrets.token_bytes(32)))
        self.urls.append(f"{self._scheme}://127.0.0.1:{port}")
        self._write_home(index, -1, port, public_url=self.urls[-1])
        return index

    def seat(self, index: int, epoch: int = 0) -> Seat:
        """What the operator of home `index` hands to the registrar."""
        signer = self.signers[index]
        public = SealingKey.derive(signer.secret, epoch).public
        return Seat(address=signer.address, sealing_key=public, url=self.urls[index])

    def seats(self, *indices: int) -> tuple[Seat, ...]:
        return tuple(map(self.seat, indices))

    async def hand_over(self, *indices: int, seconds: float = 60.0) -> None:
        """The registrar has these homes ordered as the next committee; until all of them that run are in it."""
        async with self.client(self.registrar) as client:
            await change(client, self.seats(*indices), seconds_max=seconds, say=lambda line: None)
            self.federation = client.federation

    async def status(self, index: int) -> dict[str, Any]:
        """What the process of home `index` says of itself, with a seat or without."""
        connector = aiohttp.TCPConnector(ssl=client_tls(self.federation.tls_ca) or False)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"{self.urls[index]}/v1/status") as answer,
        ):
            said: dict[str, Any] = await answer.json()
            return said

    async def until(self, index: int, condition: Callable[[dict[str, Any]], bool], *, seconds: float = 30.0) -> None:
        """Wait until `condition` holds of what home `index` says of itself."""
        said: dict[str, Any] = {}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                if condition(said := await self.status(index)):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError(f"replica {index} is at {said} after {seconds:g} s:\n{self.log(index)}")

    def home(self, index: int) -> Path:
        return self.folder / f"replica-{index}"

    def log(self, index: int) -> str:
        return (self.home(index) / "log").read_text()

    def __enter__(self) -> Committee:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for index in list(self._processes):
            self.signal(index, signal.SIGCONT)
            self.signal(index, signal.SIGTERM)
        for index in list(self._processes):
            self.wait(index)

    def start(self, *indices: int) -> None:
        """Start these replicas, or all."""
        for index in indices or range(len(self.signers)):
            with (self.home(index) / "log").open("ab") as output:
                self._processes[index] = subprocess.Popen(
                    [sys.executable, "-m", "pbft", "--home", str(self.home(index))],
                    cwd=ROOT,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )

    def signal(self, index: int, number: signal.Signals) -> None:
        self._processes[index].send_signal(number)

    def pid(self, index: int) -> int:
        return self._processes[index].pid

    def wait(self, index: int) -> int:
        """The exit code of a replica that was asked to end."""
        process = self._processes.pop(index)
        try:
            return process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def kill(self, index: int) -> None:
        """As a power cut would: kill -9."""
        self.signal(index, signal.SIGKILL)
        self.wait(index)

    def client(self, signer: Signer | None = None) -> CommitteeClient:
        return CommitteeClient(self.federation, signer)

    async def ready(self, *indices: int, seconds: float = READY_SECONDS) -> None:
        """Wait until these replicas (or all) are connected to a quorum and have caught up."""
        wanted = indices or tuple(range(len(self.signers)))
        deadline = time.monotonic() + seconds
        async with self.client() as client:
            for index in wanted:
                while not await self._is_ready(client, index):
                    if time.monotonic() > deadline:
                        raise AssertionError(f"replica {index} is not ready:\n{self.log(index)}")
                    await asyncio.sleep(0.1)

    async def _is_ready(self, client: CommitteeClient, index: int) -> bool:
        try:
            standing = await client.status(index)
        except KoinonError:
            process = self._processes.get(index)
            if process is None or process.poll() is not None:
                raise AssertionError(f"replica {index} ended:\n{self.log(index)}") from None
            return False
        connected = len(standing["peers"]) + 1 >= self.federation.quorum
        behind = standing["catching_up"] or standing["lag"] or standing["recovering"]
        return bool(connected and not behind)

    async def sequences(self, *indices: int) -> list[int]:
        """How far these replicas (or all) executed."""
        async with self.client() as client:
            wanted = indices or tuple(range(len(self.signers)))
            return [int((await client.status(index))["sequence"]) for index in wanted]

    async def reaches(self, index: int, sequence: int, *, seconds: float = 10.0) -> None:
        """Wait until replica `index` has executed `sequence`; TimeoutError otherwise."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    if (await self.sequences(index))[0] >= sequence:
                        return
                except KoinonError:
                    pass
                await asyncio.sleep(0.05)

    def enrolment(self, signer: Signer, roles: Role, *, serial: int = 1, examples_max: int = 1000) -> Enrol:
        """The admission that the registrar gives to `signer`."""
        public = SealingKey.derive(signer.secret, 0).public
        admission = Admission(
            member=signer.address, roles=int(roles), examples_max=examples_max, sealing_key=public, serial=serial
        )
        return Enrol(admission=admission, signature=self.registrar.sign(self.federation.domain, admission))
