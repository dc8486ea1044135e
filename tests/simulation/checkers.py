"""What must hold after every event, whatever the network, the disks and f liars did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koinon.encoding import digest
from koinon.epochs import Handover
from koinon.wire import Checkpoint, Phase, Vote
from pbft.certificates import batch_digest
from pbft.events import Committed, Evidence, StableCheckpoint
from pbft.messages import Ballot, PrePrepare, SignedViewChange

from .storage import Ledger

if TYPE_CHECKING:
    from .world import World


class Violation(AssertionError):
    """Safety is broken; the message says which rule and where."""


class Checkers:
    """Remembers what every honest replica ever committed, and compares."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._order: dict[int, bytes] = {}
        self._certified: dict[tuple[int, int, int], bytes] = {}
        self._checkpoints: dict[int, Checkpoint] = {}
        self._ends: dict[int, Checkpoint] = {}
        self._executed: dict[tuple[bytes, int], tuple[int, bytes]] = {}
        self._votes: dict[tuple[int, int, int, int, int], bytes] = {}
        self._left: dict[tuple[int, int], int] = {}
        self._ledger: list[tuple[bytes, bytes, int]] = []

    def said(self, index: int, message: object) -> None:
        """An honest replica keeps its word, across crashes and lost disks: one digest a (phase, epoch, view, sequence),
        no vote in a view that it left."""
        if index in self._world.byzantine:
            return
        if isinstance(message, SignedViewChange):
            place = (index, message.message.epoch)
            self._left[place] = max(self._left.get(place, 0), message.message.view)
            return
        if isinstance(message, Ballot):
            vote = message.vote
        elif isinstance(message, PrePrepare) and self._world.epochs.leads(index, message.view):
            named = batch_digest(message.batch)
            phase, epoch, view = Phase.PRE_PREPARE, message.epoch, message.view
            vote = Vote(phase=phase, epoch=epoch, view=view, sequence=message.sequence, digest=named)
        else:
            return
        slot = (index, vote.phase, vote.epoch, vote.view, vote.sequence)
        if self._votes.setdefault(slot, vote.digest) != vote.digest:
            raise Violation(f"replica {index} signed twice for phase, epoch, view, sequence {slot[1:]}")
        if vote.view < self._left.get((index, vote.epoch), 0):
            raise Violation(f"replica {index} voted in view {vote.view} after leaving it")

    def convicted(self, index: int, effect: Evidence) -> None:
        """Evidence only ever convicts liars."""
        culprit = self._world.epochs.members(effect.first.vote.epoch)[effect.culprit]
        if culprit not in self._world.byzantine:
            raise Violation(f"replica {index} convicts replica {culprit}, which is honest")

    def committed(self, index: int, effect: Committed) -> None:
        """Agreement on prefixes, one certificate an (epoch, view, sequence), exactly-once, and nothing outside of its
        epoch."""
        if index in self._world.byzantine:
            return
        entry, named = effect.entry, digest(effect.entry.batch)
        if self._order.setdefault(entry.sequence, named) != named:
            raise Violation(f"replica {index} committed another batch at {entry.sequence}")
        place = (entry.epoch, entry.view, entry.sequence)
        if self._certified.setdefault(place, named) != named:
            raise Violation(f"two certificates for epoch, view, sequence {place}")
        begun, end = self._ends.get(entry.epoch - 1), self._ends.get(entry.epoch)
        if (begun and entry.sequence <= begun.sequence) or (end and entry.sequence > end.sequence):
            raise Violation(f"replica {index} executed {entry.sequence} in epoch {entry.epoch}, outside of it")
        for one in effect.results:
            fate = (entry.sequence, one.result)
            if self._executed.setdefault((one.client, one.number), fate) != fate:
                raise Violation(f"request {one.number} was executed twice, or with two results")

    def stable(self, index: int, effect: StableCheckpoint) -> None:
        """Equal checkpoint roots."""
        self._one_state(effect.certificate.checkpoint)

    def _one_state(self, checkpoint: Checkpoint) -> None:
        if self._checkpoints.setdefault(checkpoint.sequence, checkpoint) != checkpoint:
            raise Violation(f"two stable states after {checkpoint.sequence}")

    def handed_over(self, index: int, handover: Handover) -> None:
        """One end an epoch, one committee after it."""
        checkpoint = handover.certificate.checkpoint
        if self._ends.setdefault(checkpoint.epoch, checkpoint) != checkpoint:
            raise Violation(f"epoch {checkpoint.epoch} ended twice")
        self._one_state(checkpoint)

    def after_step(self, index: int) -> None:
        """The application's state is a prefix of one common history, and replies match it."""
        world = self._world
        if index in world.byzantine or world.replicas[index] is None:
            return
        entries = world.ledger(index).entries
        known = self._ledger
        shared = min(len(entries), len(known))
        if list(entries[max(0, shared - 8) : shared]) != known[max(0, shared - 8) : shared]:
            raise Violation(f"replica {index} executed another history")
        known.extend(entries[shared:])

    def finish(self) -> None:
        """Whole histories once more, and every accepted reply is the logged result."""
        world = self._world
        for index in range(world.instances):
            if world.replicas[index] is None or index in world.byzantine:
                continue
            entries = list(world.ledger(index).entries)
            if entries != self._ledger[: len(entries)]:
                raise Violation(f"replica {index} executed another history")
        # the same committee may be asked for again later, which is another request (see `committed`)
        ordinary = [entry for entry in self._ledger if not entry[1].startswith(Ledger.CHANGE)]
        seen = [(sender, operation) for sender, operation, _ in ordinary]
        if len(set(seen)) != len(seen):
            raise Violation("an operation was executed twice")
        for key, replies in world.replies.items():
            if world.believed(key) - {self._executed[key][1] if key in self._executed else None}:
                raise Violation("a client believed what is not in the log")
            for index, result in replies.items():
                if index not in world.byzantine and key in self._executed and self._executed[key][1] != result:
                    raise Violation(f"replica {index} replied something that is not in the log")
