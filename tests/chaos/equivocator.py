"""A replica that lies: koinon-replica's own program, whose words are changed on their way out.

    python -m tests.chaos.equivocator --home DIR

As primary it proposes two batches for every number, one to even and one to odd peers; in every view it votes for two
digests, to everybody, to odd peers the false one first. It signs its lies with its own key, as a thief of that key
would. The product has no switch for this: what is swapped is the class that `pbft.__main__` starts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from msgspec.structs import replace

import pbft.__main__ as program
from koinon.encoding import encode, keccak
from koinon.wire import Batch, Phase, Vote
from pbft.certificates import batch_digest
from pbft.home import ReplicaHome
from pbft.messages import Ballot, PrePrepare, decode_peer
from pbft.server import ReplicaServer


class Equivocator(ReplicaServer):
    """Honest in all but its pre-prepares, prepares and commits."""

    def __init__(self, home: ReplicaHome) -> None:
        super().__init__(home)
        self._liar = home.signer
        self._lies: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def _send(self, peers: Iterable[int], data: bytes) -> None:
        message = decode_peer(data)
        for peer in peers:
            for said in self._said(peer, message):
                super()._send((peer,), said)

    def _said(self, peer: int, message: object) -> list[bytes]:
        match message:
            case PrePrepare():
                return [encode(self._other(message) if peer % 2 else message)]
            case Ballot():
                vote = message.vote
                both = self._lies.get((vote.view, vote.sequence), (vote.digest, keccak(vote.digest)))
                return [encode(self._signed(replace(vote, digest=each))) for each in both[:: -1 if peer % 2 else 1]]
        return [encode(message)]

    def _other(self, message: PrePrepare) -> PrePrepare:
        """Another batch of the same requests, signed by us for the same number."""
        other = Batch(time_ms=message.batch.time_ms + 1, requests=message.batch.requests)
        digests = (batch_digest(message.batch), batch_digest(other))
        self._lies[message.view, message.sequence] = digests
        vote = Vote(
            phase=Phase.PRE_PREPARE,
            epoch=message.epoch,
            view=message.view,
            sequence=message.sequence,
            digest=digests[1],
        )
        return replace(message, batch=other, signature=self._signed(vote).signature)

    def _signed(self, vote: Vote) -> Ballot:
        return Ballot(vote=vote, signature=self._liar.sign(self.federation.domain, vote))


if __name__ == "__main__":
    program.ReplicaServer = Equivocator  # type: ignore[misc]
    sys.exit(program.main())
