"""Nodes of mode `masked` with their records on disk, and a committee that tells each of them what it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from koinon.encoding import to_hex
from koinon.privacy import SealingKey
from koinon.rounds.operations import Enrol, Operation, Outcome
from koinon.rounds.state import MaskBoard, Member, Round
from koinon.signing import Signer
from koinon.wire import Role
from node.masking import Masking
from tests.unit.rounds.world import NODES, REGISTRAR, World

Lie = Callable[[Any], Any]


class Committee:
    """What `Masking` asks of a committee, answered by the law itself; `lies` change what this node is told (they are
    given a copy), never what is so. `sent` is what the node said."""

    def __init__(self, world: World, node: Signer) -> None:
        self._world, self._node = world, node
        registrar = to_hex(REGISTRAR.address)
        self.federation = SimpleNamespace(epoch=0, domain=world.law.domain, registrar=registrar)
        self.sent: list[Operation] = []
        self.lies: dict[str, Lie] = {}

    def _told(self, what: str, truth: Any) -> Any:
        return self.lies.get(what, lambda told: told)(deepcopy(truth))

    async def members(self) -> dict[bytes, Member]:
        told: dict[bytes, Member] = self._told("members", self._world.law.state.members)
        return told

    async def masks(self, task: bytes) -> MaskBoard:
        told: MaskBoard = self._told("masks", self._world.law.state.boards[task])
        return told

    async def submit(self, operation: Operation) -> Outcome:
        self.sent.append(operation)
        if "submit" in self.lies:  # heard by nobody but the liars
            return Outcome()
        return self._world.do(self._node, operation)


class Chain:
    """The registry's serials, as `Ledger.member` gives them; a party that it does not know has none."""

    def __init__(self) -> None:
        self.serials: dict[bytes, int] = {}

    def member(self, address: bytes) -> SimpleNamespace:
        return SimpleNamespace(serial=self.serials.get(address, 0))


class Masked(World):
    """A round for all four nodes; `committees` and `maskings` are theirs. `play` goes through its steps."""

    def __init__(self, root: Path) -> None:
        super().__init__(mode="masked")
        self.root, self.chain = root, Chain()
        self.committees = [Committee(self, node) for node in NODES]
        self.maskings = [self.restarted(place) for place in range(len(NODES))]
        self.open()

    def restarted(self, place: int) -> Masking:
        """Node `place` as it comes back from its disk."""
        folder = self.root / str(place)
        return Masking(cast("Any", self.committees[place]), lambda: cast("Any", self.chain), folder, NODES[place])

    def admission(self, member: Signer, role: Role, **rest: Any) -> Enrol:
        made = super().admission(member, role, **rest)
        told = type(made.admission)(
            member=member.address,
            roles=int(role),
            examples_max=100,
            sealing_key=SealingKey.derive(member.secret, 0).public,
            serial=made.admission.serial,
        )
        return Enrol(admission=told, signature=rest.get("by", REGISTRAR).sign(self.law.domain, told))

    @property
    def round(self) -> Round:
        return self.record.rounds[-1]

    def announce(self, *places: int) -> None:
        for place in places or range(len(NODES)):
            asyncio.run(self.maskings[place].announce(self.task, self.spec, self.round))

    def board(self, place: int, shown: Round | None = None) -> MaskBoard:
        return asyncio.run(self.maskings[place].board(self.task, shown or self.round))

    def mask(self, *places: int) -> None:
        """Each node takes the announcements, makes its vector and erases its secrets."""
        for place in places or range(len(NODES)):
            self.board(place)
            self.maskings[place].secrets(self.task, self.round.number)
            self.maskings[place].spend(self.task, self.round.number)

    def submit(self, *places: int) -> None:
        for place in places or range(len(NODES)):
            self.do(NODES[place], self.update(NODES[place], self.round.number))

    def confirm(self, *places: int, shown: Round | None = None) -> None:
        for place in places or range(len(NODES)):
            asyncio.run(self.maskings[place].confirm(self.task, self.spec, shown or self.round))

    def reveal(self, *places: int, shown: Round | None = None) -> None:
        for place in places or range(len(NODES)):
            asyncio.run(self.maskings[place].reveal(self.task, shown or self.round))

    def masked(self) -> None:
        """All have announced and masked."""
        self.announce()
        self.mask()

    def accepted(self) -> None:
        """... and submitted: the set is fixed."""
        self.masked()
        self.submit()

    def without(self, *places: int) -> Round:
        """The round as a lying committee shows it: as if these nodes had submitted nothing."""
        lie = deepcopy(self.round)
        for place in places:
            del lie.submissions[NODES[place].address]
        lie.phase = "closed"
        return lie

    def said(self, place: int, kind: type[Operation]) -> list[Any]:
        return [each for each in self.committees[place].sent if isinstance(each, kind)]
