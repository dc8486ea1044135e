"""What a committee of processes refuses: each with the typed error at the client, and counted at the replica."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from koinon.encoding import encode, keccak
from koinon.errors import (
    BadPiece,
    BlobMismatch,
    Malformed,
    Missing,
    Oversized,
    Rejected,
    RemoteError,
    Replayed,
    Unavailable,
    UnknownSigner,
)
from koinon.rounds.operations import CreateTask, StopTask, TaskSpec
from koinon.service import raise_refusal
from koinon.signing import Signer, seal
from koinon.wire import BlobUpload, CertificateRequest, PartRequest, Piece, Request, Role
from tests.integration.committee import Committee
from tests.integration.walk import EXAMPLES, Walk


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("committee")) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


@pytest.fixture(scope="module")
def walk(committee: Committee) -> Walk:
    """A task whose first round is in training."""
    made = Walk(committee, "shares", nodes=4)

    async def begin() -> None:
        await made.enrol()
        await made.create()
        await made.open()

    asyncio.run(begin())
    return made


async def counted(committee: Committee, code: str) -> float:
    """How many refusals of `code` replica 0 has counted."""
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(committee.federation.replicas[0].url + "/metrics")).text()
    found = re.search(rf'koinon_refused_total{{code="{code}",service="pbft"}} (\S+)', text)
    return float(found[1]) if found else 0.0


@asynccontextmanager
async def refused(committee: Committee, kind: type[Exception], code: str) -> AsyncIterator[None]:
    """The block ends in `kind`, and replica 0 counted it."""
    before = await counted(committee, code)
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind
    assert await counted(committee, code) > before


async def post(committee: Committee, path: str, body: bytes, *, method: str = "POST", **headers: str) -> bytes:
    """One exchange with replica 0; raises what it refused with."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, committee.federation.replicas[0].url + path, data=body, headers=headers) as response,
    ):
        content = await response.read()
        if response.status != 200:
            raise_refusal(response.status, content, "replica 0")
        return content


def signed_request(committee: Committee, signer: Signer, number: int, operation: object) -> bytes:
    return seal(signer, committee.federation.domain, Request(number=number, operation=encode(operation)))


# --- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\x00", b"not a request", secrets.token_bytes(300)])
def test_bytes_that_are_no_request_are_malformed(committee: Committee, body: bytes) -> None:
    async def scenario() -> None:
        async with refused(committee, Malformed, "malformed"):
            await post(committee, "/v1/requests", body)

    asyncio.run(scenario())


def test_a_request_above_the_bound_is_oversized(committee: Committee) -> None:
    async def scenario() -> None:
        async with refused(committee, Oversized, "oversized"):
            await post(committee, "/v1/requests", bytes(70_000))

    asyncio.run(scenario())


def test_a_stranger_is_not_ordered_unless_the_registrar_admitted_it(committee: Committee, walk: Walk) -> None:
    async def scenario() -> None:
        stranger, forger = Signer(secrets.token_bytes(32)), Signer(secrets.token_bytes(32))
        before = await committee.sequences()
        async with refused(committee, UnknownSigner, "unknown-signer"), committee.client(stranger) as client:
            await client.submit(StopTask(task=walk.task))
        good = committee.enrolment(stranger, Role.NODE)
        forged = msgspec.structs.replace(good, signature=forger.sign(committee.federation.domain, good.admission))
        async with refused(committee, UnknownSigner, "unknown-signer"), committee.client(stranger) as client:
            await client.submit(forged)
        async with refused(committee, UnknownSigner, "unknown-signer"), committee.client(forger) as client:
            await client.submit(good)
        assert await committee.sequences() == before
        async with committee.client(stranger) as client:
            await client.submit(good)

    asyncio.run(scenario())


