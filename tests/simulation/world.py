"""A committee in one process: real replicas, real signatures, a virtual clock, one seeded generator.

The network loses, delays, repeats and reorders; links are cut in one direction or both; disks forget what was not
synced when a replica crashes. After every event the checkers in `checkers.py` look at the whole committee.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from koinon.encoding import encode
from koinon.errors import InvariantBroken
from koinon.signing import authenticate, seal
from koinon.wire import Reply, Request
from pbft.events import (
    CatchUp,
    ClientRequest,
    Committed,
    Effect,
    EpochEnded,
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
    SyncArchive,
    Tick,
)
from pbft.messages import GENESIS, PeerMessage, SignedNewView
from pbft.replica import Replica

from .checkers import Checkers
from .members import DOMAIN, Epochs, committee, signer
from .storage import Disk, Ledger

__all__ = [
    "CLIENT", "DOMAIN", "SMALL", "START_MS", "Interceptor", "Ledger", "Network", "Said", "Word", "World",
    "committee", "signer",
]  # fmt: skip

START_MS = 1_700_000_000_000
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


@dataclass
class Network:
    """The weather: per-message probabilities, delays in ms, and cut links (ordered pairs)."""

    drop: float = 0.0
    duplicate: float = 0.0
    delay_ms_max: int = 10
    cut: set[tuple[int, int]] = field(default_factory=set)


CLIENT = -2
"""The target of a `Reply`, for an interceptor."""
Word = PeerMessage | Reply | CatchUp | bytes
Said = list[tuple[int, Word]]
Interceptor = Callable[["World", int, int, Word], Said]
"""(world, source, target, what an honest replica would send) -> what a liar sends instead, to whom."""


class World:
    """A committee of `n`, its disks, its network, its clients; `run_until` lets virtual time pass."""

    def __init__(
        self,
        n: int,
        seed: int,
        *,
        settings: Settings = SMALL,
        check: bool = True,
        twins: tuple[int, ...] = (),
        spares: int = 0,
    ) -> None:
        """`twins` run twice; `spares` more replicas have no seat at first."""
        self.n = n
        self.identities = (*range(n + spares), *twins)
        self.instances = len(self.identities)
        self.seed = seed
        self.random = random.Random(seed)
        self.settings = settings
        self.committee = committee(n)
        self.epochs = Epochs(self)
        self.now_ms = START_MS
        self.network = Network()
        self.disks = [Disk() for _ in self.identities]
        self.replicas: list[Replica | None] = [None] * self.instances
        self.byzantine: dict[int, Interceptor] = {}
        self.evidence: list[Evidence] = []
        self.misbehaved: list[tuple[int, Misbehaved]] = []
        self.refused: list[tuple[int, Refuse]] = []
        self.replies: dict[tuple[bytes, int], dict[int, bytes]] = {}
        self.pending: dict[tuple[bytes, int], bytes] = {}
        self.lies: dict[tuple[int, int, int], list[bytes]] = {}
        self.history: list[Word] = []
        self.genesis = GENESIS
        self.todo: dict[int, list[bytes]] = {}
        self.current: dict[int, tuple[bytes, int]] = {}
        self.waiting: dict[bytes, int] = {}
        self.done = 0
        self.thinking_ms_max = 1
        self._number: dict[int, int] = {}
        self.frozen_until_ms: dict[int, int] = {}
        self.archive_kept = 1 << 62
        self.blocks: Callable[[int, int, Word], bool] | None = None
        self.skew_ms = [0] * self.instances
        self.steps = 0
        self.injected: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.views: set[int] = set()
        self._queue: list[tuple[int, int, int, Event | None]] = []
        self._order = 0
        self._incarnation = [0] * self.instances
        self._arrivals: dict[tuple[int, int], int] = {}
        self.checkers = Checkers(self) if check else None
        for index in range(self.instances):
            self.start(index)

    # --- replicas

    def start(self, index: int, *, wiped: bool = False) -> None:
        """(Re)start a replica from its disk."""
        if wiped:
            self.disks[index] = Disk.wiped()
            self.injected["wiped disk"] += 1
        disk = self.disks[index]
        self._incarnation[index] += 1
        self._schedule(self.random.randint(0, 40), index, Tick(0))
        self.replicas[index] = replica = self.epochs.replica(index)
        if replica is None:  # it has no seat in the epoch that it knows
            return
        first = disk.certificate.checkpoint.sequence + 1 if disk.certificate else 1
        entries = disk.read(first, limit=10_000)
        self.perform(
            index,
            replica.step(
                Recovered(
                    self.now_ms + self.skew_ms[index], tuple(disk.journal), entries, disk.certificate, disk.snapshot
                )
            ),
        )

    def crash(self, index: int) -> None:
        """kill -9: memory and what was not synced are gone."""
        if self.replicas[index] is not None:
            self.injected["crash"] += 1
        self.replicas[index] = None
        self.epochs.standby.discard(index)
        self.disks[index].crash(self.random)

    def live(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica is not None]

    def honest(self) -> list[Replica]:
        return [one for index, one in enumerate(self.replicas) if one is not None and index not in self.byzantine]

    def recovering(self) -> set[int]:
        """Who lost its disk, and is not yet back: it counts toward f where liveness is concerned, and nowhere else."""
        return {
            index
            for index, replica in enumerate(self.replicas)
            if (replica.recovering if replica is not None else self.disks[index].recovering)
        }

    def together(self) -> bool:
        """Whether all honest members of the newest epoch work in one view."""
        newest = max(one.epoch for one in self.honest())
        members = [one for one in self.honest() if one.epoch == newest]
        return all(one.active for one in members) and len({one.view for one in members}) == 1

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
        for index in range(self.instances) if to is None else [to]:
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
                for index in range(self.instances):
                    self._schedule(self.random.randint(1, 10), index, ClientRequest(0, data))

    def client_of(self, data: bytes) -> bytes:
        """The address of whoever sealed a request."""
        return authenticate(Request, data, DOMAIN).sender

    def believed(self, key: tuple[bytes, int]) -> set[bytes]:
        """The results that f+1 members of one committee gave."""
        replies = self.replies.get(key, {})
        return {
            result
            for committee in self.epochs.committees
            for result, count in Counter(
                said for identity, said in replies.items() if signer("replica", identity).address in committee.members
            ).items()
            if count >= committee.weak
        }

    def answered(self, key: tuple[bytes, int]) -> bool:
        """f+1 replicas gave the same result."""
        return bool(self.believed(key))

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
        if isinstance(event, Tick) and not same:
            return
        if isinstance(event, Tick) and self.epochs.poll(index):  # it restarted
            return
        if replica is None:
            if index in self.epochs.standby and isinstance(event, Tick):
                self._schedule(self.settings.tick_ms, index, event)
            return
        frozen_ms = self.frozen_until_ms.get(index, 0) - self.now_ms
        if frozen_ms > 0:
            self._schedule(frozen_ms, index, event)
            return
        if isinstance(event, Tick):
            self._schedule(self.settings.tick_ms, index, event)
        self.steps += 1
        before = replica.executed
        try:
            effects = replica.step(_at(event, self.now_ms + self.skew_ms[index], self.epochs.seat(index, event)))
        except InvariantBroken:
            if index not in self.byzantine:
                raise
            self.replicas[index] = None  # a liar may be stopped by its own lies
            return
        self.perform(index, effects)
        if isinstance(event, CatchUp) and replica.executed > before:
            self.happened["entries transferred" if event.snapshot is None else "states transferred"] += 1
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
                    if isinstance(record, SignedNewView) and index not in self.byzantine:
                        self.views.add(record.message.view)
                case Send(to, message):
                    disk.sync()
                    if self.checkers is not None:
                        self.checkers.said(index, message)
                    for target in self.epochs.targets(index, to):
                        self._send(index, target, message)
                case Respond(reply):
                    for _, said in self._says(index, CLIENT, reply):
                        assert isinstance(said, Reply)
                        self.replies.setdefault((reply.client, said.number), {})[self.identities[index]] = said.result
                    self._answered(reply.client, reply.number)
                case Refuse():
                    self.refused.append((index, effect))
                case Committed(entry):
                    disk.archive[entry.sequence] = entry
                    if self.checkers is not None:
                        self.checkers.committed(index, effect)
                case SyncArchive():
                    disk.sync_archive()
                case StableCheckpoint(certificate, snapshot, retained):
                    disk.sync_archive()
                    disk.certificate, disk.snapshot = certificate, snapshot
                    disk.journal, disk.unsynced = list(retained), []
                    disk.prune(certificate.checkpoint.sequence - self.archive_kept)
                    self.happened["checkpoints"] += 1
                    if self.checkers is not None:
                        self.checkers.stable(index, effect)
                case EpochEnded(certificate):
                    self.epochs.ended(index, certificate)
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

    def _says(self, source: int, target: int, message: Word) -> Said:
        honest: Said = [(target, message)]
        liar = self.byzantine.get(source)
        if liar is None:
            return honest
        said = liar(self, source, target, message)
        if said != honest:
            self.injected[f"lie: {liar.__name__}"] += 1
        return said

    def _send(self, source: int, target: int, message: PeerMessage) -> None:
        for to, said in self._says(source, target, message):
            self.transmit(source, to, said)

    def transmit(self, source: int, target: int, message: Word, *, later_ms: int = 0) -> None:
        """Hand a message to the network, or let its sender hold it back for `later_ms` more."""
        network, link = self.network, (source, target)
        copies = 1
        if self.random.random() < network.duplicate:
            copies = 2
            self.injected["duplicate"] += 1
        for _ in range(copies):
            if link in network.cut or (self.blocks is not None and self.blocks(source, target, message)):
                self.injected["cut off"] += 1
                continue
            if self.random.random() < network.drop:
                self.injected["drop"] += 1
                continue
            delay = self.random.randint(1, network.delay_ms_max) + later_ms
            if self.now_ms + delay < self._arrivals.get(link, 0):
                self.injected["reordering"] += 1
            self._arrivals[link] = self.now_ms + delay
            data = message if isinstance(message, bytes) else encode(message)
            self._schedule(delay, target, Received(0, self.identities[source], data))

    def _fetch_state(self, index: int, first: int) -> None:
        """The shell asks one peer at random; its archive answers, or its snapshot if the entries are gone."""
        peer = self.random.choice([other for other in range(self.instances) if other != index] or [index])
        if (peer, index) in self.network.cut or (index, peer) in self.network.cut:
            return
        up = self.replicas[peer] is not None or peer in self.epochs.standby
        if not up or self.random.random() < self.network.drop:
            return
        disk, sender = self.disks[peer], self.identities[peer]
        entries = disk.read(first)
        event = CatchUp(0, sender, entries)
        if not entries and disk.certificate is not None:
            after = disk.read(disk.certificate.checkpoint.sequence + 1)
            event = CatchUp(0, sender, after, disk.certificate, disk.snapshot)
        for _, said in self._says(peer, index, event):
            assert isinstance(said, CatchUp)
            self._schedule(self.random.randint(1, 2 * self.network.delay_ms_max), index, said)


def _at(event: Event, now_ms: int, sender: int) -> Event:
    """The event with the clock of its delivery, and its sender's place in the receiver's committee."""
    match event:
        case Received(_, _, data):
            return Received(now_ms, sender, data)
        case ClientRequest(_, data):
            return ClientRequest(now_ms, data)
        case CatchUp(_, _, entries, certificate, snapshot):
            return CatchUp(now_ms, sender, entries, certificate, snapshot)
        case _:
            return Tick(now_ms)
