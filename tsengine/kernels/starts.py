"""Counters whose samples say since when they count: rate and increase with start timestamps.

How rows and axes are walked: see `windows`. The reset that a start timestamp tells of needs no
drop, and a start inside the range stands for a sample of zero, so nothing is extrapolated to the
left and one sample can be enough. Source: Prometheus `promql/functions.go`, extrapolatedRate.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import window_bounds
from tsengine.kernels.jit import (
    BOOL_2D_OUT,
    BOOL_OUT,
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


@device
def _is_reset(before_start, before_ms, start, t):
    """Whether a sample's start timestamp says that its counter is not that of the sample before.

    Zero is an unknown start. A start at the sample before is one of a delta if that one's start is
    known and sensible, else the sign of a counter whose start nobody knows.
    """
    if start == 0 or start >= t or start < before_ms:
        return False
    if start > before_ms:
        return True
    return before_start != 0 and before_start < before_ms


@kernel(
    i64(
        i64, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, F64_IN, I64_IN, I64_IN, i64,
        F64_2D_OUT, BOOL_2D_OUT, I64_OUT, BOOL_OUT,
    )
)  # fmt: skip
def extrapolate_from_starts(
    op, starts_ms, t_ms, axis_offsets, row_axis, order, values, row_offsets, ends_ms, range_ms,
    out, valid, n_present, overlaps,
):  # fmt: skip
    """RATE or INCREASE over (end - range, end], extrapolated only where no start is known.

    ``starts_ms: i64[N]`` stands beside ``values`` (0: unknown); other shapes as in
    `windows.select_latest`. Fills also ``overlaps: bool[S]``: in a window of the row a sample
    begins before the one before it, and not where that one begins.
    """
    n_steps = ends_ms.shape[0]
    longest = 0
    for a in range(axis_offsets.shape[0] - 1):
        longest = max(longest, axis_offsets[a + 1] - axis_offsets[a])
    lo = np.empty(n_steps, np.int64)
    hi = np.empty(n_steps, np.int64)
    resets = np.empty(longest, np.int64)
    n_overlaps = np.empty(longest, np.int64)
    axis = -1
    first_t = 0
    for k in range(order.shape[0]):
        s = order[k]
        if row_axis[s] != axis:
            axis = row_axis[s]
            first_t = axis_offsets[axis]
            window_bounds(t_ms, first_t, axis_offsets[axis + 1], ends_ms, range_ms, lo, hi)
        base = row_offsets[s]
        n_resets = 0
        for i in range(row_offsets[s + 1] - base):
            n_overlaps[i] = 0
            if i == 0:
                continue
            start = starts_ms[base + i]
            before_start = starts_ms[base + i - 1]
            before_ms = t_ms[first_t + i - 1]
            is_overlap = start != 0 and start < before_ms and start != before_start
            n_overlaps[i] = n_overlaps[i - 1] + is_overlap
            if values[base + i] < values[base + i - 1] or _is_reset(
                before_start, before_ms, start, t_ms[first_t + i]
            ):
                resets[n_resets] = i
                n_resets += 1
        reset_from = 0
        found = 0
        overlaps[s] = False
        for t in range(n_steps):
            a = lo[t]
            b = hi[t] - 1
            out[s, t] = 0.0
            valid[s, t] = False
            if b < a:
                continue
            first_ms = t_ms[first_t + a]
            last_ms = t_ms[first_t + b]
            after = ends_ms[t] - range_ms
            start = starts_ms[base + a]
            begins_inside = start != 0 and after < start < first_ms
            if a == b and not begins_inside:
                continue
            first = values[base + a]
            increase = values[base + b] - first
            while reset_from < n_resets and resets[reset_from] <= a:
                reset_from += 1
            at = reset_from
            while at < n_resets and resets[at] <= b:
                increase += values[base + resets[at] - 1]
                at += 1
            if n_overlaps[b] > n_overlaps[a]:
                overlaps[s] = True
            covered = (last_ms - first_ms) / 1000.0
            gap = covered / (b - a) if b > a else 0.0
            head = (first_ms - after) / 1000.0
            tail = (ends_ms[t] - last_ms) / 1000.0
            if begins_inside:
                head = 0.0
                covered = (last_ms - start) / 1000.0
                increase += first
            else:
                if not head < gap * 1.1:
                    head = gap / 2
                if increase > 0.0 and first >= 0.0:
                    head = min(head, covered * (first / increase))
            if not tail < gap * 1.1:
                tail = gap / 2
            factor = (covered + head + tail) / covered
            if op == RATE:
                factor /= range_ms / 1000.0
            out[s, t] = increase * factor
            valid[s, t] = True
            found += 1
        n_present[s] = found
    return OK
