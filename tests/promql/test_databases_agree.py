"""Random series of floats and native histograms: every way to store and read them answers alike.

What is right is the matter of the scripts; here the engine over dicts and lists is the measure of
head, log, parts, merged parts and a database opened again.
"""

import random
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import tsengine
from tests.promql import checking
from tests.promql.answers import answer_of
from tests.promql.databases import OPTIONS, SCRATCH, memory_database
from tests.promql.histogram_notation import Noted, columns, combined, difference
from tests.promql.script import STALE

LARGE = replace(OPTIONS, max_samples=10_000_000)
STEP_MS = 15_000
N_SAMPLES = 80
N_CHUNKS = 4

EXPRESSIONS = """
m
m offset 2m
-m
m * 2 + m
m - m offset 1m
m == m offset 15s
m </ 3
m >/ 0.5
sum(m)
sum by (g) (m)
avg by (g) (m)
count by (g) (m)
group without (i) (m)
max by (g) (m)
quantile by (g) (0.5, m)
topk by (g) (1, m)
count_values by (g) ("v", m)
timestamp(m)
start_timestamp(m)
absent(m{i="0"})
histogram_count(m)
histogram_quantile(0.7, m)
histogram_fraction(0.5, 3, m)
histogram_stddev(m)
rate(m[2m])
increase(m[1m])
irate(m[2m])
delta(m[2m])
idelta(m[2m])
resets(m[3m])
changes(m[3m])
count_over_time(m[2m])
present_over_time(m[1m])
absent_over_time(m{i="1"}[30s])
first_over_time(m[1m])
last_over_time(m[2m])
ts_of_last_over_time(m[2m])
sum_over_time(m[2m])
avg_over_time(m[2m])
max_over_time(m[2m])
quantile_over_time(0.3, m[2m])
deriv(m[3m])
increase(m[2m] anchored)
rate(m[2m] smoothed)
changes(m[2m] anchored)
m smoothed
sum_over_time(m[4m:30s])
rate(m[3m:45s])
resets(m[3m:15s])
sum by (g) (rate(m[90s] offset 30s))
histogram_quantile(0.9, sum by (g) (rate(m[2m])))
sum(rate(m[2m] @ 600))
m and on (i) m offset 5m
label_replace(m, "j", "$1", "i", "(.*)") unless on (i) m{g="0"}
info(m)
""".strip().splitlines()


# --- series ------------------------------------------------------------------------------------


def _random_histogram(rng, *, custom):
    def buckets(low, high):
        return {rng.randint(low, high): float(rng.randint(1, 9)) for _ in range(rng.randint(0, 5))}

    if custom:
        bounds = tuple(sorted(rng.sample([0.5, 1.0, 2.0, 4.0, 8.0], rng.randint(1, 4))))
        positive = buckets(0, len(bounds))
        count = sum(positive.values())
        return Noted(schema=-53, count=count, sum=count * 1.5, positive=positive, bounds=bounds)
    positive, negative = buckets(-3, 6), buckets(-3, 3) if rng.random() < 0.3 else {}
    zero = float(rng.randint(0, 3))
    count = sum(positive.values()) + sum(negative.values()) + zero
    return Noted(
        schema=rng.choice([0, 0, 0, 1, 2, -1]),
        count=count,
        sum=count * 1.25,
        zero_threshold=rng.choice([0.001, 0.001, 0.0, 0.25]),
        zero_count=zero,
        positive=positive,
        negative=negative,
    )


def _random_items(rng, kind):
    """Items of one series: mostly growing, with resets, gaps, markers and strangers among them."""
    items, running = [], None
    for _ in range(N_SAMPLES):
        chance = rng.random()
        if chance < 0.08:
            items.append(None)
        elif chance < 0.11:
            items.append(STALE)
            running = None
        elif kind == "float" or (kind == "mixed" and chance < 0.5):
            items.append(float(rng.choice([rng.randint(0, 50), np.nan, np.inf, -0.0, 1.5])))
        else:
            fresh = _random_histogram(rng, custom=kind == "custom")
            if running is None or chance > 0.95 or kind == "gauge":
                running = fresh
            elif running.is_custom:
                running = combined(running, running, 1.0) if running.count < 1e6 else fresh
            else:
                running = combined(running, fresh, 1.0)
            hint = 3 if kind == "gauge" else rng.choice([0] * 9 + [1, 2])
            items.append(replace(running, hint=hint))
    return items


def random_series(seed):
    """(labels, items, start offsets or None) of a few series of the metric m."""
    rng = random.Random(seed)
    found = []
    for i, kind in enumerate(["counter", "counter", "gauge", "custom", "mixed", "float"]):
        labels = {"__name__": "m", "g": str(i % 2), "i": str(i), "instance": "a", "job": "b"}
        starts = None
        if i in (1, 4, 5):
            starts = [rng.choice([0, 0, -5_000, -15_000, -40_000]) for _ in range(N_SAMPLES)]
        found.append((labels, _random_items(rng, kind), starts))
    info = {"__name__": "target_info", "instance": "a", "job": "b", "zone": "z"}
    found.append((info, [1.0] * N_SAMPLES, None))
    return found


