"""How long the privacy modes take: protect, check, combine, open and verify of one round, per mode.

    python scripts/bench_privacy.py [--parameters 62006] [--clients 10] [--replicas 4] [--json FILE] [MODE ...]

Times are the best of `--repeat` (milliseconds of this process's CPU): protect and check for one client, combine for
one replica over all clients, open and verify for the round. The opened sum is compared with the true one. `--norm`
has the updates of mode `shares` proved to be within that bound (in units of the quantiser; the updates are drawn to
keep it).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import TypeVar

import numpy as np

from koinon.encoding import keccak
from koinon.errors import InvariantBroken
from koinon.privacy import MODES, Held, Setting, mode

T = TypeVar("T")
BITS = 16
STEPS = ("protect", "check", "combine", "open", "verify")


def measure(action: Callable[[], T], repeat: int) -> tuple[T, float]:
    """The result, and the best time in milliseconds."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    return result, 1000 * best


def bench(
    name: str, parameters: int, clients: int, replicas: int, key_bits: int, repeat: int, norm: int
) -> dict[str, float]:
    """One round of mode `name`: milliseconds by step, and the bytes that one client uploads."""
    chosen = mode(name)
    setting = Setting(keccak(b"bench"), 1, replicas, parameters, BITS, clients, norm=norm if name == "shares" else 0)
    shares: tuple[bytes, ...] = (b"",) * replicas
    if name == "paillier":
        from koinon.privacy.paillier_key import generate_key

        public_key, shares, _ = generate_key(key_bits, replicas, secrets.token_bytes)
        setting = replace(setting, public_key=public_key)
    limit = 2 ** (BITS - 1) - 1
    if setting.norm:
        limit = max(1, min(limit, isqrt(setting.norm**2 // parameters)))
    updates = np.random.default_rng(1).integers(-limit, limit + 1, (clients, parameters))
    nodes = [keccak(bytes([i]))[:20] for i in range(clients)]
    took: dict[str, float] = {}
    chosen.protect(setting, nodes[0], updates[0], secrets.token_bytes)  # tables that a node makes once a key
    protected = {}
    for node, values in zip(nodes, updates, strict=True):
        protected[node], ms = measure(partial(chosen.protect, setting, node, values, secrets.token_bytes), 1)
        took["protect"] = min(took.get("protect", ms), ms)
    first = protected[nodes[0]]
    _, took["check"] = measure(lambda: chosen.check(setting, nodes[0], first.public, 0, first.pieces[0]), repeat)
    digests: dict[int, dict[int, bytes]] = {}
    components: dict[bytes, bytes] = {}
    for replica in range(replicas):
        mine = replace(setting, key_share=shares[replica])
        held = [Held(node, p.public, p.pieces[replica]) for node, p in protected.items()]
        sums, ms = measure(partial(chosen.combine, mine, replica, held), 1)
        took["combine"] = min(took.get("combine", ms), ms)
        digests[replica] = {number: keccak(data) for number, data in sums.items()}
        components |= {keccak(data): data for data in sums.values()}
    publics = {node: p.public for node, p in protected.items()}
    opened, took["open"] = measure(lambda: chosen.open(setting, publics, digests, components), 1)
    verified, took["verify"] = measure(
        lambda: chosen.verify(setting, publics, digests, components, opened.witness), repeat
    )
    if not (np.array_equal(opened.values, updates.sum(axis=0)) and np.array_equal(opened.values, verified)):
        raise InvariantBroken(f"mode {name} opened another sum than the true one")
    took["upload_bytes"] = len(first.public) + sum(map(len, first.pieces))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the privacy modes.")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)} (all)")
    parser.add_argument("--parameters", type=int, default=62_006, help="scalars of the model (LeNet-5: 62006)")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--key-bits", type=int, default=3072, help="of mode paillier")
    parser.add_argument("--norm", type=int, default=0, help="of mode shares: prove this bound")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results = {
        name: bench(name, args.parameters, args.clients, args.replicas, args.key_bits, args.repeat, args.norm)
        for name in args.modes or MODES
    }
    print(f"{args.parameters} parameters, {args.clients} clients, {args.replicas} replicas, {os.cpu_count()} cores")
    print(f"{'mode':10}" + "".join(f"{step + ' ms':>14}" for step in STEPS) + f"{'upload KB':>12}")
    for name, took in results.items():
        row = "".join(f"{took[step]:14.2f}" for step in STEPS)
        print(f"{name:10}{row}{took['upload_bytes'] / 1000:12.1f}")
    if args.json:
        about = {"parameters": args.parameters, "clients": args.clients, "replicas": args.replicas}
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
        report = about | {"key_bits": args.key_bits, "machine": machine, "milliseconds": results}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
