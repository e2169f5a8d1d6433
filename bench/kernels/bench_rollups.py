"""Samples per second of the window kernels, one thread.

Run: python -m bench.kernels.bench_rollups [rows per axis ...]
A day of samples every 15 s, evaluated every minute over 5 minutes (1,440 steps).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tsengine.kernels import counters, rollups, windows
from tsengine.model.frame import FrameBatch

N_ROWS = 100
N_SAMPLES = 5760
STEPS_MS = 1_700_000_000_000 + np.arange(1440) * 60_000
RANGE_MS = 300_000


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


def measure(call: Callable[[], object], n_samples: int) -> float:
    call()
    best = min(_timed(call) for _ in range(7))
    return n_samples / best / 1e6


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    n_steps = len(STEPS_MS)
    q = np.full(n_steps, 0.9)
    ahead = np.full(n_steps, 3600.0)
    factor = np.full(n_steps, 0.3)
    cases = [
        ("select_latest", "gauge", windows.select_latest, (windows.VALUE,)),
        ("rate", "counter", counters.extrapolate, (counters.RATE,)),
        ("rate of a gauge", "gauge", counters.extrapolate, (counters.RATE,)),
        ("delta", "gauge", counters.extrapolate, (counters.DELTA,)),
        ("irate", "counter", counters.last_difference, (counters.IRATE,)),
        ("changes", "gauge", counters.count_steps, (counters.CHANGES,)),
        ("count_over_time", "gauge", rollups.pick_samples, (rollups.COUNT,)),
        ("sum_over_time", "gauge", rollups.sum_windows, (rollups.SUM,)),
        ("avg_over_time", "gauge", rollups.sum_windows, (rollups.AVG,)),
        ("stddev_over_time", "gauge", rollups.sum_windows, (rollups.STDDEV,)),
        ("max_over_time", "gauge", rollups.extreme_windows, (rollups.MAX,)),
        ("quantile_over_time", "gauge", rollups.quantile_windows, (rollups.QUANTILE, q)),
        ("mad_over_time", "gauge", rollups.quantile_windows, (rollups.MAD, q)),
        ("deriv", "gauge", rollups.fit_lines, (rollups.DERIV, ahead, STEPS_MS)),
        ("smoothing", "gauge", rollups.smooth_windows, (factor, factor)),
    ]
    out = np.empty((N_ROWS, n_steps))
    valid = np.empty((N_ROWS, n_steps), np.bool_)
    n_present = np.empty(N_ROWS, np.int64)
    order = np.arange(N_ROWS)
    all_rows_per_axis = [int(a) for a in sys.argv[1:]] or [100, 10, 1]
    print(f"{'M samples/s':20}" + "".join(f"{n:>8} rows/axis" for n in all_rows_per_axis))
    for name, kind, kernel, first in cases:
        line = f"{name:20}"
        for rows_per_axis in all_rows_per_axis:
            batch = make_batch(rows_per_axis, kind)
            args = (
                *first, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
                batch.row_offsets, STEPS_MS, RANGE_MS, out, valid, n_present,
            )  # fmt: skip
            speed = measure(partial(kernel, *args), len(batch.values))
            line += f"{speed:18.0f}"
        print(line)


if __name__ == "__main__":
    main()
