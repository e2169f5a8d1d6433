"""Sums and means of lists of native histograms.

A sum is folded row by row in the order given, in scratch memory of the caller that is used again
for the next sum; `histogram_adding` takes the rows.
Source: Prometheus `promql/engine.go` aggregation, `promql/functions.go` funcAvgOverTime.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tsengine.kernels.histogram_adding import (
    HINT,
    HINTS_SEEN,
    IS_MIXED,
    IS_RECONCILED,
    N_BOUNDS,
    SCHEMA,
    SCRATCH,
    SIZE,
    SOURCE,
    SUM,
    THRESHOLD,
    TOTAL,
    ZERO,
    add_row,
    start_sum,
)
from tsengine.kernels.histogram_buckets import (
    COLUMNS,
    CUSTOM_SCHEMA,
    KEY_BIAS,
    MAX_FLOAT,
    custom_bounds_of,
    first_positive,
    record_type,
)
from tsengine.kernels.jit import (
    ERR_CAPACITY,
    F64_IN,
    F64_OUT,
    I32_OUT,
    I64_IN,
    I64_OUT,
    U8_OUT,
    boolean,
    device,
    i64,
    kernel,
)

MIXED, RECONCILED_SECOND, RECONCILED_LATER, HINT_CLASH = 1, 2, 4, 8
"""Bits of `Sums.flags`: exponential met custom buckets (the row means nothing), custom bounds
differed when the second row of the list was added, or a later one, a reset met a non-reset."""


class Sums(NamedTuple):
    """Columns of O sums, as in `Columns`, buckets and bounds one after the other.

    ``bounds_id`` counts on from the ids of the input: rows of the input's table of bounds first,
    then those of `bounds_offsets, bounds`. ``used: i64[1]`` is the number of new lists of bounds.
    """

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
    flags: Any
    used: Any


SUMS = record_type(
    Sums,
    U8_OUT, U8_OUT, F64_OUT, F64_OUT, F64_OUT, F64_OUT, I64_OUT,
    I32_OUT, F64_OUT, I32_OUT, I64_OUT, F64_OUT, U8_OUT, I64_OUT,
)  # fmt: skip


@kernel(i64(COLUMNS, I64_IN, I64_IN, I64_OUT, I64_OUT))
def bound_sums(t, list_offsets, rows, n_buckets, n_bounds):
    """Upper bounds of the buckets and of the new custom bounds of every sum.

    Shapes: ``list_offsets: i64[O + 1]``, ``rows: i64[L]`` as in `sum_histograms`; fills
    ``n_buckets, n_bounds: i64[O]``. Returns the number of buckets of the largest row.
    """
    largest = 0
    for o in range(n_buckets.shape[0]):
        size = 0
        lowest = np.int64(0)
        highest = np.int64(1)
        both_signs = 1
        n_bounds[o] = 0
        for j in range(list_offsets[o], list_offsets[o + 1]):
            row = rows[j]
            if row < 0:
                row = ~row
            if j == list_offsets[o]:
                n_bounds[o] = custom_bounds_of(t.bounds_id, t.bounds_offsets, row)[1]
            lo, hi = t.offsets[row], t.offsets[row + 1]
            if rows[j] < 0 or lo == hi:
                continue
            size += hi - lo
            largest = max(largest, hi - lo)
            middle = first_positive(t.keys, lo, hi)
            if middle < hi:
                lowest = min(lowest, np.int64(t.keys[middle]) - KEY_BIAS)
                highest = max(highest, np.int64(t.keys[hi - 1]) - KEY_BIAS)
            if middle > lo:
                both_signs = 2
                lowest = min(lowest, -np.int64(t.keys[middle - 1]) - KEY_BIAS)
                highest = max(highest, -np.int64(t.keys[lo]) - KEY_BIAS)
        n_buckets[o] = min(size, both_signs * (highest - lowest + 1))
    return largest


@kernel(i64(COLUMNS, I64_IN, I64_IN, F64_IN, I64_IN, boolean, SCRATCH, SUMS))
def sum_histograms(t, list_offsets, rows, factors, floors, averaged, scratch, out):
    """Sum of factor * histogram over each list of rows, or their mean.

    Shapes: ``list_offsets: i64[O + 1]``, no list empty; ``rows: i64[L]``, where ``~row`` takes
    part with its layout (schema or custom bounds) only; ``factors: f64[L]``, not used for means;
    ``floors: i64[O]``, a schema that the sum must not exceed. Buckets of zero are left out.
    Returns the number of buckets, or ERR_CAPACITY if `out` or `scratch` is too small.
    """
    used = np.int64(0)
    out.offsets[0] = 0
    out.bounds_offsets[0] = 0
    out.used[0] = 0
    for o in range(list_offsets.shape[0] - 1):
        lo, hi = list_offsets[o], list_offsets[o + 1]
        scratch.shape[HINTS_SEEN] = 0
        flags, divisor = _fold(t, rows, factors, lo, hi, floors[o], averaged, scratch)
        if flags < 0 or used + scratch.shape[SIZE] > out.keys.shape[0]:
            return ERR_CAPACITY
        if scratch.shape[HINTS_SEEN] == 3:
            flags |= HINT_CLASH
        out.flags[o] = flags
        _write_bounds(t, rows, lo, scratch, out, o)
        used = _write_row(scratch, divisor, out, o, used)
        if hi == lo + 1 and rows[lo] >= 0:
            # Nothing was added, so a sum of -0 stays.
            out.sum[o] = t.sum[rows[lo]] * (1.0 if averaged else factors[lo])
    return used


@device
def _write_row(scratch, divisor, out, o, used):
    """Put the sum, divided, into row o; returns the number of buckets in `out`."""
    state = scratch.state
    out.schema[o] = scratch.shape[SCHEMA] & 255
    out.hint[o] = scratch.shape[HINT]
    out.total[o] = state[TOTAL] / divisor + state[TOTAL + 1] / divisor
    out.sum[o] = state[SUM] / divisor + state[SUM + 1] / divisor
    out.zero_threshold[o] = state[THRESHOLD]
    out.zero_count[o] = state[ZERO] / divisor + state[ZERO + 1] / divisor
    for i in range(scratch.shape[SIZE]):
        count = scratch.counts[i] / divisor + scratch.compensations[i] / divisor
        if count != 0.0:
            out.keys[used] = scratch.keys[i]
            out.counts[used] = count
            used += 1
    out.offsets[o + 1] = used
    return used


@device
def _write_bounds(t, rows, lo, scratch, out, o):
    """Set the bounds of sum o: those of a row of the input, the newest ones again, or new ones."""
    shape = scratch.shape
    if shape[SCHEMA] != CUSTOM_SCHEMA:
        out.bounds_id[o] = -1
        return
    if shape[SOURCE] >= 0:
        out.bounds_id[o] = t.bounds_id[shape[SOURCE]]
        return
    n_old = t.bounds_offsets.shape[0] - 1
    n_new = out.used[0]
    n = shape[N_BOUNDS]
    if n_new > 0:
        first = out.bounds_offsets[n_new - 1]
        if out.bounds_offsets[n_new] - first == n:
            i = 0
            while i < n and out.bounds[first + i] == scratch.bounds[i]:
                i += 1
            if i == n:
                out.bounds_id[o] = n_old + n_new - 1
                return
    first = out.bounds_offsets[n_new]
    for i in range(n):
        out.bounds[first + i] = scratch.bounds[i]
    out.bounds_offsets[n_new + 1] = first + n
    out.used[0] = n_new + 1
    out.bounds_id[o] = n_old + n_new


@device
def _fold(t, rows, factors, lo, hi, floor, averaged, scratch):
    """Add up rows[lo:hi]; returns flags (or a negative code) and what to divide by at the end.

    A mean is the sum divided at the end, unless the sum leaves the range of floats on the way: then
    all begins anew, and from there on a running mean is kept.
    """
    flags = 0
    overflow_at = hi
    start_sum(t, rows[lo], floor, scratch)
    j = lo
    while j < hi:
        factor, divisor = 1.0, 1.0
        if not averaged:
            factor = factors[j]
        elif j >= overflow_at:
            divisor = np.float64(j - lo + 1)
            if j == overflow_at:
                _scale_sum(scratch, 1.0, divisor - 1.0)
            _scale_sum(scratch, (divisor - 1.0) / divisor, 1.0)
        found = add_row(t, rows[j], factor, divisor, scratch)
        if found < 0:
            return found, 1.0
        if found == IS_MIXED:
            return flags | MIXED, 1.0
        if found == IS_RECONCILED:
            flags |= RECONCILED_SECOND if j == lo + 1 else RECONCILED_LATER
        j += 1
        if averaged and overflow_at == hi and j > lo + 1 and _overflows(scratch):
            overflow_at = j - 1
            start_sum(t, rows[lo], floor, scratch)
            j = lo
    return flags, np.float64(hi - lo) if averaged and overflow_at == hi else 1.0


@device
def _scale_sum(scratch, factor, divisor):
    for i in range(THRESHOLD):
        scratch.state[i] = scratch.state[i] * factor / divisor
    for i in range(scratch.shape[SIZE]):
        scratch.counts[i] = scratch.counts[i] * factor / divisor
        scratch.compensations[i] = scratch.compensations[i] * factor / divisor


@device
def _overflows(scratch):
    state = scratch.state
    if abs(state[TOTAL]) > MAX_FLOAT or abs(state[SUM]) > MAX_FLOAT:
        return True
    if abs(state[ZERO]) > MAX_FLOAT:
        return True
    for i in range(scratch.shape[SIZE]):
        if abs(scratch.counts[i]) > MAX_FLOAT:
            return True
    return False
