"""How the sum of native histograms takes one more row; devices, which `histogram_sums` borrows.

A sum in the making is in `Scratch`. Adding a row first reconciles the layouts as Prometheus does:
the lower resolution, the larger zero bucket, the common custom bounds. That takes work proportional
to the buckets of the sum and of the row.
Source: Prometheus `model/histogram/float_histogram.go`, KahanAdd.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tsengine.kernels.histogram_buckets import (
    CUSTOM_SCHEMA,
    KEY_BIAS,
    coarser_key,
    custom_bounds_of,
    exponential_bound,
    first_index_above,
    first_positive,
    kahan_add,
    record_type,
    same_custom_bounds,
    signed,
)
from tsengine.kernels.jit import ERR_CAPACITY, F64_OUT, I32_OUT, I64_OUT, OK, device

_HINT_UNKNOWN, _HINT_RESET, _HINT_NOT_RESET, _HINT_GAUGE = 0, 1, 2, 3
_NO_ROW_YET = -1
_NO_SCHEMA = -128

IS_MIXED, IS_RECONCILED = 1, 2
"""What `add_row` returns: exponential met custom buckets, or custom bounds differed."""

# Places in Scratch.state; a compensation follows its number.
TOTAL, SUM, ZERO, THRESHOLD, CUT = 0, 2, 4, 6, 7
N_STATE = 8
# Places in Scratch.shape. SOURCE is the row whose custom bounds are those of the sum, or -1 if
# they are in Scratch.bounds. CUT_INDEX is the first bucket of CUT_SCHEMA that ends above the
# threshold CUT of the state.
SCHEMA, SIZE, LOADED, SOURCE, N_BOUNDS, HINT, HINTS_SEEN, CUT_SCHEMA, CUT_INDEX = range(9)
N_SHAPE = 9


class Scratch(NamedTuple):
    """Memory for one sum (`keys, counts, compensations`: as many as it can have buckets), for one
    row to add (`row_*`: buckets of the largest row) and for custom bounds (of the longest list).
    """

    keys: Any
    counts: Any
    compensations: Any
    row_keys: Any
    row_counts: Any
    row_compensations: Any
    bounds: Any
    next_bounds: Any
    state: Any
    shape: Any


SCRATCH = record_type(
    Scratch,
    I32_OUT, F64_OUT, F64_OUT, I32_OUT, F64_OUT, F64_OUT, F64_OUT, F64_OUT, F64_OUT, I64_OUT,
)  # fmt: skip


@device
def start_sum(t, row, floor, scratch):
    """Make the sum empty, in the layout of this row, with a schema of at most `floor`."""
    shape, state = scratch.shape, scratch.state
    if row < 0:
        row = ~row
    schema = signed(t.schema[row])
    shape[SCHEMA] = schema if schema == CUSTOM_SCHEMA else min(schema, floor)
    shape[SIZE] = 0
    shape[SOURCE] = row
    shape[HINT] = _NO_ROW_YET
    shape[CUT_SCHEMA] = _NO_SCHEMA
    state[:] = 0.0
    state[THRESHOLD] = t.zero_threshold[row]


@device
def add_row(t, row, factor, divisor, scratch):
    """Add factor * row / divisor to the sum; IS_MIXED (it is not added), IS_RECONCILED or a code.

    One of the two is 1. Means divide, as Prometheus does: a product with 1 / n rounds otherwise.
    """
    shape, state = scratch.shape, scratch.state
    layout_only = row < 0
    if layout_only:
        row = ~row
    schema = signed(t.schema[row])
    if (schema == CUSTOM_SCHEMA) != (shape[SCHEMA] == CUSTOM_SCHEMA):
        return IS_MIXED
    hint = np.int64(t.hint[row])
    is_first = shape[HINT] == _NO_ROW_YET
    shape[HINT] = hint if is_first else _merged_hint(shape[HINT], hint)
    if hint == _HINT_RESET or hint == _HINT_NOT_RESET:
        shape[HINTS_SEEN] |= hint
    found = OK
    if schema == CUSTOM_SCHEMA:
        if not _has_bounds_of(t, row, scratch):
            _reconcile_bounds(t, row, scratch)
            found = IS_RECONCILED
    elif not layout_only:
        zero, zero_c = _reconcile_zero_buckets(t, row, schema, scratch)
        _add_to(state, ZERO, factor * zero / divisor)
        _add_to(state, ZERO, factor * zero_c / divisor)
    if schema < shape[SCHEMA]:
        _reduce_resolution(scratch, shape[SCHEMA] - schema)
        shape[SCHEMA] = schema
    if layout_only:
        return found
    _add_to(state, TOTAL, factor * t.total[row] / divisor)
    _add_to(state, SUM, factor * t.sum[row] / divisor)
    start = t.offsets[row]
    # Prometheus keeps the buckets that the first row has inside its own zero bucket.
    first_index = np.int64(-KEY_BIAS) if is_first else _first_index(scratch, schema)
    if schema == shape[SCHEMA] and shape[SOURCE] >= 0:
        start = _add_present(
            t.keys, t.counts, start, t.offsets[row + 1], factor, divisor, first_index, scratch
        )
    if start < t.offsets[row + 1]:
        _load(t, row, start, factor, divisor, first_index, scratch)
        code = _merge(scratch)
        if code < 0:
            return code
    return found


@device
def _first_index(scratch, schema):
    """Index of the first bucket of the schema that the zero bucket of the sum doesn't cover."""
    shape, state = scratch.shape, scratch.state
    if shape[CUT_SCHEMA] != schema or state[CUT] != state[THRESHOLD]:
        shape[CUT_SCHEMA] = schema
        state[CUT] = state[THRESHOLD]
        shape[CUT_INDEX] = first_index_above(state[THRESHOLD], schema)
    return shape[CUT_INDEX]


