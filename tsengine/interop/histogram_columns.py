"""Native histograms as an Arrow column of structs, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_NAMES,
    KEY_BIAS,
    Histograms,
    handles,
    is_handle,
    rows_of,
)
from tsengine.model.ragged import I64Array, expand_ranges, offsets_of

_BUCKETS = pa.list_(
    pa.struct(
        [
            pa.field("index", pa.int32(), nullable=False),
            pa.field("count", pa.float64(), nullable=False),
        ]
    )
)
HISTOGRAM = pa.struct(
    [
        pa.field("schema", pa.int8()),
        pa.field("zero_threshold", pa.float64()),
        pa.field("zero_count", pa.float64()),
        pa.field("count", pa.float64()),
        pa.field("sum", pa.float64()),
        pa.field("positive", _BUCKETS),
        pa.field("negative", _BUCKETS),
        pa.field("custom_bounds", pa.list_(pa.float64())),
        pa.field("hint", pa.string()),
    ]
)
"""Buckets that are not empty, by ascending index; bucket i of ``positive`` holds the values in
(2^((i - 1) * 2^-schema), 2^(i * 2^-schema)]. ``custom_bounds`` is null unless the schema is -53."""


def histogram_array(bits: npt.NDArray[np.uint64], table: Histograms | None) -> pa.StructArray:
    """The histograms of a column of samples: null where a sample is a float.

    ``bits: u64[N]`` with handles into ``table``; floats keep their place, with no histogram.
    """
    if table is None or len(table) == 0:
        return pa.nulls(len(bits), HISTOGRAM)
    is_histogram = is_handle(bits)
    rows = pa.array(rows_of(bits), mask=~is_histogram)
    return _struct_of(table).take(rows)


def floats_of(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The values of a column of samples, NaN where a sample is a histogram; bits else kept."""
    return np.where(is_handle(bits), np.float64(np.nan).view(np.uint64), bits).view(np.float64)


def samples_of(
    values: npt.NDArray[np.float64], column: pa.StructArray
) -> tuple[npt.NDArray[np.float64], Histograms | None]:
    """``(values with handles, table)`` of floats and a column as `histogram_array` makes it.

    Buckets may come in any order, empty ones are left out.

    Raises
    ------
    ValueError
        A histogram lacks a field, or has a hint that is not known.

    """
    is_histogram = column.is_valid().to_numpy(zero_copy_only=False)
    if not is_histogram.any():
        return values, None
    table = _table_of(pc.drop_null(column))
    bits = values.view(np.uint64).copy()
    bits[is_histogram] = handles(np.arange(len(table)))
    return bits.view(np.float64), table


def _struct_of(table: Histograms) -> pa.StructArray:
    is_negative = table.keys < 0
    n_negative = np.diff(offsets_of(is_negative.astype(np.int64))[table.offsets])
    starts, ends = table.offsets[:-1], table.offsets[1:]
    # Keys of negative values descend in index.
    negative = expand_ranges(starts, n_negative)
    negative = np.repeat(2 * starts + n_negative - 1, n_negative) - negative
    positive = expand_ranges(starts + n_negative, ends - starts - n_negative)
    bounds_id = np.maximum(table.bounds_id, 0)
    bounds = pa.nulls(len(table), HISTOGRAM.field("custom_bounds").type)
    if len(table.bounds_offsets) > 1:
        lists = pa.ListArray.from_arrays(
            pa.array(table.bounds_offsets.astype(np.int32)), pa.array(table.bounds)
        )
        bounds = lists.take(pa.array(bounds_id, mask=table.bounds_id < 0))
    columns = [
        pa.array(table.schema),
        pa.array(table.zero_threshold),
        pa.array(table.zero_count),
        pa.array(table.count),
        pa.array(table.sum),
        _lists(table, positive, ends - starts - n_negative),
        _lists(table, negative, n_negative),
        bounds,
        pa.array(HINT_NAMES).take(pa.array(table.hint)),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(HISTOGRAM))


