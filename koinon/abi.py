"""Solidity's calls, results, errors and logs to Python values and back, by the committed ABIs. No network, no web3.

Addresses decode to 20 bytes (not to text), structs to tuples. Calldata that others made is decoded strictly: it is
re-encoded and compared, because the ABI lets one meaning have many encodings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.codec import ABICodec
from eth_abi.decoding import AddressDecoder
from eth_abi.encoding import AddressEncoder
from eth_abi.exceptions import DecodingError
from eth_abi.registry import BaseEquals
from eth_abi.registry import registry as default_registry
from eth_utils.abi import collapse_if_tuple

from .encoding import keccak
from .errors import Malformed, NonCanonical

SELECTOR_BYTES = 4


class _RawAddress(AddressDecoder):
    decoder_fn = staticmethod(bytes)  # type: ignore[assignment]  # eth_abi's own turns them into text


def _codec() -> ABICodec:
    registry = default_registry.copy()  # type: ignore[no-untyped-call]
    registry.unregister("address")
    is_address = BaseEquals("address", with_sub=False)  # type: ignore[no-untyped-call]
    registry.register(is_address, AddressEncoder, _RawAddress, label="address")
    return ABICodec(registry)


CODEC = _codec()


@dataclass(frozen=True)
class Entry:
    """A function, event or error of an ABI; `indexed` marks the inputs of an event that are topics."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    indexed: tuple[bool, ...]

    @property
    def hash(self) -> bytes:
        return keccak(f"{self.name}({','.join(self.inputs)})".encode())

    @property
    def selector(self) -> bytes:
        return self.hash[:SELECTOR_BYTES]


class Interface:
    """One contract's ABI, ready to encode and decode."""

    def __init__(self, abi: Sequence[Mapping[str, Any]]) -> None:
        self.functions = {entry.name: entry for entry in _entries(abi, "function")}
        self.errors = {entry.selector: entry for entry in _entries(abi, "error")}
        self.events = {entry.hash: entry for entry in _entries(abi, "event")}
        self._constructor = next(iter(_entries(abi, "constructor")), Entry("", (), (), ()))

    def constructor_data(self, *arguments: Any) -> bytes:
        """What follows the bytecode in a creation transaction."""
        return CODEC.encode(self._constructor.inputs, arguments)

    def call_data(self, function: str, *arguments: Any) -> bytes:
        entry = self.functions[function]
        return entry.selector + CODEC.encode(entry.inputs, arguments)

    def arguments(self, function: str, data: bytes) -> tuple[Any, ...]:
        """The arguments of calldata that somebody else made; Malformed or NonCanonical."""
        entry = self.functions[function]
        if data[:SELECTOR_BYTES] != entry.selector:
            raise Malformed(f"not a call of {function}")
        values = _decode(entry.inputs, data[SELECTOR_BYTES:])
        if self.call_data(function, *values) != data:
            raise NonCanonical(f"not the canonical encoding of a call of {function}")
        return values

    def result(self, function: str, data: bytes) -> tuple[Any, ...]:
        """The returned values; Malformed when the contract answered with something else."""
        return _decode(self.functions[function].outputs, data)

    def event(self, topics: Sequence[bytes], data: bytes) -> tuple[str, tuple[Any, ...]] | None:
        """The event's name and arguments in ABI order, or None when the ABI has no such event."""
        entry = self.events.get(topics[0]) if topics else None
        if entry is None:
            return None
        plain = [kind for kind, topic in zip(entry.inputs, entry.indexed, strict=True) if not topic]
        values = iter(_decode(plain, data))
        topic = iter(topics[1:])
        return entry.name, tuple(
            _decode([kind], next(topic))[0] if indexed else next(values)
            for kind, indexed in zip(entry.inputs, entry.indexed, strict=True)
        )


_STANDARD = (
    Entry("Error", ("string",), (), ()),
    Entry("Panic", ("uint256",), (), ()),
)


def decode_revert(interfaces: Iterable[Interface], data: bytes) -> tuple[str, tuple[Any, ...]]:
    """The name and arguments of the custom error in `data`, looked up in all `interfaces`.

    Reverts without a reason are ("revert", ()), errors of no known contract ("unknown", (data,)).
    """
    if not data:
        return "revert", ()
    known = {entry.selector: entry for entry in _STANDARD}
    for interface in interfaces:
        known.update(interface.errors)
    entry = known.get(data[:SELECTOR_BYTES])
    if entry is None:
        return "unknown", ("0x" + data.hex(),)
    values = _decode(entry.inputs, data[SELECTOR_BYTES:])
    return entry.name, tuple("0x" + value.hex() if isinstance(value, bytes) else value for value in values)


def _decode(kinds: Sequence[str], data: bytes) -> tuple[Any, ...]:
    try:
        return CODEC.decode(kinds, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise Malformed(f"not the ABI encoding of ({','.join(kinds)}): {error}") from None


def _entries(abi: Sequence[Mapping[str, Any]], kind: str) -> list[Entry]:
    return [
        Entry(
            name=each.get("name", ""),
            inputs=tuple(collapse_if_tuple(value) for value in each.get("inputs", ())),
            outputs=tuple(collapse_if_tuple(value) for value in each.get("outputs", ())),
            indexed=tuple(bool(value.get("indexed")) for value in each.get("inputs", ())),
        )
        for each in abi
        if each["type"] == kind
    ]
