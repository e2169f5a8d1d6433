"""Windows of a tier put together: sums and means, extrapolated differences, the newest value.

How rows and axes are walked: see `windows`. The windows of an axis are known by their right ends
``end_ms``; those whose ends lie in (end - range, end] are the windows of a step, so both have to be
multiples of the width. Windows without samples (`counts` is 0) may stand among the others.
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

SUM = 0
AVG = 1

RATE = 0
INCREASE = 1
DELTA = 2

VALUE = 0
TIME_S = 1

_SAFE_SHARE = 1e-9
"""A difference of prefix sums counts only above this share of the largest prefix."""

_MANY_LOSSES = 48
_SAFE_LOSS = 1e-6
"""The same of sums of what resets lost, as share of the whole sum."""


@device
def _prefix_counts(counts, base, n, totals):
    """Samples in the first i windows of a row: ``totals: f64[n + 1]``."""
    totals[0] = 0.0
    for i in range(n):
        totals[i + 1] = totals[i] + counts[base + i]


@device
def _prefix_sums(counts, sums, base, n, prefix, errors):
    """Compensated sums of the first i windows of a row; returns the largest magnitude among them.

    ``prefix, errors: f64[n + 1]``. The result is not finite if any sum is not.
    """
    total = 0.0
    error = 0.0
    largest = 0.0
    prefix[0] = 0.0
    errors[0] = 0.0
    for i in range(n):
        if counts[base + i] > 0.0:
            total, error = add_compensated(total, error, sums[base + i])
            if not abs(total) <= largest:
                largest = abs(total)
                if not largest < np.inf:
                    return np.inf
        prefix[i + 1] = total
        errors[i + 1] = error
    return largest


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def add_windows(
    op, end_ms, axis_offsets, row_axis, order, counts, sums, row_offsets, ends_ms, range_ms,
    out, valid, n_present,
):  # fmt: skip
    """SUM or AVG over (end - range, end] from ``counts, sums: f64[N]`` of windows.

    Other shapes as in `windows.select_latest`. Steps that share many windows take differences of
    compensated prefix sums where these are as exact. A mean whose sum overflows is infinite.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    totals = np.empty(longest + 1)
    prefix = np.empty(longest + 1)
    errors = np.empty(longest + 1)
    axis = -1
    n_windowed = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                end_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, range_ms, lo, hi
            )
            n_windowed = 0
            for t in range(n_steps):
                n_windowed += hi[t] - lo[t]
        base = row_offsets[s]
        n = row_offsets[s + 1] - base
        limit = np.inf
        if n_windowed > 2 * n:
            _prefix_counts(counts, base, n, totals)
            limit = _prefix_sums(counts, sums, base, n, prefix, errors) * _SAFE_SHARE
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t]
            count = 0.0
            total = 0.0
            error = 0.0
            if limit < np.inf:
                count = totals[b] - totals[a]
                total = prefix[b] - prefix[a]
                error = errors[b] - errors[a]
            if not (limit < np.inf and abs(total + error) >= limit):
                count = 0.0
                total = 0.0
                error = 0.0
                for i in range(base + a, base + b):
                    if counts[i] > 0.0:
                        count += counts[i]
                        total, error = add_compensated(total, error, sums[i])
            present = count > 0.0
            x = 0.0
            if present:
                x = total + error if op == SUM else total / count + error / count
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK


@device
def _find_losses(counts, firsts, lasts, resets, base, n, places, losses, sums, errors):
    """Windows of a row in which, or at whose seam to the one before, a counter was reset.

    Returns their number; fills ``places: i64[R]``, ``losses: f64[R]`` (what was lost, seam
    included) and compensated sums of them, ``sums, errors: f64[R + 1]``. The last sum is infinite
    where differences of sums can't be trusted: an infinite or a negative value was lost.
    """
    found = 0
    before = -1
    total = 0.0
    error = 0.0
    tame = True
    sums[0] = 0.0
    errors[0] = 0.0
    for i in range(base, base + n):
        if counts[i] == 0.0:
            continue
        lost = resets[i]
        is_reset = lost != 0.0
        if before >= 0 and firsts[i] < lasts[before]:
            lost += lasts[before]
            is_reset = True
        before = i
        if is_reset:
            total, error = add_compensated(total, error, lost)
            places[found] = i - base
            losses[found] = lost
            found += 1
            sums[found] = total
            errors[found] = error
            if not lost >= 0.0:
                tame = False
    if not tame:
        sums[found] = np.inf
    return found