def test_an_executed_request_is_answered_alike_and_an_older_one_is_replayed(committee: Committee, walk: Walk) -> None:
    async def scenario() -> None:
        node = walk.keys[0]
        async with committee.client(node) as client:
            await client.submit(CreateTask(spec=_spec()))
        newest = 2**62
        body = signed_request(committee, node, newest, StopTask(task=bytes(32)))
        first, second = await post(committee, "/v1/requests", body), await post(committee, "/v1/requests", body)
        assert first == second
        async with refused(committee, Replayed, "replayed"):
            await post(committee, "/v1/requests", signed_request(committee, node, newest - 1, StopTask(task=bytes(32))))

    asyncio.run(scenario())


def _spec() -> TaskSpec:
    return TaskSpec(
        name=f"x{secrets.token_hex(8)}", app="none", mode="plain", strategy="fedavg", rounds=1,
        initial_model=bytes(32), dimension=1,
    )  # fmt: skip


# --- blobs -------------------------------------------------------------------------------------------------------


def test_a_blob_is_kept_for_members_only_and_only_under_its_digest(committee: Committee, walk: Walk) -> None:
    async def put(signer: Signer, content: bytes, digest: bytes, size: int, path: bytes) -> None:
        upload = seal(signer, committee.federation.domain, BlobUpload(digest=digest, size=size))
        header = {"Koinon-Upload": base64.b64encode(upload).decode()}
        await post(committee, f"/v1/blobs/{path.hex()}", content, method="PUT", **header)

    async def scenario() -> None:
        node, stranger = walk.keys[0], Signer(secrets.token_bytes(32))
        content = secrets.token_bytes(1000)
        digest = keccak(content)
        async with refused(committee, UnknownSigner, "unknown-signer"):
            await put(stranger, content, digest, 1000, digest)
        async with refused(committee, BlobMismatch, "blob-mismatch"):
            await put(node, content, keccak(b"other"), 1000, digest)
        async with refused(committee, BlobMismatch, "blob-mismatch"):
            await put(node, content[:-1] + b"?", digest, 1000, digest)
        async with refused(committee, Oversized, "oversized"):
            await put(node, content, digest, 999, digest)
        async with refused(committee, Oversized, "oversized"):
            await put(node, content, digest, 2**40, digest)
        async with refused(committee, Malformed, "malformed"):
            await post(committee, f"/v1/blobs/{digest.hex()}", content, method="PUT", **{"Koinon-Upload": "%"})
        async with refused(committee, Missing, "missing"):
            await post(committee, f"/v1/blobs/{digest.hex()}", b"", method="GET")
        await put(node, content, digest, 1000, digest)
        assert await post(committee, f"/v1/blobs/{digest.hex()}", b"", method="GET") == content

    asyncio.run(scenario())


# --- pieces ------------------------------------------------------------------------------------------------------


def test_a_piece_that_is_not_the_nodes_own_for_this_replica_and_round_gets_no_receipt(
    committee: Committee, walk: Walk
) -> None:
    async def scenario() -> None:
        domain = committee.federation.domain
        key, other, stranger = walk.keys[0], walk.keys[1], Signer(secrets.token_bytes(32))
        update, protected = await walk.protect(1, key, walk.values(1))
        async with committee.client(key) as client:
            await client.put_blob(encode(update))
        piece = walk.piece(update, protected, 0)

        async def hand_in(signer: Signer, given: Piece) -> None:
            body = seal(signer, domain, given)
            await post(committee, "/v1/pieces", body, **announced(signer, len(body)))

        def announced(signer: Signer, size: int) -> dict[str, str]:
            upload = seal(signer, domain, BlobUpload(digest=bytes(32), size=size))
            return {"Koinon-Upload": base64.b64encode(upload).decode()}

        change = msgspec.structs.replace
        async with refused(committee, Malformed, "malformed"):
            await post(committee, "/v1/pieces", seal(key, domain, piece))  # unannounced: not even read
        async with refused(committee, UnknownSigner, "unknown-signer"):
            await post(committee, "/v1/pieces", b"", **announced(stranger, 1 << 20))
        async with refused(committee, Malformed, "malformed"):
            await post(committee, "/v1/pieces", secrets.token_bytes(200), **announced(key, 200))
        async with refused(committee, Oversized, "oversized"):
            await post(committee, "/v1/pieces", secrets.token_bytes(300), **announced(key, 200))
        async with refused(committee, UnknownSigner, "unknown-signer"):
            await hand_in(other, piece)
        async with refused(committee, UnknownSigner, "unknown-signer"):
            await hand_in(stranger, change(piece, node=stranger.address))
        async with refused(committee, Rejected, "rejected"):
            await hand_in(walk.aggregator, change(piece, node=walk.aggregator.address))
        async with refused(committee, BadPiece, "bad-piece"):
            await hand_in(key, change(piece, replica=1))
        theirs, sealed = await walk.protect(1, other, walk.values(2))
        async with committee.client(other) as client:
            await client.put_blob(encode(theirs))
        async with refused(committee, BadPiece, "bad-piece"):  # sealed to another replica
            await hand_in(other, change(walk.piece(theirs, sealed, 1), replica=0))
        async with refused(committee, BadPiece, "bad-piece"):  # who lied once is believed no more in this round
            await hand_in(other, walk.piece(theirs, sealed, 0))
        async with refused(committee, Unavailable, "unavailable"):
            await hand_in(key, change(piece, update=keccak(b"nowhere")))
        await hand_in(key, piece)

    asyncio.run(scenario())


