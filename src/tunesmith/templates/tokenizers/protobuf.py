"""The wire format of protocol buffers, as much of it as a SentencePiece model needs.

Source: https://protobuf.dev/programming-guides/encoding/. Groups are not in use any more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SIZES = {1: 8, 5: 4}


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in the order of the message: varints as int, all else as bytes.

    Raises:
        ValueError: these bytes are no message, or it ends too early.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError(f"no field has the number 0 (byte {at})")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"field {number} ends after the message does")
        yield number, data[at : at + size]
        at += size


def signed(value: int | bytes) -> int:
    """A varint as int32: negative numbers are written as 64-bit two's complement."""
    number = _integer(value)
    return number - 2**64 if number >= 2**63 else number


def flag(value: int | bytes) -> bool:
    """A varint as bool."""
    return bool(_integer(value))


def number32(value: int | bytes) -> float:
    """Four bytes as float."""
    if not isinstance(value, bytes) or len(value) != 4:
        raise ValueError("a float has four bytes")
    return struct.unpack("<f", value)[0]


def raw(value: int | bytes) -> bytes:
    """The bytes of a string, of bytes or of a message."""
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are expected")
    return value


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number is expected")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f"a number has no end (byte {at})")
