"""TASK.toml: what a user asks for, with readable units. It becomes a TaskSpec once the initial model is known."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from koinon.config import Setting, convert
from koinon.encoding import decode, encode
from koinon.errors import ConfigError, Malformed
from koinon.learning import STRATEGIES, strategy
from koinon.privacy import MODES
from koinon.rounds.operations import COHORT_MAX, MILLION, TaskSpec

COHORT_WITHOUT_REWARD = 128


class TaskFile(Setting, frozen=True):
    """`clip` and `norm_bound` in the model's units, `round_seconds` in seconds, `reward` in credits for each accepted
    update.

    `norm_bound` 0 means: 64 clips, or less where the model cannot reach that (TaskSpec.norm). `cohort_max` 0 means:
    128, or with a reward as many as are members now, so that the budget stays small.
    """

    app: str
    name: str = ""
    strategy: str = "fedavg"
    mode: str = "shares"
    rounds: int = 5
    clip: float = 1.0
    bits: int = 16
    norm_bound: float = 0.0
    validate: bool = True
    aligned: float | None = None
    noise_multiplier: float = 0.0
    l2_clip: float = 0.0
    delta: float = 1e-5
    commit: bool = False
    cohort_min: int = 3
    cohort_max: int = 0
    round_seconds: float = 120.0
    reward: int = 0
    config: dict[str, str | bool | int | float] = msgspec.field(default_factory=dict)

    def texts(self) -> dict[str, str]:
        """`config` as the law keeps it."""
        return {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in sorted(self.config.items())
        }

    def require_sane(self) -> None:
        """ConfigError before anything is trained, stored or paid: names that exist, settings that can work."""
        if self.mode not in MODES:
            raise ConfigError(f"no privacy mode is called {self.mode!r}", hint=f"one of: {', '.join(MODES)}")
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f"no strategy is called {self.strategy!r}", hint=f"one of: {', '.join(sorted(STRATEGIES))}"
            )
        strategy(self.strategy, self.texts())
        self.spec(bytes(32), 1, cohort_max=self.cohort_max or max(COHORT_WITHOUT_REWARD, self.cohort_min), nonce=0)

    def spec(self, initial_model: bytes, dimension: int, *, cohort_max: int, nonce: int) -> TaskSpec:
        """The TaskSpec; ConfigError for a value out of its bounds."""
        try:
            made = TaskSpec(
                name=self.name or self.app,
                app=self.app,
                mode=self.mode,
                strategy=self.strategy,
                rounds=self.rounds,
                initial_model=initial_model,
                dimension=dimension,
                clip=round(self.clip * MILLION),
                bits=self.bits,
                norm_bound=round(self.norm_bound * MILLION),
                validate=self.validate,
                aligned=None if self.aligned is None else round(self.aligned * MILLION),
                noise_multiplier=round(self.noise_multiplier * MILLION),
                l2_clip=round(self.l2_clip * MILLION),
                delta=round(self.delta * MILLION),
                commit=self.commit,
                cohort_min=self.cohort_min,
                cohort_max=cohort_max,
                round_ms=round(self.round_seconds * 1000),
                reward=self.reward,
                nonce=nonce,
                config=tuple(self.texts().items()),
            )
            return decode(TaskSpec, encode(made))
        except (Malformed, ValueError, OverflowError) as error:
            text = error.message if isinstance(error, Malformed) else str(error)
            raise ConfigError(f"the task cannot be: {text}", hint="its limits are in docs/cli.md") from None

    def cohort(self, active: int, balance: int) -> tuple[int, int]:
        """(cohort_max, budget) that `balance` credits can pay for all rounds; ConfigError when they cannot."""
        if not self.reward:
            return self.cohort_max or max(COHORT_WITHOUT_REWARD, self.cohort_min), 0
        wanted = self.cohort_max or min(max(active, self.cohort_min), COHORT_MAX)
        affordable = balance // (self.reward * self.rounds)
        size = min(wanted, affordable)
        if size < self.cohort_min:
            raise ConfigError(
                f"{self.rounds} rounds of at least {self.cohort_min} nodes at {self.reward} credits cost "
                f"{self.rounds * self.cohort_min * self.reward}; this node has {balance}",
                hint="lower reward or rounds, or get credits",
            )
        return size, size * self.reward * self.rounds


def load_task(path: Path) -> TaskFile:
    """Read TASK.toml. ConfigError, or UnknownKey naming the nearest key."""
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no task file {path}", hint="an example: examples/digits/task.toml") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="it is a TOML file: docs/cli.md, koinon submit"
        ) from None
    return convert(TaskFile, raw, str(path))


def default_task(apps: dict[str, str], home: Path) -> TaskFile:
    """The task for the first configured app: the task.toml beside its module if that names it, else the defaults."""
    if not apps:
        raise ConfigError(
            "no task file, and no app is configured", hint="koinon submit TASK.toml, or add one to [node.apps]"
        )
    name, target = next(iter(apps.items()))
    beside = (home / target.rpartition(":")[0]).parent / "task.toml"
    if target.rpartition(":")[0].endswith(".py") and beside.is_file():
        found = load_task(beside)
        if found.app == name:
            return found
    return TaskFile(app=name)


def changed(task: TaskFile, **values: object) -> TaskFile:
    """`task` with the command line's options where they are given."""
    given = {key: value for key, value in values.items() if value is not None}
    return msgspec.structs.replace(task, **given)
