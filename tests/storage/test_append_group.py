"""Bodies that are submitted together: one entry of the log, and an answer for each."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from tests.faults.test_attack_flush import body as rich_body
from tests.faults.test_attack_flush import content
from tests.reference import remote_write as wire
from tests.storage.test_submit import Answers, plain_body, submit
from tsengine.errors import Full, Overloaded
from tsengine.options import Options
from tsengine.storage import append_lane
from tsengine.storage.append_outcome import AppendOutcome
from tsengine.storage.database import StorageDatabase
from tsengine.storage.select import read_columns

T0 = 1_700_000_000_000
OPTIONS = Options(future_limit=None, retention=None)


@pytest.fixture
def db(tmp_path):
    database = StorageDatabase(str(tmp_path / "db"), OPTIONS)
    database.append_remote_write(plain_body(20, T0), version=1)
    yield database
    database.close()


def in_thread(call) -> None:
    """Run a call in a thread of its own: the main thread makes no groups."""
    failures = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def together(db, bodies, answers, *, version=1) -> None:
    """Submit bodies together; what is refused at once is an answer too."""

    def run() -> None:
        with db.writes_together():
            for body in bodies:
                try:
                    submit(db, body, answers, version=version)
                except Exception as error:
                    answers(None, error)

    in_thread(run)


def body_without_metadata(n: int, t_ms: int) -> bytes:
    return wire.encode_v1(
        [wire.Series([(b"__name__", b"m"), (b"i", b"%d" % i)], [(t_ms, i)]) for i in range(n)]
    )


def entries_of(db, call) -> list[int]:
    """Run a call; how many samples each entry of the log had."""
    seen = []
    original = db._log.append

    def append(entry, on_done=None):
        seen.append(len(entry.item.batch))
        return original(entry, on_done)

    db._log.append = append
    try:
        call()
    finally:
        db._log.append = original
    return seen


def times(db) -> list[int]:
    view = db.view()
    columns = read_columns(view._parts, view._heads, np.arange(1, dtype=np.uint32), T0, T0 + 999)
    return columns.t_ms.tolist()


def stored(n: int) -> tuple:
    return AppendOutcome(n, 0, 0, ()), None


def test_known_series_become_one_entry_and_each_is_told(db):
    before = [body_without_metadata(20, T0)]
    in_thread(lambda: db.append_remote_write(before[0], version=1))
    answers = Answers()
    bodies = [body_without_metadata(n, T0 + n) for n in (5, 20, 1)]
    assert entries_of(db, lambda: together(db, bodies, answers)) == [26]
    assert answers.wait(3) == [stored(5), stored(20), stored(1)]
    assert times(db) == [T0, T0 + 1, T0 + 5, T0 + 20]


def test_other_bodies_keep_their_place(db):
    """New series, histograms, nothing at all, what is broken: in the order of the calls."""
    answers = Answers()
    bodies = [
        body_without_metadata(20, T0 + 1), body_without_metadata(20, T0 + 2),
        body_without_metadata(25, T0 + 3), b"", b"\xff\xff", body_without_metadata(25, T0 + 4),
        body_without_metadata(25, T0 + 4),
    ]  # fmt: skip
    in_thread(lambda: db.append_remote_write(body_without_metadata(20, T0), version=1))
    assert entries_of(db, lambda: together(db, bodies, answers)) == [40, 25, 50]
    found = answers.wait(7)
    assert sorted(outcome.n_samples for outcome, error in found if error is None) == [
        0, 20, 20, 25, 25, 25,
    ]  # fmt: skip
    assert [type(error).__name__ for _, error in found if error] == ["MalformedRequest"]
    assert times(db) == [T0 + k for k in range(5)]


def test_what_is_stored_is_what_is_stored_alone(tmp_path, db):
    other = StorageDatabase(str(tmp_path / "other"), OPTIONS)
    try:
        other.append_remote_write(plain_body(20, T0), version=1)
        bodies = [body_without_metadata(20 - k % 3, T0 + k % 5) for k in range(30)]
        in_thread(lambda: other.append_remote_write(rich_body(3), version=2))
        for body in bodies:
            other.append_remote_write(body, version=1)
        answers = Answers()
        together(db, [rich_body(3)], answers, version=2)
        together(db, bodies, answers)
        answers.wait(31)
        assert content(db) == content(other)
    finally:
        other.close()


def test_samples_that_their_time_refuses_are_refused_body_by_body(tmp_path):
    options = Options(future_limit=3600.0, retention=None)
    db = StorageDatabase(str(tmp_path / "db"), options, clock=lambda: T0)
    try:
        known = body_without_metadata(3, T0)
        db.append_remote_write(known, version=1)
        db.append_remote_write(known, version=1)
        answers = Answers()
        late = body_without_metadata(2, T0 + 7_200_000)
        bodies = [body_without_metadata(3, T0 + 1), late, body_without_metadata(3, T0 + 2)]
        together(db, bodies, answers)
        found = answers.wait(3)
        assert sorted((outcome.n_samples, len(outcome.rejected)) for outcome, _ in found) == [
            (0, 2), (3, 0), (3, 0),
        ]  # fmt: skip
        assert [error for _, error in found] == [None] * 3
    finally:
        db.close()


def test_errors_reach_each_and_the_lane_is_free_again(db, monkeypatch):
    known = body_without_metadata(20, T0)
    db.append_remote_write(known, version=1)
    for error in (Full("no space"), Overloaded("a full queue")):
        answers = Answers()

        def refuse(entry, on_done=None, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(db._log, "append", refuse)
            together(db, [known] * 3, answers)
        assert [found for _, found in answers.wait(3)] == [error] * 3
    with monkeypatch.context() as patch:

        def broken(self, batch, seq):
            raise MemoryError("no room")

        patch.setattr("tsengine.storage.head.Head.append", broken)
        answers = Answers()
        together(db, [known] * 3, answers)
        assert ["logged, but not stored" in str(found) for _, found in answers.wait(3)] == [
            True
        ] * 3

    def fail() -> None:
        with db.writes_together():
            submit(db, known, answers)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_thread(fail)
    assert answers.wait(1)[-1] == stored(20)
    assert not db._groups
    assert not db._lane.locked()


def test_who_waits_for_room_holds_up_nobody(db, monkeypatch):
    """A flush needs the lane to make room."""
    known = body_without_metadata(20, T0)
    db.append_remote_write(known, version=1)
    seen = []

    def wait(waited_s):
        seen.append(db._lane.locked())

    monkeypatch.setattr(db, "_wait_for_room", wait)
    monkeypatch.setattr(append_lane, "_BATCH_ROWS_MAX", 40)
    answers = Answers()
    assert entries_of(db, lambda: together(db, [known] * 5, answers)) == [40, 40, 20]
    assert answers.wait(5) == [stored(20)] * 5
    assert seen == [False] * 3


def test_a_callback_that_raises_harms_nobody(db, caplog):
    known = body_without_metadata(20, T0)
    db.append_remote_write(known, version=1)
    answers = Answers()

    def broken(outcome, error):
        raise ZeroDivisionError("the caller's bug")

    def run() -> None:
        with db.writes_together():
            submit(db, known, broken)
            submit(db, known, answers)

    in_thread(run)
    assert answers.wait(1) == [stored(20)]
    assert "the caller's bug" in caplog.text


def test_groups_appends_flushes_and_cuts_side_by_side(db):
    """Nothing is lost, and nobody waits for ever."""
    known = [body_without_metadata(20, T0 + k) for k in range(200)]
    db.append_remote_write(known[0], version=1)
    answers = [Answers() for _ in range(3)]

    def send(mine: Answers, own: list[bytes]) -> None:
        for k in range(0, len(own), 4):
            with db.writes_together():
                for body in own[k : k + 4]:
                    submit(db, body, mine)

    threads = [
        threading.Thread(target=send, args=(answers[k], known[k::3])) for k in range(len(answers))
    ]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + 120
    n_alone = 0
    while any(thread.is_alive() for thread in threads):
        assert time.monotonic() < ends_s
        db.append_remote_write(body_without_metadata(1, T0 + 500 + n_alone), version=1)
        n_alone += 1
        db.flush()
    for k, mine in enumerate(answers):
        assert mine.wait(len(known[k::3])) == [stored(20)] * len(known[k::3])
    assert times(db) == [*range(T0, T0 + 200), *range(T0 + 500, T0 + 500 + n_alone)]
