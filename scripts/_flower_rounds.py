"""Flower's own whole rounds, with and without SecAgg+: the net, parts, training and rounds of scripts/bench_rounds.py.

Run by bench_rounds with a Python that has flwr and torch (`make bench-rounds`); of Koinon it imports the example's net
and `node.training`, which need nothing else. One simulation trains one model; its rounds are plain and secure by turns,
so that the machine is the same for both. The first WARM_UP of each are left out: they load code and data.

Everything is Flower's but one class: instead of Ray's actors, `Processes` runs the clients in one process a core, which
costs both kinds of round less. `secaggplus_mod` and `SecAggPlusWorkflow` have all clients as neighbours and a threshold
of two thirds; clipping at 8 and 22 bits are their defaults. Nothing is evaluated in either kind of round.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import statistics
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PARTITION_SEED = 2
WARM_UP = 2
ROW_BYTES = 1 + 3 * 32 * 32
KINDS = ("plain", "SecAgg+")
_TICKS = os.sysconf("SC_CLK_TCK")


@cache
def rows_of(data_dir: Path) -> Any:
    """All training rows, label first; uint8[50000, 3073]."""
    folder = next(
        each for each in (data_dir, data_dir / "cifar-10-batches-bin") if (each / "data_batch_1.bin").exists()
    )
    raw = [np.fromfile(folder / f"data_batch_{batch}.bin", np.uint8) for batch in range(1, 6)]
    return np.concatenate(raw).reshape(-1, ROW_BYTES)


@cache
def part_of(data_dir: Path, number: int, nodes: int) -> tuple[Any, Any]:
    """Images float32[n, 3, 32, 32] and labels int64[n] of one client, as examples/cifar10 shares them out."""
    rows = rows_of(data_dir)
    order = np.random.default_rng(PARTITION_SEED).permutation(len(rows))
    mine = rows[np.sort(np.array_split(order, nodes)[number])]
    images = mine[:, 1:].astype(np.float32)
    images /= 255
    return images.reshape(-1, 3, 32, 32), mine[:, 0].astype(np.int64)


_APPS: dict[str, Any] = {}


def client_app(options: argparse.Namespace) -> Any:
    """A ClientApp that trains, and follows SecAgg+ when the server speaks it."""
    flwr, mods = importlib.import_module("flwr.clientapp"), importlib.import_module("flwr.client.mod")
    base: Any = importlib.import_module("flwr.client").NumPyClient

    class Trainer(base):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            sys.path[:0] = [each for each in (str(ROOT), str(ROOT / "examples" / "cifar10")) if each not in sys.path]
            importlib.import_module("torch").set_num_threads(1)
            self.net = importlib.import_module("lenet").make_net()
            self.number = number

        def fit(self, parameters: Any, config: Any) -> Any:
            training = importlib.import_module("node.training")
            training.set_weights(self.net, parameters)
            images, labels = part_of(options.data_dir, self.number, options.nodes)
            training.train(
                self.net,
                images,
                labels,
                epochs=options.epochs,
                batch_size=options.batch_size,
                learning_rate=options.learning_rate,
                seed=self.number,
            )
            return training.get_weights(self.net), len(labels), {}

    def secure_if_asked(message: Any, context: Any, call_next: Any) -> Any:
        constants = importlib.import_module("flwr.common.secure_aggregation.secaggplus_constants")
        if constants.RECORD_KEY_CONFIGS in message.content.config_records:
            return mods.secaggplus_mod(message, context, call_next)
        return call_next(message, context)

    return flwr.ClientApp(
        client_fn=lambda context: Trainer(int(context.node_config["partition-id"])).to_client(),
        mods=[secure_if_asked],
    )


def answer(options: argparse.Namespace, message: Any, context: Any) -> tuple[Any, Any]:
    """A client's answer to one message, and its context after that; in a process of the pool."""
    if not _APPS:
        _APPS["client"] = client_app(options)
    return _APPS["client"](message=message, context=context), context


class Processes:
    """What the simulation asks of a backend (flwr.server.superlink.fleet.vce.backend.Backend), without Ray."""

    options: argparse.Namespace

    def __init__(self, config: Any) -> None:
        self.num_workers = os.cpu_count() or 1
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self.num_workers, mp_context=context)

    def build(self, app_fn: Any) -> None:
        """The processes make the app by themselves."""

    def is_worker_idle(self) -> bool:
        return True

    def process_message(self, message: Any, context: Any) -> tuple[Any, Any]:
        return self._pool.submit(answer, self.options, message, context).result()

    def terminate(self) -> None:
        self._pool.shutdown()


def server_app(options: argparse.Namespace, measured: dict[str, list[tuple[float, float]]]) -> Any:
    """A ServerApp whose rounds are plain and secure by turns; appends (seconds, processor seconds) of each."""
    flwr, server = importlib.import_module("flwr.serverapp"), importlib.import_module("flwr.server")
    workflows = importlib.import_module("flwr.server.workflow")
    plain = importlib.import_module("flwr.server.workflow.default_workflows").default_fit_workflow
    threshold = 2 * options.nodes // 3 + 1
    secure = workflows.SecAggPlusWorkflow(
        num_shares=options.nodes, reconstruction_threshold=threshold, max_weight=50_000
    )
    app = flwr.ServerApp()

    def fit(grid: Any, context: Any) -> None:
        number = sum(map(len, measured.values()))
        kind = KINDS[number % 2]
        seconds, spent = time.perf_counter(), cpu_seconds()
        (plain if kind == "plain" else secure)(grid, context)
        measured[kind].append((time.perf_counter() - seconds, cpu_seconds() - spent))

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "cifar10")]
        weights = importlib.import_module("node.training").get_weights(importlib.import_module("lenet").make_net())
        strategy = server.strategy.FedAvg(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=options.nodes,
            min_available_clients=options.nodes,
            initial_parameters=importlib.import_module("flwr.common").ndarrays_to_parameters(weights),
        )
        rounds = len(KINDS) * (options.rounds + WARM_UP)
        legacy = server.LegacyContext(context=context, config=server.ServerConfig(num_rounds=rounds), strategy=strategy)
        workflows.DefaultWorkflow(fit_workflow=fit)(grid, legacy)

    return app


def cpu_seconds() -> float:
    """Processor seconds of this process and all that it started (Linux)."""
    pending, total = [os.getpid()], 0.0
    while pending:
        pid = pending.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    for name in ("nodes", "rounds", "epochs", "batch-size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    options = parser.parse_args()
    measured: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0"}
    run = importlib.import_module("flwr.simulation.run_simulation").run_simulation
    Processes.options = options
    stand_in = types.ModuleType("raybackend")
    stand_in.RayBackend = Processes  # type: ignore[attr-defined]
    sys.modules["flwr.server.superlink.fleet.vce.backend.raybackend"] = stand_in
    run(server_app(options, measured), client_app(options), num_supernodes=options.nodes)
    base = 0.0
    for kind, all_of_it in measured.items():
        seconds, spent = (list(each) for each in zip(*all_of_it[WARM_UP:], strict=True))
        median = statistics.median(seconds)
        base = base or median
        row: dict[str, Any] = {"name": f"flower {kind}", "rounds": len(seconds), "seconds": round(median, 4)}
        row |= {"seconds_min": round(min(seconds), 4), "seconds_max": round(max(seconds), 4)}
        row |= {"ratio": round(median / base, 4), "cpu_s": round(statistics.median(spent), 3)}
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
