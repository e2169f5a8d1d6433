"""Payloads of log records: which types there are, float samples, metadata.

Series payloads are the catalog's, those of histograms, exemplars and tombstones have modules of
their own, `wal_histograms`, `exemplar_records` and `tombstones`. Layouts are in docs/format/wal.md.
Encoding is light on purpose: the log lives for minutes, and its work is on the path of every
acknowledgement. Integers are stored as offsets from their minimum or as differences, in the
narrowest of 0, 1, 2, 4, 8 bytes, all modulo the width of the type, so that no value is out of
range; one scrape of 1,000 series costs 8 bytes a sample and 40 more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.kernels.logcolumns import DELTAS, write_columns
from tsengine.model.batch import SampleBatch

SERIES = 1
FLOATS = 2
HISTOGRAMS = 3
EXEMPLARS = 4
METADATA = 5
TOMBSTONE = 6

TYPE_NAMES = {
    SERIES: "series",
    FLOATS: "floats",
    HISTOGRAMS: "histograms",
    EXEMPLARS: "exemplars",
    METADATA: "metadata",
    TOMBSTONE: "tombstone",
}
KNOWN_TYPES = frozenset(TYPE_NAMES)
"""What this version reads and writes."""

FLAG_START_TIMESTAMPS = 1
_U64 = 0xFFFFFFFFFFFFFFFF
_WIDTHS = (0, 1, 2, 4, 8)
_WIDTH_FOR = (0, 1, 2, 4, 4, 8, 8, 8, 8)
_SIGNED = {4: np.int32, 8: np.int64}

# flags, kind of refs, kind of t, 0, n, base and step of refs, base and step of t
_FLOATS_HEADER = struct.Struct("<BBBBIQQQQ")
_METADATA_HEADER = struct.Struct("<II")
# kind, zeros, base, step
_COLUMN_HEADER = struct.Struct("<B7sQQ")
_ZEROS = bytes(7)

_Unsigned = npt.NDArray[Any]


def check_type(record_type: int, *, flags: int = 0, where: str = "") -> None:
    """Raise UnsupportedFormat for a record that this version does not know."""
    if record_type not in KNOWN_TYPES:
        name = TYPE_NAMES.get(record_type, "unknown")
        raise UnsupportedFormat(
            f"{where}record type {record_type} ({name}) is not known to this version"
        )
    if flags:
        raise UnsupportedFormat(
            f"{where}record of type {TYPE_NAMES[record_type]} has flags {flags:#x} "
            "that are not known to this version"
        )


def encode_floats(batch: SampleBatch) -> bytes:
    """Payload of a FLOATS record; rows keep their order and bits. None may be a handle."""
    assert batch.refs.dtype == np.uint32, batch.refs.dtype
    assert batch.t_ms.dtype == np.int64, batch.t_ms.dtype
    assert batch.bits.dtype == np.uint64, batch.bits.dtype
    n = len(batch.refs)
    assert len(batch.t_ms) == len(batch.bits) == n, "columns have one length"
    begin = _FLOATS_HEADER.size + 8 * n
    out = np.empty(begin + 12 * n, np.uint8)
    out[_FLOATS_HEADER.size : begin].view(np.uint64)[:] = batch.bits
    layout = np.empty(6, np.int64)
    size = begin + write_columns(
        np.ascontiguousarray(batch.t_ms), np.ascontiguousarray(batch.refs), out[begin:], layout
    )
    t_kind, t_base, t_step, refs_kind, refs_base, refs_step = layout.tolist()
    flags = 0 if batch.start_ms is None else FLAG_START_TIMESTAMPS
    _FLOATS_HEADER.pack_into(
        out.data, 0, flags, refs_kind, t_kind, 0, n, refs_base, refs_step, t_base & _U64,
        t_step & _U64,
    )  # fmt: skip
    starts = b"" if batch.start_ms is None else encode_column(batch.start_ms)
    return out[:size].tobytes() + starts


def decode_floats(payload: bytes) -> SampleBatch:
    """Columns of a FLOATS payload.

    ``bits`` is a read-only view of ``payload`` when that is aligned; the others are copies.

    Raises
    ------
    CorruptionError
        The payload is not one that `encode_floats` makes.
    UnsupportedFormat
        It has flags or columns of a newer version.

    """
    if len(payload) < _FLOATS_HEADER.size:
        raise CorruptionError(f"floats record of {len(payload)} bytes is shorter than its header")
    fields = _FLOATS_HEADER.unpack_from(payload)
    flags, refs_kind, t_kind, zero, n, refs_base, refs_step, t_base, t_step = fields
    if flags & ~FLAG_START_TIMESTAMPS or zero:
        raise UnsupportedFormat(f"floats record with unknown flags {flags:#x}, {zero:#x}")
    t_size = _column_size(t_kind, n, 8)
    refs_size = _column_size(refs_kind, n, 4)
    size = _FLOATS_HEADER.size + 8 * n + t_size + refs_size
    if len(payload) < size or (not flags and len(payload) > size):
        raise CorruptionError(f"floats record of {n} rows has {len(payload)} bytes, not {size}")
    if max(refs_base, refs_step) >= 1 << 32:
        raise CorruptionError("floats record with a series ref above 32 bits")
    offset = _FLOATS_HEADER.size
    bits = np.frombuffer(payload, np.uint64, n, offset)
    if not bits.flags.aligned:
        bits = bits.copy()
    offset += 8 * n
    t = _decode_column(payload, offset, t_kind, n, np.uint64(t_base), np.uint64(t_step))
    offset += t_size
    refs = _decode_column(payload, offset, refs_kind, n, np.uint32(refs_base), np.uint32(refs_step))
    start_ms = None
    if flags:
        start_ms, end = decode_column(payload, size, n)
        if end != len(payload):
            raise CorruptionError(f"floats record of {n} rows has {len(payload)} bytes, not {end}")
    return SampleBatch(refs, t.view(np.int64), bits, start_ms=start_ms)


def encode_metadata(entries: Sequence[tuple[str, str, str, str]]) -> bytes:
    """Payload of a METADATA record from ``(metric, type, help, unit)``."""
    texts = [text.encode() for entry in entries for text in entry]
    sizes = np.array([len(text) for text in texts], np.dtype("<u4"))
    return b"".join((_METADATA_HEADER.pack(0, len(entries)), sizes.tobytes(), *texts))


def decode_metadata(payload: bytes) -> list[tuple[str, str, str, str]]:
    """Entries of a METADATA payload; raises CorruptionError or UnsupportedFormat."""
    if len(payload) < _METADATA_HEADER.size:
        raise CorruptionError(f"metadata record of {len(payload)} bytes")
    flags, n = _METADATA_HEADER.unpack_from(payload)
    if flags:
        raise UnsupportedFormat(f"metadata record with unknown flags {flags:#x}")
    begin = _METADATA_HEADER.size + 16 * n
    if len(payload) < begin:
        raise CorruptionError(f"metadata record of {n} entries has {len(payload)} bytes")
    sizes = np.frombuffer(payload, np.dtype("<u4"), 4 * n, _METADATA_HEADER.size)
    ends = (begin + np.cumsum(sizes, dtype=np.int64)).tolist()
    if (ends[-1] if ends else begin) != len(payload):
        raise CorruptionError(f"metadata record of {len(payload)} bytes does not fit its texts")
    try:
        texts = [
            str(payload[start:end], "utf-8")
            for start, end in zip([begin, *ends[:-1]], ends, strict=False)
        ]
    except UnicodeDecodeError as error:
        raise CorruptionError("metadata record with a text that is not UTF-8") from error
    fields = iter(texts)
    return list(zip(fields, fields, fields, fields, strict=True))


def encode_column(values: npt.NDArray[np.int64]) -> bytes:
    """A column with its own header, which tells how it is written."""
    kind, base, step, rest = _encode_column(np.ascontiguousarray(values).view(np.uint64))
    return _COLUMN_HEADER.pack(kind, _ZEROS, base, step) + rest.tobytes()


def decode_column(
    payload: bytes, offset: int, n: int, *, flags: int = 0
) -> tuple[npt.NDArray[np.int64], int]:
    """A column of n rows at an offset, and where it ends; bits of ``flags`` in its kind are passed.

    Raises
    ------
    CorruptionError
        There is no such column.
    UnsupportedFormat
        It is one of a newer version.

    """
    begin = offset + _COLUMN_HEADER.size
    if len(payload) < begin:
        raise CorruptionError(f"column at byte {offset} is cut")
    kind, zeros, base, step = _COLUMN_HEADER.unpack_from(payload, offset)
    if zeros != _ZEROS:
        raise UnsupportedFormat(f"column of a newer version at byte {offset}")
    kind &= ~flags
    end = begin + _column_size(kind, n, 8)
    if len(payload) < end:
        raise CorruptionError(f"column at byte {offset} is cut")
    column = _decode_column(payload, begin, kind, n, np.uint64(base), np.uint64(step))
    return column.view(np.int64), end


def _encode_column(values: _Unsigned) -> tuple[int, int, int, _Unsigned]:
    """Kind, base, step and what remains, as an array of the chosen width."""
    if not len(values):
        return 0, 0, 0, values
    lowest, width = _span(values)
    if width > 1 and len(values) > 1:
        deltas = values[1:] - values[:-1]
        step, deltas_width = _span(deltas)
        if deltas_width < width:
            rest = _narrow(deltas, step, deltas_width)
            return DELTAS | deltas_width, int(values[0]), int(step), rest
    return width, int(lowest), 0, _narrow(values, lowest, width)


def _decode_column(
    payload: bytes, offset: int, kind: int, n: int, base: Any, step: Any
) -> _Unsigned:
    """Invert `_encode_column`; the dtype is that of ``base``. The caller checked sizes."""
    dtype = base.dtype
    out: _Unsigned
    width = kind & ~DELTAS
    if not kind & DELTAS:
        if not width:
            return np.full(n, base, dtype)
        stored = np.frombuffer(payload, f"<u{width}", n, offset)
        out = np.add(stored, base, dtype=dtype)
        return out
    if not width:
        out = np.arange(n, dtype=dtype)
        out *= step
        out += base
        return out
    out = np.empty(n, dtype)
    out[0] = base
    stored = np.frombuffer(payload, f"<u{width}", n - 1, offset)
    np.add(stored, step, out=out[1:], dtype=dtype)
    return np.cumsum(out, dtype=dtype, out=out)


def _column_size(kind: int, n: int, width_max: int) -> int:
    width = kind & ~DELTAS
    if width not in _WIDTHS or width > width_max:
        raise CorruptionError(f"column of the unknown kind {kind:#x}")
    if not kind & DELTAS:
        return width * n
    if n < 1:
        raise CorruptionError("column with differences of no rows")
    return width * (n - 1)


def _span(values: _Unsigned) -> tuple[Any, int]:
    """The lowest value, by its signed reading, and the bytes that offsets from it need."""
    signed = values.view(_SIGNED[values.dtype.itemsize])
    lowest = signed.min()
    size = ((int(signed.max()) - int(lowest)).bit_length() + 7) // 8
    return lowest.view(values.dtype), _WIDTH_FOR[size]


def _narrow(values: _Unsigned, lowest: Any, width: int) -> _Unsigned:
    if width == 0:
        return values[:0]
    offsets: _Unsigned = values - lowest
    return offsets.astype(f"<u{width}", copy=False)
