"""Instant selection: the newest sample within the lookback of every step.

All kernels over frames take a whole ragged batch (see `tsengine.model.frame.FrameBatch`) and visit
its rows in `order`, which puts rows of one axis side by side: what depends on time alone (positions
of windows) is computed once per axis into scratch, then every row is a tight loop. A series alone
on its axis goes the same way.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.aggregate import fold_sum
from tsengine.kernels.bits import is_stale, unowned, window_bounds
from tsengine.kernels.jit import (
    BOOL_2D_OUT,
    F64_2D_OUT,
    F64_IN,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    boolean,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import hold

VALUE = 0
TIME_S = 1


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def select_latest(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, lookback_ms,
    out, valid, n_present,
):  # fmt: skip
    """Newest sample in (end - lookback, end] of every row; a stale marker there means absent.

    ``ends_ms: i64[T]`` ascending; op VALUE gives the value, TIME_S the sample's time in seconds.
    Fills ``out: f64[S, T]``, ``valid: bool[S, T]`` and ``n_present: i64[S]``.
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
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, lookback_ms, lo, hi)
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            last = hi[t] - 1
            present = False
            x = 0.0
            if last >= lo[t]:
                x = values[base + last]
                present = not is_stale(x)
                if op == TIME_S:
                    x = t_ms[start + last] / 1000.0
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK


@device
def _latest_row(row, places, held, cells, ok):
    """Values at ``places: i64[T]``, and where `held` says there is one and it is no stale marker.

    Returns how many there are.
    """
    n_steps = places.shape[0]
    found = 0
    for t in range(n_steps):
        x = row[places[t]]
        cells[t] = x if held[t] else 0.0
        ok[t] = held[t] and not is_stale(x)
        found += ok[t]
    return found


@device
def _count_stale(row):
    n_stale = 0
    for i in range(row.shape[0]):
        n_stale += is_stale(row[i])
    return n_stale


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        I64_IN, boolean, F64_2D_OUT, F64_2D_OUT, BOOL_2D_OUT, F64_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def latest_sums(
    t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, lookback_ms,
    groups, may_scale, total, comp, scaled, count, n_present,
):  # fmt: skip
    """Values of `select_latest` and `aggregate.add_sum` in one; see `counters.extrapolate_sums`."""
    n_steps = ends_ms.shape[0]
    bounds = np.empty((2, n_steps), np.int64)
    picks = np.empty(n_steps, np.int64)
    results = np.empty(n_steps)
    presence = np.empty((2, n_steps), np.bool_)
    lo, hi, places = unowned(bounds[0]), unowned(bounds[1]), unowned(picks)
    cells, held, ok = unowned(results), unowned(presence[0]), unowned(presence[1])
    t_ms, values, ends_ms = unowned(t_ms), unowned(values), unowned(ends_ms)
    total, comp, scaled = unowned(total), unowned(comp), unowned(scaled)
    axis = -1
    n_held = 0
    in_step = False
    any_scaled = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                t_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, lookback_ms, lo, hi
            )
            n_held = 0
            n_apart = 0
            for t in range(n_steps):
                held[t] = hi[t] > lo[t]
                places[t] = hi[t] - 1 if held[t] else 0
                n_held += held[t]
                n_apart += places[t] != places[0] + t
            in_step = n_held == n_steps and n_apart == 0
        n_present[s] = n_held
        if n_held == 0:
            continue
        g = groups[s]
        row = values[row_offsets[s] : row_offsets[s + 1]]
        run = row[places[0] : places[0] + n_steps]
        if in_step and _count_stale(run) == 0:
            any_scaled |= fold_sum(run, held, True, may_scale, total[g], comp[g], scaled[g])
            counts = count[g]
            for t in range(n_steps):
                counts[t] += 1.0
            continue
        found = _latest_row(row, places, held, cells, ok)
        n_present[s] = found
        if found == 0:
            continue
        any_scaled |= fold_sum(cells, ok, found == n_steps, may_scale, total[g], comp[g], scaled[g])
        counts = count[g]
        for t in range(n_steps):
            counts[t] += 1.0 if ok[t] else 0.0
    hold(bounds)
    hold(picks)
    hold(results)
    hold(presence)
    return any_scaled


@kernel(i64(I64_IN, I64_IN, I64_IN, I64_IN, i64, I64_2D_OUT, I64_2D_OUT))
def find_windows(t_ms, axis_offsets, axes, ends_ms, range_ms, first, last):
    """Where (end - range, end] lies on some axes, as half-open positions counted from their starts.

    ``axes: i64[K]`` numbers axes; ``ends_ms: i64[T]`` ascending. Fills ``first, last: i64[K, T]``.
    """
    for k in range(axes.shape[0]):
        start = axis_offsets[axes[k]]
        end = axis_offsets[axes[k] + 1]
        window_bounds(t_ms, start, end, ends_ms, range_ms, first[k], last[k])
    return OK
