"""An opening that fails half-way leaves nothing behind: no lock, no thread, no open file."""

from __future__ import annotations

import contextlib
import gc
import os
import threading

import pytest

import tsengine
from tsengine.query.engine import Engine
from tsengine.storage import filenames
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.disk_watch import DiskWatch
from tsengine.storage.exemplars import ExemplarStore
from tsengine.storage.flusher import Flusher
from tsengine.storage.maintenance import Maintenance
from tsengine.storage.memory import StorageMemory
from tsengine.storage.wal import Wal
from tsengine.storage.worker import Worker

T0 = 1_700_000_000_000


class Failure(Exception):
    """What the tests let a step raise."""


def fail(*arguments, **named):
    raise Failure


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("tsengine-")}


def open_files(path):
    gc.collect()
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # Another thread may have closed it.
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [target for target in targets if target.startswith(str(path))]


@pytest.fixture
def path(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        db.append({"__name__": "m"}, [T0], [1.0])
        db.flush()
        db.append({"__name__": "m"}, [T0 + 1000], [2.0])
    return tmp_path / "db"


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (ExemplarStore, "__init__"),
        (StorageMemory, "__init__"),
        (Wal, "__init__"),
        (Checkpointer, "__init__"),
        (Maintenance, "__init__"),
        (Flusher, "start"),
        (Worker, "start"),
        (DiskWatch, "start"),
        (Engine, "__init__"),
    ],
)
def test_a_step_that_fails(path, monkeypatch, owner, step):
    before = threads()
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail)
        with pytest.raises(Failure):
            tsengine.open(path)
    assert threads() <= before
    assert open_files(path) == []
    with tsengine.open(path) as db:
        assert db.query("count_over_time(m[1m])", T0 + 1000).to_numpy().tolist() == [[2.0]]


def test_a_flush_that_a_damaged_log_needs_fails(path, monkeypatch):
    (segment,) = sorted((path / "wal").iterdir())[-1:]
    data = segment.read_bytes()
    with tsengine.open(path) as db:
        db.append({"__name__": "m"}, [T0 + 2000], [2.0])
    later = sorted((path / "wal").iterdir())[-1]
    assert later != segment
    segment.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = threads()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "flush", fail)
        with pytest.raises(Failure):
            tsengine.open(path)
    assert threads() <= before
    assert not os.path.exists(filenames.ballast_path(str(path)))
    with tsengine.open(path) as db:
        assert db._storage.recovery.is_lossy
        assert db.query("count_over_time(m[1m])", T0 + 2000).to_numpy().tolist() == [[2.0]]


def test_a_database_that_can_not_be_made(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "start", fail)
        with pytest.raises(Failure):
            tsengine.open(tmp_path / "new")
    with tsengine.open(tmp_path / "new") as db:
        db.append({"__name__": "m"}, [T0], [1.0])
