"""Kernels over windows of tiers: windowrollups.py.

Two years of 1 h windows of 100 series on one axis, a step each hour: over the hour, and over the
day before it, where steps share windows.

    python -m bench.kernels.bench_windowrollups
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from tsengine.kernels import windowrollups

N_ROWS = 100
N_WINDOWS = 2 * 365 * 24
WIDTH_MS = 3_600_000
ENDS_MS = 1_700_000 * 1_000_000 // WIDTH_MS * WIDTH_MS + np.arange(N_WINDOWS) * WIDTH_MS

CASES = {
    "sum": (windowrollups.add_windows, windowrollups.SUM, ("count", "sum")),
    "avg": (windowrollups.add_windows, windowrollups.AVG, ("count", "sum")),
    "rate": (
        windowrollups.extrapolate_windows,
        windowrollups.RATE,
        ("count", "first", "last", "first_ms", "last_ms", "resets"),
    ),
    "latest": (
        windowrollups.latest_of_windows,
        windowrollups.VALUE,
        ("count", "last", "last_ms", "stale"),
    ),
}


def make_columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    grown = np.cumsum(rng.integers(0, 9000, (N_ROWS, N_WINDOWS)), axis=1).astype(float)
    shape = (N_ROWS, N_WINDOWS)
    columns = {
        "count": np.full(shape, 240.0),
        "sum": rng.normal(24_000, 100, shape),
        "first": grown,
        "last": np.roll(grown, -1, axis=1),
        "first_ms": np.broadcast_to(ENDS_MS - WIDTH_MS + 7000, shape),
        "last_ms": np.broadcast_to(ENDS_MS - 8000, shape),
        "resets": np.zeros(shape),
        "stale": np.zeros(shape),
    }
    return {name: np.ascontiguousarray(column).reshape(-1) for name, column in columns.items()}


@pytest.mark.parametrize("hours", [1, 24])
@pytest.mark.parametrize("case", CASES)
def bench_windows(measure, case, hours):
    kernel, op, names = CASES[case]
    columns = make_columns()
    used = [columns[name] for name in names]
    out = np.empty((N_ROWS, N_WINDOWS))
    valid = np.empty(out.shape, np.bool_)
    n_present = np.empty(N_ROWS, np.int64)
    call = partial(
        kernel, op, ENDS_MS, np.array([0, N_WINDOWS]), np.zeros(N_ROWS, np.int64),
        np.arange(N_ROWS), *used, np.arange(N_ROWS + 1) * N_WINDOWS, ENDS_MS, hours * WIDTH_MS,
        out, valid, n_present,
    )  # fmt: skip
    measure(call, out.size, n_bytes=sum(column.nbytes for column in used), unit="windows")


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
