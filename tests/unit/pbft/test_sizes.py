"""The largest NEW-VIEW of any committee fits one message, because large committees have a smaller window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koinon.encoding import encode
from koinon.errors import ConfigError
from koinon.signing import Signer
from koinon.wire import Checkpoint, CheckpointCertificate
from pbft.events import Settings
from pbft.messages import (
    MESSAGE_BYTES_MAX,
    NewView,
    PreparedProof,
    Proposal,
    SignedNewView,
    SignedViewChange,
    ViewChange,
)
from pbft.quorum import Committee
from pbft.view_change import fitting_window, new_view_bytes_max

LARGEST = 2**63 - 1
SIGNATURE = Signer(b"\1" * 32).sign_digest(b"\2" * 32)


def committee(n: int) -> Committee:
    return Committee(tuple(number.to_bytes(20, "big") for number in range(1, n + 1)))


def largest_new_view(members: Committee, window: int) -> SignedNewView:
    quorum, first = members.quorum, LARGEST - window
    proofs = tuple(
        PreparedProof(
            epoch=2**32 - 1,
            view=LARGEST,
            sequence=first + slot,
            digest=b"\xff" * 32,
            pre_prepare=SIGNATURE,
            prepares=(SIGNATURE,) * (quorum - 1),
        )
        for slot in range(1, window + 1)
    )
    checkpoint = Checkpoint(epoch=2**32 - 1, sequence=first, state=b"\xff" * 32, next=b"\xff" * 32)
    stable = CheckpointCertificate(checkpoint=checkpoint, signatures=(SIGNATURE,) * quorum)
    change = ViewChange(epoch=2**32 - 1, view=LARGEST, stable=stable, prepared=proofs)
    proposals = tuple(
        Proposal(sequence=first + slot, digest=b"\xff" * 32, signature=SIGNATURE) for slot in range(1, window + 1)
    )
    changes = (SignedViewChange(message=change, signature=SIGNATURE),) * quorum
    message = NewView(epoch=2**32 - 1, view=LARGEST, view_changes=changes, proposals=proposals)
    return SignedNewView(message=message, signature=SIGNATURE)


@pytest.mark.parametrize("n", [4, 28, 31, 43, 55])
def test_the_largest_new_view_of_a_committee_fits_one_message(n: int) -> None:
    members = committee(n)
    window = fitting_window(members, Settings())
    size = len(encode(largest_new_view(members, window)))
    assert size <= new_view_bytes_max(members, window) <= MESSAGE_BYTES_MAX


def test_committees_of_usual_size_keep_the_configured_window() -> None:
    assert {fitting_window(committee(n), Settings()) for n in range(1, 29)} == {Settings().window}
    assert fitting_window(committee(4), replace(Settings(), window=8, checkpoint_interval=4)) == 8


def test_a_committee_that_is_too_large_for_its_settings_is_refused() -> None:
    with pytest.raises(ConfigError):
        fitting_window(committee(100), Settings())
