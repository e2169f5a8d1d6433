"""A database on a disk that is full, read-only or failing: it refuses, reads on, and recovers."""

import contextlib
import errno
import os
import random
import threading
import time

import numpy as np
import pytest

from tests.faults.filesystem import FaultyFileSystem
from tsengine.errors import Full, StorageError, TsengineError
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.storage import filenames
from tsengine.storage.database import StorageDatabase
from tsengine.storage.disk_watch import DiskWatch, WatchedFileSystem
from tsengine.storage.filesystem import LocalFileSystem

T0 = 1_700_000_000_000
MIB = 1 << 20


def append(db, value, *, series="a"):
    refs = db.series_refs([{"__name__": "m", "s": series}])
    bits = np.array([value], np.float64).view(np.uint64)
    db.append_columns(refs, np.array([T0 + value]), bits)


def append_until_refused(db):
    for k in range(2, 200):
        try:
            append(db, k)
        except Full:
            return
    raise AssertionError("nothing was refused")


def contents(db):
    """{(s, time): value} of everything."""
    view = db.view()
    refs = view.find((Matcher("__name__", MatchOp.EQUAL, "m"),), -(2**63), 2**63 - 1)
    frames = view.read(refs, -(2**63), 2**63 - 1, drop_stale=False)
    found = set()
    for row in range(len(frames.row_axis)):
        axis = frames.row_axis[row]
        times = frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]]
        values = frames.values[frames.row_offsets[row] : frames.row_offsets[row + 1]]
        found |= {
            (t - T0, v) for t, v in zip(times.tolist(), values.tolist(), strict=True) if v == v
        }
    return found


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Disk(FaultyFileSystem):
    """A disk on which every call that writes fails while `error` is set."""

    def __init__(self):
        super().__init__()
        self.error = None
        self.free = None

    def break_down(self, error):
        self.error = error
        for kind in (
            "write", "write_file", "datasync", "open_append", "rename", "mkdir", "sync_dir",
            "allocate", "link",
        ):  # fmt: skip
            self.fail(kind, error=error, times=None, torn=7)
        if error == errno.EROFS:
            self.fail("unlink", error=error, times=None)

    def free_bytes(self, path):
        return super().free_bytes(path) if self.free is None else self.free


