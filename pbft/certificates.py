"""Checks of everything that is signed: each raises, or returns who signed. No state, so that anybody may use it.

Signers are recovered from signatures; a certificate is valid when a quorum of *distinct members* signed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from koinon.encoding import Message, decode, digest
from koinon.errors import BadSignature, Malformed, WrongEpoch
from koinon.signing import Domain, Signed, recover, signing_digest
from koinon.wire import Batch, CheckpointCertificate, CommittedBatch, Phase, Request, Vote

from .messages import GENESIS, PreparedProof, PrePrepare
from .quorum import Committee

# One message is met many times (votes in proofs, requests in batches), and an ECDSA recovery costs 45 µs.
_recover = lru_cache(maxsize=1 << 16)(recover)
_vote_digest = lru_cache(maxsize=1 << 14)(signing_digest)
_batch_digest = lru_cache(maxsize=64)(digest)
_CACHED_REQUESTS_MAX = 8192
_CACHED_REQUEST_BYTES_MAX = 4096


def batch_digest(batch: Batch) -> bytes:
    return _batch_digest(batch)


def forget() -> None:
    """Empty the caches that all verifiers of a process share."""
    for cache in (_recover, _vote_digest, _batch_digest):
        cache.cache_clear()


class Verifier:
    """The signatures of the committee of `epoch` in one domain; those of other epochs only where it says so.

    `committees` are all that are known, by epoch; `base` is the checkpoint that `epoch` begins at.
    """

    def __init__(
        self,
        committees: Mapping[int, Committee],
        epoch: int,
        domain: Domain,
        *,
        base: CheckpointCertificate,
        window: int,
        request_bytes_max: int,
    ) -> None:
        self.committees = committees
        self.committee = committees[epoch]
        self.epoch = epoch
        self.base = base
        self.domain = domain
        self.window = window
        self.request_bytes_max = request_bytes_max
        self._requests: dict[bytes, tuple[bytes, Request]] = {}

    def member(self, message: Message, signature: bytes, committee: Committee | None = None) -> int:
        """The index of the member (of this epoch, or of `committee`) who signed; BadSignature or UnknownSigner."""
        make = _vote_digest if isinstance(message, Vote) else signing_digest
        return (committee or self.committee).index_of(_recover(make(self.domain, message), signature))

    def require_epoch(self, epoch: int, what: str) -> None:
        """WrongEpoch unless it was said in this one."""
        if epoch != self.epoch:
            raise WrongEpoch(f"{what} of epoch {epoch} in epoch {self.epoch}")

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
        return recover(signing_digest(self.domain, request), envelope.signature), request

    def pre_prepare(self, message: PrePrepare) -> bytes:
        """The batch's digest, if the view's primary signed it."""
        self.require_epoch(message.epoch, "a pre-prepare")
        named = batch_digest(message.batch)
        self.primary_signed(message.view, message.sequence, named, message.signature)
        return named

    def primary_signed(self, view: int, sequence: int, named: bytes, signature: bytes) -> None:
        vote = Vote(phase=Phase.PRE_PREPARE, epoch=self.epoch, view=view, sequence=sequence, digest=named)
        if self.member(vote, signature) != self.committee.primary(view):
            raise BadSignature(f"the pre-prepare of {sequence} is not from the primary of view {view}")

    def _distinct(
        self, message: Message, signatures: Sequence[bytes], committee: Committee, needed: int, what: str
    ) -> set[int]:
        if len(signatures) > committee.n:  # one key makes any number of signatures, each costs a recovery
            raise BadSignature(f"{what} has {len(signatures)} signatures in a committee of {committee.n}")
        signers = {self.member(message, signature, committee) for signature in signatures}
        if len(signers) < needed:
            raise BadSignature(f"{what} has {len(signers)} distinct signers where {needed} are needed")
        return signers

    def checkpoint(self, certificate: CheckpointCertificate) -> None:
        """A quorum signed the checkpoint (section 4.3): one of this epoch, or the one that it begins at.

        Sequence 0 is stable by definition. What earlier committees say about other sequences counts no more.
        """
        checkpoint, base = certificate.checkpoint, self.base.checkpoint
        if base.sequence == 0 and checkpoint.sequence == 0:
            if certificate != GENESIS:
                raise Malformed("the checkpoint of sequence 0 has one form")
        elif checkpoint == base:
            self.settled(certificate)
        else:
            self.require_epoch(checkpoint.epoch, "a checkpoint")
            if checkpoint.sequence <= base.sequence:
                raise Malformed(f"a checkpoint of {checkpoint.sequence} in an epoch that begins at {base.sequence}")
            self.settled(certificate)

    def settled(self, certificate: CheckpointCertificate) -> None:
        """A quorum of the checkpoint's own epoch signed it: enough for what comes from our own disk."""
        committee = self.committee_of(certificate.checkpoint.epoch, "a checkpoint")
        self._distinct(certificate.checkpoint, certificate.signatures, committee, committee.quorum, "a checkpoint")

    def committee_of(self, epoch: int, what: str) -> Committee:
        """The committee of a known epoch; WrongEpoch."""
        if epoch not in self.committees:
            raise WrongEpoch(f"{what} of epoch {epoch}, which is not known here")
        return self.committees[epoch]

    def proof(self, proof: PreparedProof) -> None:
        """Prepared (section 4.2): the primary's pre-prepare and quorum-1 prepares of backups, all of one digest."""
        self.require_epoch(proof.epoch, "a prepared proof")
        self.primary_signed(proof.view, proof.sequence, proof.digest, proof.pre_prepare)
        vote = Vote(
            phase=Phase.PREPARE, epoch=self.epoch, view=proof.view, sequence=proof.sequence, digest=proof.digest
        )
        needed = self.committee.quorum - 1
        signers = self._distinct(vote, proof.prepares, self.committee, needed, "a prepared proof")
        if self.committee.primary(proof.view) in signers:
            raise BadSignature("a prepared proof counts the primary among its backups")

    def entry(self, entry: CommittedBatch, epoch: int) -> None:
        """A quorum signed COMMIT for this batch, so at least f+1 honest members prepared it.

        `epoch` is the one that execution is in: an entry of another epoch is WrongEpoch, whoever signed it. Above a
        handover an old committee may have committed what never takes effect.
        """
        if entry.epoch != epoch:
            raise WrongEpoch(f"entry {entry.sequence} of epoch {entry.epoch}, where epoch {epoch} is due")
        named, committee = batch_digest(entry.batch), self.committee_of(epoch, "an entry")
        vote = Vote(phase=Phase.COMMIT, epoch=epoch, view=entry.view, sequence=entry.sequence, digest=named)
        self._distinct(vote, entry.signatures, committee, committee.quorum, f"entry {entry.sequence}")
