"""Backups in a directory: what they hold, what they send, and what is left when they break off."""

import dataclasses
import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest

import tsengine
from tests.backup.conftest import T0, append, content
from tests.faults.filesystem import Crash, FaultyFileSystem
from tests.golden import make_backup as made
from tsengine import errors
from tsengine.backup import leases, record
from tsengine.backup.making import make_backup
from tsengine.backup.pruning import plan_keep, prune_backups
from tsengine.backup.restoring import restore_backup
from tsengine.backup.store import open_store

GOLDEN = Path(__file__).parent.parent / "golden" / "backup-v1"
FULL = {("x", T0): 1.0, ("x", T0 + 1000): 2.0, ("late", T0 + 2000): 3.0}


def contents(dest):
    return {found.key for found in open_store(dest).list(record.CONTENTS)}


def test_there_and_back(database, tmp_path):
    report = database.backup(tmp_path / "backups")
    assert report.n_sent == report.n_verified == len({f.sha256 for f in report.record.files})
    assert report.record.new_bytes <= report.record.size_bytes
    restored = tsengine.restore_backup(tmp_path / "backups", tmp_path / "back")
    assert restored == report.record
    assert content(tmp_path / "back") == FULL
    assert tsengine.check(tmp_path / "back").problems == []
    assert not (tmp_path / "back/restoring").exists()
    with tsengine.open(tmp_path / "back") as db:
        append(db, "x", T0 + 9000, 9.0)
    assert content(tmp_path / "back")["x", T0 + 9000] == 9.0
    assert os.listdir(tmp_path / "db/snapshots") == [], "what pinned the files is gone"


def test_beside_a_running_writer(database, tmp_path):
    tsengine.make_backup(database.path, tmp_path / "backups")
    append(database, "late", T0 + 3000, 4.0)
    tsengine.restore_backup(tmp_path / "backups", tmp_path / "back")
    assert content(tmp_path / "back") == FULL


