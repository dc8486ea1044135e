"""How the commands speak: tables and lines for people, JSON for programs, one clear message for every error.

With --json standard output holds one JSON object (or JSON lines, where a command says so) and nothing else. Errors are
told on standard error, with what to do next; with --json also as {"error": code, "message": ..., "hint": ...}.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from koinon.errors import InvariantBroken, KoinonError

from .home import HOME_VARIABLE, Home, default_home

EXIT_CODES = {
    0: "done",
    1: "another failure",
    2: "the command line, a file of the home or an environment variable is wrong",
    3: "the chain cannot be reached, is another one, or refuses",
    4: "the committee cannot be reached, or what came from outside does not verify",
    5: "the law of the federation refuses the operation",
    6: "an update cannot be protected or opened",
    7: "the user's model code failed",
    8: "the followed task failed or was stopped",
    70: "a bug in Koinon",
    130: "interrupted",
}
TASK_ENDED_BADLY = 8
DEBUG_VARIABLE = "KOINON_DEBUG"

HomeOption = Annotated[
    Path | None, typer.Option("--home", help=f"The node's home.  [default: ${HOME_VARIABLE}, else ~/.koinon]")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]


def home_of(option: Path | None) -> Home:
    return Home((option or default_home()).expanduser().resolve())


def out() -> Console:
    return Console(highlight=False)


def err() -> Console:
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line for people on standard error, where it disturbs no output."""
    err().print(escape(text), soft_wrap=True)


def emit(value: Any) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(value, default=_plain) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    return f"0x{value.hex()}" if isinstance(value, bytes) else str(value)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """A table on standard output, or `empty` on standard error."""
    if not rows:
        say(empty)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    console = out()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width to wrap at
    console.print(shown)


def short(identity: bytes) -> str:
    """The first digits of a task's identity, as people type them."""
    return identity.hex()[:12]


def percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f} %"


def clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


# --- errors ------------------------------------------------------------------------------------------------------


def fail(error: KoinonError, *, as_json: bool) -> NoReturn:
    """Tell the error and what to do next; end with its exit code."""
    if as_json:
        emit({"error": error.code, "message": error.message, "hint": error.hint or ""})
    say(f"error: {error.message}")
    if error.hint:
        say(f"next:  {error.hint}")
    raise typer.Exit(error.exit_code)


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """A command's body, sync or async: its errors become one message and an exit code, never a traceback.

    KOINON_DEBUG=1 shows the traceback all the same.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except KoinonError as error:
            _debug()
            fail(error, as_json=as_json)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None
        except (typer.Exit, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            _debug()
            bug = InvariantBroken(
                f"{type(error).__name__}: {error}", hint=f"this is a bug; {DEBUG_VARIABLE}=1 shows where"
            )
            fail(bug, as_json=as_json)

    return wrapper


def _debug() -> None:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exc()
