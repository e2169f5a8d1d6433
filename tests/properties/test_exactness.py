"""An answer is that of all samples ever taken, or says that it is not exact; whatever was erased.

Appends in and out of order, samples sent again, flushes, merges, tiers built, retention, deletes of
another series, in any order; queries at aligned and other steps over what was erased, its border
and what is there.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import replace
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.matrix import quick_folder
from tests.faults.matrix_run import start_paused
from tests.reference.memory_source import MemorySource
from tsengine.engine import Database
from tsengine.options import Options, Tier
from tsengine.query.engine import Engine
from tsengine.result import Result
from tsengine.storage.retention_chores import Expiry, RetentionRewriting
from tsengine.storage.worker import Worker

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NARROW, WIDE = HOUR_MS, 6 * HOUR_MS
BEGIN = 20_000 * DAY_MS
KEEP_MS = 2 * DAY_MS
SCRAPE_MS = 20 * 60_000
OPTIONS = Options(tiers=(Tier(NARROW / 1000), Tier(WIDE / 1000)), retention=KEEP_MS / 1000)
QUERIES = (
    'count_over_time(m{s="a"}[6h])', 'sum_over_time(m{s="a"}[1h])', 'avg_over_time(m{s="a"}[12h])',
    'max_over_time(m{s="a"}[6h])', 'last_over_time(m{s="a"}[1h])', 'increase(m{s="a"}[6h])',
    'count_over_time(m{s="a"}[90m])', 'quantile_over_time(0.5, m{s="a"}[6h])', 'm{s="a"}',
    'sum(m{s="a"})',
)  # fmt: skip

scrapes = st.tuples(st.just("scrape"), st.integers(6, 40))
offsets = st.sampled_from([0, 1, 7, SCRAPE_MS // 2])
lates = st.tuples(
    st.just("late"), st.integers(0, 4 * 72), st.integers(1, 6), offsets, st.booleans()
)
others = st.tuples(st.just("other"), st.integers(0, 4 * 72))
deletes = st.tuples(st.just("delete"), st.integers(0, 4 * 72), st.integers(0, 4 * 72))
steps = st.one_of(
    scrapes, lates, lates, others, deletes,
    st.sampled_from([("flush",), ("compact",), ("build",), ("build",), ("restart",), ("raise",)]),
    st.tuples(st.just("expire"), st.sampled_from([1, 4, 9])),
)  # fmt: skip


class World:
    """A database and all that it ever took of series a."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(dir=quick_folder())
        self.now_ms = BEGIN + 1
        self.keep_ms = KEEP_MS
        self.options = OPTIONS
        self.samples: dict[int, float] = {}
        self.db = self.open()

    def open(self) -> Database:
        with mock.patch.object(Worker, "start", start_paused):
            options = replace(self.options, retention=self.keep_ms / 1000)
            db = Database(self.path, options, clock=lambda: self.now_ms)
        db._storage.maintenance.request_flush = lambda: None
        return db

    def store(self, name: str, rows: dict[int, float]) -> None:
        rows = {t: v for t, v in rows.items() if t >= self.now_ms - self.keep_ms}
        if rows:
            times = sorted(rows)
            labels = {"__name__": "m", "s": name}
            self.db.append(labels, times, [rows[t] for t in times])
            if name == "a":
                self.samples |= rows

    def scrape(self, n: int) -> None:
        first = self.now_ms // SCRAPE_MS * SCRAPE_MS
        times = [first + k * SCRAPE_MS for k in range(1, n + 1)]
        self.now_ms = times[-1] + 1
        self.store("a", {t: float(t // SCRAPE_MS % 50) for t in times})
        self.store("o", dict.fromkeys(times, 1.0))

    def late(self, back: int, n: int, offset: int, again: bool) -> None:
        first = (self.now_ms // SCRAPE_MS - back) * SCRAPE_MS + offset
        times = [first + k * SCRAPE_MS for k in range(n)]
        rows = {t: self.samples[t] if again and t in self.samples else float(t % 13) for t in times}
        self.store("a", {t: v for t, v in rows.items() if t < self.now_ms})

    def other(self, back: int) -> None:
        self.store("o", {self.now_ms - back * SCRAPE_MS - 5: 2.0})

    def delete(self, one: int, two: int) -> None:
        mint, maxt = (self.now_ms - k * SCRAPE_MS for k in (max(one, two), min(one, two)))
        self.db.delete_series(['{s="o"}'], mint, maxt)

    def flush(self) -> None:
        self.db.flush()

    def compact(self) -> None:
        self.db.flush()
        self.db.compact()

    def build(self) -> None:
        self.db.build_tiers()

    def restart(self) -> None:
        self.db.close()
        self.db = self.open()

    def expire(self, n: int) -> None:
        self.now_ms += n * WIDE
        for chore in (Expiry, RetentionRewriting):
            self.db._storage.maintenance.run(chore(self.db._storage))

    def do(self, step) -> None:
        if step[0] == "raise":
            self.keep_ms = 2 * KEEP_MS if self.keep_ms == KEEP_MS else KEEP_MS
            self.db.reconfigure(retention=self.keep_ms / 1000)
        else:
            getattr(self, step[0])(*step[1:])

    def check(self) -> None:
        source = MemorySource()
        times = sorted(self.samples)
        if not times:
            return
        source.append({"__name__": "m", "s": "a"}, times, [self.samples[t] for t in times])
        engine = Engine(source, self.options)
        last = self.now_ms // WIDE * WIDE
        ends = [last - k * WIDE for k in range(0, 24, 3)]
        ends += [end + HOUR_MS for end in ends[::2]] + [end + 25 * 60_000 for end in ends[1::2]]
        for expr in QUERIES:
            for end in ends:
                found = self.db.query(expr, end)
                if any("not exact" in info for info in found.infos):
                    continue
                got, want = (
                    value_of(answer) for answer in (found, Result(engine.query(expr, end)))
                )
                if not same(got, want):
                    at = (expr, (end - self.now_ms) / HOUR_MS, got, want, found.stats["tiers"])
                    assert math.isnan(got), at
                    assert self.is_gone(end), at

    def is_gone(self, end: int) -> bool:
        """Whether no tier had what was looked at last before retention took it."""
        view = self.db._storage.view()
        last = -(-end // NARROW) * NARROW
        return bool(view.missing_spans(NARROW, view.all_refs(), last - 2 * NARROW + 1, last))


def value_of(answer: Result) -> float:
    rows = answer.to_numpy()
    return rows[0].tolist()[0] if len(rows) else math.nan


def same(one: float, other: float) -> bool:
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)


@settings(
    deadline=None,
    max_examples=int(os.environ.get("TSENGINE_EXACT_EXAMPLES", "4")),
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(steps, min_size=3, max_size=14))
def test_answers_are_those_of_all_samples_or_say_that_they_are_not(plan):
    world = World()
    try:
        for step in [("scrape", 72 * 2), ("build",), ("expire", 9), ("raise",), *plan]:
            world.do(step)
            if step[0] in ("build", "expire"):
                world.check()
        world.check()
    finally:
        world.db.close()
        shutil.rmtree(world.path)
