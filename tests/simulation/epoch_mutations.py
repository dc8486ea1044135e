"""Bugs of a committee that changes, for the gate: see `mutations.py`."""

from __future__ import annotations

from typing import Any

import pytest

from pbft.certificates import Verifier
from pbft.core import Core

from .mutations import mutation


@mutation()
def epoch_goes_on_above_the_handover(patch: pytest.MonkeyPatch) -> None:
    """The old committee orders and executes what comes after its last checkpoint, too."""
    patch.setattr(Core, "handed_over", property(lambda self: False))
    patch.setattr(Core, "_bound", lambda self: self.log.high)


@mutation()
def epoch_never_ends(patch: pytest.MonkeyPatch) -> None:
    """Who has executed the handover and holds its proof waits for ever."""
    patch.setattr(Core, "_tell_end", lambda self: None)


@mutation(story="simulation.test_epochs::test_an_idle_committee_hands_over_by_itself_within_a_second")
def pending_change_waits_for_clients(patch: pytest.MonkeyPatch) -> None:
    """No empty batches: a committee without requests never reaches its handover."""
    patch.setattr(Core, "_pending_change", lambda self: False)


@mutation(story="unit.pbft.test_epochs::test_an_entry_of_the_old_epoch_above_the_handover_is_refused_whoever_signed_it")
def entries_of_any_epoch_count(patch: pytest.MonkeyPatch) -> None:
    """An entry needs a quorum of the epoch that it names, not of the one that is due."""
    honest = Verifier.entry

    def own(self: Any, entry: Any, epoch: int) -> None:
        honest(self, entry, entry.epoch)

    patch.setattr(Verifier, "entry", own)


@mutation(story="unit.pbft.test_epochs::test_a_view_change_proves_nothing_with_proofs_or_checkpoints_of_other_epochs")
def checkpoints_of_old_epochs_count(patch: pytest.MonkeyPatch) -> None:
    """A committee that left may still certify checkpoints."""
    patch.setattr(Verifier, "checkpoint", Verifier.settled)


@mutation(story="unit.pbft.test_epochs::test_a_backup_gives_up_a_primary_that_does_not_bring_the_handover_about")
def nobody_misses_the_handover(patch: pytest.MonkeyPatch) -> None:
    """Backups wait for requests only, so a silent primary can put the handover off for ever."""
    honest = Core._pending_change

    def unless_waiting(self: Any) -> bool:
        return bool(honest(self)) and self.primary == self.index

    patch.setattr(Core, "_pending_change", unless_waiting)
