from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from koinon.config import NodeSettings
from koinon.errors import ConfigError, TrainingError
from koinon.learning.parameters import from_arrays
from node.apps import App, scalar
from node.participation import millionths

GOOD = """
import numpy as np

class Client:
    def __init__(self, context):
        self.context = context
    def get_parameters(self, config):
        return [np.zeros((2, 3), np.float32), np.ones(4, np.float32)]
    def fit(self, parameters, config):
        return [p + config["step"] for p in parameters], 5, {"loss": 0.5}
    def evaluate(self, parameters, config):
        return 0.25, 3, {"accuracy": 0.75, "partition": self.context.node_config["partition-id"]}

def client_fn(context):
    return Client(context)
"""
MODEL = from_arrays([np.zeros((2, 3), np.float32), np.ones(4, np.float32)])


def build(folder: Path, source: str, attribute: str = "client_fn") -> App:
    (folder / "client.py").write_text(source)
    settings = NodeSettings(apps={"mine": f"client.py:{attribute}"}, partition=2, partitions=5)
    return App.build("mine", settings, folder, node=bytes(20), config={"note": "hello"})


def patched(method: str, body: str) -> str:
    return GOOD + f"\ndef other(self, *args):\n    {body}\nClient.{method} = other\n"


def test_an_app_trains_and_measures(tmp_path: Path) -> None:
    app = build(tmp_path, GOOD)
    fitted = app.fit(app.initial({}), {"step": 2.0})
    assert fitted.examples == 5
    assert fitted.loss == 0.5
    assert fitted.parameters.vector().tolist() == [2.0] * 6 + [3.0] * 4
    seen = app.evaluate(fitted.parameters, {})
    assert (seen.loss, seen.accuracy, seen.examples) == (0.25, 0.75, 3)


def test_an_app_is_told_its_partition_and_the_tasks_config(tmp_path: Path) -> None:
    client: Any = build(tmp_path, GOOD)._client
    assert client.context.node_config == {"partition-id": 2, "num-partitions": 5, "data-dir": ""}
    assert client.context.run_config == {"note": "hello"}


@pytest.mark.parametrize(
    "wrapping",
    [
        "class Wrapped: pass\ndef made(c):\n    w = Wrapped(); w.numpy_client = Client(c); return w",
        "made = Client",
        "def made(c):\n    return type('Bare', (Client,), {'__init__': lambda self: setattr(self, 'context', c)})",
    ],
    ids=["Flower's to_client()", "a class", "a function that returns a class"],
)
def test_an_app_may_have_flowers_other_shapes(tmp_path: Path, wrapping: str) -> None:
    app = build(tmp_path, GOOD + "\n" + wrapping + "\n", "made")
    assert app.initial({}).dimension == 10


def test_a_module_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "a_neighbour_of_the_app.py").write_text("STEP = 3")
    assert build(tmp_path, "import a_neighbour_of_the_app\n" + GOOD).name == "mine"


def test_tensors_are_named_when_the_app_names_them(tmp_path: Path) -> None:
    named = patched("parameter_names", "return ['weight', 'bias']")
    assert [tensor.name for tensor in build(tmp_path, named).initial({}).tensors] == ["weight", "bias"]
    with pytest.raises(TrainingError, match="does not name 2 arrays"):
        build(tmp_path, patched("parameter_names", "return ['weight']")).initial({})


def test_an_app_that_the_operator_did_not_configure_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    settings = NodeSettings(apps={"digits": "digits.py:client_fn"})
    with pytest.raises(ConfigError, match="runs no app called 'digit'") as caught:
        App.build("digit", settings, tmp_path, node=bytes(20), config={})
    assert "did you mean digits?" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="runs no app called"):
        App.build("evil.py:client_fn", settings, tmp_path, node=bytes(20), config={})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("client.py", "is not"),
        (":client_fn", "is not"),
        ("missing.py:client_fn", "no file"),
        ("client.py:nothing", "no callable 'nothing'"),
        ("client.py:np", "no callable 'np'"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "client.py").write_text(GOOD)
    with pytest.raises(ConfigError, match=message):
        App.build("mine", NodeSettings(apps={"mine": target}), tmp_path, node=bytes(20), config={})


@pytest.mark.parametrize("source", ["import no_such_module_anywhere", "this is not python", "raise SystemExit(3)"])
def test_a_module_that_does_not_import_is_a_training_error(tmp_path: Path, source: str) -> None:
    with pytest.raises(TrainingError, match="importing it raised") as caught:
        build(tmp_path, source)
    assert caught.value.__cause__ is not None


def test_a_client_without_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no fit"):
        build(tmp_path, GOOD + "\ndel Client.fit\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ZeroDivisionError('oops')", "fit raised ZeroDivisionError: oops"),
        ("import sys; sys.exit(1)", "fit raised SystemExit"),
        ("return None", "must return three values"),
        ("return [], 1", "must return three values"),
        ("return args[0], 1, None", "must return three values"),
        ("return args[0][:1], 1, {}", "fit returned shapes"),
        ("return [np.zeros((3, 2), np.float32), args[0][1]], 1, {}", "fit returned shapes"),
        ("return [p * float('nan') for p in args[0]], 1, {}", "NaN or infinity"),
        ("return [p / 0 for p in args[0]], 1, {}", "NaN or infinity"),
        ("return [p.astype(int) for p in args[0]], 1, {}", "int64"),
        ("return args[0], 0, {}", "0 as its number of examples"),
        ("return args[0], 2.5, {}", "2.5 as its number of examples"),
        ("return 'weights', 1, {}", "must return a list of arrays"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_whatever_fit_does_wrongly_is_a_training_error(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build(tmp_path, patched("fit", body)).fit(MODEL, {})


@pytest.mark.parametrize(
    "body", ["return 0.1, 3, {}", "return 0.1, 3, {'accuracy': 1.5}", "return 0.1, 3, {'accuracy': float('nan')}"]
)
def test_an_evaluation_without_an_accuracy_is_a_training_error(tmp_path: Path, body: str) -> None:
    with pytest.raises(TrainingError, match="accuracy"):
        build(tmp_path, patched("evaluate", body)).evaluate(MODEL, {})


def test_fit_cannot_alter_the_model_that_it_was_given(tmp_path: Path) -> None:
    before = MODEL.blob()
    app = build(tmp_path, patched("fit", "args[0][0][:] = 9; return args[0], 1, {}"))
    assert app.fit(MODEL, {}).parameters.vector()[0] == 9
    assert MODEL.blob() == before


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("0.05", 0.05), ("true", True), ("false", False), ("adam", "adam"), ("", "")]
)
def test_config_texts_become_what_the_user_wrote(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_a_loss_that_is_no_number_counts_as_the_largest() -> None:
    assert millionths(float("nan"), low=0, high=10) == 10
    assert millionths(float("inf"), low=0, high=10) == 10
    assert millionths(-1.0, low=0, high=10) == 0
    assert millionths(0.25) == 250_000
