"""Whether the process is worth keeping: its loop turns, and its disk still takes what is written to it."""

from __future__ import annotations

import asyncio
import os
import time

from .engine import Disk

TURN_SECONDS_MAX = 10.0
DISK_SECONDS_MAX = 5.0
PROBE_EVERY_SECONDS = 1.0


class Health:
    """`turned()` is called by the loop that must not stand still; `problems()` by whoever asks."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._turned = time.monotonic()
        self._probed = float("-inf")
        self._disk_problem = ""

    def turned(self) -> None:
        self._turned = time.monotonic()

    async def problems(self) -> list[str]:
        """What is wrong, in words; nothing when all is well."""
        age = time.monotonic() - self._turned
        found = [f"the loop has not turned for {age:.0f} s"] if age > TURN_SECONDS_MAX else []
        if time.monotonic() - self._probed > PROBE_EVERY_SECONDS:
            self._probed = time.monotonic()
            self._disk_problem = await self._probe()
        return [*found, self._disk_problem] if self._disk_problem else found

    async def _probe(self) -> str:
        """Write and sync a byte in the thread that writes the journal: a disk that hangs hangs this, too."""
        try:
            async with asyncio.timeout(DISK_SECONDS_MAX):
                await self._disk.run(self._write)
        except TimeoutError:
            return f"the disk took no byte within {DISK_SECONDS_MAX:g} s"
        except OSError as error:
            return f"the disk refuses: {error.strerror or error}"
        return ""

    def _write(self) -> None:
        descriptor = os.open(self._disk.folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
