"""What can be read off native histograms: bounds, quantiles, fractions, variances.

Source: Prometheus `promql/quantile.go`, `promql/functions.go` histogramVariance.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.histogram_buckets import (
    COLUMNS,
    CUSTOM_SCHEMA,
    clipped_range,
    custom_bounds_of,
    first_positive,
    fraction_below,
    kahan_add,
    one_sided,
    signed,
)
from tsengine.kernels.jit import BOOL_OUT, F64_IN, F64_OUT, I64_IN, OK, device, i64, kernel


@kernel(i64(COLUMNS, F64_OUT, F64_OUT))
def bucket_bounds(t, lower, upper):
    """Bounds of every bucket, cut at the zero bucket. Shapes: ``lower, upper: f64[M]``."""
    keys, bounds = t.keys, t.bounds
    for row in range(t.schema.shape[0]):
        schema, threshold = signed(t.schema[row]), t.zero_threshold[row]
        first, n = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
        for j in range(t.offsets[row], t.offsets[row + 1]):
            lower[j], upper[j] = clipped_range(schema, keys[j], threshold, bounds, first, n)
    return OK


@kernel(i64(COLUMNS, I64_IN, F64_IN, F64_OUT, BOOL_OUT))
def histogram_quantiles(t, rows, q, out, has_nans):
    """The q-quantile of each row. Shapes: ``rows: i64[R]``, ``q, out: f64[R]``, ``bool[R]``.

    ``has_nans``: observations of NaN make the value NaN or shift it upwards.
    """
    for r in range(rows.shape[0]):
        out[r], has_nans[r] = _quantile(t, rows[r], q[r])
    return OK


@kernel(i64(COLUMNS, I64_IN, F64_IN, F64_IN, F64_OUT, BOOL_OUT))
def histogram_fractions(t, rows, lower, upper, out, has_nans):
    """Share of the observations between two bounds.

    Shapes: ``rows: i64[R]``, ``lower, upper, out: f64[R]``, ``has_nans: bool[R]`` (observations of
    NaN are in no bucket).
    """
    for r in range(rows.shape[0]):
        out[r], has_nans[r] = _fraction(t, rows[r], lower[r], upper[r])
    return OK


@kernel(i64(COLUMNS, I64_IN, F64_OUT))
def histogram_variances(t, rows, out):
    """Variance, every observation taken for the middle of its bucket. Shapes: i64[R], f64[R]."""
    for r in range(rows.shape[0]):
        out[r] = _variance(t, rows[r])
    return OK


@device
def _cells_of(keys, lo, hi, zero_count):
    """Number of negative buckets, and of all: in order of values with the zero bucket if populated.

    A *cell* is a number in this order.
    """
    return first_positive(keys, lo, hi) - lo, hi - lo + (1 if zero_count > 0.0 else 0)


@device
def _cell_count(counts, lo, n_negative, zero_count, cell):
    """Count of a cell."""
    if zero_count > 0.0 and cell >= n_negative:
        return zero_count if cell == n_negative else counts[lo + cell - 1]
    return counts[lo + cell]


@device
def _cell_range(
    keys, lo, n_negative, zero_count, cell, schema, threshold, bounds, first_bound, n_bounds
):
    """Bounds of a cell, cut at the zero bucket."""
    if zero_count > 0.0 and cell >= n_negative:
        if cell == n_negative:
            return -threshold, threshold
        cell -= 1
    return clipped_range(schema, keys[lo + cell], threshold, bounds, first_bound, n_bounds)


@device
def _quantile(t, row, q):
    total, sum_ = t.total[row], t.sum[row]
    if q < 0.0:
        return -np.inf, False
    if q > 1.0:
        return np.inf, False
    if total == 0.0 or q != q:
        return np.nan, False
    counts, lo, zero_count = t.counts, t.offsets[row], t.zero_count[row]
    n_negative, n = _cells_of(t.keys, lo, t.offsets[row + 1], zero_count)
    may_have_nans = sum_ != sum_
    forward = may_have_nans or q < 0.5
    rank = q * total if forward else (1.0 - q) * total
    seen = 0.0
    in_cell = 0.0
    step = 0
    while step < n:
        cell = step if forward else n - 1 - step
        in_cell = _cell_count(counts, lo, n_negative, zero_count, cell)
        seen += in_cell
        if seen >= rank:
            break
        step += 1
    cell = min(step, n - 1)
    if not forward:
        cell = n - 1 - cell
    schema = signed(t.schema[row])
    lower, upper, is_answer = _quantile_range(t, row, schema, n_negative, n, cell)
    if is_answer:
        return lower, False
    seen = min(seen, total)
    if seen < rank:
        return (np.nan, True) if may_have_nans else (upper, False)
    rank = rank - (seen - in_cell) if forward else seen - rank
    has_nans = False
    if may_have_nans:
        for later in range(step + 1, n):
            seen += _cell_count(counts, lo, n_negative, zero_count, later)
        has_nans = seen < total
    return _interpolated(lower, upper, rank / in_cell, schema), has_nans


@device
def _quantile_range(t, row, schema, n_negative, n, cell):
    """Bounds to interpolate between, and whether the lower one is the answer instead."""
    if n == 0:
        return 0.0, 0.0, False
    first_bound, n_bounds = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    lower, upper = _cell_range(
        t.keys, t.offsets[row], n_negative, t.zero_count[row], cell,
        schema, t.zero_threshold[row], t.bounds, first_bound, n_bounds,
    )  # fmt: skip
    if schema != CUSTOM_SCHEMA:
        if lower < 0.0 and upper > 0.0:
            n_positive = t.offsets[row + 1] - t.offsets[row] - n_negative
            lower, upper = one_sided(n_negative, n_positive, lower, upper)
        return lower, upper, False
    if lower == -np.inf:
        return (upper, upper, True) if upper <= 0.0 else (0.0, upper, False)
    return lower, upper, upper == np.inf


@device
def _interpolated(lower, upper, fraction, schema):
    """The value at a fraction of the bucket's width; exponential buckets on a logarithmic scale."""
    if schema == CUSTOM_SCHEMA or (lower <= 0.0 and upper >= 0.0):
        return lower + (upper - lower) * fraction
    log_lower = np.log2(abs(lower))
    log_upper = np.log2(abs(upper))
    if lower > 0.0:
        return np.exp2(log_lower + (log_upper - log_lower) * fraction)
    return -np.exp2(log_upper + (log_lower - log_upper) * (1.0 - fraction))