def _lists(table: Histograms, at: I64Array, sizes: I64Array) -> pa.ListArray:
    """Some buckets of each histogram, ``sizes: i64[N]`` of them."""
    index = np.abs(table.keys[at]) - KEY_BIAS
    pairs = pa.StructArray.from_arrays(
        [pa.array(index.astype(np.int32)), pa.array(table.counts[at])],
        fields=list(_BUCKETS.value_type),
    )
    offsets = pa.array(offsets_of(sizes).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pairs, type=_BUCKETS)


def _table_of(column: pa.StructArray) -> Histograms:
    """The table of structs of which none is null."""
    fields = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
    missing = [f.name for f in HISTOGRAM if f.name not in fields]
    if missing:
        raise ValueError(f"column 'histogram' lacks {', '.join(missing)}")
    empty = [n for n, c in fields.items() if c.null_count and not pa.types.is_list(c.type)]
    if empty:
        raise ValueError(f"column 'histogram' has histograms without {empty[0]!r}")
    hint = pc.index_in(fields["hint"].cast(pa.string()), pa.array(HINT_NAMES))
    if hint.null_count:
        raise ValueError(f"column 'histogram' has a hint that is none of {', '.join(HINT_NAMES)}")

    def numbers(name: str) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = _numpy(fields[name], pa.float64())
        return found

    schema = _numpy(fields["schema"], pa.int8())
    bounds_sizes, bounds = _flat_list(fields["custom_bounds"])
    is_custom = schema == CUSTOM_SCHEMA
    if bounds_sizes[~is_custom].any():
        raise ValueError("column 'histogram' has custom_bounds of an exponential schema")
    keys, counts, rows = _buckets(fields["positive"], fields["negative"])
    return Histograms(
        schema=schema,
        hint=_numpy(hint, pa.uint8()),
        count=numbers("count"),
        sum=numbers("sum"),
        zero_threshold=numbers("zero_threshold"),
        zero_count=numbers("zero_count"),
        offsets=offsets_of(np.bincount(rows, minlength=len(column))),
        keys=keys,
        counts=counts,
        bounds_id=np.where(is_custom, np.cumsum(is_custom) - 1, -1).astype(np.int32),
        bounds_offsets=offsets_of(bounds_sizes[is_custom]),
        bounds=_numpy(bounds, pa.float64()),
    )


def _buckets(
    positive: pa.ListArray, negative: pa.ListArray
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], I64Array]:
    """``(keys, counts, histogram of each)`` by histogram and key, without empty buckets."""
    keys, counts, rows = [], [], []
    for sign, lists in ((1, positive), (-1, negative)):
        sizes, pairs = _flat_list(lists)
        index, count = pairs.flatten()
        index = _numpy(index, pa.int64())
        if len(index) and int(np.abs(index).max()) >= KEY_BIAS:
            raise ValueError(f"column 'histogram' has a bucket index beyond {KEY_BIAS - 1}")
        keys.append(sign * (index + KEY_BIAS))
        counts.append(_numpy(count, pa.float64()))
        rows.append(np.repeat(np.arange(len(sizes)), sizes))
    key, count, row = np.concatenate(keys), np.concatenate(counts), np.concatenate(rows)
    order = np.lexsort((key, row))
    order = order[count[order] != 0]
    return key[order].astype(np.int32), count[order], row[order]


def _flat_list(lists: pa.ListArray) -> tuple[I64Array, pa.Array]:
    """``(length of each list, 0 where null; their items)``."""
    sizes = _numpy(pc.list_value_length(lists).fill_null(0), pa.int64())
    return sizes, lists.flatten()


def _numpy(column: pa.Array, kind: pa.DataType) -> Any:
    if column.null_count:
        raise ValueError("column 'histogram' has empty places in buckets or bounds")
    return column.cast(kind).to_numpy(zero_copy_only=False)
