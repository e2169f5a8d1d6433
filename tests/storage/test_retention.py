"""Retention against a dict: by time, by rules, by bytes; hidden at once, erased later."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tsengine
from tests.reference.background import paused, without_chores
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tsengine.errors import OptionsError, TooOldSample
from tsengine.model.exemplars import ExemplarBatch, pack_labels
from tsengine.model.labels import label_dicts
from tsengine.options import Options, RetentionRule, Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.database import StorageDatabase
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

DAY_S = 86_400.0
HOUR_MS = 3_600_000
JOBS = ("api", "ci", "slo", "other")
RULES = (
    RetentionRule('{job="ci"}', 3 * DAY_S),
    RetentionRule('{job=~"slo|ci"}', None),
    RetentionRule('{job="other", n="1"}', 20 * DAY_S),
)
KEEP_DAYS = {"api": 10, "ci": 3, "slo": None, "other": 10}


def opened(directory, clock, rules=RULES, *, tiers=(), retention=10 * DAY_S, **options):
    with paused():
        database = StorageDatabase(
            str(directory),
            Options(retention=retention, retention_rules=tuple(rules), tiers=tiers, **options),
            clock=clock,
            parse_selector=parse_selector,
        )
    return without_chores(database)


def labels_of(job, n=0):
    return {"__name__": "m", "job": job, "n": str(n)}


def append(database, job, times, n=0):
    """Value = time; returns what was refused."""
    with database.refs_in_use([labels_of(job, n)]) as refs:
        t_ms = np.asarray(times, np.int64)
        rows = np.full(len(t_ms), refs[0], np.uint32)
        return database.append_columns(rows, t_ms, t_ms.astype(np.float64).view(np.uint64))


def keep_days(job, n):
    return 20 if (job, n) == ("other", 1) else KEEP_DAYS[job]


def stored(database):
    """(job, n) -> times that a read gives."""
    view = database.view()
    refs = view.find([], -(2**62), 2**62)
    batch = view.read(refs, -(2**62), 2**62, drop_stale=True)
    found = {}
    for row, labels in enumerate(label_dicts(view.catalog, view.labels(refs))):
        first = batch.axis_offsets[batch.row_axis[row]]
        n = batch.row_offsets[row + 1] - batch.row_offsets[row]
        t_ms = batch.t_ms[first : first + n]
        np.testing.assert_array_equal(batch.values[slice(*batch.row_offsets[row : row + 2])], t_ms)
        if n:
            found[labels["job"], int(labels["n"])] = t_ms.tolist()
    return found


def on_disk(database):
    """Samples in parts by job."""
    view = database.view()
    found = {}
    for part in database.state.parts:
        columns = part.collect(None, -(2**63), 2**63 - 1)
        labels = label_dicts(view.catalog, view.catalog.labels(columns.refs))
        for one, n in zip(labels, np.diff(columns.offsets).tolist(), strict=True):
            found[one["job"]] = found.get(one["job"], 0) + n
    return found


def run(database, *chores):
    for chore in chores or (Expiry(database), RetentionRewriting(database)):
        database.maintenance.run(chore)


def hours(first_day, last_day):
    """Times in days before T0, one an hour."""
    return list(range(T0 - first_day * DAY_MS, T0 - last_day * DAY_MS, HOUR_MS))


def test_each_series_has_the_floor_of_its_first_rule(tmp_path):
    clock = Time(T0 - 9 * DAY_MS)
    database = opened(tmp_path, clock)
    expected = {}
    for job in JOBS:
        for n in (0, 1):
            times = hours(11, 9)
            outcome = append(database, job, times, n)
            assert outcome.n_samples == len(times) - sum(r.n_samples for r in outcome.too_old)
            expected[job, n] = times
    assert stored(database) == expected
    for day in range(-8, 12):
        clock.now_ms = T0 + day * DAY_MS
        if day in (-7, 0, 5):
            database.flush()
        kept = {}
        for (job, n), times in expected.items():
            days = keep_days(job, n)
            floor = -(2**62) if days is None else clock.now_ms - days * DAY_MS
            left = [t for t in times if t >= floor]
            if left:
                kept[job, n] = left
        assert stored(database) == kept
    assert sorted(kept) == [("slo", 0), ("slo", 1)]
    database.close()


def test_appends_are_refused_by_the_floor_of_their_series(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    day4, day11, day21 = (T0 - days * DAY_MS for days in (4, 11, 21))
    for job, n in (("api", 0), ("ci", 0), ("slo", 0), ("other", 1)):
        outcome = append(database, job, [day21, day11, day4, T0], n)
        days = keep_days(job, n)
        stays = [t for t in (day21, day11, day4, T0) if days is None or t >= T0 - days * DAY_MS]
        assert outcome.n_samples == len(stays)
        assert sum(reject.n_samples for reject in outcome.too_old) == 4 - len(stays)
    (reject,) = append(database, "ci", [day4]).too_old
    assert reject.series == 'm{job="ci", n="0"}'
    assert reject.reason == (
        "sample 2023-11-10T22:13:20.000+00:00 is older than the retention, which begins at "
        "2023-11-11T22:13:20.000+00:00"
    )
    with pytest.raises(TooOldSample, match="begins at 2023-11-11"):
        append(database, "ci", [day4]).raise_rejects()
    assert stored(database) == {
        ("api", 0): [day4, T0],
        ("ci", 0): [T0],
        ("slo", 0): [day21, day11, day4, T0],
        ("other", 1): [day11, day4, T0],
    }
    database.close()
    reopened = opened(tmp_path, clock)
    assert stored(reopened)["other", 1] == [day11, day4, T0]
    reopened.close()


def test_rules_may_change_while_the_database_is_open(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock, rules=())
    append(database, "ci", hours(5, 0))
    append(database, "api", hours(5, 0))
    database.reconfigure({"retention_rules": (RetentionRule('{job="ci"}', DAY_S),)})
    assert stored(database) == {("ci", 0): hours(1, 0), ("api", 0): hours(5, 0)}
    append(database, "ci", [T0], n=7)  # a new series is matched too
    clock.now_ms += 2 * DAY_MS
    assert stored(database) == {("api", 0): hours(5, 0)}
    clock.now_ms -= 2 * DAY_MS
    with pytest.raises(OptionsError, match=r"retention rule .*: .*error parsing regexp"):
        database.reconfigure({"retention_rules": (RetentionRule('{job=~"*"}', DAY_S),)})
    with pytest.raises(OptionsError, match=r"retention rule 'up\{'"):
        database.reconfigure({"retention_rules": (RetentionRule("up{", DAY_S),)})
    assert stored(database)["ci", 0] == hours(1, 0)
    database.reconfigure({"retention_rules": (), "retention": None})
    assert stored(database)["ci", 0] == hours(5, 0)
    database.close()
    with pytest.raises(OptionsError, match="has no parser"):
        StorageDatabase(str(tmp_path), Options(retention_rules=RULES))


def test_a_part_is_rewritten_when_rules_hide_a_quarter_of_it(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    times = hours(1, 0)
    for n in range(7):
        append(database, "api", times, n)
    for n in range(2):
        append(database, "ci", times, n)
    database.flush()
    database.compact()
    n = len(times)
    clock.now_ms = T0 + 4 * DAY_MS
    run(database)
    assert on_disk(database) == {"api": 7 * n, "ci": 2 * n}  # less than a quarter
    assert sorted(stored(database)) == [("api", n) for n in range(7)]
    append(database, "ci", hours(-2, -3))
    run(database)
    assert on_disk(database) == {"api": 7 * n, "ci": 2 * n}
    database.reconfigure({"retention_rules": (*RULES, RetentionRule('{n="6"}', DAY_S))})
    run(database)
    assert on_disk(database) == {"api": 6 * n}
    stats = database.stats()
    assert stats["retention_parts:rule"] == 2  # samples of two UTC days
    assert stats["retention_bytes:rule"] > 0
    assert stats["retention_parts:time"] == 0
    # What is kept longer stays when the others' time has come.
    append(database, "slo", [clock.now_ms], 9)
    database.flush()
    clock.now_ms += 12 * DAY_MS
    run(database)
    assert on_disk(database) == {"slo": 1}
    database.close()


def test_rules_that_keep_longer_leave_the_rest_of_a_part_behind(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    times = hours(1, 0)
    append(database, "api", times)
    append(database, "slo", times)
    append(database, "other", times, 1)
    database.flush()
    database.compact()
    clock.now_ms = T0 + 11 * DAY_MS
    run(database)
    assert on_disk(database) == {"slo": len(times), "other": len(times)}
    clock.now_ms = T0 + 21 * DAY_MS
    assert stored(database) == {("slo", 0): times}
    run(database)
    assert on_disk(database) == {"slo": len(times)}
    # A query of all time reads no more than it is given.
    assert database.view().bounds == (times[0], times[-1])
    database.close()


def test_without_rules_whole_days_go(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock, rules=())
    append(database, "api", hours(9, 0))
    database.flush()
    assert len(database.state.parts) == 1
    clock.now_ms = T0 + DAY_MS * 6
    run(database)  # half of the one part has gone: it becomes one part a day
    assert [p.entry.mint >= clock.now_ms - 10 * DAY_MS for p in database.state.parts] == [True] * 5
    n = len(stored(database)["api", 0])
    clock.now_ms += HOUR_MS * 20
    run(database)
    assert len(database.state.parts) == 4
    assert len(stored(database)["api", 0]) == n - 20
    assert on_disk(database)["api"] >= n - 20
    stats = database.stats()
    assert stats["retention_parts:time"] == 2
    database.close()


def test_bytes_are_bounded_and_the_oldest_go_first(tmp_path, caplog):
    clock = Time()
    database = opened(tmp_path, clock, rules=(), retention=None)
    rng = np.random.default_rng(1)
    for day in range(6):
        with database.refs_in_use([labels_of("api")]) as refs:
            t_ms = T0 + day * DAY_MS + np.sort(rng.integers(0, HOUR_MS, 2000))
            t_ms = np.unique(t_ms)
            database.append_columns(
                np.full(len(t_ms), refs[0], np.uint32),
                t_ms,
                rng.random(len(t_ms)).view(np.uint64),
            )
        database.flush()
    sizes = [part.entry.size_bytes for part in database.state.parts]
    total = database.size_bytes(database.state)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.parent.name != tmp_path.name]
    named = {"wal", "catalog", "parts", "exemplars", "axes", "values", "index"}
    assert sum(sizes) < total
    assert total <= sum(p.stat().st_size for p in files if p.parts[len(tmp_path.parts)] in named)
    database.reconfigure({"retention_size": total - sizes[0] - sizes[1] // 2})
    with caplog.at_level(logging.INFO, "tsengine.storage.retention_chores"):
        run(database)
    assert next(p.entry.mint for p in database.state.parts) >= T0 + 2 * DAY_MS
    assert len(database.state.parts) == 4
    assert database.size_bytes(database.state) <= database.options.retention_size
    assert "removing 2 parts of samples over the limit of bytes" in caplog.text
    stats = database.stats()
    assert stats["retention_parts:size"] == 2
    assert stats["retention_bytes:size"] == sizes[0] + sizes[1]
    database.reconfigure({"retention_size": 1})
    run(database)
    assert [p.entry.size_bytes for p in database.state.parts] == [sizes[5]]
    database.close()


def test_samples_wait_for_tiers_that_are_kept_longer(tmp_path):
    clock = Time()
    tiers = (Tier(300.0, 20 * DAY_S), Tier(3600.0))
    database = opened(tmp_path, clock, rules=(), tiers=tiers)
    times = hours(5, 0)
    append(database, "api", times)
    database.flush()
    database.compact()
    n_parts = len(database.state.parts)
    clock.now_ms = T0 + 8 * DAY_MS
    run(database, Expiry(database))
    assert len(database.state.parts) == n_parts, "no tier has them yet"
    # Hidden all the same.
    assert stored(database)["api", 0] == [t for t in times if t >= clock.now_ms - 10 * DAY_MS]
    database.compact()
    assert on_disk(database)["api"] == len(times), "merges erase nothing either"
    database.build_tiers()
    run(database)
    assert 2 <= len(database.state.parts) <= 3
    assert on_disk(database)["api"] < len(times)
    # What is left is the last of each window of the finest tier: here every sample.
    assert stored(database)["api", 0] == times
    view = database.view()
    assert view.tiers_read(0, times[0], times[-1]) == ("raw", "5m")
    clock.now_ms = T0 + 30 * DAY_MS
    run(database)
    assert {tier.entry.width_ms for tier in database.state.tiers} == {3_600_000}
    assert on_disk(database) == {}
    assert stored(database)["api", 0] == times
    database.close()


def test_tiers_keep_nothing_longer_than_a_rule(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock, tiers=(Tier(3600.0),))
    times = hours(2, 0)
    for job in ("api", "ci", "slo"):
        append(database, job, times)
    database.flush()
    clock.now_ms = T0 + 2 * DAY_MS
    database.build_tiers()
    clock.now_ms = T0 + 12 * DAY_MS
    assert [len(tier.refs) for tier in database.state.tiers] == [3]
    run(database)
    assert on_disk(database) == {"slo": len(times)}
    assert stored(database) == {("api", 0): times, ("slo", 0): times}
    assert [len(tier.refs) for tier in database.state.tiers] == [2], "written anew without ci"
    names = {tier.entry.name for tier in database.state.tiers}
    run(database)
    assert {tier.entry.name for tier in database.state.tiers} == names
    assert database.stats()["series"] == 3
    assert database.shrink_catalog() == 1
    assert stored(database) == {("api", 0): times, ("slo", 0): times}
    view = database.view()
    slo = view.catalog.find(parse_selector('{job="slo"}'))
    assert view.exact_floor_ms(0, slo) is None
    assert view.exact_floor_ms(0, view.all_refs()) == clock.now_ms - 10 * DAY_MS - 1
    database.reconfigure({"retention_rules": (RetentionRule('{job="slo"}', 13 * DAY_S),)})
    clock.now_ms = T0 + 11 * DAY_MS
    assert stored(database)["slo", 0] == times
    clock.now_ms = T0 + 15 * DAY_MS + 1
    assert stored(database) == {("api", 0): times}, "neither samples nor windows"
    run(database)
    assert on_disk(database) == {}
    assert [len(tier.refs) for tier in database.state.tiers] == [1]
    database.close()


def test_a_tier_of_many_days_is_not_written_again_and_again(tmp_path):
    clock = Time()
    rules = (RetentionRule('{job="ci"}', 15 * DAY_S), RetentionRule('{job="other"}', 12 * DAY_S))
    database = opened(tmp_path, clock, rules=rules, tiers=(Tier(3600.0),), retention=None)
    for n in range(3):
        append(database, "ci", hours(9, 0), n)  # three quarters of all
    append(database, "api", hours(9, 0))
    database.flush()
    clock.now_ms = T0 + 2 * DAY_MS
    database.build_tiers()
    (tier,) = database.state.tiers
    assert tier.entry.maxt - tier.entry.mint >= 8 * DAY_MS
    clock.now_ms = T0 + 10 * DAY_MS
    run(database)
    assert [t.entry.name for t in database.state.tiers] == [tier.entry.name]
    names = {part.entry.name for part in database.state.parts}
    run(database)
    assert {part.entry.name for part in database.state.parts} == names
    assert all(p.entry.maxt - p.entry.mint < DAY_MS for p in database.state.parts)
    clock.now_ms = T0 + 17 * DAY_MS
    run(database)
    assert [len(t.refs) for t in database.state.tiers] == [1]
    # Of one day the first rewrite has left less than a quarter.
    assert on_disk(database) == {"api": 9 * 24, "ci": 6}
    clock.now_ms = T0 + 18 * DAY_MS
    run(database)
    assert on_disk(database) == {"api": 9 * 24}
    database.close()


def test_exemplars_are_kept_no_longer_than_a_rule(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    for job in ("api", "ci"):
        append(database, job, [T0])
    refs = database.view().all_refs()
    labels = tuple(pack_labels([("trace_id", text)]) for text in ("a", "b"))
    database.exemplars.add(ExemplarBatch(refs, np.array([T0, T0]), np.ones(2), labels))
    found = database.find_exemplars(refs, T0, T0)
    assert found.refs.tolist() == refs.tolist()
    clock.now_ms += 3 * DAY_MS
    assert database.find_exemplars(refs, T0, T0).refs.tolist() == refs.tolist()
    clock.now_ms += 1
    assert database.find_exemplars(refs, T0, T0).labels == labels[:1]
    database.close()


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.sampled_from(JOBS),
            st.integers(0, 1),
            st.lists(st.integers(0, 25 * 24), min_size=1, max_size=30),
        ),
        st.tuples(st.just("hours"), st.integers(1, 100)),
        st.sampled_from([("flush",), ("compact",), ("retention",), ("retention",), ("restart",)]),
        st.sampled_from([("shrink",), ("delete",)]),
    ),
    max_size=14,
)


@given(operations)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_against_a_dict_with_a_floor_per_series(tmp_path_factory, script):
    directory = tmp_path_factory.mktemp("model")
    clock = Time()
    database = opened(directory, clock)
    model: dict[tuple[str, int], set[int]] = {}

    def floor(job, n):
        days = keep_days(job, n)
        return -(2**62) if days is None else clock.now_ms - days * DAY_MS

    try:
        for action, *arguments in script:
            if action == "append":
                job, n, ages = arguments
                times = [clock.now_ms - age * HOUR_MS for age in dict.fromkeys(ages)]
                outcome = append(database, job, times, n)
                accepted = [t for t in times if t >= floor(job, n)]
                assert outcome.n_samples == len(accepted)
                model.setdefault((job, n), set()).update(accepted)
            elif action == "hours":
                clock.now_ms += arguments[0] * HOUR_MS
            elif action == "flush":
                database.flush()
            elif action == "compact":
                database.compact()
            elif action == "retention":
                run(database)
            elif action == "shrink":
                database.shrink_catalog()
            elif action == "delete":
                refs = database.view().catalog.find(parse_selector('{n="0"}'))
                at = clock.now_ms - 2 * DAY_MS
                database.delete(refs, at, at + DAY_MS)
                for job in JOBS:
                    held = model.get((job, 0), set())
                    model[job, 0] = {t for t in held if not at <= t <= at + DAY_MS}
            else:
                database.close()
                database = opened(directory, clock)
            # What is gone does not come back, even if the clock were put back.
            model = {key: {t for t in times if t >= floor(*key)} for key, times in model.items()}
            expected = {key: sorted(times) for key, times in model.items() if times}
            assert stored(database) == expected
    finally:
        database.close()


def test_the_facade_knows_selectors(tmp_path):
    rule = RetentionRule('m{job="ci"}', 3600.0)
    with tsengine.open(tmp_path, Options(retention_rules=(rule,), tiers=())) as db:
        with pytest.raises(TooOldSample):
            db.append(labels_of("ci"), [T0], [1.0])
        db.append(labels_of("api"), [T0], [1.0])
        assert db.query("m", time=T0).to_numpy().tolist() == [[1.0]]
