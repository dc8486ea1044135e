"""`koinon-replica`: one member of the committee, or one that is to be, as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from koinon.client import CommitteeClient
from koinon.config import load_party
from koinon.errors import ConfigError, KoinonError, StorageFailed
from koinon.garbage import collect_garbage_seldom
from koinon.observe import configure_logging

from .home import ReplicaHome
from .server import ReplicaServer
from .standby import Standby

EXAMPLE = """example:
  koinon-provision --out fed --rpc http://127.0.0.1:8545
  koinon-replica --home fed/replica-0

It serves /healthz, /readyz and /metrics on the port in config.toml, logs JSON lines to standard error, and stops
cleanly on SIGTERM and SIGINT."""

log = logging.getLogger("koinon.pbft")


async def serve(path: Path) -> None:
    """Serve the replica in `path`, epoch after epoch, until a signal asks it to stop; raises what it must not survive.

    With a seat in the present committee it takes part; without one it stands by until a handover gives it one.
    """
    running = asyncio.ensure_future(_epochs(path))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopping")
    log.info("stopped")


async def _epochs(path: Path) -> None:
    home = ReplicaHome(path)
    async with CommitteeClient(home.committees) as client:  # before a word is said in an epoch that may be over
        await client.refresh()
    collect_garbage_seldom()
    while True:
        server = Standby(home) if home.index is None else ReplicaServer(home)
        try:
            await server.start()
            await server.run()
        finally:
            await server.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code (`KoinonError.exit_code`)."""
    parser = argparse.ArgumentParser(
        prog="koinon-replica",
        description="Run one replica of a federation's committee.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    home = os.environ.get("KOINON_HOME")
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(home) if home else None,
        required=not home,
        metavar="DIR",
        help="the replica's home (default: $KOINON_HOME)",
    )
    try:
        options = parser.parse_args(arguments)
        configure_logging(_level(options.home))
        _allow_connections()
        _runner(serve(options.home))
    except KoinonError as error:
        return _failed(error)
    except OSError as error:  # the network's are caught where they happen: this is the disk, on a write or the next
        hint = "give the data folder room and let it be written; what this replica said is on disk, so start it again"
        return _failed(StorageFailed(f"the data folder cannot be used: {error}", hint=hint))
    return 0


def _failed(error: KoinonError) -> int:
    log.critical(error.message, extra={"code": error.code, "hint": error.hint})
    sys.stderr.write(f"koinon-replica: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
    return error.exit_code


def _level(home: Path) -> str:
    level = load_party(home).log_level
    if level.upper() not in logging.getLevelNamesMapping():
        raise ConfigError(
            f"{home}/config.toml: no log level is called {level!r}", hint="debug, info, warning, error or critical"
        )
    return level


def _allow_connections() -> None:
    """As many open files as the system allows: each party has some connections, and the usual 1,024 do not last."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _runner(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # a platform without it
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    sys.exit(main())
