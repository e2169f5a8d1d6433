"""The worker: order, failures, lack of space, pauses; with chores and a disk made up."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from tsengine.errors import Closed, CorruptionError, StorageError
from tsengine.storage import worker as worker_module
from tsengine.storage.chores import Job
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.throttle import RateLimit, ThrottledFileSystem
from tsengine.storage.worker import Worker


class FakeChore:
    """Jobs by name; each is done once."""

    def __init__(self, name, jobs=()):
        self.name = name
        self.jobs = list(jobs)
        self.done = []

    def add(self, what, act=None, *, size=1, space=0):
        def run(context):
            if act is not None:
                act(context)
            self.done.append(what)
            self.jobs = [job for job in self.jobs if job.what != what]

        self.jobs.append(Job(what, size, run, space))

    def plan(self, state, now_ms):
        return list(self.jobs)


class FakeDisk(LocalFileSystem):
    def __init__(self):
        self.free = 1000

    def free_bytes(self, path):
        return self.free


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(worker_module, "_TICK_S", 0.01)
    monkeypatch.setattr(worker_module, "_PLAN_EVERY_S", 0.01)
    monkeypatch.setattr(worker_module, "_SURVEY_EVERY_S", 0.0)


@pytest.fixture
def start():
    workers = []

    def make(*chores, disk=None):
        database = SimpleNamespace(
            state=object(), now_ms=lambda: 0, directory="/",
            options=SimpleNamespace(compaction_rate=0), cold=None,
        )  # fmt: skip
        made = Worker(database, None, disk or FakeDisk(), chores)
        workers.append(made)
        made.start()
        return made

    yield make
    for one in workers:
        one.stop()


def wait_until(claim):
    for _ in range(6000):
        if claim():
            return
        time.sleep(0.01)
    raise AssertionError("waited a minute in vain")


def test_chores_go_in_their_order(start):
    log = []
    first, second = FakeChore("first"), FakeChore("second")
    for k in range(3):
        second.add(f"b{k}", lambda _, k=k: log.append(f"b{k}"), size=10)
        first.add(f"a{k}", lambda _, k=k: log.append(f"a{k}"))
    worker = start(first, second)
    wait_until(lambda: len(log) == 6)
    assert log == ["a0", "a1", "a2", "b0", "b1", "b2"]
    wait_until(lambda: worker.statuses["second"].n_done == 3)


def test_a_job_that_fails_is_named_waits_and_blocks_nobody(start, monkeypatch, caplog):
    monkeypatch.setattr(worker_module, "RETRY_S_MIN", 0.2)
    tries, seen = [], threading.Event()

    def fail(_):
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise CorruptionError("it is broken", path="x")
        assert seen.wait(60)

    chore, other = FakeChore("merging"), FakeChore("later")
    chore.add("bad one", fail)
    chore.add("good one")
    other.add("another")
    with caplog.at_level(logging.ERROR):
        worker = start(chore, other)
        wait_until(lambda: chore.done == ["good one"] and other.done == ["another"])
        wait_until(lambda: worker.statuses["merging"].n_failing == 1)
        seen.set()
        wait_until(lambda: chore.done == ["good one", "bad one"])
    waits = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert len(waits) == 3
    assert all(wait >= 0.2 * 2**k for k, wait in enumerate(waits))
    assert worker.statuses["merging"].n_failures == 3
    wait_until(lambda: worker.statuses["merging"].n_failing == 0)
    assert "merging: bad one failed, it is tried again in" in caplog.text


def test_a_fault_of_ours_does_not_end_the_thread(start):
    chore = FakeChore("merging")
    chore.add("bad", lambda _: 1 / 0)
    worker = start(chore)
    wait_until(lambda: worker.statuses["merging"].n_failures == 1)
    chore.add("good")
    wait_until(lambda: chore.done == ["good"])


def test_planning_that_fails_is_no_one_elses_trouble(start):
    bad, good = FakeChore("bad"), FakeChore("good")
    bad.plan = lambda state, now_ms: 1 / 0
    good.add("job")
    worker = start(bad, good)
    wait_until(lambda: good.done == ["job"])
    assert worker.statuses["bad"].n_failures == 1


def test_jobs_that_do_not_fit_wait_for_space_and_smaller_ones_go_first(start, caplog):
    disk = FakeDisk()
    chore = FakeChore("merging")
    chore.add("large", size=70, space=5000)
    chore.add("small", space=1000)
    with caplog.at_level(logging.INFO):
        worker = start(chore, disk=disk)
        wait_until(lambda: chore.done == ["small"])
        status = worker.statuses["merging"]
        # The plan before had both.
        wait_until(lambda: (status.n_jobs, status.n_bytes, status.n_blocked) == (1, 70, 1))
        time.sleep(0.1)
        assert chore.done == ["small"]
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert [r.getMessage() for r in warnings] == [
            "merging: large needs 5000 bytes free, the disk has 1000; it waits, and 0 more like it"
        ]
        disk.free = 5000
        wait_until(lambda: chore.done == ["small", "large"])
        wait_until(lambda: worker.statuses["merging"].n_blocked == 0)
    assert "there is space again" in caplog.text


def test_a_pause_gives_up_the_job_and_a_caller_may_still_run_some(start):
    chore, own = FakeChore("merging"), FakeChore("asked for")
    began = threading.Event()
    given_up = []

    def work(context):
        began.set()
        for _ in range(1000):
            if context.cancel.is_set():
                given_up.append(True)
            context.check_canceled()
            time.sleep(0.01)

    chore.add("long", work)
    worker = start(chore)
    assert began.wait(10)
    worker.pause()
    assert given_up == [True]
    assert worker.is_paused
    own.add("now")
    worker.run_all(own)
    assert own.done == ["now"]
    assert chore.done == []
    assert worker.statuses["merging"].n_failures == 0
    began.clear()
    chore.jobs.clear()
    chore.add("short")
    worker.resume()
    wait_until(lambda: chore.done == ["short"])


def test_run_all_goes_on_after_damage_and_stops_at_once_on_other_errors(start):
    chore = FakeChore("asked for")

    def damaged(_):
        raise CorruptionError("broken", path="x")

    def full(_):
        raise StorageError("full")

    chore.add("one", damaged)
    chore.add("two")
    worker = start()
    with pytest.raises(CorruptionError, match="broken"):
        worker.run_all(chore)
    assert chore.done == ["two"]
    chore = FakeChore("asked for")
    chore.add("one", full)
    chore.add("two")
    with pytest.raises(StorageError, match="full"):
        worker.run_all(chore)
    assert chore.done == []
    chore = FakeChore("asked for")
    chore.add("huge", space=10**9)
    with pytest.raises(StorageError, match="huge needs 1000000000 bytes free, the disk has 1000"):
        worker.run_all(chore)
    worker.stop()
    with pytest.raises(Closed):
        worker.run_all(chore)


class FakeTime:
    def __init__(self):
        self.now = 100.0

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("size", [1000, 100_000, 4_000_000])
def test_the_rate_is_kept(size):
    fake = FakeTime()
    limit = RateLimit(
        lambda: 1_000_000.0, threading.Event(), now_s=lambda: fake.now, sleep=fake.sleep
    )
    written = 0
    while written < 20_000_000:
        limit.take(size)
        written += size
    # A burst of a quarter of a second is free.
    assert 20.0 - 0.26 <= fake.now - 100.0 <= written / 1e6 + 0.1


def test_no_rate_does_not_wait_and_a_cancel_ends_it():
    fake = FakeTime()
    rate = [0.0]
    cancel = threading.Event()
    limit = RateLimit(lambda: rate[0], cancel, now_s=lambda: fake.now, sleep=fake.sleep)
    limit.take(10**12)
    assert fake.now == 100.0
    rate[0] = 1.0
    cancel.set()
    with pytest.raises(Closed, match="given up"):
        limit.take(10**12)
    assert fake.now == 100.0


def test_only_writes_are_slowed_down(tmp_path):
    fake = FakeTime()
    limit = RateLimit(lambda: 1000.0, threading.Event(), now_s=lambda: fake.now, sleep=fake.sleep)
    fs = ThrottledFileSystem(LocalFileSystem(), limit)
    path = str(tmp_path / "file")
    file = fs.open_append(path)
    file.write(b"x" * 2000)
    file.datasync()
    file.close()
    assert fake.now == pytest.approx(102.0, abs=0.01)
    fs.write_file(str(tmp_path / "other"), b"y" * 1000)
    assert fake.now == pytest.approx(103.0, abs=0.01)
    assert fs.read_file(path) == b"x" * 2000
    assert fs.size(path) == file.size == 2000
    fs.rename(path, str(tmp_path / "new"))
    assert fs.listdir(str(tmp_path)) == ["new", "other"]
    assert fake.now == pytest.approx(103.0, abs=0.01)
