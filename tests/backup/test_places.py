"""Who works at a place beside whom; wrong paths, wrong clocks, damaged records, leftovers."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

import tsengine
from server import cli
from tests.backup.conftest import T0, append, content
from tsengine import errors
from tsengine.backup import leases, record
from tsengine.backup.local_store import LocalObjects
from tsengine.backup.making import make_backup
from tsengine.backup.pruning import plan_keep, prune_backups
from tsengine.backup.restoring import restore_backup
from tsengine.backup.store import open_store
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.folder_lock import FolderLock, is_held, remove_unless_held

FULL = {("x", T0): 1.0, ("x", T0 + 1000): 2.0, ("late", T0 + 2000): 3.0}
DAY_MS = 86_400_000


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def age(path, seconds):
    at = time.time() - seconds
    os.utime(path, (at, at))


# --- (d) what pins the files ------------------------------------------------------------------


def test_a_writer_that_starts_meanwhile_leaves_the_staging_alone(tmp_path, monkeypatch):
    path, dest = tmp_path / "db", tmp_path / "backups"
    with tsengine.open(path) as db:
        db.append({"__name__": "x"}, [T0, T0 + 1000], [1.0, 2.0])
        append(db, "late", T0 + 2000, 3.0)
    wait = leases.Lease.wait_for_others

    def a_writer_starts(lease, kind):
        tsengine.check(path)
        tsengine.open(path).close()
        assert len(os.listdir(path / "snapshots")) == 1
        wait(lease, kind)

    monkeypatch.setattr(leases.Lease, "wait_for_others", a_writer_starts)
    make_backup(path, dest)
    assert os.listdir(path / "snapshots") == []
    restore_backup(dest, tmp_path / "back")
    assert content(tmp_path / "back") == FULL


KILLED = """
import os, signal, sys, tsengine
from tsengine.backup import leases
leases.Lease.wait_for_others = lambda lease, kind: os.kill(os.getpid(), signal.SIGKILL)
tsengine.make_backup(sys.argv[1], sys.argv[2])
"""


def test_the_staging_of_a_killed_backup_goes(database, tmp_path):
    dest = tmp_path / "backups"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, database.path, dest], check=False)
    folder = tmp_path / "db/snapshots"
    (left,) = os.listdir(folder)
    assert filenames.is_unfinished_snapshot(left), "the second removed that of the first"
    assert [note for note in tsengine.check(database.path).notes if left in note]
    make_backup(database.path, dest)
    assert os.listdir(folder) == []
    assert len(tsengine.list_backups(dest)) == 1


def test_folder_locks(tmp_path):
    fs, path = LocalFileSystem(), str(tmp_path / "a/b.0123abcd.tmp")
    lock = FolderLock(path)
    lock.take(fs)
    assert is_held(path)
    os.rename(path, tmp_path / "a/b")
    assert is_held(str(tmp_path / "a/b")), "it goes with the folder"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"it runs")
        time.sleep(30)
        os._exit(0)
    os.read(reading, 10)
    lock.release()
    assert not is_held(str(tmp_path / "a/b")), "a forked child does not keep it"
    os.kill(child, 9)
    os.waitpid(child, 0)
    lock.take(fs)
    (tmp_path / "db").mkdir()
    live = manifest.create(fs, str(tmp_path / "db"))
    held = FolderLock(str(tmp_path / "db/snapshots/x.01234567.tmp"))
    held.take(fs)
    os.mkdir(tmp_path / "db/snapshots/y.01234567.tmp")
    found = manifest.orphans(fs, str(tmp_path / "db"), live)
    assert found == [str(tmp_path / "db/snapshots/y.01234567.tmp")]
    held.release()
    assert len(manifest.orphans(fs, str(tmp_path / "db"), live)) == 2


def test_folders_without_locks(tmp_path, monkeypatch):
    """Nobody is kept out, and only the next start of a writer takes them for leftovers."""

    def none(fd, operation):
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr("fcntl.flock", none)
    fs, path = LocalFileSystem(), str(tmp_path / "b.0123abcd.tmp")
    lock = FolderLock(path)
    lock.take(fs)
    assert os.path.isdir(path)
    assert not is_held(path)
    assert not remove_unless_held(fs, path, if_unknown=False)
    lock.release()
    assert remove_unless_held(fs, path, if_unknown=True)
    assert not os.path.exists(path)


# --- (e) clocks -------------------------------------------------------------------------------


def test_backups_dated_in_the_future_stay_and_do_not_count():
    past = [record.new_name(T0 + 1000 * k) for k in range(4)]
    future = [record.new_name(T0 + 1000 * k) for k in range(50, 53)]
    now_ms = T0 + 10_000
    assert plan_keep([*past, *future], 1, None, now_ms) == frozenset([past[-1], *future])
    assert plan_keep([*past, *future], None, 7000, now_ms) == frozenset([past[-1], *future])
    assert plan_keep(future, 1, None, now_ms) == frozenset(future)
    assert plan_keep([*past, *future], 2, None, T0 + 60_000) == frozenset(future[1:])


def test_the_backup_just_made_stays_whatever_the_clock_said(capsys, database, tmp_path):
    dest = tmp_path / "backups"
    future = make_backup(database.path, dest, clock=lambda: T0 + 20 * 365 * DAY_MS).record.name
    names = []
    for k in range(3):
        append(database, "n", T0 + k, float(k))
        code, out, _ = run(capsys, "backup", "--data-dir", database.path, dest, "--keep", 1)
        assert code == 0
        names.append(out.partition(":")[0])
    assert [found.name for found in tsengine.list_backups(dest)] == [names[-1], future]
    report = prune_backups(dest, keep=1, protect=[names[-1]], clock=lambda: T0 + 30 * 365 * DAY_MS)
    assert report.removed == ()
    restore_backup(dest, tmp_path / "back", name=names[-1])
    assert ("n", T0 + 2) in content(tmp_path / "back")


# --- (g), (h) wrong paths, damaged records ----------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("backup", "--check", "PLACE"), ("restore", "PLACE", "--list"),
        ("restore", "PLACE", "--data-dir", "BACK"),
    ],
)  # fmt: skip
def test_a_place_without_backups_is_an_error_that_names_it(capsys, tmp_path, s3, arguments):
    (tmp_path / "empty").mkdir()
    for place, more in (
        (tmp_path / "nothing", ()),
        (tmp_path / "empty", ()),
        (s3.url, ("--endpoint-url", s3.endpoint)),
        ("s3://none-such/x", ("--endpoint-url", s3.endpoint)),
    ):
        named = {"PLACE": place, "BACK": tmp_path / "back"}
        code, _, err = run(capsys, *(named.get(one, one) for one in arguments), *more)
        assert code == 1
        assert str(place) in err
    assert not (tmp_path / "nothing").exists()
    assert os.listdir(tmp_path / "empty") == []


def test_no_library_call_takes_a_wrong_path_for_an_empty_place(tmp_path):
    for call in (tsengine.list_backups, tsengine.check_backups, tsengine.prune_backups):
        with pytest.raises(errors.StorageError, match=f"{tmp_path}/wrong has no backups"):
            call(tmp_path / "wrong")
    assert os.listdir(tmp_path) == []


def test_a_damaged_record_is_named_and_the_others_are_listed(capsys, database, tmp_path):
    dest = tmp_path / "backups"
    names = [make_backup(database.path, dest, clock=lambda k=k: T0 + k).record.name for k in (1, 2)]
    broken = dest / record.record_key(names[0])
    broken.write_bytes(broken.read_bytes().replace(b"size", b"sise"))
    newer = dest / record.record_key(record.new_name(T0))
    newer.write_bytes(b"tsengine backup 99\nwhatever\n")
    code, out, _ = run(capsys, "restore", dest, "--list")
    assert code == 1
    first, *others = out.splitlines()
    assert first.startswith(f"{names[1]}  2 samples in parts")
    assert [line.split(": ")[:2] for line in others] == [
        ["damage", str(newer.relative_to(dest))], ["damage", str(broken.relative_to(dest))],
    ]  # fmt: skip
    with pytest.raises(errors.UnsupportedFormat):
        tsengine.list_backups(dest)
    assert len(tsengine.check_backups(dest).problems) == 2


# --- (i), (j) leases and leftovers --------------------------------------------------------------


def test_a_lease_names_its_holder_and_is_renewed_while_one_item_takes_long(
    database, tmp_path, monkeypatch
):
    monkeypatch.setattr(leases, "_RENEW_S", 0.05)
    dest = tmp_path / "backups"
    renewed = []
    upload = LocalObjects.upload

    def slowly(store, key, path):
        if not renewed:
            (lease,) = (dest / "running").iterdir()
            assert json.loads(lease.read_text())["holder"].startswith(f"process {os.getpid()} on ")
            age(lease, 100_000)
            until = time.monotonic() + 10
            while time.time() - lease.stat().st_mtime > 1000 and time.monotonic() < until:
                time.sleep(0.02)
            renewed.append(time.time() - lease.stat().st_mtime)
        upload(store, key, path)

    monkeypatch.setattr(LocalObjects, "upload", slowly)
    database.backup(dest)
    assert 0 <= renewed[0] < 1000
    assert os.listdir(dest / "running") == []


def test_a_killed_prune_is_taken_over_after_minutes(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    database.backup(dest)
    monkeypatch.setattr(leases, "_PATIENCE_S", 0.0)
    left = dest / "running/prune-0123456789abcdef"
    left.write_bytes(json.dumps({"holder": "process 77 on elsewhere"}).encode())
    with pytest.raises(errors.StorageError, match="prune-0123456789abcdef, process 77 on elsew"):
        database.backup(dest)
    age(left, leases._EXPIRY_S + 40)
    assert leases._EXPIRY_S <= 600
    database.backup(dest)
    assert os.listdir(dest / "running") == []


def test_a_backup_that_was_taken_for_dead_makes_no_record(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    database.backup(dest)
    append(database, "x", T0 + 5000, 5.0)
    upload = LocalObjects.upload

    def while_it_sleeps(store, key, path):
        upload(store, key, path)
        for lease in (dest / "running").iterdir():
            lease.unlink()
        prune_backups(dest)

    monkeypatch.setattr(LocalObjects, "upload", while_it_sleeps)
    with pytest.raises(errors.StorageError, match="could not be renewed in time"):
        database.backup(dest, verify="none")
    monkeypatch.undo()
    assert len(tsengine.list_backups(dest)) == 1
    database.backup(dest)
    assert tsengine.check_backups(dest).problems == []


def test_a_prune_that_was_held_up_removes_nothing(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    database.backup(dest)
    (dest / "contents/00").mkdir(exist_ok=True)
    (dest / "contents/00/unused").write_bytes(b"x")
    read = tsengine.backup.places.read_record

    def slowly(store, name):
        monkeypatch.setattr(leases, "_clock_s", lambda: time.monotonic() + 1000)
        monkeypatch.setattr(leases.Lease, "renew", lambda lease: None)
        return read(store, name)

    monkeypatch.setattr("tsengine.backup.places.read_record", slowly)
    with pytest.raises(errors.StorageError, match="could not be renewed in time"):
        prune_backups(dest)
    assert (dest / "contents/00/unused").exists()


def test_pruning_leaves_contents_to_a_restore_under_way(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    first = make_backup(database.path, dest, clock=lambda: T0).record
    append(database, "x", T0 + 5000, 5.0)
    database.flush()
    make_backup(database.path, dest, clock=lambda: T0 + 1)
    pruned, stream = [], LocalObjects.stream

    def pruned_meanwhile(store, key):
        if not pruned:
            pruned.append(prune_backups(dest, keep=1))
        return stream(store, key)

    monkeypatch.setattr(LocalObjects, "stream", pruned_meanwhile)
    restore_backup(dest, tmp_path / "back", name=first.name)
    assert (pruned[0].removed, pruned[0].is_postponed) == ((first.name,), True)
    assert content(tmp_path / "back") == FULL
    assert os.listdir(dest / "running") == []
    monkeypatch.undo()
    assert prune_backups(dest, keep=1).n_contents > 0


def test_restores_and_checks_need_no_right_to_write(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    database.backup(dest)

    def refuse(store, key, data):
        raise errors.StoreUnavailable("access denied")

    monkeypatch.setattr(LocalObjects, "replace", refuse)
    restore_backup(dest, tmp_path / "back")
    assert content(tmp_path / "back") == FULL
    assert tsengine.check_backups(dest).problems == []


def test_leftovers_of_killed_writers_go(database, tmp_path):
    dest = tmp_path / "backups"
    database.backup(dest)
    old, new = dest / "tmp/0123456789abcdef", dest / "tmp/fedcba9876543210"
    for call in (lambda: database.backup(dest), lambda: prune_backups(dest)):
        for path in (old, new):
            path.write_bytes(b"half a content")
        age(old, leases._EXPIRY_S + 40)
        age(new, 20)
        call()
        assert os.listdir(dest / "tmp") == [new.name]
    assert restore_backup(dest, tmp_path / "back")


def test_a_writer_whose_file_was_taken_for_a_leftover_says_so(tmp_path, monkeypatch):
    store = open_store(tmp_path / "place")
    write = LocalFileSystem.write_file

    def removed_at_once(fs, path, data):
        write(fs, path, data)
        shutil.rmtree(tmp_path / "place/tmp")

    monkeypatch.setattr(LocalFileSystem, "write_file", removed_at_once)
    for call in (store.create, store.replace):
        with pytest.raises(errors.StorageError, match="taken for a leftover"):
            call("k", b"x")


def test_one_place_many_hands(database, tmp_path):
    """Backups, prunes, checks and restores at once: what is listed in the end is whole."""
    dest = tmp_path / "backups"
    database.backup(dest)
    failed = []

    def guarded(call, *arguments, **options):
        try:
            call(*arguments, **options)
        except Exception as error:
            failed.append(error)

    for k in range(4):
        append(database, "n", T0 + k, float(k))
        threads = [
            threading.Thread(target=guarded, args=(make_backup, database.path, dest)),
            threading.Thread(target=guarded, args=(prune_backups, dest), kwargs={"keep": 2}),
            threading.Thread(target=guarded, args=(tsengine.check_backups, dest)),
            threading.Thread(target=guarded, args=(restore_backup, dest, tmp_path / f"back-{k}")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    report = tsengine.check_backups(dest)
    assert report.problems == []
    assert os.listdir(dest / "running") == []
