"""Changing the committee: seats as files, who sits where afterwards, and the way of a change through the log.

A seat file is what a replica's operator hands to the registrar: address, sealing key and url, signed by the seat's own
key, so that nobody seats a key that its owner does not hold.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from koinon.client import CommitteeClient
from koinon.committees import Committees
from koinon.config import FederationFile, Setting, convert, write_atomically
from koinon.encoding import from_hex, to_hex
from koinon.epochs import Seat
from koinon.errors import BadSignature, ConfigError, KoinonError, Malformed, Unavailable
from koinon.privacy.masking import usable_key
from koinon.rounds.committee import require_change_fits
from koinon.rounds.operations import ChangeCommittee
from koinon.rounds.state import State
from koinon.signing import Domain, Signer, signer_of

ASK_SECONDS = 5.0
POLL_SECONDS = 0.25
GRACE_SECONDS = 15.0

Say = Callable[[str], None]


class SeatFile(Setting, frozen=True):
    address: str
    sealing_key: str
    url: str
    signature: str


def seat_text(signer: Signer, domain: Domain, seat: Seat) -> str:
    """What a seat file holds."""
    file = SeatFile(
        address=to_hex(seat.address),
        sealing_key=to_hex(seat.sealing_key),
        url=seat.url,
        signature=to_hex(signer.sign(domain, seat)),
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=2).decode() + "\n"


def save_seat(path: Path, signer: Signer, domain: Domain, seat: Seat) -> None:
    write_atomically(path, seat_text(signer, domain, seat).encode())


def load_seat(path: Path, domain: Domain) -> Seat:
    """The seat in a file; ConfigError when it is missing, wrong, or not signed by the key that it names."""
    try:
        file = convert(SeatFile, json.loads(path.read_text()), str(path))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="its operator makes one: koinon-committee seat"
        ) from None
    try:
        seat = Seat(address=from_hex(file.address), sealing_key=from_hex(file.sealing_key), url=file.url.rstrip("/"))
        if signer_of(domain, seat, from_hex(file.signature)) != seat.address:
            raise BadSignature("it is not signed by the key that it names, or for another federation")
    except (Malformed, BadSignature, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}", hint="its operator makes one: koinon-committee seat") from None
    if not seat.url.startswith(("http://", "https://")):
        raise ConfigError(f"{path}: {seat.url!r} is no address of a service", hint="https://host:port")
    return seat


# --- who sits where -----------------------------------------------------------------------------------------------


def seats_of(federation: FederationFile) -> tuple[Seat, ...]:
    return tuple(
        Seat(address=from_hex(entry.address), sealing_key=from_hex(entry.sealing_key), url=entry.url)
        for entry in federation.replicas
    )


def added(seats: Sequence[Seat], seat: Seat) -> tuple[Seat, ...]:
    """With one more, at the end."""
    return (*seats, seat)


def removed(seats: Sequence[Seat], index: int) -> tuple[Seat, ...]:
    """Without `index`; the later ones move up."""
    require_index(seats, index)
    return (*seats[:index], *seats[index + 1 :])


def replaced(seats: Sequence[Seat], index: int, seat: Seat) -> tuple[Seat, ...]:
    """With another party, or another key of the same one, at `index`."""
    require_index(seats, index)
    return (*seats[:index], seat, *seats[index + 1 :])


def require_index(seats: Sequence[Seat], index: int) -> None:
    if not 0 <= index < len(seats):
        raise ConfigError(
            f"the committee has no replica {index}, only 0 to {len(seats) - 1}", hint="koinon-committee show lists them"
        )


def require_new(committees: Committees, seat: Seat | None) -> None:
    """ConfigError for the seat of a former member: were it convicted late of what it signed then, the chain would
    refuse the handover that seats it again, and with it every later one."""
    present = committees.federation.replica_addresses
    if seat is None or seat.address in present:
        return
    former = [each.epoch for each in committees.epochs if seat.address in each.replica_addresses]
    if former:
        hint = "give its operator a new key: koinon-committee seat, with a new home"
        raise ConfigError(f"{to_hex(seat.address)} was a replica in epoch {former[-1]} and left", hint=hint)


def require_fits(federation: FederationFile, seats: Sequence[Seat]) -> ChangeCommittee:
    """The operation; Rejected, by the law's own rule, when this committee may not follow the present one."""
    operation = ChangeCommittee(epoch=federation.epoch + 1, seats=tuple(seats))
    state = State(epoch=federation.epoch, seats=seats_of(federation))
    require_change_fits(operation, federation.epoch, federation.replica_addresses, state)
    return operation


# --- the way of a change ------------------------------------------------------------------------------------------


