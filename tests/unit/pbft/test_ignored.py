"""Every reason for which a correct message does not count: it is told and counted by that name, and nothing moves."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from koinon.wire import Phase
from pbft.certificates import batch_digest
from pbft.events import CatchUp, Ignored
from tests.unit.pbft.bench import Bench, of, voted
from tests.unit.pbft.hostile import VIEW, Shell, unmoved
from tests.unit.pbft.ignored_cases import changing
from tests.unit.pbft.ignored_state import CASES

PBFT = Path(__file__).parents[3] / "pbft"


def _reasons() -> set[str]:
    """Every reason that the core can give, read from its source; with * for what an f-string fills in."""
    found: set[str] = set()
    for path in PBFT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("_ignore", "Ignored") and len(node.args) == 2:
                found |= set(_texts(node.args[1]))
            if called == "_defer":
                found |= {text + end for text in _texts(node.args[2]) for end in ("-deferred", "-overflow")}
    return found


def _texts(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return _texts(node.body) + _texts(node.orelse)
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), _]):
            return [text + "*"]
    return []


REASONS = _reasons()


def test_every_reason_of_the_core_has_a_case_and_every_case_a_reason() -> None:
    given = {reason for reason, _ in CASES} | {"settled-otherwise"}
    assert len(REASONS) > 20
    assert not [reason for reason in REASONS if not any(fnmatchcase(one, reason) for one in given)]
    assert not [one for one in given if not any(fnmatchcase(one, reason) for reason in REASONS)]


@pytest.mark.parametrize(("reason", "what"), sorted(CASES))
def test_a_message_that_does_not_count_moves_nothing_and_is_counted(reason: str, what: str, shell: Shell) -> None:
    bench, event = CASES[reason, what]()
    if isinstance(event, CatchUp):
        bench.replica.step(CatchUp(bench.now_ms, 3))  # whatever comes, the pace of the primary is measured anew
    effects = unmoved(bench, event)
    assert [one.reason for one in of(Ignored, effects)] == [reason]
    assert {one.sender for one in of(Ignored, effects)} == {event.sender}  # type: ignore[union-attr]
    shell.blamed.clear()
    assert shell.counted(effects) == {reason: 1}
    assert not shell.blamed, "a correct replica may say it"


def _entering(bench: Bench, sequence: int) -> tuple[Bench, list[Ignored], list[int]]:
    """The new view 1 proposes another batch again, in slot `sequence`; what was ignored of it and voted for."""
    other = bench.batch(bench.request(6, client=6))
    changes = [bench.view_change(who, VIEW, bench.proof(sequence, other)) for who in (0, 1, 3)]
    effects = bench.receive(1, bench.new_view(VIEW, *changes))
    assert (bench.replica.view, bench.replica.active) == (VIEW, True)
    return bench, of(Ignored, effects), [vote.sequence for vote in voted(Phase.PREPARE, effects)]


def test_a_new_view_that_proposes_another_batch_for_a_settled_slot_gets_no_vote_for_it(shell: Shell) -> None:
    """More than f lied to get there; what was executed here stays."""
    bench = Bench(2)
    bench.order(1, batch := bench.batch(bench.request(1)))
    bench, ignored, votes = _entering(bench, 1)
    assert (ignored, votes) == ([Ignored(1, "settled-otherwise")], [])
    assert shell.counted(list(ignored)) == {"settled-otherwise": 1}
    slot = bench.replica.log.find(1)
    assert slot is not None
    assert slot.executed == batch_digest(batch)


def test_a_new_view_that_proposes_again_what_lies_above_a_handover_gets_no_vote_for_it(shell: Shell) -> None:
    _, ignored, votes = _entering(changing(), 6)
    assert ignored == [Ignored(1, "settled-otherwise"), *[Ignored(1, "above-handover")] * 2]
    assert votes == [2, 3, 4]
    assert shell.counted(list(ignored)) == {"settled-otherwise": 1, "above-handover": 2}
