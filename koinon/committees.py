"""The committees of a federation as one party knows them: the file that it was given, and the handovers since.

`federation.json` stays the file that the party was given. What it learns of later committees is kept beside it as the
handovers themselves (`data/handovers`), which are verified from the file on whenever they are read: nothing that lies
on the disk, or that a replica says, is believed without the signatures of a quorum.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from koinon.config import FederationFile, write_atomically
from koinon.encoding import decode, encode
from koinon.epochs import Handover, follow
from koinon.errors import ConfigError, Malformed, RemoteError, StorageDamaged, WrongEpoch

HANDOVERS_FILE = "handovers"
HANDOVERS_BYTES_MAX = 256 << 20
HANDOVERS_PAGE = 32


class Committees:
    """Every epoch from the given file's on. With `path`, handovers are kept there, durably, and read from there.

    StorageDamaged when the kept ones do not lead on from the given file.
    """

    def __init__(self, given: FederationFile, path: Path | None = None) -> None:
        self.given = given
        self._path = path
        self._epochs = [given]
        self._handovers: list[Handover] = []
        if path is not None and path.exists():
            self._load(path)

    @property
    def federation(self) -> FederationFile:
        """The federation with the last committee that is known."""
        return self._epochs[-1]

    @property
    def epochs(self) -> tuple[FederationFile, ...]:
        """The federation in each known epoch, ascending."""
        return tuple(self._epochs)

    @property
    def last(self) -> Handover | None:
        """The handover that began the present epoch; None in the epoch of the given file."""
        return self._handovers[-1] if self._handovers else None

    def at(self, epoch: int) -> FederationFile:
        """The federation in that epoch; WrongEpoch when it is not known here."""
        position = epoch - self.given.epoch
        if not 0 <= position < len(self._epochs):
            raise WrongEpoch(f"the committee of epoch {epoch} is not known here, only {self._known()}")
        return self._epochs[position]

    def since(self, epoch: int, *, limit: int = HANDOVERS_PAGE) -> tuple[Handover, ...]:
        """The handovers that lead on from `epoch`, ascending, at most `limit`."""
        position = max(0, epoch - self.given.epoch)
        return tuple(self._handovers[position : position + limit])

    def add(self, found: Iterable[Handover]) -> bool:
        """Follow handovers (ascending; known ones are passed over) and keep them; whether the epoch moved.

        Raises what `koinon.epochs.follow` raises at the first lie or gap; what came before it is kept.
        """
        before = len(self._handovers)
        try:
            self._follow(found)
        finally:
            if len(self._handovers) > before and self._path is not None:
                write_atomically(self._path, encode(tuple(self._handovers)))
        return len(self._handovers) > before

    def _load(self, path: Path) -> None:
        hint = f"remove {path}: a party fetches it again (a replica with all of its data/)"
        try:
            kept: tuple[Handover, ...] = decode(tuple[Handover, ...], path.read_bytes(), bytes_max=HANDOVERS_BYTES_MAX)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", hint="make it readable for the user that runs this"
            ) from None
        except Malformed as error:
            raise StorageDamaged(f"{path}: {error.message}", hint=hint) from None
        try:
            self._follow(kept)
        except RemoteError as error:
            raise StorageDamaged(f"{path} does not lead on from federation.json: {error.message}", hint=hint) from None

    def _follow(self, found: Iterable[Handover]) -> None:
        for handover in found:
            following = follow(self.federation, [handover])
            if following.epoch > self.federation.epoch:
                self._epochs.append(following)
                self._handovers.append(handover)

    def _known(self) -> str:
        first, last = self.given.epoch, self.federation.epoch
        return f"{first}" if first == last else f"{first} to {last}"
