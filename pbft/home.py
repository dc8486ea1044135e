"""A replica's home: its key, the committees that it knows, and its seat in the present one, if it has any.

Whoever has no seat is a *standby*: a newcomer before its epoch, or a member that left. Which seat a key holds follows
from its address; `index` in config.toml says which seat of the given federation.json the home was made for (-1: none),
so that a keystore in the wrong home is noticed.
"""

from __future__ import annotations

import logging
from pathlib import Path

from koinon.ceremony import SHARE_FILE
from koinon.committees import HANDOVERS_FILE, Committees
from koinon.config import JOURNAL_FILE, FederationFile, load_federation, load_party, party_signer
from koinon.encoding import from_hex
from koinon.epochs import Seat
from koinon.errors import BadPiece, ConfigError, PrivacyError
from koinon.opening import key_is_current
from koinon.privacy import SealingKey
from koinon.privacy.sealing import key_share_context

from .journal import mark_loss

log = logging.getLogger("koinon.pbft")


class ReplicaHome:
    """Raises ConfigError and its kinds for a home that is no replica's, StorageDamaged for kept handovers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = load_party(path)
        self.signer = party_signer(path, self.config)
        self.data = path / self.config.data
        given = load_federation(path / self.config.federation)
        self._require_fitting(given)
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        if mark_loss(self.data / JOURNAL_FILE):
            log.warning("journal lost", extra={"reason": "this key votes again once it cannot contradict itself"})
        self.committees = Committees(given, self.data / HANDOVERS_FILE)

    @property
    def federation(self) -> FederationFile:
        """With the last committee that this replica knows."""
        return self.committees.federation

    @property
    def index(self) -> int | None:
        """The seat of this key in the present committee; None for a standby."""
        members = self.federation.replica_addresses
        return members.index(self.signer.address) if self.signer.address in members else None

    def sealing(self) -> SealingKey:
        """The derived key that is announced for the present seat: the registrar may have kept an earlier epoch's.

        ConfigError when none is, or without a seat.
        """
        if self.index is None:
            raise ConfigError(
                "a standby has no sealing key that anybody seals to", hint="ask a replica that has a seat"
            )
        announced = from_hex(self.federation.replicas[self.index].sealing_key)
        try:
            return SealingKey.find(self.signer.secret, announced, self.federation.epoch)
        except PrivacyError:
            raise ConfigError(
                f"the federation announces another sealing key for replica {self.index}",
                hint="was the home copied from another one? its keystore must be the one that the registrar seated",
            ) from None

    def own_seat(self, epoch: int) -> Seat:
        """What this replica asks the registrar to announce for `epoch`; ConfigError when it knows no url of its own."""
        url = self.config.public_url
        if not url and self.index is not None:
            url = self.federation.replicas[self.index].url
        if not url:
            raise ConfigError("this replica does not know where others reach it", hint="public_url in config.toml")
        public = SealingKey.derive(self.signer.secret, epoch).public
        return Seat(address=self.signer.address, sealing_key=public, url=url)

    def key_share(self) -> bytes:
        """This replica's share of the Paillier key, unsealed; b"" without a key of this epoch."""
        paillier, index = self.federation.paillier, self.index
        if paillier is None or index is None or not key_is_current(self.federation):
            return b""
        try:
            box = (self.path / SHARE_FILE).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the share of the Paillier key cannot be read: {error}",
                hint="koinon ceremony accept FOLDER --home HOME writes it",
            ) from None
        try:
            return self.sealing().open(box, key_share_context(from_hex(paillier.public_key), index))
        except BadPiece:
            raise ConfigError(
                "the share of the Paillier key is not of this epoch's key", hint="koinon ceremony accept"
            ) from None

    def _require_fitting(self, given: FederationFile) -> None:
        config, signer = self.config, self.signer
        if config.role != "replica":
            raise ConfigError(
                f"the home is that of {config.role} {config.index}, not of a replica of this federation",
                hint="--home is a replica's; koinon-committee seat makes one",
            )
        if config.index < 0:
            return
        if config.index >= len(given.replicas):
            raise ConfigError(f"federation.json has no replica {config.index}", hint="index = -1 for a newcomer")
        if from_hex(given.replicas[config.index].address) != signer.address:
            raise ConfigError(
                f"the keystore is not that of replica {config.index} (0x{signer.address.hex()})",
                hint="put the keystore of this home back, or set index = -1 for a newcomer",
            )
