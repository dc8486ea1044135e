"""docs/cli.md and the command line say the same: what is not documented fails here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from koinon import errors
from node.cli import COMMANDS, app
from node.console import EXIT_CODES
from node.taskfile import TaskFile

DOCS = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
EVERYWHERE = {"--home", "--json", "--help", "-h"}


def section(name: str) -> str:
    found = re.search(rf"^## `koinon {name}`\n(.*?)(?=^#|\Z)", DOCS, re.DOTALL | re.MULTILINE)
    assert found, f"docs/cli.md has no section for koinon {name}"
    return found.group(1)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_an_example(name: str) -> None:
    assert f"$ koinon {name}" in section(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_documented(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {each for parameter in command.params for each in parameter.opts if each.startswith("--")} - EVERYWHERE
    assert {each for each in options if each not in section(name)} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_holds_an_example(name: str) -> None:
    assert f"koinon {name}" in (typer.main.get_command(app).commands[name].help or "")  # type: ignore[attr-defined]


def test_nothing_is_documented_that_is_not_there() -> None:
    assert set(re.findall(r"^## `koinon ([a-z]+)`", DOCS, re.MULTILINE)) == {*COMMANDS, "ceremony"}


def test_every_step_of_a_ceremony_is_documented_with_its_options_and_an_example() -> None:
    steps = typer.main.get_command(app).commands["ceremony"].commands  # type: ignore[attr-defined]
    said = section("ceremony")
    for name, command in steps.items():
        assert f"$ koinon ceremony {name}" in said
        assert f"koinon ceremony {name}" in (command.help or "")
        options = {each for parameter in command.params for each in parameter.opts if each.startswith("--")}
        assert {each for each in options - EVERYWHERE if each not in said} == set()


def test_the_exit_codes_are_documented_as_they_are() -> None:
    listed = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", DOCS, re.MULTILINE)}
    assert listed == EXIT_CODES


def test_every_error_ends_with_a_documented_exit_code() -> None:
    def tree(kind: type[errors.KoinonError]) -> set[int]:
        return {kind.exit_code}.union(*(tree(each) for each in kind.__subclasses__()))

    assert tree(errors.KoinonError) <= set(EXIT_CODES)


def test_every_key_of_a_task_file_is_documented() -> None:
    fields = {f"[{name}]" if name == "config" else name for name in TaskFile.__struct_fields__}
    assert {name for name in fields if f"| `{name}` |" not in section("submit")} == set()
