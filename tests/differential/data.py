"""Seeded float series of the kinds that break engines; all lie in 40 minutes of a fixed time.

Labels are dicts, samples ascending lists of (ms, float). Stale markers are given as bits, so values
are made with `from_bits` and must reach the servers without arithmetic.
"""

from __future__ import annotations

import math
import random

from tests.differential.clocks import BASE_MS, END_MS, STALE, from_bits, gappy, scrapes

WEIRD_VALUES = (
    "", "ä ö", 'a"b', "back\\slash", "line\nbreak", "tab\t", " ", "9", "10", "+Inf", "1e3",
    "🦆", "a.b", "$1", "x" * 300, "0.10", "NaN", "{}", "a=b,c",
)  # fmt: skip
BOUNDS = ("0.05", "0.1", "0.25", "1", "2.5", "10", "+Inf")


def make_series(seed):
    """[(labels, samples)] of one data set."""
    rng = random.Random(f"data {seed}")
    series = []
    targets = [
        {"job": job, "instance": f"{host}:9100"}
        for job, host in (("api", "a"), ("api", "b"), ("db", "a"), ("db", "c"))
    ]
    for target in targets:
        times = scrapes(rng, rng.choice((5_000, 15_000, 15_000, 30_000)))
        series += _target(rng, target, times)
    series += _oddities(rng)
    return [(labels, samples) for labels, samples in series if samples]


def _target(rng, target, times):
    """What one scrape target exposes, all at the same times."""
    for path in ("/", "/api", "/login"):
        for code in ("200", "404", "500"):
            labels = {"__name__": "requests_total", **target, "path": path, "code": code}
            yield labels, gappy(rng, times, _counter(rng, len(times)))
    for device in ("sda", "sdb"):
        labels = {"__name__": "temperature", **target, "device": device}
        yield labels, gappy(rng, times, _gauge(rng, len(times)))
    yield from _classic_histogram(rng, target, times)
    level = [float(rng.randrange(5)) for _ in times]
    yield {"__name__": "level", **target}, list(zip(times, level, strict=True))
    yield {"__name__": "up", **target}, [(t, float(rng.random() < 0.95)) for t in times]
    version = rng.choice(("1.0", "2.0"))
    yield {"__name__": "build_info", **target, "version": version}, [(t, 1.0) for t in times]
    special = [_special(rng) for _ in times]
    yield {"__name__": "special", **target}, list(zip(times, special, strict=True))


def _counter(rng, n):
    value = rng.choice((0.0, 0.0, 1e6, 0.1))
    step = rng.choice((1, 7, 0.3, 1000, 0))
    values = []
    for _ in range(n):
        value += rng.random() * step if isinstance(step, float) else rng.randint(0, step)
        if rng.random() < 0.02:
            value = rng.choice((0.0, 0.0, value / 2))
        values.append(value)
    return values


def _gauge(rng, n):
    value = rng.uniform(-50, 50)
    digits = rng.choice((0, 1, 2, 15))
    odd = rng.choice((0, 0, 0.05))
    values = []
    for _ in range(n):
        value += rng.gauss(0, 2)
        values.append(_special(rng) if rng.random() < odd else round(value, digits))
    return values


def _special(rng):
    return rng.choice((
        math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, -1.0, 0.1, 5e-324, 1e-300, 123456789.125,
        float(rng.randrange(10)), rng.uniform(-5, 5), 2.0**53, from_bits(0x7FF8000000000001),
    ))  # fmt: skip


