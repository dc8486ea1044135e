"""One replica under test, and the keys of all the others: messages are made by hand, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from koinon.encoding import ZERO_DIGEST, Message, encode
from koinon.signing import seal
from koinon.wire import Batch, Phase, Request, Vote
from pbft.certificates import batch_digest
from pbft.events import ClientRequest, Effect, Persist, Received, Recovered, Send, Settings, Tick
from pbft.messages import (
    GENESIS,
    Ballot,
    Checkpoint,
    CheckpointCertificate,
    CheckpointVote,
    NewView,
    PreparedProof,
    PrePrepare,
    Proposal,
    Record,
    SignedNewView,
    SignedViewChange,
    Status,
    ViewChange,
)
from pbft.replica import Replica
from pbft.view_change import select
from tests.simulation.world import DOMAIN, START_MS, Ledger, committee, signer

E = TypeVar("E")
SETTINGS = Settings(checkpoint_interval=4, window=8, batch_requests_max=8, pending_per_client_max=3)


class Bench:
    """Replica `index` of `n`; `now_ms` is its clock. Its messages are of `epoch`, which begins at `base`.

    The committee of epoch 0 has four members where `epoch` is another one.
    """

    def __init__(
        self,
        index: int = 1,
        n: int = 4,
        *,
        settings: Settings = SETTINGS,
        epoch: int = 0,
        base: CheckpointCertificate = GENESIS,
    ) -> None:
        self.n = n
        self.epoch = epoch
        self.index = index
        self.now_ms = START_MS
        self.committee = committee(n)
        self.committees = {0: committee(4), epoch: self.committee}
        self.base = base
        self.settings = settings
        self.restart()
        for peer in self.others():
            self.receive(peer, Status(epoch=self.epoch, view=0, active=True, stable=0, executed=0))

    def restart(self, *records: Record) -> list[Effect]:
        """Begin again, with nothing but the records of a journal."""
        key = signer("replica", self.index)
        self.replica = Replica(
            self.index, self.committees, self.epoch, DOMAIN, key, Ledger(), self.settings, base=self.base
        )
        return self.replica.step(Recovered(self.now_ms, records)) if records else []

    def others(self) -> list[int]:
        return [peer for peer in range(self.n) if peer != self.index]

    @property
    def ledger(self) -> Ledger:
        application = self.replica.execution.application
        assert isinstance(application, Ledger)
        return application

    # --- events

    def receive(self, sender: int, *messages: Message) -> list[Effect]:
        effects: list[Effect] = []
        for message in messages:
            effects += self.replica.step(Received(self.now_ms, sender, encode(message)))
        return effects

    def ask(self, data: bytes) -> list[Effect]:
        return self.replica.step(ClientRequest(self.now_ms, data))

    def wait(self, ms: int) -> list[Effect]:
        """Let time pass, tick by tick."""
        effects: list[Effect] = []
        for _ in range(0, ms, 50):
            self.now_ms += 50
            effects += self.replica.step(Tick(self.now_ms))
        return effects

    # --- messages

    def request(self, number: int = 1, operation: bytes = b"do", client: int = 0) -> bytes:
        return seal(signer("client", client), DOMAIN, Request(number=number, operation=operation))

    def batch(self, *requests: bytes, later_ms: int = 0) -> Batch:
        return Batch(time_ms=self.now_ms + later_ms, requests=requests or (self.request(),))

    def vote(self, who: int, phase: Phase, view: int, sequence: int, digest: bytes) -> Ballot:
        vote = Vote(epoch=self.epoch, phase=phase, view=view, sequence=sequence, digest=digest)
        return Ballot(vote=vote, signature=signer("replica", who).sign(DOMAIN, vote))

    def pre_prepare(self, sequence: int, batch: Batch, view: int = 0, who: int | None = None) -> PrePrepare:
        who = self.committee.primary(view) if who is None else who
        signature = self.vote(who, Phase.PRE_PREPARE, view, sequence, batch_digest(batch)).signature
        return PrePrepare(epoch=self.epoch, view=view, sequence=sequence, batch=batch, signature=signature)

    def prepare(self, who: int, sequence: int, batch: Batch, view: int = 0) -> Ballot:
        return self.vote(who, Phase.PREPARE, view, sequence, batch_digest(batch))

    def commit(self, who: int, sequence: int, batch: Batch, view: int = 0) -> Ballot:
        return self.vote(who, Phase.COMMIT, view, sequence, batch_digest(batch))

    def proof(self, sequence: int, batch: Batch, view: int = 0) -> PreparedProof:
        """A quorum's proof that `batch` prepared."""
        backups = [who for who in range(self.n) if who != self.committee.primary(view)]
        voters = backups[: self.committee.quorum - 1]
        return PreparedProof(
            epoch=self.epoch,
            view=view,
            sequence=sequence,
            digest=batch_digest(batch),
            pre_prepare=self.pre_prepare(sequence, batch, view).signature,
            prepares=tuple(self.prepare(who, sequence, batch, view).signature for who in voters),
        )

    def checkpoint(self, who: int, sequence: int, state: bytes) -> CheckpointVote:
        checkpoint = Checkpoint(epoch=self.epoch, next=ZERO_DIGEST, sequence=sequence, state=state)
        return CheckpointVote(checkpoint=checkpoint, signature=signer("replica", who).sign(DOMAIN, checkpoint))

    def view_change(
        self,
        who: int,
        view: int,
        *proofs: PreparedProof,
        stable: CheckpointCertificate = GENESIS,
    ) -> SignedViewChange:
        change = ViewChange(epoch=self.epoch, view=view, stable=stable, prepared=proofs)
        return SignedViewChange(message=change, signature=signer("replica", who).sign(DOMAIN, change))

    def new_view(self, view: int, *changes: SignedViewChange) -> SignedNewView:
        """What a correct primary of `view` makes of `changes`."""
        primary = self.committee.primary(view)
        proposals = tuple(
            Proposal(
                sequence=sequence,
                digest=digest,
                signature=self.vote(primary, Phase.PRE_PREPARE, view, sequence, digest).signature,
            )
            for sequence, digest in select(change.message for change in changes)[1]
        )
        return self.sign_new_view(NewView(epoch=self.epoch, view=view, view_changes=changes, proposals=proposals))

    def sign_new_view(self, new_view: NewView) -> SignedNewView:
        key = signer("replica", self.committee.primary(new_view.view))
        return SignedNewView(message=new_view, signature=key.sign(DOMAIN, new_view))

    # --- whole slots

    def order(self, sequence: int, batch: Batch, view: int = 0) -> list[Effect]:
        """Everything that the others send for one slot."""
        primary = self.committee.primary(view)
        effects = self.receive(primary, self.pre_prepare(sequence, batch, view))
        for who in self.others():
            if who != primary:
                effects += self.receive(who, self.prepare(who, sequence, batch, view))
        for who in self.others():
            effects += self.receive(who, self.commit(who, sequence, batch, view))
        return effects


def of(kind: type[E], effects: list[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def said(kind: type[E], effects: list[Effect]) -> list[E]:
    """The messages of one kind that were sent."""
    return [effect.message for effect in of(Send, effects) if isinstance(effect.message, kind)]


def voted(phase: Phase, effects: list[Effect]) -> list[Vote]:
    return [ballot.vote for ballot in said(Ballot, effects) if ballot.vote.phase == phase]


def persisted(effects: list[Effect]) -> list[object]:
    return [effect.record for effect in of(Persist, effects)]


def with_settings(**changes: int) -> Settings:
    return replace(SETTINGS, **changes)