def test_the_same_update_gets_its_receipt_again_and_a_second_one_gets_none(committee: Committee, walk: Walk) -> None:
    async def scenario() -> None:
        key = walk.keys[2]
        update, protected = await walk.protect(1, key, walk.values(3))
        first = await walk.deliver(key, update, protected, to=[0, 1])
        assert await walk.deliver(key, update, protected, to=[0, 1]) == first
        second, pieces = await walk.protect(1, key, walk.values(4))
        async with refused(committee, Rejected, "rejected"):
            await walk.deliver(key, second, pieces, to=[0])
        with pytest.raises(Rejected) as caught:
            await walk.deliver(key, second, pieces, to=[1])
        assert caught.value.rule == "duplicate-update"

    asyncio.run(scenario())


@pytest.mark.parametrize("examples", [0, EXAMPLES + 1, 2**32 - 1])
def test_a_claim_of_no_samples_or_too_many_gets_no_receipt_and_is_no_fault(
    committee: Committee, walk: Walk, examples: int
) -> None:
    async def scenario() -> None:
        key = walk.keys[3]
        update, protected = await walk.protect(1, key, walk.values(5))
        with pytest.raises(Rejected, match=f"lies in 1..{EXAMPLES}") as caught:
            await walk.deliver(key, msgspec.structs.replace(update, examples=examples), protected, to=[2])
        assert caught.value.rule == "examples"
        async with committee.client() as client:
            assert not await client.faults(2, walk.task, 1)

    asyncio.run(scenario())


# --- openings ----------------------------------------------------------------------------------------------------


def test_nothing_of_a_round_in_training_is_opened_shown_or_certified(committee: Committee, walk: Walk) -> None:
    async def scenario() -> None:
        domain, replica = committee.federation.domain, committee.signers[1]
        async with committee.client(walk.aggregator) as client:
            for ask in (
                client.contribution(0, walk.task, 1),
                client.certify(0, CertificateRequest(task=walk.task, round=1, opening=bytes(32), model=bytes(32))),
            ):
                with pytest.raises(Unavailable):
                    await ask
        asked = PartRequest(task=walk.task, round=1, node=walk.keys[0].address, replica=1)
        with pytest.raises(Unavailable):
            await post(committee, "/v1/parts", seal(replica, domain, asked))
        with pytest.raises(UnknownSigner):
            await post(committee, "/v1/parts", seal(walk.keys[0], domain, asked))

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/tasks/xyz", "/v1/log?from=-1", "/v1/openings/" + "00" * 32 + "/x"])
def test_a_question_that_makes_no_sense_is_malformed(committee: Committee, path: str) -> None:
    async def scenario() -> None:
        with pytest.raises(RemoteError) as caught:
            await post(committee, path, b"", method="GET")
        assert type(caught.value) is Malformed

    asyncio.run(scenario())
