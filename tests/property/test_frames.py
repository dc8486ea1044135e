"""Frames, on connections and on disk: what was packed comes out again, and hostile bytes are a typed error."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.bundle import BUNDLE_MESSAGES_MAX, Outbox, unbundle
from koinon.errors import Malformed, StorageDamaged
from koinon.streams import FRAME_BYTES_MAX, read_answers, read_asked
from koinon.wire import REPLIES_MAX
from pbft.journal import Journal
from pbft.messages import Record, ViewRecord

BYTES_MAX = 1 << 22
messages = st.lists(st.binary(max_size=300), min_size=1, max_size=700)


async def _taken(sent: list[bytes]) -> list[bytes]:
    outbox = Outbox(messages_max=10_000, bytes_max=BYTES_MAX)
    for message in sent:
        outbox.put(message)
    frames = [await outbox.take() for _ in range((len(sent) - 1) // BUNDLE_MESSAGES_MAX + 1)]
    return [message for frame in frames for message in unbundle(frame, bytes_max=BYTES_MAX)]


@given(messages)
def test_an_outbox_gives_every_message_once_and_in_order_in_as_few_frames_as_fit(sent: list[bytes]) -> None:
    assert asyncio.run(_taken(sent)) == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_a_bundle_or_malformed(frame: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert 0 < len(unbundle(frame, bytes_max=300)) <= BUNDLE_MESSAGES_MAX
    with contextlib.suppress(Malformed):
        assert all(0 <= tag < 2**32 for tag, _ in read_asked(frame))
    with contextlib.suppress(Malformed):
        assert all(0 < len(answer.tags) <= REPLIES_MAX for answer in read_answers(frame))
    assert FRAME_BYTES_MAX < BYTES_MAX


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 4), st.integers(0, 3000))
def test_a_journal_of_any_bytes_opens_with_true_records_or_says_that_it_is_damaged(
    noise: bytes, records: int, cut: int
) -> None:
    kept: list[Record] = [ViewRecord(epoch=0, view=view) for view in range(records)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal(path)
        for record in kept:
            journal.append(record)
            journal.sync()
        size = journal.size_bytes
        journal.close()
        path.write_bytes(path.read_bytes()[: min(size, cut)] + noise)
        with contextlib.suppress(StorageDamaged):
            again = Journal(path)
            assert list(again.records) == kept[: len(again.records)]
            again.close()
