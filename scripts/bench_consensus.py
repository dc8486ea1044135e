"""How fast the committee orders: real replica processes on this machine, journals on its disk, signed requests.

    python -m scripts.bench_consensus [--replicas 4,7,10,13] [--seconds 8] [--in-flight 1600] [--json FILE]

Each committee runs on loopback without TLS; one client process speaks for many enrolled keys (`koinon.streams`), so
all of it shares this machine's cores. The operation is a `SubmitUpdate` of 202 bytes (290 as a sealed request) by an
enrolled node for a task that does not exist: the law refuses it by its first rules, so that ordering is what is
measured; it is verified, journalled, executed and answered like any other. Rows:

    one        one request in flight: the latency that a member sees, to f+1 signed replies
    many       --in-flight keys, each with one request in flight; batches adapt to the load
    cores      the same cores and journals in one process that does nothing else, batches of 1 and 256: no network,
               no client (`pbft.floor`); its operations a second are those of one core

CPU is the processes' own, per operation and replica. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from koinon.config import load_party, party_signer
from koinon.encoding import encode
from koinon.errors import KoinonError, Unavailable
from koinon.garbage import collect_garbage_seldom
from koinon.rounds.operations import SubmitUpdate
from koinon.rounds.rules import decode_outcome
from koinon.signing import Signer
from koinon.streams import Gateway
from koinon.wire import Role, SignedReceipt

from ._homes import sign_admission
from .federation import ROOT, LocalFederation, environment, exit_on_sigterm, module

TARGETS = {4: (3_000, 8.0), 7: (1_200, 20.0)}
"""Operations a second with many in flight, and p50 in ms with one: what docs/benchmarks.md sets out to reach."""
WARM_UP_SECONDS = 1.5
ENROLLED_AT_ONCE = 64
FLOOR_SECONDS = 3.0
FLOOR_BATCH = 256
PRIMITIVES = ("sign_us", "recover_us", "journal_sync_us", "fsync_us")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class LocalCommittee(LocalFederation):
    """The replicas of a federation (and its chain), without aggregator and nodes."""

    def __init__(self, folder: Path, replicas: int) -> None:
        super().__init__(folder, replicas=replicas, nodes=0)

    @property
    def parties(self) -> list[str]:
        return self.replicas


@dataclass(frozen=True)
class Row:
    """One line of the table. Times in ms, CPU in µs an operation (of one replica; of the client), bytes on the wire."""

    n: int
    batch: str
    ops_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_op: float
    client_us_per_op: float
    wire_bytes_per_op: float
    ops_per_batch: float


def operation() -> bytes:
    """What is ordered: 202 bytes, three random digests and one receipt with random bytes for a signature.

    The law refuses it, since there is no such task, before it would look at the receipt (a real update has 2f+1).
    """
    task, parent, update = (secrets.token_bytes(32) for _ in range(3))
    receipts = (SignedReceipt(replica=0, signature=secrets.token_bytes(64)),)
    return encode(
        SubmitUpdate(task=task, round=1, parent_model=parent, update=update, examples=100, loss=1, receipts=receipts)
    )


async def enrol(committee: LocalCommittee, gateway: Gateway, keys: list[Signer]) -> None:
    """Make the keys members, some at a time."""
    home, domain = committee.home("registrar"), committee.file.domain
    registrar = party_signer(home, load_party(home))

    def admission(key: Signer) -> bytes:
        roles, sealing = Role.NODE, bytes(32)
        enrolment = sign_admission(
            registrar, domain, key.address, roles=roles, examples_max=1000, public=sealing, serial=1
        )
        return encode(enrolment)

    for start in range(0, len(keys), ENROLLED_AT_ONCE):
        some = keys[start : start + ENROLLED_AT_ONCE]
        for raw in await asyncio.gather(*(gateway.order(key, admission(key)) for key in some)):
            decode_outcome(raw)  # raises when the law did not admit the key


async def load(gateway: Gateway, keys: list[Signer], seconds: float) -> tuple[list[float], float]:
    """Every key orders one operation after the other; the latencies (s), and the seconds that it took."""
    latencies: list[float] = []
    begun = time.perf_counter()
    until = begun + seconds

    async def one(key: Signer) -> None:
        while (start := time.perf_counter()) < until:
            await gateway.order(key, operation())
            latencies.append(time.perf_counter() - start)

    await asyncio.gather(*(one(key) for key in keys))
    return latencies, time.perf_counter() - begun


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux); 0 elsewhere."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def loopback_bytes() -> int:
    """What went over the loopback device so far (Linux); 0 elsewhere."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)


