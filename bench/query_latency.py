"""Dashboard-like range queries over a flushed part: the figures of docs/performance.md.

    python -m bench.query_latency [--series 1000] [--hours 24] [--runs 15]

1,000 counters, 15 s apart for 24 h, once all on one time axis and once each on its own; flushed to
one part, page cache warm, no cache of decoded values or answers (there is none). Prints medians of
wall time; beside them the time numpy needs to copy the same number of raw values, as a plain
reference of this machine's memory in the same run. Must-show: `sum by (job) (rate(x[5m]))` under
60 ms in both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

import numpy as np

import tsengine

T0 = 1_700_000_000_000
STEP_MS = 15_000
QUERIES = (
    "sum by (job) (rate(x[5m]))",
    "rate(x[5m])",
    "max by (job) (x)",
    "sum(increase(x[1h]))",
    "avg_over_time(x[10m])",
    "quantile_over_time(0.9, x[10m])",
)


def fill(db, n_series, n_rows, *, shared):
    rng = np.random.default_rng(1)
    labels = [
        {"__name__": "x", "job": f"job-{s % 20}", "instance": f"host-{s}:9100", "cluster": "a"}
        for s in range(n_series)
    ]
    refs = db.series_refs(labels)
    shifts = np.zeros(n_series, np.int64) if shared else rng.permutation(STEP_MS)[:n_series]
    values = np.cumsum(rng.integers(0, 100, (n_series, n_rows)), axis=1).astype(float)
    for start in range(0, n_rows, 240):
        rows = np.arange(start, min(n_rows, start + 240))
        t = T0 + rows[:, None] * STEP_MS + shifts[None, :]
        chosen = np.broadcast_to(refs[None, :], t.shape)
        db.append_columns(chosen.ravel(), t.ravel(), values[:, rows].T.ravel())
    db.flush()
    db.compact()


def timed(call, runs):
    call()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return median(times) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--runs", type=int, default=15)
    args = parser.parse_args()
    n_rows = int(args.hours * 3_600_000 / STEP_MS)
    end = T0 + n_rows * STEP_MS
    raw = np.ones(args.series * n_rows)
    target = np.zeros_like(raw)
    plain = timed(lambda: np.copyto(target, raw), args.runs)
    n_samples = args.series * n_rows
    print(f"{n_samples / 1e6:.2f} M samples; numpy copies that many doubles in {plain:.1f} ms")
    for shared in (True, False):
        with tempfile.TemporaryDirectory() as path, tsengine.open(path) as db:
            begin = time.perf_counter()
            fill(db, args.series, n_rows, shared=shared)
            stats = db.stats()
            size = stats["part_bytes"] / stats["part_samples"]
            print(
                f"{'one axis' if shared else f'{args.series} axes'}: filled in "
                f"{time.perf_counter() - begin:.1f} s, {size:.2f} bytes/sample"
            )
            for query in QUERIES:
                ms = timed(lambda q=query: db.query_range(q, T0 + 300_000, end, 60_000), args.runs)
                print(f"  {ms:8.1f} ms  {ms / plain:6.1f} x copy  {query}")


if __name__ == "__main__":
    main()
