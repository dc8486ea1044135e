"""Liars, by name. Each is an interceptor between a replica that knows the protocol and the network: it sees what an
honest replica would send (to peers, to clients, as state) and says something else, signed with the liar's own key.

`LIARS` is the registry; a behaviour's docstring says what it does. A world appoints at most f of them.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec.structs import replace as changed

from koinon.encoding import encode
from koinon.signing import signer_of
from koinon.wire import Batch, CommittedBatch, Phase, Reply, Vote
from pbft.certificates import batch_digest
from pbft.events import CatchUp
from pbft.messages import (
    MESSAGE_BYTES_MAX,
    NULL_DIGEST,
    Ballot,
    Body,
    CheckpointCertificate,
    CheckpointVote,
    NewView,
    PreparedProof,
    PrePrepare,
    Proposal,
    RecoveryRequest,
    RecoveryResponse,
    SignedNewView,
    SignedRecoveryRequest,
    SignedViewChange,
    Status,
    ViewChange,
)
from pbft.rejoin import VIEW_MAX

from .world import DOMAIN, Interceptor, Said, Word, World, signer

LIARS: dict[str, Interceptor] = {}


def behaviour(liar: Interceptor) -> Interceptor:
    """Registers a behaviour under its name."""
    LIARS[liar.__name__.replace("_", "-")] = liar
    return liar


def _vote(source: int, phase: Phase, epoch: int, view: int, sequence: int, named: bytes) -> Ballot:
    vote = Vote(phase=phase, epoch=epoch, view=view, sequence=sequence, digest=named)
    return Ballot(vote=vote, signature=signer("replica", source).sign(DOMAIN, vote))


def _slot(said: PrePrepare | Vote) -> tuple[int, int, int]:
    return said.epoch, said.view, said.sequence


def _propose(source: int, message: PrePrepare, batch: Batch) -> PrePrepare:
    ballot = _vote(source, Phase.PRE_PREPARE, *_slot(message), batch_digest(batch))
    return changed(message, batch=batch, signature=ballot.signature)


def sign_change(source: int, change: ViewChange) -> SignedViewChange:
    return SignedViewChange(message=change, signature=signer("replica", source).sign(DOMAIN, change))


# --- saying less


@behaviour
def silent(world: World, source: int, target: int, message: Word) -> Said:
    """Says nothing at all."""
    return []


@behaviour
def silent_primary(world: World, source: int, target: int, message: Word) -> Said:
    """Votes like everybody, but proposes nothing and begins no view."""
    return [] if isinstance(message, PrePrepare | SignedNewView) else [(target, message)]


@behaviour
def selective(world: World, source: int, target: int, message: Word) -> Said:
    """Talks to some and is silent to the others; which ones changes every second view."""
    return [(target, message)] if (target + world.now_ms // 8_000 + source) % 3 else []


@behaviour
def late_committer(world: World, source: int, target: int, message: Word) -> Said:
    """Says COMMIT up to two timeouts late, when its view may be over."""
    if isinstance(message, Ballot) and message.vote.phase == Phase.COMMIT:
        late = world.random.randint(1, 2 * world.settings.view_timeout_ms)
        world.transmit(source, target, message, later_ms=late)
        return []
    return [(target, message)]


@behaviour
def slow_primary(world: World, source: int, target: int, message: Word) -> Said:
    """As primary, orders everything at four fifths of the timeout: too slow for clients, too fast to be replaced."""
    if isinstance(message, PrePrepare) and world.epochs.leads(source, message.view):
        world.transmit(source, target, message, later_ms=world.settings.view_timeout_ms * 4 // 5)
        return []
    return [(target, message)]


# --- saying two things


@behaviour
def equivocator(world: World, source: int, target: int, message: Word) -> Said:
    """As primary, proposes two batches for one number; votes for both of them, to everybody."""
    if isinstance(message, PrePrepare):
        other = Batch(time_ms=message.batch.time_ms + 1, requests=message.batch.requests)
        proposals = world.lies.setdefault(_slot(message), [])
        if not proposals:
            proposals += [batch_digest(message.batch), batch_digest(other)]
        return [(target, _propose(source, message, other) if target % 2 else message)]
    if isinstance(message, Ballot):
        slot = _slot(message.vote)
        both = world.lies.get(slot, [message.vote.digest])
        return [(target, _vote(source, Phase(message.vote.phase), *slot, named)) for named in both]
    return [(target, message)]


@behaviour
def censor(world: World, source: int, target: int, message: Word) -> Said:
    """As primary, leaves one client's requests out of every batch, and votes for what is left."""
    if isinstance(message, PrePrepare):
        victim = signer("client", 0).address
        kept = tuple(data for data in message.batch.requests if world.client_of(data) != victim)
        if kept != message.batch.requests:
            batch = Batch(time_ms=message.batch.time_ms, requests=kept)
            world.lies.setdefault(_slot(message), [batch_digest(batch)])
            return [(target, _propose(source, message, batch))] if kept else []
    if isinstance(message, Ballot):
        slot = _slot(message.vote)
        named = world.lies.get(slot, [message.vote.digest])[0]
        return [(target, _vote(source, Phase(message.vote.phase), *slot, named))]
    return [(target, message)]


@behaviour
def contrarian(world: World, source: int, target: int, message: Word) -> Said:
    """Votes for digests that nobody proposed, a different one to each peer; the true vote follows later."""
    if isinstance(message, Ballot):
        vote = message.vote
        lie = _vote(source, Phase(vote.phase), *_slot(vote), bytes([target]) * 32)
        world.transmit(source, target, message, later_ms=world.random.randint(1, 500))
        return [(target, lie)]
    return [(target, message)]


@behaviour
def two_faced(world: World, source: int, target: int, message: Word) -> Said:
    """Gives clients false results, and results for requests that nobody executed."""
    if isinstance(message, Reply):
        lie = changed(message, result=b"lie " + message.result)
        return [(target, lie), (target, changed(lie, number=message.number + 1))]
    return [(target, message)]


# --- saying what is old, or what is not yet


@behaviour
def boaster(world: World, source: int, target: int, message: Word) -> Said:
    """Claims to be far ahead, repeats what others said, and calls for absurd views."""
    said: Said = [(target, message)]
    if isinstance(message, Reply | CatchUp):
        return said
    if not isinstance(message, Status):
        world.history.append(message)
        del world.history[:-50]
        said.append((target, world.random.choice(world.history)))
    else:
        said[0] = (target, changed(message, active=True, stable=10**6, executed=10**9))
        if world.random.random() < 0.1:
            absurd = ViewChange(epoch=message.epoch, view=10**6, stable=world.genesis, prepared=())
            said.append((target, sign_change(source, absurd)))
    return said


@behaviour
def replayer(world: World, source: int, target: int, message: Word) -> Said:
    """Repeats its oldest words: votes of views and numbers long gone, and the first view changes."""
    if isinstance(message, Reply | CatchUp):
        return [(target, message)]
    if isinstance(message, Ballot | SignedViewChange | SignedNewView | PrePrepare) and len(world.history) < 300:
        world.history.append(message)
    said: Said = [(target, message)]
    if world.history:
        said += [(target, world.random.choice(world.history)) for _ in range(2)]
    return said


@behaviour
def stale(world: World, source: int, target: int, message: Word) -> Said:
    """Lives in the past: votes in the view before, and says that it never left view 0."""
    if isinstance(message, Ballot) and message.vote.view > 0:
        vote = message.vote
        old = _vote(source, Phase(vote.phase), vote.epoch, vote.view - 1, vote.sequence, vote.digest)
        return [(target, old), (target, message)]
    if isinstance(message, Status):
        return [(target, changed(message, view=0, active=True, stable=0, executed=0))]
    return [(target, message)]


@behaviour
def view_change_spammer(world: World, source: int, target: int, message: Word) -> Said:
    """Calls for the next view, and for some after it, with every status."""
    said: Said = [(target, message)]
    if isinstance(message, Status):
        for view in (message.view + 1, message.view + world.random.randint(2, 9)):
            change = ViewChange(epoch=message.epoch, view=view, stable=world.genesis, prepared=())
            said.append((target, sign_change(source, change)))
    return said


# --- saying what is false


@behaviour
def recovery_spammer(world: World, source: int, target: int, message: Word) -> Said:
    """Pretends to have lost its journal, so that the others leave for another view, again and again, and leaves with
    them; who really asks where the views stand is told another one."""
    if isinstance(message, RecoveryResponse):
        return [(target, changed(message, view=world.random.choice([0, VIEW_MAX - 1])))]
    if not isinstance(message, Status):
        return [(target, message)]
    asked = RecoveryRequest(epoch=message.epoch, since_ms=world.now_ms, view=VIEW_MAX)
    request = SignedRecoveryRequest(message=asked, signature=signer("replica", source).sign(DOMAIN, asked))
    return [(target, message), (target, request)]


@behaviour
def forger(world: World, source: int, target: int, message: Word) -> Said:
    """Forges view changes: omits what it prepared, or claims that null requests or unknown batches prepared."""
    if not isinstance(message, SignedViewChange):
        return [(target, message)]
    key, honest = signer("replica", source), message.message
    if world.random.random() < 0.5:
        return [(target, sign_change(source, changed(honest, prepared=())))]
    proof = PreparedProof(
        epoch=honest.epoch,
        view=max(0, honest.view - 1),
        sequence=honest.stable.checkpoint.sequence + 1,
        digest=world.random.choice([NULL_DIGEST, world.random.randbytes(32)]),
        pre_prepare=key.sign_digest(b"\x01" * 32),
        prepares=tuple(key.sign_digest(bytes([k]) * 32) for k in range(world.committee.quorum - 1)),
    )
    return [(target, sign_change(source, changed(honest, prepared=(proof,))))]


@behaviour
def pretender(world: World, source: int, target: int, message: Word) -> Said:
    """Proposes batches though it is not the primary, in the numbers that come next."""
    said: Said = [(target, message)]
    if isinstance(message, Ballot) and world.committee.primary(message.vote.view) != source and world.pending:
        requests = (world.random.choice(sorted(world.pending.values())),)
        vote = message.vote
        proposal = PrePrepare(
            epoch=vote.epoch,
            view=vote.view,
            sequence=vote.sequence + 1,
            batch=Batch(time_ms=world.now_ms, requests=requests),
            signature=message.signature,
        )
        said.append((target, _propose(source, proposal, proposal.batch)))
    return said


@behaviour
def usurper(world: World, source: int, target: int, message: Word) -> Said:
    """Forges new views: proposes what does not follow, counts one change twice, or leaves the proofs out."""
    if not isinstance(message, SignedNewView) or not world.epochs.leads(source, message.message.view):
        return [(target, message)]
    honest = message.message
    changes = honest.view_changes
    lies = [
        changed(honest, proposals=honest.proposals[1:]),
        changed(honest, view_changes=changes[1:]),
        changed(honest, view_changes=(*changes[1:], changes[1])) if len(changes) > 1 else honest,
        changed(honest, proposals=(_invented(source, honest),)),
        changed(honest, view=honest.view + world.n),
        _without_proofs(source, honest),
    ]
    lie = world.random.choice(lies)
    return [(target, SignedNewView(message=lie, signature=signer("replica", source).sign(DOMAIN, lie)))]


def _invented(source: int, honest: NewView) -> Proposal:
    named = batch_digest(Batch(time_ms=7, requests=(b"x",)))
    sequence = honest.view_changes[0].message.stable.checkpoint.sequence + 1
    vote = _vote(source, Phase.PRE_PREPARE, honest.epoch, honest.view, sequence, named)
    return Proposal(sequence=sequence, digest=named, signature=vote.signature)


def _without_proofs(source: int, honest: NewView) -> NewView:
    """Its own change loses its proofs: a valid new view, if the others' proofs still give the same O."""
    own = [
        sign_change(source, changed(one.message, prepared=())) if _signer(one) == source else one
        for one in honest.view_changes
    ]
    return changed(honest, view_changes=tuple(own))


def _signer(signed: SignedViewChange) -> int:
    address = signer_of(DOMAIN, signed.message, signed.signature)
    return next((index for index in range(100) if signer("replica", index).address == address), -1)


@behaviour
def checkpoint_forger(world: World, source: int, target: int, message: Word) -> Said:
    """Signs false checkpoints, and makes certificates of its own signature alone."""
    if not isinstance(message, CheckpointVote):
        return [(target, message)]
    key = signer("replica", source)
    lied = changed(message.checkpoint, state=world.random.randbytes(32))
    signature = key.sign(DOMAIN, lied)
    false = CheckpointCertificate(checkpoint=lied, signatures=(signature,) * world.committee.quorum)
    return [(target, CheckpointVote(checkpoint=lied, signature=signature)), (target, false)]


@behaviour
def false_state(world: World, source: int, target: int, message: Word) -> Said:
    """Serves state that is not what was certified: other batches, too few signatures, gaps, flipped snapshots."""
    if isinstance(message, Body):
        return [(target, changed(message, batch=changed(message.batch, time_ms=message.batch.time_ms + 1)))]
    if not isinstance(message, CatchUp):
        return [(target, message)]
    lies = [
        replace(message, entries=tuple(_lied_entry(entry) for entry in message.entries)),
        replace(message, entries=tuple(changed(entry, signatures=entry.signatures[:1]) for entry in message.entries)),
        replace(message, entries=message.entries[1:]),
    ]
    if message.snapshot is not None:
        lies.append(replace(message, snapshot=message.snapshot[:-1] + bytes([message.snapshot[-1] ^ 1])))
    return [(target, world.random.choice(lies))]


def _lied_entry(entry: CommittedBatch) -> CommittedBatch:
    return changed(entry, batch=changed(entry.batch, time_ms=entry.batch.time_ms + 1))


_OVERSIZED = bytes(MESSAGE_BYTES_MAX + 1)


@behaviour
def garbler(world: World, source: int, target: int, message: Word) -> Said:
    """Sends garbage besides: random bytes, cut and flipped messages, trailing bytes, more than is allowed."""
    if isinstance(message, Reply | CatchUp | bytes):
        return [(target, message)]
    raw = encode(message)
    place = world.random.randrange(len(raw))
    garbage = [
        world.random.randbytes(place),
        raw[:place],
        raw[:place] + bytes([raw[place] ^ 1 << world.random.randrange(8)]) + raw[place + 1 :],
        raw + b"\0",
        _OVERSIZED,
    ]
    return [(target, message), (target, world.random.choice(garbage))]
