"""Native histograms as columns, and how one stands in a column of floats.

A sample is a float or a histogram. Everything that only moves samples moves float64 *bits*; the
bits of a histogram's sample are a **handle**: a NaN whose low 48 bits number a row of a table of
`Histograms` that travels with the column. So merging, sorting, selecting and joining need not know
what a histogram is. Handles never leave the process: files hold `HANDLE_BITS` itself in their place
and the histograms beside it, and no float that comes in keeps bits in the range of handles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.model.ragged import expand_ranges, offsets_of

I64Array = npt.NDArray[np.int64]

HANDLE_BITS = np.uint64(0x7FFC << 48)
"""Bits of the handle of row 0; row i has these bits plus i."""
_HANDLE_SHIFT = np.uint64(48)
_HANDLE_TAG = np.uint64(0x7FFC)
_PLAIN_BIT = np.uint64(1 << 50)
"""Without it the bits of a handle are those of a NaN that is none."""
_ROW_MASK = np.uint64((1 << 48) - 1)

CUSTOM_SCHEMA = -53
"""Schema of custom buckets; exponential ones have -4 to 8."""
SCHEMA_MIN, SCHEMA_MAX = -4, 8

HINT_UNKNOWN, HINT_RESET, HINT_NOT_RESET, HINT_GAUGE = 0, 1, 2, 3
"""Counter reset hints, numbered as in remote write."""
HINT_NAMES = ("unknown", "reset", "not_reset", "gauge")
"""What users call them."""

KEY_BIAS = 1 << 20
"""Bucket indexes lie strictly between -KEY_BIAS and KEY_BIAS (schema 8 needs less than 2^19)."""


@dataclass(frozen=True, slots=True)
class Histograms:
    """N native histograms with float counts, in normal form.

    Buckets of histogram i are ``keys, counts[offsets[i]:offsets[i + 1]]``. A **key** is
    ``index + KEY_BIAS`` for a bucket of positive values and ``-(index + KEY_BIAS)`` for one of
    negative values, index as in Prometheus: bucket i of schema s has the bounds
    (2^((i-1) * 2^-s), 2^(i * 2^-s)], and custom bucket i those of ``(bounds[i-1], bounds[i]]``,
    from -Inf for i = 0 and to +Inf for the last. So keys ascend as values do.

    Normal form: keys strictly ascend, no bucket has the count zero. Histograms that differ only in
    empty buckets are the same.

    Shapes: ``schema: i8[N]``, ``hint: u8[N]``, ``count, sum, zero_threshold, zero_count: f64[N]``,
    ``offsets: i64[N + 1]``, ``keys: i32[M]``, ``counts: f64[M]``. ``bounds_id: i32[N]`` is a row of
    the ragged table ``bounds_offsets: i64[K + 1]``, ``bounds: f64[B]`` of custom bounds (ascending,
    without the last +Inf), -1 for exponential schemas. Equal bounds may stand there twice.
    """

    schema: npt.NDArray[np.int8]
    hint: npt.NDArray[np.uint8]
    count: npt.NDArray[np.float64]
    sum: npt.NDArray[np.float64]
    zero_threshold: npt.NDArray[np.float64]
    zero_count: npt.NDArray[np.float64]
    offsets: I64Array
    keys: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float64]
    bounds_id: npt.NDArray[np.int32]
    bounds_offsets: I64Array
    bounds: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.schema)

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays."""
        columns = (
            self.schema, self.hint, self.count, self.sum, self.zero_threshold, self.zero_count,
            self.offsets, self.keys, self.counts, self.bounds_id, self.bounds_offsets, self.bounds,
        )  # fmt: skip
        return sum(column.nbytes for column in columns)

    def take(self, rows: npt.NDArray[np.integer]) -> Histograms:
        """Rows in the order given, as copies; the table of bounds is shared."""
        rows = np.asarray(rows, np.int64)
        sizes = self.offsets[rows + 1] - self.offsets[rows]
        at = expand_ranges(self.offsets[rows], sizes)
        return replace(
            self,
            schema=self.schema[rows],
            hint=self.hint[rows],
            count=self.count[rows],
            sum=self.sum[rows],
            zero_threshold=self.zero_threshold[rows],
            zero_count=self.zero_count[rows],
            offsets=offsets_of(sizes),
            keys=self.keys[at],
            counts=self.counts[at],
            bounds_id=self.bounds_id[rows],
        )


def no_histograms() -> Histograms:
    """A table of none."""
    none = np.empty(0)
    zero = np.zeros(1, np.int64)
    return Histograms(
        np.empty(0, np.int8), np.empty(0, np.uint8), none, none, none, none, zero,
        np.empty(0, np.int32), none, np.empty(0, np.int32), zero, none,
    )  # fmt: skip


def concatenate(tables: Sequence[Histograms]) -> Histograms:
    """All rows of the tables, one after the other."""
    if len(tables) == 1:
        return tables[0]
    if not tables:
        return no_histograms()
    n_bounds = offsets_of(np.array([len(t.bounds_offsets) - 1 for t in tables]))[:-1].tolist()
    return Histograms(
        schema=np.concatenate([t.schema for t in tables]),
        hint=np.concatenate([t.hint for t in tables]),
        count=np.concatenate([t.count for t in tables]),
        sum=np.concatenate([t.sum for t in tables]),
        zero_threshold=np.concatenate([t.zero_threshold for t in tables]),
        zero_count=np.concatenate([t.zero_count for t in tables]),
        offsets=offsets_of(np.concatenate([np.diff(t.offsets) for t in tables])),
        keys=np.concatenate([t.keys for t in tables]),
        counts=np.concatenate([t.counts for t in tables]),
        bounds_id=np.concatenate(
            [
                np.where(t.bounds_id >= 0, t.bounds_id + first, -1).astype(np.int32)
                for t, first in zip(tables, n_bounds, strict=True)
            ]
        ),
        bounds_offsets=offsets_of(np.concatenate([np.diff(t.bounds_offsets) for t in tables])),
        bounds=np.concatenate([t.bounds for t in tables]),
    )


def handles(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Bits that stand for rows of a table: u64[len(rows)]."""
    return HANDLE_BITS + np.asarray(rows).astype(np.uint64)


def is_handle(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which bits (any shape) are handles."""
    found: npt.NDArray[np.bool_] = (bits >> _HANDLE_SHIFT) == _HANDLE_TAG
    return found


def without_handles(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Bits of floats with those in the range of handles made another NaN; a copy."""
    return np.where(is_handle(bits), bits & ~_PLAIN_BIT, bits)


def rows_of(bits: npt.NDArray[np.uint64]) -> I64Array:
    """The rows that handles stand for; means nothing for other bits."""
    return (bits & _ROW_MASK).astype(np.int64)
