"""Mode masked with real processes: a node to which all replicas lie about another's key sits out and says so."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from koinon.config import load_federation, load_party, party_signer, save_federation
from koinon.encoding import encode
from koinon.privacy import SealingKey
from koinon.rounds.state import Member
from scripts.demo import APP
from scripts.federation import LocalFederation
from tests.e2e.helpers import complete, submit
from tests.e2e.lying import LyingProxies

pytestmark = pytest.mark.timeout(600)


def address(federation: LocalFederation, party: str) -> bytes:
    home = federation.home(party)
    return party_signer(home, load_party(home)).address


def test_a_node_whose_committee_passes_off_a_key_sits_out_and_the_others_go_on(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, replicas=4, nodes=4, apps=[APP]) as federation:
        victim, named = address(federation, "node-3"), address(federation, "node-0")

        def lie(path: str, body: bytes) -> bytes:
            if path != "/v1/members":
                return body
            members = msgspec.msgpack.decode(body, type=dict[bytes, Member])
            members[named].sealing_key = SealingKey(b"\x77" * 32).public
            return encode(members)

        with LyingProxies([each.url for each in federation.file.replicas], lie) as proxies:
            federation.kill("node-3")
            file = federation.home("node-3") / "federation.json"
            shown = load_federation(file)
            urls = zip(shown.replicas, proxies.urls, strict=True)
            replicas = tuple(msgspec.structs.replace(each, url=url) for each, url in urls)
            save_federation(file, msgspec.structs.replace(shown, replicas=replicas))
            federation.restart("node-3")
            identity = submit(federation, "lied-to", mode="masked", rounds=1, round_seconds=60)
            (round_,) = complete(federation, identity).rounds
            assert proxies.told
        assert victim in round_.cohort
        assert victim not in round_.announced
        assert len(round_.submissions) == len(round_.revealed) == 3
        lines = [json.loads(each) for each in (federation.logs / "node-3.log").read_text().splitlines()]
        (out,) = (each for each in lines if each["event"] == "round sat out")
        assert out["code"] == "unproven"
        assert f"the admission of node 0x{named.hex()}" in out["reason"]
        assert "koinon-audit" in out["hint"]
