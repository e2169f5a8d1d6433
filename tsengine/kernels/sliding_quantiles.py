"""Quantiles over the samples of a range, by a sorted window that slides along with the steps.

How rows and axes are walked: see `windows`.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import f64_bits, unowned, window_bounds
from tsengine.kernels.jit import (
    BOOL_2D_OUT,
    F64_2D_OUT,
    F64_IN,
    I64_IN,
    I64_OUT,
    OK,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import hold

QUANTILE = 0
MAD = 1

_COUNTED = 256


@device
def _place_of(sorted_values, n, x):
    """How many of n values come before x: NaN comes first, then what is smaller."""
    if np.isnan(x):
        return 0
    low = 0
    high = n
    while high - low > _COUNTED:
        middle = (low + high) // 2
        if not sorted_values[middle] >= x:
            low = middle + 1
        else:
            high = middle
    # Counting all of a few is faster than guessing wrong at every bisection.
    part = sorted_values[low:high]
    for i in range(part.shape[0]):
        low += not part[i] >= x
    return low


@device
def _move_up(part):
    """Move all values but the last one up by one place."""
    for i in range(part.shape[0] - 1, 0, -1):
        part[i] = part[i - 1]


@device
def _move_down(part):
    """Move all values but the first one down by one place."""
    for i in range(part.shape[0] - 1):
        part[i] = part[i + 1]


@device
def _place_to_leave(sorted_values, n, x):
    """Where the value x is among n: of the two zeros, which are equal, the one that it is."""
    place = _place_of(sorted_values, n, x)
    if x == 0.0:
        bits = f64_bits(x)
        while place < n - 1 and f64_bits(sorted_values[place]) != bits:
            place += 1
    return place


@device
def _replace(sorted_values, n, old, new):
    """Take a value out of n sorted ones and put another one in."""
    gap = _place_to_leave(sorted_values, n, old)
    place = _place_of(sorted_values, n, new)
    if place > gap:
        _move_down(sorted_values[gap:place])
        place -= 1
    else:
        _move_up(sorted_values[place : gap + 1])
    sorted_values[place] = new


@device
def _quantile_of_sorted(sorted_values, n, q):
    """Quantile by linear interpolation on rank q (n - 1). Source: Prometheus `quantile.go`."""
    if np.isnan(q):
        return np.nan
    if q < 0.0:
        return -np.inf
    if q > 1.0:
        return np.inf
    rank = q * (n - 1.0)
    lower = max(0.0, np.floor(rank))
    upper = min(n - 1.0, lower + 1.0)
    weight = rank - np.floor(rank)
    return sorted_values[int(lower)] * (1.0 - weight) + sorted_values[int(upper)] * weight


@device
def _sort_into(values, begin, end, out):
    """Copy a window and sort it, NaN first; returns its length."""
    n = end - begin
    n_nan = 0
    for i in range(n):
        if np.isnan(values[begin + i]):
            out[n_nan] = np.nan
            n_nan += 1
    filled = n_nan
    for i in range(n):
        x = values[begin + i]
        if not np.isnan(x):
            out[filled] = x
            filled += 1
    out[n_nan:n].sort()
    return n


@device
def _slide_sorted(values, base, a, b, sorted_values, old_a, old_b):
    """Turn the sorted values of window [old_a, old_b) into those of [a, b); returns the length."""
    n = old_b - old_a
    kept = old_b - a
    # Sorting afresh is cheaper than moving when little of the old window stays.
    if kept <= 0 or 2 * kept < b - a:
        return _sort_into(values, base + a, base + b, sorted_values)
    row = values[base : base + b]
    n_new = b - old_b
    n_old = a - old_a
    for k in range(min(n_new, n_old)):
        _replace(sorted_values, n, row[old_a + k], row[old_b + k])
    for i in range(old_a + n_new, a):
        _move_down(sorted_values[_place_to_leave(sorted_values, n, row[i]) : n])
        n -= 1
    for i in range(old_b + n_old, b):
        place = _place_of(sorted_values, n, row[i])
        n += 1
        _move_up(sorted_values[place:n])
        sorted_values[place] = row[i]
    return n


@kernel(
    i64(
        i64, F64_IN, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def quantile_windows(
    op, q, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """QUANTILE ``q: f64[T]`` or MAD (median absolute deviation) of (end - range, end].

    Shapes as in `windows.select_latest`. The sorted window slides along with the steps.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    sorted_values = np.empty(longest)
    window = unowned(sorted_values)
    deviations = np.empty(longest)
    ordered = np.empty(longest)
    values = unowned(values)
    axis = -1
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                t_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, range_ms, lo, hi
            )
        base = row_offsets[s]
        old_a = 0
        old_b = 0
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            if b <= a:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            n = _slide_sorted(values, base, a, b, window, old_a, old_b)
            old_a = a
            old_b = b
            if op == QUANTILE:
                x = _quantile_of_sorted(window, n, q[t])
            elif np.isnan(window[0]):
                x = np.nan
            else:
                median = _quantile_of_sorted(window, n, 0.5)
                for i in range(n):
                    deviations[i] = abs(window[i] - median)
                _sort_into(deviations, 0, n, ordered)
                x = _quantile_of_sorted(ordered, n, 0.5)
            out[s, t] = x
            valid[s, t] = True
            found += 1
        n_present[s] = found
    hold(sorted_values)
    return OK
