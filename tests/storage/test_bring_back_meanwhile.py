"""A part comes back to a database that went on without it: tiers, retention, space, its note."""

from __future__ import annotations

import json
import os
from collections import namedtuple

import pytest

import tsengine
from tests.faults.filesystem import FaultyFileSystem
from tests.storage.test_catalog_shrink import DAY_MS, Time
from tests.storage.test_retention import DAY_S, append, opened, run, stored
from tests.storage.test_retention_marks import (
    DAY0,
    HOUR_MS,
    TIERS,
    TIMES,
    WIDE_MS,
    both,
    both_of,
    exact_floor,
    expected,
    windows,
)
from tests.storage.test_retention_overlaps import SLO, put, values
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.holes import not_passed
from tsengine.storage.quarantine import Damaged, put_aside
from tsengine.storage.retention_chores import Expiry
from tsengine.storage.retention_marks import NOTHING_MS

Place = namedtuple("Place", "path clock options")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "db", Time(DAY0 + DAY_MS), {"tiers": TIERS, "retention": None})


def start(place, *rules, **options):
    return opened(place.path, place.clock, rules, **{**place.options, **options})


def take(database, entry, kind=filenames.PARTS_DIR):
    """Put a part aside; closes the database. Returns its folder's name."""
    directory, fs = database.directory, LocalFileSystem()
    database.close()
    current = manifest.load(fs, directory)
    put_aside(fs, directory, current, [Damaged(kind, entry.name, ("it broke",))], DAY0)
    return f"{kind}-{entry.name}"


def part_at(database, t_ms):
    (found,) = (p.entry for p in database.state.parts if p.entry.mint <= t_ms <= p.entry.maxt)
    return found


def brought_back(place, *names, **how):
    found = tsengine.bring_back(place.path, names, **how)
    assert [one.refused for one in found] == [None] * len(found)
    assert tsengine.check(place.path).problems == []
    return found


def of_day(day, times=TIMES):
    first = DAY0 - day * DAY_MS
    return [t for t in times if first < t <= first + DAY_MS]


# --- tiers ----------------------------------------------------------------------------------------


def assert_windows(place, by_job):
    """Before tiers are built again and after it, and exact both times."""
    database = start(place)
    for again in (False, True):
        if again:
            database.build_tiers()
        for job, times in by_job.items():
            assert both(database, job) == both_of(times), (job, again)
            assert exact_floor(database, job, HOUR_MS) is None
    database.build_tiers()
    assert both(database, next(iter(by_job))) == both_of(next(iter(by_job.values())))
    database.close()


def test_windows_that_were_made_without_it_count_it(place):
    database = start(place)
    append(database, "api", TIMES)
    append(database, "only", of_day(2))
    database.flush()
    database.compact()
    take(database, part_at(database, DAY0 - DAY_MS - HOUR_MS))
    database = start(place)
    database.build_tiers()
    assert windows(database, "api")[DAY0] == expected(TIMES)[DAY0]
    database.close()
    (back,) = brought_back(place)
    assert (back.n_samples, back.merged_with) == (2 * len(of_day(2)), 0)
    assert_windows(place, {"api": TIMES, "only": of_day(2)})


def test_late_samples_that_windows_made_anew_lack(place):
    late = [DAY0 - 2 * DAY_MS + 7]
    database = start(place)
    append(database, "api", TIMES)
    database.build_tiers()
    append(database, "api", late)
    database.flush()
    take(database, database.state.parts[-1].entry)
    database = start(place)
    append(database, "api", [DAY0 - 2 * DAY_MS + 9])
    database.build_tiers()
    database.close()
    brought_back(place)
    assert_windows(place, {"api": sorted([*TIMES, *late, DAY0 - 2 * DAY_MS + 9])})


@pytest.mark.parametrize("first", ["parts", "tiers"])
def test_windows_made_without_it_that_were_put_aside_too(place, first):
    database = start(place)
    append(database, "api", TIMES)
    database.flush()
    database.compact()
    folders = [take(database, part_at(database, DAY0 - DAY_MS - HOUR_MS))]
    database = start(place)
    database.build_tiers()
    tiers = [tier.entry for tier in database.state.tiers]
    for tier in tiers:
        folders.append(take(database, tier, filenames.TIERS_DIR))
        database = start(place)
    database.close()
    for name in sorted(folders, reverse=first == "tiers"):
        brought_back(place, name)
    assert_windows(place, {"api": TIMES})


