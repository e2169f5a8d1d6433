"""Windows of tiers: samples summed up to windows, and windows to wider ones.

What the columns mean is said by `tsengine.model.windows.Column`. All rows of an axis have the same
windows, so where these begin is found once per axis.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import STALE_BITS, add_compensated, f64_bits
from tsengine.kernels.jit import (
    ERR_CORRUPT,
    F64_2D_IN,
    F64_2D_OUT,
    F64_IN,
    F64_OUT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    device,
    i64,
    kernel,
)

COUNT = 0
SUM = 1
MIN = 2
MAX = 3
FIRST = 4
LAST = 5
RESETS = 6
STALE = 7
N_VALUES = 8
"""Columns of values, numbered as in the kernels' tables."""
FIRST_T = 0
LAST_T = 1
N_TIMES = 2
"""Columns of times, likewise."""

GAP_BITS = np.uint64(0x7FF8000000000000)
"""Bits of NumPy's NaN, which stand for what follows from other columns."""

_HANDLE_SHIFT = np.uint64(48)
_HANDLE_TAG = np.uint64(0x7FFC)


@kernel(i64(I64_IN, I64_IN, i64, I64_OUT, I64_OUT, I64_OUT))
def cut_windows(t_ms, axis_offsets, width_ms, ends, starts, window_offsets):
    """Cut axes into runs of times with one value of ``(t_ms - 1) // width_ms``; their number.

    ``t_ms: i64[M]`` ascends inside each axis. Fills ``ends, starts: i64[M]`` (right end of the
    window, position of its first time) and ``window_offsets: i64[A + 1]``.
    """
    n = 0
    window_offsets[0] = 0
    for a in range(axis_offsets.shape[0] - 1):
        end = np.int64(-(2**63))
        is_first = True
        for k in range(axis_offsets[a], axis_offsets[a + 1]):
            t = t_ms[k]
            if is_first or t > end:
                is_first = False
                end = ((t - 1) // width_ms + 1) * width_ms
                ends[n] = end
                starts[n] = k
                n += 1
        window_offsets[a + 1] = n
    return n


@device
def _put(out, at, count, total, error, least, greatest, first, last, resets, resets_error):
    """Values of one window; sums that are NaN are the plain one, whatever was added."""
    out[COUNT, at] = count
    if count == 0:
        for column in range(SUM, STALE):
            out[column, at] = np.nan
        return
    total += error
    resets += resets_error
    out[SUM, at] = np.nan if np.isnan(total) else total
    out[MIN, at] = least
    out[MAX, at] = greatest
    out[FIRST, at] = first
    out[LAST, at] = last
    out[RESETS, at] = np.nan if np.isnan(resets) else resets


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, I64_IN, I64_IN, F64_2D_OUT, I64_2D_OUT,
    )
)  # fmt: skip
def sum_up_samples(
    t_ms, axis_offsets, row_axis, values, row_offsets, starts, window_offsets, out_offsets,
    out, out_t,
):  # fmt: skip
    """Columns of the windows of all rows.

    Samples as in `FrameBatch`, staleness markers included, handles of histograms passed over;
    ``starts, window_offsets`` as `cut_windows` gives them for its axes. ``out_offsets: i64[S + 1]``
    is where the windows of each row go in ``out: f64[8, N]`` and ``out_t: i64[2, N]``.
    """
    for s in range(row_axis.shape[0]):
        axis = row_axis[s]
        base = row_offsets[s] - axis_offsets[axis]
        first_window = window_offsets[axis]
        end_window = window_offsets[axis + 1]
        for w in range(first_window, end_window):
            at = out_offsets[s] + w - first_window
            end = axis_offsets[axis + 1]
            if w + 1 < end_window:
                end = starts[w + 1]
            count = 0
            total = 0.0
            error = 0.0
            least = 0.0
            greatest = 0.0
            first = 0.0
            last = 0.0
            resets = 0.0
            resets_error = 0.0
            first_t = np.int64(0)
            last_t = np.int64(0)
            stale = False
            for k in range(starts[w], end):
                x = values[base + k]
                if x != x:
                    bits = f64_bits(x)
                    stale = bits == STALE_BITS
                    if stale or (bits >> _HANDLE_SHIFT) == _HANDLE_TAG:
                        continue
                stale = False
                if count == 0:
                    first = x
                    first_t = t_ms[k]
                    least = x
                    greatest = x
                    total = x
                else:
                    total, error = add_compensated(total, error, x)
                    if x < least or least != least:
                        least = x
                    if x > greatest or greatest != greatest:
                        greatest = x
                    if x < last:
                        resets, resets_error = add_compensated(resets, resets_error, last)
                last = x
                last_t = t_ms[k]
                count += 1
            _put(out, at, count, total, error, least, greatest, first, last, resets, resets_error)
            out[STALE, at] = 1.0 if stale else 0.0
            out_t[FIRST_T, at] = first_t
            out_t[LAST_T, at] = last_t
    return OK


