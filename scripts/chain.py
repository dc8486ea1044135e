"""A development chain for one machine: anvil when it can be had, else an embedded EVM.

    koinon-chain --data DIR [--port 8545] [--chain-id N] [--engine auto|anvil|embedded] [--block-time S]

anvil is $ANVIL_BIN, `anvil` on the PATH, or the pinned version out of npm, fetched once into the cache. With
--data, its chain survives a restart: state is written every second and on SIGTERM, so that SIGKILL loses at most
the last second. The embedded engine keeps nothing: it is a fresh chain at every start.

Either is one trusted process for development, not consensus. Every new chain gets a chain id of its own, because
signatures made for a chain of the same id would be good on it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from koinon.errors import ConfigError, KoinonError

from .npm import Package, fetch

ANVIL_VERSION = "1.7.1"
STATE_FILE = "anvil.json"
STATE_INTERVAL_S = 1
ENGINES = ("auto", "anvil", "embedded")

INTEGRITIES = {
    "linux-amd64": "sha512-+XmShybEaxfCrr0OUUZwYEy2OnYZt5pHH9TzBtLv3+VrK0O/ANuNSVEahqNhKHlgX7GRJ59383ofNhxkRWIYTg==",
}
"""npm's sha512 by platform, where pinned; for others npm's own check against its registry has to do."""

_SYSTEMS = {"Linux": "linux", "Darwin": "darwin", "Windows": "win32"}
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        chain_id = choose_chain_id(options.chain_id, options.data)
        engine, program = choose_engine(options.engine)
        if engine == "anvil":
            if options.data is not None:
                keep_first_genesis(options.data / STATE_FILE)
            command = anvil_command(
                program, options.host, options.port, chain_id, data=options.data, block_time_s=options.block_time
            )
            return _become(command)
        return _serve_embedded(options.host, options.port, chain_id)
    except KoinonError as error:
        print(f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="koinon-chain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8545, help="port to listen at (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder for anvil's chain; without it nothing is kept")
    parser.add_argument("--chain-id", type=int, help="default: the one kept in --data, else a fresh one")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="default: %(default)s")
    parser.add_argument(
        "--block-time", type=float, help="seconds between blocks (anvil only; default: one a transaction)"
    )
    return parser


def choose_chain_id(asked: int | None, data: Path | None) -> int:
    """The id asked for, else the one that the data folder remembers, else a fresh one; it is remembered there.

    ConfigError when the folder holds a chain of another id.
    """
    memory = data / "chain-id" if data else None
    kept = int(memory.read_text()) if memory and memory.is_file() else None
    if asked is not None and kept is not None and asked != kept:
        raise ConfigError(f"{data} holds chain {kept}, not {asked}", hint="choose an empty folder for a new chain")
    chosen = kept or asked or secrets.randbelow(2**31 - 10_000) + 10_000
    if memory is not None:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(f"{chosen}\n")
    return chosen


def choose_engine(asked: str) -> tuple[str, str]:
    """("anvil", its program) or ("embedded", ""). ConfigError when what was asked for cannot be had."""
    if asked in ("auto", "anvil"):
        try:
            return "anvil", find_anvil()
        except KoinonError as error:
            if asked == "anvil":
                raise
            print(f"no anvil ({error.message}): starting the embedded chain", file=sys.stderr)
    if find_spec("pyrevm") is None:
        raise ConfigError("the embedded chain needs pyrevm", hint="pip install pyrevm, or set ANVIL_BIN")
    return "embedded", ""


def find_anvil() -> str:
    """The program anvil: $ANVIL_BIN, the PATH, the cache, npm. ConfigError or a RemoteError when there is none."""
    if chosen := os.environ.get("ANVIL_BIN"):
        if not os.access(chosen, os.X_OK):
            raise ConfigError(
                f"ANVIL_BIN is {chosen}, which is no program", hint="the path of an anvil binary, or unset it"
            )
        return chosen
    if found := shutil.which("anvil"):
        return found
    system, machine = _SYSTEMS.get(platform.system()), _MACHINES.get(platform.machine().lower())
    if system is None or machine is None:
        raise ConfigError(
            f"there is no anvil for {platform.system()} on {platform.machine()}",
            hint="--engine embedded, or an anvil of your own in $ANVIL_BIN",
        )
    name = f"{system}-{machine}"
    package = Package(f"@foundry-rs/anvil-{name}", ANVIL_VERSION, INTEGRITIES.get(name))
    program = fetch(package) / "bin" / ("anvil.exe" if system == "win32" else "anvil")
    program.chmod(0o755)
    return str(program)


def anvil_command(
    program: str,
    host: str,
    port: int,
    chain_id: int,
    *,
    data: Path | None = None,
    block_time_s: float | None = None,
) -> list[str]:
    """anvil's command line for a Koinon devnet: free gas, Cancun rules, no rich accounts."""
    command = [program, "--host", host, "--port", str(port), "--chain-id", str(chain_id), "--quiet"]
    command += ["--hardfork", "cancun", "--accounts", "1", "--balance", "0"]
    command += ["--block-base-fee-per-gas", "0", "--gas-price", "0", "--disable-min-priority-fee"]
    if data is not None:
        command += ["--state", str(data / STATE_FILE), "--state-interval", str(STATE_INTERVAL_S)]
        command += ["--preserve-historical-states", "--cache-path", str(data / "cache")]
    if block_time_s:
        command += ["--block-time", f"{block_time_s:g}"]
    return command


def keep_first_genesis(state: Path) -> None:
    """Drop every block 0 but the oldest from anvil's state file; ConfigError when it cannot be read.

    anvil 1.7 makes a block 0 at every start, keeps those of earlier starts too, and after the second restart any of
    them may answer as the genesis. One that is in the file when anvil starts wins over the one that it makes.
    """
    if not state.is_file() or state.stat().st_size == 0:
        return
    try:
        kept = json.loads(state.read_bytes())
        geneses = [block for block in kept["blocks"] if int(block["header"]["number"], 16) == 0]
        if len(geneses) < 2:
            return
        first = min(geneses, key=lambda block: int(block["header"]["timestamp"], 16))
        kept["blocks"] = [block for block in kept["blocks"] if block is first or block not in geneses]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{state} cannot be read: {error}", hint="bring a copy back, or start a new chain") from None
    draft = state.with_suffix(".draft")
    draft.write_text(json.dumps(kept))
    draft.replace(state)


def _become(command: Sequence[str]) -> int:
    """Run anvil in this process's place, so that signals reach it and no supervisor can die before it."""
    if os.name == "posix":
        os.execv(command[0], list(command))
    return subprocess.call(command)


def _serve_embedded(host: str, port: int, chain_id: int) -> int:
    from .embedded import server

    running = server(chain_id, host, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=running.shutdown).start())
    print(f"embedded chain {chain_id} at http://{host}:{running.server_address[1]} (nothing is kept)", flush=True)
    running.serve_forever(poll_interval=0.2)
    running.server_close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
