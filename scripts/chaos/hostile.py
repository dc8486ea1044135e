"""Faults of those who mean harm: a replica that says two things, a client that floods, garbage from a stranger."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

import aiohttp

from .faults import REJOIN_SECONDS, honest_again, impostor
from .load import Load, Member, refusal_code
from .scene import QUIET, REPLACED_TWICE, Scene, fault

EQUIVOCATOR = [sys.executable, "-m", "tests.chaos.equivocator"]
EVIDENCE = "koinon_equivocations_total "
LIES_SECONDS = 6.0
ATTACK_SECONDS = 8.0
FLOOD_AT_ONCE = 96
"""More at each replica than it keeps of one client (64)."""
GARBAGE_AT_ONCE = 8
IDLE_CONNECTIONS = 100
OVERSIZED_BYTES = 12 << 20


@fault("equivocator", "a primary that proposes and votes for two batches a number", REPLACED_TWICE,
       recovery_seconds=REJOIN_SECONDS)  # fmt: skip
async def equivocator(scene: Scene) -> None:
    committee = scene.committee
    before = await _evidence(scene)
    victim = await impostor(scene, EQUIVOCATOR)
    await asyncio.sleep(LIES_SECONDS)
    await scene.goes_on()
    after = await _evidence(scene)
    convicting = [index for index in committee.everybody if index != victim and after[index] > before[index]]
    scene.require(bool(convicting), "nobody holds evidence against the replica that said two things")
    scene.note(f"evidence at {len(convicting)} honest replicas")
    await honest_again(scene, victim)


async def _evidence(scene: Scene) -> dict[int, float]:
    """How many equivocations each replica has caught since it started."""
    found = dict.fromkeys(scene.committee.everybody, 0.0)
    for index, entry in enumerate(scene.committee.federation.replicas):
        async with scene.load.session.get(f"{entry.url}/metrics") as response:
            for line in (await response.text()).splitlines():
                if line.startswith(EVIDENCE):
                    found[index] = float(line.removeprefix(EVIDENCE))
    return found


@fault("flood", "one client sends all it can", QUIET, recovery_seconds=REJOIN_SECONDS)
async def flood(scene: Scene) -> None:
    load = scene.load
    member = load.member()
    await load.order(member, member.request())
    answers: Counter[str] = Counter()
    until = time.monotonic() + ATTACK_SECONDS
    attacks = [_flood(load, member, until, answers) for _ in range(FLOOD_AT_ONCE)]
    began = time.monotonic()
    await asyncio.gather(*attacks)
    served = load.count(began)
    scene.heals()
    refused = sum(count for code, count in answers.items() if code not in ("200", "none"))
    scene.note(f"{answers['200']} of its requests answered, {refused} refused; others had {served} served")
    scene.require(refused > 0, f"no quota held the flood back: {dict(answers)}")


async def _flood(load: Load, member: Member, until: float, answers: Counter[str]) -> None:
    while time.monotonic() < until:
        request = member.request()
        said = await asyncio.gather(
            *(load.post(index, "/v1/requests", request) for index in range(len(load.federation.replicas)))
        )
        for status, body in said:
            answers["200" if status == 200 else refusal_code(body) if status else "none"] += 1


@fault("garbage", "garbage and oversized frames at the peers' port and the HTTP API", QUIET,
       recovery_seconds=REJOIN_SECONDS)  # fmt: skip
async def garbage(scene: Scene) -> None:
    pids = {index: scene.committee.pid(index) for index in scene.committee.everybody}
    thrown: Counter[str] = Counter()
    until = time.monotonic() + ATTACK_SECONDS
    ways = (_raw_bytes, _bodies, _frames)
    urls = [entry.url for entry in scene.committee.federation.replicas]
    idle = await _idle(urls)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3.0)) as session:
            await asyncio.gather(
                *(_throw(session, urls, way, until, thrown) for way in ways for _ in range(GARBAGE_AT_ONCE))
            )
    finally:
        for writer in idle:
            writer.close()
    scene.heals()
    scene.note(", ".join(f"{count} {name}" for name, count in sorted(thrown.items())))
    same = {index: scene.committee.pid(index) for index in scene.committee.everybody} == pids
    scene.require(same, "a replica ended")


async def _throw(
    session: aiohttp.ClientSession, urls: list[str], way: object, until: float, thrown: Counter[str]
) -> None:
    while time.monotonic() < until:
        url = secrets.choice(urls)
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            thrown[await way(session, url)] += 1  # type: ignore[operator]
        await asyncio.sleep(0.02)


async def _raw_bytes(_: aiohttp.ClientSession, url: str) -> str:
    """Bytes that are no HTTP."""
    place = urlsplit(url)
    async with asyncio.timeout(2.0):
        writer = (await asyncio.open_connection(place.hostname, place.port))[1]
        writer.write(secrets.token_bytes(4096) + b"\r\n\r\n")
        await writer.drain()
        writer.close()
    return "raw"


async def _bodies(session: aiohttp.ClientSession, url: str) -> str:
    """A body of random bytes, or one that is far too large."""
    large = secrets.randbelow(4) == 0
    path = secrets.choice(["/v1/requests", "/v1/pieces", "/v1/parts", "/v1/certificates"])
    body = bytes(OVERSIZED_BYTES) if large else secrets.token_bytes(1 + secrets.randbelow(4096))
    async with session.post(url + path, data=body) as response:
        await response.read()
        if response.status >= 500 and response.status != 503:
            raise AssertionError(f"{path} answered {response.status}")
    return "oversized bodies" if large else "bodies"


async def _frames(session: aiohttp.ClientSession, url: str) -> str:
    """What is no greeting, or too much of it, on the peers' WebSocket."""
    async with session.ws_connect(f"{url}/v1/peer", timeout=aiohttp.ClientWSTimeout(ws_close=1.0)) as socket:
        kind = secrets.randbelow(4)
        if kind == 0:
            await socket.send_str("hello")
        elif kind == 1:
            await socket.send_bytes(bytes(OVERSIZED_BYTES))
        else:
            for _ in range(3):
                await socket.send_bytes(secrets.token_bytes(1 + secrets.randbelow(600)))
        await socket.receive(timeout=2.0)
    return "frames"


async def _idle(urls: list[str]) -> list[asyncio.StreamWriter]:
    """Connections that begin a request and never end it."""
    writers = []
    for number in range(IDLE_CONNECTIONS):
        place = urlsplit(urls[number % len(urls)])
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(b"POST /v1/requests HTTP/1.1\r\nContent-Length: 1000\r\n")
        writers.append(writer)
    return writers
