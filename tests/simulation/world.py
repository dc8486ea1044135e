"""A committee in one process: real replicas, real signatures, a virtual clock, one seeded generator.

The network loses, delays, repeats and reorders; links are cut in one direction or both; disks forget what was not
synced when a replica crashes. After every event the checkers in `checkers.py` look at the whole committee.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from koinon.encoding import decode, encode, keccak
from koinon.errors import KoinonError, UnknownSigner
from koinon.signing import Domain, Signer, authenticate, seal
from koinon.wire import CommittedBatch, Reply, Request
from pbft.events import (
    ALL,
    CatchUp,
    ClientRequest,
    Committed,
    Effect,
    Event,
    Evidence,
    Misbehaved,
    NeedState,
    Persist,
    Received,
    Recovered,
    Refuse,
    Respond,
    Send,
    Settings,
    StableCheckpoint,
    Tick,
)
from pbft.messages import GENESIS, CheckpointCertificate, PeerMessage, Record
from pbft.quorum import Committee
from pbft.replica import Replica

from .checkers import Checkers

START_MS = 1_700_000_000_000
DOMAIN = Domain(chain_id=31337, contract=b"\x11" * 20)
SMALL = Settings(
    checkpoint_interval=4,
    window=12,
    batch_requests_max=4,
    pipeline_slots_max=3,
    pending_per_client_max=4,
    pending_requests_max=64,
    view_timeout_ms=1_000,
    view_timeout_ms_max=8_000,
)


@cache
def signer(role: str, index: int) -> Signer:
    """A fixed key for each party, so that every run of a seed is the same."""
    return Signer(keccak(f"{role} {index}".encode()))


def committee(n: int) -> Committee:
    return Committee(tuple(signer("replica", index).address for index in range(n)))


class Ledger:
    """The replicated application of the tests: an append-only list of (sender, operation), hashed in order."""

    def __init__(self) -> None:
        self.entries: tuple[tuple[bytes, bytes, int], ...] = ()

    def execute(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        self.entries += ((sender, operation, time_ms),)
        return len(self.entries).to_bytes(4, "big") + operation

    def admits(self, sender: bytes, operation: bytes) -> None:
        if operation == b"stranger":
            raise UnknownSigner("nobody knows this party")

    def root(self) -> bytes:
        return keccak(self.snapshot())

    def snapshot(self) -> bytes:
        return encode(self.entries)

    def restore(self, snapshot: bytes) -> None:
        self.entries = decode(tuple[tuple[bytes, bytes, int], ...], snapshot)


@dataclass
class Disk:
    """What survives a crash. Records and entries that were not synced are lost (perhaps not all of them)."""

    journal: list[Record] = field(default_factory=list)
    unsynced: list[Record] = field(default_factory=list)
    archive: dict[int, CommittedBatch] = field(default_factory=dict)
    archive_synced: int = 0
    certificate: CheckpointCertificate | None = None
    snapshot: bytes | None = None

    def sync(self) -> None:
        self.journal += self.unsynced
        self.unsynced = []

    def crash(self, generator: random.Random) -> None:
        kept = generator.randrange(len(self.unsynced) + 1)
        self.journal += self.unsynced[:kept]
        self.unsynced = []
        floor = max(self.archive_synced, 0)
        top = max(self.archive, default=0)
        cut = generator.randint(floor, top) if top > floor else top
        self.archive = {number: entry for number, entry in self.archive.items() if number <= cut}

    def read(self, first: int, limit: int = 64) -> tuple[CommittedBatch, ...]:
        found: list[CommittedBatch] = []
        while len(found) < limit and first + len(found) in self.archive:
            found.append(self.archive[first + len(found)])
        return tuple(found)


@dataclass
class Network:
    """The weather: per-message probabilities, delays in ms, and cut links (ordered pairs)."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_ms_max: int = 10
    cut: set[tuple[int, int]] = field(default_factory=set)


Interceptor = Callable[["World", int, int, PeerMessage], list[tuple[int, PeerMessage]]]


