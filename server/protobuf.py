"""Bytes of protobuf fields, for messages that are written here. Reading them is the engine's."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number of 0 or more."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def bytes_field(number: int, content: bytes) -> bytes:
    """A field of a text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content
