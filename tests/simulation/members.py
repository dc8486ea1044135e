"""Who sits in the committee of which epoch, and how simulated replicas pass from one to the next, as their shells do.

A replica's disk keeps the handovers that it knows; it starts in the last epoch that they lead to, or stands by when it
has no seat there. Who has missed a handover asks the others for it, and believes what the committee that it knows
signed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from koinon.encoding import keccak
from koinon.epochs import Handover, Seat, faulty_max, verify_handover
from koinon.errors import RemoteError
from koinon.signing import Domain, Signer
from koinon.wire import CheckpointCertificate
from pbft.events import ALL, CatchUp, Event, Received
from pbft.messages import GENESIS
from pbft.quorum import Committee
from pbft.replica import Replica

from .storage import Ledger

if TYPE_CHECKING:
    from .world import World

DOMAIN = Domain(chain_id=31337, contract=b"\x11" * 20)
REGISTRAR = 1_000_000
"""The client that changes the committee."""
POLL_MS = 300


class Key(Signer):
    """Signing is deterministic, and scenarios repeat themselves: sign each digest once."""

    @lru_cache(maxsize=1 << 14)  # noqa: B019 - keys live as long as the process
    def sign_digest(self, digest: bytes) -> bytes:
        return super().sign_digest(digest)


@cache
def signer(role: str, index: int) -> Signer:
    """A fixed key for each party, so that every run of a seed is the same."""
    return Key(keccak(f"{role} {index}".encode()))


def committee(n: int) -> Committee:
    return Committee(tuple(signer("replica", index).address for index in range(n)))


def seats(identities: Iterable[int], *, keys: dict[int, int] | None = None) -> tuple[Seat, ...]:
    """Seats by index; `keys` names the generation of an identity's sealing key where it was rotated."""
    generation = keys or {}
    return tuple(
        Seat(
            address=signer("replica", one).address,
            sealing_key=keccak(f"seal {one} {generation.get(one, 0)}".encode()),
            url=f"http://replica-{one}",
        )
        for one in identities
    )


