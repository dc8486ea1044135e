"""Peers' messages that came too early, bounded for each peer in number and bytes; the oldest gives way."""

from __future__ import annotations

from collections import deque

from .messages import Body, PeerMessage, PrePrepare

MESSAGE_BYTES = 512
"""What a message without a batch is counted as."""


class Deferred:
    """Kept until view or watermarks move. Peers send again what was given up."""

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._held: dict[int, deque[PeerMessage]] = {}
        self._sizes: dict[int, int] = {}

    def add(self, sender: int, message: PeerMessage) -> bool:
        """Keep a message; False when an older one had to go for it."""
        held = self._held.setdefault(sender, deque())
        held.append(message)
        self._sizes[sender] = self._sizes.get(sender, 0) + _size(message)
        fitted = True
        while len(held) > self._messages_max or (self._sizes[sender] > self._bytes_max and len(held) > 1):
            self._sizes[sender] -= _size(held.popleft())
            fitted = False
        return fitted

    def take(self) -> list[tuple[int, PeerMessage]]:
        """All of them, by sender in order of arrival; none is kept."""
        held, self._held, self._sizes = self._held, {}, {}
        return [(sender, message) for sender, messages in held.items() for message in messages]

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))


def _size(message: PeerMessage) -> int:
    if isinstance(message, PrePrepare | Body):
        return MESSAGE_BYTES + sum(map(len, message.batch.requests))
    return MESSAGE_BYTES
