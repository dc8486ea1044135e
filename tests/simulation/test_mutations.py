"""Known bugs of PBFT implementations, put in one at a time: the simulator must catch each of them.

This tests the checkers, not the replica: a simulation that passes whatever the code does proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

import pbft.view_change
import pbft.views
from koinon.errors import KoinonError
from pbft.certificates import Verifier
from pbft.core import Core
from pbft.messages import SignedViewChange, ViewChange
from pbft.quorum import Committee
from tests.simulation.weather import play
from tests.simulation.world import DOMAIN, Disk

SEEDS_MAX = 60
Patch = Callable[[pytest.MonkeyPatch], None]
_select = pbft.view_change.select


def _empty_o(patch: pytest.MonkeyPatch) -> None:
    def select(changes: Iterable[ViewChange]) -> tuple[Any, list[Any]]:
        return _select(changes)[0], []

    patch.setattr(pbft.views, "select", select)
    patch.setattr(pbft.view_change, "select", select)


def _lost_proofs(patch: pytest.MonkeyPatch) -> None:
    def own(self: Any) -> SignedViewChange:
        change = ViewChange(epoch=0, view=self.view, stable=self.certificate, prepared=())
        signed = SignedViewChange(message=change, signature=self._signer.sign(DOMAIN, change))
        self._view_changes[self.index] = signed
        return signed

    patch.setattr(pbft.views.Views, "_own_view_change", own)


def _quorum_2f(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Committee, "quorum", property(lambda self: max(1, 2 * self.f)))


def _no_fsync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "sync", lambda self: None)


def _unchecked_votes(patch: pytest.MonkeyPatch) -> None:
    """Whoever speaks is believed to be anybody: every vote counts as that of the next free member."""
    counter = iter(range(10**9))
    patch.setattr(Verifier, "member", lambda self, message, signature, committee=None: next(counter) % self.committee.n)


def _executes_twice(patch: pytest.MonkeyPatch) -> None:
    from pbft.execution import Execution

    patch.setattr(Execution, "last", lambda self, client: None)
    original = Execution._apply_one

    def apply(self: Any, data: bytes) -> Any:
        self._clients.clear()
        return original(self, data)

    patch.setattr(Execution, "_apply_one", apply)


def _forgetful_guard(patch: pytest.MonkeyPatch) -> None:
    """Restarts with an empty memory, whatever the journal says."""
    patch.setattr("pbft.replica.Replica._restore_record", lambda self, record: None)


def _no_checkpoint_watermark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Core, "_advance", lambda self, certificate: None)


def _hunt() -> None:
    for seed in range(SEEDS_MAX):
        play(seed)


@pytest.mark.parametrize(
    "bug",
    [
        _quorum_2f,
        _empty_o,
        _lost_proofs,
        _no_fsync,
        _unchecked_votes,
        _executes_twice,
        _forgetful_guard,
        _no_checkpoint_watermark,
    ],
)
def test_the_simulator_catches(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, KoinonError)):  # a violation, a stall or a replica that stops itself
        _hunt()
