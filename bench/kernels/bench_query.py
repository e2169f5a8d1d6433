"""Whole queries over samples that are in memory already: what the engine itself costs.

1,000 series, six hours of samples every 15 s (1.44 M), 100 series to an axis, 360 steps, one
thread.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.memory_source import MemoryDictionary
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.options import Options
from tsengine.query.engine import Engine

N_SERIES = 1000
ROWS_PER_AXIS = 100
N_SAMPLES = 1440
START_MS = 1_700_000_000_000

QUERIES = (
    "x_total",
    "rate(x_total[5m])",
    "sum(x_total)",
    "sum(rate(x_total[5m]))",
    "sum by (job)(rate(x_total[5m]))",
    "max by (instance)(rate(x_total[5m]))",
    "avg_over_time(x_total[1h])",
    "max_over_time(x_total[1h])",
    "quantile_over_time(0.9, x_total[1h])",
    "max_over_time(rate(x_total[5m])[1h:1m])",
    "rate(x_total[5m]) / on (instance, job) x_total * 100",
)


class ArraySource:
    """Dense values on shared axes; reading slices arrays and copies nothing but values."""

    tier_widths_ms: tuple[int, ...] = ()

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.dictionary = MemoryDictionary()
        rows = [
            [
                self.dictionary.pair("__name__", "x_total"),
                self.dictionary.pair("instance", f"host-{s}"),
                self.dictionary.pair("job", f"job-{s // 100}"),
            ]
            for s in range(N_SERIES)
        ]
        self._rows = LabelRows(np.arange(N_SERIES + 1) * 3, np.array(rows, np.uint32).reshape(-1))
        self._t_ms = [
            START_MS + a * 1379 + np.arange(N_SAMPLES) * 15_000
            for a in range(N_SERIES // ROWS_PER_AXIS)
        ]
        steps = rng.integers(0, 100, (N_SERIES, N_SAMPLES))
        self._values = np.cumsum(steps, axis=1).astype(float)

    def view(self) -> ArraySource:
        return self

    def find(self, matchers: object, mint: int, maxt: int, check: object = None) -> np.ndarray:
        return np.arange(N_SERIES, dtype=np.uint32)

    def labels(self, refs: np.ndarray) -> LabelRows:
        return self._rows

    def has_histograms(self, refs: np.ndarray, mint: int, maxt: int) -> bool:
        return False

    def missing_spans(
        self, width_ms: int, refs: np.ndarray, mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        return []

    def doubtful_spans(
        self, width_ms: int, refs: np.ndarray, mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        return []

    def tiers_read(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        return ("raw",)

    def count_samples(self, refs: np.ndarray, mint: int, maxt: int) -> int:
        return len(refs) * N_SAMPLES

    def read(self, refs: np.ndarray, mint: int, maxt: int, *, drop_stale: bool) -> FrameBatch:
        first, last = int(refs[0]), int(refs[-1])
        axes = range(first // ROWS_PER_AXIS, last // ROWS_PER_AXIS + 1)
        bounds = [np.searchsorted(self._t_ms[a], (mint, maxt + 1)) for a in axes]
        parts, row_axis, lengths = [], [], []
        for k, (a, (lo, hi)) in enumerate(zip(axes, bounds, strict=True)):
            begin, end = max(first, a * ROWS_PER_AXIS), min(last + 1, (a + 1) * ROWS_PER_AXIS)
            parts.append(self._values[begin:end, lo:hi].reshape(-1))
            row_axis += [k] * (end - begin)
            lengths += [hi - lo] * (end - begin)
        return FrameBatch(
            t_ms=np.concatenate(
                [self._t_ms[a][lo:hi] for a, (lo, hi) in zip(axes, bounds, strict=True)]
            ),
            axis_offsets=np.cumsum([0] + [hi - lo for lo, hi in bounds]),
            row_axis=np.array(row_axis),
            values=np.concatenate(parts),
            row_offsets=np.cumsum([0, *lengths]),
        )


@pytest.fixture(scope="module")
def engine():
    engine = Engine(ArraySource(), Options(query_threads=1))
    yield engine
    engine.close()


@pytest.mark.parametrize("text", QUERIES)
def bench_query(measure, engine, text):
    end_ms = START_MS + 360 * 60_000
    n_samples = N_SERIES * N_SAMPLES
    measure(
        lambda: engine.query_range(text, START_MS + 60_000, end_ms, 60_000), n_samples,
        n_bytes=8 * n_samples,
    )  # fmt: skip
