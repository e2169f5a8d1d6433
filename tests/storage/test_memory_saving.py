"""A database that lets idle memory go answers as one that does not, whatever comes."""

from __future__ import annotations

import os
import random
import time

import numpy as np
import pytest

from tests.reference import remote_write as wire
from tests.reference.background import paused
from tsengine.model.labels import label_dicts
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.options import Options
from tsengine.storage import columns, flusher, index, memory_saving, scratch
from tsengine.storage.array_bytes import array_bytes
from tsengine.storage.database import StorageDatabase

T0 = 1_700_000_000_000 // 86_400_000 * 86_400_000
MINUTE_MS = 60_000

pytestmark = pytest.mark.skipif(not scratch.IS_POSSIBLE, reason="Linux only")


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(scratch, "SPILL_BYTES_MIN", scratch.PAGE_BYTES)
    monkeypatch.setattr(scratch, "_FREE_BYTES_MIN", 0)
    monkeypatch.setattr(columns, "_OWN_PAGES_BYTES_MIN", scratch.PAGE_BYTES)
    monkeypatch.setattr(memory_saving, "_PART_AGE_S", 0.0)
    monkeypatch.setattr(memory_saving, "_EVERY_S", 1e9)
    # The thread would save before it is told that it shall not.
    monkeypatch.setattr(flusher, "_TICK_S", 3600.0)
    monkeypatch.setattr(index, "_ENTRIES_MIN", 1024)
    monkeypatch.setattr(index, "_ENTRIES_MAX", 64 * 1024)


class Time:
    """A clock that stands where it was put."""

    def __init__(self):
        self.now_ms = T0

    def __call__(self):
        return self.now_ms


def labels_of(i):
    return {
        "__name__": f"metric_{i % 7}", "instance": f"host-{i // 50}", "i": str(i),
        "job": f"job-{i % 3}",
    }  # fmt: skip


def body_of(numbers, t_ms):
    return wire.encode_v1(
        [
            wire.Series(
                sorted((n.encode(), v.encode()) for n, v in labels_of(i).items()),
                [(t_ms, wire.bits_of(float(i + t_ms % 1000)))],
            )
            for i in numbers
        ]
    )


def opened(directory, clock):
    """A database that saves memory only when it is told to."""
    with paused():
        database = StorageDatabase(str(directory), Options(tiers=()), clock=clock)
    database.maintenance._saving._due_s = float("inf")
    return database


def all_samples(database, matchers=()):
    """Label set -> samples, of what a query finds."""
    view = database.view()
    refs = view.find(list(matchers), -(2**62), 2**62)
    batch = view.read(refs, -(2**62), 2**62, drop_stale=False)
    found = {}
    for row, labels in enumerate(label_dicts(view.catalog, view.labels(refs))):
        axis = batch.row_axis[row]
        t_ms = batch.t_ms[batch.axis_offsets[axis] : batch.axis_offsets[axis + 1]]
        values = batch.values[batch.row_offsets[row] : batch.row_offsets[row + 1]]
        key = tuple(sorted(labels.items()))
        assert key not in found, "a label set has one ref"
        found[key] = (t_ms.tolist(), values.tolist())
    return found


QUESTIONS = (
    [Matcher("__name__", MatchOp.EQUAL, "metric_3")],
    [
        Matcher("instance", MatchOp.REGEX, "host-1?[0-4]"),
        Matcher("job", MatchOp.NOT_EQUAL, "job-1"),
    ],
    [Matcher("i", MatchOp.REGEX, ".*7.*")],
    [Matcher("i", MatchOp.EQUAL, "77")],
)


def check_same(saving, plain):
    assert all_samples(saving) == all_samples(plain)
    one, other = saving.view().catalog, plain.view().catalog
    assert one.n_series == other.n_series
    for matchers in QUESTIONS:
        assert one.find(matchers).tolist() == other.find(matchers).tolist()
    assert one.label_values("instance", None) == other.label_values("instance", None)
    assert one.cardinality(5) == other.cardinality(5)
    everything = one.all_refs()
    assert label_dicts(one, one.labels(everything)) == label_dicts(other, other.labels(everything))


@pytest.mark.parametrize("seed", range(3))
def test_a_life_with_and_without(tmp_path, seed):
    """Series come, go and come back; flushes, merges, deletes, shrinks and restarts between."""
    rng = random.Random(seed)
    clock = Time()
    both = [opened(tmp_path / name, clock) for name in ("saving", "plain")]
    first = 0
    for _ in range(25):
        clock.now_ms += rng.randrange(1, 40) * MINUTE_MS
        step = rng.choice(["send"] * 5 + ["back", "delete", "merge", "restart", "shrink"])
        if step == "send":
            first += rng.randrange(200)
            numbers = list(range(first, first + 400))
        elif step == "back":
            start = rng.randrange(max(1, first))
            numbers = list(range(start, start + 50))
        else:
            numbers = []
        cut = rng.random() < 0.7
        for database in both:
            if numbers:
                outcome = database.append_remote_write(body_of(numbers, clock.now_ms), version=1)
                assert outcome.n_samples == len(numbers)
            elif step == "delete":
                refs = database.view().catalog.find(QUESTIONS[0])[:40]
                database.delete(refs, T0, clock.now_ms - 30 * MINUTE_MS)
            elif step == "merge":
                database.compact()
            elif step == "shrink":
                database.shrink_catalog()
            if cut:
                database.flush()
        if step == "restart":
            for number, database in enumerate(both):
                database.close()
                both[number] = opened(database.directory, clock)
        both[0].maintenance.save_memory()
        if rng.random() < 0.15:
            check_same(*both)
    check_same(*both)
    saving, plain = both
    assert saving.stats()["spilled_bytes"] > 100_000
    assert plain.stats()["spilled_bytes"] == 0
    assert saving.memory.by_kind()["series"] < plain.memory.by_kind()["series"]
    for database in both:
        database.close()


