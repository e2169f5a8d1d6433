"""Lines and smoothed levels through the samples of a range.

How rows and axes are walked: see `windows`.
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

DERIV = 0
PREDICT = 1


@device
def _time_sums(t_ms, start, lo, hi, origins_ms, from_first, sum_x, sum_xx):
    """Sums of x and x^2 over every window, x being seconds since an origin.

    The origin is the window's first sample, or ``origins_ms[t]``.
    """
    for t in range(lo.shape[0]):
        x_total = 0.0
        x_error = 0.0
        xx_total = 0.0
        xx_error = 0.0
        origin = origins_ms[t]
        if from_first and hi[t] > lo[t]:
            origin = t_ms[start + lo[t]]
        for i in range(lo[t], hi[t]):
            x = (t_ms[start + i] - origin) / 1000.0
            x_total, x_error = add_compensated(x_total, x_error, x)
            xx_total, xx_error = add_compensated(xx_total, xx_error, x * x)
        sum_x[t] = x_total + x_error
        sum_xx[t] = xx_total + xx_error


@kernel(
    i64(
        i64, F64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def fit_lines(
    op, ahead_s, origins_ms, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms,
    range_ms, out, valid, n_present,
):  # fmt: skip
    """Least squares line through (end - range, end]: DERIV its slope, PREDICT a value of it.

    PREDICT gives the value ``ahead_s: f64[T]`` seconds after ``origins_ms: i64[T]``, the times of
    evaluation. Needs two samples. Other shapes as in `windows.select_latest`.
    """
    n_steps = ends_ms.shape[0]
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    sum_x = np.empty(n_steps)
    sum_xx = np.empty(n_steps)
    axis = -1
    start = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            _time_sums(t_ms, start, lo, hi, origins_ms, op == DERIV, sum_x, sum_xx)
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            if b - a < 2:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            origin = t_ms[start + a] if op == DERIV else origins_ms[t]
            first = values[base + a]
            is_constant = True
            y_total = 0.0
            y_error = 0.0
            xy_total = 0.0
            xy_error = 0.0
            for i in range(a, b):
                y = values[base + i]
                if i > a and y != first:
                    is_constant = False
                x = (t_ms[start + i] - origin) / 1000.0
                y_total, y_error = add_compensated(y_total, y_error, y)
                xy_total, xy_error = add_compensated(xy_total, xy_error, x * y)
            slope = 0.0
            intercept = first
            if is_constant:
                if abs(first) == np.inf:
                    slope = np.nan
                    intercept = np.nan
            else:
                n = float(b - a)
                sum_y = y_total + y_error
                covariance = (xy_total + xy_error) - sum_x[t] * sum_y / n
                variance = sum_xx[t] - sum_x[t] * sum_x[t] / n
                slope = covariance / variance
                intercept = sum_y / n - slope * sum_x[t] / n
            out[s, t] = slope if op == DERIV else slope * ahead_s[t] + intercept
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK


@kernel(
    i64(
        F64_IN, F64_IN, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def smooth_windows(
    level_factor, trend_factor, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms,
    range_ms, out, valid, n_present,
):  # fmt: skip
    """Holt's double exponential smoothing of (end - range, end]; needs two samples.

    ``level_factor, trend_factor: f64[T]``; other shapes as in `windows.select_latest`.
    """
    n_steps = ends_ms.shape[0]
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    axis = -1
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                t_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, range_ms, lo, hi
            )
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            a = base + lo[t]
            b = base + hi[t]
            if b - a < 2:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            before = 0.0
            level = values[a]
            trend = values[a + 1] - values[a]
            for i in range(a + 1, b):
                if i > a + 1:
                    trend = trend_factor[t] * (level - before) + (1.0 - trend_factor[t]) * trend
                smoothed = level_factor[t] * values[i]
                carried = (1.0 - level_factor[t]) * (level + trend)
                before = level
                level = smoothed + carried
            out[s, t] = level
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK
