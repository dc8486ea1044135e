"""Hostile bytes: every decoder of the replica answers with a typed error or an equal message, never with a crash."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.encoding import ZERO_DIGEST, encode
from koinon.errors import Malformed
from koinon.wire import Batch, Vote
from pbft.events import CatchUp, ClientRequest, Effect, Ignored, Misbehaved, Received
from pbft.messages import (
    GENESIS,
    Ballot,
    Body,
    Checkpoint,
    CheckpointCertificate,
    CheckpointVote,
    Fetch,
    NewView,
    PeerMessage,
    PreparedProof,
    PrePrepare,
    Proposal,
    RecoveryRequest,
    RecoveryResponse,
    Relay,
    SignedNewView,
    SignedRecoveryRequest,
    SignedViewChange,
    Status,
    ViewChange,
    decode_entry,
    decode_peer,
    decode_record,
)
from pbft.replica import Replica
from tests.simulation.world import DOMAIN, SMALL, START_MS, Ledger, committee, signer

numbers = st.one_of(st.integers(0, 20), st.integers(0, 2**63 - 1))
epochs = st.integers(0, 2)
digests = st.one_of(st.just(ZERO_DIGEST), st.binary(min_size=32, max_size=32))
signatures = st.binary(min_size=64, max_size=64)
votes = st.builds(Vote, epoch=epochs, phase=st.integers(0, 255), view=numbers, sequence=numbers, digest=digests)
batches = st.builds(Batch, time_ms=numbers, requests=st.lists(st.binary(max_size=40), max_size=3).map(tuple))
checkpoints = st.builds(Checkpoint, epoch=epochs, sequence=numbers, state=digests, next=digests)
some_signatures = st.lists(signatures, max_size=4).map(tuple)
certificates = st.one_of(
    st.just(GENESIS), st.builds(CheckpointCertificate, checkpoint=checkpoints, signatures=some_signatures)
)
proofs = st.builds(
    PreparedProof,
    epoch=epochs,
    view=numbers,
    sequence=numbers,
    digest=digests,
    pre_prepare=signatures,
    prepares=some_signatures,
)


def _ascending(found: list[PreparedProof]) -> tuple[PreparedProof, ...]:
    return tuple({proof.sequence: proof for proof in sorted(found, key=lambda one: one.sequence)}.values())


changes = st.builds(
    ViewChange, epoch=epochs, view=numbers, stable=certificates, prepared=st.lists(proofs, max_size=3).map(_ascending)
)
signed_changes = st.builds(SignedViewChange, message=changes, signature=signatures)
proposals = st.builds(Proposal, sequence=numbers, digest=digests, signature=signatures)
new_views = st.builds(
    NewView,
    epoch=epochs,
    view=numbers,
    view_changes=st.lists(signed_changes, max_size=3).map(tuple),
    proposals=st.lists(proposals, max_size=3).map(tuple),
)
messages: st.SearchStrategy[PeerMessage] = st.one_of(
    st.builds(PrePrepare, epoch=epochs, view=numbers, sequence=numbers, batch=batches, signature=signatures),
    st.builds(Ballot, vote=votes, signature=signatures),
    st.builds(CheckpointVote, checkpoint=checkpoints, signature=signatures),
    certificates,
    signed_changes,
    st.builds(SignedNewView, message=new_views, signature=signatures),
    st.builds(Relay, request=st.binary(max_size=80)),
    st.builds(Status, epoch=epochs, view=numbers, active=st.booleans(), stable=numbers, executed=numbers),
    st.builds(
        SignedRecoveryRequest,
        message=st.builds(RecoveryRequest, epoch=epochs, since_ms=numbers, view=numbers),
        signature=signatures,
    ),
    st.builds(RecoveryResponse, epoch=epochs, since_ms=numbers, view=numbers),
    st.builds(Fetch, sequence=numbers, digest=digests),
    st.builds(Body, sequence=numbers, batch=batches),
)


def _replica() -> Replica:
    return Replica(1, {0: committee(4)}, 0, DOMAIN, signer("replica", 1), Ledger(), SMALL)


def _state(replica: Replica) -> tuple[object, ...]:
    slots = [(slot.sequence, slot.digest, len(slot.prepares), len(slot.commits)) for slot in replica.log]
    changes = sorted(replica._view_changes)
    return (replica.view, replica.active, replica.stable, replica.executed, slots, changes, len(replica.pool))


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_to_the_same_bytes_or_refused(data: bytes) -> None:
    for decoder in (decode_peer, decode_record, decode_entry):
        with contextlib.suppress(Malformed):
            assert encode(decoder(data)) == data


@given(messages)
def test_what_a_peer_can_say_survives_encoding(message: PeerMessage) -> None:
    assert decode_peer(encode(message)) == message


@given(messages, st.data())
def test_a_message_with_a_byte_changed_is_another_message_or_none(message: PeerMessage, data: st.DataObject) -> None:
    raw = bytearray(encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Malformed):
        assert decode_peer(bytes(raw)) != message


@settings(deadline=None)
@given(st.lists(messages, max_size=8))
def test_nothing_that_nobody_signed_changes_the_state(said: list[PeerMessage]) -> None:
    replica = _replica()
    before = _state(replica)
    for message in said:
        effects: list[Effect] = replica.step(Received(START_MS, 2, encode(message)))
        assert all(type(effect).__name__ != "Persist" for effect in effects)
    assert _state(replica) == before


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200), certificates)
def test_hostile_requests_and_snapshots_are_refused(
    request: bytes, snapshot: bytes, certificate: CheckpointCertificate
) -> None:
    replica = _replica()
    before = _state(replica)
    replica.step(ClientRequest(START_MS, request))
    effects = replica.step(CatchUp(START_MS, 2, (), certificate, snapshot))
    said = certificate.checkpoint
    expected = Misbehaved if said.sequence and said.epoch == 0 else Ignored  # of another epoch: not even judged
    assert [type(effect) for effect in effects] == [expected]
    assert _state(replica) == before


@pytest.mark.parametrize("depth", [10, 1_000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(Malformed):
        decode_peer(b"\x91" * depth + b"\xc0")