class World:
    """A committee of `n`, its disks, its network, its clients; `run_until` lets virtual time pass."""

    def __init__(self, n: int, seed: int, *, settings: Settings = SMALL, check: bool = True) -> None:
        self.n = n
        self.seed = seed
        self.random = random.Random(seed)
        self.settings = settings
        self.committee = committee(n)
        self.now_ms = START_MS
        self.network = Network()
        self.disks = [Disk() for _ in range(n)]
        self.replicas: list[Replica | None] = [None] * n
        self.byzantine: dict[int, Interceptor] = {}
        self.evidence: list[Evidence] = []
        self.misbehaved: list[tuple[int, Misbehaved]] = []
        self.refused: list[tuple[int, Refuse]] = []
        self.replies: dict[tuple[bytes, int], dict[int, bytes]] = {}
        self.pending: dict[tuple[bytes, int], bytes] = {}
        self.lies: dict[tuple[int, int], list[bytes]] = {}
        self.history: list[PeerMessage] = []
        self.genesis = GENESIS
        self.todo: dict[int, list[bytes]] = {}
        self.current: dict[int, tuple[bytes, int]] = {}
        self.waiting: dict[bytes, int] = {}
        self.done = 0
        self.thinking_ms_max = 1
        self._number: dict[int, int] = {}
        self.steps = 0
        self._queue: list[tuple[int, int, int, Event | None]] = []
        self._order = 0
        self._incarnation = [0] * n
        self.checkers = Checkers(self) if check else None
        for index in range(n):
            self.start(index)

    # --- replicas

    def start(self, index: int, *, wiped: bool = False) -> None:
        """(Re)start a replica from its disk."""
        if wiped:
            self.disks[index] = Disk()
        disk = self.disks[index]
        application = Ledger()
        replica = Replica(index, self.committee, DOMAIN, signer("replica", index), application, self.settings)
        self.replicas[index] = replica
        self._incarnation[index] += 1
        first = disk.certificate.checkpoint.sequence + 1 if disk.certificate else 1
        entries = disk.read(first, limit=10_000)
        self.perform(
            index,
            replica.step(Recovered(self.now_ms, tuple(disk.journal), entries, disk.certificate, disk.snapshot)),
        )
        self._schedule(self.random.randint(0, 40), index, Tick(0))

    def crash(self, index: int) -> None:
        """kill -9: memory and what was not synced are gone."""
        self.replicas[index] = None
        self.disks[index].crash(self.random)

    def live(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica is not None]

    def honest(self) -> list[Replica]:
        return [replica for replica in self.live() if replica.index not in self.byzantine]

    def ledger(self, index: int) -> Ledger:
        replica = self.replicas[index]
        assert replica is not None
        application = replica.execution.application
        assert isinstance(application, Ledger)
        return application

    # --- clients

    def request(self, client: int, number: int, operation: bytes, to: int | None = None) -> tuple[bytes, int]:
        """A client sends a request to one replica, or to all; it sends again until f+1 replies agree."""
        thinking = self.random.randint(1, self.thinking_ms_max)
        who = signer("client", client)
        data = seal(who, DOMAIN, Request(number=number, operation=operation))
        key = (who.address, number)
        self.pending[key] = data
        for index in range(self.n) if to is None else [to]:
            self._schedule(thinking + self.random.randint(1, 10), index, ClientRequest(0, data))
        return key

    def script(self, client: int, operations: int) -> None:
        """A client with a list of things to do, one after the other (section 4.1: one request at a time)."""
        self.todo[client] = [f"client {client} operation {k}".encode() for k in range(1, operations + 1)]
        self._next_operation(client)

    def _next_operation(self, client: int) -> None:
        self._number[client] = self._number.get(client, 0) + 1
        to = None if self.random.random() < 0.3 else self.random.randrange(self.n)
        self.waiting[signer("client", client).address] = client
        self.current[client] = self.request(client, self._number[client], self.todo[client].pop(0), to)

    def _answered(self, client: bytes, number: int) -> None:
        """A scripted client got f+1 equal replies: it goes on to its next operation."""
        index = self.waiting.get(client)
        if index is None or self.current.get(index) != (client, number) or not self.answered((client, number)):
            return
        del self.current[index]
        self.done += 1
        if self.todo[index]:
            self._next_operation(index)

    def resend_pending(self) -> None:
        for key, data in self.pending.items():
            if not self.answered(key):
                for index in range(self.n):
                    self._schedule(self.random.randint(1, 10), index, ClientRequest(0, data))

    def answered(self, key: tuple[bytes, int]) -> bool:
        """f+1 replicas gave the same result."""
        results = list(self.replies.get(key, {}).values())
        return any(results.count(result) >= self.committee.weak for result in results)

    # --- time

    def _schedule(self, delay_ms: int, index: int, event: Event) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._order, index, self._incarnation[index], event))

    def run_until(self, done: Callable[[], bool], within_ms: int, *, resend_ms: int = 1_500) -> bool:
        """Let time pass until `done()`, at most `within_ms` of virtual time; clients retransmit meanwhile."""
        limit = self.now_ms + within_ms
        resend_at = self.now_ms + resend_ms
        while not done():
            if self.now_ms >= limit or not self._queue:
                return done()
            at, _, index, incarnation, event = heapq.heappop(self._queue)
            self.now_ms = max(self.now_ms, at)
            if self.now_ms >= resend_at:
                resend_at = self.now_ms + resend_ms
                self.resend_pending()
            self._step(index, incarnation, event)
        return True

    def run(self, for_ms: int) -> None:
        end = self.now_ms + for_ms
        self.run_until(lambda: self.now_ms >= end, for_ms)

    def _step(self, index: int, incarnation: int, event: Event) -> None:
        replica = self.replicas[index]
        same = incarnation == self._incarnation[index]
        if isinstance(event, Tick):
            if replica is None or not same:
                return
            self._schedule(self.settings.tick_ms, index, event)
        if replica is None:
            return
        self.steps += 1
        self.perform(index, replica.step(_at(event, self.now_ms)))
        if self.checkers is not None:
            self.checkers.after_step(index)

    # --- effects

    def perform(self, index: int, effects: list[Effect]) -> None:
        """What the shell does: in order, and a Persist is synced before the next Send."""
        disk = self.disks[index]
        for effect in effects:
            match effect:
                case Persist(record):
                    disk.unsynced.append(record)
                case Send(to, message):
                    disk.sync()
                    if self.checkers is not None:
                        self.checkers.said(index, message)
                    targets = [peer for peer in range(self.n) if peer != index] if to == ALL else [to]
                    for target in targets:
                        self._send(index, target, message)
                case Respond(client, number, data):
                    reply = authenticate(Reply, data, DOMAIN)
                    assert reply.sender == self.committee.members[index]
                    self.replies.setdefault((client, number), {})[index] = reply.message.result
                    self._answered(client, number)
                case Refuse():
                    self.refused.append((index, effect))
                case Committed(entry):
                    disk.archive[entry.sequence] = entry
                    if self.checkers is not None:
                        self.checkers.committed(index, effect)
                case StableCheckpoint(certificate, snapshot, retained):
                    disk.archive_synced = max(disk.archive, default=0)
                    disk.certificate, disk.snapshot = certificate, snapshot
                    disk.journal, disk.unsynced = list(retained), []
                    if self.checkers is not None:
                        self.checkers.stable(index, effect)
                case NeedState(from_sequence, _):
                    self._fetch_state(index, from_sequence)
                case Evidence():
                    if self.checkers is not None:
                        self.checkers.convicted(index, effect)
                    self.evidence.append(effect)
                case Misbehaved():
                    self.misbehaved.append((index, effect))
                case _:
                    pass

    def _send(self, source: int, target: int, message: PeerMessage) -> None:
        pairs = [(target, message)]
        if source in self.byzantine:
            pairs = self.byzantine[source](self, source, target, message)
        for to, said in pairs:
            self.transmit(source, to, said)

    def transmit(self, source: int, target: int, message: PeerMessage) -> None:
        """Hand a message to the network."""
        network = self.network
        copies = 2 if self.random.random() < network.duplicate else 1
        for _ in range(copies):
            if (source, target) in network.cut or self.random.random() < network.drop:
                continue
            delay = self.random.randint(1, network.delay_ms_max)
            self._schedule(delay, target, Received(0, source, encode(message)))

    def _fetch_state(self, index: int, first: int) -> None:
        """The shell asks one peer at random; its archive answers, or its snapshot if the entries are gone."""
        peer = self.random.choice([other for other in range(self.n) if other != index] or [index])
        if (peer, index) in self.network.cut or (index, peer) in self.network.cut:
            return
        if self.replicas[peer] is None or self.random.random() < self.network.drop:
            return
        disk = self.disks[peer]
        entries = disk.read(first)
        event = CatchUp(0, peer, entries)
        if not entries and disk.certificate is not None:
            after = disk.read(disk.certificate.checkpoint.sequence + 1)
            event = CatchUp(0, peer, after, disk.certificate, disk.snapshot)
        self._schedule(self.random.randint(1, 2 * self.network.delay_ms_max), index, event)


def _at(event: Event, now_ms: int) -> Event:
    """The event with the clock of its delivery."""
    match event:
        case Received(_, sender, data):
            return Received(now_ms, sender, data)
        case ClientRequest(_, data):
            return ClientRequest(now_ms, data)
        case CatchUp(_, sender, entries, certificate, snapshot):
            return CatchUp(now_ms, sender, entries, certificate, snapshot)
        case _:
            return Tick(now_ms)


def quiet(error: KoinonError) -> str:
    return f"{error.code}: {error.message}"
