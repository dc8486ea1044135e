"""What ordering costs when nothing else does: the cores of a committee in one process, each with its own files.

    python -m pbft.floor --replicas 4 --batch 256 --seconds 4      # one JSON object on standard output

Every replica has its real journal and archive (each turn's votes are synced before they are sent) and the real law.
Messages are encoded, handed over and decoded, but cross no network; there is no client but who seals the requests
beforehand, and the f+1 replies that a client waits for are signed. Caches that replicas of one process would share are
emptied at each turn. `cpu_us` is CPU per operation and replica.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from koinon.encoding import encode
from koinon.rounds.law import Federation
from koinon.rounds.operations import SubmitUpdate
from koinon.rounds.state import Genesis, Member, State
from koinon.signing import Domain, Signer, recover, seal
from koinon.wire import REPLIES_MAX, Replies, Reply, Request, Role, SignedReceipt

from . import certificates
from .engine import Disk, Written, now_ms
from .events import ALL, ClientRequest, Effect, Event, Received, Respond, Send, Tick
from .messages import GENESIS, Status
from .quorum import Committee
from .replica import Replica

BATCHES_SEALED_AT_ONCE = 16
PRIMITIVE_TIMES = 400


class Floor:
    """A committee of `n`, without a network, in `folder`; `clients` are members."""

    def __init__(self, n: int, folder: Path, clients: list[Signer]) -> None:
        signers = [Signer(secrets.token_bytes(32)) for _ in range(n)]
        members = tuple(signer.address for signer in signers)
        self.domain = Domain(chain_id=31337, contract=bytes(20))
        genesis = Genesis(
            chain_id=self.domain.chain_id, ledger=bytes(20), registrar=bytes(20), epoch=0, replicas=members
        )
        self.committee = Committee(members)
        self.replicas = [
            Replica(index, {0: self.committee}, 0, self.domain, signer, Federation(genesis, _with(clients)))
            for index, signer in enumerate(signers)
        ]
        self.disks = [Disk(folder / str(index)) for index in range(n)]
        self.inboxes: list[deque[Event]] = [deque() for _ in range(n)]
        for index in range(n):
            self.inboxes[index].append(Tick(now_ms()))
        self.settle()

    def close(self) -> None:
        for disk in self.disks:
            disk.close()

    def order(self, requests: list[bytes]) -> None:
        """The f+1 replicas that a client asks hear of the requests; turn after turn until nobody has more to say."""
        for index in range(self.committee.weak):
            self.inboxes[index].extend(ClientRequest(now_ms(), data) for data in requests)
        self.settle()

    def settle(self) -> None:
        while any(self.inboxes):
            for index in range(self.committee.n):
                if self.inboxes[index]:
                    self._turn(index)

    def _turn(self, index: int) -> None:
        certificates.forget()
        replica, events = self.replicas[index], list(self.inboxes[index])
        self.inboxes[index].clear()
        effects: list[Effect] = [effect for event in events for effect in replica.step(event)]
        self.disks[index].write([effect for effect in effects if isinstance(effect, Written)])
        replies: list[Reply] = []
        for effect in effects:
            if isinstance(effect, Send):
                data = encode(effect.message)
                for peer in range(self.committee.n) if effect.to == ALL else (effect.to,):
                    if peer != index and not (isinstance(effect.message, Status) and replica.executed):
                        self.inboxes[peer].append(Received(now_ms(), index, data))
            elif isinstance(effect, Respond) and index < self.committee.weak:
                replies.append(effect.reply)
        for start in range(0, len(replies), REPLIES_MAX):
            replica.seal(Replies(replies=tuple(replies[start : start + REPLIES_MAX])))


def _with(clients: list[Signer]) -> State:
    state = State()
    for client in clients:
        state.members[client.address] = Member(
            roles=int(Role.NODE), examples_max=1000, sealing_key=bytes(32), serial=1, active=True, joined_ms=0
        )
    return state


def operation() -> bytes:
    """202 bytes that the law refuses by its first rules: there is no such task. The receipt is never looked at."""
    task, parent, update = secrets.token_bytes(32), secrets.token_bytes(32), secrets.token_bytes(32)
    receipts = (SignedReceipt(replica=0, signature=secrets.token_bytes(64)),)
    return encode(
        SubmitUpdate(task=task, round=1, parent_model=parent, update=update, examples=1, loss=1, receipts=receipts)
    )


def measure(n: int, batch: int, seconds: float, folder: Path) -> dict[str, float]:
    """Order batches for about `seconds` of wall-clock time, sealing not counted."""
    clients = [Signer(secrets.token_bytes(32)) for _ in range(batch)]
    floor = Floor(n, folder, clients)
    done = number = 0
    wall = cpu = 0.0
    try:
        while wall < seconds:
            sealed: list[list[bytes]] = []
            for _ in range(BATCHES_SEALED_AT_ONCE):
                number += 1
                sealed.append(
                    [seal(client, floor.domain, Request(number=number, operation=operation())) for client in clients]
                )
            begun, worked = time.perf_counter(), time.process_time()
            for requests in sealed:
                floor.order(requests)
                done += len(requests)
            wall, cpu = wall + time.perf_counter() - begun, cpu + time.process_time() - worked
        executed = {len(replica.execution.application.snapshot()) for replica in floor.replicas}
        ordered = floor.replicas[0].execution.last(clients[0].address)
        if ordered is None or ordered.number != number or len(executed) != 1:
            raise RuntimeError("the floor did not order what it was given")
    finally:
        floor.close()
    return {"ops_per_s": done / wall, "ms": 1000 * wall / (done / batch), "cpu_us": 1e6 * cpu / n / done}


def primitives(folder: Path) -> dict[str, float]:
    """Microseconds of one signature, one recovery, and one small synced write (medians)."""
    signer, digest = Signer(secrets.token_bytes(32)), secrets.token_bytes(32)
    signature = signer.sign_digest(digest)
    disk = Disk(folder / "primitives")
    file = os.open(folder / "fsync", os.O_RDWR | os.O_CREAT)

    def appended() -> None:
        os.write(file, bytes(1200))
        os.fsync(file)

    def journalled() -> None:
        disk.journal.append(GENESIS)
        disk.journal.sync()

    work = {
        "sign_us": lambda: signer.sign_digest(digest),
        "recover_us": lambda: recover(digest, signature),
        "journal_sync_us": journalled,
        "fsync_us": appended,
    }
    found = {}
    for name, action in work.items():
        times = []
        for _ in range(PRIMITIVE_TIMES):
            begun = time.perf_counter()
            action()
            times.append(time.perf_counter() - begun)
        found[name] = 1e6 * sorted(times)[PRIMITIVE_TIMES // 2]
    os.close(file)
    disk.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Order in one process, without a network.")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="koinon-floor-", dir=options.folder) as folder:
        row = measure(options.replicas, options.batch, options.seconds, Path(folder))
        json.dump(row | primitives(Path(folder)), sys.stdout)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
