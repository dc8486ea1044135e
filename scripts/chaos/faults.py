"""The faults: of processes, clocks and disks, of the network, and of those who mean harm (`hostile`)."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from koinon.errors import StorageFailed, Unavailable

from .namespaces import Namespaces
from .proxies import Proxies
from .scene import QUIET, REPLACED, REPLACED_MINORITY, REPLACED_TWICE, STOPPED, WEATHER, Scene, fault

REJOIN_SECONDS = 5.0
RECONNECT_SECONDS = 15.0
"""A dead link is noticed by a heartbeat (5 s), dialled again within 0.6 s and may lose a SYN (1, 2, 4 s)."""
HOLD_SECONDS = 3.0
WEATHER_SECONDS = 15.0
DELAY_SECONDS = 0.1
SKEW_SECONDS = 60.0
"""Twice what replicas accept (pbft.events.Settings.clock_skew_ms_max)."""
NOTICE_SECONDS = 10.0
DISK_ROOM_BYTES = 96 << 10
SKEWED = [sys.executable, "-m", "tests.chaos.skewed"]


# --- processes ---------------------------------------------------------------------------------------------------


@fault("kill-9", "kill -9 of a backup", QUIET, recovery_seconds=REJOIN_SECONDS)
async def kill_backup(scene: Scene) -> None:
    await _kill(scene, await scene.backup())


@fault("kill-9-primary", "kill -9 of the primary", REPLACED, recovery_seconds=REJOIN_SECONDS)
async def kill_primary(scene: Scene) -> None:
    await _kill(scene, await scene.primary())


async def _kill(scene: Scene, victim: int) -> None:
    scene.committee.down(victim)
    await scene.goes_on()
    await asyncio.sleep(HOLD_SECONDS)
    scene.heals()
    scene.committee.up(victim)


@fault("kill-9-all", "kill -9 of all at once, then restart", STOPPED, recovery_seconds=10.0)
async def kill_all(scene: Scene) -> None:
    everybody = scene.committee.everybody
    scene.committee.down(*everybody)
    scene.breaks()
    await asyncio.sleep(HOLD_SECONDS)
    scene.heals()
    for index in everybody:
        scene.committee.up(index)


@fault("stop", "SIGSTOP, later SIGCONT, of a backup", QUIET, recovery_seconds=REJOIN_SECONDS)
async def stop_backup(scene: Scene) -> None:
    await _freeze(scene, await scene.backup())


@fault("stop-primary", "SIGSTOP, later SIGCONT, of the primary", REPLACED, recovery_seconds=REJOIN_SECONDS)
async def stop_primary(scene: Scene) -> None:
    await _freeze(scene, await scene.primary())


async def _freeze(scene: Scene, victim: int) -> None:
    scene.committee.signal(victim, signal.SIGSTOP)
    try:
        await scene.goes_on()
        await asyncio.sleep(HOLD_SECONDS)
    finally:
        scene.heals()
        scene.committee.signal(victim, signal.SIGCONT)


@fault("restart", "SIGTERM and start of each replica in turn", REPLACED, recovery_seconds=REJOIN_SECONDS)
async def restart_each(scene: Scene) -> None:
    for index in scene.committee.everybody:
        scene.committee.signal(index, signal.SIGTERM)
        code = await scene.committee.ended(index)
        scene.require(code == 0, f"replica {index} ended with code {code} on SIGTERM")
        scene.heals()
        scene.committee.up(index)
        await scene.committee.caught_up(await scene.committee.head(), seconds=60.0)


# --- disks -------------------------------------------------------------------------------------------------------


@fault("wipe", "a backup loses its data folder", QUIET, recovery_seconds=REJOIN_SECONDS)
async def wipe(scene: Scene) -> None:
    victim = await scene.backup()
    scene.committee.down(victim)
    shutil.rmtree(_data(scene, victim))
    await scene.goes_on()
    target = await scene.committee.head()
    scene.heals()
    scene.committee.up(victim)
    seconds = await scene.committee.rejoined(victim, target)
    scene.note("; ".join(f"it {what} after {after:.1f} s" for what, after in seconds.items()))


@fault("disk-full", "a backup's disk is full: it stops, and restarts with room", QUIET,
       recovery_seconds=REJOIN_SECONDS, root=True)  # fmt: skip
async def disk_full(scene: Scene) -> None:
    victim = await scene.backup()
    scene.committee.down(victim)
    data = _data(scene, victim)
    aside = data.with_name("data.aside")
    data.rename(aside)
    data.mkdir(mode=0o700)
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    _mount("-t", "tmpfs", "-o", f"size={4096 * (2 + size // 4096) + DISK_ROOM_BYTES}", "none", str(data))
    try:
        shutil.copytree(aside, data, dirs_exist_ok=True)
        scene.committee.up(victim)
        code = await scene.committee.ended(victim, seconds=60.0)
        said = scene.committee.log_tail(victim)
        scene.require(code == StorageFailed.exit_code, f"a replica without room ended with code {code}")
        scene.require("No space left" in said, f"a replica without room does not say so:\n{said}")
        scene.note(f"it stopped with code {code}")
        await scene.goes_on()
        shutil.rmtree(aside)
        shutil.copytree(data, aside)
    finally:
        _unmount(data)
        data.rmdir()
        aside.rename(data)
    scene.heals()
    scene.committee.up(victim)


def _data(scene: Scene, index: int) -> Path:
    return scene.committee.home(scene.committee.replicas[index]) / "data"


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(f"mount: {done.stderr.strip()}")


def _unmount(folder: Path) -> None:
    done = subprocess.run(["umount", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# --- clocks ------------------------------------------------------------------------------------------------------


@fault(
    "clock-ahead",
    f"the primary's clock runs {SKEW_SECONDS:.0f} s ahead",
    REPLACED_TWICE,
    recovery_seconds=REJOIN_SECONDS,
)
async def clock_ahead(scene: Scene) -> None:
    await _skew(scene, SKEW_SECONDS)


@fault("clock-behind", f"the next primary's clock runs {SKEW_SECONDS:.0f} s behind", REPLACED_TWICE,
       recovery_seconds=REJOIN_SECONDS)  # fmt: skip
async def clock_behind(scene: Scene) -> None:
    await _skew(scene, -SKEW_SECONDS)


async def _skew(scene: Scene, seconds: float) -> None:
    """Give the next primary a wrong clock, then the view, until the committee has taken it away again."""
    victim = await impostor(scene, [*SKEWED, str(seconds)])
    await _until_replaced(scene, victim)
    await scene.goes_on()
    given_up = [index for index in scene.committee.everybody if '"reason": "clock"' in scene.committee.log(index)]
    scene.require(bool(given_up), "no backup's log says that it gave the primary up for its clock")
    await _notices_its_clock(scene, victim)
    await honest_again(scene, victim)


async def _notices_its_clock(scene: Scene, victim: int) -> None:
    """As a backup, the replica whose clock is wrong must say so itself."""
    try:
        async with asyncio.timeout(NOTICE_SECONDS * scene.patience):
            while not (await scene.committee.status(victim) or {}).get("clock_ahead_seconds"):
                await asyncio.sleep(0.1)
    except TimeoutError:
        scene.require(False, f"replica {victim} does not notice that its clock is wrong")


async def impostor(scene: Scene, program: list[str]) -> int:
    """Let `program` play the next primary, and make it primary; its index."""
    committee = scene.committee
    old = await scene.primary()
    victim = (old + 1) % len(committee.everybody)
    committee.down(victim)
    committee.programs[victim] = program
    committee.up(victim)  # one whose clock is wrong may follow by state transfer only, and never be ready
    await committee.caught_up(await committee.head(), seconds=60.0)
    committee.signal(old, signal.SIGSTOP)
    try:
        await _until(scene, lambda view: view % len(committee.everybody) != old, "the frozen primary is not replaced")
    finally:
        committee.signal(old, signal.SIGCONT)
    return victim


async def honest_again(scene: Scene, victim: int) -> None:
    scene.committee.down(victim)
    del scene.committee.programs[victim]
    scene.heals()
    scene.committee.up(victim)


async def _until_replaced(scene: Scene, victim: int) -> None:
    members = len(scene.committee.everybody)
    await _until(scene, lambda view: view % members != victim, f"primary {victim} is not replaced")


async def _until(scene: Scene, holds: object, sentence: str) -> None:
    try:
        async with asyncio.timeout(60.0):
            while not holds(await scene.committee.view()):  # type: ignore[operator]
                await asyncio.sleep(0.05)
    except TimeoutError:
        scene.require(False, sentence)


# --- the network -------------------------------------------------------------------------------------------------


@fault("partition-minority", "the primary and those after it, f in all, are cut off", REPLACED_MINORITY,
       recovery_seconds=RECONNECT_SECONDS)  # fmt: skip
async def partition_minority(scene: Scene) -> None:
    first, members = await scene.primary(), len(scene.committee.everybody)
    few = [(first + step) % members for step in range(scene.committee.federation.faulty)]
    scene.cut(few, [index for index in scene.committee.everybody if index not in few])
    await scene.goes_on()
    await asyncio.sleep(HOLD_SECONDS)
    _clear(scene)


@fault("partition-half", "two halves, neither a quorum", STOPPED, recovery_seconds=RECONNECT_SECONDS)
async def partition_half(scene: Scene) -> None:
    everybody = list(scene.committee.everybody)
    half = len(everybody) // 2
    scene.cut(everybody[:half], everybody[half:])
    scene.breaks()
    await asyncio.sleep(2 * HOLD_SECONDS)
    _clear(scene)


@fault("partition-one-way", "the primary hears all, and nobody hears the primary", REPLACED,
       recovery_seconds=RECONNECT_SECONDS)  # fmt: skip
async def partition_one_way(scene: Scene) -> None:
    victim = await scene.primary()
    scene.cut([victim], [index for index in scene.committee.everybody if index != victim], both_ways=False)
    await scene.goes_on()
    await asyncio.sleep(HOLD_SECONDS)
    _clear(scene)


@fault("loss-30", "30 % of the packets between replicas are lost", WEATHER,
       recovery_seconds=RECONNECT_SECONDS, network=Namespaces.name)  # fmt: skip
async def loss_30(scene: Scene) -> None:
    await _lose(scene, 30)


@fault("loss-60", "60 % of the packets between replicas are lost", WEATHER,
       recovery_seconds=RECONNECT_SECONDS, network=Namespaces.name)  # fmt: skip
async def loss_60(scene: Scene) -> None:
    await _lose(scene, 60)


async def _lose(scene: Scene, percent: int) -> None:
    network = scene.committee.network
    if not isinstance(network, Namespaces):
        raise Unavailable("packets can be lost in namespaces only")
    network.lose(percent)
    await asyncio.sleep(WEATHER_SECONDS)
    _clear(scene)


@fault("delay", f"{1000 * DELAY_SECONDS:.0f} ms ± half on every hop between replicas", WEATHER,
       recovery_seconds=RECONNECT_SECONDS, network=Proxies.name)  # fmt: skip
async def delay(scene: Scene) -> None:
    network = scene.committee.network
    if not isinstance(network, Proxies):
        raise Unavailable("packets can be delayed by proxies only")
    network.slow(DELAY_SECONDS, DELAY_SECONDS / 2)
    await scene.goes_on()
    await asyncio.sleep(WEATHER_SECONDS)
    _clear(scene)


def _clear(scene: Scene) -> None:
    scene.heals()
    scene.committee.network.heal()
