"""What a start settles of parts in the quarantine: returns that a crash cut short, and marks."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest

import tsengine
from tests.faults.filesystem import FaultyFileSystem
from tests.storage.test_bring_back import T0, fill, loaded, refusals, samples, take
from tests.storage.test_bring_back import opened as opened_plain
from tests.storage.test_bring_back_meanwhile import brought_back, start
from tests.storage.test_bring_back_meanwhile import place as place
from tests.storage.test_bring_back_meanwhile import take as put_away
from tests.storage.test_catalog_shrink import DAY_MS
from tests.storage.test_retention import DAY_S, run
from tests.storage.test_retention_marks import DAY0, HOUR_MS, TIERS
from tests.storage.test_retention_overlaps import SLO, put, values
from tsengine import errors
from tsengine.options import Options
from tsengine.storage.aside import RETURN
from tsengine.storage.bring_back import Returning
from tsengine.storage.database import StorageDatabase
from tsengine.storage.retention_chores import Expiry


def merged_over(path):
    """A database whose second part is aside, and the others were merged over it."""
    with opened_plain(path) as db:
        fill(db, 0, 1, n=10)
        db.append({"__name__": "m"}, [T0 + 30_000, T0 + 90_000], [5.0, 6.0])
        db.flush()
        fill(db, 0, 3, n=5)
    before = samples(path)
    folder = take(path, 1)
    with opened_plain(path) as db:
        db.compact()
    return folder, before


def apart(path):
    with opened_plain(path) as db:
        for day in range(3):
            fill(db, day, day)
    before = samples(path)
    return take(path, 1), before


def crashed_return(path, folder, kind, nth, after=False, where=""):
    """Whether it came through; the process is gone then."""
    fs = FaultyFileSystem()
    database = StorageDatabase(str(path), Options(background="merges"), fs=fs)
    database.maintenance.pause()
    fs.fail(kind, nth=nth, crash=True, after=after, path_contains=where)
    try:
        database.maintenance.run(Returning(database, folder, force=False))
    except (errors.StorageError, OSError):
        pass
    is_over = not fs.is_crashed
    fs.revive()
    database.close()
    return is_over


@pytest.mark.parametrize("make", [apart, merged_over])
@pytest.mark.parametrize("kind", ["link", "write_file", "sync_dir", "rename", "unlink", "rmdir"])
def test_after_a_crash_a_part_waits_or_is_back(tmp_path, make, kind):
    """And nothing of it is left in the quarantine if it is back."""
    path = tmp_path / "db"
    folder, before = make(path)
    for nth in range(1, 60):
        copy = tmp_path / f"copy{nth}"
        shutil.copytree(path, copy)
        is_over = crashed_return(copy, folder, kind, nth, after=nth % 2 == 0)
        is_waiting = folder in loaded(copy).aside
        with opened_plain(copy):
            pass
        assert (copy / "quarantine" / folder).exists() == is_waiting
        assert refusals(copy) == [None] * is_waiting
        assert samples(copy) == before
        assert tsengine.check(copy).problems == []
        shutil.rmtree(copy)
        if is_over:
            break
    else:
        pytest.fail("it never came through")


@pytest.mark.parametrize("make", [apart, merged_over])
def test_a_crash_behind_the_commit_and_merges_then(tmp_path, make):
    """The folder goes at the start, before its part is merged away; even if that brings back."""
    path = tmp_path / "db"
    folder, before = make(path)
    assert not crashed_return(path, folder, "unlink", 1, where=folder)
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    (found,) = tsengine.bring_back(copy)
    assert (found.name, found.refused) == (folder, None)
    assert found.n_samples == (200 if make is apart else 2)
    assert not (copy / "quarantine" / folder).exists()
    with opened_plain(path) as db:
        db.compact()
    assert not (path / "quarantine" / folder).exists()
    for each in (path, copy):
        assert samples(each) == before
        assert tsengine.check(each).problems == []


def test_one_of_which_nothing_is_left_goes_too(tmp_path):
    path = tmp_path / "db"
    folder, _ = merged_over(path)
    with opened_plain(path) as db:
        db.delete_series("m", T0, T0 + 86_400_000)
    assert not crashed_return(path, folder, "unlink", 1, where=folder)
    assert (loaded(path).aside, loaded(path).parts) == ((), ())
    with opened_plain(path):
        pass
    assert not (path / "quarantine" / folder).exists()
    assert samples(path) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"n_samples": 1e999}', '{"became": null}', '{"became": [1]}', "{}"]
)
def test_what_is_not_understood_means_nothing(tmp_path, text):
    path = tmp_path / "db"
    folder, before = apart(path)
    (path / "quarantine" / folder / RETURN).write_text(text)
    with opened_plain(path):
        pass
    assert refusals(path) == [None]
    assert samples(path) == before


def test_a_copy_of_what_is_back_stays(tmp_path):
    """Who put it there may need it."""
    path = tmp_path / "db"
    folder, _ = apart(path)
    shutil.copytree(path / "quarantine" / folder, tmp_path / "copy")
    assert refusals(path) == [None]
    shutil.copytree(tmp_path / "copy", path / "quarantine" / folder)
    assert refusals(path, force=True) == ["the database has it"]
    assert (path / "quarantine" / folder / "values").exists()


# --- marks ----------------------------------------------------------------------------------------


def erased_in_note(place, folder):
    return json.loads((place.path / "quarantine" / folder / "note.json").read_text())["erased"]


@pytest.mark.parametrize("rules", [(), (SLO,)])
def test_what_was_overwritten_and_erased_does_not_return_beside_tiers(place, rules):
    """Though nothing had been erased before."""
    database = start(place, *rules)
    put(database, [-71, -70, -30], 1.0)
    put(database, [-71], 2.0)
    put(database, [-30], 2.5)
    put(database, [1], 3.0)
    place.clock.now_ms = DAY0 + DAY_MS
    database.build_tiers()
    entry = next(p.entry for p in database.state.parts if p.entry.n_samples == 3)
    folder = put_away(database, entry)
    assert erased_in_note(place, folder) is None
    database = start(place, *rules, retention=10 * DAY_S)
    place.clock.now_ms = DAY0 - 60 * HOUR_MS + 10 * DAY_MS
    run(database, Expiry(database))
    mark_ms = database.state.erased[""]
    assert DAY0 - 71 * HOUR_MS < mark_ms <= DAY0 - 48 * HOUR_MS
    database.close()
    brought_back(place)
    database = start(place, *rules)
    found = values(database)
    assert {hour: found[hour] for hour in (-30, 1)} == {-30: 2.5, 1: 3.0}
    assert found.get(-71, 2.0) == 2.0
    database.close()


def test_a_guess_takes_nothing_of_what_is_aside(place):
    """Rules hide whose samples were in holes: windows then look like those of erased samples."""
    database = start(place, SLO, tiers=())
    put(database, [-71, -70], 1.0)
    put(database, [-47, -46], 2.0)
    put(database, [-23, -22], 3.0)
    first, second = (part.entry for part in database.state.parts[:2])
    folder = put_away(database, first)
    assert erased_in_note(place, folder) == {}
    database = start(place, SLO, tiers=TIERS)
    place.clock.now_ms = DAY0 + DAY_MS
    database.build_tiers()
    put_away(database, second)
    start(place, SLO).close()
    brought_back(place)
    database = start(place, SLO)
    assert values(database) == {-71: 1.0, -70: 1.0, -47: 2.0, -46: 2.0, -23: 3.0, -22: 3.0}
    database.close()


class Nothing:
    """Of what was not synced a power cut leaves nothing."""

    @staticmethod
    def randint(low, high):
        return low


def test_a_folder_is_gone_for_good_before_its_part_can_be_merged(tmp_path):
    path = tmp_path / "db"
    folder, _ = merged_over(path)
    fs = FaultyFileSystem()
    database = StorageDatabase(str(path), Options(background="merges"), fs=fs)
    database.maintenance.pause()
    database.maintenance.run(Returning(database, folder, force=False))
    with database.refs_in_use([{"__name__": "m"}]) as refs:
        database.append_columns(refs, np.array([T0 + 1]), np.ones(1).view(np.uint64))
    database.flush()
    database.compact()
    fs.is_crashed = True
    with contextlib.suppress(errors.StorageError, OSError):
        database.close()
    fs.lose_unsynced(Nothing)
    before = samples(path)
    with opened_plain(path):
        pass
    assert not (path / "quarantine" / folder).exists()
    assert samples(path) == before
