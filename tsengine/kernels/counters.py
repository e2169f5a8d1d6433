"""Counters over ranges: rate and its family and sums of it, last differences, changes and resets.

How rows and axes are walked: see `windows`. Resets are looked for once per row; windows then visit
only the resets inside them, in Prometheus's order of additions, so that nothing outside a window
can spoil it. Only windows with very many resets use compensated prefix sums, and only where those
are as exact.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.aggregate import fold_sum
from tsengine.kernels.bits import add_compensated, unowned, window_bounds
from tsengine.kernels.jit import (
    BOOL_2D_OUT,
    F64_2D_OUT,
    F64_IN,
    I64_IN,
    I64_OUT,
    OK,
    boolean,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import hold

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
    ``first, last: u64[T]``, its first and its last sample, and a row of ``plan: f64[5, T]``: the
    seconds between these, what may be added before and after them, the factor that takes an
    increase to both of the range's ends, and the share of an increase that a counter has to begin
    with, or more, to be clearly above zero at the range's beginning. All are 0 where a window has
    no result. Source: Prometheus `promql/functions.go`, extrapolatedRate.
    """
    covered, heads, tails, factors, clear = plan[0], plan[1], plan[2], plan[3], plan[4]
    found = 0
    for t in range(ends_ms.shape[0]):
        first[t] = 0
        last[t] = 0
        clear[t] = 0.0
        n_gaps = hi[t] - lo[t] - 1
        if n_gaps < 1:
            continue
        found += 1
        first[t] = lo[t]
        last[t] = hi[t] - 1
        first_ms = t_ms[start + lo[t]]
        last_ms = t_ms[start + hi[t] - 1]
        covered[t] = last_ms - first_ms
        heads[t] = first_ms - (ends_ms[t] - range_ms)
        tails[t] = ends_ms[t] - last_ms
        clear[t] = n_gaps
    # Times have been put there in ms, and the numbers of gaps, for a loop without branches.
    for t in range(ends_ms.shape[0]):
        has_result = clear[t] > 0.0
        seconds = covered[t] / 1000.0
        gap = seconds / clear[t]
        head = heads[t] / 1000.0
        tail = tails[t] / 1000.0
        head = head if head < gap * 1.1 else gap / 2
        tail = tail if tail < gap * 1.1 else gap / 2
        factor = (seconds + head + tail) / seconds / divisor
        covered[t] = seconds if has_result else 0.0
        heads[t] = head if has_result else 0.0
        tails[t] = tail if has_result else 0.0
        factors[t] = factor if has_result else 0.0
        clear[t] = head / seconds * _MARGIN if has_result else 0.0
    return found


@device
def _is_in_step(places):
    """Whether each window begins, or ends, one sample after the one before it."""
    n_apart = 0
    for t in range(1, places.shape[0]):
        n_apart += places[t] != places[0] + np.uint64(t)
    return n_apart == 0


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
def _extrapolate_row(row, plan, first, last, in_step, out):
    """Increases between first and last samples times the factors of the windows.

    Returns how many of them may be those of counters that the line would take below zero: for
    these, and where there was a reset, `_extrapolate_carefully` has the last word.
    """
    factors, clear = plan[3], plan[4]
    n_steps = out.shape[0]
    n_doubtful = 0
    # Whether `covered * (begin / increase) < head`, without the division where it is clear.
    if in_step:
        begins = row[first[0] : first[0] + np.uint64(n_steps)]
        ends = row[last[0] : last[0] + np.uint64(n_steps)]
        for t in range(n_steps):
            begin = begins[t]
            increase = ends[t] - begin
            out[t] = increase * factors[t]
            limit = increase * clear[t]
            is_clear = (limit > _TINY) & (begin > limit)
            n_doubtful += (increase > 0.0) & (begin >= 0.0) & (not is_clear)
        return n_doubtful
    for t in range(n_steps):
        begin = row[first[t]]
        increase = row[last[t]] - begin
        out[t] = increase * factors[t] if factors[t] > 0.0 else 0.0
        limit = increase * clear[t]
        # A branch, or the compiler would gather the values, which takes twice the time.
        if not ((limit > _TINY) & (begin > limit)):
            n_doubtful += (increase > 0.0) & (begin >= 0.0)
    return n_doubtful


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


