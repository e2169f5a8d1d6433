"""Functions over the samples of a range, other than those of counters.

How rows and axes are walked: see `windows`. Results agree with Prometheus's, which sums every
window on its own with compensation; where this file takes differences of prefix sums instead,
they are compensated too, and used only where they are as exact.
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

COUNT = 0
PRESENT = 1
FIRST = 2
LAST = 3
TS_OF_FIRST = 4
TS_OF_LAST = 5

SUM = 0
AVG = 1
STDDEV = 2
STDVAR = 3

MIN = 0
MAX = 1
TS_OF_MIN = 2
TS_OF_MAX = 3

QUANTILE = 0
MAD = 1

DERIV = 0
PREDICT = 1

_SAFE_SHARE = 1e-9
"""A difference of prefix sums counts only above this share of the largest prefix."""


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def pick_samples(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """COUNT, PRESENT, FIRST, LAST, TS_OF_FIRST, TS_OF_LAST of (end - range, end].

    Shapes as in `windows.select_latest`. Times are seconds.
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
            a = lo[t]
            b = hi[t] - 1
            present = b >= a
            x = 0.0
            if present:
                if op == COUNT:
                    x = float(b - a + 1)
                elif op == PRESENT:
                    x = 1.0
                elif op == FIRST:
                    x = values[base + a]
                elif op == LAST:
                    x = values[base + b]
                elif op == TS_OF_FIRST:
                    x = t_ms[start + a] / 1000.0
                else:
                    x = t_ms[start + b] / 1000.0
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK


@device
def _sum_window(values, begin, end):
    """Compensated sum, and its compensation, of ``values[begin:end]``."""
    total = values[begin]
    error = 0.0
    for i in range(begin + 1, end):
        total, error = add_compensated(total, error, values[i])
    return total, error


@device
def _mean_window(values, begin, end):
    """Mean of a window; turns to an incremental mean where the sum would overflow."""
    total = values[begin]
    error = 0.0
    incremental = False
    mean = 0.0
    for i in range(begin + 1, end):
        n = float(i - begin + 1)
        x = values[i]
        if not incremental:
            new_total, new_error = add_compensated(total, error, x)
            if abs(new_total) != np.inf:
                total = new_total
                error = new_error
                continue
            incremental = True
            mean = total / (n - 1.0)
            error /= n - 1.0
        share = (n - 1.0) / n
        mean, error = add_compensated(share * mean, share * error, x / n)
    if incremental:
        return mean + error
    n = float(end - begin)
    return total / n + error / n


@device
def _variance_window(values, begin, end):
    """Population variance of a window by Welford's recurrence, compensated."""
    mean = 0.0
    mean_error = 0.0
    squares = 0.0
    squares_error = 0.0
    for i in range(begin, end):
        x = values[i]
        delta = x - (mean + mean_error)
        mean, mean_error = add_compensated(mean, mean_error, delta / float(i - begin + 1))
        squares, squares_error = add_compensated(
            squares, squares_error, delta * (x - (mean + mean_error))
        )
    return (squares + squares_error) / float(end - begin)


@device
def _prefix_sums(values, base, n, sums, errors):
    """Compensated sums of the first i values of a row; returns the largest magnitude among them.

    ``sums, errors: f64[n + 1]``. The result is not finite if any value or sum is not.
    """
    total = 0.0
    error = 0.0
    largest = 0.0
    sums[0] = 0.0
    errors[0] = 0.0
    for i in range(n):
        x = values[base + i]
        grown = total + x
        if abs(total) >= abs(x):
            error += (total - grown) + x
        else:
            error += (x - grown) + total
        total = grown
        sums[i + 1] = total
        errors[i + 1] = error
        if not abs(total) <= largest:
            largest = abs(total)
            if not largest < np.inf:
                return np.inf
    return largest


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def sum_windows(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """SUM, AVG, STDDEV or STDVAR of (end - range, end]; shapes as in `windows.select_latest`.

    Long windows of a finite row are sums and means by differences of compensated prefix sums.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    sums = np.empty(longest + 1)
    errors = np.empty(longest + 1)
    axis = -1
    n_windowed = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                t_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, range_ms, lo, hi
            )
            n_windowed = 0
            for t in range(n_steps):
                n_windowed += hi[t] - lo[t]
        base = row_offsets[s]
        n = row_offsets[s + 1] - base
        limit = np.inf
        if (op == SUM or op == AVG) and n_windowed > 2 * n:
            limit = _prefix_sums(values, base, n, sums, errors) * _SAFE_SHARE
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            if b <= a:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            x = 0.0
            if op == STDDEV:
                x = np.sqrt(_variance_window(values, base + a, base + b))
            elif op == STDVAR:
                x = _variance_window(values, base + a, base + b)
            else:
                if limit < np.inf:
                    x = (sums[b] - sums[a]) + (errors[b] - errors[a])
                if limit < np.inf and abs(x) >= limit:
                    if op == AVG:
                        x /= float(b - a)
                elif op == AVG:
                    x = _mean_window(values, base + a, base + b)
                else:
                    total, error = _sum_window(values, base + a, base + b)
                    x = total + error
            out[s, t] = x
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
def extreme_windows(
    op, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """MIN, MAX, TS_OF_MIN, TS_OF_MAX of (end - range, end]; shapes as in `windows.select_latest`.

    NaN only if all values are NaN; of equal extremes the first one's value (0 or -0) and the last
    one's time count. A monotonic queue of positions makes every sample enter and leave once,
    however windows overlap.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    queue = np.empty(longest, np.int64)
    want_max = op == MAX or op == TS_OF_MAX
    want_time = op == TS_OF_MIN or op == TS_OF_MAX
    axis = -1
    start = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
        base = row_offsets[s]
        head = 0
        tail = 0
        pushed = 0
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            pushed = max(pushed, a)
            while head < tail and queue[head] < a:
                head += 1
            for i in range(pushed, b):
                x = values[base + i]
                if np.isnan(x):
                    continue
                while head < tail:
                    y = values[base + queue[tail - 1]]
                    if not (want_time and y == x) and not (y < x if want_max else y > x):
                        break
                    tail -= 1
                if head == tail:
                    head = 0
                    tail = 0
                queue[tail] = i
                tail += 1
            pushed = max(pushed, b)
            present = b > a
            x = 0.0
            if present:
                best = queue[head] if head < tail else b - 1
                x = t_ms[start + best] / 1000.0 if want_time else values[base + best]
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK


@device
def _comes_before(x, y):
    """Order of values in quantiles: NaN first, then ascending."""
    return x < y or (np.isnan(x) and not np.isnan(y))


@device
def _place_of(sorted_values, n, x):
    """First position whose value does not come before x."""
    low = 0
    high = n
    while low < high:
        middle = (low + high) // 2
        if _comes_before(sorted_values[middle], x):
            low = middle + 1
        else:
            high = middle
    return low


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
    for i in range(old_a, a):
        place = _place_of(sorted_values, n, values[base + i])
        for j in range(place, n - 1):
            sorted_values[j] = sorted_values[j + 1]
        n -= 1
    for i in range(old_b, b):
        x = values[base + i]
        place = _place_of(sorted_values, n, x)
        for j in range(n, place, -1):
            sorted_values[j] = sorted_values[j - 1]
        sorted_values[place] = x
        n += 1
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
    window = np.empty(longest)
    deviations = np.empty(longest)
    ordered = np.empty(longest)
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
    return OK


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
