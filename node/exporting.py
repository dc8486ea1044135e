"""Models in the file formats that others read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from koinon.config import write_atomically
from koinon.errors import ConfigError
from koinon.learning.parameters import Parameters

FORMATS = (".safetensors", ".pt", ".npz")


def require_format(target: Path) -> None:
    """ConfigError unless the suffix names a format and the folder is there."""
    if target.suffix not in FORMATS:
        raise ConfigError(f"{target.name}: no such format", hint=f"end the name with {', '.join(FORMATS)}")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"no folder {target.absolute().parent}", hint="make it first, or choose another --output")


def export(parameters: Parameters, target: Path) -> None:
    """Write `parameters` by name: safetensors, a torch state dict (.pt), or a numpy archive (.npz)."""
    require_format(target)
    arrays = {tensor.name: np.ascontiguousarray(tensor.array().astype(tensor.dtype)) for tensor in parameters.tensors}
    if target.suffix == ".safetensors":
        from safetensors.numpy import save

        write_atomically(target, save(arrays))
        return
    buffer = io.BytesIO()
    if target.suffix == ".npz":
        np.savez(buffer, allow_pickle=False, **arrays)
    else:
        import torch

        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, buffer)
    write_atomically(target, buffer.getvalue())
