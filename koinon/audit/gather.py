"""Collecting evidence: from the running replicas and chain, or from the files that they left.

Nothing gathered is believed: `examine` judges it. Blobs are asked of every replica, so that a false copy is noticed
although honest ones exist. Bounds: `ENTRIES_MAX` entries of a log, `BLOBS_CONCURRENT_MAX` requests at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from koinon.blobs import BlobStore
from koinon.client import CommitteeClient
from koinon.config import FederationFile, load_federation
from koinon.encoding import ZERO_DIGEST, decode
from koinon.errors import (
    AuthenticationError,
    BlobMismatch,
    ConfigError,
    KoinonError,
    RemoteError,
    StorageDamaged,
    Unavailable,
)
from koinon.opening import UPDATE_BYTES_MAX, component_digests
from koinon.rounds.state import Task
from koinon.wire import CommittedBatch, Opening

from .archives import read_archive
from .chain import from_json, read_chain
from .evidence import BlobCopy, Evidence, ReplicaLog
from .examine import Selection
from .history import History, law_of, replay

PAGE_ENTRIES = 1024
ENTRIES_MAX = 1_000_000
BLOBS_CONCURRENT_MAX = 16
CHAIN_FILE = "chain.json"

Fetch = Callable[[bytes], BlobCopy]


# --- a running federation ---------------------------------------------------------------------------------------


async def gather_online(federation: FederationFile, selection: Selection) -> tuple[Evidence, History]:
    """What the replicas and the chain of a running federation say. ChainUnreachable when no chain answers."""
    async with CommitteeClient(federation) as client:
        chain = await asyncio.to_thread(read_chain, federation)  # before the log: what it holds was certified before
        await client.refresh()
        logs = await asyncio.gather(*(_log(client, index) for index in range(len(client.federation.replicas))))
        history = replay(federation, logs)
        blobs = await _fetch(client, first_digests(history, selection))
        blobs |= await _fetch(client, component_names(history, selection, blobs) - set(blobs))
        tasks = await _tasks(client, history)
        return Evidence(federation, tuple(logs), chain, blobs, tasks), history


async def _log(client: CommitteeClient, index: int) -> ReplicaLog:
    entries: list[CommittedBatch] = []
    try:
        first = 1
        while len(entries) < ENTRIES_MAX:
            page = await client.log(index, first=first, limit=PAGE_ENTRIES)
            if not page:
                break
            entries += page
            first = page[-1].sequence + 1
    except Unavailable as error:
        if not entries:
            return ReplicaLog(index, absent=error.message)
        return ReplicaLog(index, tuple(entries), problem=error.message)
    except (msgspec.MsgspecError, KoinonError) as error:
        return ReplicaLog(index, tuple(entries), problem=f"its log after entry {len(entries)}: {error}")
    return ReplicaLog(index, tuple(entries))


async def _fetch(client: CommitteeClient, digests: Iterable[bytes]) -> dict[bytes, BlobCopy]:
    """Every replica's copy of every blob."""
    gate = asyncio.Semaphore(BLOBS_CONCURRENT_MAX)

    async def one(digest: bytes, index: int) -> bytes | str | None:
        async with gate:
            try:
                return await client.get_blob_from(index, digest)
            except Unavailable:
                return None
            except KoinonError as error:
                return f"replica {index} has a false copy ({error.message})"

    async def all_copies(digest: bytes) -> tuple[bytes, BlobCopy]:
        copies = await asyncio.gather(*(one(digest, index) for index in range(len(client.federation.replicas))))
        content = next((copy for copy in copies if isinstance(copy, bytes)), None)
        return digest, BlobCopy(content, tuple(copy for copy in copies if isinstance(copy, str)))

    return dict(await asyncio.gather(*map(all_copies, sorted(digests))))