# --- databases ---------------------------------------------------------------------------------


@contextmanager
def stored(series, after_chunk):
    """A database that got the series in chunks; `after_chunk(db, path)` gives it back changed."""
    path = tempfile.mkdtemp(prefix="agree-", dir=SCRATCH)
    db = tsengine.open(path, options=LARGE)
    try:
        for chunk in range(N_CHUNKS):
            _append_chunk(db, series, chunk)
            db = after_chunk(db, path)
        yield db
    finally:
        db.close()
        shutil.rmtree(path, ignore_errors=True)


def _append_chunk(db, series, chunk):
    """A part of each series; chunks are not in order of time."""
    order = [0, 2, 1, 3]
    size = N_SAMPLES // N_CHUNKS
    first = order[chunk] * size
    for labels, items, starts in series:
        at = [i for i in range(first, first + size) if items[i] is not None]
        for is_histogram in (False, True):
            chosen = [i for i in at if isinstance(items[i], Noted) == is_histogram]
            if not chosen:
                continue
            t_ms = np.array(chosen) * STEP_MS
            extra = {}
            if starts is not None:
                # Zero says unknown, so a start at the epoch can't be told.
                start_ms = np.array([i * STEP_MS + starts[i] if starts[i] else 0 for i in chosen])
                extra = {"start_timestamps": start_ms}
            if is_histogram:
                db.append_histograms(labels, t_ms, columns([items[i] for i in chosen]), **extra)
            else:
                values = [0.0 if items[i] is STALE else items[i] for i in chosen]
                values = np.array(values, np.float64)
                stale = [items[i] is STALE for i in chosen]
                values.view(np.uint64)[stale] = checking.STALE_BITS
                db.append(labels, t_ms, values, **extra)


def _kept(db, _path):
    return db


def _flushed(db, _path):
    db.flush()
    return db


def _merged(db, _path):
    db.flush()
    db.compact()
    return db


def _opened_again(db, path):
    db.close()
    return tsengine.open(path, options=LARGE)


WAYS = {"head": _kept, "parts": _flushed, "merged": _merged, "opened-again": _opened_again}


# --- the comparison ----------------------------------------------------------------------------


def differences(wanted, got):
    """What is wrong with an answer, as texts."""
    for name in ("warnings", "infos"):
        if sorted(getattr(wanted, name)) != sorted(getattr(got, name)):
            yield f"{name}: expected {getattr(wanted, name)}, got {getattr(got, name)}"
    left = {frozenset(labels.items()): rest for labels, *rest in wanted.series}
    right = {frozenset(labels.items()): rest for labels, *rest in got.series}
    if left.keys() != right.keys():
        yield f"series {[dict(key) for key in left.keys() ^ right.keys()]}"
        return
    for key, (times, cells) in left.items():
        if right[key][0] != times:
            yield f"{dict(key)}: times {sorted(set(times) ^ set(right[key][0]))}"
            continue
        for t, a, b in zip(times, cells, right[key][1], strict=True):
            if isinstance(a, Noted) != isinstance(b, Noted):
                yield f"{dict(key)} at {t}: expected {a}, got {b}"
            elif isinstance(a, Noted):
                wrong = difference(a, b, checking.equal_floats, with_hint=True)
                if wrong:
                    yield f"{dict(key)} at {t}: {wrong}: expected {a}, got {b}"
            elif not checking.equal_floats(a, b):
                yield f"{dict(key)} at {t}: expected {a}, got {b}"


def _range(db, expr):
    return db.query_range(expr, start=-30_000, end=N_SAMPLES * STEP_MS + 60_000, step=35_000)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", WAYS)
def test_databases_agree(way, seed):
    series = random_series(seed)
    problems = []
    with (
        memory_database(share_axes=seed % 2 == 0, options=LARGE) as measure,
        stored(series, WAYS[way]) as db,
    ):
        for chunk in range(N_CHUNKS):
            _append_chunk(measure, series, chunk)
        for expr in EXPRESSIONS:
            pairs = [(_range(measure, expr), answer_of(_range(db, expr)))]
            for at_ms in (0, 301_000, N_SAMPLES * STEP_MS):
                got = answer_of(db.query(expr, time=at_ms))
                pairs.append((measure.query(expr, time=at_ms), got))
            for wanted, got in pairs:
                problems += [f"{expr}: {text}" for text in differences(wanted, got)][:2]
    assert not problems, f"{len(problems)}:\n" + "\n".join(problems[:20])
