"""`koinon-aggregator --home DIR`: run until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from koinon.config import load_party
from koinon.errors import KoinonError
from koinon.observe import configure_logging

from .service import TASKS_CONCURRENT_MAX, Aggregator

log = logging.getLogger("koinon.aggregator")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def start(
    home: Annotated[Path, typer.Option(envvar="KOINON_HOME", help="The aggregator's home.")],
    tasks_concurrent_max: Annotated[int, typer.Option(min=1, help="Tasks that run at once; others wait.")] = (
        TASKS_CONCURRENT_MAX
    ),
) -> None:
    """Schedule rounds, open their sums, have them certified, anchor them."""
    config = load_party(home)
    configure_logging(config.log_level)
    asyncio.run(_until_told(Aggregator(home, config, tasks_concurrent_max=tasks_concurrent_max)))


async def _until_told(aggregator: Aggregator) -> None:
    running = asyncio.ensure_future(aggregator.run())
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        log.info("stopped")
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def main() -> None:
    try:
        app()
    except KoinonError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
