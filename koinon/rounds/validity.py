"""The law about validated updates: which bounds on a norm a task may ask for (docs/validation.md, section 3)."""

from __future__ import annotations

from math import comb

from koinon.epochs import faulty_max
from koinon.errors import ConfigError
from koinon.privacy.validation.bounds import Bound

from .operations import NORMS_SUM_MAX, TaskSpec
from .rules import refuse

ROUNDING_MARGIN = 4
"""A norm bound is at least twice the norm of the worst rounding errors (their squares: one a coordinate)."""


def require_provable(spec: TaskSpec, replicas: int) -> None:
    """Rejected, with the reason, when no sound proof of the task's norm bound exists for this committee."""
    norm = spec.norm
    if not norm:
        return
    if norm**2 < ROUNDING_MARGIN * spec.dimension:
        refuse("unprovable", f"a norm bound of {norm} units is no larger than what rounding alone may add")
    if norm * spec.cohort_max > NORMS_SUM_MAX:
        refuse("unprovable", f"the sum of {spec.cohort_max} updates of norm {norm} does not fit into 32 bits")
    try:
        Bound.of(spec.dimension, norm, comb(replicas, faulty_max(replicas)))
    except ConfigError as error:
        refuse("unprovable", error.message)
