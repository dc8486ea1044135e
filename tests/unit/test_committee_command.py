"""koinon-committee: who sits where after a change, seat files, what is refused before it is sent, and the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import typer.main
from typer.testing import CliRunner

from koinon.committees import Committees
from koinon.config import FederationFile, create_keystore, save_federation
from koinon.encoding import to_hex
from koinon.epochs import Seat
from koinon.errors import ConfigError, Rejected
from scripts import committee
from scripts._committee import added, load_seat, removed, replaced, require_fits, require_new, save_seat, seats_of
from tests.unit.test_epochs import DOMAIN, federation, handover, key, seats

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(committee.app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def home(tmp_path: Path, file: FederationFile, role: str, number: int) -> Path:
    """A party's home with the key `number`."""
    made = tmp_path / role
    made.mkdir()
    save_federation(made / "federation.json", file)
    (made / "password").write_text("only for tests")
    (made / "config.toml").write_text(f'role = "{role}"\n')
    create_keystore(made / "keystore.json", "only for tests", key(number).secret)
    return made


def test_a_seat_is_added_at_the_end_and_those_after_a_removed_one_move_up() -> None:
    present = seats(0, 1, 2, 3)
    assert added(present, *seats(4)) == seats(0, 1, 2, 3, 4)
    assert removed(present, 1) == seats(0, 2, 3)
    assert replaced(present, 1, *seats(5)) == seats(0, 5, 2, 3)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_replica_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(ConfigError, match="only 0 to 3"):
        removed(seats(0, 1, 2, 3), index)
    with pytest.raises(ConfigError, match="only 0 to 3"):
        replaced(seats(0, 1, 2, 3), index, *seats(4))


@pytest.mark.parametrize(
    "following",
    [(0, 1, 2, 3), (0, 1, 4, 5), (0, 1, 2, 3, 3), (), (0, 1, 2, 3, 4, 5, 6)],
    ids=["the same", "too few stay", "one twice", "nobody", "too many newcomers"],
)
def test_a_change_that_the_law_refuses_is_refused_before_it_is_sent(following: tuple[int, ...]) -> None:
    with pytest.raises(Rejected) as refused:
        require_fits(federation(), seats(*following))
    assert refused.value.rule == "committee-change"


def test_a_change_that_the_law_takes_names_the_next_epoch() -> None:
    assert require_fits(federation().with_committee(3, seats(0, 1, 2, 3)), seats(0, 1, 2, 4)).epoch == 4


def test_a_seat_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    (seat,) = seats(4)
    save_seat(tmp_path / "seat.json", key(4), DOMAIN, seat)
    assert load_seat(tmp_path / "seat.json", DOMAIN) == seat


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", to_hex(key(5).address)),
        ("sealing_key", to_hex(bytes(31))),
        ("url", "https://elsewhere:7000"),
        ("signature", "0x00"),
        ("colour", "red"),
    ],
)
def test_a_seat_file_that_its_key_did_not_sign_is_refused(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "seat.json"
    save_seat(path, key(4), DOMAIN, *seats(4))
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ConfigError, match=r"seat\.json"):
        load_seat(path, DOMAIN)


def test_a_new_replicas_home_is_made_once_and_its_seat_is_what_the_registrar_reads(tmp_path: Path) -> None:
    save_federation(tmp_path / "federation.json", federation())
    new, out = tmp_path / "replica-4", tmp_path / "seat-4.json"
    with pytest.raises(ConfigError, match="no home yet"):
        run("seat", "--home", str(new))
    for _ in range(2):
        run(
            "seat", "--home", str(new), "--federation", str(tmp_path / "federation.json"),
            "--url", "http://127.0.0.1:7004", "--out", str(out),
        )  # fmt: skip
    seat = load_seat(out, DOMAIN)
    assert seat.url == "http://127.0.0.1:7004"
    assert seat not in seats_of(federation())
    assert json.loads(run("seat", "--home", str(new))) == json.loads(out.read_text())


def test_only_the_registrar_changes_the_committee(tmp_path: Path) -> None:
    registrar = federation()
    somebody = home(tmp_path, registrar, "node", 7)
    with pytest.raises(ConfigError, match="not the registrar's home"):
        run("remove", "1", "--home", str(somebody))


def test_rotating_to_the_same_key_is_refused(tmp_path: Path) -> None:
    given: Seat = msgspec.structs.replace(seats(1)[0], url="http://replica-1:7000")
    file = federation()
    registrar = home(tmp_path, FederationFile(**{**_fields(file), "registrar": to_hex(key(9).address)}), "registrar", 9)
    save_seat(tmp_path / "seat.json", key(1), DOMAIN, given)
    with pytest.raises(ConfigError, match="the key that is to be rotated"):
        run("rotate", "1", "--home", str(registrar), "--seat", str(tmp_path / "seat.json"), "--dry-run")


def test_a_former_key_is_not_seated_again() -> None:
    """The contract refuses a newcomer that was convicted meanwhile, and every handover after it."""
    committees = Committees(federation())
    committees.add([handover(0, seats(0, 1, 2), (0, 1, 2))])
    for index in (0, 5):
        require_new(committees, *seats(index))
    require_new(committees, None)
    with pytest.raises(ConfigError, match="was a replica in epoch 0"):
        require_new(committees, *seats(3))


def _fields(file: FederationFile) -> dict[str, object]:
    return {name: getattr(file, name) for name in file.__struct_fields__}


def test_every_command_and_option_is_documented_with_an_example() -> None:
    found = re.search(r"^# `koinon-committee`\n(.*?)(?=^# |\Z)", DOCS, re.DOTALL | re.MULTILINE)
    assert found
    section = found.group(1)
    for name, command in typer.main.get_command(committee.app).commands.items():  # type: ignore[attr-defined]
        assert f"$ koinon-committee {name}" in section
        assert f"koinon-committee {name}" in (command.help or "")
        options = {each for parameter in command.params for each in parameter.opts if each.startswith("--")}
        assert {each for each in options - {"--help"} if each not in section} == set()
