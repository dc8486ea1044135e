"""The steps of provisioning (`scripts/provision.py` is the command). Each is skipped when its result is there."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from koinon.ceremony import (
    ACCEPTANCE,
    SHARE_FILE,
    TRANSCRIPT_FILE,
    hold,
    installed,
    load_transcript,
    load_words,
    save_transcript,
    sign_word,
)
from koinon.config import (
    ContractAddresses,
    FederationFile,
    Setting,
    convert,
    load_federation,
    save_federation,
    write_atomically,
)
from koinon.encoding import from_hex, to_hex
from koinon.errors import ChainUnreachable, ConfigError, LedgerError
from koinon.ledger import CommitteeMember, Ledger
from koinon.signing import Signer
from koinon.wire import Role

from ._homes import (
    EPOCH,
    FEDERATION,
    Plan,
    admit_home,
    authority,
    certify_listener,
    home_complete,
    party_key,
    replica_entries,
    write_home,
)

DEPLOYMENT, CEREMONY = "deployment.json", "ceremony"
WEI = 10**18
TRANSFERS_CONCURRENT_MAX = 16

Say = Callable[[str], None]


class DeploymentFile(Setting, frozen=True):
    """Which contracts this folder's deployer made, and on which chain."""

    chain_id: int
    genesis_hash: str
    contracts: ContractAddresses


