"""Picks, sums and extremes of the samples of a range.

How rows and axes are walked: see `windows`. Results agree with Prometheus's, which sums every
window on its own with compensation; where this file takes differences of prefix sums instead,
they are compensated too, and used only where they are as exact.
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
from tsengine.kernels.packing import hold

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


@device
def _cut_windows(lo, hi, cuts, first, behind):
    """Cut an axis at all ends of windows, so that each window is a run of pieces.

    ``lo, hi: i64[T]`` ascend. Piece k is ``cuts[k]:cuts[k + 1]``; fills ``cuts: i64[2 T]`` and
    ``first, behind: i64[T]``: window t is made of the pieces ``first[t]:behind[t]``.
    """
    n_steps = lo.shape[0]
    n_cuts = 0
    i = 0
    j = 0
    while j < n_steps:
        at = hi[j]
        if i < n_steps and lo[i] < at:
            at = lo[i]
        cuts[n_cuts] = at
        while i < n_steps and lo[i] == at:
            first[i] = n_cuts
            i += 1
        while j < n_steps and hi[j] == at:
            behind[j] = n_cuts
            j += 1
        n_cuts += 1


@device
def _largest(part, sign):
    """Largest of ``sign * part`` but NaN, or minus infinity; the sign of 0 is any."""
    n = part.shape[0]
    a = -np.inf
    b = -np.inf
    c = -np.inf
    d = -np.inf
    # Four at a time, since each choice waits for the one before it.
    for i in range(0, n - 3, 4):
        x = part[i] * sign
        y = part[i + 1] * sign
        z = part[i + 2] * sign
        w = part[i + 3] * sign
        a = x if x > a else a
        b = y if y > b else b
        c = z if z > c else c
        d = w if w > d else d
    for i in range(n - n % 4, n):
        x = part[i] * sign
        a = x if x > a else a
    a = b if b > a else a
    c = d if d > c else c
    return c if c > a else a


@device
def _has_number(part):
    """Whether there is anything but NaN."""
    for i in range(part.shape[0]):
        if not np.isnan(part[i]):
            return True
    return False


@device
def _first_equal(part, x):
    """The first of the values that are equal to x: 0 may be -0."""
    for i in range(part.shape[0]):
        if part[i] == x:
            return part[i]
    return x


@device
def _last_place(part, x):
    """Place of the last of the values that are equal to x."""
    for i in range(part.shape[0] - 1, -1, -1):
        if part[i] == x:
            return i
    return 0


@device
def _largest_of_row(row, sign, lo, hi, cuts, first, behind, largest, suffix, out):
    """MIN or MAX of all windows of a row.

    The largest of a window is that of two runs of pieces: those up to where the pivot is, for which
    there are running extremes from its end on, and those behind it, seen one after the other.
    """
    pushed = 0
    pivot = 0
    after = -np.inf
    for t in range(out.shape[0]):
        if hi[t] <= lo[t]:
            out[t] = 0.0
            continue
        begin = max(pushed, first[t])
        for piece in range(begin, behind[t]):
            if cuts[piece + 1] - cuts[piece] > 4:
                x = _largest(row[cuts[piece] : cuts[piece + 1]], sign)
            else:
                x = -np.inf
                for i in range(cuts[piece], cuts[piece + 1]):
                    y = row[i] * sign
                    x = y if y > x else x
            largest[piece] = x
            after = x if x > after else after
        pushed = max(pushed, behind[t])
        if first[t] >= pivot:
            pivot = behind[t]
            after = -np.inf
            x = -np.inf
            for piece in range(pivot - 1, first[t] - 1, -1):
                x = largest[piece] if largest[piece] > x else x
                suffix[piece] = x
        x = suffix[first[t]]
        x = sign * (after if after > x else x)
        if x == 0.0:
            x = _first_equal(row[lo[t] : hi[t]], x)
        elif x == -sign * np.inf and not _has_number(row[lo[t] : hi[t]]):
            x = row[hi[t] - 1]
        out[t] = x


@device
def _times_of_largest(row, times, sign, lo, hi, cuts, first, behind, queue, largest, out):
    """TS_OF_MIN or TS_OF_MAX: a monotonic queue of pieces has each window's largest in front."""
    head = 0
    tail = 0
    pushed = 0
    for t in range(out.shape[0]):
        pushed = max(pushed, first[t])
        while head < tail and queue[head] < first[t]:
            head += 1
        for piece in range(pushed, behind[t]):
            part = row[cuts[piece] : cuts[piece + 1]]
            x = _largest(part, sign)
            if x == -np.inf and not _has_number(part):
                continue
            largest[piece] = x
            while head < tail and largest[queue[tail - 1]] <= x:
                tail -= 1
            queue[tail] = piece
            tail += 1
        pushed = max(pushed, behind[t])
        out[t] = 0.0
        if hi[t] > lo[t]:
            place = hi[t] - 1
            if head < tail:
                begin = cuts[queue[head]]
                part = row[begin : cuts[queue[head] + 1]]
                place = begin + _last_place(part, largest[queue[head]] * sign)
            out[t] = times[place] / 1000.0


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
    one's time count. Each sample is looked at once, with those between the same two ends of
    windows.
    """
    n_steps = ends_ms.shape[0]
    bounds = np.empty((2, n_steps), np.int64)
    pieces = np.empty((2, n_steps), np.int64)
    places = np.empty((2, 2 * n_steps), np.int64)
    extremes = np.empty((2, 2 * n_steps))
    lo, hi = unowned(bounds[0]), unowned(bounds[1])
    first, behind = unowned(pieces[0]), unowned(pieces[1])
    cuts, queue = unowned(places[0]), unowned(places[1])
    largest, suffix = unowned(extremes[0]), unowned(extremes[1])
    sign = 1.0 if op == MAX or op == TS_OF_MAX else -1.0
    want_time = op == TS_OF_MIN or op == TS_OF_MAX
    t_ms, values, ends_ms, out = unowned(t_ms), unowned(values), unowned(ends_ms), unowned(out)
    axis = -1
    start = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            start = axis_offsets[axis]
            window_bounds(t_ms, start, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
            _cut_windows(lo, hi, cuts, first, behind)
        row = values[row_offsets[s] : row_offsets[s + 1]]
        if want_time:
            times = t_ms[start : start + row.shape[0]]
            _times_of_largest(row, times, sign, lo, hi, cuts, first, behind, queue, largest, out[s])
        else:
            _largest_of_row(row, sign, lo, hi, cuts, first, behind, largest, suffix, out[s])
        found = 0
        for t in range(n_steps):
            present = hi[t] > lo[t]
            valid[s, t] = present
            found += present
        n_present[s] = found
    hold(bounds)
    hold(pieces)
    hold(places)
    hold(extremes)
    return OK
