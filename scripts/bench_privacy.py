"""What privacy costs: every mode on the same vectors, beside what others offer.

    python -m scripts.bench_privacy [--quick] [--json FILE] [--baselines PYTHON]

One round of each mode in one process: `client_s` for one client (protect; in mode `masked` with announcing and
revealing), `replica_s` for one replica and one client (check, and its part of combining), `member_s` that part for the
whole round (replicas do it side by side), `open_s` for who combines what they say and `verify_s` for who checks it,
both once a round, `bytes_up` for one client. Wall clock, best of several. Every sum is compared with the true one.

The baselines (naive phe, TenSEAL's CKKS, Flower's SecAgg+) need libraries that Koinon does not: `--baselines` names a
Python that has them (`make bench-privacy` makes one), and `scripts/_baselines.py` is run with it on equal vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from koinon.encoding import encode, keccak
from koinon.errors import InvariantBroken
from koinon.privacy import Held, Protected, SealingKey, Setting, Transcript, Values, mode
from koinon.privacy.masking import Masks, announce, reveal
from koinon.privacy.shares import forget_proofs

T = TypeVar("T")
Row = dict[str, Any]
BITS, CLIENTS, CLIPS = 16, 10, 64
LENET, MIDDLE, RESNET18 = 62_006, 1_126_410, 11_700_000
LIMIT = 2 ** (BITS - 1) - 1
REPEAT = 3
COLUMNS = ("client_s", "replica_s", "member_s", "open_s", "verify_s")
BASELINES = Path(__file__).with_name("_baselines.py")


def vectors(params: int) -> list[Values]:
    """The clients' updates: the same for every mode and baseline, of a norm that a validated task allows."""
    rng = np.random.default_rng(params)
    spread = min(LIMIT / 4, CLIPS * LIMIT / np.sqrt(params) / 2)
    return [np.clip(np.rint(rng.normal(0, spread, params)), -LIMIT, LIMIT).astype(np.int64) for _ in range(CLIENTS)]


def clock(action: Callable[[], T], repeat: int = REPEAT) -> tuple[T, float]:
    """The result, and the best wall-clock seconds; proofs are checked afresh each time."""
    best = float("inf")
    for _ in range(repeat):
        forget_proofs()
        start = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - start)
    return result, best


def setting_of(name: str, params: int, n: int, *, norm: int = 0) -> Setting:
    return Setting(keccak(name.encode()), 1, n, params, BITS, CLIENTS, norm=norm)


def committee_row(label: str, setting: Setting, shares: tuple[bytes, ...], repeat: int = REPEAT) -> Row:
    """A mode whose sum the replicas open."""
    chosen = mode(label.split()[0])
    updates = vectors(setting.dimension)
    nodes = [keccak(bytes([i]))[:20] for i in range(CLIENTS)]
    chosen.protect(setting, nodes[0], updates[0], secrets.token_bytes)  # tables that a node makes once a key
    _, client = clock(lambda: chosen.protect(setting, nodes[0], updates[0], secrets.token_bytes), repeat)
    protected = {
        node: chosen.protect(setting, node, values, secrets.token_bytes)
        for node, values in zip(nodes, updates, strict=True)
    }
    first = protected[nodes[0]]
    _, check = clock(lambda: chosen.check(setting, nodes[0], first.public, 0, first.pieces[0]), repeat)
    digests: dict[int, dict[int, bytes]] = {}
    components: dict[bytes, bytes] = {}
    combine = float("inf")
    for replica in range(setting.replicas - setting.faulty):  # as many as must answer
        sums, seconds = clock(lambda replica=replica: combined(setting, shares, protected, replica), 1)  # type: ignore[misc]
        combine = min(combine, seconds)
        digests[replica] = {number: keccak(data) for number, data in sums.items()}
        components |= {keccak(data): data for data in sums.values()}
    publics = {node: each.public for node, each in protected.items()}
    transcript = Transcript(publics, digests, components)
    opened, opening = clock(lambda: chosen.open(setting, transcript), 1)
    verified, verify = clock(lambda: chosen.verify(setting, transcript, opened.witness), repeat)
    require_sum(label, updates, opened.values, verified)
    size = len(first.public) + sum(map(len, first.pieces))
    return row(label, setting, (client, check + combine / CLIENTS, combine, opening, verify), size)


def combined(
    setting: Setting, shares: tuple[bytes, ...], protected: dict[bytes, Protected], replica: int
) -> dict[int, bytes]:
    mine = replace(setting, key_share=shares[replica] if shares else b"")
    held = [Held(node, each.public, each.pieces[replica]) for node, each in protected.items()]
    return mode("paillier" if shares else _name_of(setting)).combine(mine, replica, held)


def _name_of(setting: Setting) -> str:
    return "plain" if setting.task == keccak(b"plain") else "shares"


