"""The header of a log segment. docs/format/wal.md has the picture and an example.

Besides saying whose segment it is, a header vouches for what was before: which segment that was
and up to which byte it was acknowledged. So bytes lost from a finished segment are noticed, and
what failed writes left, behind that byte or in files of their own, is never taken for data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tsengine.codecs.records import Source, Tail, TailKind, crc32c
from tsengine.errors import UnsupportedFormat

MAGIC = b"TSENGWAL"
VERSION = 1
SEGMENT_HEADER_SIZE = 64
SEGMENT_SIZE_BYTES_MAX = 128 << 20
"""A segment that reached this is followed by a new one."""
END_UNKNOWN = 0
"""Stands for the end of a segment that nobody vouches for."""

_END_MARK = b"WAL1"
_BODY = struct.Struct("<8sII16sQQQ")
_CRC = struct.Struct("<I")
_CRC_OFFSET = SEGMENT_HEADER_SIZE - len(_END_MARK) - _CRC.size
assert _BODY.size == _CRC_OFFSET, "the header's fields fill it"


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """``previous`` was written before (0: none), and acknowledged up to byte ``previous_end``.

    Segments numbered between the two never held anything acknowledged.
    """

    database_id: str
    segment: int
    previous: int
    previous_end: int = END_UNKNOWN


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first SEGMENT_HEADER_SIZE bytes of a segment."""
    body = _BODY.pack(
        MAGIC, VERSION, 0, bytes.fromhex(header.database_id), header.segment,
        header.previous, header.previous_end,
    )  # fmt: skip
    return body + _CRC.pack(crc32c(body)) + _END_MARK


def read_segment_header(source: Source, path: str) -> SegmentHeader | Tail:
    """The header of a segment, or what stands there instead.

    Raises
    ------
    UnsupportedFormat
        A newer version wrote the segment.

    """
    if source.size < SEGMENT_HEADER_SIZE:
        return Tail(TailKind.TORN, 0, "segment header cut by the end of the file")
    data = source.read(0, SEGMENT_HEADER_SIZE)
    body = data[:_CRC_OFFSET]
    if not data.endswith(_END_MARK) or _CRC.unpack_from(data, _CRC_OFFSET)[0] != crc32c(body):
        if data[-1] == 0 and source.is_zero_from(SEGMENT_HEADER_SIZE):
            return Tail(TailKind.TORN, 0, "segment header followed by nothing but zeros")
        return Tail(TailKind.DAMAGED, 0, "segment header with a wrong checksum")
    magic, version, reserved, database_id, segment, previous, previous_end = _BODY.unpack(body)
    if magic != MAGIC:
        return Tail(TailKind.DAMAGED, 0, "not a log segment")
    if version != VERSION or reserved != 0:
        raise UnsupportedFormat(f"{path}: log format {version}, this version knows {VERSION}")
    return SegmentHeader(database_id.hex(), segment, previous, previous_end)
