"""Payload of log records of type 3: histogram samples as columns (docs/format/wal.md)."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.batch import SampleBatch
from tsengine.model.histogram_bounds import with_own_bounds
from tsengine.model.histogram_checks import check_histograms
from tsengine.model.histograms import Histograms, handles
from tsengine.model.ragged import I64Array, offsets_of
from tsengine.storage.wal_records import FLAG_START_TIMESTAMPS, decode_column, encode_column

PIECE_NUMBERS_MAX = 4 * 1024 * 1024
"""Buckets, bounds and rows of a piece, but for its last histogram."""
_NUMBERS_MAX = 4 * PIECE_NUMBERS_MAX
"""Rows, buckets or bounds of one record."""

_INTEGERS = 0x40
"""In the kind of a column of floats: whole numbers, stored as integers."""

# flags, zeros, rows, buckets, rows of bounds, bounds
_HEADER = struct.Struct("<IIIII")


def encode_histograms(batch: SampleBatch) -> bytes:
    """Payload of a batch that has only histograms: row i is histogram i of its table."""
    table = batch.histograms
    assert table is not None, "a batch of histograms"
    assert len(table) == len(batch), "a histogram for each row"
    flags = 0 if batch.start_ms is None else FLAG_START_TIMESTAMPS
    n_bounds_rows = len(table.bounds_offsets) - 1
    header = _HEADER.pack(flags, len(batch), len(table.keys), n_bounds_rows, len(table.bounds))
    integers: list[npt.NDArray[np.integer]] = [batch.refs, batch.t_ms]
    if batch.start_ms is not None:
        integers.append(batch.start_ms)
    integers += [
        table.schema, table.hint, table.bounds_id, np.diff(table.offsets), table.keys,
        np.diff(table.bounds_offsets),
    ]  # fmt: skip
    floats = [
        table.count,
        table.sum,
        table.zero_threshold,
        table.zero_count,
        table.counts,
        table.bounds,
    ]
    return b"".join(
        (
            header,
            *(encode_column(column.astype(np.int64)) for column in integers),
            *(_encode_floats(column) for column in floats),
        )
    )


def decode_histograms(payload: bytes) -> SampleBatch:
    """The batch of a payload.

    Raises
    ------
    CorruptionError
        The payload is not one that `encode_histograms` makes.
    UnsupportedFormat
        It has flags of a newer version.

    """
    if len(payload) < _HEADER.size:
        raise CorruptionError(f"histograms record of {len(payload)} bytes")
    flags, n, n_keys, n_bounds_rows, n_bounds = _HEADER.unpack_from(payload)
    if flags & ~FLAG_START_TIMESTAMPS:
        raise UnsupportedFormat(f"histograms record with unknown flags {flags:#x}")
    if max(n, n_keys, n_bounds_rows, n_bounds) > _NUMBERS_MAX:
        raise CorruptionError(f"histograms record of more than {_NUMBERS_MAX} numbers")
    columns = _Columns(payload, _HEADER.size)
    refs = columns.integers(n, 0, (1 << 32) - 1)
    t_ms = columns.integers(n)
    start_ms = columns.integers(n) if flags else None
    table = Histograms(
        schema=columns.integers(n, -128, 127).astype(np.int8),
        hint=columns.integers(n, 0, 255).astype(np.uint8),
        bounds_id=columns.integers(n, -1, n_bounds_rows - 1).astype(np.int32),
        offsets=columns.offsets(n, n_keys),
        keys=columns.integers(n_keys, -(1 << 31), (1 << 31) - 1).astype(np.int32),
        bounds_offsets=columns.offsets(n_bounds_rows, n_bounds),
        count=columns.floats(n),
        sum=columns.floats(n),
        zero_threshold=columns.floats(n),
        zero_count=columns.floats(n),
        counts=columns.floats(n_keys),
        bounds=columns.floats(n_bounds),
    )
    if columns.at != len(payload):
        raise CorruptionError(f"histograms record of {len(payload)} bytes, not {columns.at}")
    try:
        check_histograms(table)
    except ValueError as error:
        raise CorruptionError(f"histograms record: {error}") from error
    return SampleBatch(refs.astype(np.uint32), t_ms, handles(np.arange(n)), table, start_ms)


def pieces_of(batch: SampleBatch) -> list[SampleBatch]:
    """A batch of only histograms in pieces that fit into records."""
    table = batch.histograms
    assert table is not None, "a batch of histograms"
    n_bounds = np.append(np.diff(table.bounds_offsets), 0)[table.bounds_id]
    weights = 16 + np.diff(table.offsets) + n_bounds
    numbers = np.cumsum(weights) // PIECE_NUMBERS_MAX
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    if not len(cuts):
        return [batch]
    pieces = [batch.take(rows) for rows in np.split(np.arange(len(batch)), cuts)]
    return [replace(p, histograms=with_own_bounds(p.histograms)) for p in pieces if p.histograms]


class _Columns:
    """Reads the columns of a payload one after the other."""

    def __init__(self, payload: bytes, at: int) -> None:
        self._payload = payload
        self.at = at

    def integers(self, n: int, lowest: int = -(1 << 63), highest: int = (1 << 63) - 1) -> I64Array:
        column, self.at = decode_column(self._payload, self.at, n)
        if n and (int(column.min()) < lowest or int(column.max()) > highest):
            raise CorruptionError(f"histograms record with a number outside {lowest} to {highest}")
        return column

    def offsets(self, n: int, end: int) -> I64Array:
        offsets = offsets_of(self.integers(n, 0, end))
        if offsets[-1] != end:
            raise CorruptionError("histograms record whose sizes do not fit")
        return offsets

    def floats(self, n: int) -> npt.NDArray[np.float64]:
        if self.at >= len(self._payload):
            raise CorruptionError(f"column at byte {self.at} is cut")
        is_integer = self._payload[self.at] & _INTEGERS
        column, self.at = decode_column(self._payload, self.at, n, flags=_INTEGERS)
        return column.astype(np.float64) if is_integer else column.view(np.float64)


def _encode_floats(values: npt.NDArray[np.float64]) -> bytes:
    """Counts are whole numbers mostly, and small ones."""
    values = np.ascontiguousarray(values)
    with np.errstate(invalid="ignore"):
        integers = values.astype(np.int64)
    if (integers.astype(np.float64).view(np.uint64) != values.view(np.uint64)).any():
        return encode_column(values.view(np.int64))
    encoded = encode_column(integers)
    return bytes([encoded[0] | _INTEGERS]) + encoded[1:]
