from __future__ import annotations

import gzip
import http.server
import io
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from koinon.errors import BlobMismatch, ConfigError, Malformed, Unavailable
from node import data


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, packed: bool) -> None:
    rng = np.random.default_rng(1)
    for part, count in (("train", 6), ("t10k", 4)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files = {f"{part}-images-idx3-ubyte": images, f"{part}-labels-idx1-ubyte": np.arange(count, dtype=np.uint8)}
        for name, array in files.items():
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))


def cifar_rows(count: int) -> bytes:
    rows = np.random.default_rng(2).integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 10
    return rows.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_idx_files_packed_or_not(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path, packed=packed)
    found = data.mnist(tmp_path, urls=())
    assert found.train_images.shape == (6, 1, 28, 28)
    assert found.train_images.dtype == np.float32
    assert 0.0 <= found.train_images.min() <= found.train_images.max() <= 1.0
    assert found.test_labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("test_name", ["test_batch.bin", "test_batch_first1000.bin"])
def test_cifar_is_read_from_binary_batches(tmp_path: Path, inner: str, test_name: str) -> None:
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    for name in data.CIFAR10_TRAIN:
        (folder / name).write_bytes(cifar_rows(4))
    (folder / test_name).write_bytes(cifar_rows(3))
    found = data.cifar10(tmp_path, urls=())
    assert found.train_images.shape == (20, 3, 32, 32)
    assert found.test_images.shape == (3, 3, 32, 32)
    assert found.train_labels.tolist() == [0, 1, 2, 3] * 5


def test_a_part_of_cifar_is_chosen_by_the_labels_of_all_of_it(tmp_path: Path) -> None:
    for name in (*data.CIFAR10_TRAIN, "test_batch.bin"):
        (tmp_path / name).write_bytes(cifar_rows(4))
    whole = data.cifar10(tmp_path, urls=())
    part = data.cifar10(tmp_path, urls=(), chosen=lambda labels: np.flatnonzero(labels == 2))
    assert part.train_labels.tolist() == [2] * 5
    np.testing.assert_array_equal(part.train_images, whole.train_images[2::4])
    np.testing.assert_array_equal(part.test_images, whole.test_images)


def test_cifar_without_a_test_batch_says_so(tmp_path: Path) -> None:
    for name in data.CIFAR10_TRAIN:
        (tmp_path / name).write_bytes(cifar_rows(1))
    with pytest.raises(ConfigError, match=r"no test_batch\.bin"):
        data.cifar10(tmp_path, urls=())


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"\0\0\x0d\1" + bytes(8), b"\0\0\x08\3" + bytes(4), idx(np.zeros(5, np.uint8))[:-1]],
    ids=["empty", "short", "floats", "torn header", "torn body"],
)
def test_a_file_that_is_no_idx_file_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        data.read_idx(content, "file")


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"\x0a" + bytes(3072)])
def test_a_batch_of_the_wrong_size_or_label_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        data.read_cifar(content, "batch")


def test_a_torn_archive_is_malformed(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Malformed, match="does not unpack"):
        data.mnist(tmp_path, urls=())


@pytest.fixture
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A real HTTP server on loopback and the folder that it serves."""
    folder = tmp_path_factory.mktemp("published")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_download_that_is_not_the_published_file_is_refused_and_not_kept(
    tmp_path: Path, publisher: tuple[Path, str]
) -> None:
    folder, url = publisher
    write_mnist(folder, packed=True)
    with pytest.raises(BlobMismatch, match="not the published file"):
        data.mnist(tmp_path, urls=(url,))
    assert list(tmp_path.iterdir()) == []


def test_a_download_with_the_published_checksum_is_kept(
    tmp_path: Path, publisher: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    folder, url = publisher
    write_mnist(folder, packed=True)
    sums = {
        name: hashlib.sha256(gzip.decompress((folder / f"{name}.gz").read_bytes())).hexdigest()
        for name in data.MNIST_SHA256
    }
    monkeypatch.setattr(data, "MNIST_SHA256", sums)
    first = data.mnist(tmp_path, urls=("http://127.0.0.1:9/", url))
    again = data.mnist(tmp_path, urls=())
    assert np.array_equal(first.train_images, again.train_images)


def test_a_cifar_archive_is_checked_before_it_is_unpacked(tmp_path: Path, publisher: tuple[Path, str]) -> None:
    folder, url = publisher
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin"), io.BytesIO())
    (folder / "cifar.tar.gz").write_bytes(buffer.getvalue())
    with pytest.raises(BlobMismatch):
        data.cifar10(tmp_path, urls=(f"{url}cifar.tar.gz",))
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_publisher_says_where_to_put_the_files(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        data.mnist(tmp_path, urls=("http://127.0.0.1:9/",))
    assert "data_dir" in (caught.value.hint or "")


def test_digits_split_is_fixed_and_covers_all_images() -> None:
    first, again = data.digits(), data.digits()
    assert np.array_equal(first.test_images, again.test_images)
    assert len(first.train_labels) + len(first.test_labels) == 1797
    assert np.bincount(first.test_labels).min() >= 34
