"""Queries on parts in an object store: here, with an empty cache, with a warm one.

    python -m bench.cold [--series 200] [--days 5] [--latency-ms 20] [--runs 5]

Counters 30 s apart; every day is a part that moves to an S3 API on loopback (moto), which answers
each request after a pause, as a store in the same region does. Prints for each query medians of
wall time and of CPU time (moto's share of the process included), and the requests and bytes that it
took with an empty cache. No figure must be met: the pauses are the price, the warm cache should be
near local files.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
import time
from statistics import median

import numpy as np

import tsengine
from tests.backup.cold_case import move, opened
from tests.backup.s3 import Gate, S3Server

T0 = 1_700_006_400_000
DAY_MS = 86_400_000
STEP_MS = 30_000
QUERIES = (
    ("sum(rate(x[5m]))", 0, 1),
    ('rate(x{host="7"}[5m])', 0, 1),
    ("sum(rate(x[5m]))", 0, None),
    ("count_over_time(x[1d])", None, None),
)
"""Text, first and last day of the range; None for the last one of all."""


def fill(path, n_series, n_days):
    rng = np.random.default_rng(1)
    with tsengine.open(path, tsengine.Options(tiers=())) as db:
        db.pause_background()
        for day in range(n_days):
            t_ms = np.arange(T0 + day * DAY_MS + STEP_MS, T0 + (day + 1) * DAY_MS, STEP_MS)
            for host in range(n_series):
                counts = np.cumsum(rng.integers(0, 2000, len(t_ms))).astype(float)
                db.append({"__name__": "x", "host": str(host)}, t_ms, counts)
            db.flush()
        db.compact()


def timed(db, query, n_days):
    """(wall ms, CPU ms) of one range query."""
    expr, first, last = query
    first = n_days - 1 if first is None else first
    last = n_days if last is None else last
    start, end = T0 + first * DAY_MS + DAY_MS // 100, T0 + last * DAY_MS - STEP_MS
    wall, cpu = time.perf_counter(), time.process_time()
    db.query_range(expr, start, end, 3_600_000).to_json()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def medians(runs):
    walls, cpus = zip(*runs, strict=True)
    return f"{median(walls):8.1f} / {median(cpus):7.1f}"


def forget(path):
    shutil.rmtree(os.path.join(path, "cold-cache"), ignore_errors=True)


def measure(path, options, gate, n_days, n_runs):
    rows = []
    with opened(path, options) as db:
        timed(db, QUERIES[0], n_days)
        local = [[timed(db, query, n_days) for _ in range(n_runs)] for query in QUERIES]
        began = time.perf_counter()
        move(db)
        stats = db.stats()
        print(
            f"{stats['cold_parts']} parts, {stats['cold_bytes'] / 2**20:.1f} MiB moved in "
            f"{time.perf_counter() - began:.1f} s"
        )
        for query, here in zip(QUERIES, local, strict=True):
            empty, counts = [], []
            for _ in range(n_runs):
                forget(path)
                n_before = len(gate.requests)
                empty.append(timed(db, query, n_days))
                counts.append(gate.requests[n_before:])
            warm = [timed(db, query, n_days) for _ in range(n_runs)]
            rows.append((query, here, empty, warm, counts[-1]))
    print(f"{'':34}{'local':>18}{'empty cache':>19}{'warm cache':>19}{'requests':>10}{'KiB':>8}")
    for (expr, first, last), here, empty, warm, requests in rows:
        n_bytes = 0
        for _, _, span in requests:
            begin, _, end = span.removeprefix("bytes=").partition("-")
            n_bytes += int(end) - int(begin) + 1
        days = n_days - (first or 0) if last is None and first is not None else 1
        print(
            f"{f'{expr}, {days} d':34}{medians(here)} {medians(empty)} {medians(warm)}"
            f"{len(requests):>10}{n_bytes >> 10:>8}"
        )


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--series", type=int, default=200)
    arguments.add_argument("--days", type=int, default=5)
    arguments.add_argument("--latency-ms", type=float, default=20.0)
    arguments.add_argument("--runs", type=int, default=5)
    given = arguments.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ["AWS_REGION"] = "us-east-1"
    server = S3Server()
    gate = Gate(server)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "db")
            fill(path, given.series, given.days)
            options = tsengine.Options(
                tiers=(), cold_url=gate.url, cold_after=3600.0, cold_endpoint_url=gate.endpoint
            )
            gate.fail("GET", times=1 << 30, delay_s=given.latency_ms / 1e3)
            print(f"load {os.getloadavg()[0]:.1f}; ms of wall / CPU, median of {given.runs}")
            measure(path, options, gate, given.days, given.runs)
    finally:
        gate.stop()
        server.stop()


if __name__ == "__main__":
    main()
