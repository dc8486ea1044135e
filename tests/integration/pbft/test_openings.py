"""Openings and certificates when pieces are missing, replicas are down, or the aggregator lies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from koinon.encoding import decode, encode
from koinon.errors import BlobMismatch, CannotOpen, Unavailable
from koinon.signing import Signed, seal
from koinon.wire import CertificateRequest, Contribution, Opening
from tests.integration.committee import Committee
from tests.integration.walk import Walk


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("committee")) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


@pytest.mark.parametrize("mode", ["plain", "shares"])
def test_a_replica_that_got_no_piece_recovers_it_from_its_peers(committee: Committee, mode: str) -> None:
    async def scenario() -> None:
        walk = Walk(committee, mode)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        given = [walk.values(position) for position in range(3)]
        for key, values in zip(walk.keys, given, strict=True):
            await walk.submit(number, key, values, to=[0, 1, 2])
        async with committee.client() as client:
            sealed = [await client.contribution(index, walk.task, number) for index in range(4)]
        said = [decode(Contribution, decode(Signed, raw).payload) for raw in sealed]
        components = [dict(each.components) for each in said]
        if mode == "plain":
            assert components[0] == components[3]
        for component, digest in components[3].items():  # what it computed is what the others computed
            assert all(other.get(component, digest) == digest for other in components)
        opening, model, total = await walk.open_sum(number)
        assert (total == sum(given)).all()
        await walk.complete(*await walk.certify(number, opening, model))

    asyncio.run(scenario())


def test_a_certificate_is_signed_for_the_model_that_follows_and_for_no_other(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares")
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        for position, key in enumerate(walk.keys):
            await walk.submit(number, key, walk.values(position))
        opening, model, _ = await walk.open_sum(number)
        async with committee.client(walk.aggregator) as client:
            for false, kind in (
                (CertificateRequest(task=walk.task, round=number, opening=opening, model=bytes(32)), BlobMismatch),
                (CertificateRequest(task=walk.task, round=number, opening=bytes(32), model=model), Unavailable),
            ):
                with pytest.raises(kind):
                    await client.certify(2, false)
            lie = Contribution(
                task=walk.task, round=number, updates_root=bytes(32), replica=0, components=((0, bytes(32)),)
            )
            forged = decode(Signed, seal(walk.aggregator, committee.federation.domain, lie))
            evidence = Opening(task=walk.task, round=number, contributions=(forged,) * 2, witness=bytes(32))
            stored = await client.put_blob(encode(evidence))
            with pytest.raises(CannotOpen):  # and not Unavailable: the blob that it names was never asked for
                await client.certify(2, CertificateRequest(task=walk.task, round=number, opening=stored, model=model))
        await walk.complete(*await walk.certify(number, opening, model))

    asyncio.run(scenario())


def test_a_round_is_opened_and_certified_with_a_silent_replica_and_pieces_are_erased(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares")
        await walk.enrol()
        await walk.create()
        pieces = committee.home(0) / "data" / "pieces" / walk.task.hex()
        number = await walk.open()
        async with committee.client() as client:
            silent = ((await client.status(0))["primary"] + 3) % 4
        committee.signal(silent, signal.SIGSTOP)
        try:
            for position, key in enumerate(walk.keys):
                await walk.submit(number, key, walk.values(position))
            if silent != 0:
                kept = sorted(pieces.rglob("*.piece"))
                assert len(kept) == 3
                assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
            opening, model, _ = await walk.open_sum(number)
            await walk.complete(*await walk.certify(number, opening, model))
        finally:
            committee.signal(silent, signal.SIGCONT)
        async with asyncio.timeout(5):
            while pieces.exists():
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_a_round_closed_at_its_deadline_opens_the_sum_of_those_who_came(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares", nodes=4, round_ms=1_500)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        given = [walk.values(position) for position in range(3)]
        await asyncio.gather(*(walk.submit(number, key, values) for key, values in zip(walk.keys, given, strict=False)))
        await asyncio.sleep(1.6)
        await walk.close(number)
        opening, model, total = await walk.open_sum(number)
        assert (total == sum(given)).all()
        certificate, signatures = await walk.certify(number, opening, model)
        assert certificate.participants == 3
        await walk.complete(certificate, signatures)

    asyncio.run(scenario())
