"""What a replica's process does before it serves."""

from __future__ import annotations

import resource
import subprocess
import sys

PROGRAM = """
import resource
from pbft.__main__ import _allow_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
_allow_connections()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_replica_takes_as_many_open_files_as_it_may() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["256", "256"]
