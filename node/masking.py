"""This node's part in mode `masked` besides its update: it announces masks before a round, and after it confirms the
accepted set and reveals shares. What it believes on the way is what others signed (koinon.rounds.vouching), and what
the chain knows of their admissions.

A node promises at most one of each for a round, whatever it is told later, and each is on disk (mode 0600) before it is
sent: one announcement, for one cohort; one vector, masked with one set of announcements; one accepted set; one reveal.
Whoever got two reveals of a node could hold shares of both secrets of one dealer. The round's own secrets are erased
once the update that they mask is on disk. When the task has moved on, a floor stays: nothing is done for rounds below.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

import msgspec

from koinon.client import CommitteeClient
from koinon.config import write_atomically
from koinon.encoding import U32, U63, Address, Message, PublicKey, Signature, decode, encode, from_hex
from koinon.errors import Malformed, PrivacyError, Unproven
from koinon.privacy.masking import Masks, MaskSecrets, announce, reveal
from koinon.privacy.sealing import SealingKey
from koinon.rounds.operations import AnnounceMasks, ConfirmSet, RevealShares, TaskSpec
from koinon.rounds.state import MaskBoard, Member, Round
from koinon.rounds.vouching import (
    MISTRUST,
    accepted_set,
    mask_notice,
    require_acceptable,
    require_announced,
    require_confirmed,
    require_invited,
)
from koinon.signing import Signer
from koinon.threads import in_thread
from koinon.wire import (
    AcceptedSet,
    Admission,
    MaskAnnouncement,
    MaskNotice,
    MaskReveal,
    announced_digest,
    invited_digest,
)

if TYPE_CHECKING:
    from koinon.ledger import Ledger

T = TypeVar("T")

RECORD_BYTES_MAX = 32 << 20
"""256 announcements of 46 KB, and room."""


class MaskRecord(Message, frozen=True):
    """What this node promised in one round; fields are filled one after the other and never change.

    `examples_max` is what the registrar admitted this node with; `invited` are those to whom the announcement's shares
    were sealed, `notice` is what it signed of the round; `announced` are the announcements that its vector was masked
    with; `accepted` is the set that it confirmed.
    """

    sealing_key: PublicKey
    examples_max: U32
    invited: tuple[Address, ...]
    notice: MaskNotice
    announcement: MaskAnnouncement
    signature: Signature
    secrets: MaskSecrets | None
    announced: tuple[tuple[Address, MaskAnnouncement], ...] = ()
    accepted: AcceptedSet | None = None
    reveal: MaskReveal | None = None


class Masking:
    """The folder `data/masks`, and the three operations. `connect` gives the chain (it blocks; LedgerError).

    All raise PrivacyError when this node's own record forbids what is asked of it, and its kind Unproven when others
    did not sign what the committee says of them.
    """

    def __init__(self, committee: CommitteeClient, connect: Callable[[], Ledger], root: Path, signer: Signer) -> None:
        self._committee = committee
        self._connect = connect
        self._root = root
        self._signer = signer
        self._floors: dict[bytes, int] = {}
        self._promising = Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    # --- announce --------------------------------------------------------------------------------------------

    async def announce(self, task: bytes, spec: TaskSpec, round_: Round) -> None:
        """Announce this round's masks; the same ones when it is asked for again."""
        members = await self._committee.members()
        record = await in_thread(lambda: self._announcement(task, spec, round_, members))
        await self._committee.submit(
            AnnounceMasks(task=task, round=round_.number, announcement=record.announcement, signature=record.signature)
        )

    def _announcement(self, task: bytes, spec: TaskSpec, round_: Round, members: dict[bytes, Member]) -> MaskRecord:
        federation, node = self._committee.federation, self._signer.address
        registrar = from_hex(federation.registrar)
        invited = require_invited(federation.domain, registrar, spec, round_, members, node)
        cohort = invited_digest(invited)
        if self._find(task, round_.number) is None:
            self._require_current(invited)  # not under the lock: the chain may not answer
        with self._promising:
            if (record := self._find(task, round_.number)) is None:
                record = self._new_record(task, round_, invited, cohort)
        _require_unchanged(record, task, round_, cohort)
        return record

    def _new_record(self, task: bytes, round_: Round, invited: tuple[Admission, ...], cohort: bytes) -> MaskRecord:
        federation, node = self._committee.federation, self._signer.address
        own = next(each for each in invited if each.member == node)
        SealingKey.find(self._signer.secret, own.sealing_key, federation.epoch)
        keys = {each.member: each.sealing_key for each in invited}
        made, said = announce(task, round_.number, node, keys, secrets.token_bytes)
        notice = mask_notice(task, round_, cohort, said)
        record = MaskRecord(
            sealing_key=own.sealing_key,
            examples_max=own.examples_max,
            invited=round_.cohort,
            notice=notice,
            announcement=said,
            signature=self._signer.sign(federation.domain, notice),
            secrets=made,
        )
        self._keep(task, round_.number, record)
        return record

    def _require_current(self, invited: tuple[Admission, ...]) -> None:
        """Unproven when the chain knows a later word of the registrar about one of the cohort."""
        ledger = self._connect()
        for admission in invited:
            serial = ledger.member(admission.member).serial
            if serial > admission.serial:
                raise Unproven(
                    f"the admission of node 0x{admission.member.hex()} (serial {admission.serial}) is out of date: "
                    f"the chain has serial {serial}",
                    hint="it was admitted again, or revoked, and the committee has not heard of it",
                )

    # --- mask ------------------------------------------------------------------------------------------------

    async def board(self, task: bytes, round_: Round) -> MaskBoard:
        """The announcements that this node masks its vector with: each signed by its node, and the same ones ever."""
        shown = await self._committee.masks(task)

        def check() -> MaskBoard:
            record = self._promised(task, round_)
            domain = self._committee.federation.domain
            cohort = record.notice.cohort
            found = require_announced(domain, task, round_, cohort, shown)
            if found.get(self._signer.address) != record.announcement:
                raise Unproven(f"the committee shows not what this node announced for round {round_.number}")
            announced = tuple(found.items())
            if not record.announced:
                record = msgspec.structs.replace(record, announced=announced)
                self._keep(task, round_.number, record)
            if record.announced != announced:
                raise Unproven(f"the announcements for round {round_.number} changed", hint=MISTRUST)
            return MaskBoard(cohort=cohort, announced=found, signatures=shown.signatures)

        return await in_thread(self._alone, check)

    def secrets(self, task: bytes, number: int) -> bytes:
        """This round's secrets, encoded; PrivacyError when they are gone."""
        kept = self._load(task, number).secrets
        if kept is None:
            raise PrivacyError(f"the mask secrets of round {number} are gone: they masked one update")
        return encode(kept)

    def examples_max(self, task: bytes, number: int) -> int:
        """The most samples that this node may weigh in the round, on the registrar's word: whoever made others weigh
        less could read what is left of the sum."""
        return self._load(task, number).examples_max

    def spend(self, task: bytes, number: int) -> None:
        """Erase this round's secrets: the update that they mask is on disk."""
        with self._promising:
            record = self._find(task, number)
            if record is not None and record.secrets is not None:
                self._keep(task, number, msgspec.structs.replace(record, secrets=None))

    # --- confirm and reveal ----------------------------------------------------------------------------------

    async def confirm(self, task: bytes, spec: TaskSpec, round_: Round) -> None:
        """Sign the accepted set of a closed round; no other one afterwards."""

        def sign() -> bytes:
            record = self._promised(task, round_)
            announced = dict(record.announced)
            if record.secrets is not None or not announced:
                raise PrivacyError(f"this node masked no update in round {round_.number}")
            require_acceptable(spec, round_, announced)
            said = accepted_set(task, round_, announced_digest(record.notice.cohort, announced))
            if record.accepted is None:
                record = msgspec.structs.replace(record, accepted=said)
                self._keep(task, round_.number, record)
            self._require_same(record, said)
            return self._signer.sign(self._committee.federation.domain, said)

        signature = await in_thread(self._alone, sign)
        await self._committee.submit(ConfirmSet(task=task, round=round_.number, signature=signature))

    async def reveal(self, task: bytes, round_: Round) -> None:
        """Reveal this node's shares for the set that it confirmed, and t nodes with it."""

        def make() -> MaskReveal:
            record = self._promised(task, round_)
            federation, announced = self._committee.federation, dict(record.announced)
            said = accepted_set(task, round_, announced_digest(record.notice.cohort, announced))
            self._require_same(record, said)
            require_confirmed(federation.domain, said, round_)
            if record.reveal is not None:
                return record.reveal
            sealing = SealingKey.find(self._signer.secret, record.sealing_key, federation.epoch)
            masks = Masks(task, round_.number, record.invited, announced)
            made = reveal(masks, self._signer.address, sealing, sorted(round_.submissions))
            self._keep(task, round_.number, msgspec.structs.replace(record, reveal=made))
            return made

        made = await in_thread(self._alone, make)
        await self._committee.submit(RevealShares(task=task, round=round_.number, reveal=made))

    def _alone(self, step: Callable[[], T]) -> T:
        """One look at a record, and what follows from it, at a time: a thread may outlive who gave it up."""
        with self._promising:
            return step()

    @staticmethod
    def _require_same(record: MaskRecord, said: AcceptedSet) -> None:
        if record.accepted != said:
            raise Unproven(
                f"this node confirmed another set of updates of round {said.round}, or none: it reveals for no other",
                hint=MISTRUST,
            )

    # --- on disk ---------------------------------------------------------------------------------------------

    def discard_before(self, task: bytes, number: int) -> None:
        """Remove the records of rounds below `number`, which are over, and do nothing more for them."""
        if number <= self._floor(task):
            return
        write_atomically(self._root / f"{task.hex()}.floor", encode(number), mode=0o600)
        self._floors[task] = number
        for path in self._root.glob(f"{task.hex()}-*.bin"):
            if int(path.stem.rpartition("-")[2]) < number:
                path.unlink(missing_ok=True)

    def _floor(self, task: bytes) -> int:
        if task not in self._floors:
            path = self._root / f"{task.hex()}.floor"
            try:
                self._floors[task] = decode(U63, path.read_bytes()) if path.exists() else 0
            except Malformed as error:
                raise PrivacyError(
                    f"the record of the rounds that are over is damaged ({path}): {error.message}"
                ) from None
        return self._floors[task]

    def _path(self, task: bytes, number: int) -> Path:
        return self._root / f"{task.hex()}-{number}.bin"

    def _keep(self, task: bytes, number: int, record: MaskRecord) -> None:
        write_atomically(self._path(task, number), encode(record), mode=0o600)

    def _find(self, task: bytes, number: int) -> MaskRecord | None:
        if number < self._floor(task):
            raise PrivacyError(
                f"round {number} is over: this node has seen round {self._floor(task)} of the task", hint=MISTRUST
            )
        try:
            return decode(MaskRecord, self._path(task, number).read_bytes(), bytes_max=RECORD_BYTES_MAX)
        except FileNotFoundError:
            return None
        except Malformed as error:
            raise PrivacyError(
                f"the record of this node's masks in round {number} is damaged: {error.message}"
            ) from None

    def _promised(self, task: bytes, round_: Round) -> MaskRecord:
        """The record of a round that is shown as it was: thresholds depend on how many are invited, and what is in a
        vector on model and weight."""
        record = self._load(task, round_.number)
        _require_unchanged(record, task, round_, record.notice.cohort)
        return record

    def _load(self, task: bytes, number: int) -> MaskRecord:
        record = self._find(task, number)
        if record is None:
            raise PrivacyError(f"this node has no record of masks for round {number}: the round is sat out")
        return record


def _require_unchanged(record: MaskRecord, task: bytes, round_: Round, cohort: bytes) -> None:
    """Unproven unless this node announced masks for `round_` as it is, with this cohort (an `invited_digest`)."""
    if record.invited != round_.cohort or record.notice.cohort != cohort:
        raise Unproven(f"this node announced masks for round {round_.number} to another cohort", hint=MISTRUST)
    if record.notice != mask_notice(task, round_, cohort, record.announcement):
        raise Unproven(
            f"round {round_.number} has another model, weight or epoch than when this node announced its masks",
            hint=MISTRUST,
        )
