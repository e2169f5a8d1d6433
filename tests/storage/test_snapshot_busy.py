"""A snapshot comes through however often flushes and deletes change the directory."""

import pytest

import tsengine
from tsengine import errors
from tsengine.storage import snapshot

T0 = 1_700_000_000_000


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        db.append({"__name__": "m"}, [T0], [1.0])
        yield db


def test_the_writer_stops_for_a_moment(db, tmp_path, monkeypatch):
    storage = db._storage
    seen = []

    def is_same(*_):
        """As if there were always a delete while nobody keeps them away."""
        seen.append((storage._lane.locked(), storage._checkpointer._commit_lock.locked()))
        return seen[-1] == (True, True)

    monkeypatch.setattr(snapshot, "_log_is_same", is_same)
    monkeypatch.setattr(snapshot, "_log_has_deletes", lambda *_: True)
    db.snapshot(tmp_path / "copy")
    assert seen == [(False, False), (False, False), (True, True)]
    monkeypatch.undo()
    db.append({"__name__": "m"}, [T0 + 1], [2.0])
    db.flush()
    with tsengine.open(tmp_path / "copy", read_only=True) as copy:
        assert copy.select("m").read_all().num_rows == 1


def test_who_can_not_stop_it_tries_for_a_while(db, tmp_path, monkeypatch):
    n_tries, pauses = [0], []

    def is_same(*_):
        n_tries[0] += 1
        return n_tries[0] > 24

    monkeypatch.setattr(snapshot, "_log_is_same", is_same)
    monkeypatch.setattr(snapshot, "_sleep", pauses.append)
    tsengine.snapshot(tmp_path / "db", tmp_path / "copy")
    assert n_tries[0] == 25
    assert max(pauses) == 0.2
    monkeypatch.setattr(snapshot, "_TRY_S", 0.0)
    n_tries[0] = -1000
    with pytest.raises(errors.StorageError, match="changes too fast"):
        tsengine.snapshot(tmp_path / "db", tmp_path / "other")
    assert not (tmp_path / "other").exists()
