"""Flush, compaction and retention as a running database does them by itself."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from tsengine.errors import Overloaded
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.options import Options
from tsengine.storage.database import StorageDatabase

DAY_MS = 86_400_000
NOW = 20_000 * DAY_MS + 1000
NAMED = [Matcher("__name__", MatchOp.EQUAL, "m")]


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
    refs = view.find(NAMED, -(2**63), 2**63 - 1)
    frames = view.read(refs, -(2**63), 2**63 - 1, drop_stale=False)
    return [
        frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]].tolist()
        for axis in frames.row_axis
    ]


def part_folders(db):
    return os.listdir(os.path.join(db.directory, "parts"))


def test_eight_flushes_become_one_part_per_day(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options())
    for i in range(8):
        append(db, [NOW + i, NOW + DAY_MS + i])
        db.flush()
    wait_until(lambda: len(db.state.parts) == 2, "the merge of eight parts")
    assert [part.entry.level for part in db.state.parts] == [1, 1]
    expected = [NOW + i for i in range(8)] + [NOW + DAY_MS + i for i in range(8)]
    assert times_of(db) == [expected]
    # It is counted when it is committed.
    wait_until(lambda: db.stats()["merges"] == 1, "the count of the merge")
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options())
    assert times_of(db) == [expected]
    assert len(part_folders(db)) == 2
    db.close()


def test_a_full_head_is_flushed_in_the_background(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options(head_samples_max=1000))
    append(db, np.arange(NOW, NOW + 1500))
    wait_until(lambda: db.state.head.n_samples == 0 and not db.state.frozen, "the flush")
    assert [part.entry.n_samples for part in db.state.parts] == [1500]
    assert times_of(db) == [list(range(NOW, NOW + 1500))]
    # What is in the part is no longer in the log.
    log = os.path.join(db.directory, "wal")
    wait_until(lambda: len(os.listdir(log)) <= 1, "the end of the log")
    db.close()


def test_many_new_series_are_a_reason_to_flush(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options(head_series_max=50))
    for i in range(60):
        append(db, [NOW], series=str(i))
    wait_until(lambda: len(db.state.parts) >= 1, "the flush")
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options())
    assert len(times_of(db)) == 60
    db.close()


def test_an_old_head_is_flushed(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options(head_age_s_max=0.2))
    append(db, [NOW])
    wait_until(lambda: len(db.state.parts) == 1, "the flush by age")
    db.close()


def test_retention_removes_whole_parts_and_hides_the_rest(tmp_path):
    now = [NOW]
    options = Options(retention=2 * DAY_MS / 1000, tiers=())
    db = StorageDatabase(str(tmp_path / "db"), options, clock=lambda: now[0])
    append(db, [NOW - 2 * DAY_MS + 5, NOW - 2 * DAY_MS + 6])
    db.flush()
    append(db, [NOW - DAY_MS, NOW])
    db.flush()
    assert len(times_of(db)[0]) == 4
    now[0] = NOW + 6
    assert times_of(db) == [[NOW - 2 * DAY_MS + 6, NOW - DAY_MS, NOW]]
    now[0] = NOW + 7
    assert times_of(db) == [[NOW - DAY_MS, NOW]]
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), options, clock=lambda: now[0])
    wait_until(lambda: len(db.state.parts) == 1, "the removal of the expired part")
    assert times_of(db) == [[NOW - DAY_MS, NOW]]
    outcome_refs = db.series_refs([{"__name__": "m", "s": "0"}])
    outcome = db.append_columns(outcome_refs, np.array([NOW - 2 * DAY_MS]), np.zeros(1, np.uint64))
    assert outcome.n_samples == 0
    assert "older than the retention" in outcome.too_old[0].reason
    db.close()
    assert len(part_folders(db)) == 1


def test_appends_are_held_back_while_the_flush_can_not_keep_up(tmp_path, monkeypatch):
    monkeypatch.setattr("tsengine.storage.append_lane._BACKPRESSURE_S", 0.2)
    db = StorageDatabase(str(tmp_path / "db"), Options(head_samples_max=100))
    hold = threading.Event()
    real = db._checkpointer.flush
    monkeypatch.setattr(db._checkpointer, "flush", lambda frozen: (hold.wait(30), real(frozen)))

    def append_too_much():
        for i in range(10):
            append(db, np.arange(NOW + 100 * i, NOW + 100 * i + 100))

    with pytest.raises(Overloaded, match="flush can't keep up"):
        append_too_much()
    stored = len(times_of(db)[0])
    assert stored >= 300
    hold.set()
    wait_until(lambda: not db.state.frozen, "the flush")
    append(db, [NOW + 10_000])
    assert len(times_of(db)[0]) == stored + 1
    db.close()


def test_views_outlive_a_merge(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options())
    for i in range(3):
        append(db, [NOW + i])
        db.flush()
    view = db.view()
    refs = view.find(NAMED, -(2**63), 2**63 - 1)
    db.compact()
    assert len(db.state.parts) == 1
    frames = view.read(refs, -(2**63), 2**63 - 1, drop_stale=False)
    assert frames.t_ms.tolist() == [NOW, NOW + 1, NOW + 2]
    db.close()
