"""Two years of 200 series: how long they take to land, what they weigh, what a dashboard waits for.

    python -m bench.two_years [--series 200] [--days 730] [--data-dir DIR] [--again] [--json FILE]

Samples every 15 s of counters that restart and gauges of all kinds (`bench.synthetic`, seeded) are
backfilled through the embedded API, flushed, compacted; then dashboard queries over all of it at
one-hour steps are timed from samples alone, tiers are built, and the same queries are timed again
and compared: equal within 1e-9 of the larger number, absent where absent. Samples of such a query
are read a month at a time, or they would not fit the memory of one query.

Prints seconds of each stage, bytes by tier and their share of the samples' bytes, and for each
query the median of five runs, with the CPU time of all threads beside it. Exit code 1 if an answer
differs, or in a full run a target is missed: 0.35 and 0.05 of the bytes for the tiers, 100 ms for a
query. With `--again` only the queries from tiers are timed, in a DIR of a run before, into the same
FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

import tsengine
from bench.synthetic import DAY_MS, PER_DAY, Days, labels_of, times_of
from tsengine.options import Options

FIRST_MS = 19_440 * DAY_MS
"""A day at which partitions of 30 and 360 days begin: 2023-03-24."""
HOUR_MS = 3_600_000
ROUNDS = 5
QUERIES = ("avg_over_time(x[1h])", "rate(c[1h])", "sum by (g) (rate(c[1h]))")
SHARES_MAX = {"5m": (300_000, 0.35), "1h": (HOUR_MS, 0.05)}
"""By name of the tier: its width, and the share of the samples' bytes that it may take."""
QUERY_MS_MAX = 100.0
MONTH_DAYS = 30
OPTIONS = Options(
    max_samples=2_000_000_000, query_memory=4 << 30, query_memory_total=4 << 30, query_timeout=3600
)


def main(arguments: list[str] | None = None) -> int:
    """Run all stages."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--data-dir", help="kept; default: a temporary folder")
    parser.add_argument("--again", action="store_true", help="only time the queries from tiers")
    parser.add_argument("--json", type=Path, help="also write the results there")
    args = parser.parse_args(arguments)
    if args.again:
        results = json.loads(args.json.read_text())
        time_again(results, args.data_dir)
    elif args.data_dir is not None:
        results = measure(args, args.data_dir)
    else:
        with tempfile.TemporaryDirectory() as folder:
            results = measure(args, folder)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(bool(results["missed"]))


def measure(args: argparse.Namespace, folder: str) -> dict:
    """Everything that is printed, as one value."""
    results: dict = {
        "series": args.series, "days": args.days, "samples": args.series * args.days * PER_DAY,
    }  # fmt: skip
    print(f"{args.series} series x {args.days} days = {results['samples']:,} samples", flush=True)
    with tsengine.open(folder, OPTIONS) as database:
        # What is timed here is not to be done in the background meanwhile.
        database.pause_background()
        seconds = results["seconds"] = {}
        seconds["generating"], seconds["appending"] = backfill(database, args)
        seconds["flush"] = timed(database.flush)
        seconds["compaction"] = timed(database.compact)
        say_seconds(seconds)
        before = {expr: ask(database, expr, args.days, MONTH_DAYS) for expr in QUERIES}
        seconds["tiers"] = timed(database.build_tiers)
        say_seconds({"tiers": seconds["tiers"]})
        results["sizes"] = sizes(database, results["samples"])
    # Opened again: queries see the tiers as a new process does, caches of the system as they are.
    with tsengine.open(folder, OPTIONS) as database:
        results["queries"] = compare(database, before, args.days)
    judge(results)
    return results


def time_again(results: dict, folder: str) -> None:
    """Put new times of the queries into the results of a run before."""
    with tsengine.open(folder, OPTIONS, read_only=True) as database:
        for expr, facts in results["queries"].items():
            facts |= times(database, expr, results["days"])[0]
            say_query(expr, facts)
    judge(results)


def judge(results: dict) -> None:
    """Note and print what was missed."""
    is_full = (results["series"], results["days"]) == (200, 730)
    results["missed"] = missed(results) if is_full else differing(results)
    for text in results["missed"]:
        print(f"MISSED: {text}")


def backfill(database: tsengine.Database, args: argparse.Namespace) -> tuple[float, float]:
    """Append day by day; seconds spent on making samples and on appending them."""
    days = Days(args.series, args.seed)
    refs = database.series_refs([labels_of(k) for k in range(args.series)])
    rows = np.repeat(refs, PER_DAY)
    making = appending = 0.0
    for day in range(args.days):
        began = time.perf_counter()
        values = days.next().reshape(-1)
        t_ms = np.tile(times_of(day, FIRST_MS), args.series)
        made = time.perf_counter()
        database.append_columns(rows, t_ms, values)
        making += made - began
        appending += time.perf_counter() - made
    return making, appending


def ask(
    database: tsengine.Database, expr: str, n_days: int, days_each: int
) -> tuple[float, dict[tuple, np.ndarray], tuple[str, ...]]:
    """Seconds, values by labels (f64[T], NaN where absent) and tiers read, of one-hour steps."""
    pieces, tiers = [], set()
    began = time.perf_counter()
    for first in range(0, n_days, days_each):
        start = FIRST_MS + first * DAY_MS + HOUR_MS
        end = FIRST_MS + min(first + days_each, n_days) * DAY_MS
        result = database.query_range(expr, start, end, HOUR_MS)
        pieces.append(result)
        tiers.update(result.stats["tiers"])
    seconds = time.perf_counter() - began
    n_steps = sum(len(piece.timestamps) for piece in pieces)
    rows: dict[tuple, np.ndarray] = {}
    at = 0
    for piece in pieces:
        values = piece.to_numpy()
        for labels, own in zip(piece.labels, values, strict=True):
            key = tuple(sorted(labels.items()))
            rows.setdefault(key, np.full(n_steps, np.nan))[at : at + len(own)] = own
        at += len(piece.timestamps)
    return seconds, rows, tuple(sorted(tiers))


def times(database: tsengine.Database, expr: str, n_days: int) -> tuple[dict, dict]:
    """Medians of a query over everything, and its values by labels."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        began = time.process_time()
        seconds, rows, tiers = ask(database, expr, n_days, n_days)
        cpus.append(1000 * (time.process_time() - began))
        walls.append(1000 * seconds)
    facts = {
        "tier_ms": median(walls), "tier_cpu_ms": median(cpus), "tier_ms_of_first": walls[0],
        "load_of_machine": os.getloadavg()[0], "series": len(rows), "tiers": list(tiers),
    }  # fmt: skip
    return facts, rows


