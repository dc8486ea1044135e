"""Nodes that hand replicas something false: f+1 of them have it barred, one alone costs it a receipt, and the round
goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from koinon.encoding import encode, from_hex, keccak
from koinon.errors import BadPiece, KoinonError, Rejected
from koinon.privacy import Protected, Values, piece_context, seal_to
from koinon.rounds.operations import ReportFault
from koinon.signing import Signer
from koinon.wire import Fault, Piece, SignedReceipt, Update
from tests.integration.committee import Committee
from tests.integration.walk import EXAMPLES, Walk


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("committee")) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


def false_piece(walk: Walk, kind: str, update: Update, protected: Protected, index: int) -> Piece:
    """What a cheating node hands to replica `index`."""
    honest = walk.piece(update, protected, index)
    mine = protected.pieces[index]
    match kind:
        case "no box":
            return msgspec.structs.replace(honest, sealed=b"\x05" * len(honest.sealed))
        case "box of another round":
            context = piece_context(update.task, update.round + 1, update.node, index)
            key = from_hex(walk.committee.federation.replicas[index].sealing_key)
            return msgspec.structs.replace(honest, sealed=seal_to(key, mine, context))
        case "wrong seed":
            mine = bytes([mine[0], mine[1] ^ 1]) + mine[2:]
        case "torn":
            mine = mine[:-1]
        case "other's seeds":
            mine = protected.pieces[(index + 1) % 4]
    changed = replace(protected, pieces=tuple(mine if i == index else p for i, p in enumerate(protected.pieces)))
    return walk.piece(update, changed, index)


async def signed_faults(walk: Walk, number: int) -> dict[int, dict[Fault, bytes]]:
    async with walk.committee.client() as client:
        return {index: await client.faults(index, walk.task, number) for index in range(4)}


async def hand_in(walk: Walk, key: Signer, piece: Piece) -> str:
    """The error's code, as the replica answers."""
    async with walk.committee.client(key) as client:
        try:
            await client.deliver(piece.replica, piece, EXAMPLES)
        except KoinonError as error:
            return error.message
    return ""


async def started(committee: Committee, mode: str = "shares", **changes: bool) -> tuple[Walk, int]:
    walk = Walk(committee, mode, nodes=4, **changes)  # type: ignore[arg-type]
    await walk.enrol()
    await walk.create()
    return walk, await walk.open()


async def completed_by_the_others(walk: Walk, number: int, *, also: Values | int = 0) -> None:
    given = [walk.values(position) for position in range(3)]
    for key, values in zip(walk.keys[1:], given, strict=True):
        await walk.submit(number, key, values)
    opening, model, total = await walk.open_sum(number)
    assert (total == sum(given) + also).all()
    await walk.complete(*await walk.certify(number, opening, model))


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("kind", ["no box", "box of another round", "wrong seed", "torn", "other's seeds"])
def test_a_node_that_lies_to_f_plus_one_replicas_is_barred_and_the_round_completes(
    committee: Committee, kind: str, validate: bool
) -> None:
    async def scenario() -> None:
        walk, number = await started(committee, validate=validate)
        cheat = walk.keys[0]
        update, protected = await walk.protect(number, cheat, walk.values(9))
        async with committee.client(cheat) as client:
            await client.put_blob(encode(update))
        for index in (0, 2):
            assert await hand_in(walk, cheat, false_piece(walk, kind, update, protected, index))
            assert "before" in await hand_in(walk, cheat, walk.piece(update, protected, index))
        said = await signed_faults(walk, number)
        fault = Fault(task=walk.task, round=number, node=cheat.address)
        assert [index for index in range(4) if fault in said[index]] == [0, 2]
        signatures = tuple(SignedReceipt(replica=index, signature=said[index][fault]) for index in (0, 2))
        async with committee.client(walk.aggregator) as client:
            with pytest.raises(Rejected):
                await client.submit(ReportFault(fault=fault, signatures=signatures[:1]))
            await client.submit(ReportFault(fault=fault, signatures=signatures))
        assert (await walk.record()).barred == {cheat.address: number}
        await completed_by_the_others(walk, number)

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["shares", "plain"])
def test_an_update_that_was_made_for_another_place_is_a_fault_in_every_mode(committee: Committee, mode: str) -> None:
    async def scenario() -> None:
        walk, number = await started(committee, mode)
        cheat = walk.keys[0]
        update = Update(task=walk.task, round=number + 1, node=cheat.address, mode=mode, examples=EXAMPLES, public=b"")
        for content in (encode(update), b"no update at all"):
            async with committee.client(cheat) as client:
                name = await client.put_blob(content)
            place = {"task": walk.task, "round": number, "node": cheat.address}
            piece = Piece(**place, replica=1, update=name, sealed=bytes(64))  # type: ignore[arg-type]
            assert await hand_in(walk, cheat, piece)
        assert Fault(**place) in (await signed_faults(walk, number))[1]  # type: ignore[arg-type]

    asyncio.run(scenario())