@device
def _add_to(state, place, x):
    state[place], state[place + 1] = kahan_add(state[place], state[place + 1], x)


@device
def _merged_hint(a, b):
    """Hint of a sum: equal ones stay, gauge wins, unknown beats a definite one."""
    if a == b:
        return a
    if a == _HINT_GAUGE or b == _HINT_GAUGE:
        return np.int64(_HINT_GAUGE)
    return np.int64(_HINT_UNKNOWN)


@device
def _reconcile_zero_buckets(t, row, schema, scratch):
    """Widen the zero bucket of the sum so that it suits the row; the row's zero count then."""
    shape, state = scratch.shape, scratch.state
    lo, hi = t.offsets[row], t.offsets[row + 1]
    zero, zero_c, threshold = t.zero_count[row], 0.0, t.zero_threshold[row]
    while True:
        if state[THRESHOLD] > threshold:
            zero, zero_c, threshold, _, _ = _widened(
                t.keys, t.counts, t.counts, False, lo, hi, schema,
                t.zero_count[row], 0.0, state[THRESHOLD],
            )  # fmt: skip
        if not threshold > state[THRESHOLD]:
            return zero, zero_c
        total, total_c, wider, first, last = _widened(
            scratch.keys, scratch.counts, scratch.compensations, True, 0, shape[SIZE],
            shape[SCHEMA], state[ZERO], state[ZERO + 1], threshold,
        )  # fmt: skip
        state[ZERO], state[ZERO + 1], state[THRESHOLD] = total, total_c, wider
        for i in range(last, shape[SIZE]):
            scratch.keys[first + i - last] = scratch.keys[i]
            scratch.counts[first + i - last] = scratch.counts[i]
            scratch.compensations[first + i - last] = scratch.compensations[i]
        shape[SIZE] -= last - first


