"""What a writer of recent samples notices while a year of old ones is backfilled beside it.

    python -m bench.backfill [--series 200] [--days 365] [--seconds 20] [--pause 0] [--json FILE]

A live writer appends a sample of each of 200 series every 50 ms to an embedded database and waits
for its fsync. After some seconds another thread appends a year of other 200 series at 15 s, a day
at a time, oldest first, resting `--pause` seconds after each day; flushes, merges and tiers run in
the background as they do by default. Prints the live writer's median, 95th and 99th percentile
before, during and after, what was backfilled per second, and the background work that is left.

Exit code 1 if a sample of either writer is missing afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import tsengine
from bench.synthetic import DAY_MS, PER_DAY, Days, labels_of, times_of
from tsengine.errors import Overloaded

LIVE_EVERY_S = 0.05


class LiveWriter(threading.Thread):
    """Appends now and then; how long each append took is kept by phase."""

    def __init__(self, database: tsengine.Database, n_series: int) -> None:
        super().__init__(daemon=True)
        self._database = database
        labels = [{"__name__": "live", "s": str(k)} for k in range(n_series)]
        self._refs = database.series_refs(labels)
        self.phase = "before"
        self.waits_s: dict[str, list[float]] = {}
        self.n_refused = 0
        self.n_rounds = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        last_ms = 0
        while not self.stopping.is_set():
            now_ms = last_ms = max(last_ms + 1, time.time_ns() // 1_000_000)
            t_ms = np.full(len(self._refs), now_ms)
            values = np.arange(len(self._refs), dtype=np.float64) + self.n_rounds
            phase, began = self.phase, time.perf_counter()
            try:
                self._database.append_columns(self._refs, t_ms, values)
                self.n_rounds += 1
            except Overloaded:
                self.n_refused += 1
            took = time.perf_counter() - began
            self.waits_s.setdefault(phase, []).append(took)
            self.stopping.wait(max(0.0, LIVE_EVERY_S - took))


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--seconds", type=float, default=20.0, help="before and after")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--json", type=Path, help="also write the results there")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, folder)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(not results["complete"])


def measure(args: argparse.Namespace, folder: str) -> dict:
    """Everything that is printed."""
    first_ms = (time.time_ns() // 1_000_000 // DAY_MS - args.days) * DAY_MS
    n_samples = args.series * args.days * PER_DAY
    with tsengine.open(folder) as database:
        live = LiveWriter(database, args.series)
        live.start()
        time.sleep(args.seconds)
        live.phase = "during"
        seconds = backfill(database, args, first_ms)
        live.phase = "after"
        time.sleep(args.seconds)
        live.stopping.set()
        live.join()
        results: dict = {
            "series": args.series, "days": args.days, "samples": n_samples, "seconds": seconds,
            "samples_per_second": n_samples / seconds, "live_refused": live.n_refused,
            "live_ms": {phase: percentiles(waits) for phase, waits in live.waits_s.items()},
            "left": {
                key: value for key, value in database.stats().items()
                if key.startswith(("background_jobs:", "background_bytes:")) and value
            },
            "parts": database.stats()["parts"],
        }  # fmt: skip
        counted = count(database, "count_over_time(c[1d])", args, first_ms)
        counted += count(database, "count_over_time(x[1d])", args, first_ms)
        end = time.time() + 60
        lived = database.query("sum(count_over_time(live[1d]))", time=end).to_numpy()
        results["complete"] = counted == n_samples and int(lived[0, 0]) == (
            live.n_rounds * args.series
        )
    say(results)
    return results


def backfill(database: tsengine.Database, args: argparse.Namespace, first_ms: int) -> float:
    """Append old days; seconds without the making of samples and the rests."""
    days = Days(args.series, seed=5)
    rows = np.repeat(database.series_refs([labels_of(k) for k in range(args.series)]), PER_DAY)
    appending = 0.0
    for day in range(args.days):
        values = days.next().reshape(-1)
        t_ms = np.tile(times_of(day, first_ms), args.series)
        began = time.perf_counter()
        while True:
            try:
                database.append_columns(rows, t_ms, values)
                break
            except Overloaded:
                time.sleep(1.0)
        appending += time.perf_counter() - began
        time.sleep(args.pause)
    return appending


def count(database: tsengine.Database, expr: str, args: argparse.Namespace, first_ms: int) -> int:
    """Samples by day, all together."""
    start, end = first_ms + DAY_MS, first_ms + args.days * DAY_MS
    result = database.query_range(f"sum({expr})", start, end, DAY_MS)
    return int(result.to_numpy().sum()) if len(result) else 0


def percentiles(waits_s: list[float]) -> dict[str, float]:
    """Milliseconds."""
    at = np.percentile(np.array(waits_s) * 1000, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "max"), at.round(2).tolist(), strict=True)) | {
        "n": len(waits_s)
    }


def say(results: dict) -> None:
    """Print the results."""
    print(
        f"{results['samples']:,} samples backfilled in {results['seconds']:.1f} s, "
        f"{results['samples_per_second']:,.0f} a second; {results['parts']} parts"
    )
    for phase, own in results["live_ms"].items():
        print(
            f"live appends {phase:7}: median {own['p50']} ms, 95 % {own['p95']}, "
            f"99 % {own['p99']}, longest {own['max']}; {own['n']} of them"
        )
    print(f"live appends refused: {results['live_refused']}; left to do: {results['left']}")
    print("all samples are there" if results["complete"] else "SAMPLES ARE MISSING", flush=True)


if __name__ == "__main__":
    sys.exit(main())