@pytest.mark.parametrize("examples", [1, EXAMPLES - 1])
def test_a_claim_that_was_changed_after_the_proof_is_refused_by_all(committee: Committee, examples: int) -> None:
    async def scenario() -> None:
        walk, number = await started(committee)
        cheat = walk.keys[0]
        update, protected = await walk.protect(number, cheat, walk.values(1))
        other = msgspec.structs.replace(update, examples=examples)
        for index in range(4):
            with pytest.raises(BadPiece, match="does not hold for the bound"):
                await walk.deliver(cheat, other, protected, to=[index])
        said = await signed_faults(walk, number)
        assert all(said[index] for index in range(4))

    asyncio.run(scenario())


def test_receipts_for_one_claim_are_none_for_another(committee: Committee) -> None:
    async def scenario() -> None:
        walk, number = await started(committee)
        node = walk.keys[0]
        update, protected = await walk.protect(number, node, walk.values(1))
        receipts = await walk.deliver(node, update, protected)
        with pytest.raises(Rejected) as caught:
            await walk.order(number, node, msgspec.structs.replace(update, examples=1), receipts, name=encode(update))
        assert caught.value.rule == "receipts"
        await walk.order(number, node, update, receipts)

    asyncio.run(scenario())


def test_a_restart_forgets_no_fault_and_the_end_of_the_round_does(committee: Committee) -> None:
    async def scenario() -> None:
        walk, number = await started(committee)
        cheat = walk.keys[0]
        update, protected = await walk.protect(number, cheat, walk.values(9))
        async with committee.client(cheat) as client:
            await client.put_blob(encode(update))
        assert await hand_in(walk, cheat, false_piece(walk, "torn", update, protected, 2))
        fault = Fault(task=walk.task, round=number, node=cheat.address)
        before = (await signed_faults(walk, number))[2][fault]
        committee.kill(2)
        committee.start(2)
        await committee.ready()
        assert (await signed_faults(walk, number))[2] == {fault: before}
        assert "before" in await hand_in(walk, cheat, walk.piece(update, protected, 2))
        await walk.submit(number, cheat, walk.values(9), to=[0, 1, 3])  # the others were told the truth
        await completed_by_the_others(walk, number, also=walk.values(9))
        while (await signed_faults(walk, number))[2]:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_a_replica_that_was_cheated_alone_gets_its_seeds_from_the_others(committee: Committee) -> None:
    async def scenario() -> None:
        walk, number = await started(committee)
        cheat = walk.keys[0]
        update, protected = await walk.protect(number, cheat, walk.values(9))
        async with committee.client(cheat) as client:
            await client.put_blob(encode(update))
        assert await hand_in(walk, cheat, false_piece(walk, "wrong seed", update, protected, 3))
        await walk.submit(number, cheat, walk.values(9), to=[0, 1, 2])
        for position, key in enumerate(walk.keys[1:]):
            await walk.submit(number, key, walk.values(position))
        async with committee.client() as client:
            assert await client.contribution(3, walk.task, number)
        opening, model, total = await walk.open_sum(number)
        assert (total == sum(map(walk.values, (9, 0, 1, 2)))).all()
        await walk.complete(*await walk.certify(number, opening, model))

    asyncio.run(scenario())


def test_what_somebody_else_hands_in_blames_nobody(committee: Committee) -> None:
    """A piece that was overheard, at the wrong replica or from the wrong sender, is refused and no fault."""

    async def scenario() -> None:
        walk, number = await started(committee)
        honest, thief = walk.keys[0], walk.keys[1]
        update, protected = await walk.protect(number, honest, walk.values(1))
        async with committee.client(honest) as client:
            await client.put_blob(encode(update))
        assert await hand_in(walk, thief, walk.piece(update, protected, 2))
        other = msgspec.structs.replace(walk.piece(update, protected, 2), update=keccak(b"else"))
        assert await hand_in(walk, thief, other)
        async with committee.client(honest) as client:
            with pytest.raises(KoinonError, match="a piece for replica 2"):
                await client.deliver(1, walk.piece(update, protected, 2), EXAMPLES)
        assert not any((await signed_faults(walk, number)).values())
        assert not await hand_in(walk, honest, walk.piece(update, protected, 2))

    asyncio.run(scenario())