def compare(database: tsengine.Database, before: dict, n_days: int) -> dict:
    """Each query again from tiers: medians, and how far the answers lie apart."""
    found = {}
    for expr, (raw_s, expected, _) in before.items():
        facts, rows = times(database, expr, n_days)
        apart = distance(rows, expected)
        found[expr] = facts | {"raw_ms": 1000 * raw_s, "largest_difference": apart}
        say_query(expr, found[expr])
    return found


def say_query(expr: str, facts: dict) -> None:
    """One line."""
    print(
        f"{expr:26} {facts['tier_ms']:8.1f} ms from {', '.join(facts['tiers'])} (CPU "
        f"{facts['tier_cpu_ms']:.1f}, first run {facts['tier_ms_of_first']:.1f}, load of the "
        f"machine {facts['load_of_machine']:.1f}); {facts['raw_ms']:9.1f} ms from samples; largest "
        f"difference {facts['largest_difference']:.1e}",
        flush=True,
    )


def distance(rows: dict[tuple, np.ndarray], expected: dict[tuple, np.ndarray]) -> float:
    """The largest difference of two answers, relative to the larger number; inf where one lacks."""
    if rows.keys() != expected.keys():
        return float("inf")
    largest = 0.0
    for key, own in rows.items():
        other = expected[key]
        if not np.array_equal(np.isnan(own), np.isnan(other)):
            return float("inf")
        scale = np.maximum(np.abs(own), np.abs(other))
        with np.errstate(invalid="ignore", divide="ignore"):
            apart = np.where(own == other, 0.0, np.abs(own - other) / scale)
        largest = max(largest, float(np.nanmax(apart, initial=0.0)))
    return largest


def sizes(database: tsengine.Database, n_samples: int) -> dict:
    """Bytes by tier, and their share of the samples'."""
    state = database._storage.state
    raw = sum(part.entry.size_bytes for part in state.parts)
    found: dict = {"raw": {"bytes": raw, "parts": len(state.parts), "share": 1.0}}
    found["raw"]["bytes_per_sample"] = raw / n_samples
    for name, (width_ms, _) in SHARES_MAX.items():
        own = [tier.entry for tier in state.tiers if tier.entry.width_ms == width_ms]
        size = sum(entry.size_bytes for entry in own)
        found[name] = {"bytes": size, "parts": len(own), "share": size / raw}
    for name, facts in found.items():
        print(
            f"{name:6} {facts['bytes']:15,} bytes in {facts['parts']:4} parts, "
            f"{facts['share']:.4f} of the samples' bytes, "
            f"{facts['bytes'] / n_samples:.4f} a sample",
            flush=True,
        )
    return found


def missed(results: dict) -> list[str]:
    """Targets of a full run that were not reached."""
    texts = differing(results)
    for name, (_, share_max) in SHARES_MAX.items():
        share = results["sizes"][name]["share"]
        if share > share_max:
            texts.append(f"{name} takes {share:.4f} of the samples' bytes, over {share_max}")
    for expr, facts in results["queries"].items():
        if facts["tier_ms"] >= QUERY_MS_MAX:
            texts.append(f"{expr} takes {facts['tier_ms']:.0f} ms")
    return texts


def differing(results: dict) -> list[str]:
    """Answers from tiers that are not those from samples."""
    return [
        f"{expr} from tiers differs by {facts['largest_difference']:.1e}"
        for expr, facts in results["queries"].items()
        if facts["largest_difference"] > 1e-9
    ]


def timed(call) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def say_seconds(seconds: dict[str, float]) -> None:
    """One line."""
    print(", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
