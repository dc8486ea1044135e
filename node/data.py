"""Data sets for the examples and benchmarks: digits (comes with scikit-learn), MNIST and CIFAR-10.

`data_dir` may already hold the files: MNIST as idx files (with or without .gz), CIFAR-10 as its binary batches
(data_batch_1..5.bin, test_batch*.bin, also inside cifar-10-batches-bin/). What is missing is downloaded from its
publisher and must match the published checksum. A file that lies there already is the operator's own: its structure is
checked, its content is not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from koinon.config import write_atomically
from koinon.errors import BlobMismatch, ConfigError, KoinonError, Malformed, Oversized, Unavailable

DOWNLOAD_BYTES_MAX = 256 * 1024 * 1024
DOWNLOAD_TIMEOUT_SECONDS = 60.0
MNIST_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
MNIST_SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
CIFAR10_URLS = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_ROW = 1 + 3 * 32 * 32

Choice = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Labels of all training images -> the indices of those that are wanted."""


@dataclass(frozen=True)
class Dataset:
    """Images float32[n, channels, height, width] in 0..1 and labels int64[n], for training and held out."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def digits(*, held_out: int = 360, seed: int = 7) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; the split is stratified and fixed by `seed`."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels.astype(np.int64), test_size=held_out, stratify=labels, random_state=seed)
    return Dataset(parts[0], parts[2], parts[1], parts[3])


# --- MNIST -------------------------------------------------------------------------------------------------------


def mnist(data_dir: Path, *, urls: Sequence[str] = MNIST_URLS) -> Dataset:
    """60,000 + 10,000 images of 28 x 28. Unavailable when a missing file cannot be downloaded."""
    raw = {name: read_idx(_mnist_file(data_dir, name, urls), name) for name in MNIST_SHA256}
    train = _pair(raw["train-images-idx3-ubyte"], raw["train-labels-idx1-ubyte"], "MNIST's training files")
    test = _pair(raw["t10k-images-idx3-ubyte"], raw["t10k-labels-idx1-ubyte"], "MNIST's test files")
    return Dataset(*train, *test)


def read_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes (LeCun's format: 0, 0, type, rank, big-endian sizes, data); Malformed otherwise."""
    if len(content) < 4 or content[:3] != b"\0\0\x08" or not 1 <= content[3] <= 4:
        raise Malformed(f"{name} is not an idx file of bytes")
    rank = content[3]
    try:
        shape = struct.unpack_from(f">{rank}I", content, 4)
    except struct.error:
        raise Malformed(f"{name} ends inside its header") from None
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if body.size != int(np.prod(shape, dtype=np.int64)):
        raise Malformed(f"{name} holds {body.size} bytes, its header says {list(shape)}")
    return body.reshape(shape)


def _mnist_file(data_dir: Path, name: str, urls: Sequence[str]) -> bytes:
    plain, packed = data_dir / name, data_dir / f"{name}.gz"
    if plain.is_file():
        return plain.read_bytes()
    if packed.is_file():
        return _unpacked(packed.read_bytes(), packed.name)
    body = download([f"{url}{packed.name}" for url in urls])
    content = _unpacked(body, packed.name)
    if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
        raise BlobMismatch(f"the downloaded {packed.name} is not the published file")
    write_atomically(packed, body)
    return content


def _unpacked(body: bytes, name: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(body)) as file:
            content = file.read(DOWNLOAD_BYTES_MAX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Malformed(f"{name} does not unpack: {error}") from None
    if len(content) > DOWNLOAD_BYTES_MAX:
        raise Oversized(f"{name} unpacks to more than {DOWNLOAD_BYTES_MAX} bytes")
    return content


def _pair(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], what: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise Malformed(f"{what} hold images {list(images.shape)} and labels {list(labels.shape)}")
    return (images[:, None] / np.float32(255)).astype(np.float32), labels.astype(np.int64)


# --- CIFAR-10 ----------------------------------------------------------------------------------------------------


def cifar10(data_dir: Path, *, urls: Sequence[str] = CIFAR10_URLS, chosen: Choice | None = None) -> Dataset:
    """50,000 + 10,000 colour images of 32 x 32 (the test batch may be shorter).

    `chosen` picks the training images by all their labels, so that a node holds its own part only.
    """
    folder = _cifar_folder(data_dir, urls)
    rows = np.concatenate([_cifar_rows((folder / name).read_bytes(), name) for name in CIFAR10_TRAIN])
    if chosen is not None:
        rows = rows[chosen(rows[:, 0].astype(np.int64))]
    return Dataset(*_cifar_images(rows), *_cifar_test(folder))


def read_cifar(content: bytes, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A CIFAR-10 binary batch: rows of one label byte and 3,072 pixels, channel first; Malformed otherwise."""
    return _cifar_images(_cifar_rows(content, name))


def _cifar_rows(content: bytes, name: str) -> NDArray[np.uint8]:
    if not content or len(content) % _ROW:
        raise Malformed(f"{name} has {len(content)} bytes, not a multiple of {_ROW}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    if rows[:, 0].max() > 9:
        raise Malformed(f"{name} has a label above 9")
    return rows


def _cifar_images(rows: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    images = rows[:, 1:].astype(np.float32)
    images /= 255
    return images.reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def _cifar_test(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    found = sorted(folder.glob("test_batch*.bin"))
    if not found:
        raise ConfigError(f"no test_batch.bin in {folder}", hint="unpack the data set's archive there")
    return read_cifar(found[0].read_bytes(), found[0].name)


def _cifar_folder(data_dir: Path, urls: Sequence[str]) -> Path:
    for folder in (data_dir, data_dir / "cifar-10-batches-bin"):
        if all((folder / name).is_file() for name in CIFAR10_TRAIN):
            return folder
    body = download(urls)
    if hashlib.md5(body, usedforsecurity=False).hexdigest() != CIFAR10_MD5:
        raise BlobMismatch("the downloaded cifar-10-binary.tar.gz is not the published file")
    folder = data_dir / "cifar-10-batches-bin"
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        for name in (*CIFAR10_TRAIN, "test_batch.bin"):
            member = archive.extractfile(f"cifar-10-batches-bin/{name}")
            if member is None:
                raise Malformed(f"the archive lacks {name}")
            write_atomically(folder / name, member.read())
    return folder


# --- downloads ---------------------------------------------------------------------------------------------------


def download(urls: Sequence[str]) -> bytes:
    """The first of `urls` that answers; Unavailable when none does, Oversized above the bound."""
    failures = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:
                body: bytes = response.read(DOWNLOAD_BYTES_MAX + 1)
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {error}")
            continue
        if len(body) > DOWNLOAD_BYTES_MAX:
            raise Oversized(f"{url} is longer than {DOWNLOAD_BYTES_MAX} bytes")
        return body
    raise Unavailable(
        f"nothing could be downloaded: {'; '.join(failures)}",
        hint="put the files into a folder and pass it as data_dir",
    )


if __name__ == "__main__":  # python -m node.data DIR: what is not in DIR is downloaded there
    try:
        cifar10(Path(sys.argv[1]))
    except KoinonError as failure:
        sys.exit(failure.message)
