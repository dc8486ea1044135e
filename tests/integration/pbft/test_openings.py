"""Openings and certificates when pieces are missing, replicas are down, or the aggregator lies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import aiohttp
import msgspec
import pytest

from koinon.encoding import decode, encode
from koinon.errors import BlobMismatch, CannotOpen, Rejected, Unavailable
from koinon.merkle import root, update_leaf
from koinon.opening import ClosedRound, signed_contributions
from koinon.rounds.operations import CloseRound
from koinon.signing import Signed, seal
from koinon.wire import CertificateRequest, Contribution, Opening, PartRequest
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


async def shown_of(walk: Walk, number: int) -> list[object]:
    """What replicas show of a round that must not be opened: contributions, and a piece to a peer that lacks it."""
    committee = walk.committee
    asked = PartRequest(task=walk.task, round=number, node=walk.keys[0].address, replica=3)
    body = seal(committee.signers[3], committee.federation.domain, asked)
    async with committee.client() as client, aiohttp.ClientSession() as session:

        async def part(index: int) -> bytes:
            async with session.post(f"{committee.urls[index]}/v1/parts", data=body) as answer:
                if answer.status != 200:
                    raise Unavailable("no part")
                return await answer.read()

        asking = [client.contribution(index, walk.task, number) for index in range(3)] + [part(i) for i in range(3)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
    return [each for each in answers if not isinstance(each, Unavailable)]


def test_nothing_opens_before_the_set_is_fixed_or_below_the_smallest_cohort(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares", nodes=4, round_ms=2_000)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        for position, key in enumerate(walk.keys[:2]):
            await walk.submit(number, key, walk.values(position))
        assert (await walk.record()).rounds[0].phase == "training"
        assert await shown_of(walk, number) == []
        async with committee.client(walk.aggregator) as client, asyncio.timeout(30):
            while True:
                with suppress(Rejected):  # too early
                    await client.submit(CloseRound(task=walk.task, round=number))
                    break
                await asyncio.sleep(0.2)
        assert (await walk.record()).rounds[0].phase == "aborted"
        assert await shown_of(walk, number) == []

    asyncio.run(scenario())


def test_an_opening_is_of_the_ordered_set_and_of_no_other(committee: Committee) -> None:
    """Four nodes came and three are in the set: replicas contribute to these, and sign nothing for three others."""

    async def scenario() -> None:
        walk = Walk(committee, "shares", nodes=4, round_ms=2_000)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        for position, key in enumerate(walk.keys[:3]):
            await walk.submit(number, key, walk.values(position))
        late, protected = await walk.protect(number, walk.keys[3], walk.values(3))
        await walk.deliver(walk.keys[3], late, protected)  # pieces are there, the update was not ordered
        async with committee.client(walk.aggregator) as client, asyncio.timeout(30):
            while (await walk.record()).rounds[0].phase == "training":
                with suppress(Rejected):  # too early
                    await client.submit(CloseRound(task=walk.task, round=number))
                await asyncio.sleep(0.2)
            raw = [await client.contribution(index, walk.task, number) for index in range(4)]
        record = await walk.record()
        at = ClosedRound(committee.federation, walk.task, record.spec, record.rounds[0])
        good, bad = signed_contributions(at, raw)
        assert (len(good), bad) == (4, {})
        leaves = [
            update_leaf(walk.task, number, node, kept.update, kept.examples)
            for node, kept in sorted(record.rounds[0].submissions.items())
        ]
        assert {said.message.updates_root for said in good.values()} == {root(leaves)}
        assert sorted(record.rounds[0].submissions) == sorted(key.address for key in walk.keys[:3])
        other = msgspec.structs.replace(record.rounds[0], updates_root=root(leaves[:2]))
        assert not signed_contributions(replace(at, round=other), raw)[0]
        _, _, total = await walk.open_sum(number)
        assert (total == sum(map(walk.values, range(3)))).all()

    asyncio.run(scenario())
