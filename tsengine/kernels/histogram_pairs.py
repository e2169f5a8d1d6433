"""Native histograms two by two: is the second one after a counter reset, are both equal.

Source: Prometheus `model/histogram/float_histogram.go`, DetectReset and Equals.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import f64_bits
from tsengine.kernels.histogram_buckets import (
    COLUMNS,
    CUSTOM_SCHEMA,
    KEY_BIAS,
    coarser_key,
    custom_bounds_of,
    exponential_bound,
    first_index_above,
    first_positive,
    kahan_add,
    same_custom_bounds,
    signed,
)
from tsengine.kernels.jit import BOOL_OUT, I64_IN, OK, U8_OUT, boolean, device, i64, kernel

_HINT_RESET, _HINT_NOT_RESET = 1, 2

IS_RESET, HAS_OTHER_LAYOUT = 1, 2


@kernel(i64(COLUMNS, I64_IN, I64_IN, boolean, U8_OUT))
def detect_resets(t, before, after, trust_not_reset, out):
    """Whether a counter was reset between samples ``before[p]`` and ``after[p]``.

    The hint of the later one decides if it says reset, and, with `trust_not_reset`, if it says not.
    Shapes: ``before, after: i64[P]`` rows; fills ``out: u8[P]`` with IS_RESET, else with
    HAS_OTHER_LAYOUT if schema, zero threshold or custom bounds changed (and the hint didn't
    decide), else with 0.
    """
    for p in range(out.shape[0]):
        hint = t.hint[after[p]]
        out[p] = 0
        if hint == _HINT_RESET:
            out[p] = IS_RESET
        elif not (trust_not_reset and hint == _HINT_NOT_RESET):
            if _has_fallen(t, before[p], after[p]):
                out[p] = IS_RESET
            elif not _have_same_layout(t, before[p], after[p]):
                out[p] = HAS_OTHER_LAYOUT
    return OK


@kernel(i64(COLUMNS, I64_IN, I64_IN, BOOL_OUT))
def equal_histograms(t, a, b, out):
    """Whether the rows ``a[p]`` and ``b[p]`` are the same but for the hint, numbers by their bits.

    Shapes: ``a, b: i64[P]`` rows, ``out: bool[P]``.
    """
    for p in range(out.shape[0]):
        out[p] = _are_equal(t, a[p], b[p])
    return OK


@device
def _are_equal(t, a, b):
    if (
        t.schema[a] != t.schema[b]
        or f64_bits(t.total[a]) != f64_bits(t.total[b])
        or f64_bits(t.sum[a]) != f64_bits(t.sum[b])
        or t.zero_threshold[a] != t.zero_threshold[b]
        or f64_bits(t.zero_count[a]) != f64_bits(t.zero_count[b])
    ):
        return False
    lo_a, lo_b = t.offsets[a], t.offsets[b]
    n = t.offsets[a + 1] - lo_a
    if t.offsets[b + 1] - lo_b != n:
        return False
    for i in range(n):
        if t.keys[lo_a + i] != t.keys[lo_b + i]:
            return False
        if f64_bits(t.counts[lo_a + i]) != f64_bits(t.counts[lo_b + i]):
            return False
    return signed(t.schema[a]) != CUSTOM_SCHEMA or same_custom_bounds(t, a, b)


@device
def _have_same_layout(t, a, b):
    if t.schema[a] != t.schema[b] or t.zero_threshold[a] != t.zero_threshold[b]:
        return False
    return signed(t.schema[a]) != CUSTOM_SCHEMA or same_custom_bounds(t, a, b)


@device
def _has_fallen(t, before, after):
    """Whether any count fell, or the layout changed as only a new counter's does."""
    if t.total[after] < t.total[before]:
        return True
    schema, old_schema = signed(t.schema[after]), signed(t.schema[before])
    if schema == CUSTOM_SCHEMA:
        if old_schema != CUSTOM_SCHEMA:
            return True
        if not same_custom_bounds(t, before, after):
            return _has_fallen_at_common_bounds(t, before, after)
    if schema > old_schema:
        return True
    threshold = t.zero_threshold[after]
    if threshold < t.zero_threshold[before]:
        return True
    if schema == CUSTOM_SCHEMA:
        return _buckets_have_fallen(t, before, after, 0, np.int64(-KEY_BIAS))
    zero_count, is_cut = _zero_count_at(t, before, old_schema, threshold)
    if is_cut or t.zero_count[after] < zero_count:
        return True
    first_index = first_index_above(threshold, schema)
    return _buckets_have_fallen(t, before, after, old_schema - schema, first_index)


