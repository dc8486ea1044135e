"""More messages that do not count: about checkpoints, epochs, views, recovery, and what is handed on."""

from __future__ import annotations

from msgspec.structs import replace

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.wire import Checkpoint, CheckpointCertificate, CommittedBatch
from pbft.events import CatchUp, Event
from pbft.messages import (
    CheckpointVote,
    Recovering,
    RecoveryRequest,
    RecoveryResponse,
    Relay,
    SignedRecoveryRequest,
    Status,
)
from pbft.rejoin import RECOVERY_VIEWS_MAX
from tests.simulation.world import DOMAIN, signer
from tests.unit.pbft.bench import Bench
from tests.unit.pbft.hostile import VIEW, busy
from tests.unit.pbft.ignored_cases import CASES, case, four_slots, handed_over, heard, stable

__all__ = ["CASES"]


def _certificate(checkpoint: Checkpoint) -> CheckpointCertificate:
    signatures = tuple(signer("replica", who).sign(DOMAIN, checkpoint) for who in (0, 1, 3))
    return CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)


def _recovering() -> Bench:
    bench = Bench(2)
    bench.restart(Recovering(epoch=0, view=0, over=False))
    return bench


def _told(bench: Bench, *, later_ms: int = 0) -> RecoveryResponse:
    return RecoveryResponse(epoch=0, since_ms=bench.replica._since_ms + later_ms, view=0)


def _asked(who: int, view: int) -> SignedRecoveryRequest:
    asked = RecoveryRequest(epoch=0, since_ms=7, view=view)
    return SignedRecoveryRequest(message=asked, signature=signer("replica", who).sign(DOMAIN, asked))


# --- checkpoints and state


@case("old-checkpoint", "checkpoint vote")
def _() -> tuple[Bench, Event]:
    bench = stable()
    return heard(bench, bench.checkpoint(3, 4, b"\1" * 32))


@case("old-checkpoint", "checkpoint vote of no checkpoint")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.checkpoint(3, 5, b"\1" * 32))


@case("old-checkpoint", "checkpoint certificate")
def _() -> tuple[Bench, Event]:
    bench = stable()
    return heard(bench, bench.replica.certificate)


@case("duplicate", "checkpoint vote")
def _() -> tuple[Bench, Event]:
    bench = busy()
    bench.receive(3, vote := bench.checkpoint(3, 4, b"\1" * 32))
    return heard(bench, vote)


@case("other-checkpoint", "checkpoint vote")
def _() -> tuple[Bench, Event]:
    bench = busy()
    bench.receive(3, bench.checkpoint(3, 4, b"\1" * 32))
    return heard(bench, bench.checkpoint(3, 4, b"\2" * 32))


@case("old-snapshot", "snapshot")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    snapshot = four_slots(bench)
    old = Checkpoint(epoch=0, sequence=4, state=keccak(snapshot), next=ZERO_DIGEST)
    return bench, CatchUp(bench.now_ms, 3, (), _certificate(old), snapshot)


@case("gap", "entries")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    entry = CommittedBatch(epoch=0, view=0, sequence=2, batch=bench.batch(), signatures=())
    return bench, CatchUp(bench.now_ms, 3, (entry,))


# --- other epochs


@case("old-epoch", "status")
def _() -> tuple[Bench, Event]:
    bench = Bench(2, epoch=1)
    return heard(bench, Status(epoch=0, view=0, active=True, stable=0, executed=9))


@case("old-epoch", "recovery request")
def _() -> tuple[Bench, Event]:
    return heard(Bench(2, epoch=1), _asked(3, view=5))


@case("old-epoch", "recovery response")
def _() -> tuple[Bench, Event]:
    bench = Bench(2, epoch=1)
    bench.restart(Recovering(epoch=1, view=0, over=False))
    return heard(bench, _told(bench))


@case("later-epoch", "recovery request")
def _() -> tuple[Bench, Event]:
    later = replace(_asked(3, view=5), message=RecoveryRequest(epoch=1, since_ms=7, view=5))
    return heard(busy(), later)


@case("later-epoch", "recovery response")
def _() -> tuple[Bench, Event]:
    bench = _recovering()
    return heard(bench, replace(_told(bench), epoch=1))


