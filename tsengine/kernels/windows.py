"""Instant selection: the newest sample within the lookback of every step.

All kernels over frames take a whole ragged batch (see `tsengine.model.frame.FrameBatch`) and visit
its rows in `order`, which puts rows of one axis side by side: what depends on time alone (positions
of windows) is computed once per axis into scratch, then every row is a tight loop. A series alone
on its axis goes the same way.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import is_stale, window_bounds
from tsengine.kernels.jit import (
    BOOL_2D_OUT,
    F64_2D_OUT,
    F64_IN,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    i64,
    kernel,
)

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
