"""Entries that are in the log but could not be applied: no acknowledged sample goes with them."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from tests.reference import remote_write as wire
from tsengine.errors import StorageError
from tsengine.model.batch import SampleBatch
from tsengine.model.labels import label_dicts
from tsengine.options import Options, RetentionRule
from tsengine.promql.parser import parse_selector
from tsengine.storage import head as head_module
from tsengine.storage.database import StorageDatabase
from tsengine.storage.head import Head
from tsengine.storage.retention_policy import RetentionPolicy
from tsengine.storage.select import read_columns

T0 = 1_700_000_000_000
OPTIONS = Options(future_limit=None, retention=None)


def body(series: range, t_ms: int) -> bytes:
    """One sample of each of some series."""
    return wire.encode_v1(
        [
            wire.Series([(b"__name__", b"m"), (b"i", b"%d" % i)], [(t_ms, wire.bits_of(float(i)))])
            for i in series
        ]
    )


def content(db: StorageDatabase) -> dict[str, list[int]]:
    """Times of each series."""
    view = db.view()
    refs = np.arange(db.catalog.next_ref, dtype=np.uint32)
    columns = read_columns(view._parts, view._heads, refs, -(2**63), 2**63 - 1)
    catalog = db.state.catalog
    names = [
        labels.get("i", "lost") for labels in label_dicts(catalog, catalog.labels(columns.refs))
    ]
    times = np.split(columns.t_ms, columns.offsets[1:-1])
    return {name: found.tolist() for name, found in zip(names, times, strict=True)}


def content_after_kill(db: StorageDatabase) -> dict[str, list[int]]:
    """As `content`, of what a process finds that starts when this one was killed now."""
    path = f"{db.directory}-killed"
    shutil.copytree(db.directory, path)
    killed = StorageDatabase(path, OPTIONS)
    try:
        return content(killed)
    finally:
        killed.close()
        shutil.rmtree(path)


def failing_append(monkeypatch, is_bad):
    """Heads run out of memory for batches that `is_bad`."""
    real = Head.append

    def append(self, batch, seq):
        if is_bad(batch):
            raise MemoryError("the head has no room")
        real(self, batch, seq)

    monkeypatch.setattr(Head, "append", append)


def test_series_of_an_entry_that_could_not_be_applied_stay_known(tmp_path, monkeypatch):
    db = StorageDatabase(str(tmp_path / "db"), OPTIONS)
    try:
        db.append_remote_write(body(range(5), T0), version=1)
        with monkeypatch.context() as patch:
            failing_append(patch, lambda batch: True)
            with pytest.raises(StorageError, match="no room"):
                db.append_remote_write(body(range(10), T0 + 1), version=1)
        # The log up to here goes away, and with it the record that named series 5 to 9.
        db.flush()
        db.append_remote_write(body(range(10), T0 + 2), version=1)
        found = content_after_kill(db)
        for i in range(10):
            assert T0 + 2 in found[str(i)], i
        for i in range(5):
            assert T0 in found[str(i)], i
    finally:
        db.close()


def test_entries_beside_one_that_could_not_be_applied_are_stored(tmp_path, monkeypatch):
    db = StorageDatabase(str(tmp_path / "db"), OPTIONS)
    gate = threading.Event()
    held = threading.Event()

    def is_bad(batch):
        if batch.t_ms[0] == T0:
            held.set()
            assert gate.wait(30)
        return batch.t_ms[0] == T0 + 2

    failures: dict[int, str] = {}

    def send(k: int) -> None:
        try:
            db.append_remote_write(body(range(k, k + 2), T0 + k), version=1)
        except StorageError as error:
            failures[k] = str(error)

    try:
        failing_append(monkeypatch, is_bad)
        first = threading.Thread(target=send, args=(0,))
        first.start()
        assert held.wait(30)
        others = [threading.Thread(target=send, args=(k,)) for k in range(1, 6)]
        for thread in others:
            thread.start()
        while db._log.stats.queue_size_bytes == 0 or len(db._log._queue) < 5:
            pass
        gate.set()
        for thread in (first, *others):
            thread.join()
        assert list(failures) == [2]
        assert "logged, but not stored" in failures[2]
        found = content(db)
        for k in (0, 1, 3, 4, 5):
            assert T0 + k in found[str(k)]
            assert T0 + k in found[str(k + 1)]
        monkeypatch.undo()
        after = content_after_kill(db)
        assert all(set(times) <= set(after[name]) for name, times in found.items())
    finally:
        gate.set()
        db.close()


def test_a_flush_that_cant_be_asked_for_fails_no_append(tmp_path, monkeypatch):
    db = StorageDatabase(str(tmp_path / "db"), OPTIONS)
    try:

        def broken():
            raise MemoryError("nothing left")

        monkeypatch.setattr(db, "_is_head_full", broken)
        assert db.append_remote_write(body(range(3), T0), version=1).n_samples == 3
        assert content(db) == {"0": [T0], "1": [T0], "2": [T0]}
    finally:
        db.close()


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_batch_that_fails_in_the_middle_leaves_the_head_as_it_was(monkeypatch, fails_at):
    monkeypatch.setattr(head_module, "RUN_ROWS_MAX", 16)
    head = Head()

    def batch(first, n):
        t_ms = np.arange(first, first + n)
        return SampleBatch(np.zeros(n, np.uint32), t_ms, t_ms.astype(np.uint64))

    head.append(batch(0, 10), 1)
    sort, n_calls = head_module.sort_run, 0

    def short_of_memory(*columns, **options):
        nonlocal n_calls
        n_calls += 1
        if n_calls == fails_at:
            raise MemoryError
        return sort(*columns, **options)

    with monkeypatch.context() as patch:
        patch.setattr(head_module, "sort_run", short_of_memory)
        with pytest.raises(MemoryError):
            head.append(batch(1000, 50), 2)
    for _ in range(2):
        assert head.n_samples == 10
        assert head.view().collect(None, -(2**62), 2**62).t_ms.tolist() == list(range(10))
    head.append(batch(10, 30), 3)
    columns = head.view().collect(None, -(2**62), 2**62)
    assert columns.t_ms.tolist() == list(range(40))
    assert columns.bits.tolist() == list(range(40))


def test_limits_of_appends_are_of_one_moment_of_a_reload():
    """While options are replaced a sample is measured by the old ones or the new ones alone."""
    days = 86_400.0
    old = Options(retention=30 * days, retention_rules=(RetentionRule("x", 3600.0),))
    new = Options(retention=30 * days)
    now = [old]
    clock_ms = T0

    def options():
        return now[0]

    policy = RetentionPolicy(options, lambda: clock_ms, parse_selector)
    before = policy.moment()
    assert before.highest_ms == T0 - 3_600_000
    assert before.has_rules
    # Between the check and the moment when the new options are in force.
    policy.check(new)
    assert policy.moment().highest_ms == before.highest_ms
    assert policy.moment().has_rules
    now[0] = new
    after = policy.moment()
    assert after.highest_ms == T0 - 30 * 86_400_000
    assert not after.has_rules
