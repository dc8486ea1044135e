"""A round with everything logged at debug level: no line and no repr contains a seed, a piece or a key."""

from __future__ import annotations

import asyncio
import base64
import logging
from pathlib import Path

import numpy as np
import pytest

from koinon.encoding import encode
from koinon.errors import BadPiece
from koinon.learning.parameters import Parameters, from_arrays
from koinon.privacy import Held, Protected, SealingKey
from koinon.privacy.validation import Bound
from koinon.privacy.validation.masks import expand
from koinon.signing import Signer
from koinon.wire import Update
from node.apps import Fitted
from node.masking import Masking
from node.participation import Participation
from node.submissions import Submissions
from pbft.pieces import Kept, PieceStore
from tests.integration.committee import PASSWORD, Committee
from tests.integration.walk import Walk

ENTRY = 33


def spellings(secret: bytes) -> list[str]:
    """How a secret could stand in a text: all of it, or its first 16 bytes."""
    start = secret[:16]
    coded = (repr(start)[2:-1], str(list(start))[1:-1], str(tuple(start))[1:-1], str(int.from_bytes(secret)))
    return [start.hex(), base64.b64encode(secret).decode()[:20], base64.urlsafe_b64encode(secret).decode()[:20], *coded]


def secrets_of(made: list[tuple[Update, Protected]], walk: Walk, committee: Committee) -> list[bytes]:
    found = [signer.secret for signer in (*committee.signers, *walk.keys, walk.aggregator)]
    found += [SealingKey.derive(signer.secret, 0).secret for signer in committee.signers]
    for _, protected in made:
        for piece in protected.pieces:
            found.append(piece)
            found += [piece[at + 1 : at + ENTRY] for at in range(0, len(piece), ENTRY)]
    return found


class App:
    """What a node trains with, without a model: the parent plus a little."""

    name = "none"

    def fit(self, parent: Parameters, config: object) -> Fitted:
        moved = from_arrays([each + np.float32(0.01) for each in parent.arrays()])
        return Fitted(parameters=moved, examples=100, loss=0.5)


class NoChain:
    """Where no chain runs: the committee's word for the last certified model."""

    def __init__(self, model: bytes) -> None:
        self._model = model

    def latest_model(self, task: bytes) -> bytes:
        return self._model


async def as_the_node_does(walk: Walk, number: int, key: Signer, folder: Path) -> Protected:
    """The node's own code takes part for `key`; what replicas then keep of it."""

    async def app() -> App:
        return App()

    async with walk.committee.client(key) as client:
        record = await client.task(walk.task)
        chain = NoChain(record.model)
        part = Participation(
            client,
            lambda: chain,  # type: ignore[arg-type, return-value]
            Submissions(folder / "submissions"),
            Masking(client, lambda: chain, folder / "masks", key),  # type: ignore[arg-type, return-value]
            key.address,
        )
        await part.take_part(walk.task, record, record.rounds[number - 1], app, 1000)  # type: ignore[arg-type]
    stores = [PieceStore(walk.committee.home(index) / "data" / "pieces") for index in range(3)]
    kept = [store.find(walk.task, number, key.address) for store in stores]
    assert all(each is not None for each in kept)
    return Protected(b"", tuple(each.piece for each in kept if each is not None))


def test_a_round_at_debug_level_logs_no_seed_piece_or_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made: list[tuple[Update, Protected]] = []

    class Recorded(Walk):
        async def protect(self, *arguments: object) -> tuple[Update, Protected]:
            made.append(await super().protect(*arguments))  # type: ignore[arg-type]
            return made[-1]

    async def scenario(committee: Committee) -> Walk:
        await committee.ready()
        walk = Recorded(committee, "shares", nodes=4)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        for position, key in enumerate(walk.keys[:3]):  # replica 3 recovers its seeds from the others
            await walk.submit(number, key, walk.values(position), to=[0, 1, 2])
        update, protected = await walk.protect(number, walk.keys[3], walk.values(3))
        false = Protected(protected.public, (*protected.pieces[:3], protected.pieces[3][::-1]))
        with pytest.raises(BadPiece, match=r"ascending|instead of|commitment"):
            await walk.deliver(walk.keys[3], update, false, to=[3])
        made.append((update, await as_the_node_does(walk, number, walk.keys[3], tmp_path)))
        await walk.complete(*await walk.certify(number, *(await walk.open_sum(number))[:2]))
        return walk

    with caplog.at_level(logging.DEBUG), Committee(tmp_path, log_level="debug") as committee:
        committee.start()
        walk = asyncio.run(scenario(committee))
        text = caplog.text + "".join(committee.log(index) for index in range(4))
    assert '"level": "debug"' in text
    assert walk.keys[0].address.hex() in text  # who was recovered is logged, and the search finds hex
    assert PASSWORD not in text
    shown = [secret for secret in secrets_of(made, walk, committee) if any(each in text for each in spellings(secret))]
    assert not shown


def test_what_holds_secrets_shows_none_of_them_when_printed() -> None:
    secret = bytes(range(100, 132))
    mask = expand(Bound.of(20, 1000, 4), secret)
    holders = (
        Kept(update=bytes(32), examples=1, piece=secret),
        Held(bytes(20), b"public", secret),
        Protected(b"public", (secret,)),
        SealingKey(secret),
    )
    text = "".join(map(repr, (*holders, mask, mask.planes, mask.hidden)))
    assert not any(each in text for each in spellings(secret))
    assert not any(str(word) in text for word in (*mask.planes.low[:4], *mask.hidden.blinds[:4]))
    assert encode(holders[0]) != b""
