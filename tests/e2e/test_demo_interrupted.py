"""Ctrl-C in the middle of the demo: every process that it started is gone, and the exit code says so."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from scripts.federation import ROOT, descendants, environment, module
from tests.e2e.helpers import alive, processes_naming, until


def test_an_interrupted_demo_leaves_no_process(tmp_path: Path) -> None:
    log = tmp_path / "demo.log"
    command = [*module("scripts.demo"), "--rounds", "50", "--nodes", "3", "--out", str(tmp_path / "runs")]
    with log.open("w") as out:
        demo = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=out, stderr=out, start_new_session=True)
    try:
        until(lambda: "replica-3 is ready" in log.read_text(), 120, "the committee is ready")
        children = descendants(demo.pid)
        assert len(children) >= 9  # chain, replicas, aggregator, nodes
        os.kill(demo.pid, signal.SIGINT)
        assert demo.wait(30) == 130
        until(lambda: not any(map(alive, children)), 5, "children end")
        assert processes_naming(str(tmp_path)) == []
        assert "interrupted" in log.read_text()
    finally:
        if demo.poll() is None:
            os.kill(demo.pid, signal.SIGTERM)
            demo.wait(30)
