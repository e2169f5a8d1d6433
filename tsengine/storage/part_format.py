"""Bytes of a part's files: constants, the index's header and its columns. No I/O.

A part is a folder with three immutable files, described in docs/format/part.md:

    axes    headers of 16 bytes, then one payload per time axis (codecs/axis.py)
    values  the same header, then one payload per different block (codecs/block.py)
    index   what stands where: a header, a table of sections, sections (columns of integers)

and, if it has histograms or start timestamps, a folder `components` (docs/format/components.md).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c
import numpy as np
import numpy.typing as npt
import zstandard

from tsengine.errors import CorruptionError, UnsupportedFormat

VERSION = 1
COMPONENTS_VERSION = 2
"""Version of the index of a part with components; the other files stay as they are."""
AXES_FILE = "axes"
VALUES_FILE = "values"
INDEX_FILE = "index"
FILES = (AXES_FILE, VALUES_FILE, INDEX_FILE)
COMPONENTS_DIR = "components"
TABLE_FILE = "table"

AXES_MAGIC = b"tseAXES\n"
VALUES_MAGIC = b"tseVALS\n"
INDEX_MAGIC = b"tseINDX\n"

LADDER_MS = (86_400_000, 21_600_000, 3_600_000, 900_000)
"""Rungs at which axes and blocks are cut, widest first: 1 d, 6 h, 1 h, 15 min."""
BLOCK_ROWS_MAX = 8192
VECTOR_ROWS = 1024

FLAG_STALE = 1
"""The block holds a staleness marker."""
FLAG_HISTOGRAM = 2
"""The block holds a histogram (only in parts with components)."""

FILE_HEADER_SIZE = 16
_FILE_HEADER = struct.Struct("<8sII")
_INDEX_HEADER = struct.Struct("<8sIHHqqQQQQQQII")
_SECTION = struct.Struct("<HBBIQQQ")
_CRC = struct.Struct("<I")
_ZSTD_LEVEL = 2
_SECTION_ITEMS_MAX = 1 << 32


class Section(IntEnum):
    """Columns of the index. 0 is reserved; a reader skips numbers it does not know.

    Those up to RUN_LENGTH are in every part; statistics are read only when asked for.
    """

    REFS = 1
    SERIES_BLOCKS = 2
    BLOCK_AXIS = 3
    BLOCK_FIRST_ROW = 4
    BLOCK_SIZE = 5
    BLOCK_PATTERN = 6
    BLOCK_PAYLOAD_BACK = 7
    BLOCK_FLAGS = 8
    PAYLOAD_SIZE = 9
    AXIS_SIZE = 10
    AXIS_ROWS = 11
    AXIS_MINT = 12
    AXIS_SPAN = 13
    PATTERN_RUNS = 14
    RUN_SKIP = 15
    RUN_LENGTH = 16
    COMPONENT_FILES = 17
    TIER = 18
    TIER_REFS = 19
    TIER_COLUMNS = 20
    TIER_SPARSE = 21
    TIER_DOUBTS = 22
    STAT_MISSING = 32
    STAT_FLAGS = 33
    STAT_FIRST = 34
    STAT_LAST = 35
    STAT_MIN = 36
    STAT_MAX = 37
    STAT_SUM = 38
    STAT_RESETS = 39


DELTA_SECTIONS = frozenset(
    {
        Section.REFS,
        Section.BLOCK_AXIS,
        Section.BLOCK_PATTERN,
        Section.AXIS_MINT,
        Section.TIER_REFS,
    }
)
"""Columns stored as differences of neighbours."""

_DELTA, _ZSTD = 1, 2


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What the index says about the whole part."""

    level: int
    mint: int
    maxt: int
    n_samples: int
    n_series: int
    seq_min: int
    seq_max: int
    axes_size_bytes: int
    values_size_bytes: int
    axes_crc: int
    values_crc: int


@dataclass(frozen=True, slots=True)
class SectionEntry:
    """Where a section stands and how it is stored."""

    number: int
    encoding: int
    width: int
    crc: int
    n_items: int
    offset: int
    size: int


def file_header(magic: bytes) -> bytes:
    """Header of the axes or values file."""
    return _FILE_HEADER.pack(
        magic, VERSION, google_crc32c.value(_FILE_HEADER.pack(magic, VERSION, 0)[:12])
    )


def check_file_header(data: bytes, magic: bytes, path: str) -> None:
    """Raise CorruptionError or UnsupportedFormat if ``data`` is not the header of such a file."""
    if len(data) < FILE_HEADER_SIZE:
        raise CorruptionError("the file is shorter than its header", path=path)
    found, version, crc = _FILE_HEADER.unpack_from(data)
    if found != magic or crc != google_crc32c.value(data[:12]):
        raise CorruptionError("the header's magic or checksum is wrong", path=path, offset=0)
    if version != VERSION:
        raise UnsupportedFormat(f"{path}: version {version} is newer than {VERSION}")


def encode_index(header: PartHeader, columns: Mapping[int, npt.NDArray[np.int64]]) -> bytes:
    """The whole index file. Columns hold 64-bit integers, one per section number."""
    head = _INDEX_HEADER.pack(
        INDEX_MAGIC,
        COMPONENTS_VERSION if Section.COMPONENT_FILES in columns else VERSION,
        len(columns),
        header.level,
        header.mint,
        header.maxt,
        header.n_samples,
        header.n_series,
        header.seq_min,
        header.seq_max,
        header.axes_size_bytes,
        header.values_size_bytes,
        header.axes_crc,
        header.values_crc,
    )
    return encode_sections(head, columns, DELTA_SECTIONS)


