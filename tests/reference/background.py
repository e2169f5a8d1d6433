"""Databases whose background does nothing by itself, and a look at when it has done something."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from unittest import mock

from tsengine.storage.database import StorageDatabase
from tsengine.storage.worker import Worker

_start = Worker.start


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Databases that are opened meanwhile begin no job; a pause after the opening may be late."""

    def start(worker: Worker) -> None:
        worker._paused.set()
        _start(worker)

    with mock.patch.object(Worker, "start", start):
        yield


def without_chores(database: StorageDatabase) -> StorageDatabase:
    """Of a paused one: no chore plans either, which it may log, count, and read for."""
    database.maintenance.pause()
    database.maintenance._worker._chores = ()
    return database


def wait_until(claim: Callable[[], object], what: str = "", timeout_s: float = 60.0) -> None:
    """Return as soon as a claim is true; AssertionError after a time that no machine needs."""
    end_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < end_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.005)


def wait_for_disk(database: StorageDatabase) -> None:
    """Return when the disk is trusted again after an error: a probe may take its time."""
    wait_until(lambda: database.disk.failure is None, "the disk takes writes again")
