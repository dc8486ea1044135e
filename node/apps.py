"""The user's own module, in the shape that Flower users know.

config.toml's `[node.apps]` maps an app's name to "path/to/file.py:client_fn" or "package.module:client_fn". A task
names an app; a node runs only what its own operator configured. `client_fn(context)` returns an object with

    get_parameters(config) -> list of float arrays
    fit(parameters, config) -> (parameters, num_examples, metrics)
    evaluate(parameters, config) -> (loss, num_examples, metrics with "accuracy")

and, if it likes, `parameter_names() -> list of str`, which name the tensors in exported models. Flower's own objects do
as well: a NumPyClient, what its `to_client()` returns, or a client class in place of `client_fn`.

Whatever the user's code raises or returns wrongly becomes a TrainingError; it never ends the agent.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from koinon.config import NodeSettings
from koinon.errors import ConfigError, TrainingError
from koinon.learning.parameters import Parameters, from_arrays

METHODS = ("get_parameters", "fit", "evaluate")
T = TypeVar("T")
Scalar = int | float | bool | str


@dataclass
class AppContext:
    """Flower's Context: what a client may know of its node and of the run."""

    node_id: int
    node_config: dict[str, Scalar]
    run_config: dict[str, Scalar]
    run_id: int = 0
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    parameters: Parameters
    examples: int
    loss: float


@dataclass(frozen=True)
class Measured:
    loss: float
    accuracy: float
    examples: int


def scalar(text: str) -> Scalar:
    """A task's config value as the user wrote it in TOML: integer, float, boolean or text."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def load(settings: NodeSettings, name: str, home: Path) -> Callable[..., Any]:
    """The callable (or class) that `[node.apps]` names for app `name`.

    ConfigError when the operator never configured it or it cannot be found, TrainingError when importing it fails.
    """
    where = settings.apps.get(name)
    if where is None:
        near = difflib.get_close_matches(name, settings.apps, n=1)
        known = f"did you mean {near[0]}?" if near else f"configured: {', '.join(sorted(settings.apps)) or 'none'}"
        raise ConfigError(
            f"this node runs no app called {name!r}",
            hint=f'{known}. To offer it, add to config.toml: [node.apps] {name} = "file.py:client_fn"',
        )
    target, separator, attribute = where.rpartition(":")
    if not separator or not target or not attribute:
        raise ConfigError(
            f'app {name} = "{where}" is not "file.py:client_fn" or "package.module:client_fn"',
            hint="NAME=file.py:client_fn in [node.apps] of config.toml",
        )
    found = getattr(_import(name, target, home), attribute, None)
    if not callable(found):
        raise ConfigError(
            f"app {name}: {target} has no callable {attribute!r}",
            hint="name the function that makes the client: file.py:client_fn",
        )
    return found  # type: ignore[no-any-return]


def _import(name: str, target: str, home: Path) -> ModuleType:
    if not target.endswith(".py"):
        return _guarded(name, "importing it", lambda: importlib.import_module(target))
    path = (home / target).resolve()
    if not path.is_file():
        raise ConfigError(
            f"app {name}: no file {path}",
            hint="a path in [node.apps] of config.toml is relative to the home: give it in full",
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the module may import its neighbours
    label = f"koinon_app_{''.join(c if c.isalnum() else '_' for c in name)}"
    spec = importlib.util.spec_from_file_location(label, path)
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"app {name}: {path} is not a Python module", hint="name a file that ends in .py, or an installed module"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    loader = spec.loader
    _guarded(name, "importing it", lambda: loader.exec_module(module))
    return module


class App:
    """One app of this node, ready to train. All methods block and run the user's code; call them in a thread."""

    def __init__(self, name: str, client: Any) -> None:
        self.name = name
        self._client = client

    @classmethod
    def build(cls, name: str, settings: NodeSettings, home: Path, *, node: bytes, config: Mapping[str, Scalar]) -> App:
        """Load the module and make its client. Raises ConfigError or TrainingError."""
        factory = load(settings, name, home)
        context = AppContext(
            node_id=int.from_bytes(node[:8], "big"),
            node_config={
                "partition-id": settings.partition,
                "num-partitions": settings.partitions,
                "data-dir": str((home / settings.data_dir).resolve()) if settings.data_dir else "",
            },
            run_config=dict(config),
        )
        made = _guarded(name, "client_fn", lambda: _call(factory, context))
        if isinstance(made, type):
            made = _guarded(name, "client_fn", made)
        client = getattr(made, "numpy_client", made)
        missing = [method for method in METHODS if not callable(getattr(client, method, None))]
        if missing:
            raise TrainingError(
                f"app {name}: {type(client).__name__} has no {', '.join(missing)}",
                hint="return a NumPyClient: get_parameters, fit and evaluate",
            )
        return cls(name, client)

    def initial(self, config: Mapping[str, Scalar]) -> Parameters:
        """The model that a task starts from."""
        arrays = _guarded(self.name, "get_parameters", lambda: self._client.get_parameters(dict(config)))
        given = _arrays(self.name, "get_parameters", arrays)
        if not given:
            raise TrainingError(f"app {self.name}: get_parameters returned no arrays")
        names = getattr(self._client, "parameter_names", None)
        labels = list(_guarded(self.name, "parameter_names", names)) if callable(names) else None
        if labels is not None and (len(labels) != len(given) or not all(isinstance(each, str) for each in labels)):
            raise TrainingError(f"app {self.name}: parameter_names does not name {len(given)} arrays")
        return from_arrays(given, labels)

    def fit(self, parent: Parameters, config: Mapping[str, Scalar]) -> Fitted:
        """Train from `parent`. TrainingError when the code fails or its answer does not fit the model."""
        answer = _guarded(self.name, "fit", lambda: self._client.fit(_writable(parent), dict(config)))
        arrays, examples, metrics = _triple(self.name, "fit", answer)
        trained = _arrays(self.name, "fit", arrays)
        expected = [tensor.shape for tensor in parent.tensors]
        if [array.shape for array in trained] != expected:
            raise TrainingError(
                f"app {self.name}: fit returned shapes {[array.shape for array in trained]}, the model has {expected}",
                hint="return the same arrays, in the same order, as get_parameters",
            )
        names = [tensor.name for tensor in parent.tensors]
        parameters = from_arrays([np.asarray(array) for array in trained], names)
        return Fitted(parameters, _count(self.name, "fit", examples), _number(metrics, "loss", 0.0))

    def evaluate(self, model: Parameters, config: Mapping[str, Scalar]) -> Measured:
        """Measure `model` on this node's held-out data. TrainingError as with `fit`."""
        answer = _guarded(self.name, "evaluate", lambda: self._client.evaluate(_writable(model), dict(config)))
        loss, examples, metrics = _triple(self.name, "evaluate", answer)
        accuracy = _number(metrics, "accuracy", float("nan"))
        if not 0.0 <= accuracy <= 1.0:
            raise TrainingError(
                f"app {self.name}: evaluate returned accuracy {accuracy}",
                hint='the third value is a dictionary with "accuracy" in 0..1',
            )
        return Measured(_number({"loss": loss}, "loss", 0.0), accuracy, _count(self.name, "evaluate", examples))