def _classic_histogram(rng, target, times):
    """Cumulative buckets with resets all at once."""
    counts = [0.0] * len(BOUNDS)
    total = 0.0
    weights = [rng.random() for _ in BOUNDS]
    rows = []
    for _ in times:
        if rng.random() < 0.02:
            counts, total = [0.0] * len(BOUNDS), 0.0
        for _ in range(rng.randrange(6)):
            bucket = rng.choices(range(len(BOUNDS)), weights)[0]
            total += rng.random() * 3
            counts = [c + (idx >= bucket) for idx, c in enumerate(counts)]
        rows.append((counts, total))
    name = "latency_seconds"
    for idx, bound in enumerate(BOUNDS):
        labels = {"__name__": f"{name}_bucket", **target, "le": bound}
        yield labels, [(t, row[0][idx]) for t, row in zip(times, rows, strict=True)]
    count = [(t, row[0][-1]) for t, row in zip(times, rows, strict=True)]
    yield {"__name__": f"{name}_count", **target}, count
    yield (
        {"__name__": f"{name}_sum", **target},
        [(t, row[1]) for t, row in zip(times, rows, strict=True)],
    )


def _oddities(rng):
    """Series alone on their clocks: strange labels, lengths, sizes and buckets."""
    for idx, value in enumerate(WEIRD_VALUES):
        labels = {"__name__": "weird", "v": value, "n": str(idx % 3)}
        if not value:
            labels.pop("v")
        times = scrapes(rng, 60_000)
        yield labels, [(t, float(rng.randrange(100))) for t in times]
    utf8 = {"__name__": "my.metric ä", "a.b": "1", "job": "api", "été": "x"}
    yield utf8, [(t, rng.uniform(0, 9)) for t in scrapes(rng, 15_000)]
    yield {**utf8, "a.b": "2"}, [(t, rng.uniform(0, 9)) for t in scrapes(rng, 15_000)]
    at = rng.randrange(BASE_MS, END_MS)
    yield {"__name__": "single", "job": "api", "n": "1"}, [(at, 42.0)]
    yield {"__name__": "single", "job": "api", "n": "2"}, [(at, -1.5), (at + 1, 3.0)]
    yield {"__name__": "single", "job": "api", "n": "3"}, [(at, STALE)]
    for size in ("1e300", "1e-310", "3e15"):
        times = scrapes(rng, 30_000)
        yield (
            {"__name__": "huge", "size": size},
            [(t, rng.uniform(-1, 1) * float(size)) for t in times],
        )
    same = scrapes(rng, 20_000)
    for n in "1234":
        yield {"__name__": "constant", "job": "api", "n": n}, [(t, float(n)) for t in same]
    yield from _bad_buckets(rng)
    clock = scrapes(rng, 15_000)
    yield {"__name__": "started_seconds", "job": "api"}, [(t, t / 1000 - 5000) for t in clock]
    yield {"__name__": "started_seconds", "job": "db"}, [(t, 951_782_400.0) for t in clock]


def _bad_buckets(rng):
    """Histograms that are not: no +Inf, wrong bounds, equal bounds, sinking counts.

    None has NaN as a bound: Prometheus sorts that with a comparison that is no order.
    """
    kinds = {
        "no_inf": ("0.1", "1", "5"),
        "text": ("abc", "0.1", "1", "+Inf"),
        "equal": ("0.1", "1e-1", "0.10", "1", "+Inf", "Inf"),
        "sinking": ("0.1", "0.2", "0.3", "0.4", "+Inf"),
        "negative": ("-5", "-1", "0", "1", "+Inf"),
        "alone": ("+Inf",),
        "slightly": ("1", "2", "3", "+Inf"),
        "none": (None, "1", "+Inf"),
    }
    for kind, bounds in kinds.items():
        times = scrapes(rng, 30_000)
        for idx, bound in enumerate(bounds):
            labels = {"__name__": "bad_bucket", "kind": kind}
            if bound is not None:
                labels["le"] = bound
            yield labels, [(t, _bad_count(rng, kind, idx, n)) for n, t in enumerate(times)]


def _bad_count(rng, kind, idx, n):
    if kind == "sinking":
        return float(rng.randrange(10) + n)
    if kind == "slightly":
        return 10.0 * (1 + rng.choice((0, 1e-13, 1e-14)))
    return float((idx + 1) * (n // 3))
