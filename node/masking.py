"""This node's part in mode `masked` besides its update: announcing masks before a round, revealing shares after it.

The secrets of a round are on disk before they are announced, mode 0600, so that a crash is followed by the same
announcement. They mask one vector: they are erased once an update that they mask is on disk, so that no second one can
be made, from which the first would be subtracted. A reveal is on disk before it is sent, and no other one is ever sent
for its round: whoever got this node's shares for two accepted sets would hold both kinds of one dealer's.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from koinon.client import CommitteeClient
from koinon.config import write_atomically
from koinon.encoding import decode, encode
from koinon.errors import PrivacyError
from koinon.privacy.masking import Masks, MaskSecrets, announce, reveal
from koinon.privacy.sealing import SealingKey
from koinon.rounds.operations import AnnounceMasks, RevealShares
from koinon.rounds.state import MaskBoard, Round
from koinon.signing import Signer
from koinon.threads import in_thread
from koinon.wire import MaskAnnouncement, MaskReveal

_Revealed = tuple[tuple[bytes, ...], tuple[bytes, ...], MaskReveal]
"""Accepted nodes, announcers, and what was revealed for them."""


class Masking:
    """The folder `data/masks`, and the two operations."""

    def __init__(self, committee: CommitteeClient, root: Path, signer: Signer) -> None:
        self._committee = committee
        self._root = root
        self._signer = signer
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def announce(self, task: bytes, round_: Round) -> None:
        """Announce this round's masks; the same ones when it is asked for again."""
        members = await self._committee.members()
        cohort = {node: members[node].sealing_key for node in round_.cohort if node in members}

        def make() -> MaskAnnouncement:
            path = self._path(task, round_.number)
            if not path.exists():
                made = announce(task, round_.number, self._signer.address, cohort, secrets.token_bytes)
                write_atomically(path, encode(made), mode=0o600)
            return self._load(task, round_.number)[1]

        said = await in_thread(make)
        await self._committee.submit(AnnounceMasks(task=task, round=round_.number, announcement=said))

    async def board(self, task: bytes) -> MaskBoard:
        return await self._committee.masks(task)

    def secrets(self, task: bytes, number: int) -> bytes:
        """This round's secrets, encoded; PrivacyError when they are gone."""
        return encode(self._load(task, number)[0])

    def spend(self, task: bytes, number: int) -> None:
        """Erase this round's secrets: the update that they mask is on disk."""
        self._path(task, number).unlink(missing_ok=True)

    async def reveal(self, task: bytes, round_: Round) -> None:
        """Reveal this node's shares for the accepted set of a closed round: the log fixed it, once.

        PrivacyError when this node revealed for another set before, whatever the committee says now.
        """
        member = (await self._committee.members())[self._signer.address]
        board = await self.board(task)
        masks = Masks(task, round_.number, round_.cohort, board.announced)
        sealing = SealingKey.find(self._signer.secret, member.sealing_key, self._committee.federation.epoch)
        accepted = tuple(sorted(round_.submissions))

        def make() -> MaskReveal:
            path = self._path(task, round_.number, ".reveal")
            if not path.exists():
                made = reveal(masks, self._signer.address, sealing, accepted)
                write_atomically(path, encode((accepted, tuple(sorted(board.announced)), made)), mode=0o600)
            kept: _Revealed = decode(_Revealed, path.read_bytes())
            if kept[:2] != (accepted, tuple(sorted(board.announced))):
                raise PrivacyError(f"this node revealed its shares of round {round_.number} for another set of updates")
            return kept[2]

        said = await in_thread(make)
        await self._committee.submit(RevealShares(task=task, round=round_.number, reveal=said))

    def discard_before(self, task: bytes, number: int) -> None:
        """Remove the secrets of rounds below `number`, which are over."""
        for path in self._root.glob(f"{task.hex()}-*.*"):
            if int(path.stem.rpartition("-")[2]) < number:
                path.unlink(missing_ok=True)

    def _path(self, task: bytes, number: int, kind: str = ".bin") -> Path:
        return self._root / f"{task.hex()}-{number}{kind}"

    def _load(self, task: bytes, number: int) -> tuple[MaskSecrets, MaskAnnouncement]:
        try:
            content = self._path(task, number).read_bytes()
        except FileNotFoundError:
            raise PrivacyError(f"the mask secrets of round {number} are gone: the round is sat out") from None
        kept: tuple[MaskSecrets, MaskAnnouncement] = decode(tuple[MaskSecrets, MaskAnnouncement], content)
        return kept
