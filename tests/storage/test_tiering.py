"""Tiers as a running database builds, rebuilds and merges them; windows are those of a model."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import tsengine
from tests.reference import tiers
from tsengine.errors import StorageError
from tsengine.model.histogram_values import NativeHistogram
from tsengine.options import Options, Tier
from tsengine.storage import tiering, tiering_plan
from tsengine.storage.database import StorageDatabase
from tsengine.storage.tiering_plan import DAY_MS, TierRange

FIRST = 20_010
"""A day; the middle of a partition of 30 days, see test_tiering_plan."""
T0 = FIRST * DAY_MS
STEP_MS = 450_000
NARROW, WIDE = 900_000, 3_600_000
OPTIONS = Options(tiers=(Tier(NARROW / 1000), Tier(WIDE / 1000)))


def wait_until(claim, what):
    for _ in range(600):
        if claim():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited 30 s in vain: {what}")


class Case:
    """A database and a model of what was appended to it."""

    def __init__(self, path, options=OPTIONS, *, now_day=FIRST + 400):
        self.path = str(path)
        self.now_ms = now_day * DAY_MS
        self.model = {}
        self.rng = np.random.default_rng(3)
        self.open(options)

    def open(self, options=OPTIONS):
        self.db = StorageDatabase(self.path, options, clock=lambda: self.now_ms)
        return self

    def reopen(self, options=OPTIONS):
        self.db.close()
        return self.open(options)

    def append(self, first_ms, n, series=(0, 1, 2)):
        """Samples of whole numbers every seven and a half minutes, the first one step after."""
        labels = [{"__name__": "m", "job": "a", "s": str(s)} for s in series]
        refs = self.db.series_refs(labels)
        t_ms = first_ms + STEP_MS * np.arange(1, n + 1)
        for ref in refs.tolist():
            values = self.rng.integers(0, 50, n).astype(np.float64)
            self.db.append_columns(np.full(n, ref, np.uint32), t_ms, values.view(np.uint64))
            own = zip(t_ms.tolist(), values.view(np.uint64).tolist(), strict=True)
            self.model.setdefault(ref, {}).update(own)

    def append_days(self, first, n):
        self.append(first * DAY_MS, n * (DAY_MS // STEP_MS))

    def delete(self, ref, mint, maxt):
        self.db.delete(np.array([ref], np.uint32), mint, maxt)
        kept = {t: bits for t, bits in self.model[ref].items() if not mint <= t <= maxt}
        self.model[ref] = kept

    def check(self, first, last):
        """All windows of the days are those of the model, whoever answers."""
        mint, maxt = first * DAY_MS + 1, (last + 1) * DAY_MS
        refs = np.array(sorted(self.model), np.uint32)
        view = self.db.view()
        for width_ms in (NARROW, WIDE):
            expected = tiers.windows_of(
                {
                    ref: {t: bits for t, bits in own.items() if mint <= t <= maxt}
                    for ref, own in self.model.items()
                },
                width_ms,
            )
            batch = view.read_windows(refs, width_ms, mint, maxt, tiers.FLOATS)
            found = tiers.windows_in(batch, refs.tolist())
            assert {ref: own for ref, own in found.items() if own} == expected

    def read(self, width_ms, first, last):
        return self.db.view().tiers_read(width_ms, first * DAY_MS + 1, (last + 1) * DAY_MS)

    def covers(self, width_ms=NARROW):
        """Days of the tier's parts: (first, last)."""
        return [
            ((tier.entry.cover_min - 1) // DAY_MS, (tier.entry.cover_max - 1) // DAY_MS)
            for tier in self.db.state.tiers
            if tier.entry.width_ms == width_ms
        ]

    def folders(self):
        path = os.path.join(self.path, "tiers")
        return sorted(os.listdir(path)) if os.path.exists(path) else []


@pytest.fixture
def make(tmp_path):
    cases = []

    def create(**kwargs):
        case = Case(tmp_path / "db", **kwargs)
        cases.append(case)
        return case

    yield create
    for case in cases:
        case.db.close()


def test_days_are_built_and_survive_a_restart(make):
    case = make()
    case.append_days(FIRST, 4)
    case.db.flush()
    assert case.read(WIDE, FIRST, FIRST + 3) == ("raw",)
    case.db.build_tiers()
    assert case.covers(NARROW) == case.covers(WIDE) == [(FIRST, FIRST + 3)]
    assert case.read(NARROW, FIRST, FIRST + 3) == ("15m",)
    assert case.read(WIDE, FIRST, FIRST + 3) == ("1h",)
    case.check(FIRST, FIRST + 3)
    case.reopen()
    assert case.read(WIDE, FIRST, FIRST + 3) == ("1h",)
    case.check(FIRST, FIRST + 3)
    numbers = case.db.stats()
    assert numbers["tier_parts"] == 2
    assert numbers["tier_bytes"] == sum(tier.entry.size_bytes for tier in case.db.state.tiers)
    assert len(case.folders()) == 2


def test_building_includes_what_is_not_flushed_and_leaves_the_running_day(make):
    case = make(now_day=FIRST + 2)
    case.now_ms += DAY_MS // 2
    case.append_days(FIRST, 2)
    case.append((FIRST + 2) * DAY_MS, 20)
    case.db.build_tiers()
    assert case.covers() == [(FIRST, FIRST + 1)]
    assert case.read(WIDE, FIRST, FIRST + 2) == ("raw", "1h")
    case.check(FIRST, FIRST + 2)


def test_the_wide_tier_is_made_of_the_narrow_one(make, monkeypatch):
    read = []
    real = tiering.DatabaseView if hasattr(tiering, "DatabaseView") else None
    assert real is None  # imported for types only: the view comes from the database
    case = make()
    case.append_days(FIRST, 2)
    view_of = case.db.view_of

    def spy(state, *args):
        view = view_of(state, *args)
        read.append(view.tiers_read(WIDE, FIRST * DAY_MS + 1, (FIRST + 2) * DAY_MS))
        return view

    monkeypatch.setattr(case.db, "view_of", spy)
    case.db.build_tiers()
    assert read[:2] == [("raw",), ("15m",)]


def test_days_build_themselves_some_time_after_they_ended(make, monkeypatch):
    monkeypatch.setattr("tsengine.storage.worker._PLAN_EVERY_S", 0.05)
    case = make(now_day=FIRST + 1)
    case.append_days(FIRST, 1)
    case.db.flush()
    seen = case.db.maintenance._planner
    wait_until(lambda: len(seen._seen_ms or ()) == 1, "the part is seen")
    case.now_ms += 7_200_000 - 1
    time.sleep(1.5)
    assert case.covers() == []
    case.now_ms += 1
    wait_until(lambda: case.covers(WIDE) == [(FIRST, FIRST)], "the day's tiers")
    case.check(FIRST, FIRST)


def test_a_day_that_gets_samples_waits_until_they_stop(make, monkeypatch):
    monkeypatch.setattr("tsengine.storage.worker._PLAN_EVERY_S", 0.05)
    case = make()
    case.append_days(FIRST, 1)
    case.db.flush()
    seen = case.db.maintenance._planner
    wait_until(lambda: len(seen._seen_ms or ()) == 1, "the part is seen")
    time.sleep(1.5)
    assert case.covers() == []
    case.now_ms += tiering.QUIET_MS
    wait_until(lambda: case.covers(WIDE) == [(FIRST, FIRST)], "the quiet day's tiers")
    case.check(FIRST, FIRST)


def test_late_samples_are_read_at_once_and_their_day_is_built_again(make):
    case = make(now_day=FIRST + 5)
    case.append_days(FIRST, 3)
    case.db.build_tiers()
    old = {tier.entry.name for tier in case.db.state.tiers}
    case.append((FIRST + 1) * DAY_MS + 3_000_000, 3, series=[1])
    case.check(FIRST, FIRST + 2)
    assert case.read(WIDE, FIRST + 1, FIRST + 1) == ("raw", "1h")
    assert case.read(WIDE, FIRST, FIRST) == ("1h",)
    case.db.flush()
    case.check(FIRST, FIRST + 2)
    assert case.read(WIDE, FIRST, FIRST + 2) == ("raw", "1h")
    case.db.build_tiers()
    assert case.read(WIDE, FIRST, FIRST + 2) == ("1h",)
    assert case.covers() == [(FIRST, FIRST + 2), (FIRST + 1, FIRST + 1)]
    assert old < {tier.entry.name for tier in case.db.state.tiers}
    case.check(FIRST, FIRST + 2)
    case.reopen().check(FIRST, FIRST + 2)


def test_a_head_that_has_samples_of_a_day_blocks_only_that_day(make):
    case = make()
    case.append_days(FIRST, 2)
    case.append_days(FIRST + 4, 2)
    case.db.flush()
    case.append((FIRST + 4) * DAY_MS + 7, 1)
    planner = case.db.maintenance._planner
    jobs = tiering.TierBuilding(planner, eager=True).plan(case.db.state, case.now_ms)
    assert [job.what for job in jobs if "3600 s" in job.what] == [
        "building windows of 3600 s of 2024-10-14 to 2024-10-15",
        "building windows of 3600 s of 2024-10-19",
    ]
    context = case.db.maintenance._worker._foreground
    blocked = TierRange(NARROW, (FIRST + 4) * DAY_MS + 1, (FIRST + 5) * DAY_MS)
    with pytest.raises(StorageError, match="new samples came"):
        tiering.build_range(context, blocked)
    assert case.folders() == []


def test_deletes_change_windows_at_once_and_when_they_are_built_again(make):
    case = make()
    case.append_days(FIRST, 3)
    case.db.build_tiers()
    case.delete(1, (FIRST + 1) * DAY_MS + 5_000_000, (FIRST + 1) * DAY_MS + 9_000_000)
    case.check(FIRST, FIRST + 2)
    case.db.build_tiers()
    assert case.read(WIDE, FIRST, FIRST + 2) == ("1h",)
    case.check(FIRST, FIRST + 2)
    case.reopen().check(FIRST, FIRST + 2)


def test_days_that_come_one_by_one_are_merged_by_eight(make):
    case = make(now_day=FIRST)
    for k in range(9):
        case.append_days(FIRST + k, 1)
        case.now_ms = (FIRST + k + 1) * DAY_MS
        case.db.build_tiers()
    assert case.covers() == [(FIRST, FIRST + 7), (FIRST + 8, FIRST + 8)]
    assert [tier.entry.level for tier in case.db.state.tiers] == [1, 0, 1, 0]
    assert case.read(NARROW, FIRST, FIRST + 8) == ("15m",)
    case.check(FIRST, FIRST + 8)
    # When the partition has ended they become one.
    case.now_ms = (FIRST + 40) * DAY_MS
    case.db.build_tiers()
    assert case.covers() == [(FIRST, FIRST + 7), (FIRST + 8, FIRST + 8)]
    for k in range(9, 12):
        case.append_days(FIRST + k, 1)
    case.db.build_tiers()
    assert case.covers() == [(FIRST, FIRST + 11)]
    case.check(FIRST, FIRST + 11)
    case.reopen().check(FIRST, FIRST + 11)
    assert len(case.folders()) == len(case.db.state.tiers)


def test_a_month_is_one_part_and_chunks_of_series_make_no_difference(make, monkeypatch):
    monkeypatch.setattr(tiering, "CHUNK_NUMBERS", 1)
    case = make()
    case.append_days(FIRST - 3, 40)
    case.db.build_tiers()
    assert case.covers() == [(FIRST - 3, FIRST - 1), (FIRST, FIRST + 29), (FIRST + 30, FIRST + 36)]
    case.check(FIRST - 3, FIRST + 36)


def test_jobs_are_committed_one_by_one(make, monkeypatch):
    """A failure leaves what was built before, and the rest is built later."""
    monkeypatch.setattr(tiering_plan, "JOB_SAMPLES_MAX", 1)
    case = make(now_day=FIRST + 5)
    case.append_days(FIRST, 3)
    real, n = tiering.write_tier_part, []

    def fail_third(*args, **kwargs):
        n.append(1)
        if len(n) == 3:
            raise OSError(5, "it broke")
        return real(*args, **kwargs)

    monkeypatch.setattr(tiering, "write_tier_part", fail_third)
    with pytest.raises(StorageError, match="it broke"):
        case.db.build_tiers()
    assert case.covers(NARROW) == case.covers(WIDE) == [(FIRST, FIRST)]
    assert len(case.folders()) == 2
    case.check(FIRST, FIRST + 2)
    case.db.build_tiers()
    assert len(case.covers(WIDE)) == 3
    case.check(FIRST, FIRST + 2)


def test_a_tier_taken_out_of_the_options_goes_and_one_put_in_is_built(make):
    case = make()
    case.append_days(FIRST, 3)
    case.db.build_tiers()
    finer = Options(tiers=(Tier(450.0), Tier(WIDE / 1000)))
    case.reopen(finer)
    case.db.build_tiers()
    assert case.covers(NARROW) == []
    assert case.covers(450_000) == case.covers(WIDE) == [(FIRST, FIRST + 2)]
    assert case.db.view().tier_widths_ms == (450_000, WIDE)
    assert case.db.view().tiers_read(NARROW, T0 + 1, T0 + DAY_MS) == ("450s",)
    case.check(FIRST, FIRST + 2)
    case.reopen(Options(tiers=()))
    case.db.build_tiers()
    assert case.covers(450_000) == case.covers(WIDE) == []
    assert case.read(NARROW, FIRST, FIRST + 2) == ("raw",)


def test_a_tier_that_alone_has_a_time_is_kept_when_it_is_no_longer_configured(make):
    case = make(now_day=FIRST + 3)
    case.append_days(FIRST, 3)
    case.db.build_tiers()
    short = Options(tiers=(), retention=DAY_MS / 1000)
    case.now_ms = (FIRST + 30) * DAY_MS
    case.reopen(short)
    wait_until(lambda: not case.db.state.parts, "the samples' end")
    case.db.build_tiers()
    assert case.covers(NARROW) == case.covers(WIDE) == [(FIRST, FIRST + 2)]
    assert case.read(WIDE, FIRST, FIRST + 2) == ("1h",)


def test_windows_are_built_before_their_samples_expire(make):
    """Samples past their retention wait for the tiers that keep longer."""
    case = make(
        options=Options(tiers=OPTIONS.tiers, retention=2 * DAY_MS / 1000), now_day=FIRST + 1
    )
    case.append_days(FIRST, 1)
    case.db.flush()
    case.now_ms = (FIRST + 9) * DAY_MS
    case.reopen(case.db.options)
    wait_until(lambda: not case.db.state.parts, "tiers, then the samples' end")
    assert case.covers(NARROW) == case.covers(WIDE) == [(FIRST, FIRST)]
    case.check(FIRST, FIRST)


def test_read_only_reads_tiers(make):
    case = make()
    case.append_days(FIRST, 2)
    case.db.build_tiers()
    reader = StorageDatabase(case.path, OPTIONS, read_only=True, clock=lambda: case.now_ms)
    view = reader.view()
    assert view.tiers_read(WIDE, FIRST * DAY_MS + 1, (FIRST + 2) * DAY_MS) == ("1h",)
    reader.close()


def test_native_histograms_are_summed_up_too(tmp_path):
    """Answers about histograms and floats of one database are those from samples."""
    rng = np.random.default_rng(8)
    expressions = ("rate(h[1h])", "sum_over_time(h[1h])", "last_over_time(h[2h])", "rate(f[1h])")
    counts = np.zeros(6)
    histograms = []
    for k in range(2 * 288):
        if k in (100, 400):
            counts[:] = 0
        counts += rng.integers(0, 4, 6)
        buckets = {index: float(counts[index]) for index in range(6) if counts[index]}
        histograms.append(
            NativeHistogram(
                schema=0, count=counts.sum(), sum=float(3 * counts.sum()), positive=buckets
            )
        )
    t_ms = T0 + 300_000 * np.arange(1, len(histograms) + 1)
    times = {"start": T0 + 2 * WIDE, "end": T0 + 2 * DAY_MS, "step": WIDE}

    def ask(database, expr):
        result = database.query_range(expr, **times)
        return result.histograms(), result.to_numpy(), result.stats["tiers"]

    with tsengine.open(tmp_path / "db") as database:
        database.append_histograms({"__name__": "h", "job": "a"}, t_ms, histograms)
        database.append({"__name__": "f", "job": "a"}, t_ms, np.arange(len(t_ms)) % 50.0)
        database.flush()
        before = {expr: ask(database, expr) for expr in expressions}
        assert [tiers for _, _, tiers in before.values()] == [("raw",)] * 4
        database.build_tiers()
        for expr, (found, values, _) in before.items():
            again, values_again, tiers = ask(database, expr)
            assert tiers == ("1h",), expr
            np.testing.assert_allclose(values_again, values, rtol=1e-12)
            assert [labels for labels, _, _ in again] == [labels for labels, _, _ in found]
            for (_, own_t, own), (_, other_t, other) in zip(again, found, strict=True):
                assert own_t.tolist() == other_t.tolist()
                for one, two in zip(own, other, strict=True):
                    assert one.count == pytest.approx(two.count, rel=1e-12)
                    assert one.sum == pytest.approx(two.sum, rel=1e-12)
                    assert one.positive == pytest.approx(two.positive, rel=1e-12)
