"""Kernels of native histograms: 100,000 of schema 3 with 30 buckets each out of 60.

Sums, means and increases take them in 1,000 lists of 100; all cases go through
`tsengine.query.histogram_math`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tsengine.model.histograms import KEY_BIAS, Histograms
from tsengine.query import histogram_math

N = 100_000
N_BUCKETS = 30
N_LISTS = 1_000
RNG = np.random.default_rng(1)


def _table():
    index = np.sort(np.argsort(RNG.random((N, 2 * N_BUCKETS)), axis=1)[:, :N_BUCKETS], axis=1)
    counts = RNG.integers(1, 100, (N, N_BUCKETS)).astype(np.float64)
    return Histograms(
        schema=np.full(N, 3, np.int8),
        hint=np.zeros(N, np.uint8),
        count=counts.sum(axis=1),
        sum=RNG.random(N),
        zero_threshold=np.full(N, 2.0**-128),
        zero_count=np.zeros(N),
        offsets=np.arange(N + 1) * N_BUCKETS,
        keys=(index + KEY_BIAS).astype(np.int32).ravel(),
        counts=counts.ravel(),
        bounds_id=np.full(N, -1, np.int32),
        bounds_offsets=np.zeros(1, np.int64),
        bounds=np.empty(0),
    )


TABLE = _table()
ROWS = np.arange(N)
LISTS = np.arange(N_LISTS + 1) * (N // N_LISTS)
ONES = np.ones(N)
CASES = {
    "combine (bound_sums, sum_histograms)": partial(
        histogram_math.combine, TABLE, LISTS, ROWS, ONES
    ),
    "average": partial(histogram_math.average, TABLE, LISTS, ROWS),
    "increase": partial(histogram_math.increase, TABLE, LISTS, ROWS),
    "subtract": partial(histogram_math.subtract, TABLE, ROWS, ROWS[::-1]),
    "scale": partial(histogram_math.scale, TABLE, ONES),
    "detect_resets": partial(histogram_math.is_reset, TABLE, ROWS[:-1], ROWS[1:]),
    "derive_hints": partial(histogram_math.derive_hints, TABLE, LISTS, ROWS),
    "equal_histograms": partial(histogram_math.equal, TABLE, ROWS, ROWS),
    "histogram_quantiles": partial(histogram_math.quantile, TABLE, ROWS, 0.9 * ONES),
    "histogram_fractions": partial(histogram_math.fraction, TABLE, ROWS, ONES, 50.0 * ONES),
    "histogram_variances": partial(histogram_math.variance, TABLE, ROWS),
    "trim_histograms": partial(histogram_math.trim, TABLE, ROWS, 50.0 * ONES, upper=True),
    "bucket_bounds": partial(histogram_math.bucket_bounds, TABLE),
    "spans_of": partial(histogram_math.spans_of, TABLE),
}


@pytest.mark.parametrize("case", CASES)
def bench_histograms(measure, case):
    measure(CASES[case], N, unit="histograms", n_bytes=TABLE.n_bytes)
