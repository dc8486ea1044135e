"""A model as named arrays with one canonical encoding, so that its digest means the same to everybody.

Tensors keep the order in which the user's `get_parameters` returns them (Flower's convention: a list of numpy
arrays). Floating-point arrays only: they are what can be averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from koinon.encoding import U32, Message, Text, decode, encode, keccak
from koinon.errors import Malformed, TrainingError

PARAMETERS_BYTES_MAX = 1 << 30
_DTYPES = ("float32", "float64")

Shape = Annotated[tuple[U32, ...], Meta(max_length=8)]


class Tensor(Message, frozen=True):
    """One array: little-endian, C order."""

    name: Text
    dtype: Annotated[str, Meta(pattern="^float(32|64)$")]
    shape: Shape
    data: bytes

    def __post_init__(self) -> None:
        expected = int(np.prod(self.shape, dtype=np.int64)) * (4 if self.dtype == "float32" else 8)
        if len(self.data) != expected:
            raise ValueError(f"{self.name}: {len(self.data)} bytes for {self.dtype}{list(self.shape)}")

    def array(self) -> NDArray[np.floating]:
        return np.frombuffer(self.data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


class Parameters(Message, frozen=True):
    """The model that a task trains."""

    tensors: tuple[Tensor, ...]

    @property
    def dimension(self) -> int:
        """The number of scalars."""
        return sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in self.tensors)

    def arrays(self) -> list[NDArray[np.floating]]:
        return [tensor.array() for tensor in self.tensors]

    def vector(self) -> NDArray[np.float64]:
        """All scalars in order, float64[dimension]."""
        return np.concatenate([tensor.array().astype(np.float64).ravel() for tensor in self.tensors])

    def blob(self) -> bytes:
        return encode(self)

    def with_vector(self, vector: NDArray[np.float64]) -> Parameters:
        """The same shapes and dtypes holding `vector` (float64[dimension], rounded to each dtype)."""
        tensors, at = [], 0
        for tensor in self.tensors:
            size = int(np.prod(tensor.shape, dtype=np.int64))
            data = vector[at : at + size].astype(np.dtype(tensor.dtype).newbyteorder("<")).tobytes()
            tensors.append(Tensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, data=data))
            at += size
        return Parameters(tensors=tuple(tensors))


def from_arrays(arrays: Sequence[NDArray[np.floating]], names: Sequence[str] | None = None) -> Parameters:
    """Parameters of a list of arrays. TrainingError for a dtype that cannot be averaged, NaN or infinity."""
    labels = names or [str(number) for number in range(len(arrays))]
    tensors = []
    for name, given in zip(labels, arrays, strict=True):
        array = np.asarray(given)
        if array.dtype.name not in _DTYPES:
            raise TrainingError(
                f"parameter {name} is {array.dtype}; only {' and '.join(_DTYPES)} can be averaged",
                hint="use GroupNorm instead of BatchNorm, or leave counters out of get_parameters",
            )
        if not np.isfinite(array).all():
            raise TrainingError(f"parameter {name} contains NaN or infinity")
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        tensors.append(Tensor(name=name, dtype=array.dtype.name, shape=tuple(array.shape), data=data))
    return Parameters(tensors=tuple(tensors))


def from_blob(blob: bytes) -> Parameters:
    """Decode a model blob; Malformed for anything else."""
    parameters = decode(Parameters, blob, bytes_max=PARAMETERS_BYTES_MAX)
    if not parameters.tensors:
        raise Malformed("a model without parameters")
    return parameters


def model_digest(parameters: Parameters) -> bytes:
    return keccak(parameters.blob())