async def with_fresh_keys(client: CommitteeClient, seats: Sequence[Seat], say: Say) -> tuple[Seat, ...]:
    """The seats with the sealing keys that the staying replicas have for the next epoch.

    One that does not answer keeps the key that is announced: it finds it among its own when it is back.
    """
    present, epoch = client.federation.replica_addresses, client.federation.epoch + 1
    taken = Counter(seat.sealing_key for seat in seats)

    async def fresh(seat: Seat) -> Seat:
        if seat.address not in present:
            return seat
        index = present.index(seat.address)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                said = await client.seat(index, epoch=epoch)
        except (KoinonError, TimeoutError) as error:
            say(f"replica {index} keeps its sealing key: {str(error) or 'no answer'}")
            return seat
        if not usable_key(said.sealing_key):
            say(f"replica {index} keeps its sealing key: nobody can seal to the one that it names")
            return seat
        if said.sealing_key != seat.sealing_key:
            taken[said.sealing_key] += 1
        return msgspec.structs.replace(seat, sealing_key=said.sealing_key)

    def own(seat: Seat, new: Seat) -> Seat:
        """Anybody can ask a replica for its next key and name it as its own: then nobody gets it."""
        if new.sealing_key == seat.sealing_key or taken[new.sealing_key] == 1:
            return new
        say(f"replica {present.index(seat.address)} keeps its sealing key: another one names the same new one")
        return seat

    return tuple(map(own, seats, await asyncio.gather(*map(fresh, seats))))


async def change(
    client: CommitteeClient, seats: Sequence[Seat], *, seconds_max: float, say: Say
) -> list[dict[str, Any]]:
    """Have `seats` ordered as the next committee, and wait until its replicas are in that epoch; where each stands.

    Rejected, before anything is sent, when the law would refuse it; Unavailable when no quorum of the new committee is
    there in time (the change is ordered then, and goes on by itself).
    """
    await client.refresh()
    require_fits(client.federation, seats)
    operation = require_fits(client.federation, await with_fresh_keys(client, seats, say))
    await client.submit(operation)
    say(f"ordered: epoch {operation.epoch} has {len(operation.seats)} replicas; it begins at the next checkpoint")
    return await _arrive(client, operation.epoch, seconds_max, say)


async def _arrive(client: CommitteeClient, epoch: int, seconds_max: float, say: Say) -> list[dict[str, Any]]:
    """Until every replica of `epoch` is in it; a quorum is enough when the others take GRACE_SECONDS longer."""
    deadline, told = time.monotonic() + seconds_max, ""
    standing: list[dict[str, Any]] = []
    there: list[dict[str, Any]] = []
    enough: float | None = None
    while time.monotonic() < deadline:
        if client.federation.epoch < epoch:
            await client.refresh()
        standing = await standings(client)
        there = [each for each in standing if each.get("epoch", -1) >= epoch and each.get("index", -1) >= 0]
        if (now := _progress(standing, there, epoch, client.federation)) != told:
            say(told := now)
        if client.federation.epoch >= epoch and len(there) == len(client.federation.replicas):
            return standing
        if client.federation.epoch >= epoch and len(there) >= client.federation.quorum:
            deadline = min(deadline, (enough := enough or time.monotonic()) + GRACE_SECONDS)
        await asyncio.sleep(POLL_SECONDS)
    if client.federation.epoch >= epoch and len(there) >= client.federation.quorum:
        say(f"{len(there)} of {len(client.federation.replicas)} replicas are in epoch {epoch}: enough to go on")
        return standing
    raise Unavailable(
        f"the change is ordered, and epoch {epoch} has not begun after {seconds_max:g} s",
        hint="it goes on by itself; look at: koinon-committee show",
    )


def _progress(standing: list[dict[str, Any]], there: list[dict[str, Any]], epoch: int, file: FederationFile) -> str:
    if file.epoch < epoch:
        heads = [each["sequence"] for each in standing if "sequence" in each]
        return f"waiting for the checkpoint that ends epoch {epoch - 1} (log entry {max(heads, default=0)})"
    return f"{len(there)} of {len(file.replicas)} replicas are in epoch {epoch}"


async def standings(client: CommitteeClient) -> list[dict[str, Any]]:
    """What each replica of the present committee says of itself, or why it says nothing."""

    async def ask(index: int, url: str) -> dict[str, Any]:
        about: dict[str, Any] = {"seat": index, "url": url}
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return {**await client.status(index), **about, "reachable": True}
        except TimeoutError:
            return {**about, "reachable": False, "reason": f"no answer within {ASK_SECONDS:g} s"}
        except KoinonError as error:
            return {**about, "reachable": False, "reason": error.message}

    replicas = client.federation.replicas
    return list(await asyncio.gather(*(ask(index, each.url) for index, each in enumerate(replicas))))
