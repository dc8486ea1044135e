"""A committee of processes orders requests while one of its replicas is silent, killed or restarted."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from koinon.client import CommitteeClient
from koinon.encoding import encode
from koinon.errors import Overtaken, Rejected, Replayed
from koinon.rounds.operations import CreateTask, StopTask, TaskSpec
from koinon.rounds.rules import decode_outcome
from koinon.signing import Signer
from koinon.wire import Role
from tests.integration.committee import Committee


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("committee")) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


async def member(committee: Committee) -> Signer:
    signer = Signer(secrets.token_bytes(32))
    async with committee.client(signer) as client:
        await client.submit(committee.enrolment(signer, Role.NODE))
    return signer


def operation(name: str) -> CreateTask:
    spec = TaskSpec(
        name=name, app="none", mode="plain", strategy="fedavg", rounds=1, initial_model=bytes(32), dimension=1
    )
    return CreateTask(spec=spec)


async def work(client: CommitteeClient, count: int) -> None:
    """Order `count` tasks one after the other and stop them again."""
    for _ in range(count):
        made = await client.submit(operation(f"task-{secrets.token_hex(8)}"))
        await client.submit(StopTask(task=made.subject))


async def agree(committee: Committee, *indices: int) -> int:
    """Wait until these replicas stand where the furthest stands; that sequence number."""
    furthest = max(await committee.sequences(*indices))
    for index in indices:
        await committee.reaches(index, furthest)
    return furthest


def test_requests_of_several_clients_are_executed_once_and_everywhere_alike(committee: Committee) -> None:
    async def scenario() -> None:
        signers = [await member(committee) for _ in range(4)]

        async def speak(signer: Signer) -> set[bytes]:
            async with committee.client(signer) as client:
                return {(await client.submit(operation(f"own-{number}"))).subject for number in range(3)}

        made = set().union(*await asyncio.gather(*map(speak, signers)))
        assert len(made) == 12
        await agree(committee, 0, 1, 2, 3)
        async with committee.client(signers[0]) as client:
            logs = [await client.log(index, first=1) for index in range(4)]
            assert set(await client.tasks()) >= made
        ordered = [[entry.batch for entry in log] for log in logs]
        assert ordered[0] == ordered[1] == ordered[2] == ordered[3]
        requests = [request for batch in ordered[0] for request in batch.requests]
        assert len(requests) == len(set(requests)) == 16

    asyncio.run(scenario())


def test_requests_that_one_client_sends_at_once_are_all_executed(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client, asyncio.timeout(20):
            names = [f"at-once-{number}" for number in range(8)]
            made = await asyncio.gather(*(client.submit(operation(name)) for name in names))
            assert len({outcome.subject for outcome in made}) == 8

    asyncio.run(scenario())


class Late(CommitteeClient):
    """A client whose first request has a number that was given before: as if all answers to it had been lost."""

    number = 0

    def _next_number(self) -> int:
        number, self.number = self.number, 0
        return number or super()._next_number()


def test_a_request_that_was_executed_is_not_sent_again_under_another_number(committee: Committee) -> None:
    """Its answers were lost, and another process with the same key spoke before it asked again."""

    async def scenario() -> None:
        signer = await member(committee)
        nothing = StopTask(task=secrets.token_bytes(32))
        async with Late(committee.federation, signer) as late, committee.client(signer) as other:
            before = (await other.refusals()).get("unknown-task", 0)
            number = other._next_number()
            with pytest.raises(Rejected):
                decode_outcome(await other._order(signer, number, encode(nothing)))
            with pytest.raises(Rejected):
                await other.submit(StopTask(task=secrets.token_bytes(32)))
            late.number = number
            with pytest.raises(Replayed) as refused:
                await late.submit(nothing)
            assert not isinstance(refused.value, Overtaken)
            assert "send it again if it did not" in str(refused.value.hint)
            assert (await other.refusals())["unknown-task"] == before + 2

    asyncio.run(scenario())


def test_two_processes_with_one_key_run_nothing_twice_and_are_told_of_what_is_not_known(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as one, committee.client(signer) as other:
            before = (await one.refusals()).get("unknown-task", 0)
            answers = await asyncio.gather(
                *(client.submit(StopTask(task=secrets.token_bytes(32))) for client in (one, other) * 12),
                return_exceptions=True,
            )
            executed = (await one.refusals())["unknown-task"] - before
        known = [answer for answer in answers if isinstance(answer, Rejected) and answer.rule == "unknown-task"]
        unknown = [answer for answer in answers if isinstance(answer, Replayed)]
        assert len(known) + len(unknown) == len(answers)
        assert len(known) <= executed <= len(answers)

    asyncio.run(scenario())


def test_a_silent_backup_stops_nobody_and_catches_up(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            primary = (await client.status(0))["primary"]
            silent = (primary + 1) % 4
            committee.signal(silent, signal.SIGSTOP)
            try:
                await work(client, 3)
                others = [index for index in range(4) if index != silent]
                reached = await agree(committee, *others)
            finally:
                committee.signal(silent, signal.SIGCONT)
            await committee.reaches(silent, reached)

    asyncio.run(scenario())


def test_a_silent_primary_is_replaced_and_catches_up(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            before = await client.status(1)
            silent = before["primary"]
            committee.signal(silent, signal.SIGSTOP)
            try:
                await work(client, 2)
                other = (silent + 1) % 4
                assert (await client.status(other))["view"] > before["view"]
                reached = max(await committee.sequences(other))
            finally:
                committee.signal(silent, signal.SIGCONT)
            await committee.reaches(silent, reached)

    asyncio.run(scenario())


def test_a_killed_replica_restarts_from_its_disk_and_catches_up_past_a_checkpoint(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            victim = ((await client.status(0))["primary"] + 2) % 4
            others = [index for index in range(4) if index != victim]
            committee.kill(victim)
            await work(client, 40)
            reached = await agree(committee, *others)
            assert (await client.status(others[0]))["checkpoint"] > 0
            committee.start(victim)
            await committee.ready(victim)
            await committee.reaches(victim, reached)
            await work(client, 1)
            await agree(committee, 0, 1, 2, 3)

    asyncio.run(scenario())


def test_a_wiped_replica_gets_the_log_back_from_its_peers(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            victim = ((await client.status(0))["primary"] + 1) % 4
            committee.kill(victim)
            for file in sorted((committee.home(victim) / "data").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            committee.start(victim)
            reached = max(await committee.sequences((victim + 1) % 4))
            await committee.ready(victim)
            await committee.reaches(victim, reached)
            logs = [await client.log(index, first=1) for index in (victim, (victim + 1) % 4)]
            assert [entry.batch for entry in logs[0]] == [entry.batch for entry in logs[1]]

    asyncio.run(scenario())


def test_a_committee_that_was_stopped_goes_on_where_it_was(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            await work(client, 1)
            await agree(committee, 0, 1, 2, 3)
            tasks = await client.tasks()
        for index in range(4):
            committee.signal(index, signal.SIGTERM)
        assert [committee.wait(index) for index in range(4)] == [0, 0, 0, 0]
        committee.start()
        await committee.ready()
        async with committee.client(signer) as client:
            assert await client.tasks() == tasks
            await work(client, 1)

    asyncio.run(scenario())


def test_a_key_that_is_not_the_seats_ends_with_the_exit_code_of_a_configuration_error(tmp_path: Path) -> None:
    with Committee(tmp_path) as committee:
        stolen = committee.home(1) / "keystore.json"
        stolen.write_bytes((committee.home(0) / "keystore.json").read_bytes())
        committee.start(1)
        assert committee.wait(1) == 2
        assert "the keystore is not that of replica 1" in committee.log(1)