def masked_row(params: int, n: int) -> Row:
    """The mode that the nodes open by themselves."""
    setting, updates = setting_of("masked", params, n), vectors(params)
    sealing = {keccak(bytes([i]))[:20]: SealingKey(keccak(b"sealing" + bytes([i]))) for i in range(CLIENTS)}
    nodes, cohort = sorted(sealing), {node: key.public for node, key in sealing.items()}
    _, announcing = clock(lambda: announce(setting.task, 1, nodes[0], cohort, secrets.token_bytes))
    made = {node: announce(setting.task, 1, node, cohort, secrets.token_bytes) for node in nodes}
    masks = Masks(setting.task, 1, tuple(nodes), {node: said for node, (_, said) in made.items()})
    chosen = mode("masked")

    def protect(node: bytes, values: Values) -> Protected:
        mine = replace(setting, masks=masks, key_share=encode(made[node][0]))
        return chosen.protect(mine, node, values, secrets.token_bytes)

    _, masking = clock(lambda: protect(nodes[0], updates[0]))
    publics = {node: protect(node, values).public for node, values in zip(nodes, updates, strict=True)}
    _, revealing = clock(lambda: reveal(masks, nodes[0], sealing[nodes[0]], nodes))
    revealed = {node: reveal(masks, node, sealing[node], nodes) for node in nodes}
    whole = replace(setting, masks=replace(masks, revealed=revealed))
    _, check = clock(lambda: chosen.check(setting, nodes[0], publics[nodes[0]], 0, b""))
    opened, opening = clock(lambda: chosen.open(whole, Transcript(publics)))
    require_sum("masked", updates, opened.values, opened.values)
    size = len(publics[nodes[0]]) + len(encode(made[nodes[0]][1])) + len(encode(revealed[nodes[0]]))
    return row("masked", setting, (announcing + masking + revealing, check, 0.0, opening, opening), size)


def require_sum(label: str, updates: list[Values], opened: Values, verified: Values) -> None:
    total = np.sum(updates, axis=0)
    if not (np.array_equal(opened, total) and np.array_equal(verified, total)):
        raise InvariantBroken(f"mode {label} opened another sum than the true one")


def row(name: str, setting: Setting, seconds: tuple[float, ...], bytes_up: int) -> Row:
    """`seconds` in the order of COLUMNS."""
    about = {"name": name, "params": setting.dimension, "n": setting.replicas, "clients": CLIENTS}
    return {**about, **dict(zip(COLUMNS, (round(each, 6) for each in seconds), strict=True)), "bytes_up": bytes_up}


def rows(quick: bool) -> Iterator[Row]:
    """The table, from the cheap to the dear; on standard error, what is being measured."""

    def bare(params: int, n: int) -> Row:
        said("shares without proof", params, n)
        return committee_row("shares without proof", setting_of("shares", params, n), ())

    for params in (LENET,) if quick else (LENET, MIDDLE):
        norm = min(CLIPS * LIMIT, (2**31 - 1) // CLIENTS)
        for n in (4, 7):
            said("plain", params, n)
            yield committee_row("plain", setting_of("plain", params, n), ())
            yield bare(params, n)
            said("shares", params, n)
            yield committee_row("shares", setting_of("shares", params, n, norm=norm), ())
            said("masked", params, n)
            yield masked_row(params, n)
        yield bare(params, 13)
    if not quick:
        yield bare(RESNET18, 4)
    for bits, params, n in ((3072, LENET, 4), (3072, LENET, 7), (2048, LENET, 4), (3072, MIDDLE, 4)):
        if not quick or (bits, n, params) == (3072, 4, LENET):
            said(f"paillier {bits}", params, n)
            yield paillier_row(bits, params, n)


def said(name: str, params: int, n: int) -> None:
    print(f"measuring {name}, {params:,} parameters, n = {n} ...", file=sys.stderr, flush=True)


def paillier_row(bits: int, params: int, n: int) -> Row:
    from koinon.privacy.paillier_key import generate_key

    public_key, shares, _ = generate_key(bits, n, secrets.token_bytes)
    setting = replace(setting_of("paillier", params, n), public_key=public_key)
    return committee_row(f"paillier {bits}", setting, shares, 1)


def baselines(python: Path, quick: bool) -> Iterator[Row]:
    """Rows of scripts/_baselines.py, one JSON object a line."""
    print("measuring the baselines ...", file=sys.stderr, flush=True)
    command = [str(python), str(BASELINES), *(["--quick"] if quick else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
    if running.returncode:
        raise InvariantBroken(f"{BASELINES.name} failed with exit code {running.returncode}")


def show(row_: Row) -> None:
    seconds = (row_.get(each) for each in COLUMNS)
    cells = "".join("             -" if each is None else f"{1000 * each:14.2f}" for each in seconds)
    print(
        f"{row_['name']:24}{row_['params']:>12,}{row_['n'] or '-':>4}{cells}{row_['bytes_up'] / 1000:14.1f}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the privacy modes, beside what others offer.")
    parser.add_argument("--quick", action="store_true", help="62,006 parameters only, one Paillier key")
    parser.add_argument("--baselines", type=Path, metavar="PYTHON", help="a Python with phe, tenseal and flwr")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    print(
        f"{CLIENTS} clients, {BITS} bits, {os.cpu_count()} cores, {platform.machine()}, Python {sys.version.split()[0]}"
    )
    heads = "".join(f"{name.removesuffix('_s') + ' ms':>14}" for name in COLUMNS)
    print(f"{'mode':24}{'parameters':>12}{'n':>4}{heads}{'upload KB':>14}")
    found: list[Row] = []
    for each in rows(args.quick):
        show(each)
        found.append(each)
    for each in baselines(args.baselines, args.quick) if args.baselines else ():
        show(each)
        found.append(each)
    if args.json:
        args.json.write_text(json.dumps({"rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
