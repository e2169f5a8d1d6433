"""Objects that are missing or out of reach are no damage; those that somebody reads stay."""

import dataclasses
import gc
import shutil
import time

import pytest

import tsengine
from server import cli
from tests.backup.cold_case import keys, let_go, local, move, opened
from tests.backup.s3 import Gate
from tests.faults import rich_database as rich
from tests.reference.background import wait_until
from tsengine import errors
from tsengine.backup import leases
from tsengine.backup.store import open_store
from tsengine.storage import replaced_files
from tsengine.storage.cold import HEAD_BYTES, decode_stub


def stub_of(path, name):
    file = path / "parts" / name
    return decode_stub(file.read_bytes(), str(file))


def largest_stubs(path):
    """One of each part, by the part's name; what is in a stub itself is never asked for."""
    found = {}
    for name in local(path, ".cold"):
        stub = stub_of(path, name)
        part = name.partition("/")[0]
        if part not in found or found[part].size < stub.size:
            found[part] = stub
    return [stub for stub in found.values() if stub.size > HEAD_BYTES]


def check_here(capsys, path, *more):
    code = cli.main(["check", "--data-dir", str(path), *more])
    return code, capsys.readouterr().out


def test_a_missing_object_is_told_and_never_put_aside(cold_database, cold_options, s3, capsys):
    path, truth = cold_database
    parts = sorted(file.name for file in (path / "parts").iterdir())
    assert rich.content(path) == truth
    gone = largest_stubs(path)[0]
    store = open_store(s3.url, s3.options)
    whole = store.read(gone.key)
    store.delete([gone.key])
    assert rich.content(path) == truth, "from the cache"
    (problem,) = tsengine.check(path, quarantine=True).problems
    assert (problem.file, problem.kind) == (f"{s3.url}/{gone.key}", "missing")
    code, out = check_here(capsys, path, "--quarantine")
    assert code == 3
    assert f"missing: {s3.url}/{gone.key}: " in out
    assert "damage" not in out
    assert not (path / "quarantine").exists()
    assert sorted(file.name for file in (path / "parts").iterdir()) == parts
    shutil.rmtree(path / "cold-cache")
    with opened(path, cold_options) as db, pytest.raises(errors.ObjectMissing, match=gone.key):
        rich.content(db)
    store.replace(gone.key, whole)
    assert check_here(capsys, path)[0] == 0
    assert rich.content(path) == truth


