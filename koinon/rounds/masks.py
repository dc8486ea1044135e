"""The rules of mode `masked` (koinon.privacy.masking): who announced masks, and who revealed shares afterwards.

    announcing → training   when all invited nodes announced, or enough of them by the announcement deadline
    closed                  the accepted nodes reveal; with t reveals anybody opens the sum

What nodes announce and reveal is kept beside the task, for its current round only: it is large.
"""

from __future__ import annotations

from koinon.encoding import Digest
from koinon.privacy.masking import threshold, usable_key

from .operations import AnnounceMasks, RevealShares, TaskSpec
from .rules import refuse
from .state import OPEN_PHASES, MaskBoard, Round, State, Task

MODE = "masked"
INVITED_MAX = 256
"""An announcement has 180 bytes for each invited node and must fit an operation."""


def require_fits(spec: TaskSpec) -> None:
    if spec.mode == MODE and spec.cohort_max > INVITED_MAX:
        refuse("cohort", f"mode {MODE} invites at most {INVITED_MAX} nodes, not {spec.cohort_max}")


def first_phase(state: State, identity: Digest, task: Task) -> str:
    """The phase in which a new round of the task begins."""
    if task.spec.mode != MODE:
        return "training"
    state.boards[identity] = MaskBoard()
    return "announcing"


def announcement_deadline_ms(round_: Round) -> int:
    """A quarter of the round's time."""
    return round_.opened_ms + (round_.deadline_ms - round_.opened_ms) // 4


def updates_needed(task: Task, round_: Round) -> int:
    """How many updates close a round: in this mode at least as many as can take the masks off again."""
    least = task.spec.cohort_min
    return max(least, threshold(len(round_.cohort))) if task.spec.mode == MODE else least


def announce(state: State, task: Task, round_: Round, sender: bytes, operation: AnnounceMasks) -> None:
    said = operation.announcement
    if sender not in round_.cohort:
        refuse("not-invited", f"0x{sender.hex()} is not in the cohort of round {round_.number}")
    if round_.phase != "announcing" or sender in round_.announced:
        refuse("masks", f"round {round_.number} is {round_.phase}, or 0x{sender.hex()} announced before")
    if len(said.shares) != len(round_.cohort) or not usable_key(said.public_key):
        refuse("masks", f"an announcement has shares for {len(round_.cohort)} nodes and a usable key")
    state.boards[operation.task].announced[sender] = said
    round_.announced = (*round_.announced, sender)
    if len(round_.announced) == len(round_.cohort):
        round_.phase = "training"
    task.version += 1


def end_announcing(state: State, round_: Round) -> bool:
    """At the announcement deadline: whether there are enough announcements to go on with."""
    deadline_ms = announcement_deadline_ms(round_)
    if state.time_ms <= deadline_ms:
        refuse("too-early", f"{deadline_ms - state.time_ms} ms to the deadline of announcements")
    if len(round_.announced) < threshold(len(round_.cohort)):
        return False
    round_.phase = "training"
    return True


def reveal(state: State, task: Task, round_: Round, sender: bytes, operation: RevealShares) -> None:
    if round_.phase != "closed" or sender not in round_.submissions or sender in round_.revealed:
        refuse("masks", f"round {round_.number} is {round_.phase}, or 0x{sender.hex()} has nothing to reveal")
    if len(operation.reveal.shares) != len(round_.announced):
        refuse("masks", f"{len(operation.reveal.shares)} shares, where {len(round_.announced)} nodes announced")
    state.boards[operation.task].revealed[sender] = operation.reveal
    round_.revealed = (*round_.revealed, sender)
    task.version += 1


def forget_over(state: State) -> None:
    """Drop what belongs to rounds that are over: the log keeps it."""
    for identity in list(state.boards):
        task = state.tasks.get(identity)
        round_ = task.current() if task is not None else None
        if round_ is None or round_.phase not in OPEN_PHASES:
            del state.boards[identity]
