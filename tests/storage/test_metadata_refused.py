"""Metadata of a write that was refused are stored with the retry, or with whatever comes next."""

import time

import pytest

from tests.faults.filesystem import FaultyFileSystem
from tests.reference import remote_write as wire
from tsengine.errors import AppendError, StorageError
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.storage import append_lane, wal
from tsengine.storage.database import StorageDatabase

T0 = 1_700_000_000_000
METRIC = "reqs_total"


def body_of(version, help_text=b"a help", metric=b"reqs_total", t_ms=T0):
    labels, samples = [(b"__name__", metric)], [(t_ms, wire.bits_of(1.0))]
    if version == 1:
        return wire.encode_v1([wire.Series(labels, samples)], [(1, metric, help_text, b"s")])
    return wire.encode_v2([wire.Series(labels, samples, metadata=(1, help_text, b"s"))])


def entry(help_text="a help", metric=METRIC):
    return MetadataEntry(metric, "counter", help_text, "s")


@pytest.fixture
def opened(tmp_path):
    fs = FaultyFileSystem()
    database = StorageDatabase(str(tmp_path / "db"), Options(), fs=fs)
    yield database, fs
    database.close()


def stored_after_restart(database):
    database.close()
    with_log = StorageDatabase(database.directory, Options(), read_only=True)
    return with_log.metadata.by_metric()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("what", ["full queue", "failing log"])
def test_the_retry_stores_them(opened, version, what, monkeypatch):
    database, fs = opened
    if what == "full queue":
        database.append_remote_write(body_of(version, metric=b"other_total"), version=version)
        monkeypatch.setattr(wal.Wal, "append", _refuse)
    else:
        fs.fail("write", times=None)
    with pytest.raises((AppendError, StorageError)):
        database.append_remote_write(body_of(version), version=version)
    monkeypatch.undo()
    fs.heal()
    assert database.metadata.by_metric(METRIC) == {}
    _wait_for_disk(database)
    database.append_remote_write(body_of(version), version=version)
    assert database.metadata.by_metric(METRIC) == {METRIC: (entry(),)}
    assert stored_after_restart(database)[METRIC] == (entry(),)


def test_what_is_said_later_comes_first(opened, monkeypatch):
    database, _ = opened
    with monkeypatch.context() as patched:
        patched.setattr(wal.Wal, "append", _refuse)
        for help_text, metric in ((b"old", METRIC), (b"older", METRIC), (b"x", "y_total")):
            with pytest.raises(AppendError):
                database.append_remote_write(
                    body_of(1, help_text, metric.encode()),
                    version=1,
                )
    database.append_remote_write(body_of(1, b"new"), version=1)
    found = {
        metric: [known.help for known in kept]
        for metric, kept in database.metadata.by_metric().items()
    }
    assert found == {METRIC: ["new"], "y_total": ["x"]}


def test_they_are_bounded(opened, monkeypatch):
    database, _ = opened
    monkeypatch.setattr(append_lane, "_UNLOGGED_SIZE_MAX", 40)
    with monkeypatch.context() as patched:
        patched.setattr(wal.Wal, "append", _refuse)
        for k in range(10):
            with pytest.raises(AppendError):
                database.append_metadata([entry("help", f"m{k}_total")])
    database.append_metadata([entry("help", "last_total")])
    assert list(database.metadata.by_metric()) == ["m7_total", "m8_total", "m9_total", "last_total"]


def _refuse(*_, **__):
    raise append_lane.Overloaded("the queue is full")


def _wait_for_disk(database):
    for _ in range(1200):
        try:
            database.disk.check()
            return
        except StorageError:
            time.sleep(0.05)