@device
def _rank_within(before, count, lower, upper, v, is_linear):
    """Estimated number of observations below v, which lies in this bucket."""
    if lower == -np.inf and is_linear:
        return count
    return before + count * fraction_below(lower, upper, v, is_linear)


@device
def _fraction(t, row, lower, upper):
    total, sum_ = t.total[row], t.sum[row]
    if total == 0.0 or lower != lower or upper != upper:
        return np.nan, False
    if lower >= upper:
        return 0.0, False
    schema = signed(t.schema[row])
    keys, counts, bounds = t.keys, t.counts, t.bounds
    lo, hi, threshold, zero_count = (
        t.offsets[row], t.offsets[row + 1], t.zero_threshold[row], t.zero_count[row]
    )  # fmt: skip
    first_bound, n_bounds = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    n_negative, n = _cells_of(keys, lo, hi, zero_count)
    rank, lower_rank, upper_rank = 0.0, 0.0, 0.0
    lower_set, upper_set = False, False
    cell = 0
    while cell < n and not (lower_set and upper_set):
        count = _cell_count(counts, lo, n_negative, zero_count, cell)
        start, end = _cell_range(
            keys, lo, n_negative, zero_count, cell,
            schema, threshold, bounds, first_bound, n_bounds,
        )  # fmt: skip
        is_linear = schema == CUSTOM_SCHEMA
        if start <= 0.0 and end >= 0.0:
            is_linear = True
            start, end = one_sided(n_negative, hi - lo - n_negative, start, end)
        if not lower_set and start >= lower:
            lower_rank, lower_set = rank, True
        if not upper_set and start >= upper:
            upper_rank, upper_set = rank, True
        if not lower_set and end > lower:
            lower_rank, lower_set = _rank_within(rank, count, start, end, lower, is_linear), True
        if not upper_set and end > upper:
            upper_rank, upper_set = _rank_within(rank, count, start, end, upper, is_linear), True
        rank += count
        cell += 1
    has_nans = False
    seen = total
    if sum_ != sum_:
        for later in range(cell, n):
            rank += _cell_count(counts, lo, n_negative, zero_count, later)
        seen = rank
        has_nans = seen < total
    if not lower_set or lower_rank > seen:
        lower_rank = seen
    if not upper_set or upper_rank > seen:
        upper_rank = seen
    return (upper_rank - lower_rank) / total, has_nans


@device
def _variance(t, row):
    keys, counts, bounds = t.keys, t.counts, t.bounds
    schema, threshold, total = signed(t.schema[row]), t.zero_threshold[row], t.total[row]
    first, n = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    mean = t.sum[row] / total
    variance, compensation = 0.0, 0.0
    if t.zero_count[row] > 0.0:
        variance = t.zero_count[row] * mean * mean
    for j in range(t.offsets[row], t.offsets[row + 1]):
        lower, upper = clipped_range(schema, keys[j], threshold, bounds, first, n)
        if schema == CUSTOM_SCHEMA:
            value = (upper + lower) / 2.0
        elif lower <= 0.0 and upper >= 0.0:
            value = 0.0
        else:
            value = np.sqrt(upper * lower)
            if upper < 0.0:
                value = -value
        delta = value - mean
        variance, compensation = kahan_add(variance, compensation, counts[j] * delta * delta)
    return (variance + compensation) / total
