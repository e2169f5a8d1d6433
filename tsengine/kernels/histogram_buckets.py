"""What the kernels of native histograms share: columns, keys of buckets, their bounds.

A table of histograms comes as `Columns`: the arrays of `tsengine.model.histograms.Histograms`, the
schema as unsigned bytes. All of them are typed as read-only, so hand over read-only views.
Here are only devices, which other kernel files borrow, no kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tsengine.kernels.bits import bits_f64, f64_bits
from tsengine.kernels.jit import F64_IN, I32_IN, I64_IN, U8_IN, Record, device

KEY_BIAS = 1 << 20
CUSTOM_SCHEMA = -53
MAX_FLOAT = 1.7976931348623157e308

_ULPS_BELOW = (
    "1111112111211111112311222222222211211121122211221122102211221122"
    "1111112222332132112111211112111111121011213311221222112121332222"
    "2121223322322122222222323233323311221121223321332233212232332232"
    "2243223233433343333333444455435422322333324422333243223333543344"
)
"""Units in the last place that Prometheus's bounds lie below 2^(i/256 - 1), by i, plus one."""

BOUNDS = np.array(
    [2.0 ** (i / 256) / 2 - (int(ulps) - 1) * 2.0**-53 for i, ulps in enumerate(_ULPS_BELOW)]
)
"""Upper bounds of the buckets of schema 8 in [0.5, 1); coarser schemas have some of them."""


class Columns(NamedTuple):
    """A table of N histograms of M buckets; see `Histograms` for what the columns mean."""

    schema: Any
    hint: Any
    total: Any
    sum: Any
    zero_threshold: Any
    zero_count: Any
    offsets: Any
    keys: Any
    counts: Any
    bounds_id: Any
    bounds_offsets: Any
    bounds: Any


def record_type(record: type, *fields: Any) -> Any:
    """Type of a named tuple of arrays, for signatures; only exactly these array types fit."""
    return Record(record, fields)


COLUMNS = record_type(
    Columns,
    U8_IN, U8_IN, F64_IN, F64_IN, F64_IN, F64_IN,
    I64_IN, I32_IN, F64_IN, I32_IN, I64_IN, F64_IN,
)  # fmt: skip


def columns_of(table: Any) -> Columns:
    """Read-only views of a `Histograms`, as kernels take it."""
    arrays = (
        table.schema.view(np.uint8), table.hint, table.count, table.sum, table.zero_threshold,
        table.zero_count, table.offsets, table.keys, table.counts, table.bounds_id,
        table.bounds_offsets, table.bounds,
    )  # fmt: skip
    views = [np.ascontiguousarray(array)[:] for array in arrays]
    for view in views:
        view.flags.writeable = False
    return Columns(*views)


@device
def signed(schema):
    """The schema that an unsigned byte stands for."""
    return np.int64(schema) - 256 if schema >= 128 else np.int64(schema)


@device
def custom_bounds_of(bounds_id, bounds_offsets, row):
    """Where the row's custom bounds begin and how many there are."""
    which = bounds_id[row]
    if which < 0:
        return np.int64(0), np.int64(0)
    first = bounds_offsets[which]
    return first, bounds_offsets[which + 1] - first


@device
def same_custom_bounds(t, a, b):
    """Whether two rows with custom buckets have equal bounds."""
    if t.bounds_id[a] == t.bounds_id[b]:
        return True
    first_a, n_a = custom_bounds_of(t.bounds_id, t.bounds_offsets, a)
    first_b, n_b = custom_bounds_of(t.bounds_id, t.bounds_offsets, b)
    if n_a != n_b:
        return False
    for i in range(n_a):
        if t.bounds[first_a + i] != t.bounds[first_b + i]:
            return False
    return True


@device
def first_positive(keys, lo, hi):
    """Position of the first bucket of positive values in keys[lo:hi]."""
    while lo < hi:
        middle = (lo + hi) // 2
        if keys[middle] > 0:
            hi = middle
        else:
            lo = middle + 1
    return lo


