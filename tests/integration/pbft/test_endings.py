"""A replica that ends says why, with an exit code, and leaves nobody waiting."""

from __future__ import annotations

import asyncio
import resource
import secrets
import signal
import sys
from pathlib import Path

import pytest

from koinon.encoding import encode
from koinon.errors import KoinonError, StorageFailed, Unavailable
from koinon.signing import Signer, seal
from koinon.wire import Request, Role
from tests.integration.committee import Committee

FILE_BYTES_MAX = 32 << 10


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_replica_whose_disk_takes_no_more_stops_with_its_code_and_goes_on_with_room(tmp_path: Path) -> None:
    async def enrol(committee: Committee, times: int) -> None:
        for _ in range(times):
            signer = Signer(secrets.token_bytes(32))
            async with committee.client(signer) as client:
                await client.submit(committee.enrolment(signer, Role.NODE))

    async def scenario(committee: Committee) -> None:
        committee.start()
        await committee.ready()
        await enrol(committee, 1)
        resource.prlimit(committee.pid(0), resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
        with pytest.raises(KoinonError):
            await enrol(committee, 100)
        assert committee.wait(0) == StorageFailed.exit_code
        assert "File too large" in committee.log(0)
        assert "start it again" in committee.log(0)
        committee.start(0)
        await committee.ready()
        await enrol(committee, 1)

    with Committee(tmp_path, replicas=1) as committee:
        asyncio.run(scenario(committee))


def test_a_replica_that_is_told_to_stop_answers_those_who_wait(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        committee.start(0)  # alone it can order nothing
        signer = Signer(secrets.token_bytes(32))
        async with committee.client(signer) as client:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await client.status(0)
                        break
                    except KoinonError:
                        await asyncio.sleep(0.05)
            operation = encode(committee.enrolment(signer, Role.NODE))
            domain = committee.federation.domain
            requests = [seal(signer, domain, Request(number=number + 1, operation=operation)) for number in range(66)]
            asked = [asyncio.ensure_future(client._call(0, "POST", "/v1/requests", data)) for data in requests]
            done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert all("too many requests wait" in str(one.exception()) for one in done), "the quota is full: all wait"
            committee.signal(0, signal.SIGTERM)
            said = await asyncio.gather(*pending, return_exceptions=True)
        assert {type(one) for one in said} == {Unavailable}
        assert sum("this replica stops" in str(one) for one in said) >= 64
        assert committee.wait(0) == 0

    with Committee(tmp_path) as committee:
        asyncio.run(scenario(committee))
