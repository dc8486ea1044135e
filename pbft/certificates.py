"""Checks of everything that is signed: each raises, or returns who signed. No state, so that anybody may use it.

Signers are recovered from signatures; a certificate is valid when a quorum of *distinct members* signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from koinon.encoding import Message, decode, digest
from koinon.errors import BadSignature, Malformed
from koinon.signing import Domain, Signed, recover, signing_digest
from koinon.wire import Batch, CommittedBatch, Phase, Request, Vote

from .messages import GENESIS, CheckpointCertificate, PreparedProof, PrePrepare
from .quorum import Committee

# One message is met many times (votes in proofs, requests in batches), and an ECDSA recovery costs 45 µs.
_recover = lru_cache(maxsize=1 << 16)(recover)
_vote_digest = lru_cache(maxsize=1 << 14)(signing_digest)
_batch_digest = lru_cache(maxsize=64)(digest)
_CACHED_REQUESTS_MAX = 8192
_CACHED_REQUEST_BYTES_MAX = 4096


def batch_digest(batch: Batch) -> bytes:
    return _batch_digest(batch)


class Verifier:
    """The committee's signatures in one domain."""

    def __init__(self, committee: Committee, domain: Domain, *, window: int, request_bytes_max: int) -> None:
        self.committee = committee
        self.domain = domain
        self.window = window
        self.request_bytes_max = request_bytes_max
        self._requests: dict[bytes, tuple[bytes, Request]] = {}

    def member(self, message: Message, signature: bytes) -> int:
        """The index of the member who signed; BadSignature or UnknownSigner."""
        make = _vote_digest if isinstance(message, Vote) else signing_digest
        return self.committee.index_of(_recover(make(self.domain, message), signature))

    def request(self, data: bytes) -> tuple[bytes, Request]:
        """The client's address and request in sealed bytes; Malformed and its kinds, or BadSignature."""
        if len(data) > _CACHED_REQUEST_BYTES_MAX:
            return self._request(data)
        known = self._requests.get(data)
        if known is None:
            known = self._request(data)
            if len(self._requests) >= _CACHED_REQUESTS_MAX:
                del self._requests[next(iter(self._requests))]
            self._requests[data] = known
        return known

    def _request(self, data: bytes) -> tuple[bytes, Request]:
        envelope = decode(Signed, data, bytes_max=self.request_bytes_max)
        request = decode(Request, envelope.payload, bytes_max=self.request_bytes_max)
        return _recover(signing_digest(self.domain, request), envelope.signature), request

    def pre_prepare(self, message: PrePrepare) -> bytes:
        """The batch's digest, if the view's primary signed it."""
        named = batch_digest(message.batch)
        self.primary_signed(message.view, message.sequence, named, message.signature)
        return named

    def primary_signed(self, view: int, sequence: int, named: bytes, signature: bytes) -> None:
        vote = Vote(phase=Phase.PRE_PREPARE, view=view, sequence=sequence, digest=named)
        if self.member(vote, signature) != self.committee.primary(view):
            raise BadSignature(f"the pre-prepare of {sequence} is not from the primary of view {view}")

    def _distinct(self, message: Message, signatures: Sequence[bytes], needed: int, what: str) -> set[int]:
        if len(signatures) > self.committee.n:  # one key makes any number of signatures, each costs a recovery
            raise BadSignature(f"{what} has {len(signatures)} signatures in a committee of {self.committee.n}")
        signers = {self.member(message, signature) for signature in signatures}
        if len(signers) < needed:
            raise BadSignature(f"{what} has {len(signers)} distinct signers where {needed} are needed")
        return signers

    def checkpoint(self, certificate: CheckpointCertificate) -> None:
        """A quorum signed the checkpoint (section 4.3); sequence 0 is stable by definition."""
        if certificate.checkpoint.sequence == 0:
            if certificate != GENESIS:
                raise Malformed("the checkpoint of sequence 0 has one form")
            return
        self._distinct(certificate.checkpoint, certificate.signatures, self.committee.quorum, "a checkpoint")

    def proof(self, proof: PreparedProof) -> None:
        """Prepared (section 4.2): the primary's pre-prepare and quorum-1 prepares of backups, all of one digest."""
        self.primary_signed(proof.view, proof.sequence, proof.digest, proof.pre_prepare)
        vote = Vote(phase=Phase.PREPARE, view=proof.view, sequence=proof.sequence, digest=proof.digest)
        needed = self.committee.quorum - 1
        signers = self._distinct(vote, proof.prepares, needed, "a prepared proof")
        if self.committee.primary(proof.view) in signers:
            raise BadSignature("a prepared proof counts the primary among its backups")

    def entry(self, entry: CommittedBatch) -> None:
        """A quorum signed COMMIT for this batch, so at least f+1 honest members prepared it."""
        named = batch_digest(entry.batch)
        vote = Vote(phase=Phase.COMMIT, view=entry.view, sequence=entry.sequence, digest=named)
        self._distinct(vote, entry.signatures, self.committee.quorum, f"entry {entry.sequence}")