@pytest.mark.parametrize(
    ("error", "reason", "text"),
    [
        (errno.ENOSPC, "no_space", "the disk is full"),
        (errno.EDQUOT, "no_space", "the disk is full"),
        (errno.EROFS, "read_only", "the disk is read-only"),
        (errno.EIO, "io_error", "the disk fails"),
    ],
)
def test_it_refuses_reads_on_and_recovers(tmp_path, error, reason, text):
    fs = Disk()
    db = StorageDatabase(str(tmp_path / "db"), Options(ballast=4 * MIB), fs=fs)
    accepted = set()
    for k in range(10):
        append(db, k)
        accepted.add((k, float(k)))
    db.flush()
    append(db, 10)
    accepted.add((10, 10.0))
    fs.break_down(error)
    for k in range(11, 20):
        with pytest.raises(Full):
            append(db, k, series=str(k))
    with pytest.raises(Full, match=f"^{text} "):
        append(db, 20)
    with pytest.raises(Full, match=text):
        db.append_remote_write(b"", version=1)
    with pytest.raises(Full, match=text):
        db.append_metadata([MetadataEntry("m", "gauge", "", "")])
    with pytest.raises(Full, match=text):
        db.delete(np.array([0], np.uint32), T0, T0 + 100)
    with pytest.raises(StorageError):
        db.flush()
    stats = db.stats()
    assert stats[f"storage_failing:{reason}"] == 1
    others = {"no_space", "read_only", "io_error"} - {reason}
    assert [stats[f"storage_failing:{other}"] for other in others] == [0, 0]
    assert stats["storage_failures"] > 0
    # Nothing of the refused is there, all of the accepted is.
    assert contents(db) == accepted
    fs.heal()
    wait_for(lambda: db.disk.failure is None)
    assert db.stats()[f"storage_failing:{reason}"] == 0
    append(db, 30)
    accepted.add((30, 30.0))
    db.flush()
    assert contents(db) == accepted
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    assert contents(db) == accepted
    assert db.recovery.damage == []
    assert db.recovery.n_orphan_samples == 0
    db.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("write", "wal/"), ("datasync", "wal/"), ("open_append", "wal/"), ("sync_dir", "wal"),
        ("write", "parts/"), ("datasync", "parts/"), ("mkdir", "parts/"),
        ("write_file", "catalog/"), ("sync_dir", "catalog"), ("write_file", "manifest.tmp"),
        ("rename", "manifest"),
    ],
)  # fmt: skip
def test_whoever_meets_the_failure_closes_the_gate(tmp_path, kind, path, error):
    """Log, part, catalog or manifest: after one failed call nothing is acknowledged unprobed."""
    fs = FaultyFileSystem()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    append(db, 1)
    fs.fail(kind, error=error, path_contains=path, times=3)
    # The probe fails too, so the gate stays closed.
    fs.fail("write_file", error=error, path_contains=filenames.PROBE, times=None)
    if kind in ("open_append", "sync_dir") and path.startswith("wal"):
        db.freeze()
    with pytest.raises((TsengineError, OSError)):
        append(db, 2) if path.startswith("wal") else db.flush()
    assert db.disk.failure is not None
    before = fs.calls["write"]
    with pytest.raises(Full, match="nothing is accepted until it takes writes again"):
        append(db, 3)
    assert fs.calls["write"] == before, "not even tried"
    assert contents(db) == {(1, 1.0)}
    fs.heal()
    wait_for(lambda: db.disk.failure is None)
    append(db, 4)
    db.flush()
    assert contents(db) == {(1, 1.0), (4, 4.0)}
    db.close()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    assert contents(db) == {(1, 1.0), (4, 4.0)}
    db.close()


def test_a_failed_segment_is_not_synced_again(tmp_path):
    fs = FaultyFileSystem()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    append(db, 1)
    first = filenames.wal_name(1)
    fs.fail("datasync", path_contains=first)
    append(db, 2)  # Went to the next segment.
    synced = []
    real = FaultyFileSystem._call

    def spy(self, kind, path, act, torn=None):
        if kind in ("datasync", "write") and path.endswith(first):
            synced.append(kind)
        return real(self, kind, path, act, torn)

    fs._call = spy.__get__(fs)
    for k in range(3, 8):
        append(db, k)
    db.flush()
    assert synced == []
    assert len(contents(db)) == 7
    db.close()


def test_a_failing_merge_closes_the_gate_until_a_probe_succeeds(tmp_path):
    fs = FaultyFileSystem()
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    for k in range(3):
        append(db, k)
        db.flush()
    fs.fail("write", error=errno.ENOSPC, path_contains="parts/")
    fs.fail("write_file", error=errno.ENOSPC, path_contains=filenames.PROBE, times=None)
    with pytest.raises(TsengineError):
        db.compact()
    with pytest.raises(Full):
        append(db, 9)
    fs.heal()
    wait_for(lambda: db.disk.failure is None)
    append(db, 10)
    db.compact()
    assert len(contents(db)) == 4
    db.close()


# --- the ballast ---------------------------------------------------------------------------------


