"""A content-addressed store on disk: a blob is named by the Keccak-256 of its bytes, and checked on every read.

One file a blob under two-letter folders, written beside and renamed, so that a crash leaves no half blob.
"""

from __future__ import annotations

from pathlib import Path

from koinon.config import write_atomically
from koinon.encoding import keccak
from koinon.errors import BlobMismatch, Oversized, Unavailable

BLOB_BYTES_MAX = 256 * 1024 * 1024


class BlobStore:
    def __init__(self, root: Path, *, blob_bytes_max: int = BLOB_BYTES_MAX) -> None:
        self.root = root
        self.blob_bytes_max = blob_bytes_max
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
        return digest

    def __contains__(self, digest: bytes) -> bool:
        return self.path(digest).exists()

    def get(self, digest: bytes) -> bytes:
        """The blob; Unavailable when it isn't here, BlobMismatch when the file was altered."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise Unavailable(f"no blob 0x{digest.hex()} here") from None
        require_digest(content, digest)
        return content

    def discard(self, digest: bytes) -> None:
        self.path(digest).unlink(missing_ok=True)


def require_digest(content: bytes, digest: bytes) -> None:
    """BlobMismatch unless `content` hashes to `digest`."""
    if keccak(content) != digest:
        raise BlobMismatch(f"content does not hash to 0x{digest.hex()}")
