"""Extended selectors: ranges that reach beyond their ends (`anchored`, `smoothed`), and instants.

How rows and axes are walked: see `windows`. An anchored range begins at the newest sample at or
before its start, a smoothed one has its ends interpolated between the samples around them; both
look at most one lookback further than the range. Source: Prometheus proposal PROM-52 and the
behaviour of `promql/functions.go`.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import window_bounds
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
LEFT = 3
RIGHT = 4

ANCHORED = 0
SMOOTHED = 1


@device
def _edges(t_ms, start, end, ends_ms, range_ms, lookback_ms, smoothed, lo, hi):
    """Turn the bounds of windows into first and last sample used; ``lo > hi`` where there is none.

    ``lo, hi: i64[T]`` half-open on entry, closed on return.
    """
    n = end - start
    for t in range(ends_ms.shape[0]):
        upto = ends_ms[t]
        after = upto - range_ms
        a = lo[t]
        b = hi[t]
        is_empty = b <= a
        if a > 0 and t_ms[start + a - 1] > after - lookback_ms:
            lo[t] = a - 1
        hi[t] = b - 1
        if smoothed and lo[t] < b:
            # Something lies at or before the end, so the sample after it is of use.
            if t_ms[start + b - 1] < upto and b < n and t_ms[start + b] <= upto + lookback_ms:
                hi[t] = b
                is_empty = False
        if is_empty:
            lo[t] = 1
            hi[t] = 0


@device
def _between(before, after, elapsed, gap, is_counter):
    """Value between two samples; a counter that fell in between began at zero."""
    if is_counter and after < before:
        before = 0.0
    return before + (after - before) * elapsed / gap


@device
def _find_falls(values, base, n, places):
    """Positions i with v[i] < v[i - 1]; returns their number."""
    found = 0
    for i in range(1, n):
        if values[base + i] < values[base + i - 1]:
            places[found] = i
            found += 1
    return found


@device
def _lost_at_resets(values, base, places, first_fall, n_falls, a, b, left, right):
    """What a counter lost between its left value, the samples a..b inside, and its right value."""
    if b < a:
        return left if right < left else 0.0
    lost = 0.0
    if values[base + a] < left:
        lost += left
    k = first_fall
    while k < n_falls and places[k] <= b:
        lost += values[base + places[k] - 1]
        k += 1
    if right < values[base + b]:
        lost += values[base + b]
    return lost


@kernel(
    i64(
        i64, i64, i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def difference_of_edges(
    op, modifier, lookback_ms, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms,
    range_ms, out, valid, n_present,
):  # fmt: skip
    """RATE, INCREASE or DELTA between the ends of (end - range, end], or its LEFT or RIGHT value.

    `modifier` is ANCHORED or SMOOTHED; shapes as in `windows.select_latest`. RATE and INCREASE are
    of counters: falls are resets. LEFT and RIGHT are values of no counter.
    """
    n_steps = ends_ms.shape[0]
    smoothed = modifier == SMOOTHED
    is_counter = op == RATE or op == INCREASE
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    places = np.empty(longest, np.int64)
    axis = -1
    start = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            end = axis_offsets[axis + 1]
            window_bounds(t_ms, start, end, ends_ms, range_ms, lo, hi)
            _edges(t_ms, start, end, ends_ms, range_ms, lookback_ms, smoothed, lo, hi)
        base = row_offsets[s]
        n_falls = 0
        if is_counter:
            n_falls = _find_falls(values, base, row_offsets[s + 1] - base, places)
        first_fall = 0
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            if b < a:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            upto = ends_ms[t]
            after = upto - range_ms
            first_ms = t_ms[start + a]
            last_ms = t_ms[start + b]
            left = values[base + a]
            right = values[base + b]
            if smoothed and first_ms < after:
                left = _between(
                    left, values[base + a + 1],
                    float(after - first_ms), float(t_ms[start + a + 1] - first_ms), is_counter,
                )  # fmt: skip
            if smoothed and last_ms > upto and b > a:
                before_ms = t_ms[start + b - 1]
                right = _between(
                    values[base + b - 1], right,
                    float(upto - before_ms), float(last_ms - before_ms), is_counter,
                )  # fmt: skip
            x = right - left
            if op == LEFT:
                x = left
            elif op == RIGHT:
                x = right
            elif is_counter:
                # The edges have taken care of resets next to them.
                if first_ms <= after:
                    a += 1
                if last_ms >= upto:
                    b -= 1
                while first_fall < n_falls and places[first_fall] <= a:
                    first_fall += 1
                x += _lost_at_resets(values, base, places, first_fall, n_falls, a, b, left, right)
                if op == RATE:
                    x /= range_ms / 1000.0
            out[s, t] = x
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def interpolate_instants(
    t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, lookback_ms,
    out, valid, n_present,
):  # fmt: skip
    """Value at every end: between the samples in (end - lookback, end] and (end, end + lookback].

    Without a later one the earlier sample's value stays; without an earlier one there is none.
    Shapes as in `windows.select_latest`.
    """
    n_steps = ends_ms.shape[0]
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    axis = -1
    start = 0
    n = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            n = axis_offsets[axis + 1] - start
            window_bounds(t_ms, start, start + n, ends_ms, lookback_ms, lo, hi)
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            b = hi[t]
            present = b > lo[t]
            x = 0.0
            if present:
                x = values[base + b - 1]
                before_ms = t_ms[start + b - 1]
                if before_ms < ends_ms[t] and b < n:
                    after_ms = t_ms[start + b]
                    if after_ms <= ends_ms[t] + lookback_ms:
                        x = _between(
                            x, values[base + b],
                            float(ends_ms[t] - before_ms), float(after_ms - before_ms), False,
                        )  # fmt: skip
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK
