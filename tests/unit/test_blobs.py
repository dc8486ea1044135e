from __future__ import annotations

from pathlib import Path

import pytest

from koinon.blobs import BlobStore
from koinon.encoding import keccak
from koinon.errors import BlobMismatch, Oversized, Unavailable


def test_a_blob_is_named_by_its_digest_and_survives_reopening(tmp_path: Path) -> None:
    digest = BlobStore(tmp_path).put(b"content")
    assert digest == keccak(b"content")
    assert BlobStore(tmp_path).get(digest) == b"content"


def test_content_that_is_not_what_was_announced_is_refused_and_not_kept(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    with pytest.raises(BlobMismatch):
        store.put(b"content", expected=bytes(32))
    assert not list(tmp_path.rglob("??/*"))


def test_an_altered_file_is_noticed_on_reading(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    digest = store.put(b"content")
    store.path(digest).write_bytes(b"Content")
    with pytest.raises(BlobMismatch):
        store.get(digest)


def test_missing_and_oversized_blobs_are_typed_errors(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, blob_bytes_max=4)
    with pytest.raises(Unavailable):
        store.get(bytes(32))
    with pytest.raises(Oversized):
        store.put(b"12345")
    digest = store.put(b"1234")
    store.discard(digest)
    assert digest not in store