def _of_epoch(epoch: int) -> CatchUp:
    checkpoint = Checkpoint(epoch=epoch, sequence=8, state=keccak(b"state"), next=ZERO_DIGEST)
    return CatchUp(Bench(2).now_ms, 3, (), _certificate(checkpoint), b"state")


case("later-epoch", "snapshot")(lambda: (Bench(2), _of_epoch(1)))
case("old-epoch", "snapshot")(lambda: (Bench(2, epoch=1), _of_epoch(0)))


@case("later-epoch", "entries behind a handover")
def _() -> tuple[Bench, Event]:
    bench = handed_over()
    entry = CommittedBatch(epoch=1, view=0, sequence=5, batch=bench.batch(), signatures=())
    return bench, CatchUp(bench.now_ms, 3, (entry,))


@case("epoch-ended", "commit")
def _() -> tuple[Bench, Event]:
    bench = handed_over()
    snapshot, following = bench.replica.execution.snapshot(), bench.replica._checkpoint_votes[2][4].checkpoint.next
    checkpoint = Checkpoint(epoch=0, sequence=4, state=keccak(snapshot), next=following)
    for who in (0, 1):
        vote = CheckpointVote(checkpoint=checkpoint, signature=signer("replica", who).sign(DOMAIN, checkpoint))
        bench.receive(who, vote)
    return heard(bench, bench.commit(3, 5, bench.batch()))


# --- view changes


@case("old-view-change", "view change")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.view_change(3, VIEW))


@case("duplicate", "view change")
def _() -> tuple[Bench, Event]:
    bench = busy()
    bench.receive(3, change := bench.view_change(3, 4))
    return heard(bench, change)


@case("old-new-view", "new view")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.new_view(VIEW, *(bench.view_change(who, VIEW) for who in (0, 1, 3))))


# --- recovery, statuses and relayed requests


@case("late-recovery-response", "recovery response to who asked nothing")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, _told(bench))


@case("late-recovery-response", "recovery response twice")
def _() -> tuple[Bench, Event]:
    bench = _recovering()
    bench.receive(3, _told(bench))
    assert "1 did" in bench.replica.waits_for
    return heard(bench, replace(_told(bench), view=9))


@case("late-recovery-response", "recovery response to an earlier start")
def _() -> tuple[Bench, Event]:
    bench = _recovering()
    return heard(bench, _told(bench, later_ms=-1))


@case("recovery-request", "our own recovery request")
def _() -> tuple[Bench, Event]:
    return heard(busy(), _asked(2, view=5))


@case("recovery-request", "recovery request to who recovers, too")
def _() -> tuple[Bench, Event]:
    return heard(_recovering(), _asked(3, view=5))


@case("recovery-too-often", "recovery request")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    for view in range(1, RECOVERY_VIEWS_MAX + 1):
        bench.receive(3, _asked(3, view=10**6))
        changes = [bench.view_change(who, view) for who in (0, 1, 3)]
        bench.receive(bench.committee.primary(view), bench.new_view(view, *changes))
        assert (bench.replica.view, bench.replica.active) == (view, True)
    return heard(bench, _asked(3, view=10**6))


@case("status-too-soon", "status")
def _() -> tuple[Bench, Event]:
    bench = busy()
    behind = Status(epoch=0, view=0, active=True, stable=0, executed=0)
    assert bench.receive(3, behind), "it is sent the new view"
    return heard(bench, behind)


@case("duplicate", "relay")
def _() -> tuple[Bench, Event]:
    bench = busy()
    bench.ask(request := bench.request(5))
    return heard(bench, Relay(request=request))


@case("recovery-request", "recovery request that was handed on for a view that is here")
def _() -> tuple[Bench, Event]:
    return heard(busy(), _asked(3, view=VIEW), sender=0)


@case("relayed-replayed", "relay")
def _() -> tuple[Bench, Event]:
    return heard(bench := busy(), Relay(request=bench.request(0)))


@case("relayed-unavailable", "relay")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    for number in range(1, bench.settings.pending_per_client_max + 1):
        bench.ask(bench.request(number))
    return heard(bench, Relay(request=bench.request(9)))


@case("relayed-unknown-signer", "relay")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, Relay(request=bench.request(5, b"stranger")))
