"""Bugs of replicas that lost their journal, for the gate: see `mutations.py`."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace as changed

from pbft.rejoin import Rejoin

from .mutations import mutation

STORIES = "simulation.test_recovery_stories::"
RULES = "unit.pbft.test_pbft_paper_recovery::"


@mutation(STORIES + "test_it_does_not_vote_a_second_time_for_a_number_that_a_lying_primary_assigns_twice")
def lost_journal_votes_at_once(patch: pytest.MonkeyPatch) -> None:
    """A replica whose disk was wiped goes on as one that never spoke."""
    patch.setattr(Rejoin, "_forget", lambda self, lost: None)


@mutation()
def lost_journal_votes_at_once_in_the_weather(patch: pytest.MonkeyPatch) -> None:
    """The same, for the seeds to find: one that lost its word contradicts it."""
    lost_journal_votes_at_once(patch)


@mutation(STORIES + "test_it_does_not_vote_in_a_view_that_it_may_have_left_alone")
def lost_journal_votes_when_answered(patch: pytest.MonkeyPatch) -> None:
    """A wiped replica votes in the view in which the others stand, though it may have left that view alone."""
    honest = Rejoin._on_recovery_response

    def hasty(self: Any, sender: int, told: Any) -> None:
        honest(self, sender, told)
        if self.speaks_from is not None:
            self._lost = None

    patch.setattr(Rejoin, "_on_recovery_response", hasty)


@mutation(STORIES + "test_it_asks_for_no_view_change_before_what_its_view_proposes_again_is_prepared")
def lost_proofs_are_not_made_again(patch: pytest.MonkeyPatch) -> None:
    """A wiped replica takes part in view changes as soon as it votes: what it prepared before the loss is unproven."""
    patch.setattr(Rejoin, "_unproven", lambda self: None)


@mutation(RULES + "test_vr_revisited_4_3_answers_to_an_earlier_start_do_not_count")
def old_answers_count(patch: pytest.MonkeyPatch) -> None:
    """Where the others stood before the loss is taken for where they stand."""
    honest = Rejoin._on_recovery_response

    def trusting(self: Any, sender: int, told: Any) -> None:
        honest(self, sender, changed(told, since_ms=self._since_ms))

    patch.setattr(Rejoin, "_on_recovery_response", trusting)
