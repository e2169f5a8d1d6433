"""Backups in object storage: moto's S3 API on loopback, with errors and slow answers."""

import time

import pytest

import tsengine
from tests.backup.conftest import T0, append, content
from tsengine import errors
from tsengine.backup import record
from tsengine.backup.making import make_backup
from tsengine.backup.restoring import restore_backup
from tsengine.backup.store import StoreOptions, open_store

FULL = {("x", T0): 1.0, ("x", T0 + 1000): 2.0, ("late", T0 + 2000): 3.0}


def test_there_and_back(database, tmp_path, s3):
    report = database.backup(s3.url, options=s3.options)
    assert report.n_sent == report.n_verified > 5
    assert tsengine.list_backups(s3.url, s3.options) == [report.record]
    restore_backup(s3.url, tmp_path / "back", options=s3.options)
    assert content(tmp_path / "back") == FULL
    assert tsengine.check(tmp_path / "back").problems == []
    assert database.backup(s3.url, options=s3.options).n_sent == 0
    check = tsengine.check_backups(s3.url, s3.options)
    assert (check.n_backups, check.problems, check.notes) == (2, [], [])


def test_each_content_is_sent_once(database, s3):
    for k in range(3):
        append(database, "x", T0 + 10_000 + k, 1.0)
        database.backup(s3.url, options=s3.options)
    sent = [path for method, path, _ in s3.requests if method == "PUT" and "/contents/" in path]
    assert len(sent) == len(set(sent))
    records = [path for method, path, _ in s3.requests if method == "PUT" and "/backups/" in path]
    assert len(records) == len(set(records)) == 3


def test_pruning(database, tmp_path, s3):
    for k in range(3):
        append(database, "n", T0 + k, float(k))
        make_backup(database.path, s3.url, options=s3.options, clock=lambda k=k: T0 + k)
    report = tsengine.prune_backups(s3.url, keep=1, options=s3.options)
    assert len(report.removed) == 2
    assert report.n_contents > 0
    (kept,) = tsengine.list_backups(s3.url, s3.options)
    stored = {found.key for found in open_store(s3.url, s3.options).list(record.CONTENTS)}
    assert stored == {file.key for file in kept.files}
    assert open_store(s3.url, s3.options).list(record.LEASES) == []


def test_large_files_go_in_pieces(tmp_path, s3):
    data = bytes(range(256)) * (20 << 12)
    (tmp_path / "large").write_bytes(data)
    store = open_store(s3.url, s3.options)
    store.upload("contents/large", str(tmp_path / "large"))
    assert b"".join(store.stream("contents/large")) == data
    assert store.read_range("contents/large", 300, 20) == data[300:320]
    assert store.read_range("contents/large", len(data) - 3, 20) == data[-3:]
    assert store.read_range("contents/large", 5, 0) == b""
    assert any("uploadId" in path for _, path, _ in s3.requests)


def test_create_is_conditional(s3):
    store = open_store(s3.url, s3.options)
    assert store.create("k", b"first")
    assert not store.create("k", b"second")
    assert store.read("k") == b"first"
    with pytest.raises(FileNotFoundError):
        store.read("none")
    store.delete(["k", "none"])
    assert store.list("k") == []