@device
def _widened(keys, counts, compensations, compensated, lo, hi, schema, zero, zero_c, threshold):
    """The zero bucket for a larger threshold: count, compensation, threshold, buckets it takes.

    The threshold grows further to the end of a populated bucket that it would cut. The buckets are
    ``first:last``.
    """
    middle = first_positive(keys, lo, hi)
    while True:
        total, total_c = zero, zero_c
        first = last = middle
        is_cut = False
        while last < hi:
            idx = np.int64(keys[last]) - KEY_BIAS
            if exponential_bound(idx - 1, schema) >= threshold:
                break
            extra = compensations[last] if compensated else 0.0
            total, total_c = kahan_add(total, total_c, counts[last])
            total, total_c = kahan_add(total, total_c, extra)
            upper = exponential_bound(idx, schema)
            if upper > threshold and counts[last] + extra != 0.0:
                threshold = upper
            last += 1
        while first > lo and not is_cut:
            idx = -np.int64(keys[first - 1]) - KEY_BIAS
            if exponential_bound(idx - 1, schema) >= threshold:
                break
            first -= 1
            extra = compensations[first] if compensated else 0.0
            total, total_c = kahan_add(total, total_c, counts[first])
            total, total_c = kahan_add(total, total_c, extra)
            upper = exponential_bound(idx, schema)
            if upper > threshold and counts[first] + extra != 0.0:
                threshold = upper
                is_cut = True
        if not is_cut:
            return total, total_c, threshold, first, last


@device
def _reduce_resolution(scratch, shift):
    """Merge the buckets of the sum into those of a schema lower by `shift`."""
    n = 0
    for i in range(scratch.shape[SIZE]):
        n = _put(
            scratch.keys, scratch.counts, scratch.compensations, n,
            coarser_key(scratch.keys[i], shift), scratch.counts[i], scratch.compensations[i],
        )  # fmt: skip
    scratch.shape[SIZE] = n


@device
def _put(keys, counts, compensations, n, key, count, compensation):
    """Append a bucket, or add it to the last one if that has its key; returns the new number."""
    if n > 0 and keys[n - 1] == key:
        total, total_c = kahan_add(counts[n - 1], compensations[n - 1], count)
        counts[n - 1], compensations[n - 1] = kahan_add(total, total_c, compensation)
        return n
    keys[n] = key
    counts[n] = count
    compensations[n] = compensation
    return n + 1


@device
def _has_bounds_of(t, row, scratch):
    """Whether the sum has the custom bounds of the row."""
    source = scratch.shape[SOURCE]
    if source >= 0:
        return same_custom_bounds(t, source, row)
    first, n = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    if n != scratch.shape[N_BOUNDS]:
        return False
    for i in range(n):
        if t.bounds[first + i] != scratch.bounds[i]:
            return False
    return True


@device
def _reconcile_bounds(t, row, scratch):
    """Reduce the sum to the custom bounds that it has in common with the row."""
    shape = scratch.shape
    if shape[SOURCE] >= 0:
        first, n = custom_bounds_of(t.bounds_id, t.bounds_offsets, shape[SOURCE])
        for i in range(n):
            scratch.bounds[i] = t.bounds[first + i]
        shape[N_BOUNDS] = n
        shape[SOURCE] = -1
    first, n_row = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
    n_sum = shape[N_BOUNDS]
    n = 0
    i = 0
    j = 0
    while i < n_sum and j < n_row:
        if scratch.bounds[i] == t.bounds[first + j]:
            scratch.next_bounds[n] = scratch.bounds[i]
            n += 1
            i += 1
            j += 1
        elif scratch.bounds[i] < t.bounds[first + j]:
            i += 1
        else:
            j += 1
    size = 0
    at = 0
    for i in range(shape[SIZE]):
        idx = np.int64(scratch.keys[i]) - KEY_BIAS
        if idx >= n_sum:
            at = n
        while at < n and scratch.next_bounds[at] < scratch.bounds[idx]:
            at += 1
        size = _put(
            scratch.keys, scratch.counts, scratch.compensations, size,
            at + KEY_BIAS, scratch.counts[i], scratch.compensations[i],
        )  # fmt: skip
    shape[SIZE] = size
    shape[N_BOUNDS] = n
    for i in range(n):
        scratch.bounds[i] = scratch.next_bounds[i]


