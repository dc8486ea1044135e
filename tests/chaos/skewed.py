"""A replica whose clock is wrong: koinon-replica's own program, whose one reading of the clock is shifted.

python -m tests.chaos.skewed SECONDS --home DIR
"""

from __future__ import annotations

import sys

import pbft.__main__ as program
from pbft import engine

if __name__ == "__main__":
    true_now_ms = engine.now_ms
    offset_ms = round(1000 * float(sys.argv[1]))
    engine.now_ms = lambda: true_now_ms() + offset_ms
    sys.exit(program.main(sys.argv[2:]))