def test_series_that_come_back_keep_their_refs(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    numbers = range(3000)
    before = database.series_refs([labels_of(i) for i in numbers])
    database.append_remote_write(body_of(numbers, clock.now_ms), version=1)
    database.flush()
    for _ in range(8):
        clock.now_ms += 30 * MINUTE_MS
        database.append_remote_write(body_of([1], clock.now_ms), version=1)
        database.flush()
        database.maintenance.save_memory()
    spilled = database.stats()["spilled_bytes"]
    assert spilled > 4 * 4 * 3000 * 2, "rows and postings of four labels"
    clock.now_ms += MINUTE_MS
    database.append_remote_write(body_of(range(3100), clock.now_ms), version=1)
    assert database.stats()["series"] == 3100
    assert database.series_refs([labels_of(i) for i in numbers]).tolist() == before.tolist()
    values = all_samples(database, [Matcher("i", MatchOp.EQUAL, "2999")])
    ((t_ms, found),) = values.values()
    assert t_ms == [T0, clock.now_ms]
    assert found == [2999.0 + T0 % 1000, 2999.0 + clock.now_ms % 1000]
    database.close()


def churn(database, clock, n_rounds, *, saves):
    """Each round 500 series of 1,000 are replaced; bytes of series, senders and parts then."""
    sizes = []
    for number in range(n_rounds):
        clock.now_ms += 20 * MINUTE_MS
        first = 500 * number
        database.append_remote_write(body_of(range(first, first + 1000), clock.now_ms), version=1)
        database.flush()
        database.view().catalog.find(QUESTIONS[1])
        if saves:
            database.maintenance.save_memory()
        kinds = database.memory
        kinds._measured_s = -1.0
        sizes.append(sum(kinds.by_kind()[kind] for kind in ("series", "senders", "parts")))
    return sizes


def test_memory_of_series_that_go_does_not_stay(tmp_path):
    grown = {}
    for saves in (False, True):
        clock = Time()
        database = opened(tmp_path / str(saves), clock)
        sizes = churn(database, clock, 26, saves=saves)
        grown[saves] = sizes[-1] - sizes[9]
        assert database.stats()["series"] == 13_500
        database.close()
    n_dead = 16 * 500
    assert grown[False] > 60 * n_dead
    # What stays is the table of series and texts' tables, which double now and then.
    assert grown[True] < 0.5 * grown[False]


def test_a_disk_that_fails_costs_only_memory(tmp_path, monkeypatch, caplog):
    clock = Time()
    database = opened(tmp_path, clock)
    database.append_remote_write(body_of(range(3000), clock.now_ms), version=1)
    database.flush()
    expected = all_samples(database)

    def fail(*_):
        raise OSError(28, "No space left on device")

    saving = database.maintenance._saving
    saving._due_s = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        saving.run_if_due(never)
    assert "memory of idle series is kept: [Errno 28]" in caplog.text
    assert database.stats()["spilled_bytes"] == 0
    assert all_samples(database) == expected
    database.maintenance.save_memory()
    assert database.stats()["spilled_bytes"] > 0
    assert all_samples(database) == expected
    database.close()


def never():
    return False


def test_no_memory_to_save_memory_is_no_end_of_flushes(tmp_path, monkeypatch, caplog):
    """The thread that lets memory go is the one that flushes."""

    def fail(*_):
        raise MemoryError("mapping")

    monkeypatch.setattr(memory_saving.MemorySaving, "_save", fail)
    monkeypatch.setattr(flusher, "_TICK_S", 0.01)
    clock = Time()
    database = StorageDatabase(str(tmp_path), Options(tiers=()), clock=clock)
    until(lambda: "memory of idle series is kept" in caplog.text)
    database.append_remote_write(body_of(range(10), clock.now_ms), version=1)
    database.maintenance.request_flush()
    until(lambda: database.state.parts)
    database.close()


def until(is_true):
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_flush_need_not_wait_until_all_is_spilled(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_SPILL_BYTES_MAX", scratch.PAGE_BYTES)
    monkeypatch.setattr(memory_saving, "_SHIFT_S", 0.0)
    clock = Time()
    database = opened(tmp_path, clock)
    database.append_remote_write(body_of(range(3000), clock.now_ms), version=1)
    database.flush()
    expected = all_samples(database)
    saving = database.maintenance._saving
    sizes = []
    while not sizes or database.stats()["spilled_bytes"] > sizes[-1]:
        sizes.append(database.stats()["spilled_bytes"])
        saving._due_s = 0.0
        saving.run_if_due(lambda: True)
        assert saving._due_s <= time.monotonic(), "it goes on at the next call"
    assert len(sizes) > 10, "a piece of each column at a time"
    saving._due_s = 0.0
    saving.run_if_due(never)
    assert saving._due_s > time.monotonic()
    assert array_bytes(database.state.parts[0].index.refs) == 0
    assert all_samples(database) == expected
    database.close()


def test_nothing_is_named(tmp_path):
    clock = Time()
    database = opened(tmp_path, clock)
    database.append_remote_write(body_of(range(3000), clock.now_ms), version=1)
    database.flush()
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    database.maintenance.save_memory()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    part = database.state.parts[0]
    assert array_bytes(part.index.refs) == 0
    np.testing.assert_array_equal(part.refs, np.arange(3000))
    database.close()
