"""Kernels of tiers (windowtiers.py).

A day of samples every 15 s of 100 series to windows of 5 min, and these to windows of 1 h: all
series on one time axis, as those of one target are, and each on its own.
"""

from __future__ import annotations

import numpy as np
import pytest

from tsengine.kernels import windowtiers
from tsengine.model.frame import FrameBatch
from tsengine.model.ragged import offsets_of

N_ROWS = 100
N_SAMPLES = 5760
FINE_MS, WIDE_MS = 300_000, 3_600_000


def frames_of(n_axes):
    """Counters, 100 rows on as many axes."""
    t_ms = 1_699_920_000_000 + 15_000 * np.arange(1, N_SAMPLES + 1)
    values = np.random.default_rng(1).poisson(40, (N_ROWS, N_SAMPLES)).cumsum(axis=1)
    return FrameBatch(
        np.tile(t_ms, n_axes),
        N_SAMPLES * np.arange(n_axes + 1),
        np.arange(N_ROWS) % n_axes,
        values.reshape(-1).astype(np.float64),
        N_SAMPLES * np.arange(N_ROWS + 1),
    )


def cut(t_ms, axis_offsets, width_ms):
    ends, starts = np.empty((2, len(t_ms)), np.int64)
    window_offsets = np.empty(len(axis_offsets), np.int64)
    n = windowtiers.cut_windows(t_ms, axis_offsets, width_ms, ends, starts, window_offsets)
    return ends[:n], starts[:n], window_offsets


def tables(n):
    return np.empty((windowtiers.N_VALUES, n)), np.empty((windowtiers.N_TIMES, n), np.int64)


def summed(frames):
    """``(call that sums up the samples, its tables, ends of windows, their offsets, of rows)``."""
    ends, starts, offsets = cut(frames.t_ms, frames.axis_offsets, FINE_MS)
    row_offsets = offsets_of(np.diff(offsets)[frames.row_axis])
    values, times = tables(int(row_offsets[-1]))

    def call():
        windowtiers.sum_up_samples(
            frames.t_ms, frames.axis_offsets, frames.row_axis, frames.values, frames.row_offsets,
            starts, offsets, row_offsets, values, times,
        )  # fmt: skip

    return call, values, times, ends, offsets, row_offsets


@pytest.mark.parametrize("n_axes", [1, N_ROWS])
def bench_cut_windows(measure, n_axes):
    frames = frames_of(n_axes)
    args = (frames.t_ms, frames.axis_offsets, FINE_MS)
    measure(lambda: cut(*args), len(frames.t_ms), n_bytes=frames.t_ms.nbytes)


@pytest.mark.parametrize("n_axes", [1, N_ROWS])
def bench_sum_up_samples(measure, n_axes):
    frames = frames_of(n_axes)
    measure(summed(frames)[0], len(frames.values), n_bytes=frames.values.nbytes)


@pytest.mark.parametrize("n_axes", [1, N_ROWS])
def bench_merge_windows(measure, n_axes):
    frames = frames_of(n_axes)
    call, values, times, ends, offsets, row_offsets = summed(frames)
    call()
    _, starts, wide_offsets = cut(ends, offsets, WIDE_MS)
    wide_rows = offsets_of(np.diff(wide_offsets)[frames.row_axis])
    out, out_t = tables(int(wide_rows[-1]))
    measure(
        lambda: windowtiers.merge_windows(
            offsets, frames.row_axis, values, times[0], times[1], row_offsets, starts,
            wide_offsets, wide_rows, out, out_t,
        ),
        values.shape[1], unit="windows", n_bytes=values.nbytes,
    )  # fmt: skip


@pytest.mark.parametrize("column", ["SUM", "MIN", "RESETS"])
def bench_derive_column(measure, column):
    call, values, *_, row_offsets = summed(frames_of(1))
    call()
    count, first, last = (
        values[row] for row in (windowtiers.COUNT, windowtiers.FIRST, windowtiers.LAST)
    )
    out, rows = np.empty(len(count)), np.arange(N_ROWS)
    code = getattr(windowtiers, column)
    measure(
        lambda: windowtiers.derive_column(code, 0, rows, row_offsets, count, first, last, out),
        len(out), unit="windows", n_bytes=out.nbytes,
    )  # fmt: skip


def bench_add_window_starts(measure):
    frames = frames_of(1)
    _, _, _, ends, offsets, row_offsets = summed(frames)
    since = np.full(row_offsets[-1], 15_000.0)
    out = np.empty(len(since), np.int64)
    measure(
        lambda: windowtiers.add_window_starts(
            ends, offsets, frames.row_axis, row_offsets, FINE_MS, since, out
        ),
        len(out), unit="windows", n_bytes=out.nbytes,
    )  # fmt: skip