@device
def _add_losses(increase, losses, sums, errors, first, last, n_losses):
    """Increase of a range plus ``losses[first:last]``."""
    if last - first > _MANY_LOSSES:
        lost = (sums[last] - sums[first]) + (errors[last] - errors[first])
        total = sums[n_losses]
        if total < np.inf and lost >= total * _SAFE_LOSS:
            return increase + lost
    for k in range(first, last):
        increase += losses[k]
    return increase


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, F64_IN, F64_IN, I64_IN, I64_IN, F64_IN,
        I64_IN, I64_IN, i64, F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def extrapolate_windows(
    op, end_ms, axis_offsets, row_axis, order, counts, firsts, lasts, first_ms, last_ms, resets,
    row_offsets, ends_ms, range_ms, out, valid, n_present,
):  # fmt: skip
    """RATE, INCREASE or DELTA over (end - range, end], as `counters.extrapolate` of the samples.

    ``counts, firsts, lasts, resets: f64[N]``, ``first_ms, last_ms: i64[N]`` are columns of windows,
    others as in `windows.select_latest`; needs two samples in a range. What depends on times alone
    is kept from row to row, since the series of one target have the same.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    totals = np.empty(longest + 1)
    places = np.empty(longest, np.int64)
    losses = np.empty(longest)
    sums = np.empty(longest + 1)
    errors = np.empty(longest + 1)
    known_n = np.zeros(n_steps)
    known_first = np.empty(n_steps, np.int64)
    known_last = np.empty(n_steps, np.int64)
    covered = np.empty(n_steps)
    to_start = np.empty(n_steps)
    to_end = np.empty(n_steps)
    factor = np.empty(n_steps)
    divisor = range_ms / 1000.0 if op == RATE else 1.0
    axis = -1
    is_single = False
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            window_bounds(
                end_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, range_ms, lo, hi
            )
            # Ranges of one window each need no sums over a row.
            is_single = True
            for t in range(n_steps):
                is_single = is_single and hi[t] - lo[t] <= 1
        base = row_offsets[s]
        n = row_offsets[s + 1] - base
        n_losses = 0
        if not is_single:
            _prefix_counts(counts, base, n, totals)
        if op != DELTA and not is_single:
            n_losses = _find_losses(
                counts, firsts, lasts, resets, base, n, places, losses, sums, errors
            )
        loss_from = 0
        loss_to = 0
        found = 0
        for t in range(n_steps):
            a = lo[t]
            b = hi[t] - 1
            n_samples = 0.0
            if not is_single:
                n_samples = totals[b + 1] - totals[a]
            elif b == a:
                n_samples = counts[base + a]
            if n_samples < 2.0:
                out[s, t] = 0.0
                valid[s, t] = False
                continue
            while counts[base + a] == 0.0:
                a += 1
            while counts[base + b] == 0.0:
                b -= 1
            first_t = first_ms[base + a]
            last_t = last_ms[base + b]
            if n_samples != known_n[t] or first_t != known_first[t] or last_t != known_last[t]:
                known_n[t] = n_samples
                known_first[t] = first_t
                known_last[t] = last_t
                seconds = (last_t - first_t) / 1000.0
                gap = seconds / (n_samples - 1.0)
                head = (first_t - (ends_ms[t] - range_ms)) / 1000.0
                tail = (ends_ms[t] - last_t) / 1000.0
                covered[t] = seconds
                to_start[t] = head if head < gap * 1.1 else gap / 2
                to_end[t] = tail if tail < gap * 1.1 else gap / 2
                factor[t] = (seconds + to_start[t] + to_end[t]) / seconds / divisor
            first = firsts[base + a]
            increase = lasts[base + b] - first
            if is_single and op != DELTA:
                increase += resets[base + a]
            if n_losses > 0:
                # The seam of the first window leads out of the range.
                while loss_from < n_losses and places[loss_from] <= a:
                    loss_from += 1
                while loss_to < n_losses and places[loss_to] <= b:
                    loss_to += 1
                increase += resets[base + a]
                if loss_to > loss_from:
                    increase = _add_losses(
                        increase, losses, sums, errors, loss_from, loss_to, n_losses
                    )
            scale = factor[t]
            if (
                op != DELTA
                and increase > 0.0
                and first >= 0.0
                and covered[t] * first < to_start[t] * increase
            ):
                # A counter can't have been below zero: the line ends where it meets zero.
                to_zero = covered[t] * (first / increase)
                scale = (covered[t] + to_zero + to_end[t]) / covered[t] / divisor
            out[s, t] = increase * scale
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, F64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT,
    )
)  # fmt: skip
def latest_of_windows(
    op, end_ms, axis_offsets, row_axis, order, counts, lasts, last_ms, stale, row_offsets, ends_ms,
    lookback_ms, out, valid, n_present,
):  # fmt: skip
    """Newest sample in (end - lookback, end] of every row; a stale window there means absent.

    ``counts, lasts, stale: f64[N]``, ``last_ms: i64[N]`` are columns of windows, others as in
    `windows.select_latest`, whose result this is. The lookback need not be a multiple of the width.
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
                end_ms, axis_offsets[axis], axis_offsets[axis + 1], ends_ms, lookback_ms, lo, hi
            )
        base = row_offsets[s]
        found = 0
        for t in range(n_steps):
            i = base + hi[t] - 1
            present = False
            x = 0.0
            if hi[t] > lo[t] and counts[i] > 0.0 and stale[i] == 0.0:
                present = last_ms[i] > ends_ms[t] - lookback_ms
                x = last_ms[i] / 1000.0 if op == TIME_S else lasts[i]
            out[s, t] = x
            valid[s, t] = present
            found += present
        n_present[s] = found
    return OK