def test_windows_that_have_not_seen_it_are_in_doubt_while_it_is_away(place):
    late = DAY0 - 2 * DAY_MS + 7
    database = start(place)
    append(database, "api", TIMES)
    database.build_tiers()
    append(database, "api", [late])
    database.flush()
    take(database, database.state.parts[-1].entry)
    database = start(place)
    ever = (DAY0 - 30 * DAY_MS + 1, DAY0 + 30 * DAY_MS)
    for again in (False, True):
        if again:
            append(database, "api", [DAY0 - 2 * DAY_MS + 9])
            database.build_tiers()
        view = database.view()
        refs = view.all_refs()
        assert view.missing_spans(0, refs, *ever) == [(late, late)]
        first = DAY0 - 2 * DAY_MS + 1
        for width_ms in (HOUR_MS, WIDE_MS):
            assert view.missing_spans(width_ms, refs, *ever) == []
            assert view.doubtful_spans(width_ms, refs, *ever) == [(first, first + width_ms - 1)]
    database.close()
    brought_back(place)
    assert_windows(place, {"api": sorted([*TIMES, late, DAY0 - 2 * DAY_MS + 9])})


def test_windows_that_newer_ones_replaced_are_in_doubt_while_these_are_away(place):
    late = DAY0 - 2 * DAY_MS + 7
    database = start(place, retention=10 * DAY_S)
    append(database, "api", TIMES)
    database.build_tiers()
    append(database, "api", [late])
    database.build_tiers()
    place.clock.now_ms = DAY0 + 13 * DAY_MS
    run(database, Expiry(database))
    newer = [t.entry for t in database.state.tiers if t.entry.seq_max == 1]
    assert database.state.parts == ()
    for entry in newer:
        take(database, entry, filenames.TIERS_DIR)
        database = start(place, retention=10 * DAY_S)
    view = database.view()
    ever = (DAY0 - 30 * DAY_MS + 1, DAY0 + 30 * DAY_MS)
    spans = view.doubtful_spans(HOUR_MS, view.all_refs(), *ever)
    assert [(mint <= late <= maxt) for mint, maxt in spans] == [True]
    database.close()
    brought_back(place)
    database = start(place, retention=10 * DAY_S)
    assert both(database) == both_of(sorted([*TIMES, late]))
    database.close()


def test_beside_tiers_that_had_seen_it_it_is_not_written_anew(place):
    database = start(place)
    append(database, "api", TIMES)
    database.build_tiers()
    entry = database.state.parts[0].entry
    take(database, entry)
    brought_back(place)
    database = start(place)
    assert database.state.parts[0].entry == entry
    database.close()
    assert_windows(place, {"api": TIMES})


def test_what_comes_after_its_return_is_newer(place):
    """It may have got a newer sequence; deletes and appends are newer still."""
    database = start(place)
    append(database, "api", TIMES)
    database.flush()
    database.compact()
    take(database, part_at(database, DAY0 - DAY_MS - HOUR_MS))
    database = start(place)
    database.build_tiers()
    database.close()
    brought_back(place)
    database = start(place)
    refs = database.view().all_refs()
    day = of_day(2)
    database.delete(refs, day[0], day[9])
    append(database, "api", [day[3]])
    left = sorted({*TIMES} - {*day[:10]} | {day[3]})
    for _ in range(2):
        assert windows(database, "api") == expected(left)
        database.clean_tombstones()
        database.compact()
        database.build_tiers()
    assert database.state.tombstones == ()
    database.close()


def test_late_samples_beside_windows_that_are_aside(place):
    """What is left of the samples makes no windows that would count instead."""
    database = start(place, retention=10 * DAY_S)
    append(database, "api", TIMES)
    append(database, "other", TIMES)
    database.build_tiers()
    place.clock.now_ms = DAY0 + 13 * DAY_MS
    run(database, Expiry(database))
    assert database.state.parts == ()
    for width_ms in (HOUR_MS, WIDE_MS):
        (tier,) = (t.entry for t in database.state.tiers if t.entry.width_ms == width_ms)
        take(database, tier, filenames.TIERS_DIR)
        database = start(place)
    late = [DAY0 - 2 * DAY_MS + 7]
    append(database, "api", late)
    database.build_tiers()
    database.close()
    brought_back(place)
    database = start(place)
    for again in (False, True):
        if again:
            database.build_tiers()
        assert both(database, "other") == both_of(TIMES)
        assert both(database, "api") == both_of([*TIMES, *late])
    database.close()


