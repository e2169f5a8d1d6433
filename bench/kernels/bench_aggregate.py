"""Aggregation kernels over groups: aggregate.py, quantiles.py.

2,000 series in 100 groups (histograms: 250 of 8 buckets) over 720 steps (1.44 M cells); masked:
one cell in fifty is absent.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tsengine.kernels import aggregate as kernels
from tsengine.kernels import quantiles
from tsengine.query.partials import ALL_VALID

N_SERIES = 2000
N_STEPS = 720
N_GROUPS = 100
N_BUCKETS = 8
SHAPE = (N_GROUPS, N_STEPS)
RNG = np.random.default_rng(1)
VALUES = RNG.normal(size=(N_SERIES, N_STEPS))
VALID = RNG.random(VALUES.shape) < 0.98
GROUPS = RNG.integers(0, N_GROUPS, N_SERIES)
ORDER = np.argsort(GROUPS, kind="stable")
OFFSETS = np.concatenate(([0], np.cumsum(np.bincount(GROUPS, minlength=N_GROUPS))))
SIZE_MAX = int(np.diff(OFFSETS).max())


def zeros(n=1):
    return [np.zeros(SHAPE) for _ in range(n)]


FOLDS = {
    "add_sum": lambda v, m, a: kernels.add_sum(
        v, m, a, GROUPS, True, *zeros(2), np.zeros(SHAPE, np.bool_)
    ),
    "add_extreme": lambda v, m, a: kernels.add_extreme(
        v, m, a, GROUPS, True, np.full(SHAPE, np.nan)
    ),
    "add_moments": lambda v, m, a: kernels.add_moments(v, m, a, GROUPS, *zeros(3)),
    "count_valid": lambda v, m, a: kernels.count_valid(VALID, GROUPS, *zeros()),
    "take_first": lambda v, m, a: kernels.take_first(
        m, a, GROUPS, np.full(N_STEPS, 5), np.zeros(SHAPE, np.int64), np.empty(v.shape, np.bool_)
    ),
    "select_extreme": lambda v, m, a: kernels.select_extreme(
        v, m, a, ORDER, OFFSETS, np.full(N_STEPS, 5), True, np.empty(8 * 5),
        np.empty(8 * 5, np.int64), np.empty(8, np.int64), np.zeros(v.shape, np.bool_),
    ),
    "group_quantiles": lambda v, m, a: quantiles.group_quantiles(
        v, m, a, ORDER, OFFSETS, np.full(N_STEPS, 0.9), np.empty(8 * SIZE_MAX),
        *np.empty((2, 8), np.int64), np.empty(SHAPE), np.empty(SHAPE, np.bool_),
    ),
}  # fmt: skip


@pytest.mark.parametrize("presence", ["all present", "masked"])
@pytest.mark.parametrize("case", FOLDS)
def bench_folds(measure, case, presence):
    mask = ALL_VALID if presence == "all present" else VALID
    call = partial(FOLDS[case], VALUES, mask, presence == "all present")
    measure(call, VALUES.size, unit="cells", n_bytes=VALUES.nbytes)


@pytest.mark.parametrize("case", ["bucket_quantiles", "bucket_fractions"])
def bench_buckets(measure, case):
    n = N_SERIES // N_BUCKETS
    counts = np.abs(VALUES).reshape(n, N_BUCKETS, N_STEPS).cumsum(axis=1).reshape(VALUES.shape)
    bounds = np.tile([0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, np.inf], n)
    given = (counts, ALL_VALID, True, np.arange(N_SERIES), np.arange(n + 1) * N_BUCKETS, bounds)
    scratch = np.empty((2, N_BUCKETS))
    out, valid = np.empty((n, N_STEPS)), np.empty((n, N_STEPS), np.bool_)
    if case == "bucket_quantiles":
        fixes = np.tile([np.inf, -np.inf, 0.0], (n, 1))
        call = partial(
            quantiles.bucket_quantiles, *given, np.full(N_STEPS, 0.9), *scratch, out, valid,
            fixes, np.zeros(3 * n, np.int64),
        )  # fmt: skip
    else:
        ends = np.full(N_STEPS, 0.2), np.full(N_STEPS, 3.0)
        call = partial(quantiles.bucket_fractions, *given, *ends, *scratch, out, valid)
    measure(call, counts.size, unit="cells", n_bytes=counts.nbytes)


def bench_hash_label_rows(measure):
    n_series, n_labels = 10_000, 10
    pieces = [f"label_{i % n_labels}=value-{i}" for i in range(1000)]
    texts = np.frombuffer("".join(pieces).encode(), np.uint8)
    text_offsets = np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])))
    codes = RNG.integers(0, len(pieces), n_series * n_labels)
    call = partial(
        kernels.hash_label_rows, texts, text_offsets, np.arange(n_series + 1) * n_labels, codes,
        np.empty(4096, np.uint8), np.empty(n_series, np.uint64),
    )  # fmt: skip
    measure(call, n_series, unit="series", n_bytes=int(np.diff(text_offsets)[codes].sum()))
