"""Liars. Each is an interceptor between a replica that knows the protocol and the network: it sees what an honest
replica would send and says something else, signed with the liar's own key."""

from __future__ import annotations

from koinon.wire import Batch, Phase, Vote
from pbft.certificates import batch_digest
from pbft.messages import (
    Ballot,
    CheckpointVote,
    NewView,
    PeerMessage,
    PreparedProof,
    PrePrepare,
    Proposal,
    SignedNewView,
    SignedViewChange,
    Status,
    ViewChange,
)

from .world import DOMAIN, Interceptor, World, signer

Said = list[tuple[int, PeerMessage]]


def silent(world: World, source: int, target: int, message: PeerMessage) -> Said:
    """Says nothing at all."""
    return []


def silent_primary(world: World, source: int, target: int, message: PeerMessage) -> Said:
    """Votes like everybody, but proposes nothing."""
    return [] if isinstance(message, PrePrepare | SignedNewView) else [(target, message)]


def _vote(source: int, phase: Phase, view: int, sequence: int, named: bytes) -> Ballot:
    vote = Vote(phase=phase, view=view, sequence=sequence, digest=named)
    return Ballot(vote=vote, signature=signer("replica", source).sign(DOMAIN, vote))


def _other(batch: Batch) -> Batch:
    """Another batch of the same requests."""
    return Batch(time_ms=batch.time_ms + 1, requests=batch.requests)


def equivocator(world: World, source: int, target: int, message: PeerMessage) -> Said:
    """As primary, proposes two batches for one number; votes for both of them, to everybody."""
    if isinstance(message, PrePrepare):
        other = _other(message.batch)
        ballot = _vote(source, Phase.PRE_PREPARE, message.view, message.sequence, batch_digest(other))
        lie = PrePrepare(view=message.view, sequence=message.sequence, batch=other, signature=ballot.signature)
        proposals = world.lies.setdefault((message.view, message.sequence), [])
        if not proposals:
            proposals += [batch_digest(message.batch), batch_digest(other)]
        return [(target, lie if target % 2 else message)]
    if isinstance(message, Ballot):
        slot = (message.vote.view, message.vote.sequence)
        both = world.lies.get(slot, [message.vote.digest])
        phase = Phase(message.vote.phase)
        return [(target, _vote(source, phase, *slot, named)) for named in both]
    return [(target, message)]


def forger(world: World, source: int, target: int, message: PeerMessage) -> Said:
    """Forges view changes: omits what it prepared, or claims what nobody prepared, or proposes what does not follow."""
    key = signer("replica", source)
    if isinstance(message, SignedViewChange):
        honest = message.message
        if world.random.random() < 0.5:
            lie = ViewChange(view=honest.view, stable=honest.stable, prepared=())
        else:
            low = honest.stable.checkpoint.sequence
            proof = PreparedProof(
                view=max(0, honest.view - 1),
                sequence=low + 1,
                digest=world.random.randbytes(32),
                pre_prepare=key.sign_digest(b"\x01" * 32),
                prepares=tuple(key.sign_digest(bytes([k]) * 32) for k in range(world.committee.quorum - 1)),
            )
            lie = ViewChange(view=honest.view, stable=honest.stable, prepared=(proof,))
        return [(target, SignedViewChange(message=lie, signature=key.sign(DOMAIN, lie)))]
    if isinstance(message, SignedNewView) and message.message.view % world.n == source:
        return [(target, _forged_new_view(source, message.message))]
    if isinstance(message, CheckpointVote):
        lied = type(message.checkpoint)(sequence=message.checkpoint.sequence, state=world.random.randbytes(32))
        return [(target, CheckpointVote(checkpoint=lied, signature=key.sign(DOMAIN, lied)))]
    return [(target, message)]


def _forged_new_view(source: int, honest: NewView) -> SignedNewView:
    key = signer("replica", source)
    named = batch_digest(Batch(time_ms=7, requests=(b"x",)))
    sequence = honest.view_changes[0].message.stable.checkpoint.sequence + 1
    vote = _vote(source, Phase.PRE_PREPARE, honest.view, sequence, named)
    lie = NewView(
        view=honest.view,
        view_changes=honest.view_changes,
        proposals=(Proposal(sequence=sequence, digest=named, signature=vote.signature),),
    )
    return SignedNewView(message=lie, signature=key.sign(DOMAIN, lie))


def boaster(world: World, source: int, target: int, message: PeerMessage) -> Said:
    """Claims to be far ahead, repeats old words, and calls for absurd views."""
    world.history.append(message)
    del world.history[:-50]
    said: Said = [(target, message), (target, world.random.choice(world.history))]
    if isinstance(message, Status):
        said.append((target, Status(view=message.view, active=True, stable=10**6, executed=10**9)))
        if world.random.random() < 0.1:
            change = ViewChange(view=10**6, stable=world.genesis, prepared=())
            signature = signer("replica", source).sign(DOMAIN, change)
            said.append((target, SignedViewChange(message=change, signature=signature)))
    return said


LIARS: dict[str, Interceptor] = {
    "silent": silent,
    "silent-primary": silent_primary,
    "equivocator": equivocator,
    "forger": forger,
    "boaster": boaster,
}