@device
def _zero_count_at(t, row, schema, threshold):
    """The row's zero count for this larger threshold, and whether that cuts a populated bucket."""
    total = t.zero_count[row]
    if threshold == t.zero_threshold[row]:
        return total, False
    compensation = 0.0
    lo, hi = t.offsets[row], t.offsets[row + 1]
    middle = first_positive(t.keys, lo, hi)
    for j in range(middle, hi):
        idx = np.int64(t.keys[j]) - KEY_BIAS
        if exponential_bound(idx - 1, schema) >= threshold:
            break
        if exponential_bound(idx, schema) > threshold and t.counts[j] != 0.0:
            return total, True
        total, compensation = kahan_add(total, compensation, t.counts[j])
    for j in range(middle - 1, lo - 1, -1):
        idx = -np.int64(t.keys[j]) - KEY_BIAS
        if exponential_bound(idx - 1, schema) >= threshold:
            break
        if exponential_bound(idx, schema) > threshold and t.counts[j] != 0.0:
            return total, True
        total, compensation = kahan_add(total, compensation, t.counts[j])
    return total, False


@device
def _buckets_have_fallen(t, before, after, shift, first_index):
    """Whether a bucket of `after` holds less than those of `before` that fall into it.

    Buckets of `after`'s schema with an index below first_index don't count.
    """
    i, last = t.offsets[after], t.offsets[after + 1]
    j, old_last = t.offsets[before], t.offsets[before + 1]
    while j < old_last:
        key = coarser_key(t.keys[j], shift)
        count = 0.0
        while j < old_last and coarser_key(t.keys[j], shift) == key:
            count += t.counts[j]
            j += 1
        if abs(key) - KEY_BIAS < first_index:
            continue
        while i < last and t.keys[i] < key:
            i += 1
        if i < last and t.keys[i] == key:
            if t.counts[i] < count:
                return True
        elif count != 0.0:
            return True
    return False


@device
def _count_up_to(t, j, end, first_bound, n_bounds, bound):
    """Count of the buckets from position j on that end at or below the bound, and the position."""
    count = 0.0
    while j < end:
        idx = np.int64(t.keys[j]) - KEY_BIAS
        upper = t.bounds[first_bound + idx] if idx < n_bounds else np.inf
        if upper > bound:
            break
        count += t.counts[j]
        j += 1
    return count, j


@device
def _has_fallen_at_common_bounds(t, before, after):
    """Whether a count between neighbours among the common custom bounds fell."""
    first, n = custom_bounds_of(t.bounds_id, t.bounds_offsets, after)
    old_first, old_n = custom_bounds_of(t.bounds_id, t.bounds_offsets, before)
    at, old_at = t.offsets[after], t.offsets[before]
    i = 0
    j = 0
    while i <= n and j <= old_n:
        bound = t.bounds[first + i] if i < n else np.inf
        old_bound = t.bounds[old_first + j] if j < old_n else np.inf
        if bound == old_bound:
            count, at = _count_up_to(t, at, t.offsets[after + 1], first, n, bound)
            old_count, old_at = _count_up_to(
                t, old_at, t.offsets[before + 1], old_first, old_n, bound
            )
            if count < old_count:
                return True
            i += 1
            j += 1
        elif bound < old_bound:
            i += 1
        else:
            j += 1
    return False
