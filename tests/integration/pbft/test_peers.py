"""Links between replicas over loopback: who is let in, what is carried, what ends a link."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import REGISTRY

from koinon.bundle import BUNDLE_MESSAGES_MAX, bundle
from koinon.config import FederationFile
from koinon.encoding import encode
from koinon.errors import Unavailable
from koinon.signing import Signer, seal
from pbft.peers import FRAME_BYTES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Greeting, Hello, Peers
from pbft.waiting import client_of
from tests.integration.committee import Committee


class End:
    """One replica's links and what they brought."""

    def __init__(self, federation: FederationFile, index: int, signer: Signer) -> None:
        self.heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.peers = Peers(federation, index, signer, self._receive)

    async def _receive(self, peer: int, data: bytes) -> None:
        await self.heard.put((peer, data))


async def listening(peers: Peers, url: str) -> web.AppRunner:
    """Let peers of a lower index dial these links; the runner is to be cleaned up."""
    app = web.Application()
    app.router.add_get("/v1/peer", peers.accept)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(url.rpartition(":")[2])).start()
    return runner


@asynccontextmanager
async def ends(folder: Path, *, impostor: int | None = None) -> AsyncIterator[tuple[list[End], Committee]]:
    """Three replicas' links, each with its listener; `impostor` speaks with a key that is not its seat's."""
    committee = Committee(folder, replicas=4)
    signers = [
        Signer(secrets.token_bytes(32)) if index == impostor else signer
        for index, signer in enumerate(committee.signers[:3])
    ]
    made = [End(committee.federation, index, signer) for index, signer in enumerate(signers)]
    runners = [await listening(end.peers, committee.urls[index]) for index, end in enumerate(made)]
    for end in made:
        await end.peers.start()
    try:
        yield made, committee
    finally:
        for end in made:
            await end.peers.stop()
        for runner in runners:
            await runner.cleanup()


async def connected(end: End, *peers: int) -> None:
    async with asyncio.timeout(5):
        while end.peers.connected != peers:
            await asyncio.sleep(0.01)


def test_messages_travel_both_ways_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, _):
            await connected(made[0], 1, 2)
            await connected(made[1], 0, 2)
            messages = [bytes([number]) * 100 for number in range(50)]
            for message in messages:
                made[0].peers.send([1, 2, 3], message)
                made[1].peers.send([0], message)
            for end, sender in ((made[1], 0), (made[0], 1)):
                assert [await end.heard.get() for _ in messages] == [(sender, message) for message in messages]

    asyncio.run(scenario())


def test_a_replica_with_a_wrong_key_gets_no_link_and_the_others_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path, impostor=1) as (made, _):
            await connected(made[0], 2)
            await connected(made[2], 0)
            await asyncio.sleep(0.3)
            assert made[0].peers.connected == (2,)
            assert made[2].peers.connected == (0,)

    asyncio.run(scenario())


def test_a_recorded_hello_opens_no_second_link(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, committee), aiohttp.ClientSession() as session:
            await connected(made[2], 0, 1)
            link = made[2].peers._links[0]
            url = committee.federation.replicas[2].url + "/v1/peer"
            nonce = bytes(32)
            old = Hello(epoch=0, sender=0, receiver=2, sender_nonce=nonce, receiver_nonce=bytes(32))
            recorded = seal(committee.signers[0], committee.federation.domain, old)
            async with session.ws_connect(url) as socket:
                await socket.send_bytes(encode(Greeting(epoch=0, replica=0, nonce=nonce)))
                await socket.send_bytes(recorded)
                assert [(await socket.receive()).type for _ in range(2)] == [aiohttp.WSMsgType.BINARY] * 2
                assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE
            assert made[2].peers._links[0] is link

    asyncio.run(scenario())


@pytest.mark.parametrize("replica", [2, 3, 200])
def test_only_replicas_of_a_lower_index_dial(tmp_path: Path, replica: int) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (_, committee), aiohttp.ClientSession() as session:
            url = committee.federation.replicas[2].url + "/v1/peer"
            async with session.ws_connect(url) as socket:
                await socket.send_bytes(encode(Greeting(epoch=0, replica=replica, nonce=bytes(32))))
                assert (await socket.receive()).type == aiohttp.WSMsgType.BINARY
                assert (await socket.receive()).type == aiohttp.WSMsgType.CLOSE

    asyncio.run(scenario())


