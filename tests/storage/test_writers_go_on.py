"""Who writes the log for others, and who waits with a lock: neither keeps anybody for long."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np

from tests.faults.log import Log, payloads, read
from tests.reference.rich_samples import Histogram, bits, table_of
from tests.storage.test_append_group import body_without_metadata
from tests.storage.test_submit import Answers, submit
from tests.storage.test_wal import gathered
from tsengine.errors import Overloaded
from tsengine.model.batch import SampleBatch
from tsengine.model.histograms import KEY_BIAS, handles
from tsengine.options import Options
from tsengine.storage import append_lane
from tsengine.storage.append_group import Member, teller
from tsengine.storage.append_outcome import AppendOutcome
from tsengine.storage.database import StorageDatabase

T0 = 1_700_000_000_000


def until(condition) -> None:
    ends_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.001)


def test_who_ends_gathering_writes_what_is_there_and_no_more(tmp_path):
    """Others may append as fast as it writes."""
    threads: list[str] = []

    def on_durable(entries) -> None:
        threads.append(threading.current_thread().name)
        if len(threads) < 20:
            log.append(b"%d" % len(threads))

    with Log(tmp_path, on_durable=on_durable) as log:
        gathered(log, b"a", b"b").join(10)
        until(lambda: len(threads) == 20)
    assert threads == ["gathers", *["tsengine-wal"] * 19]
    assert payloads(read(tmp_path)[0]) == [b"a", b"b", *(b"%d" % k for k in range(1, 20))]


def histogram(n_buckets: int) -> Histogram:
    buckets = tuple((KEY_BIAS + k, bits(1.0)) for k in range(n_buckets))
    return Histogram(8, 0, bits(float(n_buckets)), bits(1.0), 0, 0, buckets, None)


def test_a_bulk_append_has_its_pieces_written_though_somebody_gathers(tmp_path, monkeypatch):
    """It waits for the first with the lane, for which who gathers waits."""
    monkeypatch.setattr(append_lane, "_BATCH_HISTOGRAMS_MAX", 1)
    options = Options(future_limit=None, retention=None, queue_size_bytes_max=5000)
    db = StorageDatabase(str(tmp_path / "db"), options)
    known = body_without_metadata(3, T0)
    db.append_remote_write(known, version=1)
    refs = db.series_refs([{"__name__": "h"}])
    gathers, has_queued, answers, failed = threading.Event(), threading.Event(), Answers(), []

    def gather() -> None:
        with db.writes_together():
            gathers.set()
            assert has_queued.wait(10)
            submit(db, known, answers)

    def append() -> None:
        try:
            db.append_columns(
                np.repeat(refs, 2), np.array([T0, T0 + 1]), handles(np.arange(2)),
                histograms=table_of([histogram(1), histogram(500)]),
            )  # fmt: skip
        except Exception as error:
            failed.append(error)

    original = db._log_patiently

    def log_patiently(batch, tickets):
        if tickets:
            has_queued.set()
            until(lambda: db._lane.locked())
            time.sleep(0.05)
        return original(batch, tickets)

    monkeypatch.setattr(db, "_log_patiently", log_patiently)
    threads = [threading.Thread(target=gather, daemon=True)]
    threads[0].start()
    assert gathers.wait(10)
    threads.append(threading.Thread(target=append, daemon=True))
    threads[1].start()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert failed == []
    ((_, error),) = answers.wait(1)
    assert isinstance(error, Overloaded), "the second piece fills the queue"
    assert db.state.head.n_samples == 5
    db.close()


def test_who_is_told_of_a_group_keeps_no_samples():
    """Twice the samples would wait for the log, and the queue counts them once."""
    batch = SampleBatch(np.zeros(3, np.uint32), np.arange(3), np.zeros(3, np.uint64))
    answers = Answers()
    told = teller([Member(batch, 60, answers)])
    kept = weakref.ref(batch.bits)
    del batch
    assert kept() is None
    told(None)
    assert answers.wait(1) == [(AppendOutcome(3, 0, 0, ()), None)]
