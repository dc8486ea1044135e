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


def test_a_store_that_remembers_does_not_hash_again_what_it_just_checked(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, recent_bytes_max=10)
    digest = store.put(b"content")
    store.path(digest).write_bytes(b"Content")
    assert store.get(digest) == b"content"
    store.discard(digest)
    with pytest.raises(Unavailable):
        store.get(digest)


def test_a_store_remembers_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, recent_bytes_max=10)
    first, large, last = store.put(b"1234567"), store.put(b"12345678901"), store.put(b"7654321")
    for digest in (first, large, last):
        store.path(digest).write_bytes(b"altered")
    assert store.get(last) == b"7654321"
    for forgotten in (first, large):
        with pytest.raises(BlobMismatch):
            store.get(forgotten)
