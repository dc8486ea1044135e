"""What a view change must prove and what follows from it (Castro & Liskov 1999, section 4.4). Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from koinon.errors import BadSignature, ConfigError, Malformed
from koinon.wire import CheckpointCertificate

from .certificates import Verifier
from .events import Settings
from .messages import (
    MESSAGE_BYTES_MAX,
    NULL_DIGEST,
    PreparedProof,
    SignedNewView,
    SignedViewChange,
    ViewChange,
)
from .quorum import Committee

SIGNATURE_BYTES = 66
FIELDS_BYTES = 192
"""More than all of a message's fields take that are no lists of signatures."""


def new_view_bytes_max(committee: Committee, window: int) -> int:
    """The size of the largest NEW-VIEW: a quorum of view changes, each with a proof for every slot of the window."""
    signatures = committee.quorum * SIGNATURE_BYTES
    change = window * (signatures + FIELDS_BYTES) + signatures + 2 * FIELDS_BYTES
    return committee.quorum * change + window * FIELDS_BYTES + FIELDS_BYTES


def fitting_window(committee: Committee, settings: Settings) -> int:
    """The window of a committee: the configured one, less where a NEW-VIEW would not fit one message.

    ConfigError when not even one checkpoint interval with the pipeline behind it fits.
    """
    each = new_view_bytes_max(committee, 1) - new_view_bytes_max(committee, 0)
    window = min(settings.window, (MESSAGE_BYTES_MAX - new_view_bytes_max(committee, 0)) // each)
    if window < min(settings.window, settings.checkpoint_interval + settings.pipeline_slots_max):
        raise ConfigError(
            f"a committee of {committee.n} is too large: its view changes would not fit one message",
            hint="a smaller committee",
        )
    return window


def check_view_change(verifier: Verifier, signed: SignedViewChange) -> int:
    """The index of its sender, if C proves its checkpoint and each P_m a prepared batch of an earlier view."""
    change = signed.message
    verifier.require_epoch(change.epoch, "a view change")
    sender = verifier.member(change, signed.signature)
    verifier.checkpoint(change.stable)
    low = change.stable.checkpoint.sequence
    for proof in change.prepared:
        if not low < proof.sequence <= low + verifier.window:
            raise Malformed(f"a proof for {proof.sequence} is outside the sender's watermarks from {low}")
        if proof.view >= change.view:
            raise Malformed(f"a proof from view {proof.view} in a change to view {change.view}")
        verifier.proof(proof)
    return sender


def select(changes: Iterable[ViewChange]) -> tuple[CheckpointCertificate, list[tuple[int, bytes]]]:
    """The checkpoint at min-s, and O as (sequence, digest) for every sequence in (min-s, max-s].

    The digest is that of the proof from the highest view, or of the null request where nobody proved anything.
    """
    known = list(changes)
    stable = max((change.stable for change in known), key=lambda one: one.checkpoint.sequence)
    lowest = stable.checkpoint.sequence
    best: dict[int, PreparedProof] = {}
    for proof in (proof for change in known for proof in change.prepared):
        held = best.get(proof.sequence)
        if held is None or proof.view > held.view:
            best[proof.sequence] = proof
    highest = max(best, default=lowest)
    chosen = [(number, best.get(number)) for number in range(lowest + 1, highest + 1)]
    return stable, [(number, proof.digest if proof else NULL_DIGEST) for number, proof in chosen]


def check_new_view(verifier: Verifier, signed: SignedNewView) -> CheckpointCertificate:
    """The stable checkpoint that the view starts from, if V is a quorum and O is what follows from V."""
    new_view = signed.message
    verifier.require_epoch(new_view.epoch, "a new view")
    primary = verifier.committee.primary(new_view.view)
    if verifier.member(new_view, signed.signature) != primary:
        raise BadSignature(f"the new view {new_view.view} is not from its primary")
    senders = set()
    for change in new_view.view_changes:
        if change.message.view != new_view.view:
            raise Malformed(f"a change to view {change.message.view} in new view {new_view.view}")
        senders.add(check_view_change(verifier, change))
    if len(senders) < verifier.committee.quorum or len(senders) != len(new_view.view_changes):
        raise Malformed(f"new view {new_view.view} has {len(senders)} distinct view changes")
    stable, expected = select(change.message for change in new_view.view_changes)
    if [(proposal.sequence, proposal.digest) for proposal in new_view.proposals] != expected:
        raise Malformed(f"the proposals of new view {new_view.view} do not follow from its view changes")
    for proposal in new_view.proposals:
        verifier.primary_signed(new_view.view, proposal.sequence, proposal.digest, proposal.signature)
    return stable
