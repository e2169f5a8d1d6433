"""Exemplars of an unlucky operator: what the log alone holds, races, damaged files."""

from __future__ import annotations

import os

import numpy as np
import pytest

import tsengine
from tests.reference import remote_write as wire
from tests.reference.unsynced import UnsyncedFileSystem
from tsengine.model.exemplars import ExemplarBatch, pack_labels
from tsengine.options import Options
from tsengine.storage.exemplars import FILES_MAX, ExemplarStore

T0 = 1_700_000_000_000
LABELS = [(b"__name__", b"rpc")]
FS = UnsyncedFileSystem()


def open_db(path, **options):
    return tsengine.open(str(path), Options(future_limit=None, retention=None, **options))


def body(samples, exemplars) -> bytes:
    return wire.encode_v1([wire.Series(LABELS, samples, exemplars=exemplars)])


def exemplar(k: int) -> wire.Exemplar:
    return wire.Exemplar([(b"trace_id", b"%d" % k)], T0 + k, wire.bits_of(float(k)))


def found(db) -> list[float]:
    answer = db.query_exemplars("rpc", T0 - 10, T0 + 1_000_000)
    return [float(one["value"]) for series in answer for one in series["exemplars"]]


def test_a_flush_takes_exemplars_that_came_without_samples(tmp_path):
    with open_db(tmp_path) as db:
        db.append_remote_write(body([(T0, 0)], [exemplar(0)]), version=1)
        db.flush()
        for k in range(1, 4):
            db.append_remote_write(body([], [exemplar(k)]), version=1)
        assert db._storage.log_size_bytes > 200
        db.flush()
        # Else the log of a sender of exemplars alone would grow for ever.
        assert db._storage.log_size_bytes < 200
        assert found(db) == [0.0, 1.0, 2.0, 3.0]
    with open_db(tmp_path) as db:
        assert found(db) == [0.0, 1.0, 2.0, 3.0]


def batch(k: int) -> ExemplarBatch:
    return ExemplarBatch(
        np.zeros(1, np.uint32), np.array([T0 + k]), np.array([float(k)]),
        (pack_labels([("trace_id", str(k))]),),
    )  # fmt: skip


def test_an_overflow_while_a_file_is_begun_loses_only_the_oldest(tmp_path):
    class Racing(ExemplarStore):
        def view(self):
            made = super().view()
            self.add(batch(3))
            return made

    os.mkdir(tmp_path / "exemplars")
    store = Racing(FS, str(tmp_path), (), n_recent_max=3)
    for k in range(3):
        store.add(batch(k))
    entry, kept = store.write(store.mark(), lambda: "0000000001.ex", None, 100)
    assert entry is not None
    store.add(batch(4))
    store.commit(3, (*kept, entry))
    times = ExemplarStore.view(store).find(np.zeros(1, np.uint32), 0, 2**62).t_ms - T0
    assert {1, 2, 4} <= set(times.tolist())


@pytest.mark.parametrize("damage", ["first", "version", "middle", "last", "gone"])
def test_a_damaged_file_of_exemplars_is_told_and_holds_nothing_up(tmp_path, damage):
    with open_db(tmp_path) as db:
        db.append_remote_write(body([(T0, 0)], [exemplar(k) for k in range(5)]), version=1)
        db.flush()
    (path,) = (tmp_path / "exemplars").iterdir()
    content = path.read_bytes()
    at = {"first": 0, "version": 8, "middle": len(content) // 2, "last": -1}.get(damage)
    path.unlink()
    if at is not None:
        flipped = bytearray(content)
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
    assert tsengine.check(str(tmp_path)).problems
    with open_db(tmp_path) as db:
        with pytest.raises(tsengine.errors.TsengineError):
            found(db)
        for k in range(1, FILES_MAX + 3):
            db.append_remote_write(body([(T0 + k, 0)], [exemplar(k)]), version=1)
            db.flush()
        assert db.query("count_over_time(rpc[1m])", time=T0 / 1000 + 1).to_numpy() == FILES_MAX + 3