@device
def _extrapolated(row, plan, first, last, in_step, op, divisor, places, sums, errors, out):
    """One row of `extrapolate`."""
    n_doubtful = _extrapolate_row(row, plan, first, last, in_step, out)
    if op == DELTA:
        return
    n_resets = _find_resets(row, places, sums, errors)
    if n_doubtful > 0 or n_resets > 0:
        _extrapolate_carefully(row, plan, first, last, divisor, places, sums, errors, n_resets, out)


@device
def _longest(axis_offsets):
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    return longest


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
    longest = _longest(axis_offsets)
    bounds = np.empty((2, n_steps), np.int64)
    plans = np.empty((5, n_steps))
    picks = np.empty((2, n_steps), np.uint64)
    resets = np.empty(longest, np.int64)
    losses = np.empty((2, longest + 1))
    lo, hi = unowned(bounds[0]), unowned(bounds[1])
    plan = unowned(plans)
    first, last = unowned(picks[0]), unowned(picks[1])
    places, sums, errors = unowned(resets), unowned(losses[0]), unowned(losses[1])
    divisor = range_ms / 1000.0 if op == RATE else 1.0
    t_ms, values, ends_ms, out = unowned(t_ms), unowned(values), unowned(ends_ms), unowned(out)
    axis = -1
    found = 0
    in_step = False
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            found = _plan_windows(
                t_ms, start, lo, hi, ends_ms, range_ms, divisor, plan, first, last
            )
            in_step = found == n_steps and _is_in_step(first) and _is_in_step(last)
        n_present[s] = found
        for t in range(n_steps):
            valid[s, t] = plan[3, t] > 0.0
        if found == 0:
            for t in range(n_steps):
                out[s, t] = 0.0
            continue
        row = values[row_offsets[s] : row_offsets[s + 1]]
        _extrapolated(row, plan, first, last, in_step, op, divisor, places, sums, errors, out[s])
    hold(bounds)
    hold(plans)
    hold(picks)
    hold(resets)
    hold(losses)
    return OK


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        I64_IN, boolean, F64_2D_OUT, F64_2D_OUT, BOOL_2D_OUT, F64_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def extrapolate_sums(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    groups, may_scale, total, comp, scaled, count, n_present,
):  # fmt: skip
    """`extrapolate` and `aggregate.add_sum` in one: no row of results outlives its sum.

    Adds row s to the cells ``groups[s]`` of ``total, comp, count: f64[G, T]`` and
    ``scaled: bool[G, T]``, and to ``n_present: i64[S]``; rows are added in the sequence of `order`.
    Returns 1 if any cell is scaled, else 0.
    """
    n_steps = ends_ms.shape[0]
    longest = _longest(axis_offsets)
    bounds = np.empty((2, n_steps), np.int64)
    plans = np.empty((5, n_steps))
    picks = np.empty((2, n_steps), np.uint64)
    resets = np.empty(longest, np.int64)
    losses = np.empty((2, longest + 1))
    results = np.empty(n_steps)
    presence = np.empty(n_steps, np.bool_)
    lo, hi = unowned(bounds[0]), unowned(bounds[1])
    plan = unowned(plans)
    first, last = unowned(picks[0]), unowned(picks[1])
    places, sums, errors = unowned(resets), unowned(losses[0]), unowned(losses[1])
    cells, ok = unowned(results), unowned(presence)
    divisor = range_ms / 1000.0 if op == RATE else 1.0
    t_ms, values, ends_ms = unowned(t_ms), unowned(values), unowned(ends_ms)
    total, comp, scaled = unowned(total), unowned(comp), unowned(scaled)
    axis = -1
    found = 0
    in_step = False
    any_scaled = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            found = _plan_windows(
                t_ms, start, lo, hi, ends_ms, range_ms, divisor, plan, first, last
            )
            in_step = found == n_steps and _is_in_step(first) and _is_in_step(last)
            for t in range(n_steps):
                ok[t] = plan[3, t] > 0.0
        n_present[s] = found
        if found == 0:
            continue
        row = values[row_offsets[s] : row_offsets[s + 1]]
        _extrapolated(row, plan, first, last, in_step, op, divisor, places, sums, errors, cells)
        g = groups[s]
        any_scaled |= fold_sum(cells, ok, found == n_steps, may_scale, total[g], comp[g], scaled[g])
        counts = count[g]
        for t in range(n_steps):
            counts[t] += 1.0 if ok[t] else 0.0
    hold(bounds)
    hold(plans)
    hold(picks)
    hold(resets)
    hold(losses)
    hold(results)
    hold(presence)
    return any_scaled


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
