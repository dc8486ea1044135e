"""Aggregation as pure functions on arrays: one strategy a file, its paper cited. No torch, no clock, no I/O."""

from __future__ import annotations

from koinon.errors import ConfigError

from .fedavg import FedAvg
from .fedsgd import FedSGD
from .strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {"fedavg": FedAvg, "fedsgd": FedSGD}


def strategy(name: str, config: dict[str, str]) -> Strategy:
    """The strategy called `name`; ConfigError for an unknown name or a setting that it cannot work with."""
    if name not in STRATEGIES:
        raise ConfigError(f"no strategy {name!r}", hint=f"known strategies: {', '.join(sorted(STRATEGIES))}")
    return STRATEGIES[name].from_config(config)
