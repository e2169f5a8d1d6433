"""What the cells of an answer still go through: elementwise.py, numbers.py (`write_series`)."""

from __future__ import annotations

import numpy as np
import pytest

from tsengine.interop.prometheus_json import matrix_json
from tsengine.kernels.elementwise import clamp_cells
from tsengine.model.labels import LabelRows

N_SERIES = 1000
N_STEPS = 1000


def bench_clamp_cells(measure):
    values = np.random.default_rng(1).normal(size=(N_SERIES, N_STEPS))
    low, high, out = np.full(N_STEPS, -1.0), np.full(N_STEPS, 1.0), np.empty_like(values)
    n_bytes = values.nbytes
    measure(lambda: clamp_cells(values, low, high, out), values.size, unit="cells", n_bytes=n_bytes)


@pytest.mark.parametrize("kind", ["integers", "two decimals", "full precision"])
def bench_json(measure, kind):
    """A range query's answer as JSON: orjson's float texts put into Prometheus's form."""
    values = np.random.default_rng(1).uniform(0, 1e6, N_SERIES * N_STEPS // 4)
    if kind != "full precision":
        values = np.round(values, 0 if kind == "integers" else 2)
    n_series = N_SERIES // 4
    rows = LabelRows(np.arange(n_series + 1) * 4, np.arange(4 * n_series, dtype=np.uint32))
    stamps = 1_700_000_000_000 + np.arange(N_STEPS) * 15_000

    def call():
        return matrix_json(
            rows, lambda pair: (f"label_{pair % 4}", f"value-{pair}"), values,
            np.arange(n_series + 1) * N_STEPS, stamps, np.tile(np.arange(N_STEPS), n_series),
        )  # fmt: skip

    measure(call, len(values), unit="values", n_bytes=values.nbytes)
