"""What is erased is remembered: marks, and who answers for times of which samples may be gone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tests.storage.test_retention import (
    DAY_S,
    HOUR_MS,
    append,
    labels_of,
    on_disk,
    opened,
    run,
    stored,
)
from tsengine.engine import Database
from tsengine.model.windows import Column
from tsengine.options import Options, RetentionRule, Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.retention_chores import Expiry
from tsengine.storage.retention_marks import NOTHING_MS, Marks, Raise, mark_after
from tsengine.storage.retention_size import plan_size_removal

WIDE_MS = 6 * HOUR_MS
TIERS = (Tier(3600.0), Tier(6 * 3600.0))
DAY0 = T0 // DAY_MS * DAY_MS
SLO = RetentionRule('{job="slo"}', None)


@pytest.fixture
def make(tmp_path):
    """A database whose samples of three days ended thirteen days ago, tiers built; not expired."""
    made = []

    def create(rules=(), *, jobs=("api",), tiers=TIERS, retention=10 * DAY_S, **options):
        clock = Time(DAY0 + 1)
        database = opened(
            tmp_path / "db", clock, rules, tiers=tiers, retention=retention, **options
        )
        made.append(database)
        for job in jobs:
            append(database, job, TIMES)
        database.flush()
        clock.now_ms = DAY0 + DAY_MS
        database.build_tiers()
        return database, clock

    yield create
    for database in made:
        database.close()


TIMES = list(range(DAY0 - 3 * DAY_MS + HOUR_MS // 2, DAY0 + 1, HOUR_MS // 2))
"""Two samples of each hour."""


def windows(database, job, width_ms=HOUR_MS):
    """Count and sum of each window, by its end."""
    view = database.view()
    refs = view.catalog.find(parse_selector(f'{{job="{job}"}}'))
    mint, maxt = DAY0 - 60 * DAY_MS + 1, DAY0 + 60 * DAY_MS
    batch = view.read_windows(refs, width_ms, mint, maxt, [Column.COUNT, Column.SUM])
    ends = batch.end_ms[slice(*batch.axis_offsets[batch.row_axis[0] : batch.row_axis[0] + 2])]
    columns = zip(batch.columns[Column.COUNT], batch.columns[Column.SUM], strict=True)
    return dict(zip(ends.tolist(), columns, strict=True))


def expected(times, width_ms=HOUR_MS):
    found = {}
    for t in times:
        end = -(-t // width_ms) * width_ms
        count, total = found.get(end, (0.0, 0.0))
        found[end] = count + 1.0, total + t
    return found


def exact_floor(database, job, width_ms):
    view = database.view()
    return view.exact_floor_ms(width_ms, view.catalog.find(parse_selector(f'{{job="{job}"}}')))


def both(database, job="api"):
    return [windows(database, job, width_ms) for width_ms in (HOUR_MS, WIDE_MS)]


def both_of(times):
    return [expected(times, width_ms) for width_ms in (HOUR_MS, WIDE_MS)]


def reopened(database, tmp_path, clock, *rules, **options):
    database.close()
    return opened(tmp_path / "db", clock, rules, **options)


# --- a retention that is raised -------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_tiers_answer_after_the_retention_was_raised(make, tmp_path, restart):
    database, clock = make()
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    assert on_disk(database) == {}
    assert both(database) == both_of(TIMES)
    if restart:
        database = reopened(database, tmp_path, clock, tiers=TIERS, retention=90 * DAY_S)
    else:
        database.reconfigure({"retention": 90 * DAY_S})
    assert both(database) == both_of(TIMES)
    assert stored(database)["api", 0] == TIMES[1::2], "the last of each window"
    assert exact_floor(database, "api", 0) == DAY0
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - 3 * DAY_MS
    # A late sample is read, and added to what is known of its window.
    late = DAY0 - DAY_MS + 7
    assert append(database, "api", [late]).n_samples == 1
    assert stored(database)["api", 0] == sorted([*TIMES[1::2], late])
    assert both(database) == both_of([*TIMES, late])
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - DAY_MS + HOUR_MS, "not settled"
    database.build_tiers()
    assert both(database) == both_of([*TIMES, late])
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - 3 * DAY_MS
    assert stored(database)["api", 0] == sorted([*TIMES[1::2], late])
    if restart:
        database.close()


def test_a_delete_takes_no_other_windows_after_the_retention_was_raised(make):
    database, clock = make(jobs=("api", "other"))
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    database.reconfigure({"retention": 90 * DAY_S})
    refs = database.view().catalog.find(parse_selector('{job="api"}'))
    cut = DAY0 - DAY_MS + HOUR_MS // 4
    database.delete(refs, cut, cut + HOUR_MS)
    database.clean_tombstones()
    database.build_tiers()
    left = [t for t in TIMES if not cut - HOUR_MS // 4 < t <= cut + HOUR_MS + 3 * HOUR_MS // 4]
    assert windows(database, "api") == expected(left)
    assert both(database, "other") == both_of(TIMES)
    assert database.state.tombstones == ()


def test_samples_that_were_not_erased_are_read_where_no_tier_has_them(make):
    database, clock = make(tiers=())
    clock.now_ms = DAY0 + 8 * DAY_MS - HOUR_MS // 4
    database.compact()
    gone = DAY0 - 2 * DAY_MS
    left = [t for t in TIMES if t > gone]
    database.reconfigure({"retention": 90 * DAY_S})
    assert set(left) <= set(stored(database)["api", 0]) <= set(TIMES)
    append(database, "api", [gone - 5 * DAY_MS])
    assert gone - 5 * DAY_MS in stored(database)["api", 0]


def test_what_comes_late_where_nothing_was_is_built(make):
    database, clock = make()
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    database.reconfigure({"retention": 90 * DAY_S})
    late = [t - 10 * DAY_MS for t in TIMES]
    append(database, "api", late)
    assert both(database) == both_of([*late, *TIMES])
    database.build_tiers()
    assert both(database) == both_of([*late, *TIMES])
    database.reconfigure({"retention": 10 * DAY_S})
    run(database)
    assert on_disk(database) == {}
    assert both(database) == both_of([*late, *TIMES])


def test_a_tier_without_finer_ones_is_no_reason_to_keep_samples_for_ever(make, tmp_path):
    database, clock = make(tiers=TIERS[1:])
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    database = reopened(database, tmp_path, clock, tiers=TIERS, retention=90 * DAY_S)
    late = DAY0 - DAY_MS + 7
    append(database, "api", [late])
    database.build_tiers()
    assert windows(database, "api", WIDE_MS) == expected([*TIMES, late], WIDE_MS)
    database.reconfigure({"retention": 10 * DAY_S})
    run(database)
    assert on_disk(database) == {}
    assert windows(database, "api", WIDE_MS) == expected([*TIMES, late], WIDE_MS)
    database.close()


def test_queries_after_the_retention_was_raised(tmp_path):
    clock = Time(DAY0 + 1)
    options = Options(retention=10 * DAY_S, tiers=TIERS)
    with Database(str(tmp_path), options, clock=clock) as db:
        storage = db._storage
        storage.maintenance.pause()
        db.append(labels_of("api"), TIMES, [float(t % 7) for t in TIMES])
        clock.now_ms = DAY0 + DAY_MS
        storage.build_tiers()
        clock.now_ms = DAY0 + 13 * DAY_MS
        run(storage)
        assert storage.state.parts == ()
        db.reconfigure(retention=90 * DAY_S)
        db.append(labels_of("api"), [DAY0 - DAY_MS + 7], [5.0])
        storage.build_tiers()
        span = (DAY0 - 2 * DAY_MS, DAY0, WIDE_MS)
        counts = db.query_range("count_over_time(m[6h])", *span)
        assert counts.to_numpy().tolist() == [[12.0] * 5 + [13.0] + [12.0] * 3]
        assert counts.infos == []
        last = db.query_range("m", *span)
        assert last.to_numpy().tolist() == [
            [float(t % 7) for t in range(span[0], span[1] + 1, WIDE_MS)]
        ]
        assert "not exact" in db.query_range("count_over_time(m[30m])", *span).infos[0]


# --- marks ----------------------------------------------------------------------------------------


def test_the_mark_is_in_the_manifest_with_the_commit_that_drops(make):
    database, clock = make(rules=(SLO,), jobs=("api", "slo"))
    assert dict(database.state.erased) == {}
    clock.now_ms = DAY0 + 8 * DAY_MS + 5
    database.compact()
    assert on_disk(database)["api"] == 48 * 2, "up to whole windows of the widest tier"
    mark = DAY0 - 2 * DAY_MS + 1
    assert dict(database.state.erased) == {"": mark, '{job="slo"}': NOTHING_MS}
    assert exact_floor(database, "slo", 0) is None
    database.reconfigure({"retention": 90 * DAY_S})
    assert exact_floor(database, "api", 0) == mark - 1
    assert exact_floor(database, "slo", 0) is None
    # Without the rule its series are like all others, and so they are when it comes again.
    database.reconfigure({"retention": 10 * DAY_S, "retention_rules": ()})
    clock.now_ms += DAY_MS
    run(database)
    assert dict(database.state.erased) == {"": mark + DAY_MS}
    database.reconfigure({"retention": 90 * DAY_S, "retention_rules": (SLO,)})
    assert exact_floor(database, "slo", 0) == mark + DAY_MS - 1


def test_marks_of_selectors():
    assert Marks.of({}, ["a"]) == Marks(NOTHING_MS, (NOTHING_MS,))
    assert Marks.of({"": 5, "b": 3}, ["a", "b"]) == Marks(5, (5, 3))
    first = Raise(10, {"a": NOTHING_MS}).applied({})
    assert first == {"": 10, "a": NOTHING_MS}
    second = Raise(20, {"a": 7, "b": 8}).applied(first)
    assert second == {"": 20, "a": 7, "b": 10}
    assert Raise(5, {"b": 15}).applied(second) == {"": 20, "b": 15}
    assert Raise(NOTHING_MS, {"b": 15}).applied({}) == {"b": 15}


def test_a_mark_ends_with_a_window():
    assert mark_after([(0, 50)], 101, 10) == 51
    assert mark_after([(0, 51)], 101, 10) == 61
    assert mark_after([(0, 500), (90, 95)], 101, 10) == 101
    assert mark_after([(101, 500)], 101, 10) == NOTHING_MS
    assert mark_after([], 101, 10) == NOTHING_MS


# --- whole windows --------------------------------------------------------------------------------


@pytest.mark.parametrize("tiers", [TIERS, TIERS[1:]])
def test_a_merge_cuts_no_window(make, tiers):
    database, clock = make(tiers=tiers)
    clock.now_ms = DAY0 + 8 * DAY_MS + 3 * HOUR_MS + 7
    database.compact()
    # Late, but not too late, in the window that the floor divides.
    late = DAY0 - 2 * DAY_MS + 5 * HOUR_MS + 1
    append(database, "api", [late])
    database.build_tiers()
    assert windows(database, "api", WIDE_MS) == expected([*TIMES, late], WIDE_MS)
    gone = DAY0 - 2 * DAY_MS + 3 * HOUR_MS
    kept = {end: w for end, w in expected([*TIMES, late]).items() if end > gone}
    found = windows(database, "api")
    assert {end: w for end, w in found.items() if end > gone + HOUR_MS} == {
        end: w for end, w in kept.items() if end > gone + HOUR_MS
    }


def test_a_tier_is_merged_without_what_is_past_its_retention(make):
    tiers = (Tier(3600.0, 30 * DAY_S), TIERS[1])
    database, clock = make(tiers=tiers, retention=None)
    times = list(TIMES)

    def add_day(k):
        times.extend(range(DAY0 + k * DAY_MS + HOUR_MS // 2, DAY0 + (k + 1) * DAY_MS + 1, HOUR_MS))
        append(database, "api", times[-24:])
        database.build_tiers()

    for k in range(6):
        clock.now_ms = DAY0 + (k + 2) * DAY_MS
        add_day(k)
    hourly = [tier.entry for tier in database.state.tiers if tier.entry.width_ms == HOUR_MS]
    assert len(hourly) == 7
    # The first part of the tier of 1 h begins before its retention and ends inside.
    clock.now_ms = DAY0 - 3 * DAY_MS + 30 * DAY_MS + 5 * HOUR_MS + 77
    add_day(6)
    (merged,) = [tier.entry for tier in database.state.tiers if tier.entry.width_ms == HOUR_MS]
    assert merged.cover_min == DAY0 - 3 * DAY_MS + 6 * HOUR_MS + 1
    assert both(database) == both_of(times)


@pytest.mark.parametrize("chore", ["clean", "rules"])
def test_what_is_left_of_an_old_tier_part_is_rewritten(make, chore):
    tiers = (Tier(3600.0, 30 * DAY_S),)
    rule = RetentionRule('{job="ci"}', 32 * DAY_S)
    database, clock = make(rules=(rule,), jobs=("api", "ci"), tiers=tiers, retention=None)
    (tier,) = database.state.tiers
    clock.now_ms = tier.entry.cover_min + 30 * DAY_MS + 5 * HOUR_MS + 77
    refs = database.view().catalog.find(parse_selector('{job="ci"}'))
    if chore == "clean":
        database.delete(refs, -(2**62), 2**62)
        database.clean_tombstones()
        assert database.state.tombstones == ()
    else:
        database.reconfigure({"retention_rules": (RetentionRule('{job="ci"}', 20 * DAY_S),)})
        run(database)
    assert [len(t.refs) for t in database.state.tiers] == [1]
    assert database.state.tiers[0].entry.cover_min == tier.entry.cover_min + 6 * HOUR_MS
    assert both(database) == both_of(TIMES)


# --- longer rules ---------------------------------------------------------------------------------


def test_samples_that_a_rule_keeps_are_preferred_to_a_tier_that_is_not_clean(make):
    database, clock = make(rules=(SLO,), jobs=("api", "slo"))
    clock.now_ms = DAY0 + 10 * DAY_MS + 1
    run(database)
    late = DAY0 - DAY_MS + 7
    append(database, "slo", [late])
    assert both(database, "slo") == both_of([*TIMES, late])
    assert both(database, "api") == both_of(TIMES)
    assert exact_floor(database, "slo", HOUR_MS) is None
    # What came late is of the other series.
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - 3 * DAY_MS
    database.flush()
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - 3 * DAY_MS
    # Both in one read.
    view = database.view()
    batch = view.read_windows(view.all_refs(), HOUR_MS, DAY0 - 3 * DAY_MS + 1, DAY0, [Column.COUNT])
    assert np.add.reduceat(batch.columns[Column.COUNT], batch.row_offsets[:-1]).tolist() == [
        len(TIMES), len(TIMES) + 1,
    ]  # fmt: skip
    database.build_tiers()
    assert both(database, "slo") == both_of([*TIMES, late])
    assert both(database, "api") == both_of(TIMES)
    assert exact_floor(database, "api", HOUR_MS) == DAY0 - 3 * DAY_MS


# --- by size --------------------------------------------------------------------------------------


def part(name, mint, maxt, seq, size=100):
    return PartEntry(name, 0, mint, maxt, 1, 1, seq, seq, size)


def tier(name, mint, maxt, seq, size=100, width_ms=10):
    return TierEntry(name, width_ms, mint, maxt, 0, mint + 9, maxt, 1, 1, seq, seq, size)


def removed(parts, tiers=(), *, to_free, kept=()):
    size = sum(entry.size_bytes for entry in (*parts, *tiers))
    plan = plan_size_removal(
        parts, tiers, size_bytes=size, limit_bytes=size - to_free, kept=frozenset(kept)
    )
    assert not plan.splits
    assert not plan.rest.entries
    return sorted(entry.name for entry in plan.removal.entries)


def test_no_part_goes_without_the_older_ones_it_overwrites():
    newest = part("z", 900, 999, 99)
    old, new = part("a", 1, 500, 1), part("b", 100, 200, 2)
    assert removed([old, new, newest], to_free=50) == ["a"]
    assert removed([old, new, newest], to_free=150) == ["a", "b"]
    new = part("b", 1, 200, 2)
    assert removed([new, old, part("c", 600, 700, 3), newest], to_free=50) == ["a", "b"]
    # A later one may stay.
    assert removed([part("a", 100, 200, 1), part("b", 1, 500, 2), newest], to_free=50) == ["a"]
    # In chains.
    chain = [part("a", 300, 500, 1), part("b", 150, 300, 2), part("c", 1, 150, 3), newest]
    assert removed(chain, to_free=50) == ["a", "b", "c"]


def test_what_overwrites_a_part_that_can_not_go_stays():
    newest = part("z", 100, 999, 1)
    assert removed([newest, part("b", 150, 200, 2), part("c", 1, 90, 3)], to_free=200) == ["c"]
    cold = part("a", 1, 300, 1)
    others = [cold, part("b", 150, 200, 2), part("c", 310, 320, 3), part("z", 900, 999, 99)]
    assert removed(others, to_free=50, kept=["a"]) == ["c"]


def test_parts_of_tiers_likewise():
    newest = part("z", 900, 999, 99)
    tiers = [tier("t1", 1, 300, 1), tier("t2", 101, 200, 2), tier("t3", 1, 250, 3, width_ms=50)]
    assert removed([newest], tiers, to_free=50) == ["t3"]
    assert removed([newest], tiers, to_free=150) == ["t1", "t3"]
    tiers[1] = tier("t2", 1, 200, 2)
    assert removed([newest], tiers[1::-1], to_free=50) == ["t1", "t2"]


def test_tiers_answer_for_what_the_limit_of_bytes_took(make):
    database, clock = make(retention=None)
    database.compact()
    append(database, "api", [clock.now_ms - 1])
    database.flush()
    parts = [p.entry for p in database.state.parts]
    assert len(parts) == 4
    limit = database.size_bytes(database.state) - sum(e.size_bytes for e in parts[:2])
    # Only samples are to go here: tiers are small.
    database.reconfigure({"retention_size": limit})
    run(database, Expiry(database))
    assert len(database.state.parts) == 2
    assert len(database.state.tiers) == 2
    assert dict(database.state.erased) == {"": DAY0 - DAY_MS + 1}
    database.reconfigure({"retention_size": None})
    late = DAY0 - 2 * DAY_MS + 7
    append(database, "api", [late])
    now = [clock.now_ms - 1]
    assert both(database) == both_of([*TIMES, late, *now])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, late, *now])
    assert late in stored(database)["api", 0]


def test_overwritten_values_stay_overwritten(make):
    database, clock = make(retention=None, tiers=())
    with database.refs_in_use([labels_of("api")]) as refs:
        ref = refs[0]
    old = np.array(TIMES[:3], np.int64)
    database.append_columns(np.full(3, ref, np.uint32), old, np.zeros(3).view(np.uint64))
    database.flush()
    append(database, "api", [clock.now_ms - 1])
    database.flush()
    sizes = [p.entry.size_bytes for p in database.state.parts]
    # The later one ends first; it alone would be enough. The other is of several days.
    database.reconfigure({"retention_size": database.size_bytes(database.state) - sizes[1] // 2})
    run(database, Expiry(database))
    left = stored(database)["api", 0]
    assert left == [t for t in TIMES if t > database.state.erased[""]] + [clock.now_ms - 1]
    assert DAY0 - 2 * DAY_MS < left[0] < clock.now_ms - 1