TROUBLES = {
    "500": {"status": 500, "code": "InternalError"},
    "503": {"status": 503, "code": "SlowDown"},
    "reset": {"reset": True},
    "late": {"delay_s": 1.3},
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_passing_trouble_is_passed_over(database, tmp_path, s3, trouble, method):
    s3.fail(method, times=2, **TROUBLES[trouble])
    database.backup(s3.url, options=s3.options)
    s3.fail(method, times=2, **TROUBLES[trouble])
    restore_backup(s3.url, tmp_path / "back", options=s3.options)
    assert content(tmp_path / "back") == FULL


def test_an_answer_that_is_lost_after_the_record_was_made(database, s3):
    """The request is sent again and finds its own record: that is no error."""
    s3.fail("PUT", contains="/backups/", reset=True, after=True)
    report = database.backup(s3.url, options=s3.options)
    assert tsengine.list_backups(s3.url, s3.options) == [report.record]


@pytest.mark.parametrize("trouble", ["500", "reset", "late"])
def test_lasting_trouble_is_a_clear_error_and_no_backup(database, s3, trouble):
    database.backup(s3.url, options=s3.options)
    append(database, "x", T0 + 5000, 5.0)
    s3.fail("PUT", contains="/contents/", times=1000, **TROUBLES[trouble])
    start = time.monotonic()
    with pytest.raises(errors.StoreUnavailable, match=f"{s3.url}: writing contents/"):
        database.backup(s3.url, options=s3.options)
    assert time.monotonic() - start < 120
    s3.orders.clear()
    assert len(tsengine.list_backups(s3.url, s3.options)) == 1
    database.backup(s3.url, options=s3.options)
    assert tsengine.check_backups(s3.url, s3.options).problems == []


def test_access_denied_is_said_at_once(database, s3):
    s3.fail("PUT", times=1000, status=403, code="AccessDenied")
    with pytest.raises(errors.StoreUnavailable, match="access denied"):
        database.backup(s3.url, options=s3.options)
    assert [method for method, _, _ in s3.requests].count("PUT") == 1, "it is not asked again"
    with pytest.raises(errors.StorageError, match="has no backups"):
        tsengine.list_backups(s3.url, s3.options)


def test_an_interrupted_backup_goes_on_where_it_was(database, s3):
    s3.fail("PUT", contains="/backups/", times=1000, status=403, code="AccessDenied")
    with pytest.raises(errors.StoreUnavailable):
        database.backup(s3.url, options=s3.options)
    assert tsengine.list_backups(s3.url, s3.options) == []
    n_stored = len(open_store(s3.url, s3.options).list(record.CONTENTS))
    s3.orders.clear()
    report = database.backup(s3.url, options=s3.options)
    assert report.n_sent < n_stored, "only what is in no content yet"
    assert tsengine.check_backups(s3.url, s3.options).problems == []


def test_an_answer_that_ends_in_the_middle(tmp_path, s3):
    data = bytes(range(256)) * (9 << 12)
    (tmp_path / "large").write_bytes(data)
    store = open_store(s3.url, s3.options)
    store.upload("contents/large", str(tmp_path / "large"))
    s3.fail("GET", contains="large", cut=True)
    assert b"".join(store.stream("contents/large")) == data
    s3.fail("GET", contains="large", cut=True)
    assert store.read("contents/large") == data
    s3.fail("GET", contains="large", cut=True)
    assert store.read_range("contents/large", 5, 1 << 20) == data[5 : 5 + (1 << 20)]


@pytest.mark.parametrize("what", [{"cut": True}, {"status": 500, "code": "x"}])
def test_an_interrupted_restore_goes_on(database, tmp_path, s3, what):
    database.backup(s3.url, options=s3.options)
    values = next(
        file.key
        for file in tsengine.list_backups(s3.url, s3.options)[0].files
        if file.path.endswith("values")
    )
    s3.fail("GET", contains=values, times=1000, **what)
    with pytest.raises(errors.StorageError, match="contents/"):
        restore_backup(s3.url, tmp_path / "back", options=s3.options)
    assert not (tmp_path / "back/manifest").exists()
    s3.orders.clear()
    restore_backup(s3.url, tmp_path / "back", options=s3.options)
    assert content(tmp_path / "back") == FULL


def test_a_damaged_content_is_found(database, s3):
    made = database.backup(s3.url, options=s3.options).record
    store = open_store(s3.url, s3.options)
    file = next(file for file in made.files if file.path.endswith("values"))
    data = bytearray(store.read(file.key))
    data[len(data) // 2] ^= 4
    store.replace(file.key, bytes(data))
    assert tsengine.check_backups(s3.url, s3.options).problems == [
        (file.key, "has another checksum")
    ]
    assert database.backup(s3.url, options=s3.options, verify="all").n_sent == 1
    assert tsengine.check_backups(s3.url, s3.options).problems == []


def test_no_such_bucket(database, s3):
    with pytest.raises(errors.StoreUnavailable, match="s3://none-such/x"):
        database.backup("s3://none-such/x", options=s3.options)
    with pytest.raises(errors.StorageError, match="names no bucket"):
        database.backup("s3://", options=s3.options)


def test_nobody_answers(database):
    options = StoreOptions(
        endpoint_url="http://127.0.0.1:1", timeout_s=1, retries_max=2, retry_timeout_s=3
    )
    with pytest.raises(errors.StoreUnavailable, match="s3://bucket"):
        database.backup("s3://bucket/x", options=options)
