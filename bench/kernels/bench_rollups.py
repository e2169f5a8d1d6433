"""Window kernels: windows.py, counters.py, rollups.py and the like.

A day of samples every 15 s of 100 series, evaluated every minute over 5 minutes (1,440 steps): all
series on one time axis, as those of one target are, and each on its own. Must-show: `rate` over
frames, 100 rows an axis, with the one-row case beside it.

    python -m bench.kernels.bench_rollups
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from tsengine.kernels import counters, extended, rollups, sliding_quantiles, starts, trends, windows
from tsengine.model.frame import FrameBatch

N_ROWS = 100
N_SAMPLES = 5760
STEPS_MS = 1_700_000_000_000 + np.arange(1440) * 60_000
RANGE_MS = 300_000
NOT_ANCHORED_MS = 0
Q = np.full(len(STEPS_MS), 0.9)
AHEAD_S = np.full(len(STEPS_MS), 3600.0)
FACTOR = np.full(len(STEPS_MS), 0.3)

CASES = {
    "select_latest": ("gauge", windows.select_latest, (windows.VALUE,)),
    "rate": ("counter", counters.extrapolate, (counters.RATE,)),
    "rate of a gauge": ("gauge", counters.extrapolate, (counters.RATE,)),
    "delta": ("gauge", counters.extrapolate, (counters.DELTA,)),
    "irate": ("counter", counters.last_difference, (counters.IRATE,)),
    "changes": ("gauge", counters.count_steps, (counters.CHANGES, 0)),
    "resets": ("counter", counters.count_steps, (counters.RESETS, 0)),
    "rate smoothed": (
        "counter",
        extended.difference_of_edges,
        (extended.RATE, extended.SMOOTHED, RANGE_MS),
    ),
    "delta anchored": (
        "gauge",
        extended.difference_of_edges,
        (extended.DELTA, extended.ANCHORED, RANGE_MS),
    ),
    "instants smoothed": ("gauge", extended.interpolate_instants, ()),
    "count_over_time": ("gauge", rollups.pick_samples, (rollups.COUNT,)),
    "sum_over_time": ("gauge", rollups.sum_windows, (rollups.SUM,)),
    "avg_over_time": ("gauge", rollups.sum_windows, (rollups.AVG,)),
    "stddev_over_time": ("gauge", rollups.sum_windows, (rollups.STDDEV,)),
    "max_over_time": ("gauge", rollups.extreme_windows, (rollups.MAX,)),
    "quantile_over_time": (
        "gauge",
        sliding_quantiles.quantile_windows,
        (sliding_quantiles.QUANTILE, Q),
    ),
    "mad_over_time": ("gauge", sliding_quantiles.quantile_windows, (sliding_quantiles.MAD, Q)),
    "deriv": ("gauge", trends.fit_lines, (trends.DERIV, AHEAD_S, STEPS_MS)),
    "double_exponential_smoothing": ("gauge", trends.smooth_windows, (FACTOR, FACTOR)),
}


def make_batch(rows_per_axis: int, kind: str) -> FrameBatch:
    rng = np.random.default_rng(1)
    n_axes = N_ROWS // rows_per_axis
    axes = [
        1_700_000_000_000 + a * 1379 + np.arange(N_SAMPLES) * 15_000
        + rng.integers(-2, 3, N_SAMPLES)
        for a in range(n_axes)
    ]  # fmt: skip
    if kind == "counter":
        values = np.cumsum(rng.integers(0, 100, (N_ROWS, N_SAMPLES)), axis=1).astype(float)
    else:
        values = rng.normal(100, 20, (N_ROWS, N_SAMPLES))
    return FrameBatch(
        t_ms=np.concatenate(axes),
        axis_offsets=np.arange(n_axes + 1) * N_SAMPLES,
        row_axis=np.arange(N_ROWS) // rows_per_axis,
        values=values.reshape(-1),
        row_offsets=np.arange(N_ROWS + 1) * N_SAMPLES,
    )


@pytest.mark.parametrize("rows_per_axis", [100, 1])
@pytest.mark.parametrize("case", CASES)
def bench_windows(measure, case, rows_per_axis):
    kind, kernel, first = CASES[case]
    batch = make_batch(rows_per_axis, kind)
    out = np.empty((N_ROWS, len(STEPS_MS)))
    valid = np.empty(out.shape, np.bool_)
    n_present = np.empty(N_ROWS, np.int64)
    call = partial(
        kernel, *first, batch.t_ms, batch.axis_offsets, batch.row_axis, np.arange(N_ROWS),
        batch.values, batch.row_offsets, STEPS_MS, RANGE_MS, out, valid, n_present,
    )  # fmt: skip
    measure(call, len(batch.values), n_bytes=batch.values.nbytes)


@pytest.mark.parametrize("rows_per_axis", [100, 1])
@pytest.mark.parametrize(
    ("kind", "kernel", "first"),
    [("gauge", windows.latest_sums, ()), ("counter", counters.extrapolate_sums, (counters.RATE,))],
)
def bench_sums_of_windows(measure, kind, kernel, first, rows_per_axis):
    batch = make_batch(rows_per_axis, kind)
    shape = (8, len(STEPS_MS))
    sums = np.zeros(shape), np.zeros(shape), np.zeros((8, 0), np.bool_), np.zeros(shape)
    call = partial(
        kernel, *first, batch.t_ms, batch.axis_offsets, batch.row_axis, np.arange(N_ROWS),
        batch.values, batch.row_offsets, STEPS_MS, RANGE_MS, np.arange(N_ROWS) % 8, False, *sums,
        np.empty(N_ROWS, np.int64),
    )  # fmt: skip
    measure(call, len(batch.values), n_bytes=batch.values.nbytes)


@pytest.mark.parametrize("rows_per_axis", [100, 1])
def bench_rate_from_starts(measure, rows_per_axis):
    batch = make_batch(rows_per_axis, "counter")
    out = np.empty((N_ROWS, len(STEPS_MS)))
    valid = np.empty(out.shape, np.bool_)
    n_present, overlaps = np.empty(N_ROWS, np.int64), np.empty(N_ROWS, np.bool_)
    starts_ms = np.full(len(batch.values), 1)
    call = partial(
        starts.extrapolate_from_starts, starts.RATE, starts_ms, batch.t_ms, batch.axis_offsets,
        batch.row_axis, np.arange(N_ROWS), batch.values, batch.row_offsets, STEPS_MS, RANGE_MS,
        out, valid, n_present, overlaps,
    )  # fmt: skip
    measure(call, len(batch.values), n_bytes=batch.values.nbytes)


def bench_find_windows(measure):
    batch = make_batch(1, "counter")
    shape = (N_ROWS, len(STEPS_MS))
    first, last = np.empty(shape, np.int64), np.empty(shape, np.int64)
    call = partial(
        windows.find_windows, batch.t_ms, batch.axis_offsets, np.arange(N_ROWS), STEPS_MS,
        RANGE_MS, first, last,
    )  # fmt: skip
    measure(call, len(batch.values), n_bytes=batch.t_ms.nbytes)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
