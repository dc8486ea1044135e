"""The replica: Castro & Liskov's protocol as `step(event) -> effects` (being filled in; the API is stable)."""

from __future__ import annotations

from koinon.signing import Domain, Signer

from .events import Application, Effect, Event, Settings
from .quorum import Committee

__all__ = ["Replica"]


class Replica:
    """One member of the committee. Synchronous, no I/O; equal events give equal effects.

    Read-only for the shell: `view`, `active` (False during a view change), `stable` (last stable sequence),
    `executed` (last executed sequence), `primary` (index), `index`, `committee`, `execution`.
    """

    def __init__(
        self,
        index: int,
        committee: Committee,
        domain: Domain,
        signer: Signer,
        application: Application,
        settings: Settings | None = None,
    ) -> None:
        raise NotImplementedError

    def step(self, event: Event) -> list[Effect]:
        """Take one event; return the effects that the shell must perform, in order."""
        raise NotImplementedError
