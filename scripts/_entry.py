"""How the scripts end: a typed error becomes two lines on standard error and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from koinon.errors import KoinonError


def run(app: Callable[[], object]) -> None:
    """Run a command to its end; exits with the error's code when it raises one of ours."""
    try:
        app()
    except KoinonError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
