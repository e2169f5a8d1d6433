"""Counters over ranges: rate and its family, last differences, numbers of changes and resets.

How rows and axes are walked: see `windows`. Resets are looked for once per row; windows then visit
only the resets inside them, in Prometheus's order of additions, so that nothing outside a window
can spoil it. Only windows with very many resets use compensated prefix sums, and only where those
are as exact.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import add_compensated, window_bounds
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

RATE = 0
INCREASE = 1
DELTA = 2

IRATE = 0
IDELTA = 1

CHANGES = 0
RESETS = 1

_MANY_RESETS = 48
_SAFE_SHARE = 1e-6
"""A difference of prefix sums counts only above this share of the whole sum."""


@device
def _extrapolations(t_ms, start, lo, hi, ends_ms, range_ms, covered, to_start, to_end):
    """Seconds from first to last sample of each window, and what may be added at both ends.

    Source: Prometheus `promql/functions.go`, extrapolatedRate.
    """
    for t in range(ends_ms.shape[0]):
        n_gaps = hi[t] - lo[t] - 1
        if n_gaps < 1:
            continue
        first = t_ms[start + lo[t]]
        last = t_ms[start + hi[t] - 1]
        covered[t] = (last - first) / 1000.0
        gap = covered[t] / n_gaps
        head = (first - (ends_ms[t] - range_ms)) / 1000.0
        tail = (ends_ms[t] - last) / 1000.0
        to_start[t] = head if head < gap * 1.1 else gap / 2
        to_end[t] = tail if tail < gap * 1.1 else gap / 2


@device
def _find_resets(values, base, n, places, sums, errors):
    """Positions i with v[i] < v[i - 1], and compensated sums of the values lost there.

    Returns their number; fills ``places: i64[R]``, ``sums, errors: f64[R + 1]``. The last sum is
    infinite where differences of sums can't be trusted: an infinite or a negative value was lost.
    """
    n_resets = 0
    for i in range(1, n):
        n_resets += values[base + i] < values[base + i - 1]
    if n_resets == 0:
        return 0
    found = 0
    total = 0.0
    error = 0.0
    tame = True
    sums[0] = 0.0
    errors[0] = 0.0
    for i in range(1, n):
        if values[base + i] < values[base + i - 1]:
            total, error = add_compensated(total, error, values[base + i - 1])
            places[found] = i
            found += 1
            sums[found] = total
            errors[found] = error
            if values[base + i - 1] < 0.0:
                tame = False
    if not tame:
        sums[found] = np.inf
    return found


@device
def _add_resets(increase, values, base, places, sums, errors, first, last, n_resets):
    """Increase of a window plus the values lost at its resets ``places[first:last]``."""
    if last - first > _MANY_RESETS:
        lost = (sums[last] - sums[first]) + (errors[last] - errors[first])
        total = sums[n_resets]
        if total < np.inf and lost >= total * _SAFE_SHARE:
            return increase + lost
    for k in range(first, last):
        increase += values[base + places[k] - 1]
    return increase


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def extrapolate(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """RATE, INCREASE or DELTA over (end - range, end], extrapolated to the range's ends.

    Shapes as in `windows.select_latest`; needs two samples in a window.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    covered = np.empty(n_steps)
    to_start = np.empty(n_steps)
    to_end = np.empty(n_steps)
    places = np.empty(longest, np.int64)
    sums = np.empty(longest + 1)
    errors = np.empty(longest + 1)
    range_s = range_ms / 1000.0
    axis = -1
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            _extrapolations(t_ms, start, lo, hi, ends_ms, range_ms, covered, to_start, to_end)
        base = row_offsets[s]
        n = row_offsets[s + 1] - base
        n_resets = 0
        if op != DELTA:
            n_resets = _find_resets(values, base, n, places, sums, errors)
        reset_from = 0
        reset_to = 0
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t] - 1
            if b <= a:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            first = values[base + a]
            increase = values[base + b] - first
            if n_resets > 0:
                while reset_from < n_resets and places[reset_from] <= a:
                    reset_from += 1
                while reset_to < n_resets and places[reset_to] <= b:
                    reset_to += 1
                if reset_to > reset_from:
                    increase = _add_resets(
                        increase, values, base, places, sums, errors,
                        reset_from, reset_to, n_resets,
                    )  # fmt: skip
            head = to_start[t]
            if op != DELTA and increase > 0.0 and first >= 0.0:
                # A counter can't have been below zero: the line ends where it meets zero.
                to_zero = covered[t] * (first / increase)
                if to_zero < head:
                    head = to_zero
            factor = (covered[t] + head + to_end[t]) / covered[t]
            if op == RATE:
                factor /= range_s
            out[s, t] = increase * factor
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def last_difference(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """IRATE or IDELTA: the last two samples in (end - range, end].

    Shapes as in `windows.select_latest`.
    """
    n_steps = ends_ms.shape[0]
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    axis = -1
    start = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            b = hi[t] - 1
            if b <= lo[t]:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            x = values[base + b]
            before = values[base + b - 1]
            if op == IDELTA:
                x -= before
            else:
                if not x < before:
                    x -= before
                x /= (t_ms[start + b] - t_ms[start + b - 1]) / 1000.0
            out[s, t] = x
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK


@kernel(
    i64(
        i64, i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def count_steps(
    op, lookback_ms, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """CHANGES or RESETS between neighbours in (end - range, end]; 0 for a single sample.

    With `lookback_ms` above 0 the range is anchored: the newest sample at or before its start
    counts too, if it is newer than that. Shapes as in `windows.select_latest`. Counts are whole
    numbers, so prefix sums are exact.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    counts = np.empty(longest, np.int64)
    axis = -1
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            if lookback_ms > 0:
                for t in range(n_steps):
                    oldest = ends_ms[t] - range_ms - lookback_ms
                    if hi[t] > lo[t] > 0 and t_ms[start + lo[t] - 1] > oldest:
                        lo[t] -= 1
        base = row_offsets[s]
        n = row_offsets[s + 1] - base
        count = 0
        for i in range(n):
            if i > 0:
                x = values[base + i]
                before = values[base + i - 1]
                if op == RESETS:
                    count += x < before
                else:
                    count += x != before and not (np.isnan(x) and np.isnan(before))
            counts[i] = count
        found = 0
        for t in range(n_steps):
            present = hi[t] > lo[t]
            out[s, t] = float(counts[hi[t] - 1] - counts[lo[t]]) if present else 0.0
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK
