"""Windows that are not known to be those of all samples: which ones, and how it is told."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference.background import paused
from tests.storage.test_catalog_shrink import DAY_MS, T0, Time
from tsengine.engine import Database
from tsengine.errors import CorruptionError
from tsengine.options import Options, Tier
from tsengine.storage import part_format
from tsengine.storage.chores import Job
from tsengine.storage.compaction_plan import Barriers, plan_compaction, plan_full_merge
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_format import Section
from tsengine.storage.retention_chores import Expiry, RetentionRewriting
from tsengine.storage.tier_doubts import Doubts
from tsengine.storage.tier_format import decode_doubts, encode_sections

DAY0 = T0 // DAY_MS * DAY_MS
M, H = 60_000, 3_600_000
BORDER = ("count_over_time(c[1h])", "sum_over_time(c[1h])", "increase(c[1h])")


def doubts(*rows):
    return Doubts(*np.array(rows, np.int64).reshape(-1, 3).T)


def listed(found):
    return sorted(zip(found.owners.tolist(), found.mint.tolist(), found.maxt.tolist(), strict=True))


def test_ranges_of_each_series_are_joined():
    found = doubts((2, 11, 20), (1, 1, 10), (1, 11, 20), (2, 41, 50), (1, 1, 40), (2, 15, 30))
    assert listed(found.settled()) == [(1, 1, 40), (2, 11, 30), (2, 41, 50)]
    assert found.spans() == [(1, 50)]
    assert doubts((5, 1, 10), (3, 31, 40)).spans() == [(1, 10), (31, 40)]
    assert listed(Doubts.none().settled()) == Doubts.none().spans() == []
    everything = doubts((0, -(2**62), 2**62), (1, -(2**62), 5), (2, 1, 2))
    assert listed(everything.settled()) == listed(everything)


def test_rows_and_ranges():
    found = doubts((7, 1, 20), (9, 11, 30))
    assert listed(found.of_refs(np.array([3, 9], np.uint32))) == [(1, 11, 30)]
    assert listed(found.within(11, 20)) == [(7, 11, 20), (9, 11, 20)]
    assert listed(found.widened(40)) == [(7, 1, 40), (9, 1, 40)]
    assert listed(doubts((1, 1, 2)).renamed(np.array([4, 8]))) == [(8, 1, 2)]


def encoded(found):
    none = np.empty(0, np.uint32)
    columns = encode_sections(10, (1, 100), none, none, none, found)
    data = part_format.encode_sections(b"", columns, ())
    sections = part_format.decode_sections(data, 0, len(columns), "index")
    return columns, decode_doubts(data, sections, "index", width_ms=10, cover=(1, 100))


def test_a_part_lists_them():
    found = doubts((3, 1, 20), (3, 41, 50), (2**32 - 1, 91, 100))
    columns, again = encoded(found)
    assert columns[Section.TIER_DOUBTS].tolist() == [3, 3, 2**32 - 1, 0, 4, 9, 2, 1, 1]
    assert listed(again) == listed(found)
    columns, again = encoded(Doubts.none())
    assert Section.TIER_DOUBTS not in columns
    assert len(again) == 0


@pytest.mark.parametrize(
    "rows",
    [[(3, 1, 110)], [(3, -9, 10)], [(-1, 1, 10)], [(3, 11, 20), (3, 1, 10)],
     [(3, 1, 20), (3, 11, 30)], [(2**32, 1, 10)], [(3, 11, 10)]],
)  # fmt: skip
def test_impossible_ones_are_damage(rows):
    with pytest.raises(CorruptionError, match=r"doubt|a series out of range"):
        encoded(doubts(*rows))


# --- merges that wait -----------------------------------------------------------------------------


def part(number, day, seq, level=0):
    mint = day * DAY_MS + 1
    return PartEntry(f"{number:010d}", level, mint, mint + H, 10, 1, seq, seq, 100)


def test_what_a_tier_has_seen_and_what_not_stay_apart():
    barriers = Barriers(5 * DAY_MS, (10,))
    seen, late = [part(k, 1, k) for k in range(1, 9)], [part(k, 1, k) for k in range(11, 14)]
    newest = [part(k, 9, k) for k in (9, 14)]
    merges = plan_full_merge([*seen, *late, *newest], barriers=barriers)
    assert sorted([entry.seq_min for entry in merge.inputs] for merge in merges) == [
        [*range(1, 9)], [9, 14], [11, 12, 13],
    ]  # fmt: skip
    assert plan_compaction([*seen[:3], *late], barriers=barriers) == []
    (merge,) = plan_compaction([*seen[:4], *late], barriers=barriers)
    assert [entry.seq_min for entry in merge.inputs] == [*range(1, 5)]
    # What is newer than all that was erased holds nothing apart.
    assert len(barriers.apart([part(1, 9, 1), part(2, 9, 20), part(3, 1, 30)])) == 1


# --- answers --------------------------------------------------------------------------------------


@pytest.fixture
def make(tmp_path):
    made = []

    def create(days=3):
        clock = Time(DAY0 + 1)
        options = Options(tiers=(Tier(300.0), Tier(3600.0)), retention=10 * 86_400.0)
        database = Database(str(tmp_path / "db"), options, clock=clock)
        database.pause_background()
        made.append(database)
        times = [DAY0 - days * DAY_MS + k * M for k in range(1, days * 1440)]
        database.append({"__name__": "c"}, times, [float(k) for k in range(len(times))])
        database.append({"__name__": "other"}, times, [1.0] * len(times))
        database.flush()
        clock.now_ms = DAY0 + DAY_MS
        database.build_tiers()
        return database, clock

    yield create
    for database in made:
        database.close()


def expire(database):
    for chore in (Expiry, RetentionRewriting):
        database._storage.maintenance.run(chore(database._storage))


def ask(database, at, expr="count_over_time(c[1h])"):
    found = database.query(expr, at)
    rows = found.to_numpy()
    return rows[0].tolist()[0] if len(rows) else None, any("not exact" in i for i in found.infos)


def answers(database, at):
    return [ask(database, at, expr) for expr in BORDER]


def erased(make):
    database, clock = make()
    clock.now_ms = DAY0 + 14 * DAY_MS
    expire(database)
    assert not database._storage.state.parts
    database.reconfigure(retention=90 * 86_400.0)
    return database


@pytest.mark.parametrize("how", ["late", "delete"])
def test_a_window_at_the_border_that_is_not_clean_takes_no_others_with_it(make, how):
    database, clock = make()
    clock.now_ms = DAY0 + 9 * DAY_MS - 30 * M + 12_345
    expire(database)
    floor_ms = clock.now_ms - 10 * DAY_MS
    at = DAY0 - 2 * DAY_MS
    before = answers(database, at)
    assert [exact for _, exact in before] == [False] * 3
    assert before[0][0] == 60.0
    if how == "late":
        database.append({"__name__": "other"}, [floor_ms + 5000], [1.0])
    else:
        database.delete_series("other", floor_ms, clock.now_ms)
    assert answers(database, at) == before
    database.flush()
    assert answers(database, at) == before
    database.build_tiers()
    assert answers(database, at) == before


def test_a_late_sample_among_others_that_are_gone_is_told_for_ever(make):
    database = erased(make)
    at = DAY0 - DAY_MS
    assert ask(database, at) == (60.0, False)
    database.append({"__name__": "c"}, [at - 28 * M + 7], [0.0])
    for step in (database.flush, database.build_tiers, database.compact):
        assert ask(database, at) == (61.0, True)
        step()
    assert ask(database, at) == (61.0, True)
    assert ask(database, at - H) == (60.0, False)
    assert ask(database, at, "count_over_time(other[1h])") == (60.0, False)
    wide = [tier for tier in database._storage.state.tiers if tier.entry.width_ms == H]
    assert listed(Doubts.joined([tier.doubts for tier in wide])) == [(0, at - H + 1, at)]


def test_what_can_be_added_exactly_is_exact_once_it_is_built(make):
    database = erased(make)
    at = DAY0 - DAY_MS
    first_ms = at - 60 * M + M
    # Before all others of its window, and the same as the last of it once more.
    database.append(
        {"__name__": "c"}, [first_ms - 7, at], [1.0, float((at - DAY0 + 3 * DAY_MS) // M - 1)]
    )
    assert ask(database, at)[0] == 61.0
    database.build_tiers()
    assert ask(database, at) == (61.0, False)
    assert all(len(tier.doubts) == 0 for tier in database._storage.state.tiers)


def test_late_samples_outlive_a_merge_before_they_are_built(make):
    database = erased(make)
    at = DAY0 - DAY_MS
    for k in (10, 20, 30):
        database.append({"__name__": "c"}, [at - (k - 2) * M + 7, at - (k - 2) * M + 8], [1.0, 1.0])
        database.flush()
        if k == 10:
            database.build_tiers()
    assert ask(database, at) == (66.0, True)
    database.compact()
    assert len(database._storage.state.parts) == 2
    assert ask(database, at) == (66.0, True)
    database.build_tiers()
    database.compact()
    assert len(database._storage.state.parts) == 1
    assert ask(database, at) == (66.0, True)


def test_a_window_that_a_delete_takes_is_told(make):
    database = erased(make)
    at = DAY0 - DAY_MS
    database.delete_series("c", at - 30 * M, at - 20 * M)
    for step in (database.build_tiers, database.clean_tombstones, lambda: None):
        assert ask(database, at)[1], "half of it would still be there"
        step()
    assert ask(database, at - H) == (60.0, False)
    assert ask(database, at, "count_over_time(other[1h])") == (60.0, False)


def test_a_series_of_which_nothing_is_left_is_told_where_others_are_built(tmp_path):
    clock = Time(DAY0 + 1)

    def opened(tiers, days):
        options = Options(tiers=tiers, retention=days * 86_400.0)
        with paused():
            return Database(str(tmp_path / "db"), options, clock=lambda: clock.now_ms)

    database = opened((), 4)
    times = [DAY0 - 4 * DAY_MS + k * H for k in range(1, 4 * 24 + 1)]
    database.append({"__name__": "c"}, times, [1.0] * len(times))
    database.flush()
    database.compact()
    clock.now_ms = DAY0 + 2 * DAY_MS + 1
    later = [DAY0 + k * H for k in range(1, 2 * 24 + 1)]
    database.append({"__name__": "c"}, later, [1.0] * len(later))
    database.flush()
    database.compact()
    expire(database)
    database.close()
    database = opened((Tier(3600.0),), 30)
    database.build_tiers()
    expr, at = "count_over_time(c[4d])", DAY0 + DAY_MS
    assert ask(database, at, expr) == (72.0, True), "a day of it is gone"
    # No tier has that day yet, and there is a sample of another series.
    database.append({"__name__": "other"}, [DAY0 - 2 * DAY_MS - 7], [1.0])
    for step in (database.build_tiers, database.compact, lambda: None):
        assert ask(database, at, expr) == (72.0, True)
        step()
    first = [tier.entry.cover_min for tier in database._storage.state.tiers]
    assert min(first) == DAY0 - 3 * DAY_MS + 1
    assert ask(database, at, "count_over_time(c[3d])") == (72.0, False)
    database.append({"__name__": "other"}, [DAY0 - 2 * DAY_MS - 8], [1.0])
    database.build_tiers()
    assert ask(database, at, expr) == (72.0, True), "when it is built again too"
    database.close()


# --- samples that wait for a tier -----------------------------------------------------------------

EVERY_AIM = (
    "count_over_time(c[1h])", "count_over_time(c[90m])", "quantile_over_time(0.5, c[1h])", "c",
    "c[1h]",
)  # fmt: skip


def infos(database, at, expr):
    return any("not exact" in info for info in database.query(expr, at).infos)


def test_what_is_hidden_before_a_tier_has_it_is_told(tmp_path):
    """A retention that ends before the day does."""
    clock = Time(DAY0 + 1)
    options = Options(tiers=(Tier(3600.0),), retention=6 * 3600.0)
    database = Database(str(tmp_path / "db"), options, clock=lambda: clock.now_ms)
    database.pause_background()
    for k in range(1, 2 * 24 + 1):
        clock.now_ms = DAY0 + k * H + 1
        database.append({"__name__": "c"}, [DAY0 + k * H - M, DAY0 + k * H], [1.0, 1.0])
        if k == 24:
            database.append({"__name__": "gone"}, [DAY0 + k * H], [1.0])
            database.build_tiers()
            database.delete_series("gone")
    at = DAY0 + DAY_MS + 12 * H
    for _ in range(2):
        assert ask(database, at + 12 * H) == (2.0, False)
        assert ask(database, DAY0 + DAY_MS) == (2.0, False)
        assert all(infos(database, at, expr) for expr in EVERY_AIM)
        assert not infos(database, at, "gone")
        database.flush()
        expire(database)
    database.build_tiers()
    clock.now_ms += 2
    database.build_tiers()
    assert ask(database, at) == (2.0, False)
    database.close()


def test_windows_that_the_limit_of_bytes_took_are_told_until_they_are_built_again(make):
    database, clock = make()
    storage = database._storage
    own = [tier.entry for tier in storage.state.tiers]
    database.append({"__name__": "c"}, [DAY0 + 1], [1.0])
    database.flush()
    clock.now_ms = DAY0 + 3 * DAY_MS
    database.build_tiers()
    names = frozenset(entry.name for entry in own)
    storage.maintenance.run(_Dropping(names))
    assert ask(database, DAY0 - DAY_MS) == (60.0, False)
    database.reconfigure(retention=3 * 86_400.0)
    assert all(infos(database, DAY0 - DAY_MS, expr) for expr in EVERY_AIM)
    expire(database)
    database.build_tiers()
    assert ask(database, DAY0 - DAY_MS) == (60.0, False)


class _Dropping:
    """A chore that takes parts of tiers."""

    name = "dropping"

    def __init__(self, names):
        self.names = names

    def plan(self, state, now_ms):
        left = self.names & {tier.entry.name for tier in state.tiers}
        drop = Job("dropping", 0, lambda context: context.replace_tiers(left, ()))
        return [drop] if left else []
