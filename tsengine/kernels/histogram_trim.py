"""Trimming native histograms: the operators ``</`` and ``>/``.

Source: Prometheus `model/histogram/float_histogram.go` TrimBuckets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tsengine.kernels.histogram_buckets import (
    COLUMNS,
    CUSTOM_SCHEMA,
    bucket_range,
    custom_bounds_of,
    first_positive,
    fraction_below,
    one_sided,
    record_type,
    signed,
)
from tsengine.kernels.jit import (
    F64_IN,
    F64_OUT,
    I32_OUT,
    I64_IN,
    I64_OUT,
    boolean,
    device,
    i64,
    kernel,
)


class Trimmed(NamedTuple):
    """The columns that trimming changes, of R rows; buckets one after the other."""

    total: Any
    sum: Any
    zero_count: Any
    offsets: Any
    keys: Any
    counts: Any


TRIMMED = record_type(Trimmed, F64_OUT, F64_OUT, F64_OUT, I64_OUT, I32_OUT, F64_OUT)


@kernel(i64(COLUMNS, I64_IN, F64_IN, boolean, TRIMMED))
def trim_histograms(t, rows, thresholds, is_upper, out):
    """Keep the observations below the threshold (is_upper) or those above it.

    Shapes: ``rows: i64[R]``, ``thresholds: f64[R]``; `out` has room for all buckets of the rows.
    Returns the number of buckets left.
    """
    used = 0
    out.offsets[0] = 0
    for r in range(rows.shape[0]):
        used = _trim(t, rows[r], thresholds[r], is_upper, out, r, used)
        out.offsets[r + 1] = used
    return used


@device
def _trim(t, row, threshold, is_upper, out, r, used):
    """Trim one row into row r of `out`; returns the number of buckets there."""
    schema = signed(t.schema[row])
    lo, hi = t.offsets[row], t.offsets[row + 1]
    middle = first_positive(t.keys, lo, hi)
    first_bound, n_bounds = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    total, sum_, is_changed = 0.0, 0.0, False
    for step in range(hi - lo):
        j = middle + step if step < hi - middle else hi - 1 - step
        lower, upper = bucket_range(schema, t.keys[j], t.bounds, first_bound, n_bounds)
        count = t.counts[j]
        kept, value = _trimmed_bucket(lower, upper, count, threshold, is_upper, schema, j >= middle)
        out.counts[used + j - lo] = kept
        is_changed |= kept != count
        total += kept
        sum_ += value * kept
    zero_count = t.zero_count[row]
    if zero_count > 0.0:
        lower, upper = one_sided(
            middle - lo, hi - middle, -t.zero_threshold[row], t.zero_threshold[row]
        )
        zero_count, value = _trimmed_zero_bucket(lower, upper, zero_count, threshold, is_upper)
        is_changed |= zero_count != t.zero_count[row]
        total += zero_count
        sum_ += value * zero_count
    out.total[r] = total if is_changed else t.total[row]
    out.sum[r] = sum_ if is_changed else t.sum[row]
    out.zero_count[r] = zero_count
    left = used
    for j in range(lo, hi):
        if out.counts[used + j - lo] != 0.0:
            out.keys[left] = t.keys[j]
            out.counts[left] = out.counts[used + j - lo]
            left += 1
    return left


@device
def _trimmed_bucket(lower, upper, count, threshold, is_upper, schema, is_positive):
    """What is left of a bucket, and the value that its observations are taken for."""
    is_linear = schema == CUSTOM_SCHEMA
    if upper <= threshold if is_upper else lower >= threshold:
        return count, _middle(lower, upper, is_positive, is_linear)
    if not (lower < threshold if is_upper else upper > threshold):
        return 0.0, 0.0
    if lower == -np.inf:
        return _trimmed_first_bucket(upper, count, threshold, is_upper)
    if upper == np.inf:
        # How its observations are spread is unknown: all go, unless the cut is from below.
        if is_upper or threshold < lower:
            return 0.0, 0.0
        return count, threshold
    below = 0.0
    if threshold > lower:
        below = count * fraction_below(lower, upper, threshold, is_linear)
    if is_upper:
        return below, _middle(lower, threshold, is_positive, is_linear)
    return count - below, _middle(threshold, upper, is_positive, is_linear)


@device
def _trimmed_first_bucket(upper, count, threshold, is_upper):
    """The same for a bucket from -Inf that the threshold cuts; it begins at 0 if it ends above."""
    if is_upper:
        if threshold > 0.0 and upper > 0.0 and upper != np.inf:
            return count * threshold / upper, threshold / 2.0
        if upper <= 0.0:
            return count, threshold
        return 0.0, 0.0
    if threshold >= 0.0 and upper > threshold and upper != np.inf:
        return count * (1.0 - threshold / upper), (threshold + upper) / 2.0
    return 0.0, 0.0


@device
def _trimmed_zero_bucket(lower, upper, count, threshold, is_upper):
    if is_upper:
        if threshold <= lower:
            return 0.0, 0.0
        if threshold >= upper:
            return count, (lower + upper) / 2.0
        return count * ((threshold - lower) / (upper - lower)), (lower + threshold) / 2.0
    if threshold <= lower:
        return count, (lower + upper) / 2.0
    if threshold >= upper:
        return 0.0, 0.0
    return count * ((upper - threshold) / (upper - lower)), (threshold + upper) / 2.0


@device
def _middle(lower, upper, is_positive, is_linear):
    """The value that observations between two bounds are taken for."""
    if np.isinf(lower):
        if np.isinf(upper):
            return 0.0
        return upper / 2.0 if upper > 0.0 else upper
    if np.isinf(upper):
        return lower
    if is_linear:
        return (lower + upper) / 2.0
    middle = np.sqrt(abs(lower * upper))
    return middle if is_positive else -middle
