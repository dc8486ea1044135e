"""Plays faults on a committee, one after the other, and judges each."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from koinon.epochs import faulty_max
from koinon.errors import KoinonError

from ..federation import Say
from .checks import Examiner
from .committee import Committee, Network
from .load import Load
from .namespaces import Namespaces
from .proxies import Proxies
from .scene import REPLACED, STALL_GRACE_SECONDS, STOPPED, Fault, Scene, Verdict, Violation, gap_seconds
from .steady import NAME, SteadyVerdict, endure

FAULT_SECONDS_MAX = 120.0
RECOVERY_SECONDS_MAX = 60.0
"""So long is waited at least to say how long it took; the bound is the fault's own."""
WARM_UP = 40
AFTERWARDS = 8
"""Acknowledgements that prove progress after a fault."""
MEMORY_MB_MAX = 512.0
DISK_MB_BASE = 48.0
DISK_MB_PER_LOG_MB = 4.0
NETWORKS: dict[str, type[Namespaces] | type[Proxies]] = {Namespaces.name: Namespaces, Proxies.name: Proxies}


class Stage:
    """One network, and a committee in it that is made anew after a fault that it did not survive."""

    def __init__(self, folder: Path, network: str, *, replicas: int, patience: float, say: Say) -> None:
        self._folder = folder
        self._network = network
        self._replicas = replicas
        self._patience = patience
        self._say = say
        self._committees = 0
        self.scene: Scene | None = None
        self.examiner: Examiner

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> Scene:
        if self.scene is None:
            self._committees += 1
            folder = self._folder / f"{self._network}-{self._committees}"
            network: Network = NETWORKS[self._network](self._replicas)
            committee = Committee(folder, network, replicas=self._replicas, say=self._say)
            self.scene = Scene(committee, Load.__new__(Load), patience=self._patience)
            await committee.open()
            self.scene.load = Load(committee.federation, committee.registrar)
            self.examiner = Examiner(committee, self.scene.load)
            await self.scene.load.start()
            await self.scene.goes_on(WARM_UP)
        return self.scene

    async def _close(self) -> None:
        scene, self.scene = self.scene, None
        if scene is not None:
            if hasattr(scene.load, "session"):
                await scene.load.stop()
            await scene.committee.close()

    async def play(self, fault: Fault) -> Verdict:
        """Do `fault`, wait for recovery, check everything. A failure is a verdict, never an exception."""
        verdict = Verdict(
            fault.name, fault.what, self._network, "ok",
            gap_seconds_max=_times(fault.gap_seconds(faulty_max(self._replicas)), self._patience),
            recovery_seconds_max=fault.recovery_seconds * self._patience,
        )  # fmt: skip
        await self._judged(verdict, lambda scene: self._perform(scene, fault, verdict))
        return verdict

    async def endure(self, minutes: float) -> SteadyVerdict:
        """Nothing but load for so long; everything that a replica takes must stay flat."""
        verdict = SteadyVerdict(
            NAME, f"no fault for {minutes:g} minutes: what replicas take stays flat", self._network, "ok",
            gap_seconds_max=_times(gap_seconds(REPLACED, 1), self._patience), minutes=minutes,
        )  # fmt: skip
        await self._judged(verdict, lambda scene: self._endure(scene, verdict))
        return verdict

    async def _judged(self, verdict: Verdict, work: Callable[[Scene], Awaitable[None]]) -> None:
        """Do `work` on the scene; what it raises becomes a problem of the verdict, and logs are kept."""
        broken, offsets = True, dict[str, int]()
        try:
            scene = await self._open()
            offsets = _sizes(scene.committee.logs)
            await work(scene)
            broken = False
        except (Violation, KoinonError, OSError, TimeoutError) as error:
            said = [error.message] if isinstance(error, KoinonError) else [str(each) for each in error.args]
            verdict.problems += said or [type(error).__name__]
        if verdict.problems:
            verdict.outcome = "FAILED"
            if self.scene is not None:
                verdict.folder = str(_keep(self.scene.committee, self._folder / f"failed-{verdict.fault}", offsets))
        if broken:  # whoever was only too slow goes on
            await self._close()

    async def _endure(self, scene: Scene, verdict: SteadyVerdict) -> None:
        began = scene.began = time.monotonic()
        try:
            await endure(scene, self.examiner, verdict, self._say)
        finally:
            verdict.acknowledged = scene.load.count(began)
            verdict.gap_seconds = scene.load.longest_gap(began, time.monotonic())
        _require_no_stall(verdict)
        self._weigh(scene, verdict)

    async def _perform(self, scene: Scene, fault: Fault, verdict: Verdict) -> None:
        scene.began = time.monotonic()
        scene.broken = scene.healed = 0.0
        scene.notes = verdict.notes
        try:
            async with asyncio.timeout(FAULT_SECONDS_MAX):
                await fault.run(scene)
            await self._recover(scene, verdict)
        finally:
            verdict.acknowledged = scene.load.count(scene.began)
            verdict.gap_seconds = scene.load.longest_gap(scene.began, time.monotonic())
        if fault.kind == STOPPED:
            late = scene.load.count(scene.broken + STALL_GRACE_SECONDS, scene.healed)
            if late:
                verdict.problems.append(f"{late} operations were acknowledged without a quorum")
        _require_no_stall(verdict)
        if verdict.recovery_seconds > verdict.recovery_seconds_max:
            verdict.problems.append(
                f"recovery took {verdict.recovery_seconds:.1f} s, more than {verdict.recovery_seconds_max:.1f} s"
            )
        scene.committee.require_alive()
        gaps, twice = dict(self.examiner.gaps), self.examiner.ordered_twice
        await self.examiner.examine()
        if (again := self.examiner.ordered_twice - twice) > 0:
            verdict.notes.append(f"{again} requests ordered twice, executed once")
        skipped = [index for index, size in self.examiner.gaps.items() if size > gaps.get(index, 0)]
        if skipped:
            verdict.notes.append(f"replica {skipped[0]} came back by a snapshot: its log has a gap")
        self._weigh(scene, verdict)

    async def _recover(self, scene: Scene, verdict: Verdict) -> None:
        """Until operations are acknowledged again and every replica has what all had when the fault was over."""
        target = await scene.committee.head()
        patience = max(RECOVERY_SECONDS_MAX, verdict.recovery_seconds_max)
        await scene.goes_on(AFTERWARDS, seconds=patience)
        await scene.committee.caught_up(target, seconds=patience)
        verdict.recovery_seconds = time.monotonic() - scene.healed

    def _weigh(self, scene: Scene, verdict: Verdict) -> None:
        committee = scene.committee
        verdict.memory_mb = max(committee.memory_mb().values())
        verdict.disk_mb = max(committee.disk_mb(index) for index in committee.everybody)
        allowed = DISK_MB_BASE + DISK_MB_PER_LOG_MB * self.examiner.log_mb
        if verdict.memory_mb > MEMORY_MB_MAX:
            verdict.problems.append(f"a replica takes {verdict.memory_mb:.0f} MB of memory")
        if verdict.disk_mb > allowed:
            verdict.problems.append(f"a replica takes {verdict.disk_mb:.0f} MB of disk, more than {allowed:.0f} MB")


def _require_no_stall(verdict: Verdict) -> None:
    if verdict.gap_seconds_max is not None and verdict.gap_seconds > verdict.gap_seconds_max:
        verdict.problems.append(
            f"no progress for {verdict.gap_seconds:.1f} s, more than {verdict.gap_seconds_max:.1f} s"
        )


def _times(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else seconds * factor


def _sizes(logs: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in logs.glob("*.log")}


def _keep(committee: Committee, folder: Path, offsets: dict[str, int]) -> Path:
    """The processes' logs since the fault began, in a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in committee.logs.glob("*.log"):
        with path.open("rb") as log:
            log.seek(offsets.get(path.name, 0))
            (folder / path.name).write_bytes(log.read())
    return folder
