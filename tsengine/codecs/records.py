"""Frames of a log file: a header and a payload, each with its own crc32c, and an end mark.

    offset  0  u32   crc32c of bytes 4..23
            4  u32   size of the payload
            8  u64   sequence of the entry
           16  u32   crc32c of the payload
           20  u8    type (0 is reserved)
           21  u8    flags (0)
           22  u16   header mark 0x5EC7
           24  ...   payload
            +  u8    end mark 0xA7

The marks are never zero. That makes "followed by nothing but zeros" decidable: a header or
record whose last byte was written can't look like one that was cut by zeros, whatever its
payload ends with. The rules for tails are in `read_record`; docs/format/wal.md shows an example.
No I/O happens here: bytes come from a `Source`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import google_crc32c

HEADER_SIZE = 24
END_MARK = b"\xa7"
OVERHEAD_SIZE = HEADER_SIZE + len(END_MARK)
"""Bytes of a record besides its payload."""
PAYLOAD_SIZE_MAX = 1 << 30

_HEADER_MARK = 0x5EC7
_BODY = struct.Struct("<IQIBBH")
_CRC = struct.Struct("<I")


class Source(Protocol):
    """Bytes of one file."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``offset``; the caller stays inside the file."""
        ...

    def is_zero_from(self, offset: int) -> bool:
        """Whether nothing but zeros stands from ``offset`` to the end of the file."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record. ``end`` is the offset of the next one."""

    type: int
    flags: int
    seq: int
    payload: bytes
    offset: int
    end: int


class TailKind(Enum):
    """Why no record stands at an offset."""

    END = "end"
    TORN = "torn"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Tail:
    """What stands at ``offset`` instead of a record."""

    kind: TailKind
    offset: int
    reason: str


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes."""
    crc: int = google_crc32c.value(data)
    return crc


def frame(
    record_type: int, payload: bytes, *, seq: int, payload_crc: int | None = None
) -> tuple[bytes, bytes, bytes]:
    """The pieces of one record, to be written one after the other.

    ``payload_crc`` spares the pass over the payload when it was made before.
    """
    assert 0 < record_type < 256, "record types are 1..255"
    assert len(payload) <= PAYLOAD_SIZE_MAX, "the log refuses larger payloads at append"
    if payload_crc is None:
        payload_crc = crc32c(payload)
    body = _BODY.pack(len(payload), seq, payload_crc, record_type, 0, _HEADER_MARK)
    return _CRC.pack(crc32c(body)) + body, payload, END_MARK


def read_record(source: Source, offset: int) -> Record | Tail:
    """The record at ``offset``, or what stands there instead.

    END: the file ends here. TORN: the header or the record is cut by the end of the file, or
    by zeros up to the end of the file; a write that never finished. DAMAGED: complete by its
    length, but a checksum or a mark is wrong.
    """
    left = source.size - offset
    if left <= 0:
        return Tail(TailKind.END, offset, "end of file")
    if left < HEADER_SIZE:
        return Tail(TailKind.TORN, offset, "header cut by the end of the file")
    header = source.read(offset, HEADER_SIZE)
    size, seq, payload_crc, record_type, flags, mark = _BODY.unpack_from(header, 4)
    if _CRC.unpack_from(header)[0] != crc32c(header[4:]) or mark != _HEADER_MARK:
        if header[-1] == 0 and source.is_zero_from(offset + HEADER_SIZE):
            return Tail(TailKind.TORN, offset, "header followed by nothing but zeros")
        return Tail(TailKind.DAMAGED, offset, "record header with a wrong checksum")
    if record_type == 0 or size > PAYLOAD_SIZE_MAX:
        return Tail(
            TailKind.DAMAGED, offset, f"impossible record: type {record_type}, {size} bytes"
        )
    end = offset + HEADER_SIZE + size + len(END_MARK)
    if end > source.size:
        return Tail(TailKind.TORN, offset, "record cut by the end of the file")
    rest = source.read(offset + HEADER_SIZE, size + len(END_MARK))
    if rest[-1] == 0 and source.is_zero_from(end):
        return Tail(TailKind.TORN, offset, "record followed by nothing but zeros")
    payload = rest[:-1]
    if rest[-1:] != END_MARK or crc32c(payload) != payload_crc:
        return Tail(TailKind.DAMAGED, offset, "record with a wrong checksum")
    return Record(record_type, flags, seq, payload, offset, end)
