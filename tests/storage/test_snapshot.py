"""Snapshots hold exactly what was acknowledged, are databases, and share nothing that changes."""

import errno
import os
import random
import threading

import numpy as np
import pytest

import tsengine
from tests.faults.filesystem import Crash, FaultyFileSystem
from tsengine import errors
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.snapshot import link_or_copy, make_snapshot

T0 = 1_700_000_000_000


def fill(path):
    """A database with a part, exemplars' absence, and samples that only the log holds."""
    db = tsengine.open(path)
    for name in ("x", "y"):
        db.append({"__name__": name}, [T0, T0 + 1000], [1.0, 2.0])
    db.flush()
    db.append({"__name__": "late"}, [T0 + 2000], [3.0])
    return db


def content(path_or_db):
    """{metric: [(t, value)]} of everything."""
    if isinstance(path_or_db, tsengine.Database):
        table = path_or_db.select('{__name__=~".+"}').read_all()
    else:
        with tsengine.open(path_or_db, read_only=True) as db:
            return content(db)
    found = {}
    for labels, t, value in zip(
        table["labels"].to_pylist(), table["timestamp"].cast("int64").to_pylist(),
        table["value"].to_pylist(), strict=True,
    ):  # fmt: skip
        found.setdefault(dict(labels)["__name__"], []).append((t, value))
    return found


FULL = {
    "x": [(T0, 1.0), (T0 + 1000, 2.0)],
    "y": [(T0, 1.0), (T0 + 1000, 2.0)],
    "late": [(T0 + 2000, 3.0)],
}
PARTS_ONLY = {name: FULL[name] for name in ("x", "y")}


def test_the_writer_makes_one(tmp_path):
    with fill(tmp_path / "db") as db:
        assert db.snapshot(tmp_path / "copy") == str(tmp_path / "copy")
        db.append({"__name__": "x"}, [T0 + 5000], [9.0])
    assert content(tmp_path / "copy") == FULL
    report = tsengine.check(tmp_path / "copy")
    assert (report.problems, report.notes, report.n_samples) == ([], [], 5)


def test_without_the_head(tmp_path):
    with fill(tmp_path / "db") as db:
        db.snapshot(tmp_path / "copy", skip_head=True)
        assert db.stats()["head_samples"] == 1, "nothing was flushed"
    assert content(tmp_path / "copy") == PARTS_ONLY


def test_beside_a_writer_with_its_log(tmp_path):
    with fill(tmp_path / "db") as db:
        with tsengine.open(tmp_path / "db", read_only=True) as reader:
            reader.snapshot(tmp_path / "copy")
            reader.snapshot(tmp_path / "parts", skip_head=True)
        db.append({"__name__": "late"}, [T0 + 3000], [4.0])
    assert content(tmp_path / "copy") == FULL
    assert content(tmp_path / "parts") == PARTS_ONLY
    assert tsengine.check(tmp_path / "copy").notes == []


def test_both_go_their_own_way(tmp_path):
    with fill(tmp_path / "db") as db:
        make_snapshot(LocalFileSystem(), db.path, str(tmp_path / "copy"), with_log=True)
        with tsengine.open(tmp_path / "copy") as copy:
            copy.append({"__name__": "x"}, [T0 + 7000], [7.0])
            copy.compact()
            copy.flush()
            db.append({"__name__": "x"}, [T0 + 8000], [8.0])
            db.flush()
            db.compact()
    assert content(tmp_path / "copy") == FULL | {"x": [*FULL["x"], (T0 + 7000, 7.0)]}
    assert content(tmp_path / "db") == FULL | {"x": [*FULL["x"], (T0 + 8000, 8.0)]}
    assert tsengine.check(tmp_path / "db").problems == []
    assert tsengine.check(tmp_path / "copy").problems == []


