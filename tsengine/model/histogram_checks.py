"""Whether a table of histograms is in normal form; for tables of users and of files."""

from __future__ import annotations

import numpy as np

from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_GAUGE,
    KEY_BIAS,
    SCHEMA_MAX,
    SCHEMA_MIN,
    Histograms,
)
from tsengine.model.ragged import I64Array

_DTYPES = {
    "schema": np.int8, "hint": np.uint8, "count": np.float64, "sum": np.float64,
    "zero_threshold": np.float64, "zero_count": np.float64, "offsets": np.int64,
    "keys": np.int32, "counts": np.float64, "bounds_id": np.int32, "bounds_offsets": np.int64,
    "bounds": np.float64,
}  # fmt: skip
_BY_ROW = ("schema", "hint", "count", "sum", "zero_threshold", "zero_count", "bounds_id")


def check_histograms(table: Histograms) -> None:
    """Raise ValueError, naming what is wrong, if `Histograms` does not describe this table."""
    for name, dtype in _DTYPES.items():
        column = getattr(table, name)
        if column.dtype != dtype or column.ndim != 1:
            raise ValueError(f"{name} is {column.dtype}[{column.ndim} axes], not {dtype.__name__}")
    n = len(table)
    for name in _BY_ROW:
        if len(getattr(table, name)) != n:
            raise ValueError(f"{name} has {len(getattr(table, name))} rows, not {n}")
    if len(table.counts) != len(table.keys):
        raise ValueError(f"there are {len(table.keys)} keys and {len(table.counts)} counts")
    if len(table.offsets) != n + 1:
        raise ValueError(f"there are {len(table.offsets)} offsets for {n} histograms")
    _check_offsets("offsets", table.offsets, len(table.keys))
    _check_offsets("bounds_offsets", table.bounds_offsets, len(table.bounds))
    _check_rows(table)
    _check_buckets(table)
    _check_bounds(table)


def _check_offsets(name: str, offsets: I64Array, end: int) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise ValueError(f"{name} do not ascend from 0 to {end}")


def _check_rows(table: Histograms) -> None:
    is_custom = table.schema == CUSTOM_SCHEMA
    is_exponential = (table.schema >= SCHEMA_MIN) & (table.schema <= SCHEMA_MAX)
    if not (is_custom | is_exponential).all():
        raise ValueError(f"a schema is not {SCHEMA_MIN} to {SCHEMA_MAX} or {CUSTOM_SCHEMA}")
    if (table.hint > HINT_GAUGE).any():
        raise ValueError(f"a hint is above {HINT_GAUGE}")
    if (table.count < 0).any() or (table.zero_count < 0).any():
        raise ValueError("a count is negative")
    if ((table.bounds_id >= 0) != is_custom).any():
        raise ValueError(f"histograms of schema {CUSTOM_SCHEMA} have bounds, the others have none")
    if (table.bounds_id < -1).any() or (table.bounds_id >= len(table.bounds_offsets) - 1).any():
        raise ValueError("a row of bounds does not exist")
    if (is_custom & ((table.zero_count != 0) | (table.zero_threshold != 0))).any():
        raise ValueError("a histogram of custom buckets has a zero bucket")


def _check_buckets(table: Histograms) -> None:
    magnitudes = np.abs(table.keys.astype(np.int64))
    if ((magnitudes < 1) | (magnitudes >= 2 * KEY_BIAS)).any():
        raise ValueError("the key of a bucket is out of range")
    ascends = np.ones(len(table.keys), np.bool_)
    ascends[1:] = table.keys[1:] > table.keys[:-1]
    starts = table.offsets[:-1]
    ascends[starts[starts < len(table.keys)]] = True
    if not ascends.all():
        raise ValueError("the keys of a histogram do not ascend")
    if (table.counts < 0).any():
        raise ValueError("the count of a bucket is negative")
    if (table.counts == 0).any():
        raise ValueError("a bucket is empty")
    n_bounds = np.diff(table.bounds_offsets)
    last = np.where(table.bounds_id >= 0, np.append(n_bounds, 0)[table.bounds_id], 0)
    sizes = np.diff(table.offsets)
    index = table.keys.astype(np.int64) - KEY_BIAS
    outside = (index < 0) | (index > np.repeat(last, sizes))
    if (outside & np.repeat(table.bounds_id >= 0, sizes)).any():
        raise ValueError("the index of a custom bucket is out of range")


def _check_bounds(table: Histograms) -> None:
    ascends = np.ones(len(table.bounds), np.bool_)
    ascends[1:] = table.bounds[1:] > table.bounds[:-1]
    starts = table.bounds_offsets[:-1]
    ascends[starts[starts < len(table.bounds)]] = True
    if int(np.diff(table.bounds_offsets).max(initial=0)) > KEY_BIAS:
        raise ValueError(f"a histogram has more than {KEY_BIAS} custom bounds")
    if not ascends.all() or not np.isfinite(table.bounds).all():
        raise ValueError("custom bounds do not ascend or are not finite")
