"""A liar that is not the primary, in fair weather: whatever it says, no honest replica leaves the view.

View changes cost the committee its pace; who could force one with words alone could force them for ever.
"""

from __future__ import annotations

import pytest

from tests.simulation.byzantine import LIARS
from tests.simulation.world import World

BACKUP = 3
MOVES_VIEWS = {
    "recovery-spammer": "who lost its journal may ask for the next view, at most RECOVERY_VIEWS_MAX times in a while",
}
"""The liars that do move a view, and why they may."""


@pytest.mark.parametrize("liar", sorted(set(LIARS) - set(MOVES_VIEWS)))
def test_a_lying_backup_forces_no_view_change(liar: str) -> None:
    world = World(4, seed=15)
    world.byzantine[BACKUP] = LIARS[liar]
    for client in range(3):
        world.script(client, 8)
    assert world.run_until(lambda: not world.current, 30_000), "requests still wait"
    world.run(2 * world.settings.view_timeout_ms)
    assert world.checkers is not None
    world.checkers.finish()
    assert {(replica.view, replica.active) for replica in world.honest()} == {(0, True)}
    assert not world.views