# --- retention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["time", "size"])
@pytest.mark.parametrize("merged", [False, True])
def test_what_retention_erased_meanwhile_stays_erased(place, by, merged):
    """One more part wrote over it, and is gone: the old values may not be seen again."""
    database = start(place, SLO, tiers=())
    if merged:
        put(database, [-30, -29], 0.5)
    put(database, [-71, -70, -30], 1.0)
    put(database, [-71], 2.0)
    put(database, [-30, -29], 2.5)
    put(database, [1], 3.0)
    entry = next(p.entry for p in database.state.parts if p.entry.n_samples == 3)
    take(database, entry)
    if by == "time":
        place.clock.now_ms = DAY0 - 60 * HOUR_MS + 10 * DAY_MS
        database = start(place, SLO, tiers=(), retention=10 * DAY_S)
    else:
        database = start(place, SLO, tiers=())
    if merged:
        database.compact()
    if by == "size":
        database.reconfigure({"retention_size": database.size_bytes(database.state) - 10})
    run(database, Expiry(database))
    assert values(database) == {-30: 2.5, -29: 2.5, 1: 3.0}
    mark_ms = database.state.erased[""]
    assert DAY0 - 71 * HOUR_MS < mark_ms <= DAY0 - 48 * HOUR_MS
    database.close()
    (back,) = brought_back(place)
    database = start(place, SLO, tiers=())
    kept = {} if mark_ms > DAY0 - 70 * HOUR_MS else {-70: 1.0}
    assert values(database) == kept | {-30: 2.5, -29: 2.5, 1: 3.0}
    assert (back.n_samples, back.merged_with) == (1 + len(kept), int(merged))
    database.close()


def test_what_a_longer_rule_keeps_comes_back_all_the_same(place):
    database = start(place, SLO, retention=10 * DAY_S)
    append(database, "api", [DAY0 - 8 * DAY_MS])
    append(database, "api", TIMES)
    append(database, "slo", TIMES)
    database.flush()
    database.compact()
    database.build_tiers()
    place.clock.now_ms = DAY0 + 3 * DAY_MS
    run(database, Expiry(database))
    entry = part_at(database, DAY0 - 2 * DAY_MS - 1)
    take(database, entry)
    place.clock.now_ms = DAY0 + 13 * DAY_MS
    database = start(place, SLO, retention=10 * DAY_S)
    run(database)
    assert database.state.erased[""] == DAY0 + 1
    database.close()
    (back,) = brought_back(place)
    assert back.n_samples == len(of_day(3))
    database = start(place, SLO, retention=90 * DAY_S)
    for again in (False, True):
        if again:
            database.build_tiers()
        assert both(database, "slo") == both_of(TIMES)
        assert both(database, "api") == both_of([DAY0 - 8 * DAY_MS, *TIMES])
        assert stored(database)["slo", 0] == TIMES
        assert exact_floor(database, "slo", HOUR_MS) is None
    database.close()


def test_holes_go_when_samples_of_all_series_are_past_them(place):
    holes = {"parts-1": (5, 10), "parts-2": (5, 20)}
    assert not_passed(holes, {}) == holes
    assert not_passed(holes, {"": 10}) == holes
    assert not_passed(holes, {"": 11}) == {"parts-2": (5, 20)}
    assert not_passed(holes, {"": 30, "{a=~'b'}": 11}) == {"parts-2": (5, 20)}
    assert not_passed(holes, {"{a=~'b'}": 30}) == holes
    database = start(place, retention=10 * DAY_S)
    append(database, "api", TIMES)
    database.flush()
    database.compact()
    database.build_tiers()
    take(database, database.state.parts[1].entry)
    place.clock.now_ms = DAY0 + 9 * DAY_MS + 1
    database = start(place, retention=10 * DAY_S)
    run(database, Expiry(database))
    assert len(database.state.holes) == 1
    assert both(database) == both_of(TIMES)
    place.clock.now_ms = DAY0 + 11 * DAY_MS + 1
    run(database, Expiry(database))
    assert database.state.holes == ()
    assert both(database) == both_of(TIMES)
    database.close()
    current = manifest.load(LocalFileSystem(), str(place.path))
    assert current.holes == {}
    assert len(current.aside) == 1
    brought_back(place)
    database = start(place, retention=90 * DAY_S)
    assert both(database) == both_of(TIMES)
    database.close()


# --- space ----------------------------------------------------------------------------------------


class SmallDisk(FaultyFileSystem):
    """Has so many bytes free."""

    free = 1 << 40

    def free_bytes(self, path):
        return self.free


def test_a_part_that_is_written_anew_needs_space(place, monkeypatch):
    database = start(place, tiers=())
    for value, hours in ((1.0, range(-10, 0)), (2.0, range(-10, -5)), (3.0, range(-10, -8))):
        put(database, hours, value)
    folder = take(database, database.state.parts[1].entry)
    database = start(place, tiers=())
    database.compact()
    sizes = sum(part.entry.size_bytes for part in database.state.parts)
    database.close()
    monkeypatch.setattr("tsengine.storage.database.LocalFileSystem", SmallDisk)
    monkeypatch.setattr(SmallDisk, "free", sizes)
    (found,) = tsengine.bring_back(place.path)
    assert found.refused.startswith("to write it anew with 1 other")
    assert f"the disk has {sizes}" in found.refused
    assert folder in manifest.load(LocalFileSystem(), str(place.path)).aside
    monkeypatch.setattr(SmallDisk, "free", 1 << 40)
    brought_back(place)
    database = start(place, tiers=())
    assert values(database).keys() == set(range(-10, 0))
    database.close()


# --- notes ----------------------------------------------------------------------------------------


def test_a_note_that_can_not_be_read_keeps_what_it_may_be_about(place, monkeypatch):
    database = start(place, tiers=())
    put(database, [-30], 1.0)
    put(database, [-20], 2.0)
    folder = take(database, database.state.parts[0].entry)
    plain = LocalFileSystem.read_file

    def read_file(self, path):
        if "quarantine" in path:
            raise PermissionError(13, "no permission", path)
        return plain(self, path)

    monkeypatch.setattr(LocalFileSystem, "read_file", read_file)
    database = start(place, tiers=())
    database.delete(database.view().all_refs(), DAY0 - 31 * HOUR_MS, DAY0 - 29 * HOUR_MS)
    database.clean_tombstones()
    assert len(database.state.tombstones) == 1
    database.close()
    monkeypatch.undo()
    assert manifest.load(LocalFileSystem(), str(place.path)).aside == (folder,)
    brought_back(place)
    database = start(place, tiers=())
    assert values(database) == {-20: 2.0}
    database.close()


@pytest.mark.parametrize("field", ["mint", "seq_max", "name"])
def test_an_entry_of_the_wrong_type_is_no_entry(place, field):
    database = start(place, tiers=())
    put(database, [-30], 1.0)
    folder = take(database, database.state.parts[0].entry)
    path = place.path / "quarantine" / folder / "note.json"
    note = json.loads(path.read_text())
    note["entry"][field] = None
    path.write_text(json.dumps(note))
    (found,) = tsengine.bring_back(place.path)
    assert "malformed" in found.refused
    start(place, tiers=()).close()


def test_a_copy_under_another_name_fills_the_hole(place):
    database = start(place, tiers=())
    put(database, [-30], 1.0)
    folder = take(database, database.state.parts[0].entry)
    quarantine = place.path / "quarantine"
    os.rename(quarantine / folder, quarantine / f"{folder}.good")
    brought_back(place, f"{folder}.good", force=True)
    current = manifest.load(LocalFileSystem(), str(place.path))
    assert (current.holes, current.aside) == ({}, ())


# --- the options of who opens it for a while ------------------------------------------------------


