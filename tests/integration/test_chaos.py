"""A short `make chaos`: its scenarios and checks, on loopback, without a privilege; and the checks do find lies."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from koinon.errors import ConfigError
from scripts.chaos import namespaces
from scripts.chaos.__main__ import chosen
from scripts.chaos.flatness import Sample
from scripts.chaos.load import Acknowledged, Load
from scripts.chaos.namespaces import Namespaces
from scripts.chaos.proxies import Proxies
from scripts.chaos.scene import FAULTS, Verdict, Violation
from scripts.chaos.stage import Stage
from scripts.chaos.steady import take

PLAYED = ("kill-9-primary", "stop", "wipe", "equivocator")
PATIENCE = 6.0
"""A test machine does other things besides; `make chaos` measures, this asks whether promises are kept at all."""


class Played:
    """What the short run left."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.found_loss = ""
        self.found_refusal = ""
        self.left: list[int] | None = None
        self.sample: Sample | None = None


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    result = Played()
    folder = tmp_path_factory.mktemp("chaos")

    async def play() -> None:
        async with Stage(folder, Proxies.name, replicas=4, patience=PATIENCE, say=print) as stage:
            for name in PLAYED:
                result.verdicts[name] = await stage.play(FAULTS[name])
            if (scene := stage.scene) is None:
                return  # the last fault failed: its own test says so
            result.sample = await take(scene.committee, 1.0, len(scene.load.acknowledged))
            await lie(stage, scene.load)
        result.left = list(scene.committee.pids.values())

    async def lie(stage: Stage, load: Load) -> None:
        """Tell the checks of an acknowledgement that nobody gave, and of a client's complaint."""
        load.acknowledged.append(Acknowledged(b"never ordered", time.monotonic()))
        try:
            await stage.examiner.examine()
        except Violation as error:
            result.found_loss = str(error)
        load.acknowledged[:] = [one for one in load.acknowledged if one.request != b"never ordered"]
        load.problems.append("a client was refused")
        try:
            await stage.examiner.examine()
        except Violation as error:
            result.found_refusal = str(error)

    asyncio.run(asyncio.wait_for(play(), 240))
    return result


@pytest.mark.parametrize("name", PLAYED)
def test_committee_keeps_its_promises_through(played: Played, name: str) -> None:
    verdict = played.verdicts[name]
    assert (verdict.outcome, verdict.problems) == ("ok", []), verdict.folder
    assert verdict.acknowledged > 0
    assert verdict.memory_mb > 0


def test_honest_replicas_hold_evidence_against_an_equivocator(played: Played) -> None:
    assert any("evidence at" in note for note in played.verdicts["equivocator"].notes)


def test_examiner_finds_an_acknowledged_operation_that_is_in_no_log(played: Played) -> None:
    assert "is in no log" in played.found_loss


def test_examiner_reports_what_clients_found(played: Played) -> None:
    assert "a client was refused" in played.found_refusal


def test_a_sample_has_all_that_each_replica_takes(played: Played) -> None:
    assert played.sample is not None
    assert len(played.sample.replicas) == 4
    for usage in played.sample.replicas:
        assert usage.memory_bytes > 1_000_000
        assert usage.descriptors > 3
        assert min(usage.archive_bytes, usage.journal_bytes, usage.snapshots_bytes, usage.sequence) > 0


def test_no_process_is_left_when_the_stage_closes(played: Played) -> None:
    assert played.left == []


def test_an_unknown_fault_is_refused_by_name() -> None:
    assert [fault.name for fault in chosen("stop, wipe")] == ["stop", "wipe"]
    assert chosen("") == list(FAULTS.values())
    with pytest.raises(ConfigError, match="earthquake"):
        chosen("stop,earthquake")


def test_longest_gap_counts_the_silence_at_both_ends() -> None:
    load = Load.__new__(Load)
    load.acknowledged = [Acknowledged(b"", at) for at in (1.0, 5.0, 5.5, 9.0)]
    assert load.longest_gap(4.0, 10.0) == 3.5
    assert load.longest_gap(9.5, 20.0) == 10.5
    assert load.longest_gap(0.0, 1.5) == 1.0


def test_a_cut_proxy_holds_bytes_of_one_direction_until_it_heals() -> None:
    async def scenario() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            proxies = Proxies(2)
            await proxies.connect([port, port])
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(proxies.url(0, 1).rsplit(":", 1)[1]))
                writer.write(b"one")
                assert await reader.readexactly(3) == b"one"
                proxies.cut(1, 0)
                writer.write(b"two")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(held := asyncio.ensure_future(reader.readexactly(3))), 0.3)
                proxies.heal()
                assert await asyncio.wait_for(held, 10) == b"two"
                writer.close()
            finally:
                await proxies.disconnect()

    asyncio.run(scenario())


def test_namespaces_leave_nothing_behind() -> None:
    if reason := namespaces.missing():
        pytest.skip(reason)
    network = Namespaces(2)
    network.start()
    try:
        network.cut(0, 1)
        network.lose(50)
        network.heal()
    finally:
        network.stop()
    assert not list(Path("/run/netns").glob(f"koinon-{os.getpid()}-*"))
    assert not Path(f"/sys/class/net/kn{os.getpid()}").exists()