def decode_index_table(data: bytes, path: str) -> tuple[PartHeader, dict[int, SectionEntry]]:
    """Header and table of sections of an index file, checked against the file's length."""
    if len(data) < _INDEX_HEADER.size + _CRC.size:
        raise CorruptionError("the index is shorter than its header", path=path)
    magic, version, n_sections, level, *rest = _INDEX_HEADER.unpack_from(data)
    if magic != INDEX_MAGIC:
        raise CorruptionError("this is not a part's index", path=path, offset=0)
    check_sections(data, _INDEX_HEADER.size, n_sections, path)
    if version not in (VERSION, COMPONENTS_VERSION):
        raise UnsupportedFormat(f"{path}: version {version} is newer than {COMPONENTS_VERSION}")
    entries = decode_sections(data, _INDEX_HEADER.size, n_sections, path)
    if (version == COMPONENTS_VERSION) != (Section.COMPONENT_FILES in entries):
        raise CorruptionError("the version does not fit the sections", path=path, offset=0)
    return PartHeader(level, *rest), entries


def encode_sections(
    head: bytes, columns: Mapping[int, npt.NDArray[np.int64]], delta_sections: Collection[int]
) -> bytes:
    """A file of columns: header, table of sections, checksum of both, sections.

    Columns are asked for one by one.
    """
    bodies: list[bytes] = []
    entries: list[bytes] = []
    offset = len(head) + _SECTION.size * len(columns) + _CRC.size
    for number in sorted(columns):
        column = columns[number]
        encoding, width, body = _encode_column(column, is_delta=number in delta_sections)
        crc = google_crc32c.value(body)
        entries.append(_SECTION.pack(number, encoding, width, crc, len(column), offset, len(body)))
        bodies.append(body)
        offset += len(body)
    table = head + b"".join(entries)
    return b"".join([table, _CRC.pack(google_crc32c.value(table)), *bodies])


def check_sections(data: bytes, head_size: int, n_sections: int, path: str) -> None:
    """Raise CorruptionError if header and table of sections break their checksum."""
    table_size = head_size + n_sections * _SECTION.size
    if len(data) < table_size + _CRC.size:
        raise CorruptionError("the file ends inside its table of sections", path=path)
    if _CRC.unpack_from(data, table_size)[0] != google_crc32c.value(data[:table_size]):
        raise CorruptionError("wrong checksum of the file's header", path=path, offset=0)


def decode_sections(
    data: bytes, head_size: int, n_sections: int, path: str
) -> dict[int, SectionEntry]:
    """The table of sections behind a header, checked against the file's length."""
    entries: dict[int, SectionEntry] = {}
    end = head_size + n_sections * _SECTION.size + _CRC.size
    for k in range(n_sections):
        number, encoding, width, crc, n_items, offset, size = _SECTION.unpack_from(
            data, head_size + k * _SECTION.size
        )
        if offset != end or width > 8 or n_items > _SECTION_ITEMS_MAX or number in entries:
            raise CorruptionError(f"impossible section {number}", path=path, offset=offset)
        entries[number] = SectionEntry(number, encoding, width, crc, n_items, offset, size)
        end += size
    if end != len(data):
        raise CorruptionError(
            f"the file has {len(data)} bytes, its sections end at {end}", path=path
        )
    return entries


def decode_section(data: bytes, entry: SectionEntry, path: str) -> npt.NDArray[np.int64]:
    """One column after checking its checksum: a new ``i64[n_items]``."""
    body = data[entry.offset : entry.offset + entry.size]
    if google_crc32c.value(body) != entry.crc:
        raise CorruptionError(
            f"wrong checksum of section {entry.number}", path=path, offset=entry.offset
        )
    n_bytes = entry.width * entry.n_items
    if entry.encoding & _ZSTD:
        try:
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=n_bytes)
        except zstandard.ZstdError as error:
            raise CorruptionError(
                f"section {entry.number}: {error}", path=path, offset=entry.offset
            ) from error
    if len(body) != n_bytes:
        raise CorruptionError(
            f"section {entry.number} has {len(body)} bytes, not {n_bytes}",
            path=path,
            offset=entry.offset,
        )
    planes = np.zeros((entry.n_items, 8), np.uint8)
    planes[:, : entry.width] = np.frombuffer(body, np.uint8).reshape(entry.width, entry.n_items).T
    folded = planes.reshape(-1).view(np.uint64)
    one = np.uint64(1)
    column = ((folded >> one) ^ (~(folded & one) + one)).view(np.int64)
    if entry.encoding & _DELTA:
        np.cumsum(column, out=column)
    return column


def _encode_column(column: npt.NDArray[np.int64], *, is_delta: bool) -> tuple[int, int, bytes]:
    """``(encoding, width, bytes)``: differences, zigzag, byte planes, zstd where it saves."""
    column = np.ascontiguousarray(column, np.int64)
    encoding = 0
    if is_delta and len(column):
        encoding |= _DELTA
        # Differences wrap around like the sums that undo them.
        column = np.diff(column, prepend=np.int64(0))
    folded = ((column << 1) ^ (column >> 63)).view(np.uint64)
    largest = int(folded.max(initial=0))
    width = (largest.bit_length() + 7) // 8
    planes = folded.view(np.uint8).reshape(-1, 8)[:, :width]
    body = np.ascontiguousarray(planes.T).tobytes()
    if body:
        packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(body)
        if len(packed) < len(body):
            return encoding | _ZSTD, width, packed
    return encoding, width, body
