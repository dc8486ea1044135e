"""A replica at work for hostile messages, one honest message of each kind, and all that the replica remembers.

The replica under test has a past: a slot that is committed, one that is prepared, one that is only proposed, and peers
that spoke. "Nothing" is everything that it remembers, but for the clock and for what it holds back because it came
too early, which counts toward nothing.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from pbft.engine import Disk, Engine
from pbft.events import Effect, Event, Evidence, Ignored, Misbehaved, Received, Refuse, Send
from pbft.log import Slot
from pbft.messages import (
    Body,
    CheckpointCertificate,
    Fetch,
    PeerMessage,
    RecoveryRequest,
    RecoveryResponse,
    Relay,
    SignedRecoveryRequest,
    Status,
)
from pbft.replica import Replica
from tests.simulation.world import DOMAIN, signer
from tests.unit.pbft.bench import Bench

VIEW = 1


def remembers(bench: Bench) -> dict[str, Any]:
    """Everything that the replica remembers, in plain values; a changed bit anywhere shows."""
    replica = bench.replica
    passing = ("now_ms", "_future", "_statuses", "_answer_due_ms", "_effects", "_replay_due")
    caches = ("verifier", "committee")
    below = ("log",)
    plain: dict[str, Any] = {}
    for name, value in vars(replica).items():
        if name not in (*passing, *caches, *below):
            plain[name] = repr(value) if not hasattr(value, "__dict__") else repr(sorted(vars(value).items(), key=str))
    plain["low"] = replica.log.low
    plain["slots"] = [repr(slot) for slot in replica.log if slot != Slot(slot.sequence, slot.epoch, slot.view)]
    plain["state"] = replica.execution.snapshot()
    plain["waiting"] = len(replica.pool)
    return plain


def busy() -> Bench:
    """Replica 2 in view 1, with one slot committed, one prepared and one proposed."""
    bench = Bench(2)
    bench.receive(1, bench.new_view(VIEW, *(bench.view_change(who, VIEW) for who in (0, 1, 3))))
    bench.order(1, bench.batch(bench.request(1)), view=VIEW)
    prepared, proposed = bench.batch(bench.request(2)), bench.batch(bench.request(3))
    bench.receive(1, bench.pre_prepare(2, prepared, view=VIEW), bench.pre_prepare(3, proposed, view=VIEW))
    for who in (0, 3):
        bench.receive(who, bench.prepare(who, 2, prepared, view=VIEW))
    return bench


@cache
def correct() -> dict[str, PeerMessage]:
    """One valid message of each kind, of a view and numbers that matter to `busy`."""
    bench = Bench(2)
    batch = bench.batch(bench.request(9))
    changes = [bench.view_change(who, 2, bench.proof(2, batch, view=VIEW)) for who in (0, 1, 3)]
    votes = [bench.checkpoint(who, 4, b"\5" * 32) for who in (0, 1, 3)]
    certificate = CheckpointCertificate(
        checkpoint=votes[0].checkpoint, signatures=tuple(vote.signature for vote in votes)
    )
    asked = RecoveryRequest(epoch=0, since_ms=bench.now_ms, view=VIEW)
    return {
        "pre-prepare": bench.pre_prepare(4, batch, view=VIEW),
        "prepare": bench.prepare(0, 3, batch, view=VIEW),
        "commit": bench.commit(0, 3, batch, view=VIEW),
        "checkpoint vote": votes[0],
        "checkpoint certificate": certificate,
        "view change": changes[0],
        "new view": bench.new_view(2, *changes),
        "relay": Relay(request=bench.request(9)),
        "status": Status(epoch=0, view=VIEW, active=True, stable=0, executed=1),
        "recovery request": SignedRecoveryRequest(message=asked, signature=signer("replica", 3).sign(DOMAIN, asked)),
        "recovery response": RecoveryResponse(epoch=0, since_ms=bench.now_ms, view=VIEW),
        "fetch": Fetch(sequence=2, digest=b"\1" * 32),
        "body": Body(sequence=3, batch=batch),
    }


KINDS = sorted(correct())
SIGNED = [kind for kind in KINDS if kind not in ("relay", "status", "recovery response", "fetch", "body")]


def harmless(bench: Bench, data: bytes, sender: int = 3) -> list[Effect]:
    """Hand the bytes in: rejected or ignored (an answer to a peer is no change), and nothing is remembered of them."""
    return unmoved(bench, Received(bench.now_ms, sender, data))


def unmoved(bench: Bench, event: Event) -> list[Effect]:
    """As `harmless`, for an event of any kind."""
    before = remembers(bench)
    effects = bench.replica.step(event)
    assert all(isinstance(effect, Misbehaved | Ignored | Evidence | Refuse | Send) for effect in effects), effects
    assert remembers(bench) == before
    return effects


class Shell:
    """What a replica's shell counts and whom it blames, for effects of any core."""

    def __init__(self, folder: Path, replica: Replica | None = None) -> None:
        self.blamed: list[int] = []
        self._disk = Disk(folder)
        self.engine = Engine(
            replica or Bench().replica,
            self._disk,
            send=lambda peers, data: None,
            need=lambda wanted: None,
            changed=lambda: None,
            turned=lambda: None,
            blame=self.blamed.append,
        )

    def close(self) -> None:
        self._disk.close()

    def counted(self, effects: list[Effect]) -> dict[str, int]:
        """By how much each of the counters of what is refused or ignored rose."""
        before = counters()
        asyncio.run(self.engine._perform(effects))
        return risen(before)


def risen(before: dict[str, float]) -> dict[str, int]:
    """By how much each counter of what is refused or ignored rose."""
    rose = {name: int(value - before.get(name, 0)) for name, value in counters().items()}
    return {name: count for name, count in rose.items() if count}


def counters() -> dict[str, float]:
    return {
        sample.labels.get("reason", sample.labels.get("code", "")): sample.value
        for metric in REGISTRY.collect()
        if metric.name in ("koinon_ignored", "koinon_refused")
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels.get("service", "pbft") == "pbft"
    }
