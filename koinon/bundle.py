"""Several messages in one frame of a connection: what one turn has to say to a peer costs one system call.

A bundle is the canonical encoding of a list of byte strings. Senders keep to BUNDLE_BYTES unless one message alone is
longer; receivers split before they look at any message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Annotated

from msgspec import Meta

from .encoding import decode, encode

BUNDLE_MESSAGES_MAX = 256
BUNDLE_BYTES = 1 << 20
BUNDLE_OVERHEAD_BYTES = 3 + 5 * BUNDLE_MESSAGES_MAX

_Bundle = Annotated[tuple[bytes, ...], Meta(min_length=1, max_length=BUNDLE_MESSAGES_MAX)]


def bundle(messages: list[bytes]) -> bytes:
    """One frame with 1 to BUNDLE_MESSAGES_MAX messages."""
    return encode(messages)


def unbundle(frame: bytes, *, bytes_max: int) -> tuple[bytes, ...]:
    """The messages of a frame of at most `bytes_max` bytes; Malformed and its kinds."""
    messages: tuple[bytes, ...] = decode(_Bundle, frame, bytes_max=bytes_max)
    return messages


class Outbox:
    """What waits to be sent over one connection, bounded in messages and bytes; the oldest gives way."""

    def __init__(self, *, messages_max: int, bytes_max: int, bundle_bytes: int = BUNDLE_BYTES) -> None:
        self._bundle_bytes = bundle_bytes
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self.closed = False
        self.dropped = 0

    def put(self, data: bytes) -> None:
        self._queue.append(data)
        self._size += len(data)
        while len(self._queue) > self._messages_max or self._size > self._bytes_max:
            self._size -= len(self._queue.popleft())
            self.dropped += 1
        self._filled.set()

    def close(self) -> None:
        """No more is sent: `take` raises ConnectionError."""
        self.closed = True
        self._filled.set()

    def __len__(self) -> int:
        return len(self._queue)

    async def take(self) -> bytes:
        """The next frame: as many of the oldest messages as a bundle holds; waits until there is one."""
        while not self._queue and not self.closed:
            self._filled.clear()
            await self._filled.wait()
        if self.closed:
            raise ConnectionError("the connection is given up")
        messages = [self._queue.popleft()]
        size = len(messages[0])
        while self._queue and len(messages) < BUNDLE_MESSAGES_MAX and size + len(self._queue[0]) <= self._bundle_bytes:
            messages.append(self._queue.popleft())
            size += len(messages[-1])
        self._size -= size
        return bundle(messages)
