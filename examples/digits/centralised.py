"""The same net on all the data in one place: the figure that the federated run is compared with.

python examples/digits/centralised.py --json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path

import torch
from client import MODEL_SEED, load_images, make_net, test, train


def main() -> None:
    task = tomllib.loads((Path(__file__).parent / "task.toml").read_text())
    parser = argparse.ArgumentParser(description="Train the digits net on pooled data.")
    parser.add_argument("--epochs", type=int, help="default: rounds x epochs of task.toml")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    epochs = arguments.epochs or task["rounds"] * task["config"]["epochs"]
    torch.set_num_threads(arguments.threads)
    train_x, train_y, test_x, test_y = load_images()
    net, begun = make_net(), time.monotonic()
    batch, rate = task["config"]["batch_size"], task["config"]["learning_rate"]
    train(net, train_x, train_y, epochs=epochs, batch=batch, rate=rate, seed=MODEL_SEED)
    loss, accuracy = test(net, test_x, test_y)
    result = {"accuracy": accuracy, "loss": loss, "epochs": epochs, "examples": len(train_y)}
    result |= {"held_out": len(test_y), "seconds": round(time.monotonic() - begun, 2)}
    text = json.dumps(result) if arguments.json else f"accuracy {accuracy:.4f} after {epochs} epochs on pooled data"
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
