"""Whoever meets an error of the operator's side is told what to do next."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from koinon import errors

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("koinon", "node", "aggregator", "pbft", "scripts")
OPERATORS = (errors.ConfigError, errors.ChainUnreachable, errors.WrongChain, errors.ContractMissing,
             errors.StorageDamaged, errors.StorageFailed)  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_error_that_an_operator_meets_has_a_hint(folder: str) -> None:
    silent = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.parent.name in ("learning", "privacy", "validation"):  # of a task's settings, which they name
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            kind = getattr(errors, getattr(node.exc.func, "id", ""), None)
            told = any(keyword.arg == "hint" for keyword in node.exc.keywords)
            if isinstance(kind, type) and issubclass(kind, OPERATORS) and kind.advice is None and not told:
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


def test_a_hint_of_its_own_goes_before_the_kinds_advice() -> None:
    assert errors.WrongChain("x").hint == errors.WrongChain.advice
    assert errors.WrongChain("x", hint="y").hint == "y"
