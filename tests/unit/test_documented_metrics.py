"""What docs/operating.md tells an operator to watch is there to be watched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPERATING = (ROOT / "docs" / "operating.md").read_text()
DOCUMENTED = set(re.findall(r"\bkoinon_[a-z_]+[a-z]\b", OPERATING))
ONLY_AT = set(re.findall(r"^\| `(koinon_\w+)[^|]*\(aggregator\) \|", OPERATING, re.MULTILINE))
"""Those that the aggregator alone has."""


def _registered(module: str) -> set[str]:
    """The metrics of a process that loaded this module, by the names that it exposes them under."""
    said = f"import {module}; from koinon.observe import metrics; print(metrics().decode())"
    told = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"^# TYPE (koinon_\w+) ", told.stdout, re.MULTILINE))


def test_metrics_are_documented() -> None:
    assert len(DOCUMENTED) > 20
    assert ONLY_AT < DOCUMENTED


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("pbft.__main__", DOCUMENTED - ONLY_AT),
        ("aggregator.__main__", ONLY_AT | {"koinon_refused_total"}),
    ],
    ids=["replica", "aggregator"],
)
def test_every_documented_metric_is_registered_by_the_process_that_it_is_said_of(
    module: str, expected: set[str]
) -> None:
    assert not expected - _registered(module)