async def _tasks(client: CommitteeClient, history: History) -> dict[bytes, Task] | None:
    """The certified rounds as f+1 replicas report them; None when they don't agree on anything."""
    known = law_of(history).state.tasks
    try:
        said = {identity: await client.task(identity, rounds=0) for identity in known}
    except (Unavailable, AuthenticationError, msgspec.MsgspecError):
        return None
    for identity, task in said.items():  # rounds that were certified after the log was read are not lies
        task.rounds = [each for each in task.rounds if known[identity].round(each.number) is not None
                       and _certified(known[identity], each.number)]  # fmt: skip
    return said


def _certified(task: Task, number: int) -> bool:
    found = task.round(number)
    return found is not None and found.certificate is not None


# --- the files of a run -----------------------------------------------------------------------------------------


def gather_offline(folder: Path, selection: Selection) -> tuple[Evidence, History]:
    """The same from a run's folder: federation.json, replica-*/data and chain.json, here or one folder below."""
    homes = sorted([*folder.glob("replica-*/"), *folder.glob("*/replica-*/")])
    files = sorted([*folder.glob("federation.json"), *folder.glob("*/federation.json")])
    if not homes or not files:
        raise ConfigError(f"{folder} holds no federation.json or no replica's home", hint="--offline runs/latest")
    federation = load_federation(files[0])
    data = {int(home.name.removeprefix("replica-")): home / "data" for home in homes}
    logs = tuple(_archived(index, path) for index, path in sorted(data.items()))
    history = replay(federation, logs)
    kept = folder / CHAIN_FILE
    chain = from_json(kept.read_bytes()) if kept.exists() else None
    stores = {index: path / "blobs" for index, path in sorted(data.items()) if (path / "blobs").is_dir()}

    def fetch(digest: bytes) -> BlobCopy:
        content, false = None, []
        for index, path in stores.items():
            try:
                content = BlobStore(path).get(digest)
            except BlobMismatch:
                name = BlobStore(path).path(digest).relative_to(folder)
                false.append(f"replica {index} has a false copy ({name} does not hash to its name)")
            except Unavailable:
                continue
        return BlobCopy(content, tuple(false))

    blobs = {digest: fetch(digest) for digest in sorted(first_digests(history, selection))}
    blobs |= {digest: fetch(digest) for digest in sorted(component_names(history, selection, blobs) - set(blobs))}
    return Evidence(federation, logs, chain, blobs), history


def _archived(index: int, data: Path) -> ReplicaLog:
    path = data / "archive"
    try:
        entries, problem = read_archive(path)
    except FileNotFoundError:
        return ReplicaLog(index, absent=f"replica {index}: no archive at {path}")
    except (OSError, StorageDamaged) as error:
        return ReplicaLog(index, problem=f"{path.name}: {error}")
    return ReplicaLog(index, entries, problem=problem)


# --- which blobs ------------------------------------------------------------------------------------------------


def first_digests(history: History, selection: Selection) -> set[bytes]:
    """Updates, openings and models that the selected rounds name."""
    wanted: set[bytes] = set()
    for identity, task in law_of(history).state.tasks.items():
        if not selection.wants(identity, task):
            continue
        for round_ in task.rounds:
            if round_.certificate is not None and selection.covers(round_.number):
                wanted |= {kept.update for kept in round_.submissions.values()}
                wanted |= {round_.certificate.opening, round_.certificate.model, round_.parent_model}
    return wanted


def component_names(history: History, selection: Selection, blobs: dict[bytes, BlobCopy]) -> set[bytes]:
    """Component sums and witnesses that the openings name; an unreadable opening names none."""
    wanted: set[bytes] = set()
    for identity, task in law_of(history).state.tasks.items():
        if not selection.wants(identity, task):
            continue
        for round_ in task.rounds:
            copy = blobs.get(round_.certificate.opening) if round_.certificate else None
            if copy is None or copy.content is None:
                continue
            try:
                opening = decode(Opening, copy.content, bytes_max=UPDATE_BYTES_MAX)
                wanted |= component_digests(opening) | ({opening.witness} - {ZERO_DIGEST})
            except RemoteError:
                continue
    return wanted