def test_the_ballast_lets_a_flush_through(tmp_path):
    """A full disk: the ballast goes, the head becomes a part, the log goes, the ballast is back."""

    class Full8(FaultyFileSystem):
        """A disk of a fixed size, counted over the files that are there."""

        size_max = 80 * MIB

        def used(self):
            total = 0
            for folder, _, names in os.walk(tmp_path / "db"):
                for name in names:
                    try:
                        total += os.path.getsize(os.path.join(folder, name))
                    except OSError:
                        pass
            return total

        def free_bytes(self, path):
            return self.size_max - self.used()

        def _call(self, kind, path, act, torn=None):
            if kind in ("write", "write_file", "allocate") and self.used() > self.size_max - 4096:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            if kind == "allocate" and self.free_bytes("") < 8 * MIB:
                raise OSError(errno.ENOSPC, "No space left on device", path)
            return super()._call(kind, path, act, torn)

    fs = Full8()
    db = StorageDatabase(str(tmp_path / "db"), Options(ballast=8 * MIB), fs=fs)
    ballast = tmp_path / "db" / "ballast"
    wait_for(lambda: db.stats()["ballast_bytes"] > 0)
    assert ballast.stat().st_size == 8 * MIB
    append(db, 1)
    fs.size_max = fs.used() + 2048  # Somebody else filled the disk.
    append_until_refused(db)
    before = contents(db)
    wait_for(lambda: db.stats()["flushes"] == 1 and db.state.frozen == ())
    # A probe makes it for a moment.
    wait_for(lambda: not ballast.exists())
    with pytest.raises(Full):
        append(db, 500)
    fs.size_max = 80 * MIB
    wait_for(lambda: db.disk.failure is None)
    assert ballast.stat().st_size == 8 * MIB
    assert contents(db) == before
    append(db, 501)
    db.close()
    assert not ballast.exists(), "a database at rest needs none"
    db = StorageDatabase(str(tmp_path / "db"), Options(), fs=LocalFileSystem())
    assert contents(db) == before | {(501, 501.0)}
    db.close()


def test_without_the_option_there_is_no_ballast(tmp_path):
    db = StorageDatabase(str(tmp_path / "db"), Options())
    append(db, 1)
    assert db.stats()["ballast_bytes"] == 0
    db.close()
    assert not (tmp_path / "db" / "ballast").exists()
    assert not (tmp_path / "db" / "probe.tmp").exists()


def test_a_small_disk_gets_a_small_ballast(tmp_path):
    fs = Disk()
    fs.free = 20 * MIB
    db = StorageDatabase(str(tmp_path / "db"), Options(ballast=64 * MIB), fs=fs)
    wait_for(lambda: db.stats()["ballast_bytes"] == 2 * MIB)
    db.close()


# --- the watch alone -----------------------------------------------------------------------------


def make_watch(fs, directory, **options):
    told = []
    watch = DiskWatch(
        fs, str(directory), ballast_size=0, on_failing=told.append,
        on_recovered=lambda: told.append(None), **options,
    )  # fmt: skip
    return watch, WatchedFileSystem(fs, str(directory), watch), told