def test_an_oversized_frame_ends_the_link_which_is_dialled_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, _):
            await connected(made[0], 1, 2)
            link = made[0].peers._links[1]
            made[0].peers.send([1], bytes(FRAME_BYTES_MAX + 1))
            async with asyncio.timeout(10):
                while made[0].peers._links.get(1) in (None, link):
                    await asyncio.sleep(0.01)
            made[0].peers.send([1], b"after")
            assert await made[1].heard.get() == (0, b"after")

    asyncio.run(scenario())


FRAMES: dict[str, bytes | str] = {
    "rubbish": b"rubbish",
    "nothing": b"",
    "a bundle of nothing": encode(()),
    "a bundle that goes on": bundle([b"one"]) + b"\0",
    "a bundle that is cut": bundle([b"one", b"two"])[:-1],
    "a bundle of numbers": encode((1, 2)),
    "too many messages": encode((b"",) * (BUNDLE_MESSAGES_MAX + 1)),
    "text": "one",
}


@pytest.mark.parametrize("what", sorted(FRAMES))
def test_a_frame_that_is_no_bundle_is_held_against_its_sender_and_ends_the_link(tmp_path: Path, what: str) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, _):
            await connected(made[0], 1, 2)
            await connected(made[1], 0, 2)
            link, frame = made[0].peers._links[1], FRAMES[what]
            before = [_sample("koinon_misbehaved_total", peer=str(peer)) for peer in range(3)]
            refused = _sample("koinon_refused_total", service="pbft", code="malformed")
            await (link.socket.send_str(frame) if isinstance(frame, str) else link.socket.send_bytes(frame))
            async with asyncio.timeout(10):
                while made[0].peers._links.get(1) in (None, link):
                    await asyncio.sleep(0.01)
            after = [_sample("koinon_misbehaved_total", peer=str(peer)) for peer in range(3)]
            assert [now - then for now, then in zip(after, before, strict=True)] == [1, 0, 0]
            assert _sample("koinon_refused_total", service="pbft", code="malformed") == refused + 1
            assert made[1].heard.empty()

    asyncio.run(scenario())


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_restarted_peer_replaces_its_old_link(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, committee):
            await connected(made[2], 0, 1)
            again = End(committee.federation, 0, committee.signers[0])
            await made[0].peers.stop()
            await again.peers.start()
            try:
                await connected(again, 1, 2)
                again.peers.send([2], b"again")
                assert await made[2].heard.get() == (0, b"again")
            finally:
                await again.peers.stop()

    asyncio.run(scenario())


def test_a_peer_of_a_later_epoch_is_not_let_in_and_is_a_reason_to_ask_for_proof(tmp_path: Path) -> None:
    async def scenario() -> None:
        committee = Committee(tmp_path)
        later = committee.federation.with_committee(1, committee.seats(0, 1, 2, 3))
        overtaken = asyncio.Event()
        behind = Peers(committee.federation, 1, committee.signers[1], ignore, overtaken.set)
        ahead = Peers(later, 0, committee.signers[0], ignore)
        runner = await listening(behind, committee.urls[1])
        await ahead.start()
        try:
            async with asyncio.timeout(10):
                await overtaken.wait()
            assert behind.connected == ahead.connected == ()
        finally:
            await ahead.stop()
            await runner.cleanup()

    async def ignore(peer: int, data: bytes) -> None:
        pass

    asyncio.run(scenario())


def test_a_stranger_with_a_whole_network_of_addresses_leaves_room_for_greetings(tmp_path: Path) -> None:
    """An IPv6 client has 2^64 of them."""

    async def scenario() -> None:
        end = End(Committee(tmp_path, replicas=4).federation, 1, Signer(secrets.token_bytes(32)))
        end.peers._handshakes[client_of("2001:db8::1")] = HANDSHAKES_PER_ADDRESS_MAX
        with pytest.raises(Unavailable):
            await end.peers.accept(make_mocked_request("GET", "/v1/peer").clone(remote="2001:db8::2"))

    asyncio.run(scenario())
