"""`python -m node`: the same as `koinon`."""

from __future__ import annotations

from .cli import main

main()
