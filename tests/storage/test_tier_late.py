"""Samples that come where samples were erased: at once, in windows that are built, for ever."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.reference import rich_samples
from tests.reference.tiers import windows_in
from tests.storage.test_catalog_shrink import DAY_MS, Time
from tests.storage.test_retention import DAY_S, HOUR_MS, append, on_disk, opened, run, stored
from tests.storage.test_retention_marks import DAY0, SLO, TIERS, TIMES, WIDE_MS, both, both_of
from tests.storage.test_tier_histograms import STALE, VALUES, histograms_in
from tsengine.model.windows import FLOAT_COLUMNS, HISTOGRAM_COLUMNS, Column
from tsengine.options import Options, RetentionRule
from tsengine.promql.parser import parse_selector
from tsengine.storage import filenames, manifest
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.quarantine import Damaged, put_aside
from tsengine.storage.retention_marks import NOTHING_MS
from tsengine.storage.tier_doubts import after_late
from tsengine.storage.tier_last import SampleRows
from tsengine.storage.tier_late import with_late
from tsengine.storage.tier_windows import windows_of_samples


@pytest.fixture
def erased(tmp_path):
    """A database of which all samples were erased after ten days; then they are kept longer."""
    made = []

    def create(**longer):
        clock = Time(DAY0 + 1)
        database = opened(tmp_path / "db", clock, (), tiers=TIERS, retention=10 * DAY_S)
        made.append(database)
        append(database, "api", TIMES)
        database.flush()
        clock.now_ms = DAY0 + DAY_MS
        database.build_tiers()
        clock.now_ms = DAY0 + 13 * DAY_MS
        run(database)
        assert on_disk(database) == {}
        database.reconfigure(longer)
        return database, clock

    yield create
    for database in made:
        database.close()


def let_samples_expire(database, clock):
    clock.now_ms = DAY0 + 95 * DAY_MS
    run(database)
    assert on_disk(database) == {}


def test_a_new_series_is_kept_where_samples_of_others_were_erased(erased):
    database, clock = erased(retention=90 * DAY_S)
    assert append(database, "new", TIMES).n_samples == len(TIMES)
    for step in (lambda: None, database.flush, database.build_tiers, database.compact):
        step()
        assert both(database, "new") == both(database, "api") == both_of(TIMES)
        assert stored(database)["new", 0] == TIMES
    let_samples_expire(database, clock)
    assert both(database, "new") == both(database, "api") == both_of(TIMES)


def test_a_series_of_a_rule_that_comes_later_likewise(erased):
    rule = RetentionRule(SLO.match, 90 * DAY_S)
    database, _ = erased(retention_rules=(rule,))
    assert append(database, "slo", TIMES).n_samples == len(TIMES)
    assert both(database, "slo") == both(database, "api") == both_of(TIMES)
    database.build_tiers()
    assert both(database, "slo") == both(database, "api") == both_of(TIMES)


def test_windows_that_a_series_did_not_have_are_made(erased):
    database, clock = erased(retention=90 * DAY_S)
    times = [t + DAY_MS for t in TIMES]
    later = [t for t in times if t > DAY0]
    append(database, "other", times)
    database.build_tiers()
    assert append(database, "api", times).n_samples == len(times)
    # Most of them stand where its samples stood.
    assert both(database) == both_of([*TIMES, *later])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, *later])
    let_samples_expire(database, clock)
    assert both(database) == both_of([*TIMES, *later])


def test_what_is_sent_again_is_not_counted_again(erased):
    database, clock = erased(retention=90 * DAY_S)
    for _ in range(2):
        append(database, "api", TIMES)
        assert both(database) == both_of(TIMES)
        database.build_tiers()
        assert both(database) == both_of(TIMES)
    some = [DAY0 - DAY_MS + 7, DAY0 - DAY_MS + HOUR_MS // 2 + 7, DAY0 - DAY_MS + HOUR_MS - 1]
    for _ in range(2):
        append(database, "api", some)
        database.build_tiers()
        assert both(database) == both_of([*TIMES, *some])
    let_samples_expire(database, clock)
    assert both(database) == both_of([*TIMES, *some])


@pytest.mark.parametrize("offset", [7, HOUR_MS // 2 + 7])
def test_late_samples_count_before_and_between_others_that_are_gone(erased, offset):
    database, clock = erased(retention=90 * DAY_S)
    late = [DAY0 - 2 * DAY_MS + offset, DAY0 - DAY_MS + offset]
    for k in range(2):
        append(database, "api", late[k : k + 1])
        assert both(database) == both_of([*TIMES, *late[: k + 1]])
        database.flush()
        database.build_tiers()
        assert both(database) == both_of([*TIMES, *late[: k + 1]])
        assert np.isin(late[: k + 1], stored(database)["api", 0]).all()
    let_samples_expire(database, clock)
    assert both(database) == both_of([*TIMES, *late])


# --- marks that no expiry makes -------------------------------------------------------------------


def without_marks(database, tmp_path):
    """The manifest as a version without marks has it; closes the database."""
    fs, directory = database._fs, str(tmp_path / "db")
    database.close()
    current = manifest.load(fs, directory)
    manifest.swap(fs, directory, current.with_changes(erased={}))


def first_mark(database):
    return database.state.erased[""]


def test_a_database_without_marks_gets_them_when_it_is_opened(erased, tmp_path):
    database, clock = erased()
    without_marks(database, tmp_path)
    database = opened(tmp_path / "db", clock, (), tiers=TIERS, retention=90 * DAY_S)
    assert first_mark(database) == DAY0 + 1
    view = database.view()
    assert view.exact_floor_ms(0, view.all_refs()) == DAY0
    assert stored(database)["api", 0] == TIMES[1::2]
    late = DAY0 - 2 * DAY_MS + 7
    append(database, "api", [late])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, late])
    database.close()
    # Committed: it does not depend on what comes later.
    assert manifest.load(LocalFileSystem(), str(tmp_path / "db")).erased == {"": DAY0 + 1}


@pytest.mark.parametrize("in_head", [False, True])
def test_the_mark_is_where_the_oldest_samples_begin(erased, tmp_path, in_head):
    database, clock = erased()
    append(database, "api", [DAY0 + 5 * DAY_MS + 3, DAY0 + 6 * DAY_MS])
    if not in_head:
        database.flush()
    without_marks(database, tmp_path)
    directory = str(tmp_path / "db")
    options = Options(retention=90 * DAY_S, tiers=TIERS)
    for read_only in (True, False):
        database = StorageDatabase(directory, options, read_only=read_only, clock=clock)
        assert dict(database.state.erased) == {"": DAY0 + 5 * DAY_MS + WIDE_MS + 1}
        database.close()
        written = manifest.load(LocalFileSystem(), directory).erased
        assert written == ({} if read_only else {"": DAY0 + 5 * DAY_MS + WIDE_MS + 1})


def test_what_a_rule_keeps_longer_does_not_hide_the_border(tmp_path):
    clock = Time(DAY0 + 1)
    options = {"tiers": TIERS, "retention": 10 * DAY_S}
    database = opened(tmp_path / "db", clock, (SLO,), **options)
    for job in ("api", "slo"):
        append(database, job, TIMES)
    fresh = [DAY0 + 5 * DAY_MS + 3]
    clock.now_ms = DAY0 + 6 * DAY_MS
    append(database, "api", fresh)
    append(database, "slo", fresh)
    database.flush()
    database.build_tiers()
    clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    assert on_disk(database) == {"api": 1, "slo": len(TIMES) + 1}
    without_marks(database, tmp_path)
    database = opened(tmp_path / "db", clock, (SLO,), tiers=TIERS, retention=90 * DAY_S)
    border = DAY0 + 5 * DAY_MS + WIDE_MS + 1
    assert dict(database.state.erased) == {"": border, SLO.match: NOTHING_MS}
    late = DAY0 - 2 * DAY_MS + 7
    for job in ("api", "slo"):
        append(database, job, [late])
    database.build_tiers()
    for job in ("api", "slo"):
        assert both(database, job) == both_of([*TIMES, late, *fresh])
    assert stored(database)["slo", 0] == sorted([*TIMES, late, *fresh])
    database.close()


def test_no_mark_where_nothing_was_erased(tmp_path):
    clock = Time(DAY0 + DAY_MS)
    database = opened(tmp_path / "db", clock, (), tiers=TIERS, retention=90 * DAY_S)
    append(database, "api", TIMES)
    database.flush()
    database.build_tiers()
    without_marks(database, tmp_path)
    database = opened(tmp_path / "db", clock, (), tiers=TIERS, retention=90 * DAY_S)
    assert dict(database.state.erased) == {}
    database.close()


@pytest.mark.parametrize("keep", [3 * DAY_S, None])
def test_windows_of_other_series_are_no_reason_for_a_mark(tmp_path, keep):
    """Of a rule that keeps less, or longer, beside samples of others that began later."""
    clock = Time(DAY0 + HOUR_MS)
    rules = (RetentionRule('{job="ci"}', keep),)
    database = opened(tmp_path / "db", clock, rules, tiers=TIERS, retention=90 * DAY_S)
    ci = [t for t in TIMES if t > DAY0 - DAY_MS]
    append(database, "ci", ci)
    append(database, "api", [DAY0])
    database.flush()
    database.build_tiers()
    refs = database.view().catalog.find(parse_selector('{job="ci"}'))
    database.delete(refs, DAY0, DAY0)
    for _ in range(2):
        assert dict(database.state.erased) == {}
        assert both(database, "ci") == both_of(ci[:-1])
        database.close()
        database = opened(tmp_path / "db", clock, rules, tiers=TIERS, retention=90 * DAY_S)
    database.close()


def test_a_part_that_is_put_aside_takes_no_windows_with_it(tmp_path):
    clock = Time(DAY0 + DAY_MS)
    database = opened(tmp_path / "db", clock, (), tiers=TIERS, retention=90 * DAY_S)
    append(database, "api", TIMES)
    database.flush()
    database.build_tiers()
    (part,) = [part.entry for part in database.state.parts]
    database.close()
    fs, directory = LocalFileSystem(), str(tmp_path / "db")
    current = manifest.load(fs, directory).with_changes(erased={"a": NOTHING_MS, "b": 2**62 + 1})
    damaged = [Damaged(filenames.PARTS_DIR, part.name, ("it broke",))]
    put_aside(fs, directory, current, damaged, clock.now_ms)
    left = manifest.load(fs, directory)
    assert left.erased == {"a": NOTHING_MS, "b": 2**62 + 1}
    assert left.holes == {f"parts-{part.name}": (part.mint, part.maxt)}
    database = opened(directory, clock, (), tiers=TIERS, retention=90 * DAY_S)
    late = DAY0 - 2 * DAY_MS + 7
    append(database, "api", [late])
    database.build_tiers()
    assert both(database) == both_of([*TIMES, late])
    database.close()


# --- windows against samples ----------------------------------------------------------------------


NUMBERS = st.integers(-5, 5).map(lambda x: rich_samples.bits(float(x)))
NOT_A_RESET = 2


def is_possible(series):
    """Whether no histogram says that it continues one of the other kind, whose buckets differ."""
    told = [value for value, _ in series.values() if not isinstance(value, int)]
    is_custom = {histogram.bounds is not None for histogram in told}
    return len(is_custom) < 2 or all(histogram.hint != NOT_A_RESET for histogram in told)


SERIES = st.dictionaries(
    st.integers(-39, 160), (NUMBERS | VALUES).map(lambda value: (value, 0)), max_size=14
).filter(is_possible)
CUTS = st.tuples(st.integers(-45, 165), st.integers(-45, 165)).map(sorted)
MODELS = st.dictionaries(st.integers(0, 2), SERIES, max_size=3)
EVERY_COLUMN = frozenset(Column)
BUT_STALE = EVERY_COLUMN - {Column.STALE}
OF_ANY_ORDER = frozenset(
    {
        Column.COUNT, Column.SUM, Column.MIN, Column.MAX, Column.FIRST_T, Column.LAST_T,
        Column.H_COUNT, Column.H_SUM, Column.H_FIRST_T, Column.H_LAST_T,
    }
)  # fmt: skip


def rows_of(model):
    columns = rich_samples.columns_of({ref: own for ref, own in model.items() if own})
    rows = np.repeat(columns.refs.astype(np.int64), np.diff(columns.offsets))
    return SampleRows(rows, columns.t_ms, columns.bits, columns.histograms)


def split(model, is_in):
    """The samples of a model that are in, and the others."""
    parts = [
        {ref: {t: own[t] for t in own if is_in(ref, t) == wanted} for ref, own in model.items()}
        for wanted in (True, False)
    ]
    return parts[0], parts[1]


def table_of(batch, columns):
    floats = sorted(columns & FLOAT_COLUMNS)
    own = replace(batch, columns={c: batch.columns[c] for c in floats})
    return windows_in(own, range(3), floats), histograms_in(batch, columns & HISTOGRAM_COLUMNS)


def assert_merged(known, late, every, width_ms, columns, old=None):
    windows = windows_of_samples(rows_of(known).frames(3), 10, EVERY_COLUMN)
    found = with_late(windows, rows_of(old or {}), rows_of(late), width_ms, EVERY_COLUMN)
    wanted = windows_of_samples(rows_of(every).frames(3), width_ms, EVERY_COLUMN)
    assert table_of(found, columns) == table_of(wanted, columns)


WIDTHS = st.sampled_from([10, 40])


@settings(max_examples=100, deadline=None)
@given(MODELS, st.lists(CUTS, min_size=3, max_size=3), WIDTHS)
def test_samples_before_and_behind_a_window_are_as_if_they_had_been_there(every, cuts, width_ms):
    known, late = split(every, lambda ref, t: cuts[ref][0] <= t <= cuts[ref][1])
    assert_merged(known, late, every, width_ms, BUT_STALE)


@settings(max_examples=100, deadline=None)
@given(MODELS, st.sets(st.integers(-39, 160)), WIDTHS)
def test_samples_in_between_count(every, times, width_ms):
    known, late = split(every, lambda _, t: t not in times)
    assert_merged(known, late, every, width_ms, OF_ANY_ORDER)
    # What is there is sent again; or the tier has seen what is left.
    seen = {ref: {t: own[t] for t in own if t in times} for ref, own in every.items()}
    _, nothing = split(every, lambda _, t: True)
    assert_merged(every, seen, every, width_ms, BUT_STALE, old=every)
    assert_merged(every, nothing, every, width_ms, EVERY_COLUMN, old=seen)


@settings(max_examples=50, deadline=None)
@given(MODELS, st.sets(st.integers(-39, 160)), WIDTHS)
def test_samples_alone_count_where_all_are_there(every, times, width_ms):
    known, late = split(every, lambda _, t: t not in times)
    assert_merged(known, late, every, width_ms, BUT_STALE, old=known)
    assert_merged(known, every, every, width_ms, BUT_STALE)


OF_ANY_KIND = st.dictionaries(
    st.integers(1, 40), (NUMBERS | NUMBERS | VALUES).map(lambda value: (value, 0)), max_size=10
).filter(is_possible)


def keeps_earlier_marker(seen, gone):
    """Whether a window ends with markers of which the last is gone and another is not.

    The other passes for the last then (see `are_whole`): a window does not tell its marker's time.
    """
    tails = {}
    for t in sorted(seen):
        tail = tails.setdefault(-(-t // 10), [])
        if seen[t][0] == STALE:
            tail.append(t)
        else:
            tail.clear()
    return any(tail and tail[-1] in gone and not gone.issuperset(tail) for tail in tails.values())


@settings(max_examples=150, deadline=None)
@given(OF_ANY_KIND, st.sets(st.integers(1, 40)), OF_ANY_KIND, st.booleans())
@example({t: (rich_samples.bits(1.0), 0) for t in (3, 5, 7)}, set(), {5: (STALE, 0)}, False)
@example({3: (STALE, 0)}, set(), {3: (rich_samples.bits(1.0), 0)}, False)
def test_windows_are_those_of_all_samples_or_in_doubt(seen, gone, late, again):
    late = late | {t: seen[t] for t in list(seen)[::2]} if again else late
    every = {0: seen | late}
    assume(is_possible(every[0]))
    assume(not keeps_earlier_marker(seen, gone))
    old = rows_of({0: {t: sample for t, sample in seen.items() if t not in gone}})
    known = windows_of_samples(rows_of({0: seen}).frames(3), 10, EVERY_COLUMN)
    found = with_late(known, old, rows_of({0: late}), 10, EVERY_COLUMN)
    wanted = windows_of_samples(rows_of(every).frames(3), 10, EVERY_COLUMN)
    doubts = after_late(known, old, rows_of({0: late}))
    unsure = [range(*span) for span in zip(doubts.mint, doubts.maxt + 1, strict=True)]
    for own, all_of in zip(
        table_of(found, EVERY_COLUMN), table_of(wanted, EVERY_COLUMN), strict=True
    ):
        for end in own.get(0, {}).keys() | all_of.get(0, {}).keys():
            if not any(end in span for span in unsure):
                assert own[0].get(end) == all_of[0].get(end), end


def test_a_marker_behind_a_window_ends_it_and_one_inside_does_not():
    one, marker = (rich_samples.bits(1.0), 0), (STALE, 0)
    known = windows_of_samples(rows_of({0: {3: one, 6: one}}).frames(1), 10, EVERY_COLUMN)
    for t, is_stale in ((1, 0.0), (4, 0.0), (6, 0.0), (8, 1.0)):
        found = with_late(known, rows_of({}), rows_of({0: {t: marker}}), 10, EVERY_COLUMN)
        assert found.columns[Column.STALE].tolist() == [is_stale], t
        assert found.columns[Column.COUNT].tolist() == [2.0]


def test_counters_keep_what_they_lost():
    def series(**values):
        return {0: {int(t[1:]): (rich_samples.bits(v), 0) for t, v in values.items()}}

    known = windows_of_samples(rows_of(series(t3=9.0, t5=2.0, t7=4.0)).frames(1), 10, EVERY_COLUMN)
    late = rows_of(series(t1=11.0, t4=1.0, t8=3.0))
    found = with_late(known, rows_of({}), late, 10, EVERY_COLUMN)
    assert found.columns[Column.RESETS].tolist() == [11.0 + 9.0 + 4.0]
    assert [found.columns[c].tolist() for c in (Column.FIRST, Column.LAST)] == [[11.0], [3.0]]
    assert [found.columns[c].tolist() for c in (Column.COUNT, Column.SUM)] == [[6.0], [30.0]]