def test_only_what_is_new_is_sent(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    first = database.backup(dest)
    before = contents(dest)
    again = database.backup(dest)
    assert (again.n_sent, again.record.new_bytes) == (0, 0)
    append(database, "x", T0 + 5000, 5.0)
    read = []
    real = tsengine.backup.making.sha256_of_file
    monkeypatch.setattr(
        "tsengine.backup.making.sha256_of_file", lambda fs, p: read.append(p) or real(fs, p)
    )
    third = database.backup(dest)
    old_parts = {f.path for f in first.record.files if f.path.startswith("parts/")}
    assert not [p for p in read if any(p.endswith(old) for old in old_parts)], "known by its time"
    new = {f.key for f in third.record.files} - before
    assert contents(dest) == before | new
    assert third.n_sent == len(new)
    assert third.record.new_bytes == sum(f.size for f in third.record.files if f.key in new)


def test_point_in_time(database, tmp_path):
    dest = tmp_path / "backups"
    for k in range(3):
        append(database, "n", T0 + k, float(k))
        make_backup(database.path, dest, clock=lambda k=k: T0 + 60_000 * k)
    names = [found.name for found in tsengine.list_backups(dest)]
    assert [name[:19] for name in names] == [
        "20231114T221320.000", "20231114T221420.000", "20231114T221520.000",
    ]  # fmt: skip
    for at_ms, k in ((T0, 0), (T0 + 59_999, 0), (T0 + 60_000, 1), (T0 + 10**9, 2), (None, 2)):
        path = tmp_path / f"at-{at_ms}"
        assert restore_backup(dest, path, at_ms=at_ms).name == names[k]
        assert sum(metric == "n" for metric, _ in content(path)) == k + 1
    restore_backup(dest, tmp_path / "named", name=names[1])
    assert ("n", T0 + 2) not in content(tmp_path / "named")
    with pytest.raises(errors.StorageError, match="no backup of that time or before"):
        restore_backup(dest, tmp_path / "none", at_ms=T0 - 1)
    with pytest.raises(errors.StorageError, match="has no backup 'x'"):
        restore_backup(dest, tmp_path / "none", name="x")


def test_a_target_in_use_is_refused(database, tmp_path):
    database.backup(tmp_path / "backups")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes").write_text("mine")
    with pytest.raises(errors.StorageError, match="is not empty"):
        restore_backup(tmp_path / "backups", tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["notes"]
    (tmp_path / "empty").mkdir()
    restore_backup(tmp_path / "backups", tmp_path / "empty")
    assert content(tmp_path / "empty") == FULL


def test_two_databases_do_not_share_a_place(database, tmp_path):
    database.backup(tmp_path / "backups")
    with (
        tsengine.open(tmp_path / "other") as other,
        pytest.raises(errors.StorageError, match="of another database"),
    ):
        other.backup(tmp_path / "backups")
    assert len(tsengine.list_backups(tmp_path / "backups")) == 1


def test_no_backups(tmp_path):
    with pytest.raises(errors.StorageError, match="has no backups"):
        restore_backup(tmp_path / "nothing", tmp_path / "back")
    with pytest.raises(errors.StorageError, match="must be a directory or s3://"):
        restore_backup("ftp://host/x", tmp_path / "back")


def test_check_finds_every_flipped_bit(database, tmp_path):
    dest = tmp_path / "backups"
    database.backup(dest)
    clean = tsengine.check_backups(dest)
    assert (clean.n_backups, clean.problems, clean.notes) == (1, [], [])
    rng = random.Random(7)
    files = [*(dest / "backups").iterdir(), *(dest / "contents").rglob("?" * 64)]
    assert len(files) > 5
    for path in files:
        whole = path.read_bytes()
        at = rng.randrange(len(whole))
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        report = tsengine.check_backups(dest)
        assert [key for key, _ in report.problems] == [str(path.relative_to(dest))]
        target = tmp_path / f"back-{path.name}"
        with pytest.raises(errors.StorageError):
            restore_backup(dest, target)
        assert not (target / "manifest").exists()
        path.write_bytes(whole)
    path.unlink()
    assert tsengine.check_backups(dest).problems == [(str(path.relative_to(dest)), "is missing")]


def test_verify_all_sends_what_is_damaged_again(database, tmp_path):
    dest = tmp_path / "backups"
    first = database.backup(dest).record
    broken = dest / next(f.key for f in first.files if f.path.endswith("values"))
    broken.write_bytes(b"\0" * broken.stat().st_size)
    assert database.backup(dest).n_sent == 0
    assert database.backup(dest, verify="all").n_sent == 1
    assert tsengine.check_backups(dest).problems == []


def test_a_lying_disk_is_found_out(database, tmp_path):
    class Lying(FaultyFileSystem):
        def open_append(self, path):
            file = super().open_append(path)
            if "/tmp/" in path and "backups" in path:
                write = file.write
                file.write = lambda data: write(bytes(len(data)))
            return file

    with pytest.raises(errors.StorageError, match="after it was sent it has another checksum"):
        make_backup(database.path, tmp_path / "backups", fs=Lying())
    assert tsengine.list_backups(tmp_path / "backups") == []


def test_pruning(database, tmp_path):
    dest = tmp_path / "backups"
    for k in range(4):
        append(database, "n", T0 + k, float(k))
        database.flush()
        make_backup(database.path, dest, clock=lambda k=k: T0 + 60_000 * k)
    names = [found.name for found in tsengine.list_backups(dest)]
    report = prune_backups(dest, keep=1, keep_within_ms=60_000, clock=lambda: T0 + 180_000)
    assert report.removed == tuple(names[:2])
    assert report.n_contents > 0
    kept = tsengine.list_backups(dest)
    assert [found.name for found in kept] == names[2:]
    assert contents(dest) == {file.key for found in kept for file in found.files}
    assert tsengine.check_backups(dest).problems == []
    assert prune_backups(dest).removed == (), "without a rule nothing goes"
    restore_backup(dest, tmp_path / "back")
    assert sum(metric == "n" for metric, _ in content(tmp_path / "back")) == 4


def test_plan_keep():
    names = [record.new_name(T0 + 1000 * k) for k in range(5)]
    assert plan_keep(names, None, None, T0) == frozenset(names)
    assert plan_keep(names, 2, None, T0 + 4000) == frozenset(names[3:])
    assert plan_keep(names, None, 1000, T0 + 4000) == frozenset(names[3:])
    assert plan_keep(names, None, 0, T0 + 10**9) == frozenset(names[4:]), "never the newest"
    assert plan_keep(names, 1, 2000, T0 + 4000) == frozenset(names[2:])
    assert plan_keep([], 1, None, T0) == frozenset()


def test_pruning_leaves_contents_to_a_backup_under_way(database, tmp_path):
    dest = tmp_path / "backups"
    make_backup(database.path, dest, clock=lambda: T0)
    make_backup(database.path, dest, clock=lambda: T0 + 1)
    (dest / "contents/00").mkdir(exist_ok=True)
    (dest / "contents/00/unused").write_bytes(b"x")
    store = open_store(dest)
    with leases.hold(store, leases.BACKUP):
        report = prune_backups(dest, keep=1)
        assert (len(report.removed), report.is_postponed) == (1, True)
        assert (dest / "contents/00/unused").exists()
    assert prune_backups(dest, keep=1).n_contents == 1
    assert not (dest / "contents/00/unused").exists()
    assert os.listdir(dest / "running") == []


def test_a_backup_waits_for_pruning(database, tmp_path, monkeypatch):
    dest = tmp_path / "backups"
    database.backup(dest)
    monkeypatch.setattr(leases, "_PATIENCE_S", 0.0)
    with leases.hold(open_store(dest), leases.PRUNE) as lease:
        with pytest.raises(errors.StorageError, match="other work goes on"):
            database.backup(dest)
        # That of a process which was killed long ago stands in nobody's way.
        path = dest / lease.key
        os.utime(path, (path.stat().st_mtime - 7 * 3600,) * 2)
        database.backup(dest)
    assert len(tsengine.list_backups(dest)) == 2


def test_an_interrupted_restore_is_no_database_and_goes_on(database, tmp_path):
    dest = tmp_path / "backups"
    database.backup(dest)
    fs = FaultyFileSystem()
    fs.fail("rename", nth=3, crash=True)
    with pytest.raises((errors.StorageError, Crash)):
        restore_backup(dest, tmp_path / "back", fs=fs)
    with pytest.raises(errors.StorageError, match="was not finished"):
        tsengine.open(tmp_path / "back")
    with pytest.raises(errors.StorageError):
        tsengine.open(tmp_path / "back", read_only=True)
    database.backup(dest)
    with pytest.raises(errors.StorageError, match="of another backup"):
        restore_backup(dest, tmp_path / "back")
    restore_backup(dest, tmp_path / "back", name=tsengine.list_backups(dest)[0].name)
    assert content(tmp_path / "back") == FULL


KINDS = ["link", "mkdir", "sync_dir", "write_file", "rename", "write", "datasync", "unlink"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crash", [False, True])
def test_a_backup_that_breaks_off(database, tmp_path, kind, crash):
    """Nothing of it looks whole, the database is as it was, and the next attempt succeeds."""
    dest = tmp_path / "backups"
    rng = random.Random(f"{kind}{crash}")
    for nth in sorted({1, 2, 3, *rng.sample(range(4, 40), 5)}):
        fs = FaultyFileSystem()
        fs.fail(kind, nth=nth, error=errno.ENOSPC, crash=crash)
        n_before = len(list(dest.glob("backups/*.json")))
        try:
            make_backup(database.path, dest, fs=fs)
        except (errors.StorageError, Crash):
            if crash:
                fs.lose_unsynced(rng)
            found = list(dest.glob("backups/*.json"))
            # A record that is there is whole: only its last sync can have failed.
            assert len(found) - n_before in (0, 1)
        if (dest / "tsengine-backups").exists():
            assert tsengine.check_backups(dest).problems == []
    make_backup(database.path, dest)
    restore_backup(dest, tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "db") == FULL


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_that_breaks_off(database, tmp_path, kind):
    dest = tmp_path / "backups"
    database.backup(dest)
    path = tmp_path / "back"
    for nth in range(1, 60):
        fs = FaultyFileSystem()
        fs.fail(kind, nth=nth, crash=True)
        try:
            restore_backup(dest, path, fs=fs)
            break
        except (errors.StorageError, Crash):
            fs.lose_unsynced(random.Random(nth))
            if (path / "manifest").exists():
                assert content(path) == FULL
                break
    if (path / "restoring").exists():
        restore_backup(dest, path)
    assert content(path) == FULL


def test_a_record_from_elsewhere_writes_nowhere_else(database, tmp_path):
    dest = tmp_path / "backups"
    made = database.backup(dest).record
    path = dest / made.key
    for evil in ("../evil", "/etc/evil", "parts/../../evil", ""):
        fields = json.loads(b"\n".join(path.read_bytes().split(b"\n")[1:-2]))
        fields["files"][0]["path"] = evil
        body = b"tsengine backup 1\n" + json.dumps(fields).encode() + b"\n"
        data = body + f"crc32c {record.crc32c(body):08x}\n".encode()
        with pytest.raises(errors.CorruptionError, match="is not a path inside"):
            record.decode(data, "x")
    newer = path.read_bytes().replace(b"backup 1\n", b"backup 2\n", 1)
    with pytest.raises(errors.UnsupportedFormat):
        record.decode(newer, "x")


def test_a_place_of_the_first_version_is_read(tmp_path):
    place = shutil.copytree(GOLDEN, tmp_path / "place")  # readers hold leases there
    assert [found.time_ms for found in tsengine.list_backups(place)] == list(made.TIMES)
    assert tsengine.check_backups(place).problems == []
    wanted = {
        (name, t): value
        for (name, _), (times, values) in made.CONTENT.items()
        for t, value in zip(times, values, strict=True)
    }
    restore_backup(place, tmp_path / "new")
    assert content(tmp_path / "new") == wanted
    restore_backup(place, tmp_path / "old", at_ms=made.TIMES[0])
    assert content(tmp_path / "old") == {k: v for k, v in wanted.items() if k[0] == "x"}


def test_a_backup_whose_files_are_removed_meanwhile_is_none(database, tmp_path, monkeypatch):
    """Another process opens the database to write, and takes the backup's files for leftovers."""
    wait = leases.Lease.wait_for_others

    def opened_meanwhile(lease, kind):
        staging = tmp_path / "db" / "snapshots"
        for left in staging.iterdir():
            shutil.rmtree(left)
        wait(lease, kind)

    monkeypatch.setattr(leases.Lease, "wait_for_others", opened_meanwhile)
    with pytest.raises(errors.StorageError, match="make the backup again"):
        database.backup(tmp_path / "backups")
    monkeypatch.undo()
    assert list((tmp_path / "backups").rglob("*.json")) == []
    database.backup(tmp_path / "backups")
    assert tsengine.check_backups(tmp_path / "backups").problems == []


def _other(name):
    return name[:-1] + ("0" if name[-1] != "0" else "1")


def test_a_record_without_manifest_is_no_whole_backup(database, tmp_path):
    made_record = database.backup(tmp_path / "backups").record
    store = open_store(tmp_path / "backups")
    files = tuple(file for file in made_record.files if file.path != "manifest")
    broken = dataclasses.replace(made_record, name=_other(made_record.name), files=files)
    assert store.create(record.record_key(broken.name), broken.encode())
    problems = tsengine.check_backups(tmp_path / "backups").problems
    assert [text for _, text in problems] == ["the backup has no manifest"]
