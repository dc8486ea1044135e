"""Adding a pseudorandom vector to another one, in place: AES-256-CTR keystream at nonce zero, as 32-bit words.

A key is used for one vector only. The stream is made a chunk at a time, so that it stays in the second-level cache.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

CHUNK_BYTES = 1 << 17
KEY_BYTES = 32

Ring = NDArray[np.uint32]
_ZEROS = bytes(CHUNK_BYTES)


def apply_keystream(total: Ring, key: bytes, operation: np.ufunc) -> None:
    """total = operation(total, PRG(key)) mod 2^32, in place; `operation` is np.add or np.subtract."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    buffer = bytearray(CHUNK_BYTES + 15)  # update_into wants a block more than it writes
    words = np.frombuffer(buffer, dtype="<u4", count=CHUNK_BYTES // 4)
    step = CHUNK_BYTES // 4
    for start in range(0, total.size, step):
        part = total[start : start + step]
        stream.update_into(memoryview(_ZEROS)[: 4 * part.size], buffer)
        operation(part, words[: part.size], out=part)
