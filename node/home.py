"""A node's home as the commands and the agent use it: configuration, federation, key, chain, committee."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from koinon.config import FederationFile, PartyConfig, load_federation, load_party, party_signer
from koinon.errors import ConfigError, LedgerError
from koinon.signing import Signer
from koinon.threads import in_thread

if TYPE_CHECKING:
    from koinon.client import CommitteeClient
    from koinon.committees import Committees
    from koinon.ledger import Ledger

HOME_VARIABLE = "KOINON_HOME"
T = TypeVar("T")


def default_home() -> Path:
    """$KOINON_HOME, else ~/.koinon."""
    return Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".koinon")


@dataclass(frozen=True)
class Home:
    """The folder of a party; what it holds is read on first use. Properties raise ConfigError and its kinds."""

    path: Path

    @cached_property
    def config(self) -> PartyConfig:
        return load_party(self.path)

    @cached_property
    def federation(self) -> FederationFile:
        return load_federation(self.path / self.config.federation)

    @cached_property
    def signer(self) -> Signer:
        return party_signer(self.path, self.config)

    @property
    def data(self) -> Path:
        return self.path / self.config.data

    @property
    def admission(self) -> Path:
        from koinon.admission import ADMISSION_FILE

        return self.path / ADMISSION_FILE

    @cached_property
    def committees(self) -> Committees:
        """The federation's committees from the home's federation.json on, as far as this home followed them."""
        from koinon.committees import HANDOVERS_FILE, Committees

        return Committees(self.federation, self.data / HANDOVERS_FILE)

    def committee(self, *, signing: bool = False) -> CommitteeClient:
        """A client to use as an async context manager; without `signing` the keystore stays shut."""
        from koinon.client import CommitteeClient

        return CommitteeClient(self.committees, self.signer if signing else None)

    def ledger(self, *, signing: bool = False) -> Ledger:
        """The chain, checked to be the federation's. Blocks; LedgerError and its kinds."""
        from koinon.ledger import Ledger

        return Ledger.connect(self.federation.network, self.signer if signing else None)

    def require_node(self) -> None:
        """ConfigError unless this is a node's home."""
        if self.config.role != "node":
            raise ConfigError(
                f"{self.path} is the home of a {self.config.role}, not of a node",
                hint="pass a node's home with --home, or set KOINON_HOME",
            )


async def register(home: Home) -> dict[str, object]:
    """Hand the home's admission to the chain and to the committee; each step is skipped where it is done.

    ConfigError without an admission or with somebody else's, LedgerError or Rejected when it is refused.
    """
    from koinon.admission import load_admission

    home.require_node()
    enrol = load_admission(home.admission)
    admission, mine = enrol.admission, home.signer.address
    if admission.member != mine:
        raise ConfigError(
            f"the admission is for 0x{admission.member.hex()}, this home is 0x{mine.hex()}",
            hint="ask the registrar for an admission of this home's address",
        )

    def on_chain() -> bool:
        ledger = home.ledger(signing=True)
        known = ledger.member(mine)
        if known.serial >= admission.serial:
            return False
        if ledger.wei(mine) == 0:
            with contextlib.suppress(LedgerError):  # a development chain gives it; others may need none
                ledger.fund([mine])
        ledger.register(admission, enrol.signature)
        return True

    chain = await in_thread(on_chain)
    async with home.committee(signing=True) as committee:
        member = (await committee.members()).get(mine)
        ordered = member is None or member.serial < admission.serial
        if ordered:
            await committee.submit(enrol)
    return {
        "address": f"0x{mine.hex()}",
        "roles": admission.roles,
        "examples_max": admission.examples_max,
        "chain": "registered" if chain else "already registered",
        "committee": "enrolled" if ordered else "already enrolled",
    }
