"""What somebody without a key can do to a replica over loopback: hold a share of its places, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import pytest

from koinon.encoding import to_hex
from pbft.server import WATCHERS_PER_CLIENT_MAX
from tests.integration.committee import Committee
from tests.integration.pbft.test_ordering import member, operation


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("strangers"), replicas=1) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


@pytest.mark.parametrize("number", ["-1", "x", "9223372036854775807", "99999999999999999999", "1e3"])
@pytest.mark.parametrize("path", ["handovers?from=", "log?from=", "seat?epoch=", "snapshots/0?from=", "log?limit="])
def test_a_number_that_is_none_is_refused_and_not_stumbled_over(committee: Committee, path: str, number: str) -> None:
    async def scenario() -> None:
        url = f"{committee.federation.replicas[0].url}/v1/{path}{number}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 400

    asyncio.run(scenario())


def test_a_stranger_that_polls_without_end_leaves_room_for_others(committee: Committee) -> None:
    async def scenario() -> None:
        signer = await member(committee)
        async with committee.client(signer) as client:
            task = (await client.submit(operation("polled"))).subject
        url = f"{committee.federation.replicas[0].url}/v1/tasks/{to_hex(task)}?after=1000&wait_ms=20000"
        stranger = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0), limit=0)
        async with aiohttp.ClientSession(connector=stranger) as greedy, aiohttp.ClientSession() as other:
            polls = [asyncio.ensure_future(greedy.get(url)) for _ in range(WATCHERS_PER_CLIENT_MAX + 20)]
            try:
                done, _ = await asyncio.wait(polls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
                assert {poll.result().status for poll in done} == {503}
                async with other.get(url.replace("20000", "50")) as response:
                    assert response.status == 200
            finally:
                for poll in polls:
                    poll.cancel()
                await asyncio.gather(*polls, return_exceptions=True)

    asyncio.run(scenario())
