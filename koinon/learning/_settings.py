"""Reading a strategy's settings from the (key, value) texts of a task."""

from __future__ import annotations

from koinon.errors import ConfigError


def number(config: dict[str, str], key: str, default: float, *, low: float, high: float) -> float:
    """The setting `key` as a float in [low, high]; ConfigError otherwise."""
    text = config.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{key} = {text!r} is not a number") from None
    if not low <= value <= high:
        raise ConfigError(f"{key} = {text} lies outside {low:g}..{high:g}")
    return value


def whole(config: dict[str, str], key: str, default: int, *, low: int, high: int) -> int:
    """The setting `key` as an integer in [low, high]; ConfigError otherwise."""
    value = number(config, key, default, low=low, high=high)
    if value != int(value):
        raise ConfigError(f"{key} = {config[key]} is not a whole number")
    return int(value)
