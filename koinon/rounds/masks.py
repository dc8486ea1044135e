"""The rules of mode `masked` (koinon.privacy.masking): who announced masks, who confirmed the accepted set, and who
revealed shares afterwards. Nodes check for themselves what protects them (`vouching`); here is order, and the same
signatures, so that an honest committee shows nobody what its nodes would refuse.

    announcing → training   when all invited nodes announced, or enough of them by the announcement deadline
    closed                  the accepted nodes confirm the set; when t did, they reveal; t reveals open the sum

What nodes announce and reveal is kept beside the task, for its current round only: it is large.
"""

from __future__ import annotations

from collections.abc import Sequence

from koinon.encoding import Digest, Message
from koinon.errors import Unproven
from koinon.privacy.masking import threshold, usable_key
from koinon.signing import Domain
from koinon.wire import announced_digest

from .operations import AnnounceMasks, ConfirmSet, RevealShares, TaskSpec
from .rules import refuse
from .state import OPEN_PHASES, MaskBoard, Round, State, Task
from .vouching import accepted_set, cohort_digest, mask_notice, require_signed

MODE = "masked"
INVITED_MAX = 256
"""An announcement has 180 bytes for each invited node and must fit an operation."""


def require_fits(spec: TaskSpec) -> None:
    if spec.mode == MODE and spec.cohort_max > INVITED_MAX:
        refuse("cohort", f"mode {MODE} invites at most {INVITED_MAX} nodes, not {spec.cohort_max}")


def first_phase(state: State, identity: Digest, task: Task, cohort: Sequence[bytes]) -> str:
    """The phase in which a new round of the task begins."""
    if task.spec.mode != MODE:
        return "training"
    state.boards[identity] = MaskBoard(cohort=cohort_digest(state.members, cohort))
    return "announcing"


def announcement_deadline_ms(round_: Round) -> int:
    """A quarter of the round's time."""
    return round_.opened_ms + (round_.deadline_ms - round_.opened_ms) // 4


def updates_needed(task: Task, round_: Round) -> int:
    """How many updates close a round: in this mode at least as many as can take the masks off again."""
    least = task.spec.cohort_min
    return max(least, threshold(len(round_.cohort))) if task.spec.mode == MODE else least


def announce(state: State, domain: Domain, task: Task, round_: Round, sender: bytes, operation: AnnounceMasks) -> None:
    said = operation.announcement
    if sender not in round_.cohort:
        refuse("not-invited", f"0x{sender.hex()} is not in the cohort of round {round_.number}")
    if round_.phase != "announcing" or sender in round_.announced:
        refuse("masks", f"round {round_.number} is {round_.phase}, or 0x{sender.hex()} announced before")
    if len(said.shares) != len(round_.cohort) or not usable_key(said.public_key):
        refuse("masks", f"an announcement has shares for {len(round_.cohort)} nodes and a usable key")
    board = state.boards[operation.task]
    notice = mask_notice(operation.task, round_, board.cohort, said)
    _require_own(domain, notice, operation.signature, sender, "the announcement for this round and cohort")
    board.announced[sender], board.signatures[sender] = said, operation.signature
    round_.announced = (*round_.announced, sender)
    if len(round_.announced) == len(round_.cohort):
        _begin_training(board, round_)
    task.version += 1


def end_announcing(state: State, identity: Digest, round_: Round) -> bool:
    """At the announcement deadline: whether there are enough announcements to go on with."""
    deadline_ms = announcement_deadline_ms(round_)
    if state.time_ms <= deadline_ms:
        refuse("too-early", f"{deadline_ms - state.time_ms} ms to the deadline of announcements")
    if len(round_.announced) < threshold(len(round_.cohort)):
        return False
    _begin_training(state.boards[identity], round_)
    return True


def _begin_training(board: MaskBoard, round_: Round) -> None:
    round_.phase = "training"
    board.fixed = announced_digest(board.cohort, board.announced)


def confirm(state: State, domain: Domain, task: Task, round_: Round, sender: bytes, operation: ConfirmSet) -> None:
    if round_.phase != "closed" or sender not in round_.submissions or sender in round_.confirmed:
        refuse("masks", f"round {round_.number} is {round_.phase}, or 0x{sender.hex()} has nothing to confirm")
    said = accepted_set(operation.task, round_, state.boards[operation.task].fixed)
    _require_own(domain, said, operation.signature, sender, "the confirmation of this accepted set")
    round_.confirmed[sender] = operation.signature
    task.version += 1


def _require_own(domain: Domain, message: Message, signature: bytes, sender: bytes, what: str) -> None:
    try:
        require_signed(domain, message, signature, sender, what)
    except Unproven as error:
        refuse("masks", error.message)


def reveal(state: State, task: Task, round_: Round, sender: bytes, operation: RevealShares) -> None:
    if round_.phase != "closed" or sender not in round_.submissions or sender in round_.revealed:
        refuse("masks", f"round {round_.number} is {round_.phase}, or 0x{sender.hex()} has nothing to reveal")
    if not round_.agreed:
        refuse("masks", f"{len(round_.confirmed)} nodes confirmed the set of round {round_.number}: too few to reveal")
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
            if round_ is not None:
                round_.confirmed = {}
