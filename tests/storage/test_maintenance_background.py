"""Background work of a running database: paused, slowed down, short of space, damaged, too much."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

import tsengine
from tsengine.errors import CorruptionError
from tsengine.options import Options
from tsengine.storage import compaction_chores, worker
from tsengine.storage.database import StorageDatabase
from tsengine.storage.filesystem import LocalFileSystem

DAY_MS = 86_400_000
T0 = 20_000 * DAY_MS
NO_TIERS = Options(tiers=())


def wait_until(claim, what):
    for _ in range(600):
        if claim():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited 30 s in vain: {what}")


def append(db, times, series="0"):
    (ref,) = db.series_refs([{"__name__": "m", "s": series}])
    times = np.asarray(times, np.int64)
    db.append_columns(np.full(len(times), ref, np.uint32), times, times.view(np.uint64))


def times_of(db):
    view = db.view()
    refs = view.all_refs()
    frames = view.read(refs, -(2**62), 2**62, drop_stale=False)
    return [
        frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]].tolist()
        for axis in frames.row_axis
    ]


def flush_four(db, day, n=1):
    """Four parts of one day; the times that were appended."""
    times = []
    for k in range(4):
        own = T0 + day * DAY_MS + 1000 * (n * k + 1 + np.arange(n))
        append(db, own)
        times += own.tolist()
        db.flush()
    return times


class Disk(LocalFileSystem):
    def __init__(self):
        self.free = 1 << 40

    def free_bytes(self, path):
        return self.free


def test_paused_work_waits_and_calls_do_not(tmp_path):
    with tsengine.open(tmp_path / "db", NO_TIERS) as database:
        db = database._storage
        database.pause_background()
        assert database.stats()["background_paused"] == 1
        times = flush_four(db, 0)
        wait_until(lambda: database.stats()["background_jobs:compaction"] == 1, "the backlog")
        time.sleep(1.2)
        assert len(db.state.parts) == 4
        database.compact()
        assert len(db.state.parts) == 1
        more = flush_four(db, 2)
        time.sleep(1.2)
        assert len(db.state.parts) == 5
        database.resume_background()
        wait_until(lambda: len(db.state.parts) == 2, "the merge after the pause")
        assert database.stats()["background_paused"] == 0
        assert times_of(db) == [times + more]


def test_a_pause_gives_up_a_merge_and_leaves_nothing_of_it(tmp_path, monkeypatch):
    db = StorageDatabase(str(tmp_path / "db"), Options(tiers=(), compaction_rate=1))
    times = flush_four(db, 0, n=500)
    parts = os.path.join(db.directory, "parts")
    wait_until(lambda: len(os.listdir(parts)) == 5, "the slow merge")
    db.maintenance.pause()
    assert len(os.listdir(parts)) == len(db.state.parts) == 4
    numbers = db.stats()
    assert numbers["background_failures:compaction"] == 0
    assert numbers["merges"] == 0
    monkeypatch.setattr(db, "options", NO_TIERS)
    db.maintenance.resume()
    wait_until(lambda: len(db.state.parts) == 1, "the quick merge")
    assert times_of(db) == [times]
    db.close()


def test_the_rate_is_kept_by_the_background_and_not_by_callers(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options(tiers=(), compaction_rate=2000))
    began = time.monotonic()
    flush_four(db, 0, n=1000)
    wait_until(lambda: len(db.state.parts) == 1, "the merge")
    size = db.state.parts[0].entry.size_bytes
    assert time.monotonic() - began >= size / 2000 - 0.3
    db.maintenance.pause()
    flush_four(db, 0, n=1000)
    began = time.monotonic()
    db.compact()
    assert time.monotonic() - began < 0.5 * size / 2000 + 1
    db.close()


def test_what_does_not_fit_the_disk_waits_and_is_counted(tmp_path, caplog):
    disk = Disk()
    disk.free = 100 << 20
    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS, fs=disk)
    times = flush_four(db, 0)
    wait_until(lambda: db.stats()["background_blocked:compaction"] == 1, "the merge that waits")
    assert len(db.state.parts) == 4
    numbers = db.stats()
    assert numbers["background_jobs:compaction"] == 1
    assert numbers["background_bytes:compaction"] == numbers["part_bytes"]
    assert "bytes free, the disk has 104857600" in caplog.text
    disk.free = 1 << 40
    wait_until(lambda: len(db.state.parts) == 1, "the merge when there is space")
    wait_until(lambda: db.stats()["background_blocked:compaction"] == 0, "the count")
    assert times_of(db) == [times]
    db.close()


def test_replaced_files_go_at_once_when_their_space_is_needed(tmp_path):
    class Filling(Disk):
        """Each folder of a part takes 100 MiB."""

        def free_bytes(self, path):
            return (700 << 20) - (len(os.listdir(os.path.join(path, "parts"))) * 100 << 20)

    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS, fs=Filling())
    parts = os.path.join(db.directory, "parts")
    db.maintenance.pause()
    for day in range(2):
        append(db, [T0 + day * DAY_MS + 1])
        db.flush()
        append(db, [T0 + day * DAY_MS + 2])
        db.flush()
    # The second merge would have 200 MiB of the 256 it needs if the first two parts stayed.
    db.compact()
    assert len(db.state.parts) == 2
    assert len(os.listdir(parts)) == 4
    assert times_of(db) == [[T0 + 1, T0 + 2, T0 + DAY_MS + 1, T0 + DAY_MS + 2]]
    db.close()


def test_a_damaged_part_does_not_hold_up_the_merges_of_others(tmp_path, caplog):
    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS)
    db.maintenance.pause()
    flush_four(db, 0, n=200)
    bad = db.state.parts[3].entry.name
    path = os.path.join(db.directory, "parts", bad, "values")
    with open(path, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 0xFF]))
    good = [T0 + 3 * DAY_MS + k for k in range(1, 9)]
    flush_four(db, 3)
    db.maintenance.resume()
    wait_until(lambda: db.stats()["background_failing:compaction"] == 1, "the merge that fails")
    append(db, good)
    wait_until(lambda: len(db.state.parts) == 5, "the merge of the other day")
    wait_until(lambda: db.stats()["merges"] == 1, "its count")
    numbers = db.stats()
    assert numbers["background_failures:compaction"] == numbers["merge_failures"] == 1
    assert "failed, it is tried again in 10 s" in caplog.text
    assert bad.lstrip("0") in caplog.text
    with pytest.raises(CorruptionError):
        db.compact()
    db.close()


def test_too_many_parts_are_merged_first(tmp_path, monkeypatch):
    """Two parts of a day are not due for a merge; with too many parts they are."""
    monkeypatch.setattr(compaction_chores, "LIVE_PARTS_MAX", 6)
    monkeypatch.setattr(worker, "_PLAN_EVERY_S", 0.05)
    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS)
    times = []
    for k in range(12):
        own = [T0 + k // 2 * DAY_MS + 10 * k + 1]
        append(db, own)
        db.flush()
        times += own
    wait_until(lambda: len(db.state.parts) <= 6, "urgent merges")
    assert db.stats()["background_done:urgent_compaction"] > 0
    assert times_of(db) == [times]
    db.close()


def test_appends_slow_down_while_merges_can_not_keep_up(tmp_path, monkeypatch):
    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS)
    urgent = db.maintenance._urgent
    monkeypatch.setattr(type(urgent), "plan", lambda self, state, now_ms: [])

    def seconds(t):
        began = time.monotonic()
        append(db, [t])
        return time.monotonic() - began

    # The best of some: the disk of a busy machine may make one wait.
    quick = min(seconds(T0 + k) for k in range(1, 9))
    urgent._n_excess = compaction_chores.LIVE_PARTS_MAX + 599
    assert seconds(T0 + 9) >= 0.3 > quick
    urgent._n_excess = 100 * compaction_chores.LIVE_PARTS_MAX
    threading.Timer(0.2, lambda: setattr(urgent, "_n_excess", 0)).start()
    append(db, [T0 + 10])
    assert times_of(db) == [[T0 + k for k in range(1, 11)]]
    db.close()


def test_parts_that_no_merge_could_make_fewer_hold_nobody_back(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction_chores, "LIVE_PARTS_MAX", 2)
    db = StorageDatabase(str(tmp_path / "db"), NO_TIERS)
    for day in range(6):
        append(db, [T0 + day * DAY_MS + 1])
        db.flush()
    chore = db.maintenance._urgent
    assert chore.plan(db.state, 0) == []
    assert chore.n_excess == 0
    db.close()
