"""Quantiles: of the values of a group, and of the buckets of classic histograms.

Groups are given as ``order: i64[S]``, the rows group after group, and ``offsets: i64[G + 1]``.
A cell counts if ``valid[r, t]``, or always if `all_valid` (then `valid` is an array of
shape (1, 0)).
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import unowned
from tsengine.kernels.jit import (
    BOOL_2D_IN,
    BOOL_2D_OUT,
    F64_2D_IN,
    F64_2D_OUT,
    F64_IN,
    F64_OUT,
    I64_IN,
    I64_OUT,
    OK,
    boolean,
    device,
    i64,
    kernel,
)

BLOCK = 8
"""Steps whose columns are gathered at once: a cache line of values."""

SMALL_DELTA = 1e-12
"""Relative difference of neighbouring buckets that counts as rounding, not as a decrease."""

_CLEAR_DELTA = 2 * SMALL_DELTA
"""Neighbours that are this far apart, and not the lower one second, need no closer look."""
_MIN_NORMAL = 2.2250738585072014e-308
_MAX_FLOAT = 1.7976931348623157e308


@device
def _select(data, lo, hi, target):
    """Move the element of rank ``target`` of ``data[lo:hi]`` to its place; larger ones follow it.

    Hoare's quickselect with the median of three as pivot; no NaN allowed. `target` is an index.
    """
    hi -= 1
    while lo < hi:
        mid = (lo + hi) // 2
        a, b, c = data[lo], data[mid], data[hi]
        pivot = max(min(a, b), min(max(a, b), c))
        i = lo
        j = hi
        while i <= j:
            while data[i] < pivot:
                i += 1
            while data[j] > pivot:
                j -= 1
            if i <= j:
                data[i], data[j] = data[j], data[i]
                i += 1
                j -= 1
        if target <= j:
            hi = j
        elif target >= i:
            lo = i
        else:
            return


@device
def _quantile_of(data, base, n_numbers, n_nan, q):
    """Quantile of n_nan NaNs, which are smallest, and the numbers from `base` on (reordered)."""
    if q != q:
        return np.nan
    if q < 0.0:
        return -np.inf
    if q > 1.0:
        return np.inf
    n = n_numbers + n_nan
    rank = q * (n - 1.0)
    floor = np.floor(rank)
    weight = rank - floor
    lower = np.int64(floor)
    upper = min(n - 1, lower + 1)
    low = np.nan
    high = np.nan
    if upper >= n_nan:
        if lower >= n_nan:
            at = base + lower - n_nan
            _select(data, base, base + n_numbers, at)
            low = data[at]
            high = low
            if upper > lower:
                high = data[at + 1]
                for i in range(at + 2, base + n_numbers):
                    high = min(high, data[i])
        else:
            return np.nan
    return low * (1.0 - weight) + high * weight


@kernel(
    i64(
        F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, I64_IN, F64_IN,
        F64_OUT, I64_OUT, I64_OUT, F64_2D_OUT, BOOL_2D_OUT,
    )
)  # fmt: skip
def group_quantiles(
    values, valid, all_valid, order, offsets, q, scratch, n_numbers, n_nan, out, out_valid
):
    """Quantile ``q[t]`` of each group at each step by linear interpolation on rank q (n - 1).

    Scratch: ``scratch: f64[BLOCK * largest group]``, ``n_numbers, n_nan: i64[BLOCK]``.
    ``out: f64[G, T]``, ``out_valid: bool[G, T]``.
    """
    n_steps = values.shape[1]
    room = scratch.shape[0] // BLOCK
    for g in range(offsets.shape[0] - 1):
        for t0 in range(0, n_steps, BLOCK):
            width = min(BLOCK, n_steps - t0)
            n_numbers[:] = 0
            n_nan[:] = 0
            for i in range(offsets[g], offsets[g + 1]):
                r = order[i]
                for b in range(width):
                    if all_valid or valid[r, t0 + b]:
                        v = values[r, t0 + b]
                        if v == v:
                            scratch[b * room + n_numbers[b]] = v
                            n_numbers[b] += 1
                        else:
                            n_nan[b] += 1
            for b in range(width):
                present = n_numbers[b] + n_nan[b] > 0
                out_valid[g, t0 + b] = present
                if present:
                    out[g, t0 + b] = _quantile_of(
                        scratch, b * room, n_numbers[b], n_nan[b], q[t0 + b]
                    )
    return OK


@device
def _gather_buckets(values, valid, all_valid, order, start, end, t, bounds, ends, counts):
    """Buckets of one histogram at one step, equal bounds summed; returns how many.

    ``bounds[start:end]`` ascend; `ends`, `counts` take upper bounds and cumulative counts.
    """
    n = 0
    for i in range(start, end):
        r = order[i]
        if not (all_valid or valid[r, t]):
            continue
        if n > 0 and ends[n - 1] == bounds[i]:
            counts[n - 1] += values[r, t]
        else:
            ends[n] = bounds[i]
            counts[n] = values[r, t]
            n += 1
    return n


@device
def _almost_equal(a, b):
    if a == b or (a != a and b != b):
        return True
    total = abs(a) + abs(b)
    difference = abs(a - b)
    if a == 0.0 or b == 0.0 or total < _MIN_NORMAL:
        return difference < SMALL_DELTA * _MIN_NORMAL
    return difference < SMALL_DELTA * min(total, _MAX_FLOAT)


@device
def _force_monotonic(ends, counts, n, g, t, fixes, fix_steps):
    """Level small differences, raise decreases, and note the latter for group g."""
    low = np.inf
    high = -np.inf
    worst = 0.0
    previous = counts[0]
    for i in range(1, n):
        count = counts[i]
        if count == previous:
            continue
        if previous > 0.0 and count - previous > _CLEAR_DELTA * (count + previous):
            previous = count
        elif _almost_equal(previous, count):
            counts[i] = previous
        elif count < previous:
            counts[i] = previous
            low = min(low, ends[i])
            high = max(high, ends[i])
            worst = max(worst, previous - count)
        else:
            previous = count
    if low <= high:
        fixes[g, 0] = min(fixes[g, 0], low)
        fixes[g, 1] = max(fixes[g, 1], high)
        fixes[g, 2] = max(fixes[g, 2], worst)
        if fix_steps[3 * g] == 0:
            fix_steps[3 * g + 1] = t
        fix_steps[3 * g] += 1
        fix_steps[3 * g + 2] = t


@device
def _bucket_quantile(ends, counts, n, q):
    """Quantile by linear interpolation in the bucket it falls into."""
    observations = counts[n - 1]
    if n < 2 or observations == 0.0:
        return np.nan
    rank = q * observations
    b = 0
    while b < n - 1 and not counts[b] >= rank:
        b += 1
    if b == n - 1:
        return ends[n - 2]
    if b == 0 and ends[0] <= 0.0:
        return ends[0]
    start = 0.0
    count = counts[b]
    if b > 0:
        start = ends[b - 1]
        count -= counts[b - 1]
        rank -= counts[b - 1]
    return start + (ends[b] - start) * (rank / count)


@kernel(
    i64(
        F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, I64_IN, F64_IN, F64_IN,
        F64_OUT, F64_OUT, F64_2D_OUT, BOOL_2D_OUT, F64_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def bucket_quantiles(
    values, valid, all_valid, order, offsets, bounds, q,
    ends, counts, out, out_valid, fixes, fix_steps,
):  # fmt: skip
    """Quantile ``q[t]`` of the classic histogram of each group; NaN where it has none.

    ``bounds: f64[S]`` are the upper bounds in the sequence of `order`, ascending in each group,
    no NaN. Scratch `ends`, `counts`: as long as the largest group. ``out: f64[G, T]``.
    Forced monotonicity is noted per group: ``fixes: f64[G, 3]`` lowest bucket (starts +Inf),
    highest (-Inf), largest difference (0); ``fix_steps: i64[3 G]`` times it happened (0), first and
    last step.
    """
    values = unowned(values)
    valid = unowned(valid)
    order = unowned(order)
    bounds = unowned(bounds)
    ends = unowned(ends)
    counts = unowned(counts)
    fixes = unowned(fixes)
    fix_steps = unowned(fix_steps)
    for g in range(offsets.shape[0] - 1):
        for t in range(values.shape[1]):
            n = _gather_buckets(
                values, valid, all_valid, order, offsets[g], offsets[g + 1], t, bounds, ends, counts
            )
            out_valid[g, t] = n > 0
            if n == 0:
                continue
            if q[t] != q[t]:
                out[g, t] = np.nan
            elif q[t] < 0.0:
                out[g, t] = -np.inf
            elif q[t] > 1.0:
                out[g, t] = np.inf
            elif ends[n - 1] != np.inf:
                out[g, t] = np.nan
            else:
                _force_monotonic(ends, counts, n, g, t, fixes, fix_steps)
                out[g, t] = _bucket_quantile(ends, counts, n, q[t])
    return OK


@device
def _rank_of(ends, counts, n, v):
    """Observations below v; without interpolation in buckets of infinite width."""
    below = 0.0
    start = -np.inf if ends[0] <= 0.0 else 0.0
    for i in range(n):
        if i > 0:
            start = ends[i - 1]
        if start >= v:
            break
        if ends[i] > v:
            # Without interpolation the whole bucket counts as below v if it begins at -Inf, and
            # nothing of it if it ends at +Inf (the quotient is 0).
            if start == -np.inf:
                below = counts[i]
            else:
                below += (counts[i] - below) * (v - start) / (ends[i] - start)
            break
        below = counts[i]
    total = counts[n - 1]
    return total if below > total else below


@kernel(
    i64(
        F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, I64_IN, F64_IN, F64_IN, F64_IN,
        F64_OUT, F64_OUT, F64_2D_OUT, BOOL_2D_OUT,
    )
)  # fmt: skip
def bucket_fractions(
    values, valid, all_valid, order, offsets, bounds, lower, upper, ends, counts, out, out_valid
):
    """Share of a classic histogram's observations between ``lower[t]`` and ``upper[t]``.

    Shapes and scratch as in `bucket_quantiles`.
    """
    values = unowned(values)
    valid = unowned(valid)
    order = unowned(order)
    bounds = unowned(bounds)
    ends = unowned(ends)
    counts = unowned(counts)
    for g in range(offsets.shape[0] - 1):
        for t in range(values.shape[1]):
            n = _gather_buckets(
                values, valid, all_valid, order, offsets[g], offsets[g + 1], t, bounds, ends, counts
            )
            out_valid[g, t] = n > 0
            if n == 0:
                continue
            total = counts[n - 1]
            low = lower[t]
            high = upper[t]
            if ends[n - 1] != np.inf or total == 0.0 or low != low or high != high:
                out[g, t] = np.nan
            elif low >= high:
                out[g, t] = 0.0
            else:
                low_rank = _rank_of(ends, counts, n, low)
                high_rank = _rank_of(ends, counts, n, high)
                out[g, t] = (high_rank - low_rank) / total
    return OK
