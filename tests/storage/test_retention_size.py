"""What the limit of bytes takes: the oldest, little more than is over, and nothing comes back."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reference.background import paused, without_chores
from tests.storage.test_catalog_shrink import DAY_MS, Time
from tests.storage.test_deleting_cold import Store
from tests.storage.test_retention import HOUR_MS, append, labels_of, opened, run
from tests.storage.test_retention_overlaps import DAY0, put, values
from tsengine.errors import CorruptionError
from tsengine.model.windows import Column
from tsengine.options import Options, Tier
from tsengine.storage.chores import JobContext
from tsengine.storage.cold_moves import ColdMoves
from tsengine.storage.compaction_plan import partition_of, partition_range
from tsengine.storage.database import StorageDatabase
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.retention_chores import Expiry
from tsengine.storage.retention_size import is_wide, plan_size_removal
from tsengine.storage.tiering_plan import partition_days

NAMES = "{:04}".format


# --- plans ------------------------------------------------------------------------------------


def part(number, first, last, size=100, seq=None):
    """A part of samples; times are hours."""
    seq = number if seq is None else seq
    return PartEntry(
        NAMES(number), 0, first * HOUR_MS + 1, last * HOUR_MS, 10, 1, seq, seq, size
    )  # fmt: skip


def tier(number, first, last, size=100):
    """Windows of an hour."""
    return TierEntry(
        NAMES(number), HOUR_MS, first * HOUR_MS + 1, last * HOUR_MS, 0, (first + 1) * HOUR_MS,
        last * HOUR_MS, 10, 1, number, number, size,
    )  # fmt: skip


def split(entry, names):
    """As a merge of one part does."""
    days = range(partition_of(entry.mint), partition_of(entry.maxt) + 1)
    return [
        replace(
            entry,
            name=NAMES(next(names)),
            mint=max(entry.mint, partition_range(day)[0]),
            maxt=min(entry.maxt, partition_range(day)[1]),
            size_bytes=max(1, entry.size_bytes // len(days)),
        )
        for day in days
    ]


def plan(parts, tiers, limit, **others):
    size = sum(entry.size_bytes for entry in (*parts, *tiers))
    return plan_size_removal(parts, tiers, size_bytes=size, limit_bytes=limit, **others)


HOURS = st.tuples(st.integers(0, 24 * 6 - 1), st.integers(1, 30))
SIZES = st.integers(1, 200)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(HOURS, SIZES), min_size=1, max_size=12),
    st.lists(st.tuples(HOURS, SIZES), max_size=6),
    st.integers(1, 2500),
)
def test_the_oldest_go_and_little_more_than_is_over(spans, tier_spans, over):
    numbers = iter(range(1000))
    parts = [part(next(numbers), a, a + n, size) for (a, n), size in spans]
    tiers = [tier(next(numbers), a, a + n, size) for (a, n), size in tier_spans]
    limit = sum(e.size_bytes for e in (*parts, *tiers)) - over
    newest_day = partition_of(max(e.maxt for e in parts))
    for _ in range(60):
        found = plan(parts, tiers, limit)
        removed = {entry.name for entry in found.removal.entries}
        assert_nothing_comes_back(parts, tiers, removed | {e.name for e in found.rest.entries})
        if not removed and not found.splits:
            break
        assert found.held == () or found.splits
        if removed:
            excess = sum(e.size_bytes for e in (*parts, *tiers)) - limit
            assert found.removal.size_bytes < excess + largest_unit(parts, tiers)
            parts = [e for e in parts if e.name not in removed]
            tiers = [e for e in tiers if e.name not in removed]
            first = min(e.mint for e in parts)
            for gone in found.removal.parts:
                is_newest = partition_of(gone.mint) == newest_day
                assert partition_of(first) >= partition_of(gone.mint) + (not is_newest)
        else:
            assert all(is_wide(entry) for entry in found.splits)
            parts = [
                own for e in parts for own in (split(e, numbers) if e in found.splits else [e])
            ]
    assert max(e.maxt for e in parts) == max(a + n for (a, n), _ in spans) * HOUR_MS
    if sum(e.size_bytes for e in (*parts, *tiers)) > limit:
        assert all(partition_of(e.mint) == newest_day for e in parts)
        assert not tiers


def assert_nothing_comes_back(parts, tiers, removed):
    for entries, first, last, age in (
        (parts, "mint", "maxt", "seq_min"),
        (tiers, "cover_min", "cover_max", "seq_max"),
    ):
        for gone in (e for e in entries if e.name in removed):
            for other in (e for e in entries if e.name not in removed):
                overlaps = getattr(other, first) <= getattr(gone, last) and (
                    getattr(other, last) >= getattr(gone, first)
                )
                assert not (overlaps and getattr(other, age) < getattr(gone, age))


def largest_unit(parts, tiers):
    """A day of samples, or the parts of a tier in one of its partitions."""
    sizes = {}
    for entry in parts:
        if not is_wide(entry):
            day = partition_of(entry.mint)
            sizes[day] = sizes.get(day, 0) + entry.size_bytes
    n_days = partition_days(HOUR_MS)
    for entry in tiers:
        key = "tier", (entry.cover_min - 1) // DAY_MS // n_days
        sizes[key] = sizes.get(key, 0) + entry.size_bytes
    return max(sizes.values())


def names_of(removal):
    return [int(entry.name) for entry in removal.entries]


def test_a_part_of_several_days_is_split_before_its_first_day_goes():
    days = [part(day, day * 24, day * 24 + 24) for day in range(6)]
    wide, late = part(10, 26, 140), part(11, 28, 30)
    found = plan([*days, wide, late], (), 790)
    assert (names_of(found.removal), found.splits) == ([0], ())
    found = plan([*days, wide, late], (), 650)
    assert (names_of(found.removal), found.splits) == ([0], (wide,))
    found = plan([*days[1:], wide, late], (), 650)
    assert (names_of(found.removal), found.splits) == ([], (wide,))
    # If it can't be split, what lies on it stays.
    assert names_of(found.rest) == [1]
    assert names_of(plan([*days[1:], wide, late], (), 50).rest) == [1, 2, 3, 4]


def test_beside_a_part_that_is_left_out_nothing_is_split():
    days = [part(day, day * 24, day * 24 + 24) for day in range(4)]
    wide, late = part(10, 2, 80), part(11, 4, 5)
    found = plan([*days, wide, late], (), 350, lost=[part(20, 500, 501)])
    assert (names_of(found.removal), found.splits) == ([0, 1, 2], ())
    assert [entry.name for entry in found.held] == [late.name]


def test_days_go_whole_but_the_newest():
    parts = [part(1, 0, 5), part(2, 6, 10), part(3, 24, 30), part(4, 31, 35), part(5, 36, 40)]
    assert names_of(plan(parts, (), 490).removal) == [1, 2]
    assert names_of(plan(parts, (), 290).removal) == [1, 2, 3]
    assert names_of(plan(parts, (), 0).removal) == [1, 2, 3, 4]


def test_a_day_of_windows_built_again_waits_for_the_part_below_it():
    samples = [part(day, day * 24, day * 24 + 24) for day in range(10, 20)]
    tiers = [tier(30, 0, 20 * 24), tier(31, 24, 48)]
    size = 100 * 12
    assert names_of(plan(samples, tiers, size - 1).removal) == [10]
    assert names_of(plan(samples, tiers, size - 850).removal) == list(range(10, 19))
    assert names_of(plan(samples, tiers, 150).removal) == [*range(10, 19), 30, 31]


# --- a database -------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    made = []

    def create(**options):
        clock = Time(DAY0 + 4 * HOUR_MS)
        made.append(opened(tmp_path / "db", clock, (), retention=None, **options))
        return made[-1], clock

    yield create
    for database in made:
        database.close()


def limited(database, n_bytes):
    """So many bytes over the limit."""
    size = database.size_bytes(database.state)
    database.reconfigure({"retention_size": max(1, size - n_bytes)})


def noise(database, first, last, job="live"):
    """Samples of every minute, which take some bytes."""
    t_ms = np.arange(DAY0 + first * HOUR_MS + 60_000, DAY0 + last * HOUR_MS, 60_000)
    bits = np.random.default_rng(abs(first)).random(len(t_ms)).view(np.uint64)
    with database.refs_in_use([labels_of(job)]) as refs:
        database.append_columns(np.full(len(t_ms), refs[0], np.uint32), t_ms, bits)
    database.flush()


def filled(make, **options):
    """Twenty days, and today: late samples of 25 days ago came twice."""
    database, clock = make(**options)
    for day in range(20, 0, -1):
        noise(database, -day * 24, -day * 24 + 24)
    database.compact()
    append(database, "back", [DAY0 - 25 * DAY_MS])
    noise(database, 0, 2)
    append(database, "back", [DAY0 - 25 * DAY_MS])
    noise(database, 2, 3, "back")
    noise(database, 3, 4)
    return database, clock


def test_late_samples_do_not_take_everything_with_them(make):
    database, _ = filled(make)
    before = values(database, "live")
    limited(database, 10)
    run(database, Expiry(database))
    assert values(database, "live") == before
    assert all(hour >= 0 for hour in values(database, "back"))
    assert DAY0 - 25 * DAY_MS < database.state.erased[""] <= DAY0 - 24 * DAY_MS
    limited(database, 10)
    run(database, Expiry(database))
    assert values(database, "live") == {h: v for h, v in before.items() if h >= -19 * 24}


def test_a_plan_says_so(make):
    database, _ = filled(make)
    size = database.size_bytes(database.state)
    (removal,) = database.retention_plan({"retention_size": size - 10}).removals
    assert {file.action for file in removal.files} == {"rewrite"}
    assert (removal.series, removal.series_lost) == (2, 0)
    assert 10 <= removal.bytes < size // 20
    limited(database, 10)
    run(database, Expiry(database))
    assert len(database.state.parts) >= 20


def test_what_can_not_be_split_stays_and_the_next_go(make, monkeypatch):
    database, _ = filled(make)
    before = values(database, "back")
    wide = {p.entry.name for p in database.state.parts if is_wide(p.entry)}
    assert len(wide) == 2
    limited(database, 10)

    def merge(self, inputs, level):
        raise CorruptionError("it broke", path=inputs[0].name)

    monkeypatch.setattr(JobContext, "merge", merge)
    with pytest.raises(CorruptionError, match="it broke"):
        run(database, Expiry(database))
    assert wide <= {p.entry.name for p in database.state.parts}
    assert values(database, "back") == before
    assert min(values(database, "live")) == -19 * 24
    monkeypatch.undo()
    run(database, Expiry(database))
    assert values(database, "back") == before, "not over the limit any more"


def test_parts_that_stay_are_told(make, caplog):
    database, clock = make()
    put(database, [-71, -70], 1.0)
    put(database, [-71], 2.0)
    put(database, [1], 3.0)
    name = database.state.parts[0].entry.name
    chore = Expiry(database)
    database.recovery.lost.append(database.state.parts[0].entry)
    limited(database, 1)
    with caplog.at_level(logging.WARNING, "tsengine.storage.retention_chores"):
        assert chore.plan(database.state, clock.now_ms) == []
        assert chore.plan(database.state, clock.now_ms) == []
    assert caplog.text.count("over the limit of bytes, but 1 parts") == 1
    held = database.state.parts[1].entry
    assert held.name in caplog.text
    assert name not in caplog.text
    assert database.stats()["retention_held_bytes"] == held.size_bytes
    database.recovery.lost.clear()
    run(database, chore)
    assert database.stats()["retention_held_bytes"] == 0
    assert min(values(database)) == 1


def test_windows_stay_as_long_as_they_are_not_the_oldest(make):
    database, clock = make(tiers=(Tier(3600.0),))
    noise(database, -20 * 24, 0)
    database.compact()
    database.build_tiers()
    append(database, "live", [DAY0 - 18 * DAY_MS + 1234])
    database.flush()
    clock.now_ms += DAY_MS
    database.build_tiers()
    assert len(database.state.tiers) == 2
    limited(database, 10)
    run(database, Expiry(database))
    assert len(database.state.tiers) == 2
    assert min(p.entry.mint for p in database.state.parts) > DAY0 - 20 * DAY_MS
    assert len(database.state.parts) == 20


class Recorded(Expiry):
    """Notes how many bytes were over the limit, and how many each removal takes."""

    def __init__(self, database):
        super().__init__(database)
        self.steps = []

    def plan(self, state, now_ms):
        jobs = super().plan(state, now_ms)
        over = self._database.size_bytes(state) - self._database.options.retention_size
        days = {}
        for part in state.parts:
            day = partition_of(part.entry.mint)
            days[day] = days.get(day, 0) + part.entry.size_bytes
        self.steps.append((over, jobs, days, tuple(part.entry for part in state.parts)))
        return jobs


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "put and flush", "compact"]),
        st.sampled_from(["a", "b"]),
        st.integers(-150, 0),
        st.integers(1, 40),
    ),
    min_size=4,
    max_size=16,
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps, st.integers(1, 6000))
def test_answers_after_the_cut_are_those_of_a_model(tmp_path_factory, steps, over):
    directory = tmp_path_factory.mktemp("db")
    with closing(opened(directory, Time(DAY0 + HOUR_MS), (), retention=None)) as database:
        check_against_a_model(database, steps, over)


def check_against_a_model(database, steps, over):
    model = {}
    for value, (kind, job, first, n) in enumerate(steps):
        if kind == "compact":
            database.compact()
            continue
        hours = range(first, min(first + n, 0))
        put_only = [DAY0 + hour * HOUR_MS for hour in hours]
        bits = np.full(len(put_only), float(value)).view(np.uint64)
        with database.refs_in_use([labels_of(job)]) as refs:
            rows = np.full(len(put_only), refs[0], np.uint32)
            database.append_columns(rows, np.array(put_only, np.int64), bits)
        model |= {(job, hour): float(value) for hour in hours}
        if kind == "put and flush":
            database.flush()
    database.flush()
    limited(database, over)
    chore = Recorded(database)
    run(database, chore)
    stored = {(job, h): v for job in "ab" for h, v in values(database, job).items()}
    assert stored.items() <= model.items()
    cut = database.state.erased.get("", -(2**62))
    kept = {key for key in model if DAY0 + key[1] * HOUR_MS >= cut}
    assert kept <= stored.keys()
    for before, (excess, jobs, days, entries) in zip(
        chore.steps[1:], chore.steps[:-1], strict=True
    ):
        if jobs[0].what.startswith("removing"):
            assert jobs[0].size_bytes < excess + max(days.values())
            assert {e.name for e in before[3]} < {e.name for e in entries}
    if not chore.steps[-1][1]:
        days = {partition_of(part.entry.mint) for part in database.state.parts}
        assert chore.steps[-1][0] <= 0 or len(days) <= 1


def summed_up(make):
    """A database with three days in a tier; what windows count, and a time of the first day."""
    database, clock = make(tiers=(Tier(3600.0),))
    noise(database, -3 * 24, 0)
    database.compact()
    clock.now_ms += DAY_MS
    database.build_tiers()
    return database, counts(database), DAY0 - 3 * DAY_MS + 5 * HOUR_MS + 1234


def test_windows_count_what_came_late_before_it_goes(make):
    database, before, late = summed_up(make)
    append(database, "live", [late])
    database.flush()
    limited(database, 10)
    run(database, Expiry(database))
    assert min(p.entry.mint for p in database.state.parts) > DAY0 - 2 * DAY_MS
    assert counts(database) == before | {5 - 3 * 24 + 1: 61.0}


def test_heads_are_flushed_before_what_lies_beside_them_goes(make):
    """A head of the day keeps its windows from being built: late samples of the part were lost."""
    database, before, late = summed_up(make)
    append(database, "live", [late])
    database.flush()
    append(database, "live", [late + 1])
    limited(database, 10)
    run(database, Expiry(database))
    assert min(p.entry.mint for p in database.state.parts) > DAY0 - 2 * DAY_MS
    assert counts(database) == before | {5 - 3 * 24 + 1: 62.0}


def test_samples_that_come_all_the_time_hold_up_no_removal(make, monkeypatch):
    database, _, late = summed_up(make)
    append(database, "live", [late])
    flush, n_flushes = database.flush, []

    def flush_and_more():
        n_flushes.append(flush())
        append(database, "live", [late + len(n_flushes)])

    monkeypatch.setattr(database, "flush", flush_and_more)
    limited(database, 10)
    run(database, Expiry(database))
    assert len(n_flushes) == 1
    assert min(p.entry.mint for p in database.state.parts) > DAY0 - 2 * DAY_MS


def test_windows_that_can_not_be_built_hold_up_no_removal(make, monkeypatch):
    database, clock = make(tiers=(Tier(3600.0),))
    noise(database, -3 * 24, 0)
    database.compact()
    clock.now_ms += DAY_MS

    def build(context, wanted):
        raise CorruptionError("it broke", path="x")

    monkeypatch.setattr("tsengine.storage.tiering.build_range", build)
    limited(database, 10)
    with pytest.raises(CorruptionError, match="it broke"):
        run(database, Expiry(database))
    assert min(p.entry.mint for p in database.state.parts) > DAY0 - 2 * DAY_MS


def counts(database):
    """Samples in the windows of an hour, by the hour after DAY0 that they end with."""
    view = database.view()
    mint, maxt = DAY0 - 30 * DAY_MS + 1, DAY0 + DAY_MS
    batch = view.read_windows(view.all_refs(), HOUR_MS, mint, maxt, [Column.COUNT])
    ends = ((batch.end_ms - DAY0) // HOUR_MS).tolist()
    return dict(zip(ends, batch.columns[Column.COUNT].tolist(), strict=True))


def test_windows_that_the_limit_took_are_not_built_again(tmp_path):
    """Their samples are in an object store, so they stay: it would go on for ever."""
    store, clock = Store(), Time(DAY0 - 4 * DAY_MS)
    options = Options(
        tiers=(Tier(3600.0),), cold_url="s3://bucket/p", cold_after=5 * 86_400.0, cold_cache=0
    )
    with paused():
        database = StorageDatabase(
            str(tmp_path / "db"), options, clock=clock, open_store=lambda url, endpoint: store
        )
    with closing(without_chores(database)):
        for day in range(7, 0, -1):
            if day == 5:
                database.build_tiers()
                clock.now_ms = DAY0
            noise(database, -day * 24, -day * 24 + 23)
        database.build_tiers()
        run(database, ColdMoves(database))
        old, new = (tier.entry for tier in database.state.tiers)
        limited(database, 10)
        store.n_reads = 0
        for _ in range(3):
            run(database, Expiry(database))
            assert [tier.entry for tier in database.state.tiers] == [new]
            clock.now_ms += 600_000
            database.build_tiers()
        assert store.n_reads == 0
        assert len(database.state.parts) == 7
        database.reconfigure({"retention_size": None})
        database.build_tiers()
        assert sorted(t.entry.cover_min for t in database.state.tiers) == [
            old.cover_min, new.cover_min,
        ]  # fmt: skip