def test_files_are_hard_links(tmp_path):
    with fill(tmp_path / "db") as db:
        db.snapshot(tmp_path / "copy")
        current = manifest.load(LocalFileSystem(), db.path)
    for entry in current.parts:
        for name in ("index", "axes", "values"):
            (found,) = [
                (tmp_path / "db/parts" / entry.name / file).stat().st_ino
                == (tmp_path / "copy/parts" / entry.name / file).stat().st_ino
                for file in os.listdir(tmp_path / "db/parts" / entry.name)
                if file.startswith(name)
            ]
            assert found


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    (tmp_path / "copy").mkdir()
    with fill(tmp_path / "db") as db, pytest.raises(errors.StorageError, match="is there already"):
        db.snapshot(tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == []
    assert sorted(os.listdir(tmp_path)) == ["copy", "db"]


def test_another_disk_gets_copies(tmp_path):
    fs = FaultyFileSystem()
    fill(tmp_path / "db").close()
    fs.fail("link", error=errno.EXDEV, times=None)
    make_snapshot(fs, str(tmp_path / "db"), str(tmp_path / "copy"), with_log=True)
    assert content(tmp_path / "copy") == FULL
    fs.lose_unsynced(random.Random(1))
    assert content(tmp_path / "copy") == FULL


def test_names_inside_of_the_database(tmp_path):
    with fill(tmp_path / "db") as db:
        path = db.snapshot()
    folder, name = os.path.split(path)
    assert folder == str(tmp_path / "db/snapshots")
    assert len(name) == len("20261121T161300Z-0123456789abcdef")
    assert content(path) == FULL
    with tsengine.open(tmp_path / "db") as db:
        assert content(db) == FULL
    assert os.listdir(folder) == [name], "no orphan"
    assert tsengine.check(tmp_path / "db").notes == []


def test_what_a_crash_leaves_is_removed_by_the_next_writer(tmp_path):
    fill(tmp_path / "db").close()
    left = tmp_path / "db/snapshots/20261121T161300Z-0123456789abcdef.01ab45ef.tmp"
    (left / "parts").mkdir(parents=True)
    (tmp_path / "db/snapshots/mine.tmp").mkdir()
    assert [note for note in tsengine.check(tmp_path / "db").notes if str(left) in note]
    tsengine.open(tmp_path / "db").close()
    assert os.listdir(tmp_path / "db/snapshots") == ["mine.tmp"]


@pytest.mark.parametrize("kind", ["link", "mkdir", "sync_dir", "write_file", "rename", "write"])
@pytest.mark.parametrize("crash", [False, True])
def test_a_failure_at_any_step_leaves_a_whole_one_or_none(tmp_path, kind, crash):
    fill(tmp_path / "db").close()
    for nth in range(1, 40):
        fs = FaultyFileSystem()
        dest = tmp_path / f"copy-{nth}"
        fs.fail(kind, nth=nth, error=errno.ENOSPC, crash=crash)
        try:
            make_snapshot(fs, str(tmp_path / "db"), str(dest), with_log=True)
        except (errors.StorageError, Crash):
            if crash:
                fs.lose_unsynced(random.Random(nth))
            else:
                left = [path.name for path in tmp_path.glob(f"{dest.name}.*/*")]
                assert all(name.startswith(".shadow-") for name in left), "cleaned up"
        else:
            assert nth > 1, f"no {kind} happened"
            assert content(dest) == FULL
            break
        if dest.exists():
            assert content(dest) == FULL
    else:
        pytest.fail("never came through")
    assert content(tmp_path / "db") == FULL


def test_a_missing_file_is_damage(tmp_path):
    fill(tmp_path / "db").close()
    current = manifest.load(LocalFileSystem(), str(tmp_path / "db"))
    path = tmp_path / "db/catalog" / current.catalog_segments[0]
    path.unlink()
    with pytest.raises(errors.CorruptionError, match="missing"):
        make_snapshot(LocalFileSystem(), str(tmp_path / "db"), str(tmp_path / "c"), with_log=True)
    assert sorted(os.listdir(tmp_path)) == ["db"]


def test_what_was_deleted_does_not_come_back_without_the_head(tmp_path):
    with fill(tmp_path / "db") as db:
        db.delete_series('{__name__="x"}', T0, T0)
        db.snapshot(tmp_path / "copy", skip_head=True)
        tsengine.snapshot(db.path, tmp_path / "other", skip_head=True)
    assert content(tmp_path / "copy")["x"] == [(T0 + 1000, 2.0)]
    assert content(tmp_path / "other")["x"] == [(T0 + 1000, 2.0)]


def test_a_torn_end_of_the_log_is_left_out(tmp_path):
    fill(tmp_path / "db").close()
    segment = max((tmp_path / "db/wal").iterdir())
    whole = segment.stat().st_size
    with open(segment, "ab") as file:
        file.write(b"\x01\x02\x03")
    make_snapshot(LocalFileSystem(), str(tmp_path / "db"), str(tmp_path / "copy"), with_log=True)
    assert (tmp_path / "copy/wal" / segment.name).stat().st_size == whole
    assert content(tmp_path / "copy") == FULL


def test_each_is_one_moment_while_samples_flow(tmp_path):
    """Whatever is flushed, merged and trimmed meanwhile: a snapshot is a prefix of the appends."""
    stop = threading.Event()
    db = tsengine.open(tmp_path / "db")
    n_acknowledged = [0]

    def write():
        (ref,) = db.series_refs([{"__name__": "n"}])
        while not stop.is_set():
            i = n_acknowledged[0]
            db.append_columns(
                np.array([ref], np.uint32), np.array([T0 + i], np.int64), np.array([float(i)])
            )
            n_acknowledged[0] = i + 1
            if i % 20 == 19:
                db.flush()
            if i % 90 == 89:
                db.compact()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for k in range(12):
            dest = tmp_path / f"copy-{k}"
            while n_acknowledged[0] < 10 * (k + 1):
                pass
            before = n_acknowledged[0]
            if k % 3 == 0:
                db.snapshot(dest)
            else:
                make_snapshot(LocalFileSystem(), db.path, str(dest), with_log=True)
            after = n_acknowledged[0]
            found = content(dest)["n"]
            assert found == [(T0 + i, float(i)) for i in range(len(found))]
            assert before <= len(found) <= after + 1
            assert tsengine.check(dest).problems == []
    finally:
        stop.set()
        thread.join()
        db.close()


def test_names():
    made = filenames.unfinished_snapshot("/d/snapshots/x", "0123abcd")
    assert filenames.is_unfinished_snapshot(os.path.basename(made))
    assert not filenames.is_unfinished_snapshot("x.tmp")


def test_stubs_do_not_go_to_another_disk(tmp_path):
    """Two databases on two disks would remove each other's objects."""

    class OtherDisk(LocalFileSystem):
        def link(self, source, target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "values.cold").write_bytes(b"stub")
    (tmp_path / "index").write_bytes(b"index")
    link_or_copy(OtherDisk(), str(tmp_path / "index"), str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == b"index"
    with pytest.raises(errors.StorageError, match="make a backup instead"):
        link_or_copy(OtherDisk(), str(tmp_path / "values.cold"), str(tmp_path / "other.cold"))
    assert not (tmp_path / "other.cold").exists()
