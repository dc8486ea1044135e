"""Real development chains for tests: one process each, started through scripts.chain."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from koinon.errors import ChainUnreachable, KoinonError
from koinon.ledger import _Endpoint
from scripts.chain import find_anvil

START_TIMEOUT_S = 30
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_engine(engine: str) -> None:
    """Skip where anvil cannot be had; the embedded chain must work everywhere."""
    if engine == "anvil":
        try:
            find_anvil()
        except KoinonError as error:
            pytest.skip(f"no anvil: {error.message}")


@contextlib.contextmanager
def running_chain(engine: str, *flags: str, kill: bool = False) -> Iterator[str]:
    """The RPC address of a chain; stopped with SIGTERM in the end, or with SIGKILL."""
    port = free_port()
    command = [sys.executable, "-m", "scripts.chain", "--engine", engine, "--port", str(port), *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield _await(process, f"http://127.0.0.1:{port}")
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.communicate(timeout=30)


def _await(process: subprocess.Popen[str], rpc: str) -> str:
    endpoint = _Endpoint(rpc)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the chain ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        try:
            endpoint("eth_chainId")
            return rpc
        except ChainUnreachable:
            time.sleep(0.1)
    process.kill()
    pytest.fail("the chain did not answer in time")
