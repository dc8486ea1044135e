"""A committee that talks over TLS: newcomers are trusted through the file that everybody has, others are not."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from koinon.errors import Unavailable
from koinon.rounds.operations import CreateTask, TaskSpec
from koinon.signing import Signer
from koinon.wire import Role
from scripts.tls import make_authority
from tests.integration.committee import Committee


def test_a_newcomer_with_a_certificate_of_its_own_key_takes_a_dead_replicas_place(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        committee.kill(2)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        await committee.until(newcomer, lambda said: said["state"] == "standby")
        await committee.hand_over(0, 1, newcomer, 3)
        await committee.until(newcomer, lambda said: said["state"] == "active" and len(said["peers"]) == 3)
        signer = Signer(secrets.token_bytes(32))
        spec = TaskSpec(
            name="task", app="none", mode="plain", strategy="fedavg", rounds=1, initial_model=bytes(32), dimension=1
        )
        async with committee.client(signer) as client:
            await client.submit(committee.enrolment(signer, Role.NODE))
            await client.submit(CreateTask(spec=spec))

    with Committee(tmp_path, tls=True) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_who_shows_a_strangers_certificate_gets_no_link_and_the_others_say_what_to_do(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.until(0, lambda said: said["peers"] == [1, 2])
        while "its TLS certificate is refused" not in committee.log(0):
            await asyncio.sleep(0.05)
        async with committee.client() as client:
            with pytest.raises(Unavailable, match="koinon-committee request"):
                await client.status(3)

    with Committee(tmp_path, tls=True) as committee:
        committee.certify(3, make_authority("another"))
        committee.start()
        asyncio.run(asyncio.wait_for(scenario(committee), 60))