@device
def coarser_key(key, shift):
    """Key of the bucket that holds this one at a resolution of `shift` schemas less."""
    if shift == 0:
        return np.int64(key)
    if key > 0:
        return ((np.int64(key) - KEY_BIAS - 1) >> shift) + 1 + KEY_BIAS
    return -(((-np.int64(key) - KEY_BIAS - 1) >> shift) + 1 + KEY_BIAS)


@device
def exponential_bound(idx, schema):
    """Upper bound of bucket `idx`; the last one of finite values ends at the largest float."""
    if schema < 0:
        significand = 1.0
        exponent = idx << -schema
    else:
        significand = 2.0 * BOUNDS[(idx & ((1 << schema) - 1)) << (8 - schema)]
        exponent = idx >> schema
    if exponent > 1023:
        return MAX_FLOAT if exponent == 1024 and significand == 1.0 else np.inf
    if exponent >= -1022:
        return significand * bits_f64(np.uint64(exponent + 1023) << np.uint64(52))
    # Subnormal: rounded once, in the second product.
    exponent = max(exponent, -1100)
    return significand * bits_f64(np.uint64(exponent + 1123) << np.uint64(52)) * 2.0**-100


@device
def first_index_above(threshold, schema):
    """Smallest index of a bucket whose upper bound is above the threshold."""
    if not threshold > 0.0:
        return np.int64(-KEY_BIAS)
    if threshold > MAX_FLOAT:
        return np.int64(KEY_BIAS)
    field = np.int64(f64_bits(threshold) >> np.uint64(52))
    lowest = field - 1023 if field > 0 else np.int64(-1075)
    if schema < 0:
        low = lowest >> -schema
        high = ((field - 1022) >> -schema) + 2
    else:
        low = lowest << schema
        high = ((field - 1022) << schema) + 1
    while low < high:
        middle = (low + high) >> 1
        if exponential_bound(middle, schema) > threshold:
            high = middle
        else:
            low = middle + 1
    return low


@device
def bucket_range(schema, key, bounds, first_bound, n_bounds):
    """Lower and upper bound of a bucket; custom ones are ``bounds[first_bound:][:n_bounds]``."""
    if schema == CUSTOM_SCHEMA:
        idx = np.int64(key) - KEY_BIAS
        lower = -np.inf
        upper = np.inf
        if 0 < idx <= n_bounds:
            lower = bounds[first_bound + idx - 1]
        if idx < n_bounds:
            upper = bounds[first_bound + idx]
        return lower, upper
    if key > 0:
        idx = np.int64(key) - KEY_BIAS
        return exponential_bound(idx - 1, schema), exponential_bound(idx, schema)
    idx = -np.int64(key) - KEY_BIAS
    return -exponential_bound(idx, schema), -exponential_bound(idx - 1, schema)


@device
def clipped_range(schema, key, threshold, bounds, first_bound, n_bounds):
    """Bounds of a bucket without what the zero bucket up to the threshold covers."""
    lower, upper = bucket_range(schema, key, bounds, first_bound, n_bounds)
    if upper < 0.0 and upper > -threshold:
        upper = -threshold
    elif lower > 0.0 and lower < threshold:
        lower = threshold
    return lower, upper


@device
def one_sided(n_negative, n_positive, lower, upper):
    """The zero bucket's bounds: it ends at 0 where the histogram has no buckets of that side."""
    if n_negative == 0 and n_positive > 0:
        return 0.0, upper
    if n_positive == 0 and n_negative > 0:
        return lower, 0.0
    return lower, upper


@device
def fraction_below(lower, upper, v, is_linear):
    """Share of a bucket's width below v, which lies within."""
    if is_linear:
        return (v - lower) / (upper - lower)
    log_lower = np.log2(abs(lower))
    log_upper = np.log2(abs(upper))
    log_v = np.log2(abs(v))
    if v > 0.0:
        return (log_v - log_lower) / (log_upper - log_lower)
    return 1.0 - (log_v - log_upper) / (log_lower - log_upper)


@device
def kahan_add(total, compensation, x):
    """Neumaier's sum: the new total and its compensation."""
    new = total + x
    if new > MAX_FLOAT or new < -MAX_FLOAT:
        return new, 0.0
    if abs(total) >= abs(x):
        return new, compensation + ((total - new) + x)
    return new, compensation + ((x - new) + total)