def test_only_the_disks_own_errors_inside_the_directory_count(tmp_path):
    fs = FaultyFileSystem()
    watch, watched, _ = make_watch(fs, tmp_path / "db")
    (tmp_path / "db").mkdir()
    with pytest.raises(FileNotFoundError):
        watched.open_append(str(tmp_path / "db" / "no" / "file"))
    with pytest.raises(FileNotFoundError):
        watched.unlink(str(tmp_path / "db" / "none"))
    fs.fail("write_file", error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        watched.write_file(str(tmp_path / "elsewhere"), b"x")
    fs.fail("read_file")
    with pytest.raises(OSError, match="Input/output"):
        watched.read_file(str(tmp_path / "db" / "x"))
    assert watch.failure is None
    watch.check()
    fs.fail("sync_dir", error=errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        watched.sync_dir(str(tmp_path / "db"))
    assert watch.failure.reason == "io_error"
    watch.stop()


def test_a_hanging_probe_holds_up_nobody_for_long(tmp_path):
    hold, hangs = threading.Event(), threading.Event()

    class Hanging(LocalFileSystem):
        def write_file(self, path, data):
            hangs.set()
            hold.wait(60)
            super().write_file(path, data)

    watch, _, told = make_watch(Hanging(), tmp_path)
    watch.start()
    watch.report(OSError(errno.EIO, "Input/output error"), "syncing wal")
    assert hangs.wait(60)
    started = time.monotonic()
    with pytest.raises(Full, match="the disk fails"):
        watch.check()
    assert time.monotonic() - started < 30
    hold.set()
    wait_for(lambda: watch.failure is None)
    wait_for(lambda: len(told) == 2)
    assert told[0].reason == "io_error"
    watch.stop()


def test_probes_become_rare(tmp_path):
    fs = FaultyFileSystem()
    watch, _, _ = make_watch(fs, tmp_path)
    watch.start()
    fs.fail("write_file", error=errno.ENOSPC, times=None)
    watch.report(OSError(errno.ENOSPC, "No space left on device"), "writing")
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < 1.2 or fs.calls["write_file"] < 3:
        with pytest.raises(Full):
            watch.check()
    # One a second in the end.
    assert fs.calls["write_file"] <= 7 + seconds
    watch.stop()
    assert not (tmp_path / "probe.tmp").exists()


def test_a_failure_before_the_start_is_probed_after_it(tmp_path):
    watch, _, told = make_watch(LocalFileSystem(), tmp_path)
    watch.report(OSError(errno.EIO, "Input/output error"), "opening")
    assert watch.failure is not None
    assert told == []
    watch.start()
    wait_for(lambda: watch.failure is None)
    watch.stop()


# --- anything, in any order ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_failures_lose_nothing(tmp_path, seed):
    """Appends, flushes and merges on a disk that breaks down and heals: all that was accepted is
    there, all that was refused is not, and after a restart as well."""
    rng = random.Random(seed)
    fs = Disk()
    fsync = rng.choice(["always", "interval"])
    ballast = rng.choice([0, 2 * MIB])
    directory = str(tmp_path / "db")
    db = StorageDatabase(directory, Options(ballast=ballast, fsync=fsync), fs=fs)
    accepted, refused = set(), set()
    is_broken = False
    for k in range(60):
        action = rng.random()
        if action < 0.1:
            fs.break_down(rng.choice([errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT]))
            is_broken = True
        elif action < 0.15:
            # Something fails some times, and then no longer.
            fs.fail(
                rng.choice(["write", "datasync", "write_file", "rename", "sync_dir"]),
                nth=rng.randint(1, 6), times=rng.randint(1, 3), error=errno.EIO, torn=3,
            )  # fmt: skip
        elif action < 0.35:
            fs.heal()
            if is_broken:
                wait_for(lambda: db.disk.failure is None)
            is_broken = False
        elif action < 0.45:
            with contextlib.suppress(StorageError):
                db.flush() if rng.random() < 0.7 else db.compact()
        else:
            try:
                append(db, k, series=rng.choice("abc"))
                accepted.add((k, float(k)))
            except StorageError:
                refused.add((k, float(k)))
        assert contents(db) == accepted
    fs.heal()
    wait_for(lambda: db.disk.failure is None)
    append(db, 100)
    accepted.add((100, 100.0))
    db.close()
    db = StorageDatabase(directory, Options(), fs=fs)
    assert contents(db) == accepted
    assert db.recovery.damage == []
    assert db.recovery.n_orphan_samples == 0
    db.close()
    assert len(accepted) > 10
    assert refused or seed not in (0, 1)


def test_a_failing_sync_in_the_background_closes_the_gate(tmp_path):
    fs = FaultyFileSystem()
    db = StorageDatabase(str(tmp_path / "db"), Options(fsync="interval"), fs=fs)
    fs.fail("write_file", path_contains=filenames.PROBE, times=None)
    fs.fail("datasync", path_contains="wal/")
    append(db, 1)
    wait_for(lambda: db.disk.failure is not None)
    with pytest.raises(Full, match="the disk fails"):
        append(db, 2)
    fs.heal()
    wait_for(lambda: db.disk.failure is None)
    append(db, 3)
    assert contents(db) == {(1, 1.0), (3, 3.0)}
    db.close()
