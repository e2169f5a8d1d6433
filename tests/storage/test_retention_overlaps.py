"""Overwritten values stay overwritten, whatever retention takes and however it is raised then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tests.storage.test_retention import DAY_S, HOUR_MS, labels_of, on_disk, opened, run
from tsengine.options import RetentionRule, Tier
from tsengine.promql.parser import parse_selector
from tsengine.storage.chores import Job
from tsengine.storage.manifest import TierEntry
from tsengine.storage.retention import expired_tiers
from tsengine.storage.retention_chores import Expiry, RetentionRewriting

DAY0 = T0 // DAY_MS * DAY_MS
SLO = RetentionRule('{job="slo"}', None)
TIERS = (Tier(3600.0), Tier(6 * 3600.0))


@pytest.fixture
def make(tmp_path):
    made = []

    def create(*rules, tiers=(), retention=10 * DAY_S, clock=None):
        clock = clock or Time(DAY0)
        made.append(opened(tmp_path / "db", clock, rules, tiers=tiers, retention=retention))
        return made[-1], clock

    yield create
    for database in made:
        database.close()


def put(database, hours, value, job="api"):
    """Samples at hours after DAY0, flushed."""
    put_only(database, hours, value, job)
    database.flush()


def put_only(database, hours, value, job="api"):
    t_ms = DAY0 + np.asarray(hours, np.int64) * HOUR_MS
    bits = np.full(len(t_ms), value, np.float64).view(np.uint64)
    with database.refs_in_use([labels_of(job)]) as refs:
        assert database.append_columns(np.full(len(t_ms), refs[0]), t_ms, bits).n_samples == len(
            t_ms
        )


def values(database, job="api"):
    """Hour after DAY0 -> value."""
    view = database.view()
    refs = view.catalog.find(parse_selector(f'{{job="{job}"}}'))
    batch = view.read(refs, -(2**62), 2**62, drop_stale=True)
    return dict(zip(((batch.t_ms - DAY0) // HOUR_MS).tolist(), batch.values.tolist(), strict=True))


def raise_retention(database):
    database.reconfigure({"retention": 900 * DAY_S})


def part_names(database):
    return [part.entry.name for part in database.state.parts]


class Rewrite:
    """Rewrites one part, as a delete does or a merge of part of a day."""

    name = "rewrite"

    def __init__(self, entry):
        self._entries = [entry]

    def plan(self, state, now_ms):
        if not self._entries:
            return []
        entry = self._entries.pop()
        return [Job("rewriting", 1, lambda context: context.merge([entry], entry.level))]


@pytest.mark.parametrize("tiers", [(), TIERS])
def test_a_part_expires_with_those_it_overwrites(make, tiers):
    database, clock = make(tiers=tiers)
    put(database, range(-71, -24), 1.0)
    put(database, range(-71, -66), 2.0)
    before = values(database)
    clock.now_ms = DAY0 + DAY_MS
    database.build_tiers()
    clock.now_ms = DAY0 + 7 * DAY_MS + 12 * HOUR_MS
    assert database.retention_plan({}).removals[0].files[1].action == "hide"
    run(database)
    assert len(database.state.parts) == 2
    assert dict(database.state.erased) == {}
    raise_retention(database)
    assert values(database) == before
    # Together they go.
    database.reconfigure({"retention": 10 * DAY_S})
    clock.now_ms = DAY0 + 10 * DAY_MS
    (removal,) = database.retention_plan({}).removals
    assert [file.action for file in removal.files] == ["remove", "remove"]
    run(database)
    assert database.state.parts == ()
    assert database.stats()["retention_parts:time"] == 2


def test_both_reasons_are_one_commit(make):
    database, clock = make(RetentionRule('{job="ci"}', 3 * DAY_S), retention=12 * DAY_S)
    put(database, [-71, -50], 1.0, "ci")
    put(database, [-71, -70], 2.0, "ci")
    clock.now_ms = DAY0 + 12 * DAY_MS - 60 * HOUR_MS
    (job,) = Expiry(database).plan(database.state, clock.now_ms)
    assert job.what == (
        "removing 1 part of samples past the retention of rules "
        "and 1 part of samples past the retention"
    )
    assert job.size_bytes == sum(part.entry.size_bytes for part in database.state.parts)
    run(database)
    assert database.state.parts == ()
    stats = database.stats()
    assert (stats["retention_parts:rule"], stats["retention_parts:time"]) == (1, 1)
    assert stats["retention_bytes:rule"] + stats["retention_bytes:time"] == job.size_bytes


def test_a_rewrite_keeps_what_overwrites_others(make):
    database, clock = make()
    put(database, range(-70, -48), 1.0)
    put(database, range(-71, -48), 2.0)
    clock.now_ms = DAY0 + 7 * DAY_MS + 20 * HOUR_MS
    run(database, Rewrite(database.state.parts[1].entry))
    assert on_disk(database) == {"api": 22 + 22}, "what lies on nothing goes"
    assert dict(database.state.erased) == {"": DAY0 - 70 * HOUR_MS}
    raise_retention(database)
    assert values(database) == dict.fromkeys(range(-70, -48), 2.0)


def test_a_flush_keeps_what_overwrites_others(make):
    database, clock = make(SLO, retention=DAY_S)
    put(database, [-23], 1.0)
    put_only(database, [-23, 0], 2.0)
    put_only(database, [0], 3.0, "slo")
    clock.now_ms = DAY0 + 2 * HOUR_MS
    database.flush()
    assert values(database) == {0: 2.0}
    assert dict(database.state.erased) == {}
    raise_retention(database)
    assert values(database) == {-23: 2.0, 0: 2.0}


def test_nothing_waits_for_series_that_are_kept_for_ever(make):
    database, clock = make(SLO)
    hours = range(-71, -48)
    for _ in range(9):
        put_only(database, hours, 1.0, "slo")
    put(database, hours, 1.0)
    put(database, range(-71, -66), 2.0)
    put(database, range(-71, -70), 3.0)
    clock.now_ms = DAY0 + 7 * DAY_MS + 22 * HOUR_MS
    run(database)
    clock.now_ms = DAY0 + 17 * DAY_MS
    # First the oldest is written anew, then nothing holds the others.
    plan = database.retention_plan({}).removals[0]
    assert [file.action for file in plan.files] == ["rewrite", "remove", "remove"]
    run(database)
    assert on_disk(database) == {"slo": 23}
    names = part_names(database)
    run(database)
    assert part_names(database) == names
    raise_retention(database)
    assert values(database) == {}


def test_a_part_that_is_held_is_not_written_again_and_again(make):
    database, clock = make(SLO, retention=10 * DAY_S)
    put_only(database, range(-71, -24), 1.0, "slo")
    put(database, range(-71, 100), 1.0)
    put_only(database, range(-71, -60), 2.0, "slo")
    put(database, range(-71, -60), 2.0)
    clock.now_ms = DAY0 + 7 * DAY_MS + 14 * HOUR_MS
    names = part_names(database)
    run(database)
    assert part_names(database) == names
    raise_retention(database)
    assert [values(database)[hour] for hour in (-71, -61, -60)] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("by", ["size", "time"])
def test_nothing_goes_that_overwrites_a_part_that_is_left_out(make, tmp_path, by):
    clock = Time(DAY0 + 7 * HOUR_MS)
    database, _ = make(retention=None, clock=clock)
    put(database, [-71, -70], 1.0)
    put(database, [-71, -70], 2.0)
    put(database, [6], 3.0)
    before = values(database)
    file = tmp_path / "db" / "parts" / part_names(database)[0] / "index"
    database.close()
    good = file.read_bytes()
    file.write_bytes(b"\0" * len(good))
    database, _ = make(retention=None, clock=clock)
    assert database.recovery.has_lost_parts
    if by == "time":
        database.reconfigure({"retention": DAY_S})
    else:
        database.reconfigure({"retention_size": database.size_bytes(database.state) - 1})
    assert Expiry(database).plan(database.state, clock.now_ms) == []
    plan = database.retention_plan({}).removals
    assert [f.action for removal in plan for f in removal.files] == ["hide"] * (by == "time")
    database.close()
    file.write_bytes(good)
    database, _ = make(retention=None, clock=clock)
    assert values(database) == before
    run(database)
    assert not database.recovery.lost


def test_parts_of_tiers_wait_for_what_they_overwrite():
    def tier(name, mint, maxt, seq):
        return TierEntry(name, 10, mint, maxt, 0, mint + 9, maxt, 1, 1, seq, seq, 100)

    old, new, other = tier("a", 1, 300, 1), tier("b", 101, 200, 2), tier("c", 301, 310, 2)

    def expired(*tiers, floor, lost=()):
        return [entry.name for entry in expired_tiers(tiers, {10: floor}, lost)]

    assert expired(new, old, floor=250) == []
    assert expired(new, old, other, floor=301) == ["b", "a"]
    assert expired(new, floor=301, lost=[old]) == []
    assert expired(new, floor=301, lost=[other]) == ["b"]


RULES = (RetentionRule('{job="ci"}', 3 * DAY_S), SLO)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["put", "put and flush", "put and flush"]),
            st.sampled_from(["api", "ci", "slo"]),
            st.integers(20, 70),
            st.integers(1, 30),
        ),
        st.tuples(st.just("rewrite"), st.integers(0, 9)),
        st.tuples(st.just("hours"), st.integers(5, 25)),
        st.sampled_from([("flush",), ("expire",), ("expire",), ("retention",), ("compact",)]),
    ),
    min_size=10,
    max_size=30,
)


@given(steps)
@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
def test_whatever_is_left_has_the_newest_value(tmp_path_factory, script):
    clock = Time(DAY0)
    database = opened(tmp_path_factory.mktemp("model"), clock, RULES, retention=5 * DAY_S)
    newest = {"api": {}, "ci": {}, "slo": {}}
    try:
        for value, (action, *arguments) in enumerate(script):
            if action.startswith("put"):
                job, age, n = arguments
                first = (clock.now_ms - DAY0) // HOUR_MS - age
                (put_only if action == "put" else put)(
                    database, range(first, first + n), value, job
                )
                newest[job] |= dict.fromkeys(range(first, first + n), float(value))
            elif action == "rewrite":
                entries = [part.entry for part in database.state.parts]
                if entries:
                    run(database, Rewrite(entries[arguments[0] % len(entries)]))
            elif action == "hours":
                clock.now_ms += arguments[0] * HOUR_MS
            elif action == "expire":
                run(database, Expiry(database))
            elif action == "retention":
                run(database)
            else:
                getattr(database, action)()
            database.reconfigure({"retention": None, "retention_rules": ()})
            for job, values_of_job in newest.items():
                assert values(database, job).items() <= values_of_job.items()
            database.reconfigure({"retention": 5 * DAY_S, "retention_rules": RULES})
            floor = (clock.now_ms - DAY0) // HOUR_MS - 5 * 24
            kept = {hour: value for hour, value in newest["api"].items() if hour >= floor}
            assert values(database) == kept
        assert values(database, "slo") == newest["slo"]
        # Nothing waits for ever.
        database.flush()
        clock.now_ms += 30 * DAY_MS
        run(database, Expiry(database), RetentionRewriting(database), Expiry(database))
        assert set(on_disk(database)) <= {"slo"}
    finally:
        database.close()
