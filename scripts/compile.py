"""Compile the contracts into contracts/artifacts, or check that the committed artifacts are what they compile to.

    python -m scripts.compile            write the artifacts
    python -m scripts.compile --check    exit 1 when any committed artifact differs by a byte

The compiler is $SOLC_BIN, else solc-js under Node, else the native compiler that py-solc-x downloads. All are held to
one version, and give equal bytes. OpenZeppelin's sources come from npm; users of Koinon need none of this.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from koinon.artifacts import CONTRACTS
from koinon.errors import ConfigError, InvariantBroken, KoinonError

from .npm import Package, fetch, node_command

SOLC_VERSION = "0.8.37"
COMPILE_TIMEOUT_S = 300
ROOT = Path(__file__).resolve().parent.parent / "contracts"
SOLC_JS = Package(
    "solc",
    SOLC_VERSION,
    "sha512-ieUYdPDRGNKMsZpCfi9tY64Q+ASoL8tyhLuvf9cFiqDs+6ijlx8Wn2CRi0N71AlCvRx0V092rlUYu3b3PuxWlA==",
)
OPENZEPPELIN = Package(
    "@openzeppelin/contracts",
    "5.7.0",
    "sha512-IL2AZpI+7THMzt1u6Cxmc1zLwVnudtUGvrqXQ/HnbLKfQ/8dIWMMQPDwPIjRQzNrlAo4cxZaCGRB/XvwPo9ILA==",
)
SETTINGS = {
    "evmVersion": "cancun",
    "optimizer": {"enabled": True, "runs": 1000},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {
        "*": {
            "*": [
                "abi",
                "evm.bytecode.object",
                "evm.deployedBytecode.object",
                "evm.deployedBytecode.immutableReferences",
                "storageLayout",
            ]
        }
    },
}

_IMPORT = re.compile(r'^import\s+(?:\{[^}]*\}\s+from\s+)?"([^"]+)";', re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.compile", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on any difference")
    options = parser.parse_args(argv)
    try:
        compiled = compile_contracts()
    except KoinonError as error:
        print(f"error: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return _check(compiled) if options.check else _write(compiled)


def compile_contracts() -> dict[str, str]:
    """File name -> text of every artifact. InvariantBroken carries the compiler's complaints."""
    output = _run_compiler({"language": "Solidity", "sources": _sources(), "settings": SETTINGS})
    complaints = [each["formattedMessage"] for each in output.get("errors", []) if each["severity"] != "info"]
    if complaints:
        raise InvariantBroken("the contracts do not compile cleanly:\n" + "\n".join(complaints))
    return {f"{name}.json": _artifact(output["contracts"][f"contracts/{name}.sol"][name]) for name in CONTRACTS}


def _artifact(compiled: dict[str, Any]) -> str:
    evm = compiled["evm"]
    content = {
        "abi": compiled["abi"],
        "bytecode": evm["bytecode"]["object"],
        "compiler": {"version": SOLC_VERSION, **{key: SETTINGS[key] for key in ("evmVersion", "optimizer")}},
        "deployedBytecode": evm["deployedBytecode"]["object"],
        "immutableReferences": evm["deployedBytecode"].get("immutableReferences", {}),
        "storageLayout": compiled["storageLayout"],
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _sources() -> dict[str, dict[str, str]]:
    """Our sources and everything that they import, by the names under which the compiler knows them."""
    libraries = fetch(OPENZEPPELIN)
    found: dict[str, dict[str, str]] = {}
    waiting = [f"contracts/{name}.sol" for name in CONTRACTS]
    waiting += [f"contracts/interfaces/{path.name}" for path in sorted((ROOT / "interfaces").glob("*.sol"))]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        prefix = OPENZEPPELIN.name + "/"
        path = libraries / name.removeprefix(prefix) if name.startswith(prefix) else ROOT.parent / name
        text = path.read_text(encoding="utf-8")
        found[name] = {"content": text}
        waiting += [_resolve(name, target) for target in _IMPORT.findall(text)]
    return dict(sorted(found.items()))


def _resolve(importer: str, target: str) -> str:
    if not target.startswith("."):
        return target
    return os.path.normpath(os.path.join(os.path.dirname(importer), target)).replace(os.sep, "/")


def _run_compiler(request: dict[str, Any]) -> dict[str, Any]:
    command = _compiler()
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    if f"Version: {SOLC_VERSION}+" not in version:
        raise ConfigError(
            f"{command[0]} is not solc {SOLC_VERSION}: {version.strip().splitlines()[-1:]}",
            hint="the version that contracts/ names",
        )
    done = subprocess.run(
        [*command, "--standard-json"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
        check=True,
    )
    output: dict[str, Any] = json.loads(done.stdout)
    return output


def _compiler() -> list[str]:
    if chosen := os.environ.get("SOLC_BIN"):
        return [chosen]
    try:
        wrapper = Path(__file__).with_name("solc_wrapper.js")
        return [node_command(), str(wrapper), str(fetch(SOLC_JS) / "soljson.js")]
    except KoinonError:
        import solcx

        solcx.install_solc(SOLC_VERSION)
        return [str(solcx.install.get_executable(SOLC_VERSION))]


def _write(compiled: dict[str, str]) -> int:
    folder = ROOT / "artifacts"
    folder.mkdir(exist_ok=True)
    for name, text in compiled.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"wrote {len(compiled)} artifacts to {folder}")
    return 0


def _check(compiled: dict[str, str]) -> int:
    stale = 0
    for name, text in compiled.items():
        path = ROOT / "artifacts" / name
        committed = path.read_text(encoding="utf-8") if path.is_file() else ""
        if committed == text:
            print(f"same      {name}")
            continue
        stale += 1
        lines = difflib.unified_diff(
            committed.splitlines(), text.splitlines(), "committed", "compiled", n=0, lineterm=""
        )
        print(f"DIFFERENT {name}", *(line[:110] for line in list(lines)[:6]), sep="\n    ")
    if stale:
        print("run `python -m scripts.compile` and commit contracts/artifacts", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