async def measure(committee: LocalCommittee, gateway: Gateway, keys: list[Signer], batch: str, seconds: float) -> Row:
    """Warm up, then one measurement."""
    n = len(committee.replicas)
    await load(gateway, keys, WARM_UP_SECONDS)
    pids = [committee.pids[name] for name in committee.replicas]
    replicas, client, wire = sum(map(cpu_seconds, pids)), time.process_time(), loopback_bytes()
    slots = sequence(committee)
    latencies, took = await load(gateway, keys, seconds)
    client, wire = time.process_time() - client, loopback_bytes() - wire
    slots = sequence(committee) - slots
    replicas = sum(map(cpu_seconds, pids)) - replicas
    committee.require_alive()
    count = len(latencies)
    latencies.sort()
    return Row(
        n=n,
        batch=batch,
        ops_per_s=count / took,
        p50_ms=1000 * latencies[count // 2],
        p99_ms=1000 * latencies[count * 99 // 100],
        cpu_us_per_op=1e6 * replicas / n / count,
        client_us_per_op=1e6 * client / count,
        wire_bytes_per_op=wire / count,
        ops_per_batch=count / max(1, slots),
    )


def sequence(committee: LocalCommittee) -> int:
    """How far replica 0 executed."""
    with urllib.request.urlopen(committee.url("replica-0") + "/v1/status", timeout=10) as answer:
        return int(json.load(answer)["sequence"])


def bench(n: int, seconds: float, in_flight: int, folder: Path) -> list[Row]:
    """The two rows of one committee of real processes."""

    async def drive(committee: LocalCommittee) -> list[Row]:
        async with Gateway(committee.file) as gateway:
            keys = [Signer(secrets.token_bytes(32)) for _ in range(in_flight)]
            collect_garbage_seldom()
            await enrol(committee, gateway, keys)
            say(f"n={n}: {in_flight} keys are members")
            rows = []
            for batch, some in (("one", keys[:1]), ("many", keys)):
                rows.append(await measure(committee, gateway, some, batch, seconds))
                say(f"n={n} {batch}: {rows[-1].ops_per_s:.0f} op/s, p50 {rows[-1].p50_ms:.1f} ms")
            return rows

    committee = LocalCommittee(folder, n)
    with committee:
        return run(drive(committee))


def run(work: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """On the loop that the replicas use, where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def floor(n: int, batch: int, folder: Path) -> dict[str, float]:
    """`pbft.floor` in a process of its own."""
    command = [*module("pbft.floor"), "--replicas", str(n), "--batch", str(batch), "--seconds", str(FLOOR_SECONDS)]
    done = subprocess.run(
        [*command, "--folder", str(folder)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise Unavailable(f"pbft.floor failed: {done.stderr.strip()}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def show(rows: list[Row], floors: dict[tuple[int, int], dict[str, float]]) -> None:
    """The tables, on standard output."""
    print("| n | in flight | op/s | p50 ms | p99 ms | CPU µs/op, replica | CPU µs/op, client | wire B/op | op/batch |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.n} | {row.batch} | {row.ops_per_s:,.0f} | {row.p50_ms:.1f} | {row.p99_ms:.1f} "
            f"| {row.cpu_us_per_op:,.0f} | {row.client_us_per_op:,.0f} | {row.wire_bytes_per_op:,.0f} "
            f"| {row.ops_per_batch:.0f} |"
        )
    for n, (rate, p50) in TARGETS.items():
        ours = {row.batch: row for row in rows if row.n == n}
        if ours:
            print(
                f"\nn={n}, to reach in one run: {rate:,} op/s and p50 {p50:.0f} ms; "
                f"here {ours['many'].ops_per_s:,.0f} op/s and {ours['one'].p50_ms:.1f} ms"
            )
    print("\n| n | batch | floor: op/s on one core | ms a batch | CPU µs/op, replica |")
    print("|---|---|---|---|---|")
    for (n, batch), found in floors.items():
        print(f"| {n} | {batch} | {found['ops_per_s']:,.0f} | {found['ms']:.2f} | {found['cpu_us']:,.0f} |")
    some = next(iter(floors.values()), {})
    cells = ", ".join(f"{name.removesuffix('_us')} {some[name]:.0f}" for name in PRIMITIVES if name in some)
    print(f"\nThis machine, µs: {cells}; {os.cpu_count()} cores, Python {platform.python_version()}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the committee's ordering.")
    parser.add_argument("--replicas", default="4,7,10,13", help="committee sizes, comma-separated")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, default=1600, help="keys with one request in flight each")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    exit_on_sigterm()
    rows: list[Row] = []
    floors: dict[tuple[int, int], dict[str, float]] = {}
    for n in [int(text) for text in options.replicas.split(",")]:
        with tempfile.TemporaryDirectory(prefix="koinon-bench-", dir=options.folder) as folder:
            try:
                rows += bench(n, options.seconds, options.in_flight, Path(folder))
                for batch in (1, FLOOR_BATCH):
                    floors[n, batch] = floor(n, batch, Path(folder))
            except KoinonError as error:
                say(f"error: {error.message}")
                raise SystemExit(error.exit_code) from None
    show(rows, floors)
    if options.json:
        report = {
            "rows": [asdict(row) for row in rows],
            "floor": [{"n": n, "batch": batch, **found} for (n, batch), found in floors.items()],
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
