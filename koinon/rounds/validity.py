"""The law about validated updates: which bounds on a norm a task may ask for, and what becomes of those who hand in
false updates (docs/validation.md, sections 2 and 3)."""

from __future__ import annotations

from math import comb

from koinon.encoding import ZERO_DIGEST
from koinon.epochs import faulty_max
from koinon.errors import ConfigError
from koinon.privacy.validation.bounds import Bound
from koinon.wire import Fault

from .operations import NORMS_SUM_MAX, TaskSpec
from .rules import refuse
from .state import Round, Task

ROUNDING_MARGIN = 4
"""A norm bound is at least twice the norm of the worst rounding errors (their squares: one a coordinate)."""


def require_provable(spec: TaskSpec, replicas: int) -> None:
    """Rejected, with the reason, when no sound proof of the task's norm bound exists for this committee."""
    norm = spec.norm
    if not norm and spec.aligned is not None:
        refuse("unprovable", "an alignment is proved together with the norm, in mode shares")
    if not norm:
        return
    if norm**2 < ROUNDING_MARGIN * spec.dimension:
        refuse("unprovable", f"a norm bound of {norm} units is no larger than what rounding alone may add")
    if spec.carried_norm * spec.cohort_max > NORMS_SUM_MAX:
        carried = f"{spec.cohort_max} updates of norm {spec.carried_norm}"
        refuse("unprovable", f"the sum of {carried} does not fit into 32 bits")
    try:
        masks, aligned = comb(replicas, faulty_max(replicas)), spec.aligned is not None
        Bound.of(spec.coordinates, spec.carried_norm, masks, aligned=aligned)
    except ConfigError as error:
        refuse("unprovable", f"{error.message}; {error.hint}" if error.hint else error.message)


def previous_model(task: Task) -> bytes:
    """The model from which the last certified round started; 32 zero bytes when there is none."""
    return next((each.parent_model for each in reversed(task.rounds) if each.phase == "certified"), ZERO_DIGEST)


def bar(task: Task, round_: Round, fault: Fault, epoch: int) -> None:
    """The node is not invited again. Rejected unless the committee of `epoch` invited it and awaits its update."""
    if fault.node not in round_.cohort or round_.epoch != epoch:
        refuse("fault", f"0x{fault.node.hex()} was not invited to round {fault.round} by this committee")
    if fault.node in task.barred or fault.node in round_.submissions:
        refuse("fault", f"0x{fault.node.hex()} is barred already, or has an accepted update")
    task.barred[fault.node] = fault.round
    task.version += 1


def is_complete(task: Task, round_: Round, *, needed: int) -> bool:
    """Whether there are enough updates (`needed`) and none can come any more."""
    awaited = set(round_.announced or round_.cohort) - set(round_.submissions) - set(task.barred)
    return not awaited and len(round_.submissions) >= needed
