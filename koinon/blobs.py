"""A content-addressed store on disk: a blob is named by the Keccak-256 of its bytes, and checked on every read.

A store may remember the last blobs that it checked (`recent_bytes_max`): a replica reads an update three times in a
round, and each hash of LeNet-5's takes longer than summing it.

One file a blob under two-letter folders, written beside and renamed, so that a crash leaves no half blob.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from koinon.config import write_atomically
from koinon.encoding import keccak
from koinon.errors import BlobMismatch, Oversized, Unavailable

BLOB_BYTES_MAX = 256 * 1024 * 1024
RECENT_BYTES_MAX = 32 * 1024 * 1024
"""What a replica's store remembers: a round's updates, while models are small."""


class BlobStore:
    def __init__(self, root: Path, *, blob_bytes_max: int = BLOB_BYTES_MAX, recent_bytes_max: int = 0) -> None:
        self.root = root
        self.blob_bytes_max = blob_bytes_max
        self._recent = _Recent(recent_bytes_max)
        root.mkdir(parents=True, exist_ok=True)

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.root / name[:2] / name[2:]

    def put(self, content: bytes, *, expected: bytes | None = None) -> bytes:
        """Keep `content` and return its digest; BlobMismatch when it isn't `expected`, Oversized above the bound."""
        if len(content) > self.blob_bytes_max:
            raise Oversized(f"a blob of {len(content)} bytes where at most {self.blob_bytes_max} are allowed")
        digest = keccak(content)
        if expected is not None and digest != expected:
            raise BlobMismatch(f"content has digest 0x{digest.hex()}, announced was 0x{expected.hex()}")
        if not self.path(digest).exists():
            write_atomically(self.path(digest), content)
        self._recent.add(digest, content)
        return digest

    def __contains__(self, digest: bytes) -> bool:
        return self.path(digest).exists()

    def get(self, digest: bytes) -> bytes:
        """The blob; Unavailable when it isn't here, BlobMismatch when the file was altered."""
        if (known := self._recent.get(digest)) is not None:
            return known
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise Unavailable(f"no blob 0x{digest.hex()} here") from None
        require_digest(content, digest)
        self._recent.add(digest, content)
        return content

    def discard(self, digest: bytes) -> None:
        self._recent.discard(digest)
        self.path(digest).unlink(missing_ok=True)


class _Recent:
    """Checked contents, at most `bytes_max` of them together; the oldest goes first. Safe in threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._size = 0
        self._held: dict[bytes, bytes] = {}
        self._lock = Lock()

    def get(self, digest: bytes) -> bytes | None:
        return self._held.get(digest)

    def add(self, digest: bytes, content: bytes) -> None:
        with self._lock:
            if digest in self._held or len(content) > self._bytes_max:
                return
            self._held[digest] = content
            self._size += len(content)
            while self._size > self._bytes_max:
                self._size -= len(self._held.pop(next(iter(self._held))))

    def discard(self, digest: bytes) -> None:
        with self._lock:
            self._size -= len(self._held.pop(digest, b""))


def require_digest(content: bytes, digest: bytes) -> None:
    """BlobMismatch unless `content` hashes to `digest`."""
    if keccak(content) != digest:
        raise BlobMismatch(f"content does not hash to 0x{digest.hex()}")