TROUBLES = {
    "503": {"status": 503, "code": "SlowDown"},
    "403": {"status": 403, "code": "AccessDenied"},
    "404": {"status": 404, "code": "NoSuchBucket"},
    "cut": {"cut": True},
    "late": {"delay_s": 1.3},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_store_out_of_reach_is_no_damage(cold_database, s3, capsys, trouble):
    path, truth = cold_database
    s3.fail("GET", times=10_000, **TROUBLES[trouble])
    code, out = check_here(capsys, path, "--quarantine")
    assert code == 3
    assert "damage" not in out
    assert {line.partition(":")[0] for line in out.splitlines() if s3.url in line} == {
        "missing" if trouble == "404" else "unreachable"
    }
    assert not (path / "quarantine").exists()
    s3.orders.clear()
    assert rich.content(path) == truth


def test_bytes_that_differ_are_damage_beside_a_missing_object(cold_database, s3, capsys):
    path, _ = cold_database
    first, second = largest_stubs(path)[:2]
    store = open_store(s3.url, s3.options)
    broken = bytearray(store.read(first.key))
    broken[len(broken) // 2] ^= 1
    store.replace(first.key, bytes(broken))
    store.delete([second.key])
    code, out = check_here(capsys, path, "--quarantine")
    assert code == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "damage", "missing", "put aside", "2 problems found",
    ]  # fmt: skip
    (aside,) = (path / "quarantine").iterdir()
    name = first.key.split("/")[1].partition("-")[0]
    assert aside.name == f"parts-{name}"
    assert first.key in keys(s3), "what was put aside still has its object"


def test_a_shorter_object_is_no_damage(cold_database, s3, capsys):
    path, _ = cold_database
    found = largest_stubs(path)[0]
    store = open_store(s3.url, s3.options)
    store.replace(found.key, store.read(found.key)[:-5])
    code, out = check_here(capsys, path, "--quarantine")
    assert (code, out.partition(":")[0]) == (3, "unreachable")
    assert found.key in out


def test_compact_goes_on_past_a_missing_object(cold_database, cold_options, s3):
    path, _ = cold_database
    with opened(path, cold_options) as db:
        db.flush()
        db.compact()
        move(db)
        gone = largest_stubs(path)[1]
        open_store(s3.url, s3.options).delete([gone.key])
        entries = [part.entry for part in db._storage.state.parts[1:3]]
        for entry in entries:
            db.append({"__name__": "late"}, [entry.mint + 1], [1.0])
            db.flush()
        with pytest.raises(errors.ObjectMissing, match=gone.key):
            db.compact()
        names = {part.entry.name for part in db._storage.state.parts}
        assert [entry.name in names for entry in entries] == [True, False], "one day is merged"


def rewrite(db):
    """Parts with samples of `gone_total` are written anew, here."""
    db.delete_series('{__name__="gone_total"}', rich.T0, rich.T0 + rich.DAY_MS - 1)
    db.clean_tombstones()


def test_objects_stay_while_a_reader_needs_them(cold_database, cold_options, s3, monkeypatch):
    path, truth = cold_database
    monkeypatch.setattr(replaced_files, "GRACE_S", 0.0)
    before = set(keys(s3))
    with opened(path, dataclasses.replace(cold_options, cold_cache=0)) as db:
        storage = db._storage
        view = storage.view()
        rewrite(db)
        replaced = storage.maintenance._worker._replaced
        replaced.remove_due()
        let_go(db)
        assert set(keys(s3)) >= before, "a view still reads them"
        assert n_samples(view) > n_samples(storage.view())
        del view
        gc.collect()
        # By others than the thread that saves memory, which looks at all parts for a moment.
        wait_until(lambda: replaced.remove_due() or not replaced.has_any)
        assert before - set(keys(s3)), "nobody reads them any more"
        after = rich.content(db)
    assert after.items() < truth.items()
    assert rich.content(path) == after


def test_what_a_reader_kept_to_the_end_goes_with_the_next_start(cold_database, cold_options, s3):
    path, _ = cold_database
    before = set(keys(s3))
    with opened(path, cold_options) as db:
        view = db._storage.view()
        rewrite(db)
    assert set(keys(s3)) >= before
    assert n_samples(view) > 0
    del view
    gc.collect()
    with opened(path, cold_options):
        assert before - set(keys(s3))


def test_objects_stay_a_while_for_other_processes(cold_database, cold_options, s3, monkeypatch):
    path, _ = cold_database
    monkeypatch.setattr(replaced_files, "GRACE_S", 30.0)
    with tsengine.open(path, read_only=True) as other, opened(path, cold_options) as db:
        view = other._storage.view()
        before = set(keys(s3))
        start = time.monotonic()
        rewrite(db)
        gc.collect()
        db._storage.maintenance._worker._replaced.remove_due()
        if time.monotonic() - start < 30:
            assert set(keys(s3)) >= before
            assert n_samples(view) > 0
        let_go(db)
        assert before - set(keys(s3))


# --- endpoints ----------------------------------------------------------------------------------


def test_the_endpoint_may_come_from_the_environment(tmp_path, cold_options, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    path = tmp_path / "db"
    rich.make(path)
    truth = rich.content(path)
    with opened(path, dataclasses.replace(cold_options, cold_endpoint_url=None)) as db:
        move(db)
        assert db.stats()["cold_parts"] > 0
        assert rich.content(db) == truth
        db.backup(s3.url + "/backups")
    tsengine.restore_backup(s3.url + "/backups", tmp_path / "back")
    assert rich.content(tmp_path / "back") == truth


def test_a_store_that_has_moved(cold_database, cold_options, s3, s3_server, tmp_path, capsys):
    """The endpoint in the stubs answers no more; the options name another one."""
    path, truth = cold_database
    moved = Gate(s3_server)
    moved.requests.clear()
    try:
        s3.fail("GET", times=10_000, status=403, code="AccessDenied")
        s3.fail("DELETE", times=10_000, status=403, code="AccessDenied")
        options = dataclasses.replace(cold_options, cold_endpoint_url=moved.endpoint)
        with opened(path, options) as db:
            assert rich.content(db) == truth
            db.backup(tmp_path / "one")
        assert check_here(capsys, path)[0] == 3
        assert check_here(capsys, path, "--cold-endpoint-url", moved.endpoint)[0] == 0
        backup = ["backup", "--data-dir", str(path), str(tmp_path / "two")]
        assert cli.main(backup) == 1
        assert "access denied" in capsys.readouterr().err
        assert cli.main([*backup, "--cold-endpoint-url", moved.endpoint]) == 0
        assert {path for _, path, _ in moved.requests if "/values" in path}
    finally:
        moved.stop()
    for place in ("one", "two"):
        tsengine.restore_backup(tmp_path / place, tmp_path / f"{place}-back")
        assert rich.content(tmp_path / f"{place}-back") == truth


def test_a_backup_of_objects_that_are_not_what_was_moved_is_none(cold_database, s3, tmp_path):
    path, _ = cold_database
    found = largest_stubs(path)[0]
    store = open_store(s3.url, s3.options)
    whole = store.read(found.key)
    store.replace(found.key, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(errors.CorruptionError, match=found.key):
        tsengine.make_backup(path, tmp_path / "backups", verify="none")
    store.delete([found.key])
    with pytest.raises(errors.ObjectMissing, match=found.key):
        tsengine.make_backup(path, tmp_path / "backups", verify="none")
    assert list((tmp_path / "backups").glob("backups/*")) == []


def test_objects_that_a_backup_still_had_stubs_of_go_with_it(
    cold_database, cold_options, s3, tmp_path, monkeypatch
):
    path, _ = cold_database
    before = set(keys(s3))
    wait = leases.Lease.wait_for_others
    with opened(path, cold_options) as db:

        def replaced_meanwhile(lease, kind):
            rewrite(db)
            gc.collect()
            let_go(db)
            assert set(keys(s3)) >= before, "the backup needs them"
            wait(lease, kind)

        with monkeypatch.context() as patch:
            patch.setattr(leases.Lease, "wait_for_others", replaced_meanwhile)
            db.backup(tmp_path / "backups")
        assert before - set(keys(s3))
    tsengine.restore_backup(tmp_path / "backups", tmp_path / "back")
    assert tsengine.check(tmp_path / "back").problems == []


def n_samples(view):
    """How many samples the parts of a view hold, by reading them."""
    found = (part.collect(None, part.entry.mint, part.entry.maxt) for part in view._parts)
    return sum(len(columns.t_ms) for columns in found)
