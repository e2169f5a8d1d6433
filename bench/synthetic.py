"""Seeded samples of scraped targets, a day at a time: counters that restart, gauges of all kinds.

Not a script; `python -m bench.two_years` and `python -m bench.backfill` make their data here.
"""

from __future__ import annotations

import numpy as np

DAY_MS = 86_400_000
STEP_MS = 15_000
PER_DAY = DAY_MS // STEP_MS
SERIES_PER_TARGET = 20
GROUPS = 5
RESTARTS_PER_DAY = 1 / 14
"""How often a target restarts, and with it its counters."""


def labels_of(number: int) -> dict[str, str]:
    """Labels of one series; ten counters and ten gauges a target, in five groups."""
    target, kind = divmod(number, SERIES_PER_TARGET)
    return {
        "__name__": "c" if kind < SERIES_PER_TARGET // 2 else "x",
        "g": str(target % GROUPS),
        "instance": f"host-{target:03d}:9100",
        "job": "node",
        "kind": str(kind),
    }


class Days:
    """The samples of some series, day by day. ``values: f64[S, PER_DAY]``."""

    def __init__(self, n_series: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.n_series = n_series
        self._kind = np.arange(n_series) % SERIES_PER_TARGET
        self._target = np.arange(n_series) // SERIES_PER_TARGET
        self._last = np.zeros(n_series)
        self._level = self._rng.uniform(10, 1000, n_series)

    def next(self) -> np.ndarray:
        """Values of the next day."""
        values = np.empty((self.n_series, PER_DAY))
        n_targets = int(self._target[-1]) + 1
        restarts = self._rng.random(n_targets) < RESTARTS_PER_DAY
        at = self._rng.integers(1, PER_DAY, n_targets)
        for row in range(self.n_series):
            kind, target = self._kind[row], self._target[row]
            restart = int(at[target]) if restarts[target] else None
            own = self._counter if kind < SERIES_PER_TARGET // 2 else self._gauge
            values[row] = own(row, int(kind) % 10, restart)
        self._last = values[:, -1].copy()
        return values

    def _counter(self, row: int, kind: int, restart: int | None) -> np.ndarray:
        """Requests, bytes, seconds: busy by day, idle by night; some hardly ever count."""
        rate = self._level[row] * (1 + 0.5 * np.sin(2 * np.pi * np.arange(PER_DAY) / PER_DAY))
        if kind < 5:
            steps = self._rng.poisson(rate / (kind + 1)).astype(float)
        elif kind < 7:
            steps = self._rng.integers(0, 1500, PER_DAY) / 100
        elif kind < 9:
            steps = self._rng.poisson(rate * 1000).astype(float)
        else:
            steps = (self._rng.random(PER_DAY) < 0.001).astype(float)
        values = self._last[row] + np.cumsum(steps)
        if restart is not None:
            values[restart:] -= values[restart - 1]
        # Seconds are counted in hundredths; sums of floats would have digits that no clock has.
        return np.round(values, 2) if 5 <= kind < 7 else values

    def _gauge(self, row: int, kind: int, restart: int | None) -> np.ndarray:
        """Temperatures, memory, queues, ratios, and what never changes."""
        day = np.sin(2 * np.pi * np.arange(PER_DAY) / PER_DAY)
        noise = self._rng.standard_normal(PER_DAY)
        if kind == 0:
            return np.ones(PER_DAY)
        if kind == 1:
            return np.full(PER_DAY, self._level[row] // 1 * 2**20)
        if kind < 4:
            # Sensors of processors tell whole degrees.
            return np.round(40 + 8 * day + np.cumsum(noise) * 0.02)
        if kind < 6:
            moved = self._rng.integers(-300, 301, PER_DAY)
            pages = np.cumsum(moved) + 500_000 + self._level[row] // 1
            return np.maximum(pages, 0) * 4096.0
        if kind < 8:
            return np.maximum(0, np.round(5 + 4 * day + noise * 2))
        return np.round(np.clip(0.5 + 0.3 * day + noise * 0.05, 0, 1), 4)


def times_of(day: int, first_ms: int) -> np.ndarray:
    """Times of a day's samples: i64[PER_DAY], the first 15 s after the day began."""
    return first_ms + day * DAY_MS + STEP_MS * np.arange(1, PER_DAY + 1, dtype=np.int64)
