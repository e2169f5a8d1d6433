"""Power cuts in the middle of any file operation: what was acknowledged is there, nothing else is.

The file system of tests/faults crashes at the n-th call of some kind and then forgets a random
part of what was not synced. The database is opened again on what is left and compared with a model.
"""

from __future__ import annotations

import contextlib
import errno
import random
import threading

import numpy as np
import pytest

from tests.faults.filesystem import FaultyFileSystem
from tests.reference.background import wait_for_disk
from tsengine.errors import StorageError, TsengineError
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.options import Options
from tsengine.storage.database import StorageDatabase

KINDS = ("write", "datasync", "write_file", "rename", "sync_dir", "open_append", "unlink", "mkdir")
EVERYTHING = [Matcher("__name__", MatchOp.NOT_EQUAL, "")]


class Model:
    """{series: {t: value}} that was acknowledged, and all values ever tried per (series, t)."""

    def __init__(self):
        self.acknowledged = {}
        self.tried = {}
        self.value = 0.0

    def batch(self, rng):
        """Random samples: [(series, t, value)]."""
        rows = []
        for _ in range(rng.randint(1, 12)):
            self.value += 1.0
            series, t = rng.randint(0, 6), rng.randint(0, 3) * 86_400_000 + rng.randint(1, 500)
            rows.append((series, t, self.value))
            self.tried.setdefault((series, t), set()).add(self.value)
        return rows

    def acknowledge(self, rows):
        for series, t, value in rows:
            self.acknowledged[series, t] = value


def append(db, rows):
    refs = db.series_refs([{"__name__": "m", "s": str(series)} for series, _, _ in rows])
    times = np.array([t for _, t, _ in rows], np.int64)
    bits = np.array([value for _, _, value in rows]).view(np.uint64)
    db.append_columns(refs, times, bits)


def contents(db):
    view = db.view()
    refs = view.find(EVERYTHING, -(2**63), 2**63 - 1)
    column = view.catalog.pair_column(refs, "s")
    names = [view.catalog.text(int(view.catalog.pair_values[pair])) for pair in column]
    frames = view.read(refs, -(2**63), 2**63 - 1, drop_stale=False)
    found = {}
    for row, name in enumerate(names):
        axis = frames.row_axis[row]
        times = frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]]
        values = frames.values[frames.row_offsets[row] : frames.row_offsets[row + 1]]
        for t, value in zip(times.tolist(), values.tolist(), strict=True):
            found[int(name), t] = value
    return found


def assert_matches(found, model):
    """Acknowledged samples are there; an unacknowledged later write may have replaced a value."""
    for key, value in model.acknowledged.items():
        assert key in found, f"lost {key}"
        assert found[key] == value or (found[key] in model.tried[key] and found[key] > value)
    for key, value in found.items():
        assert value in model.tried.get(key, ()), f"{key} = {value} was never written"


def work(db, rng, model):
    """Appends, flushes and merges until the file system gives out or the turns are done."""
    for _ in range(12):
        rows = model.batch(rng)
        append(db, rows)
        model.acknowledge(rows)
        chance = rng.random()
        if chance < 0.3:
            db.flush()
        elif chance < 0.4:
            db.compact()


@pytest.mark.parametrize("seed", range(30))
def test_power_cuts(tmp_path, seed):
    rng = random.Random(seed)
    directory = str(tmp_path / "db")
    fs = FaultyFileSystem()
    model = Model()
    for _ in range(4):
        fs.fail(
            rng.choice(KINDS), nth=rng.randint(1, 25), crash=True, torn=rng.randint(0, 60),
            after=rng.random() < 0.5,
        )  # fmt: skip
        db = None
        try:
            db = StorageDatabase(directory, Options(), fs=fs)
            assert_matches(contents(db), model)
            work(db, rng, model)
        except (TsengineError, OSError):
            pass
        finally:
            if db is not None:
                with contextlib.suppress(TsengineError, OSError):
                    db.close()
        fs.lose_unsynced(rng)
    db = StorageDatabase(directory, Options(), fs=fs)
    assert_matches(contents(db), model)
    append(db, model.batch(rng))
    db.flush()
    db.compact()
    assert db.recovery.damage == []
    db.close()


@pytest.mark.parametrize("kind", ["write", "datasync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failing_log_refuses_and_heals(tmp_path, kind, error):
    fs = FaultyFileSystem()
    model = Model()
    rng = random.Random(1)
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    rows = model.batch(rng)
    append(db, rows)
    model.acknowledge(rows)
    fs.fail(kind, error=error, times=None, torn=7, path_contains=".wal")
    for _ in range(3):
        with pytest.raises(StorageError):
            append(db, model.batch(rng))
    fs.heal()
    wait_for_disk(db)
    # Series whose record was in the failed batches must be logged again.
    for _ in range(5):
        rows = model.batch(rng)
        append(db, rows)
        model.acknowledge(rows)
    assert_matches(contents(db), model)
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    assert db.recovery.n_orphan_samples == 0
    assert_matches(contents(db), model)
    db.close()


def test_a_failing_flush_loses_nothing_and_is_tried_again(tmp_path):
    fs = FaultyFileSystem()
    model = Model()
    rng = random.Random(2)
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    for _ in range(3):
        rows = model.batch(rng)
        append(db, rows)
        model.acknowledge(rows)
        fs.fail("write", error=errno.ENOSPC, path_contains="parts")
        with pytest.raises(StorageError):
            db.flush()
        assert_matches(contents(db), model)
        wait_for_disk(db)
    db.flush()
    assert db.state.head.n_samples == 0
    assert db.state.frozen == ()
    assert_matches(contents(db), model)
    db.close()


def test_concurrent_appends_while_the_log_fails_now_and_then(tmp_path):
    fs = FaultyFileSystem()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    acknowledged = [set() for _ in range(4)]

    def write(worker):
        for k in range(6000):
            # While the disk is probed many are refused.
            if k >= 60 and len(acknowledged[worker]) > 30:
                break
            # A new series each time: after a failure its record must come again.
            refs = db.series_refs([{"__name__": "m", "s": str(worker * 10_000 + k)}])
            with contextlib.suppress(TsengineError):
                db.append_columns(refs, np.array([k]), np.array([k], np.uint64))
                acknowledged[worker].add((worker * 10_000 + k, k))

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        fs.fail("datasync", error=errno.EIO, times=2, path_contains=".wal")
    for thread in threads:
        thread.join()
    fs.heal()
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    assert db.recovery.n_orphan_samples == 0
    found = set(contents(db))
    for mine in acknowledged:
        assert mine <= found
    assert sum(map(len, acknowledged)) > 100
    db.close()
