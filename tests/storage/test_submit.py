"""Remote writes that don't wait for their fsync: what they store, and what their callers hear."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.faults.test_attack_flush import body as rich_body
from tests.faults.test_attack_flush import content
from tests.reference import remote_write as wire
from tsengine.errors import Closed, MalformedRequest, Overloaded
from tsengine.model.labels import label_dicts
from tsengine.options import Options
from tsengine.storage.database import StorageDatabase
from tsengine.storage.select import read_columns

OPTIONS = Options(future_limit=None, retention=None)
T0 = 1_700_000_000_000


class Answers:
    """What callbacks were told, in order."""

    def __init__(self) -> None:
        self.found: list = []
        self._some = threading.Semaphore(0)

    def __call__(self, outcome, error) -> None:
        self.found.append((outcome, error))
        self._some.release()

    def wait(self, n: int) -> list:
        for _ in range(n):
            assert self._some.acquire(timeout=30)
        return self.found


def submit(db, body, on_done, *, version=1, waited_s=0.0):
    db.submit_remote_write(body, version=version, sender="x", waited_s=waited_s, on_done=on_done)


@pytest.fixture
def db(tmp_path):
    database = StorageDatabase(str(tmp_path / "db"), OPTIONS)
    yield database
    database.close()


def plain_body(n: int, t_ms: int) -> bytes:
    series = [wire.Series([(b"__name__", b"m"), (b"i", b"%d" % i)], [(t_ms, i)]) for i in range(n)]
    return wire.encode_v1(series, [(1, b"m", b"help of m", b"s")])


def test_the_memory_of_a_body_may_be_used_again_at_once(tmp_path, db):
    """Also while the log has not written it: new series, histograms, exemplars, metadata."""
    answers = Answers()
    bodies = [(2, rich_body(0)), (1, plain_body(50, T0)), (1, plain_body(50, T0 + 1))]
    bodies += [(2, rich_body(10)), (1, plain_body(60, T0 + 2))]
    other = StorageDatabase(str(tmp_path / "other"), OPTIONS)
    try:
        memory = bytearray(1 << 20)
        for version, body in bodies:
            memory[: len(body)] = body
            submit(db, memoryview(memory)[: len(body)], answers, version=version)
            memory[:] = b"\xa5" * len(memory)
            outcome = other.append_remote_write(body, version=version)
            assert answers.wait(1)[-1] == (outcome, None)
        assert content(db) == content(other)
        assert series_of(db) == series_of(other)
        assert len(series_of(db)) == 62
        assert db.metadata.entries() == other.metadata.entries()
        assert db.metadata.entries()[0].help == "help of m"
    finally:
        other.close()


def series_of(db) -> list[dict[str, str]]:
    catalog = db.state.catalog
    return label_dicts(catalog, catalog.labels(np.arange(catalog.next_ref, dtype=np.uint32)))


def test_callers_hear_what_became_of_each(tmp_path, db, monkeypatch):
    answers = Answers()
    with pytest.raises(MalformedRequest):
        submit(db, b"\xff\xff", answers)
    submit(db, b"", answers)
    (outcome, error) = answers.wait(1)[0]
    assert (outcome.n_samples, error) == (0, None)
    with monkeypatch.context() as patch:
        patch.setattr(db, "_has_room", lambda: False)
        with pytest.raises(Overloaded):
            submit(db, plain_body(1, T0), answers, waited_s=4.99)
    with monkeypatch.context() as patch:

        def broken(self, batch, seq):
            raise MemoryError("no room")

        patch.setattr("tsengine.storage.head.Head.append", broken)
        submit(db, plain_body(2, T0), answers)
        outcome, error = answers.wait(1)[-1]
        assert outcome.n_samples == 2
        assert "logged, but not stored" in str(error)
    for k in range(20):
        submit(db, plain_body(3, T0 + k), answers)
    assert [error for _, error in answers.wait(20)[-20:]] == [None] * 20
    view = db.view()
    columns = read_columns(view._parts, view._heads, np.arange(3, dtype=np.uint32), T0, T0 + 99)
    assert columns.t_ms.tolist() == [T0 + k for k in range(20)] * 3
    assert columns.bits.tolist() == [i for i in range(3) for _ in range(20)]
    db.close()
    with pytest.raises(Closed):
        submit(db, plain_body(1, T0), answers)
    assert len(answers.found) == 22


def test_a_callback_that_raises_harms_nobody(db, caplog):
    def broken(outcome, error):
        raise ZeroDivisionError("the caller's bug")

    answers = Answers()
    submit(db, plain_body(3, T0), broken)
    submit(db, plain_body(3, T0 + 1), answers)
    assert [error for _, error in answers.wait(1)] == [None]
    assert "the caller's bug" in caplog.text


def test_small_samples_weigh_in_the_queue_what_they_take_in_memory(db, monkeypatch):
    """A sample may take two bytes of a body."""
    labels = wire.label_v1(b"__name__", b"m")
    seen = []
    original = db._log.append

    def append(entry, on_done=None):
        seen.append(entry.n_bytes)
        return original(entry, on_done)

    monkeypatch.setattr(db._log, "append", append)
    db.append_remote_write(wire.length_field(1, labels + b"\x12\x00" * 5000), version=1)
    assert seen == [100_000]
