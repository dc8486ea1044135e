"""The compiled contracts as data: ABI, bytecode, and which bytes of the deployed code are immutables.

The JSON files lie in the `contracts` folder, which is beside this package in a checkout and inside it in an
installed wheel. They are read by path, so that the floor needs no import of a package whose name depends on how
Koinon was installed (docs/adr/0011).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .encoding import from_hex
from .errors import InvariantBroken

CONTRACTS = ("CreditToken", "MemberRegistry", "Committee", "RoundLedger", "Rewards")


@dataclass(frozen=True)
class Artifact:
    """One compiled contract. `immutable_references` are (start, length) spans of `deployed_bytecode`."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    deployed_bytecode: bytes
    immutable_references: tuple[tuple[int, int], ...]

    def matches(self, code: bytes) -> bool:
        """Whether `code` is this contract's deployed code with any values in its immutables."""
        known = self.deployed_bytecode
        return len(code) == len(known) and self._blank(code) == self._blank(known)

    def _blank(self, code: bytes) -> bytes:
        blanked = bytearray(code)
        for start, length in self.immutable_references:
            blanked[start : start + length] = bytes(length)
        return bytes(blanked)


def artifacts_folder() -> Path:
    """Where the committed JSON files are, in a checkout, an editable install or a wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here / "contracts" / "artifacts", here.parent / "contracts" / "artifacts"):
        if folder.is_dir():
            return folder
    raise InvariantBroken("the contracts' artifacts are not part of this installation")


@cache
def artifact(name: str) -> Artifact:
    """The committed artifact of contract `name` (one of CONTRACTS)."""
    data = json.loads((artifacts_folder() / f"{name}.json").read_text(encoding="utf-8"))
    spans = [(ref["start"], ref["length"]) for refs in data["immutableReferences"].values() for ref in refs]
    return Artifact(
        name=name,
        abi=data["abi"],
        bytecode=from_hex(data["bytecode"]),
        deployed_bytecode=from_hex(data["deployedBytecode"]),
        immutable_references=tuple(sorted(spans)),
    )