class Epochs:
    """The epochs of one world. `committees` are those that some honest replica saw begin, by epoch."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.committees: list[Committee] = [world.committee]
        self.handovers: list[Handover] = []
        self.standby: set[int] = set()
        self.crash_at_handover = 0.0
        self._changes = 0
        self._asked: tuple[tuple[bytes, int], int] | None = None
        self._poll_due_ms: dict[int, int] = {}

    # --- who sits where

    def members(self, epoch: int = -1) -> list[int]:
        """The identities in the committee of `epoch`, by index."""
        known = {signer("replica", one).address: one for one in self._world.identities}
        return [known[address] for address in self.committees[epoch].members]

    def seat(self, index: int, event: Event) -> int:
        """The sender's place in the committee of replica `index`; no link carries what comes from outside (-1)."""
        replica = self._world.replicas[index]
        if replica is None or not isinstance(event, Received | CatchUp):
            return -1
        address, members = signer("replica", event.sender).address, replica.committee.members
        return members.index(address) if address in members else -1

    def targets(self, index: int, to: int) -> list[int]:
        """The instances that replica `index` means by `to`, a place in its committee (or ALL the others)."""
        replica, identities = self._world.replicas[index], self._world.identities
        if replica is None:
            return []
        members = replica.committee.members
        meant = set(members) - {members[replica.index]} if to == ALL else {members[to]}
        return [one for one, identity in enumerate(identities) if signer("replica", identity).address in meant]

    def leads(self, index: int, view: int) -> bool:
        """Whether replica `index` is the primary of a view of its epoch."""
        replica = self._world.replicas[index]
        return replica is not None and replica.committee.primary(view) == replica.index

    # --- changes

    def change(self, identities: Sequence[int], *, keys: dict[int, int] | None = None) -> tuple[bytes, int]:
        """The registrar asks all for another committee."""
        self._changes += 1
        self._world.injected["change of the committee"] += 1
        key = self._world.request(REGISTRAR, self._changes, Ledger.change(seats(identities, keys=keys)))
        self._asked = (key, faulty_max(len(identities)))
        return key

    @property
    def _changing(self) -> bool:
        """Whether a change was asked for that no honest replica has seen take effect."""
        return self._changes >= len(self.committees)

    @property
    def tolerated(self) -> int:
        """How many faulty replicas every committee so far, and the next one, can bear."""
        asked = self._asked[1] if self._asked else self._world.committee.f
        return min(asked, *(one.f for one in self.committees))

    def change_somehow(self, generator: random.Random) -> str:
        """One replica joins, leaves, is replaced or turns its key; what the law would refuse is left alone."""
        world, now = self._world, self.members()
        if self._changing:
            return "calm: a change is under way"
        spare = [one for one in world.identities if one not in now]
        kind = generator.choice(["join", "join", "leave", "replace", "rotate"])
        following, keys = list(now), {}
        if kind in ("join", "replace") and spare:
            newcomer = generator.choice(spare)
            place = generator.randrange(len(now))
            following[place : place + (kind == "replace")] = [newcomer]
        elif kind == "leave" and len(now) > 4:
            following.remove(generator.choice(now))
        else:
            keys = {generator.choice(now): self._changes + 1}
        faulty = len(world.byzantine.keys() | world.recovering())
        if faulty > faulty_max(len(following)):
            return "calm: too many faulty ones for a smaller committee"
        self.change(following, keys=keys)
        self.crash_at_handover = generator.choice([0.0, 0.0, 0.3])
        return f"{kind}: {following}"

    def settled(self) -> bool:
        """Every change took effect, and the honest members of the last committee stand equal in its epoch."""
        world = self._world
        if self._changing:
            return False
        newest = len(self.committees) - 1
        standing = set()
        for index, identity in enumerate(world.identities):
            if index not in world.byzantine and identity in self.members():
                replica = world.replicas[index]
                standing.add(replica.executed if replica is not None and replica.epoch == newest else -1)
        return len(standing) == 1 and -1 not in standing

    # --- the shell of one replica

    def replica(self, index: int) -> Replica | None:
        """A replica of the epoch that the disk's handovers lead to; None, and standing by, without a seat there."""
        world = self._world
        handovers = world.disks[index].handovers
        committees = {0: world.committee}
        for number, handover in enumerate(handovers):
            committees[number + 1] = Committee(tuple(seat.address for seat in handover.seats))
        epoch, base = len(handovers), handovers[-1].certificate if handovers else GENESIS
        key = signer("replica", world.identities[index])
        if key.address not in committees[epoch].members:
            self.standby.add(index)
            return None
        self.standby.discard(index)
        place = committees[epoch].members.index(key.address)
        return Replica(place, committees, epoch, DOMAIN, key, Ledger(), world.settings, base)

    def ended(self, index: int, certificate: CheckpointCertificate) -> None:
        """EpochEnded: keep the proof, start again in the next epoch; or crash before the proof is kept."""
        world, disk = self._world, self._world.disks[index]
        epoch = certificate.checkpoint.epoch
        handover = Handover(certificate=certificate, seats=world.ledger(index).seats)
        verify_handover(DOMAIN, epoch, self.committees[epoch].members, handover)
        if world.checkers is not None:
            world.checkers.handed_over(index, handover)
        if epoch + 1 == len(self.committees):
            self.committees.append(Committee(tuple(seat.address for seat in handover.seats)))
            self.handovers.append(handover)
        world.happened["handovers"] += 1
        if world.random.random() < self.crash_at_handover:
            world.crash(index)
            return
        if len(disk.handovers) == epoch:
            disk.handovers.append(handover)
        disk.sync()
        world.start(index)

    def _told(self, peer: int, handover: Handover) -> Handover:
        """What `peer` answers with: the handover, or a liar's: other seats, too few signatures, or its own alone."""
        world, certificate = self._world, handover.certificate
        if peer not in world.byzantine or world.random.random() < 0.3:
            return handover
        world.injected["false handover"] += 1
        own = signer("replica", world.identities[peer]).sign(DOMAIN, certificate.checkpoint)
        lies = [
            replace(handover, seats=handover.seats[::-1]),
            replace(handover, certificate=replace(certificate, signatures=certificate.signatures[1:])),
            replace(handover, certificate=replace(certificate, signatures=(own,) * len(certificate.signatures))),
        ]
        return world.random.choice(lies)

    def poll(self, index: int) -> bool:
        """Ask another one, now and then, for handovers that this one missed; True when there were, and it restarted."""
        world, mine = self._world, self._world.disks[index].handovers
        up = world.replicas[index] is not None or index in self.standby
        ahead = [
            peer
            for peer in range(world.instances)
            if len(world.disks[peer].handovers) > len(mine) and (world.replicas[peer] or peer in self.standby)
        ]
        if not up or not ahead or world.now_ms < self._poll_due_ms.get(index, 0):
            return False
        self._poll_due_ms[index] = world.now_ms + POLL_MS
        peer = world.random.choice(ahead)
        if {(index, peer), (peer, index)} & world.network.cut or world.random.random() < world.network.drop:
            return False
        for handover in world.disks[peer].handovers[len(mine) :]:
            told = self._told(peer, handover)
            try:
                verify_handover(DOMAIN, len(mine), self.committees[len(mine)].members, told)
            except RemoteError:
                assert told != handover
                return False
            mine.append(told)
        world.happened["handovers heard of"] += 1
        world.disks[index].sync()
        world.start(index)
        return True
