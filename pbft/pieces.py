"""The private pieces of updates on disk: readable by this replica alone, one update a node and round, then erased.

A piece is published by a hard link, which fails when the name is taken: of two different updates that a node
hands in at once exactly one is kept, and only that one gets a receipt. Pieces are erased when their round is over.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from koinon.config import sync_folder
from koinon.encoding import U32, Digest, Message, decode, encode
from koinon.rounds.rules import refuse

KEPT_BYTES_MAX = 512 * 1024 * 1024


class Kept(Message, frozen=True):
    """A checked piece, the digest of the update that it belongs to, and the sample count which that claims."""

    update: Digest
    examples: U32
    piece: bytes

    def __repr__(self) -> str:
        return f"Kept({self.update.hex()})"


class PieceStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, task: bytes, round: int, node: bytes, kept: Kept) -> None:
        """Store durably; Rejected (duplicate-update) when the node's piece of another update is here."""
        path = self._path(task, round, node)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(kept))
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError:
            self.checked(task, round, node, kept.update)
        finally:
            os.unlink(draft)
        sync_folder(path.parent)

    def find(self, task: bytes, round: int, node: bytes) -> Kept | None:
        try:
            data = self._path(task, round, node).read_bytes()
        except FileNotFoundError:
            return None
        return decode(Kept, data, bytes_max=KEPT_BYTES_MAX)

    def checked(self, task: bytes, round: int, node: bytes, update: bytes) -> Kept | None:
        """The checked piece of this update, if it is here; Rejected (duplicate-update) when it is another one's."""
        held = self.find(task, round, node)
        if held is not None and held.update != update:
            refuse("duplicate-update", f"node 0x{node.hex()} handed in another update for round {round} before")
        return held

    def rounds(self) -> set[tuple[bytes, int]]:
        """The rounds of which pieces are kept."""
        return {
            (bytes.fromhex(task.name), int(number.name)) for task in self.root.iterdir() for number in task.iterdir()
        }

    def erase(self, task: bytes, round: int) -> None:
        """Forget all pieces of a round that is over."""
        folder = self._path(task, round, b"").parent
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()

    def _path(self, task: bytes, round: int, node: bytes) -> Path:
        return self.root / task.hex() / str(round) / f"{node.hex()}.piece"
