"""A task walked through its rounds by hand: the node's and the aggregator's part, step by step."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from koinon.encoding import encode, from_hex, keccak
from koinon.learning.parameters import Parameters, from_arrays, from_blob, model_digest
from koinon.opening import (
    ClosedRound,
    component_digests,
    make_opening,
    next_model,
    open_round,
    public_part,
    round_setting,
    signed_contributions,
)
from koinon.privacy import Protected, Values, mode, piece_context, seal_to
from koinon.rounds.operations import (
    CloseRound,
    CompleteRound,
    CreateTask,
    OpenRound,
    ReportEvaluation,
    SubmitUpdate,
    TaskSpec,
)
from koinon.rounds.state import Task
from koinon.signing import Signer
from koinon.wire import CertificateRequest, Piece, Role, RoundCertificate, SignedReceipt, Update
from tests.integration.committee import Committee

EXAMPLES = 1000
"""What each node claims: all that it is admitted with."""


@dataclass
class Walk:
    """One task, from its creation to the certificates of its rounds, with three nodes or more."""

    committee: Committee
    mode: str
    nodes: int = 3
    rounds: int = 2
    dimension: int = 12
    bits: int = 16
    round_ms: int = 60_000
    validate: bool = True
    initial: Parameters = field(init=False)
    task: bytes = b""

    def __post_init__(self) -> None:
        self.keys = sorted((Signer(secrets.token_bytes(32)) for _ in range(self.nodes)), key=lambda key: key.address)
        self.aggregator = Signer(secrets.token_bytes(32))
        values = np.linspace(-1, 1, self.dimension, dtype=np.float32)
        self.initial = from_arrays([values[:5], values[5:].reshape(1, -1)])

    async def enrol(self) -> None:
        for signer, role in [*((key, Role.NODE) for key in self.keys), (self.aggregator, Role.AGGREGATOR)]:
            async with self.committee.client(signer) as client:
                await client.submit(self.committee.enrolment(signer, role))

    async def create(self) -> bytes:
        """The submitter stores the initial model and has the task ordered."""
        async with self.committee.client(self.aggregator) as client:
            await client.put_blob(self.initial.blob())
            spec = TaskSpec(
                name="walk",
                app="none",
                mode=self.mode,
                strategy="fedavg",
                rounds=self.rounds,
                initial_model=model_digest(self.initial),
                dimension=self.dimension,
                bits=self.bits,
                validate=self.validate,
                round_ms=self.round_ms,
                reward=7,
            )
            self.task = (await client.submit(CreateTask(spec=spec))).subject
        return self.task

    async def record(self) -> Task:
        async with self.committee.client() as client:
            return await client.task(self.task, rounds=0)

    async def open(self) -> int:
        """The aggregator proposes the next round with all nodes."""
        record = await self.record()
        number = len(record.rounds) + 1
        async with self.committee.client(self.aggregator) as client:
            await client.submit(
                OpenRound(
                    task=self.task,
                    round=number,
                    parent_model=record.model,
                    cohort=tuple(key.address for key in self.keys),
                )
            )
        return number

    async def protect(self, number: int, key: Signer, values: Values) -> tuple[Update, Protected]:
        """What a node makes of its trained values."""
        record = await self.record()
        round_ = record.rounds[number - 1]
        setting = round_setting(self.committee.federation, self.task, record.spec, round_, {key.address: EXAMPLES})
        protected = mode(self.mode).protect(setting, key.address, values, secrets.token_bytes)
        update = Update(
            task=self.task,
            round=number,
            node=key.address,
            mode=self.mode,
            examples=EXAMPLES,
            public=protected.public,
        )
        return update, protected

    def piece(self, update: Update, protected: Protected, index: int) -> Piece:
        """The sealed piece for one replica."""
        context = piece_context(update.task, update.round, update.node, index)
        sealing_key = from_hex(self.committee.federation.replicas[index].sealing_key)
        return Piece(
            task=update.task,
            round=update.round,
            node=update.node,
            replica=index,
            update=keccak(encode(update)),
            sealed=seal_to(sealing_key, protected.pieces[index], context),
        )

    async def deliver(
        self, key: Signer, update: Update, protected: Protected, *, to: Iterable[int] | None = None
    ) -> tuple[SignedReceipt, ...]:
        """Store the public part and hand in the pieces; the receipts by ascending replica."""
        async with self.committee.client(key) as client:
            await client.put_blob(encode(update))
            if to is None:
                receipts = await client.collect(
                    lambda index: client.deliver(index, self.piece(update, protected, index), update.examples),
                    enough=self.committee.federation.quorum,
                    what="sign a receipt",
                    patience_seconds=0.5,
                )
            else:
                pieces = {i: self.piece(update, protected, i) for i in to}
                receipts = {i: await client.deliver(i, piece, update.examples) for i, piece in pieces.items()}
        return tuple(SignedReceipt(replica=i, signature=receipts[i]) for i in sorted(receipts))

    async def submit(self, number: int, key: Signer, values: Values, *, to: Iterable[int] | None = None) -> None:
        """A node's whole part of a round (after training)."""
        update, protected = await self.protect(number, key, values)
        receipts = await self.deliver(key, update, protected, to=to)
        await self.order(number, key, update, receipts)

    async def order(
        self, number: int, key: Signer, update: Update, receipts: tuple[SignedReceipt, ...], *, name: bytes = b""
    ) -> None:
        """Have the update ordered, under the digest of `name` if that is something else."""
        record = await self.record()
        async with self.committee.client(key) as client:
            await client.submit(
                SubmitUpdate(
                    task=self.task,
                    round=number,
                    parent_model=record.rounds[number - 1].parent_model,
                    update=keccak(name or encode(update)),
                    examples=update.examples,
                    loss=1,
                    receipts=receipts,
                )
            )

    async def close(self, number: int) -> None:
        async with self.committee.client(self.aggregator) as client:
            await client.submit(CloseRound(task=self.task, round=number))

    async def open_sum(self, number: int, *, patience_seconds: float = 1.0) -> tuple[bytes, bytes, Values]:
        """The aggregator collects contributions and opens: digests of opening and model, and the sum."""
        record = await self.record()
        at = ClosedRound(self.committee.federation, self.task, record.spec, record.rounds[number - 1])
        async with self.committee.client(self.aggregator) as client:
            sealed = await client.collect(
                lambda index: client.contribution(index, self.task, number),
                enough=self.committee.federation.quorum,
                what="contribute",
                patience_seconds=patience_seconds,
            )
            good, bad = signed_contributions(at, list(sealed.values()))
            assert not bad
            publics = {
                node: public_part(at, node, await client.get_blob(kept.update))
                for node, kept in at.round.submissions.items()
            }
            wanted = component_digests(make_opening(at, good, b""))
            components = {digest: await client.get_blob(digest) for digest in wanted}
            opened = open_round(at, publics, good, components)
            opening = encode(make_opening(at, good, opened.witness))
            if opened.witness:
                await client.put_blob(opened.witness)
            parent = from_blob(await client.get_blob(at.round.parent_model))
            model = next_model(at.spec, at.round, parent, opened.values)
            return await client.put_blob(opening), model_digest(model), opened.values

    async def certify(
        self, number: int, opening: bytes, model: bytes
    ) -> tuple[RoundCertificate, tuple[SignedReceipt, ...]]:
        """2f+1 replicas verify the opening and sign."""
        request = CertificateRequest(task=self.task, round=number, opening=opening, model=model)
        async with self.committee.client(self.aggregator) as client:
            signed = await client.collect(
                lambda index: client.certify(index, request),
                enough=self.committee.federation.quorum,
                what="certify",
            )
        certificates = {certificate for certificate, _ in signed.values()}
        assert len(certificates) == 1
        signatures = tuple(SignedReceipt(replica=i, signature=signed[i][1]) for i in sorted(signed))
        return certificates.pop(), signatures

    async def complete(self, certificate: RoundCertificate, signatures: tuple[SignedReceipt, ...]) -> Parameters:
        """The certificate is ordered; the new model, as anybody fetches it."""
        async with self.committee.client(self.aggregator) as client:
            await client.submit(CompleteRound(certificate=certificate, signatures=signatures))
            return from_blob(await client.get_blob(certificate.model))

    async def evaluate(self, number: int, key: Signer, accuracy: int) -> None:
        async with self.committee.client(key) as client:
            await client.submit(ReportEvaluation(task=self.task, round=number, loss=1, accuracy=accuracy, examples=100))

    def values(self, seed: int) -> Values:
        """What a node might submit: int64[dimension] within the bounds of `bits`."""
        limit = 2 ** (self.bits - 1) - 1
        return np.random.default_rng(seed).integers(-limit, limit + 1, self.dimension, dtype=np.int64)

    async def round(self) -> Parameters:
        """One whole round with everybody honest; checks that the opened sum is the sum."""
        number = await self.open()
        given = [self.values(17 * number + position) for position in range(len(self.keys))]
        await asyncio.gather(*(self.submit(number, key, values) for key, values in zip(self.keys, given, strict=True)))
        opening, model, total = await self.open_sum(number)
        assert (total == sum(given)).all()
        return await self.complete(*await self.certify(number, opening, model))
