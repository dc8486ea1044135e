"""A real replica on its real files (journal, archive, snapshots), killed between any two effects: it keeps its word.

Effects are performed one by one, as strictly as the shell may, and the crash takes all that was not written before it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from koinon.wire import CheckpointCertificate, Phase, Vote
from pbft.certificates import batch_digest
from pbft.engine import Disk, Written
from pbft.events import CatchUp, Committed, Effect, Persist, Send, StableCheckpoint
from pbft.messages import Ballot, CheckpointVote, PrePrepare, SignedNewView, SignedViewChange
from tests.unit.pbft.bench import Bench, of, said, voted


def life_of_a_backup() -> tuple[Bench, list[Effect]]:
    """Replica 1 executes five slots (a checkpoint becomes stable at 4), prepares 6, accepts 7, leaves view 0 for its
    own view 1, which begins, and orders there."""
    bench = Bench(1)
    effects: list[Effect] = []
    for sequence in range(1, 6):
        effects += bench.order(sequence, bench.batch(bench.request(sequence)))
        if sequence == 4:
            (own,) = said(CheckpointVote, effects)
            for who in bench.others():
                effects += bench.receive(who, bench.checkpoint(who, 4, own.checkpoint.state))
    prepared, accepted = bench.batch(bench.request(6)), bench.batch(bench.request(7))
    effects += bench.receive(0, bench.pre_prepare(6, prepared), bench.pre_prepare(7, accepted))
    for who in (2, 3):
        effects += bench.receive(who, bench.prepare(who, 6, prepared))
    effects += bench.wait(4_000)
    changes = [bench.view_change(who, 1, stable=of(StableCheckpoint, effects)[0].certificate) for who in (2, 3)]
    effects += bench.receive(2, changes[0])
    effects += bench.receive(3, changes[1])
    effects += bench.ask(bench.request(8, client=1))
    effects += bench.wait(500)
    return bench, effects


def survivor(folder: Path, effects: list[Effect]) -> tuple[Bench, Disk]:
    """What a restart makes of the files that these effects left."""
    disk = Disk(folder)
    for effect in effects:
        if isinstance(effect, Written):
            disk.write([effect])
    disk.close()
    again, reopened = Bench(1), Disk(folder)
    again.replica.step(reopened.recovered(again.now_ms))
    return again, reopened


def test_the_life_has_every_kind_of_word_in_it() -> None:
    bench, effects = life_of_a_backup()
    assert bench.replica.view == 1
    assert bench.replica.active
    assert of(StableCheckpoint, effects)
    assert said(SignedViewChange, effects)
    assert [message.sequence for message in said(PrePrepare, effects)] != []
    assert {vote.sequence for vote in voted(Phase.PREPARE, effects)} == {1, 2, 3, 4, 5, 6, 7}
    assert 6 in {vote.sequence for vote in voted(Phase.COMMIT, effects)}


def test_a_replica_killed_between_any_two_effects_stands_by_every_word_that_it_sent(tmp_path: Path) -> None:
    _, effects = life_of_a_backup()
    points = [point for point, effect in enumerate(effects) if isinstance(effect, Written | Send)]
    for point in (*points, len(effects)):
        before = effects[:point]
        again, disk = survivor(tmp_path / str(point), before)
        replica = again.replica
        for change in said(SignedViewChange, before):
            assert replica.view >= change.message.view
        for begun in said(SignedNewView, before):
            assert replica.view > begun.message.view or (replica.active, replica._new_view) == (True, begun)
        for ballot in said(Ballot, before):
            vote = ballot.vote
            assert replica.view >= vote.view
            if vote.sequence <= replica.stable:
                continue
            slot = replica.log.slot(vote.sequence)
            if vote.phase == Phase.COMMIT:
                assert slot.proof is not None
                assert (slot.proof.digest, slot.proof.view >= vote.view) == (vote.digest, True)
            if vote.view == replica.view and replica.active:
                assert slot.votes(vote.phase)[1].vote == vote
        for message in said(PrePrepare, before):
            if message.view == replica.view and replica.active and message.sequence > replica.stable:
                assert replica.log.slot(message.sequence).pre_prepare() == message
        disk.close()


def test_a_replica_killed_between_any_two_effects_signs_nothing_that_contradicts_what_it_sent(tmp_path: Path) -> None:
    _, effects = life_of_a_backup()
    points = [point for point, effect in enumerate(effects) if isinstance(effect, Written | Send)]
    for point in (*points, len(effects)):
        before = effects[:point]
        again, disk = survivor(tmp_path / str(point), before)
        given = {(vote.phase, vote.view, vote.sequence): vote.digest for vote in _votes(before)}
        after: list[Effect] = []
        for sequence in range(1, 10):
            other = again.batch(again.request(100 + sequence, client=2))
            after += again.receive(0, again.pre_prepare(sequence, other))
            for who in again.others()[1:]:
                after += again.receive(who, again.prepare(who, sequence, other))
        after += again.ask(again.request(200, client=3))
        after += again.wait(300)
        for vote in _votes(after):
            assert given.get((vote.phase, vote.view, vote.sequence), vote.digest) == vote.digest
        disk.close()


@pytest.mark.parametrize("lost", [1, 40, 10_000])
def test_a_torn_last_write_loses_only_what_was_never_said(tmp_path: Path, lost: int) -> None:
    _, effects = life_of_a_backup()
    points = [point for point, effect in enumerate(effects) if isinstance(effect, Written)]
    for point in points:
        before = effects[: point + 1]
        folder = tmp_path / str(point)
        disk = Disk(folder)
        sizes = [disk.journal.size_bytes]
        for effect in before:
            if isinstance(effect, Written):
                disk.write([effect])
                sizes.append(disk.journal.size_bytes)
        disk.close()
        if isinstance(before[-1], StableCheckpoint) or sizes[-1] == sizes[-2]:
            continue  # replaced atomically, or not the journal's
        data = (folder / "journal").read_bytes()
        (folder / "journal").write_bytes(data[: max(sizes[-2], sizes[-1] - lost)])
        reopened = Disk(folder)
        assert reopened.journal.size_bytes == sizes[-2]
        Bench(1).replica.step(reopened.recovered(Bench(1).now_ms))
        reopened.close()


def test_a_replica_alone_executes_what_its_journal_has_and_its_archive_lost() -> None:
    """The archive is synced at checkpoints only, and nobody else sends this replica its own commit again."""
    bench = Bench(0, 1)
    records = [effect.record for effect in of(Persist, bench.ask(bench.request(1)))]
    again = Bench(0, 1)
    again.restart(*records)
    effects = again.ask(again.request(2))
    assert [one.entry.sequence for one in of(Committed, effects)] == [2]
    assert again.replica.executed == 2


def test_a_state_below_the_stable_checkpoint_is_on_disk_before_entries_are_archived_above_it(tmp_path: Path) -> None:
    """Otherwise a crash leaves an archive with a gap and nothing to begin behind the gap."""
    ahead, entries, certificates, snapshots = Bench(2), [], {}, {}
    for sequence in range(1, 10):
        entries += [one.entry for one in of(Committed, ahead.order(sequence, ahead.batch(ahead.request(sequence))))]
        if sequence in (4, 8):
            checkpoint = ahead.replica._checkpoint_votes[2][sequence].checkpoint
            snapshots[sequence] = ahead.replica._snapshots[sequence]
            votes = [ahead.checkpoint(who, sequence, checkpoint.state) for who in (0, 1, 3)]
            signatures = tuple(vote.signature for vote in votes)
            certificates[sequence] = CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)
            ahead.receive(0, votes[0])
            ahead.receive(1, votes[1])
    behind = Bench(1)
    effects = behind.replica.step(CatchUp(behind.now_ms, 2, tuple(entries[:2])))
    effects += behind.receive(3, certificates[8])
    effects += behind.replica.step(CatchUp(behind.now_ms, 2, (), certificates[4], snapshots[4]))
    effects += behind.replica.step(CatchUp(behind.now_ms, 2, tuple(entries[4:6])))
    assert (behind.replica.executed, behind.replica.stable) == (6, 8)
    again, disk = survivor(tmp_path, effects)
    assert again.replica.executed == 6
    more = again.replica.step(CatchUp(again.now_ms, 2, tuple(entries[6:])))
    disk.write([effect for effect in more if isinstance(effect, Written)])
    assert again.replica.executed == 9
    disk.close()


def _votes(effects: list[Effect]) -> list[Vote]:
    ballots = [ballot.vote for ballot in said(Ballot, effects)]
    return ballots + [
        Vote(phase=Phase.PRE_PREPARE, epoch=0, view=one.view, sequence=one.sequence, digest=batch_digest(one.batch))
        for one in said(PrePrepare, effects)
    ]