def test_who_does_not_know_the_rules_commits_no_marks(place):
    """Of a database of a version without marks: what is left of all series tells too little."""
    database = start(place, SLO, retention=10 * DAY_S)
    append(database, "api", TIMES)
    append(database, "slo", TIMES)
    database.build_tiers()
    place.clock.now_ms = DAY0 + 13 * DAY_MS
    run(database)
    marks = dict(database.state.erased)
    database.close()
    fs, directory = LocalFileSystem(), str(place.path)
    current = manifest.load(fs, directory)
    manifest.swap(fs, directory, current.with_changes(erased={}))
    with tsengine.open(place.path, tsengine.Options(background="merges")) as other:
        other.append({"__name__": "x"}, [DAY0 + 12 * DAY_MS], [1.0])
        other.flush()
        other.compact()
    assert dict(manifest.load(fs, directory).erased) == {}
    database = start(place, SLO, retention=10 * DAY_S)
    assert database.state.erased[""] >= marks[""]
    assert database.state.erased[SLO.match] == marks[SLO.match] == NOTHING_MS
    database.close()


def test_who_does_not_know_the_limits_drops_no_exemplars(place):
    from tests.storage.test_exemplars import batch

    database = start(place, tiers=(), exemplars_max=50)
    with database.refs_in_use([{"__name__": "m"}]) as refs:
        rows = [(int(refs[0]), DAY0 + k, float(k), {"trace": str(k)}) for k in range(40)]
    database.exemplars.add(batch(*rows))
    append(database, "api", [DAY0])
    database.flush()
    database.close()
    options = tsengine.Options(background="merges", exemplars_max=10)
    with tsengine.open(place.path, options) as other:
        other.append({"__name__": "x"}, [DAY0], [1.0])
        other._storage.exemplars.add(batch((0, DAY0 + 99, 1.0, {"trace": "x"})))
        other.flush()
        assert other._storage.exemplars.n_exemplars == 41
    database = start(place, tiers=(), exemplars_max=50)
    assert database.exemplars.n_exemplars == 41
    database.close()


def test_a_segment_that_is_trimmed_meanwhile_has_no_size(place, monkeypatch):
    database = start(place, tiers=())
    put(database, [-30], 1.0)
    size = database.size_bytes(database.state)
    monkeypatch.setattr("tsengine.storage.database_reads.list_segments", lambda fs, path: [999])
    assert 0 < database.size_bytes(database.state) <= size
    database.close()


@pytest.mark.parametrize("at_once", [True, False])
def test_of_two_that_overlap_the_newer_wins(place, at_once):
    """Though tiers were built without them, and whichever came first."""
    database = start(place)
    put(database, [-30, -29, -28], 1.0)
    put(database, [-30, -29], 2.0)
    put(database, [-30], 3.0)
    older, newer = (part.entry for part in database.state.parts[:2])
    for entry in (newer, older):
        take(database, entry)
        database = start(place)
    database.build_tiers()
    database.close()
    names = [f"parts-{entry.name}" for entry in (older, newer)]
    if at_once:
        brought_back(place)
    else:
        (found,) = tsengine.bring_back(place.path, names[:1])
        assert found.refused == f"{names[1]} is newer and must come back before it"
        brought_back(place, names[1])
        brought_back(place, names[0])
    database = start(place)
    assert values(database) == {-30: 3.0, -29: 2.0, -28: 1.0}
    entry = database.state.parts[-1].entry
    take(database, entry)
    brought_back(place)
    database = start(place)
    assert values(database) == {-30: 3.0, -29: 2.0, -28: 1.0}
    database.close()


def test_of_two_that_were_merged_over_neither_waits_for_the_other(place):
    """The merge begins before the older one, which is no newer for that."""
    database = start(place)
    put(database, [-30, -29, -28, -27], 1.0)
    put(database, [-30, -29], 2.0)
    put(database, [-30], 3.0)
    put(database, [-27], 4.0)
    older, newer = (part.entry for part in database.state.parts[1:3])
    for entry in (newer, older):
        take(database, entry)
        database = start(place)
    database.compact()
    assert [p.entry.seq_max - p.entry.seq_min for p in database.state.parts] == [3]
    database.build_tiers()
    database.close()
    brought_back(place)
    database = start(place)
    assert values(database) == {-30: 1.0, -29: 1.0, -28: 1.0, -27: 4.0}, "those of the merge"
    database.close()