@kernel(
    i64(
        I64_IN, I64_IN, F64_2D_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN,
        F64_2D_OUT, I64_2D_OUT,
    )
)  # fmt: skip
def merge_windows(
    axis_offsets, row_axis, values, first_times, last_times, row_offsets, starts, window_offsets,
    out_offsets, out, out_t,
):  # fmt: skip
    """Columns of wider windows from those of the windows inside them.

    ``values: f64[8, N]``, ``first_times, last_times: i64[N]`` are columns of windows as
    `sum_up_samples` fills them, ``row_offsets: i64[S + 1]`` where those of each row are; the rest
    is as there, with the ends of windows as times. What a counter lost between two windows is added
    to what it lost inside them.
    """
    for s in range(row_axis.shape[0]):
        axis = row_axis[s]
        base = row_offsets[s] - axis_offsets[axis]
        first_window = window_offsets[axis]
        end_window = window_offsets[axis + 1]
        for w in range(first_window, end_window):
            at = out_offsets[s] + w - first_window
            end = axis_offsets[axis + 1]
            if w + 1 < end_window:
                end = starts[w + 1]
            count = 0.0
            total = 0.0
            error = 0.0
            least = 0.0
            greatest = 0.0
            first = 0.0
            last = 0.0
            resets = 0.0
            resets_error = 0.0
            first_t = np.int64(0)
            last_t = np.int64(0)
            for k in range(base + starts[w], base + end):
                if values[COUNT, k] == 0:
                    continue
                if count == 0:
                    first = values[FIRST, k]
                    first_t = first_times[k]
                    least = values[MIN, k]
                    greatest = values[MAX, k]
                    total = values[SUM, k]
                    resets = values[RESETS, k]
                else:
                    total, error = add_compensated(total, error, values[SUM, k])
                    if values[MIN, k] < least or least != least:
                        least = values[MIN, k]
                    if values[MAX, k] > greatest or greatest != greatest:
                        greatest = values[MAX, k]
                    if values[FIRST, k] < last:
                        resets, resets_error = add_compensated(resets, resets_error, last)
                    resets, resets_error = add_compensated(resets, resets_error, values[RESETS, k])
                last = values[LAST, k]
                last_t = last_times[k]
                count += values[COUNT, k]
            _put(out, at, count, total, error, least, greatest, first, last, resets, resets_error)
            out[STALE, at] = values[STALE, base + end - 1]
            out_t[FIRST_T, at] = first_t
            out_t[LAST_T, at] = last_t
    return OK


@kernel(i64(i64, i64, I64_IN, I64_IN, F64_IN, F64_IN, F64_IN, F64_OUT))
def derive_column(column, gaps_only, rows, row_offsets, count, first, last, out):
    """What a column of some rows is where it follows from others; the rest of ``out`` stays.

    SUM is count times first, MIN and MAX are those of first and last, RESETS is 0; NaN where count
    is 0. ``rows: i64[K]``; windows of row s are ``row_offsets[s]:row_offsets[s + 1]`` of the
    others, all f64[N]. Needs of first and last only what the column follows from. With `gaps_only`
    only the windows are filled in which ``out`` is NaN, with the bits of GAP_BITS.
    """
    for r in range(rows.shape[0]):
        for k in range(row_offsets[rows[r]], row_offsets[rows[r] + 1]):
            if gaps_only and f64_bits(out[k]) != GAP_BITS:
                continue
            if count[k] == 0:
                out[k] = np.nan
            elif column == RESETS:
                out[k] = 0.0
            elif column == SUM:
                product = count[k] * first[k]
                out[k] = np.nan if product != product else product
            else:
                x = first[k]
                y = last[k]
                if x != x or (column == MIN and y < x) or (column == MAX and y > x):
                    x = y
                out[k] = x
    return OK


@kernel(i64(I64_IN, I64_IN, I64_IN, I64_IN, i64, F64_IN, I64_OUT))
def add_window_starts(end_ms, axis_offsets, row_axis, row_offsets, width_ms, since, out):
    """Times of windows from milliseconds since their begin, which are 1 to the width or 0.

    Windows as in `WindowBatch`; ``since: f64[N]``. Fills ``out: i64[N]``, which may be the memory
    of ``since``: 0 where that is 0. ERR_CORRUPT if one is something else.
    """
    for s in range(row_axis.shape[0]):
        shift = axis_offsets[row_axis[s]] - row_offsets[s]
        for k in range(row_offsets[s], row_offsets[s + 1]):
            x = since[k]
            if not 0.0 <= x <= width_ms or x != np.floor(x):
                return ERR_CORRUPT
            t = np.int64(x)
            out[k] = t if t == 0 else t + end_ms[k + shift] - width_ms
    return OK