@device
def _add_present(keys, counts, start, end, factor, divisor, first_index, scratch):
    """Add buckets of a row of the sum's layout up to the first that the sum hasn't: its position.

    Buckets with an index below first_index are left out: the zero bucket has them.
    """
    sum_keys, sum_counts, compensations = scratch.keys, scratch.counts, scratch.compensations
    size = scratch.shape[SIZE]
    i = 0
    for j in range(start, end):
        key = keys[j]
        if abs(np.int64(key)) - KEY_BIAS < first_index:
            continue
        while i < size and sum_keys[i] < key:
            i += 1
        if i == size or sum_keys[i] != key:
            return j
        sum_counts[i], compensations[i] = kahan_add(
            sum_counts[i], compensations[i], factor * counts[j] / divisor
        )
    return end


@device
def _load(t, row, start, factor, divisor, first_index, scratch):
    """Put the row's buckets from `start` on, scaled, in the sum's layout, into scratch.

    Exponential buckets with an index below first_index are left out: the zero bucket has them.
    """
    shape = scratch.shape
    keys, counts, compensations = (
        scratch.row_keys, scratch.row_counts, scratch.row_compensations,
    )  # fmt: skip
    n = 0
    if shape[SCHEMA] == CUSTOM_SCHEMA:
        first, n_bounds = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)
        is_same = shape[SOURCE] >= 0
        at = 0
        for j in range(start, t.offsets[row + 1]):
            idx = np.int64(t.keys[j]) - KEY_BIAS
            if is_same:
                at = idx
            elif idx >= n_bounds:
                at = shape[N_BOUNDS]
            else:
                while at < shape[N_BOUNDS] and scratch.bounds[at] < t.bounds[first + idx]:
                    at += 1
            count = factor * t.counts[j] / divisor
            n = _put(keys, counts, compensations, n, at + KEY_BIAS, count, 0.0)
    else:
        shift = signed(t.schema[row]) - shape[SCHEMA]
        for j in range(start, t.offsets[row + 1]):
            key = t.keys[j]
            if abs(np.int64(key)) - KEY_BIAS >= first_index:
                n = _put(
                    keys, counts, compensations, n,
                    coarser_key(key, shift), factor * t.counts[j] / divisor, 0.0,
                )  # fmt: skip
    shape[LOADED] = n


@device
def _merge(scratch):
    """Add the loaded buckets to the sum: OK, or ERR_CAPACITY."""
    shape = scratch.shape
    keys, counts, compensations = scratch.keys, scratch.counts, scratch.compensations
    size = shape[SIZE]
    n_new = 0
    i = 0
    for j in range(shape[LOADED]):
        key = scratch.row_keys[j]
        while i < size and keys[i] < key:
            i += 1
        if i < size and keys[i] == key:
            total, total_c = kahan_add(counts[i], compensations[i], scratch.row_counts[j])
            counts[i], compensations[i] = kahan_add(total, total_c, scratch.row_compensations[j])
        else:
            n_new += 1
    if size + n_new > keys.shape[0]:
        return ERR_CAPACITY
    shape[SIZE] = size + n_new
    i = size - 1
    j = shape[LOADED] - 1
    while n_new > 0:
        key = scratch.row_keys[j]
        if i >= 0 and keys[i] >= key:
            if keys[i] == key:
                j -= 1
            keys[i + n_new] = keys[i]
            counts[i + n_new] = counts[i]
            compensations[i + n_new] = compensations[i]
            i -= 1
        else:
            keys[i + n_new] = key
            counts[i + n_new] = scratch.row_counts[j]
            compensations[i + n_new] = scratch.row_compensations[j]
            j -= 1
            n_new -= 1
    return OK