# --- whatever the user's code returns ----------------------------------------------------------------------------


def _call(factory: Callable[..., Any], context: AppContext) -> Any:
    if isinstance(factory, type):
        wanted = [
            each
            for each in inspect.signature(factory).parameters.values()
            if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        return factory(context) if wanted else factory()
    return factory(context)


def _guarded(name: str, what: str, call: Callable[[], T]) -> T:
    """Run the user's code; whatever it raises (also SystemExit) becomes a TrainingError with the cause attached."""
    try:
        return call()
    except (TrainingError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise TrainingError(
            f"app {name}: {what} raised {type(error).__name__}: {error}"[:900],
            hint="the traceback is in the node's log",
        ) from error


def _writable(parameters: Parameters) -> list[NDArray[np.floating]]:
    return [array.astype(array.dtype.newbyteorder("=")) for array in parameters.arrays()]


def _triple(name: str, what: str, answer: Any) -> tuple[Any, Any, Mapping[str, Any]]:
    if not isinstance(answer, tuple | list) or len(answer) != 3 or not isinstance(answer[2], Mapping):
        raise TrainingError(f"app {name}: {what} must return three values, the last a dictionary")
    return answer[0], answer[1], answer[2]


def _arrays(name: str, what: str, arrays: Any) -> list[NDArray[Any]]:
    if not isinstance(arrays, Sequence) or isinstance(arrays, str | bytes):
        raise TrainingError(f"app {name}: {what} must return a list of arrays, not {type(arrays).__name__}")
    return [_guarded(name, what, lambda each=each: np.asarray(each)) for each in arrays]  # type: ignore[misc]


def _count(name: str, what: str, examples: Any) -> int:
    if not isinstance(examples, int | np.integer) or isinstance(examples, bool) or examples < 1:
        raise TrainingError(f"app {name}: {what} returned {examples!r} as its number of examples")
    return int(examples)


def _number(metrics: Mapping[str, Any], key: str, default: float) -> float:
    try:
        return float(metrics.get(key, default))
    except (TypeError, ValueError):
        return default