@dataclass
class Provisioning:
    """One run over `folder`; `steps` names what was done, not what was there already."""

    folder: Path
    plan: Plan
    funder: Signer | None
    ether: float
    say: Say
    keys: dict[str, Signer] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    def run(self) -> FederationFile:
        """Do what is missing. ConfigError and LedgerError say what to do; running again continues."""
        if (finished := self._finished()) is not None:
            self.say(f"{self.folder} is complete and fits the chain: nothing to do")
            return finished
        for party in self.plan.parties:
            self.keys[party] = party_key(self.folder / party, self.plan.password_file)
        self.say(f"keys of {len(self.keys)} parties are there")
        ca = self._certificates()
        federation = self._federation(self._deployment(), ca)
        self._credits(Ledger.connect(federation.network, self.keys["deployer"]))
        self._admissions(federation)
        for party in self.plan.parties:
            if write_home(self.folder, self.plan, party, federation):
                self._did(f"home {party}")
        return federation

    def _did(self, step: str) -> None:
        self.steps.append(step)
        self.say(step)

    def _finished(self) -> FederationFile | None:
        if not (self.folder / FEDERATION).exists():
            return None
        federation = load_federation(self.folder / FEDERATION)
        Ledger.connect(federation.network)
        complete = all(home_complete(self.folder / party, federation) for party in self.plan.parties)
        return federation if complete else None

    def _certificates(self) -> str:
        """Everybody's certificate; the authority's own as PEM text ("" without TLS)."""
        if not self.plan.tls:
            return ""
        issuer = authority(self.folder, self.plan.name)
        for party in self.plan.listeners:
            certify_listener(self.folder / party, issuer, party, self.plan.host(party))
        return issuer.certificate.decode()

    def _paillier(self, federation: FederationFile) -> FederationFile:
        """The federation with its Paillier key. All parties of the ceremony are on this machine; the transcript is
        written last and makes it final.

        The dealer's key exists in this process only; see docs/threat-model.md for what that asks of the operator.
        """
        if not self.plan.paillier_bits:
            return federation
        folder = self.folder / CEREMONY
        if not (folder / TRANSCRIPT_FILE).exists():
            bits, now_ms = self.plan.paillier_bits, time.time_ns() // 1_000_000
            held = hold(federation, bits=bits, contributions=(), entropy=secrets.token_bytes, now_ms=now_ms)
            for party, box in zip(self.plan.replica_names, held.boxes, strict=True):
                write_atomically(self.folder / party / SHARE_FILE, box, mode=0o600)
                sign_word(folder, federation, held, ACCEPTANCE, self.keys[party])
            save_transcript(folder, held)
            self._did(f"Paillier key of {bits} bits, shared among {self.plan.replicas} replicas")
        return installed(federation, load_transcript(folder), load_words(folder))

    def _deployment(self) -> DeploymentFile:
        path = self.folder / DEPLOYMENT
        if path.exists():
            return convert(DeploymentFile, json.loads(path.read_text()), str(path))
        self._fund()
        members = [
            CommitteeMember(from_hex(entry.address), from_hex(entry.sealing_key), entry.url)
            for entry in replica_entries(self.plan, self.keys)
        ]
        made = Ledger.deploy(self.plan.rpc, self.keys["deployer"], self.keys["registrar"].address, members)
        names = ContractAddresses.__struct_fields__
        addresses = {name: to_hex(getattr(made.contracts, name)) for name in names}
        deployment = DeploymentFile(
            chain_id=made.chain_id,
            genesis_hash=to_hex(made.genesis_hash),
            contracts=ContractAddresses(**addresses),
        )
        write_atomically(path, msgspec.json.format(msgspec.json.encode(deployment), indent=2) + b"\n")
        self._did(f"contracts on chain {made.chain_id}, round ledger {addresses['ledger']}")
        return deployment

    def _fund(self) -> None:
        """Ether for everybody who sends transactions; those who have some are left alone."""
        network = Ledger.identify(self.plan.rpc)
        senders = ["registrar", "deployer", "aggregator", *self.plan.node_names]
        reader = Ledger(network)
        poor = [self.keys[party].address for party in senders if reader.wei(self.keys[party].address) == 0]
        if not poor:
            return
        try:
            Ledger(network, self.funder or self.keys["deployer"]).fund(poor, int(self.ether * WEI))
        except ChainUnreachable:
            raise
        except LedgerError as error:
            if self.funder is not None:
                raise ConfigError(
                    f"--fund-from cannot pay {len(poor)} parties: {error.message}",
                    hint="a keystore with more ether, or a smaller --ether",
                ) from None
            self.say("no ether for anybody: fine on a chain without fees; elsewhere use --fund-from KEYSTORE")
            return
        self._did(f"ether for {len(poor)} parties")

    def _federation(self, deployment: DeploymentFile, ca: str) -> FederationFile:
        bare = FederationFile(
            version=1,
            name=self.plan.name,
            chain_id=deployment.chain_id,
            genesis_hash=deployment.genesis_hash,
            rpc=self.plan.rpc,
            contracts=deployment.contracts,
            registrar=to_hex(self.keys["registrar"].address),
            epoch=EPOCH,
            replicas=replica_entries(self.plan, self.keys),
            tls_ca=ca,
        )
        federation = self._paillier(bare)
        path = self.folder / FEDERATION
        if not path.exists():
            save_federation(path, federation)
            self._did(FEDERATION)
        elif load_federation(path) != federation:
            raise ConfigError(
                f"{path} is not what the keys and contracts in {self.folder} say", hint="use another --out"
            )
        return federation

    def _credits(self, ledger: Ledger) -> None:
        """Each node gets credits to submit tasks with, unless it has some."""
        poor = [party for party in self.plan.node_names if ledger.balance(self.keys[party].address) == 0]
        if not poor or not self.plan.credits:
            return
        with ThreadPoolExecutor(TRANSFERS_CONCURRENT_MAX) as pool:  # so that they share blocks
            list(pool.map(lambda party: ledger.transfer(self.keys[party].address, self.plan.credits), poor))
        self._did(f"{self.plan.credits} credits for each of {len(poor)} nodes")

    def _admissions(self, federation: FederationFile) -> None:
        registrar, domain = self.keys["registrar"], federation.domain
        for party in ["aggregator", *self.plan.node_names]:
            role, most = (Role.AGGREGATOR, 0) if party == "aggregator" else (Role.NODE, self.plan.examples_max)
            admit_home(self.folder / party, registrar, domain, self.keys[party], role, most)
