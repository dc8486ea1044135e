"""The wheel is the tree: what is installed is what was read and reviewed, under one name in site-packages."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROLES = ("contracts", "node", "aggregator", "pbft", "scripts")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.sh", "*.md", "*.egg-info")


def copy_tree(target: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    for name in ("koinon", *ROLES):
        shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)


def packaged(tree: Path) -> set[str]:
    """The paths that the files of `tree` should have in a wheel: roles are nested under the project's name."""
    found = {
        f"koinon/{path.relative_to(tree)}" for role in ROLES for path in (tree / role).rglob("*") if path.is_file()
    }
    return found | {str(path.relative_to(tree)) for path in (tree / "koinon").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], zipfile.ZipFile]:
    tree = tmp_path_factory.mktemp("tree")
    copy_tree(tree)
    expected = packaged(tree)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tree / "dist").glob("*.whl")
    return expected, zipfile.ZipFile(wheel)


def test_wheel_holds_every_file_of_the_tree_and_nothing_else(built: tuple[set[str], zipfile.ZipFile]) -> None:
    expected, wheel = built
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert len(expected) > 50


def test_wheel_takes_one_name_in_site_packages(built: tuple[set[str], zipfile.ZipFile]) -> None:
    tops = {name.split("/")[0] for name in built[1].namelist()}
    assert tops == {"koinon", f"koinon-{PROJECT['project']['version']}.dist-info"}


def test_wheel_carries_the_licence(built: tuple[set[str], zipfile.ZipFile]) -> None:
    (name,) = [name for name in built[1].namelist() if name.endswith("/LICENSE")]
    assert b"Apache License" in built[1].read(name)


@pytest.mark.parametrize("command", sorted(PROJECT["project"]["scripts"]))
def test_every_command_names_a_function_of_the_tree(command: str) -> None:
    module, function = PROJECT["project"]["scripts"][command].split(":")
    path = ROOT.joinpath(*module.removeprefix("koinon.").split(".")).with_suffix(".py")
    defined = {item.name for item in ast.parse(path.read_text()).body if isinstance(item, ast.FunctionDef)}
    assert function in defined


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_pin_every_direct_dependency_to_one_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "a constraint is NAME==VERSION"
    pinned = {normal(line.split("==")[0]) for line in lines}
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    missing = {normal(re.split(r"[<>=!;\[ ]", name)[0]) for name in wanted} - pinned
    assert not missing


def imports(path: Path) -> set[str]:
    """The top-level names that a file imports absolutely."""
    found = set()
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            found |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.level == 0 and item.module:
            found.add(item.module.split(".")[0])
    return found


def test_phe_is_imported_in_one_file_only() -> None:
    """It is GPL-3.0: one seam, so that a distribution can leave it out."""
    users = [path for folder in ("koinon", *ROLES) for path in (ROOT / folder).rglob("*.py") if "phe" in imports(path)]
    assert len(users) == 1
    assert users[0].parent == ROOT / "koinon" / "privacy"
