"""The committee changes under a task, over TLS: trained in two epochs, certified on chain in both, and audited."""

from __future__ import annotations

import json
from pathlib import Path

from koinon.ledger import Ledger
from scripts.federation import LocalFederation, free_port
from tests.e2e.helpers import complete, small_federation, submit, until, wait_for_training

CHAIN_SECONDS = 60.0


def committee(federation: LocalFederation, command: str, *arguments: str) -> str:
    """`koinon-committee` as the registrar."""
    return federation.run("scripts.committee", command, "--home", str(federation.home("registrar")), *arguments)


def seat_newcomer(federation: LocalFederation, party: str) -> Path:
    """An operator makes a home, a seat and a certificate request, and starts the replica once the registrar certified
    it: it stands by."""
    seat, home = federation.folder / f"{party}.json", federation.home(party)
    federation.run(
        "scripts.committee", "seat", "--home", str(home), "--out", str(seat),
        "--federation", str(federation.home_folder / "federation.json"), "--url", f"https://127.0.0.1:{free_port()}",
    )  # fmt: skip
    committee(federation, "certify", str(home / "tls.csr"), "127.0.0.1", "--out", str(home / "tls.pem"))
    federation.spawn(party)
    return seat


def test_a_task_goes_on_over_a_change_of_the_committee_and_the_audit_follows(tmp_path: Path) -> None:
    with small_federation(tmp_path, tls=True) as federation:
        seat = seat_newcomer(federation, "replica-4")
        identity = submit(federation, "over-a-change", rounds=4, epochs=40)
        first = wait_for_training(federation, identity)
        assert first.epoch == 0
        shown = json.loads(committee(federation, "add", "--seat", str(seat), "--json"))
        assert shown["epoch"] == 1
        assert len(shown["replicas"]) == 5
        federation.wait_ready(["replica-4"])

        task = complete(federation, identity)
        assert task.certified == 4
        assert [each.epoch for each in task.rounds] == sorted(each.epoch for each in task.rounds)
        assert task.rounds[-1].epoch == 1
        lost = [each for each in task.rounds if each.phase == "aborted"]
        assert all(each.epoch == 0 for each in lost)
        assert task.aborted_in_a_row == 0

        ledger = Ledger(federation.file.network)
        until(lambda: ledger.epoch() == 1, CHAIN_SECONDS, "the aggregator tells the chain of the handover")
        assert [each.address for each in ledger.committee(1).members][:4] == list(federation.file.replica_addresses)

        federation.kill("replica-0")
        shown = json.loads(
            committee(federation, "replace", "0", "--seat", str(seat_newcomer(federation, "replica-5")), "--json")
        )
        assert shown["epoch"] == 2
        assert json.loads(committee(federation, "anchor", "--json"))["epoch"] == 2
        again = submit(federation, "with-a-newcomer", rounds=1)
        assert complete(federation, again).rounds[-1].epoch == 2

        node = ("--home", str(federation.home("node-0")))
        replicas = [json.loads(line) for line in federation.run("node", "replicas", "--json", *node).splitlines()]
        assert [each["epoch"] for each in replicas] == [2] * 5
        assert {each["state"] for each in replicas} <= {"active", "catching up"}
        assert "FAIL" not in federation.run("scripts.audit", *node)
