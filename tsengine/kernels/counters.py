"""Counters over ranges: rate and its family, last differences, numbers of changes and resets.

How rows and axes are walked: see `windows`. Resets are looked for once per row; windows then visit
only the resets inside them, in Prometheus's order of additions, so that nothing outside a window
can spoil it. Only windows with very many resets use compensated prefix sums, and only where those
are as exact.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import add_compensated, unowned, window_bounds
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

_MARGIN = 1.0 + 1e-9
_TINY = 1e-290
"""Products that are further apart than this share, and larger than this, are told apart exactly."""

_MANY_RESETS = 48
_SAFE_SHARE = 1e-6
"""A difference of prefix sums counts only above this share of the whole sum."""


@device
def _plan_windows(t_ms, start, lo, hi, ends_ms, range_ms, divisor, plan, first, last):
    """What of each window depends on times alone; returns how many windows have a result.

    ``lo, hi: i64[T]`` are half-open positions on the axis from `start` on. Fills of each window
    ``first, last: u64[T]``, its first and its last sample, and a row of ``plan: f64[4, T]``: the
    seconds between these, what may be added before and after them, and the factor that takes an
    increase to both of the range's ends. All are 0 where a window has no result.
    Source: Prometheus `promql/functions.go`, extrapolatedRate.
    """
    covered, heads, tails, factors = plan[0], plan[1], plan[2], plan[3]
    found = 0
    for t in range(ends_ms.shape[0]):
        covered[t] = 0.0
        heads[t] = 0.0
        tails[t] = 0.0
        factors[t] = 0.0
        first[t] = 0
        last[t] = 0
        n_gaps = hi[t] - lo[t] - 1
        if n_gaps < 1:
            continue
        found += 1
        first[t] = lo[t]
        last[t] = hi[t] - 1
        first_ms = t_ms[start + lo[t]]
        last_ms = t_ms[start + hi[t] - 1]
        seconds = (last_ms - first_ms) / 1000.0
        gap = seconds / n_gaps
        head = (first_ms - (ends_ms[t] - range_ms)) / 1000.0
        tail = (ends_ms[t] - last_ms) / 1000.0
        covered[t] = seconds
        heads[t] = head if head < gap * 1.1 else gap / 2
        tails[t] = tail if tail < gap * 1.1 else gap / 2
        factors[t] = (seconds + heads[t] + tails[t]) / seconds / divisor
    return found


@device
def _find_resets(row, places, sums, errors):
    """Positions i with v[i] < v[i - 1], and compensated sums of the values lost there.

    Returns their number; fills ``places: i64[R]``, ``sums, errors: f64[R + 1]``. The last sum is
    infinite where differences of sums can't be trusted: an infinite or a negative value was lost.
    """
    n = row.shape[0]
    n_resets = 0
    for i in range(1, n):
        n_resets += row[i] < row[i - 1]
    if n_resets == 0:
        return 0
    found = 0
    total = 0.0
    error = 0.0
    tame = True
    sums[0] = 0.0
    errors[0] = 0.0
    for i in range(1, n):
        if row[i] < row[i - 1]:
            total, error = add_compensated(total, error, row[i - 1])
            places[found] = i
            found += 1
            sums[found] = total
            errors[found] = error
            if row[i - 1] < 0.0:
                tame = False
    if not tame:
        sums[found] = np.inf
    return found


@device
def _add_resets(increase, row, places, sums, errors, first, last, n_resets):
    """Increase of a window plus the values lost at its resets ``places[first:last]``."""
    if last - first > _MANY_RESETS:
        lost = (sums[last] - sums[first]) + (errors[last] - errors[first])
        total = sums[n_resets]
        if total < np.inf and lost >= total * _SAFE_SHARE:
            return increase + lost
    for k in range(first, last):
        increase += row[places[k] - 1]
    return increase


@device
def _extrapolate_row(row, plan, first, last, is_counter, out):
    """Increases between first and last samples times the factors of the windows.

    Returns how many of them may be those of counters that the line would take below zero: for
    these, and where there was a reset, `_extrapolate_carefully` has the last word.
    """
    covered, heads, factors = plan[0], plan[1], plan[3]
    n_doubtful = 0
    for t in range(out.shape[0]):
        begin = row[first[t]]
        increase = row[last[t]] - begin
        out[t] = increase * factors[t] if factors[t] > 0.0 else 0.0
        # Whether `covered * (begin / increase) < head`, without the division where it is clear.
        limit = heads[t] * increase * _MARGIN
        is_clear = (limit > _TINY) & (covered[t] * begin > limit)
        n_doubtful += (increase > 0.0) & (begin >= 0.0) & (not is_clear)
    return n_doubtful if is_counter else 0


@device
def _extrapolate_carefully(
    row, plan, first, last, divisor, places, sums, errors, n_resets, out,
):  # fmt: skip
    """As `_extrapolate_row` for a counter that was reset at ``places[:n_resets]``, or starts at 0.

    ``divisor: f64`` is that of the factors; ``sums, errors`` are those of `_find_resets`.
    """
    covered, heads, tails, factors = plan[0], plan[1], plan[2], plan[3]
    reset_from = 0
    reset_to = 0
    for t in range(out.shape[0]):
        if factors[t] == 0.0:
            continue
        a = np.int64(first[t])
        b = np.int64(last[t])
        begin = row[a]
        increase = row[b] - begin
        if n_resets > 0:
            while reset_from < n_resets and places[reset_from] <= a:
                reset_from += 1
            while reset_to < n_resets and places[reset_to] <= b:
                reset_to += 1
            if reset_to > reset_from:
                increase = _add_resets(
                    increase, row, places, sums, errors, reset_from, reset_to, n_resets
                )
        factor = factors[t]
        if increase > 0.0 and begin >= 0.0:
            # A counter can't have been below zero: the line ends where it meets zero.
            to_zero = covered[t] * (begin / increase)
            if to_zero < heads[t]:
                factor = (covered[t] + to_zero + tails[t]) / covered[t] / divisor
        out[t] = increase * factor


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
    plan = np.empty((4, n_steps))
    first = np.empty(n_steps, np.uint64)
    last = np.empty(n_steps, np.uint64)
    places = np.empty(longest, np.int64)
    sums = np.empty(longest + 1)
    errors = np.empty(longest + 1)
    divisor = range_ms / 1000.0 if op == RATE else 1.0
    values = unowned(values)
    axis = -1
    found = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            found = _plan_windows(
                t_ms, start, lo, hi, ends_ms, range_ms, divisor, plan, first, last
            )
        n_present[s] = found
        for t in range(n_steps):
            valid[s, t] = plan[3, t] > 0.0
        if found == 0:
            for t in range(n_steps):
                out[s, t] = 0.0
            continue
        row = values[row_offsets[s] : row_offsets[s + 1]]
        n_doubtful = _extrapolate_row(row, plan, first, last, op != DELTA, out[s])
        n_resets = 0
        if op != DELTA:
            n_resets = _find_resets(row, places, sums, errors)
        if n_doubtful > 0 or n_resets > 0:
            _extrapolate_carefully(
                row, plan, first, last, divisor, places, sums, errors, n_resets, out[s]
            )
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
