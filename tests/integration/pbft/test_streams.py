"""Many requests over one connection a replica: what is believed, what is refused, and whom the client asks."""

from __future__ import annotations

import asyncio
import secrets
import signal
import struct
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from koinon.bundle import BUNDLE_BYTES, bundle
from koinon.encoding import decode, encode
from koinon.errors import UnknownSigner
from koinon.rounds.operations import Outcome, StopTask
from koinon.signing import Signer, authenticate, seal
from koinon.streams import HEDGE_SECONDS, Answer, Gateway, read_answers
from koinon.wire import Replies, Request, Role
from tests.integration.committee import Committee

OPERATION = encode(StopTask(task=bytes(32)))


FRAMES = [b"", b"\x00", encode([]), bundle([b"\x00\x00"]), bundle([bytes(BUNDLE_BYTES + 5000)])]


def rule(raw: bytes) -> str:
    return decode(Outcome, raw).rule


def scene(folder: Path, work: Callable[[Committee, Gateway, list[Signer]], Awaitable[None]], *, keys: int) -> None:
    """A committee of four with so many members, and a gateway to it."""

    async def scenario() -> None:
        with Committee(folder) as committee:
            committee.start()
            await committee.ready()
            signers = [Signer(secrets.token_bytes(32)) for _ in range(keys)]
            async with Gateway(committee.federation) as gateway, asyncio.timeout(60):
                admissions = [gateway.order(key, encode(committee.enrolment(key, Role.NODE))) for key in signers]
                assert all(rule(raw) == "" for raw in await asyncio.gather(*admissions))
                await work(committee, gateway, signers)

    asyncio.run(scenario())


def test_requests_of_many_keys_over_one_gateway_are_all_executed_once(tmp_path: Path) -> None:
    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        for _ in range(3):
            results = await asyncio.gather(*(gateway.order(key, OPERATION) for key in signers))
            assert {rule(raw) for raw in results} == {"unknown-task"}
        async with committee.client(signers[0]) as client:
            assert await client.refusals() == {"unknown-task": 3 * len(signers)}

    scene(tmp_path, work, keys=40)


def test_what_a_replica_says_at_one_time_it_signs_once(tmp_path: Path) -> None:
    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        domain = committee.federation.domain
        sealed = [seal(key, domain, Request(number=time.time_ns() // 1000, operation=OPERATION)) for key in signers]
        answers: list[Answer] = []
        url = committee.federation.replicas[0].url + "/v1/stream"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            await socket.send_bytes(bundle([struct.pack(">I", tag) + data for tag, data in enumerate(sealed)]))
            while sum(len(answer.tags) for answer in answers) < len(signers):
                answers += read_answers(await socket.receive_bytes())
        said = {}
        for answer in answers:
            replies = authenticate(Replies, answer.body, domain)
            assert replies.sender == committee.federation.replica_addresses[0]
            said.update(zip(answer.tags, replies.message.replies, strict=True))
        assert [said[tag].client for tag in range(len(signers))] == [key.address for key in signers]
        assert {rule(reply.result) for reply in said.values()} == {"unknown-task"}
        assert len(answers) < len(signers)

    scene(tmp_path, work, keys=40)


def test_a_stranger_is_refused_over_a_stream_as_he_is_over_http(tmp_path: Path) -> None:
    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        with pytest.raises(UnknownSigner):
            await gateway.order(Signer(secrets.token_bytes(32)), OPERATION)

    scene(tmp_path, work, keys=1)


def test_a_silent_or_dead_primary_costs_a_pause_and_no_answer(tmp_path: Path) -> None:
    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        committee.signal(0, signal.SIGSTOP)
        assert rule(await gateway.order(signers[0], OPERATION)) == "unknown-task"
        committee.signal(0, signal.SIGCONT)
        committee.kill(0)
        assert rule(await gateway.order(signers[0], OPERATION)) == "unknown-task"
        assert gateway.view > 0
        committee.start(0)
        await committee.ready()
        clock = asyncio.get_running_loop().time
        begun = clock()
        await gateway.order(signers[0], OPERATION)
        assert clock() - begun < 20 * HEDGE_SECONDS

    scene(tmp_path, work, keys=1)


def test_a_frame_that_is_no_bundle_of_tagged_requests_ends_its_stream_only(tmp_path: Path) -> None:
    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        url = committee.federation.replicas[0].url + "/v1/stream"
        async with aiohttp.ClientSession() as session:
            for frame in FRAMES:
                async with session.ws_connect(url) as socket:
                    await socket.send_bytes(frame)
                    assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert rule(await gateway.order(signers[0], OPERATION)) == "unknown-task"

    scene(tmp_path, work, keys=1)


def test_a_gateway_follows_the_committee_to_its_next_epochs(tmp_path: Path) -> None:
    """Keys go on ordering over it while a replica is replaced and one is added, and nothing runs twice."""

    async def work(committee: Committee, gateway: Gateway, signers: list[Signer]) -> None:
        done = 0
        stop = asyncio.Event()

        async def speak(key: Signer) -> None:
            nonlocal done
            while not stop.is_set():
                assert rule(await gateway.order(key, OPERATION)) == "unknown-task"
                done += 1

        speaking = [asyncio.create_task(speak(key)) for key in signers]
        newcomers = [committee.newcomer(), committee.newcomer()]
        committee.start(*newcomers)
        await committee.hand_over(newcomers[0], 1, 2, 3)
        committee.kill(0)
        await committee.hand_over(newcomers[0], 1, 2, 3, newcomers[1])
        before = done
        while done < before + 10 * len(signers):
            await asyncio.sleep(0.05)
            for task in speaking:
                assert not task.done() or task.result() is None
        stop.set()
        await asyncio.gather(*speaking)
        assert gateway.count == 5
        assert gateway.federation.epoch == 2
        async with committee.client(signers[0]) as client:
            assert await client.refusals() == {"unknown-task": done}

    scene(tmp_path, work, keys=8)
