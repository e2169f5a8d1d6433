"""The memory budget: what is counted, who is refused above it, when heads are flushed."""

import time

import numpy as np
import pytest

import tsengine
from tests.reference import remote_write as wire
from tsengine.errors import AppendLimitExceeded
from tsengine.model.machine import machine_memory
from tsengine.options import Options
from tsengine.storage.array_bytes import array_bytes
from tsengine.storage.database import StorageDatabase
from tsengine.storage.head import Head
from tsengine.storage.memory import KINDS, ROW_BYTES, StorageMemory

T0 = 1_700_000_000_000
MIB = 1 << 20


def body(names, t_ms=T0, job="j"):
    return wire.encode_v1(
        [
            wire.Series(
                [(b"__name__", name.encode()), (b"job", job.encode())],
                [(t_ms, wire.bits_of(1.0))],
            )
            for name in names
        ]
    )


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.fixture
def unhurried(monkeypatch):
    """Bytes are measured each time."""
    monkeypatch.setattr("tsengine.storage.memory._MEASURE_S", 0.0)


def test_bytes_of_arrays_are_counted_once():
    whole = np.zeros(1000, np.int64)

    assert array_bytes(whole) == 8000
    assert array_bytes(whole[10:20]) == 8000, "a view holds the whole"
    assert array_bytes([whole, whole[:5], {"a": (whole,)}]) == 8000
    assert array_bytes([np.zeros(10, np.uint8), "text", None, 5]) == 10
    head = Head()
    assert array_bytes(head._open) == head._open.n_bytes


def test_everything_is_counted_by_kind(tmp_path, unhurried):
    db = StorageDatabase(str(tmp_path), Options(memory=100 * MIB))
    before = db.memory.by_kind()
    assert set(before) == set(KINDS)
    names = [f"metric_number_{k}" for k in range(20_000)]
    db.append_remote_write(body(names), version=1)
    after = db.memory.by_kind()
    state = db.catalog.view().state
    arrays = (
        state.text, state.text_offsets, state.pair_names, state.pair_values, state.row_offsets,
        state.row_pairs, state.symbol_table, state.pair_table,
    )  # fmt: skip
    assert after["series"] - before["series"] > sum(a.nbytes for a in arrays) * 0.9
    assert after["series"] < 20 * MIB
    assert after["senders"] - before["senders"] >= 20_000 * 20
    assert after["head"] == db.stats()["head_bytes"]
    assert after["parts"] == 0
    db.flush()
    flushed = db.memory.by_kind()
    assert flushed["parts"] >= 4 * 20_000, "at least a ref per series"
    stats = db.stats()
    assert {kind: stats[f"memory_bytes:{kind}"] for kind in KINDS} == db.memory.by_kind()
    assert stats["memory_limit_bytes"] == 100 * MIB
    db.close()


def test_the_default_is_half_of_the_machine(tmp_path):
    db = StorageDatabase(str(tmp_path), Options())
    assert db.memory.budget == machine_memory() // 2
    assert db.memory.head_samples_max() <= Options().head_samples_max
    db.reconfigure({"memory": 16 * MIB})
    assert db.memory.budget == 16 * MIB
    assert db.memory.head_samples_max() == 16 * MIB // 12 // ROW_BYTES
    db.reconfigure({"memory": 240 * MIB})
    assert db.memory.head_samples_max() == 20 * MIB // ROW_BYTES
    db.close()


def test_new_series_are_shed_and_known_ones_go_on(tmp_path, unhurried):
    """The budget fills with series of one job: its new series are refused, all else is stored."""
    with tsengine.open(tmp_path, Options(memory=64 * MIB)) as db:
        # What is let go from memory makes room for new series.
        db._storage.maintenance._saving._due_s = float("inf")
        known = [f"known_{k}" for k in range(100)]
        assert db.append_remote_write(body(known, job="calm")).shed == 0
        for round_ in range(400):
            names = [f"storm_{round_}_{k}" for k in range(1000)]
            result = db.append_remote_write(body(names, job="ci"))
            if result.shed:
                break
        else:
            raise AssertionError("nothing was refused")
        memory = db._storage.memory
        assert memory.series_bytes() > memory.series_limit() // 2
        assert memory.series_bytes() < memory.series_limit() * 1.5
        # Known series and new ones in one request: the former are stored.
        mixed = db.append_remote_write(body([*known, "another"], t_ms=T0 + 1000, job="calm"))
        assert (mixed.samples, mixed.shed) == (100, 1)
        (reject,) = mixed.rejected
        assert reject.series == 'another{job="calm"}'
        assert reject.reason == "there is no memory for new series"
        assert reject.n_samples == 1
        assert "MiB that the memory budget of 64 MiB gives them" in mixed.shed_reason
        assert 'of the newest 20000 series 20000 have job="ci"' in mixed.shed_reason
        assert '1 of these the metric "storm_' in mixed.shed_reason
        assert db.stats()["shed_series"] == result.shed + 1
        with pytest.raises(AppendLimitExceeded, match=r"no memory for 1 new series; .*ci"):
            db.append({"__name__": "more"}, [T0], [1.0])
        db.append({"__name__": "known_1", "job": "calm"}, [T0 + 2000], [3.0])
        assert db.stats()["shed_series"] == result.shed + 2
        assert db.query("sum(known_1)", time=T0 + 2000).to_numpy().tolist() == [[3.0]]
        # More memory without a restart: the new series come in.
        db.reconfigure(memory=256 * MIB)
        again = db.append_remote_write(body(["another"], t_ms=T0 + 1000, job="calm"))
        assert (again.samples, again.shed) == (1, 0)


def test_the_limit_of_series_is_shed_too(tmp_path):
    with tsengine.open(tmp_path, Options(max_series=3)) as db:
        result = db.append_remote_write(body(["a", "b", "c", "d", "e"]))
        assert (result.samples, result.shed) == (3, 2)
        assert [reject.reason for reject in result.rejected] == [
            "the limit of 3 series is reached"
        ] * 2
        assert result.shed_reason == (
            'there are 3 series; of the newest 3 series 3 have job="j", 1 of these the metric "a"'
        )


def test_series_without_a_job_are_named_too(tmp_path):
    with tsengine.open(tmp_path, Options(max_series=2)) as db:
        db.append({"__name__": "a"}, [T0], [1.0])
        db.append({"__name__": "a", "x": "1"}, [T0], [1.0])
        with pytest.raises(AppendLimitExceeded) as raised:
            db.append({"__name__": "b"}, [T0], [1.0])
        assert str(raised.value).endswith(
            'of the newest 2 series 2 have no job, 2 of these the metric "a"'
        )


def test_heads_are_flushed_early(tmp_path, unhurried):
    options = Options(memory=24 * MIB)  # A twelfth holds about 100,000 samples.
    with tsengine.open(tmp_path, options) as db:
        refs = db.series_refs([{"__name__": "m", "i": str(k)} for k in range(100)])
        n = 0
        for k in range(60):
            t_ms = np.repeat(T0 + np.arange(100) * 1000 + k * 100_000, 100)
            db.append_columns(np.tile(refs, 100), t_ms, np.ones(10_000))
            n += 10_000
        wait_for(lambda: db.stats()["flushes"] >= 2)
        wait_for(lambda: db._storage.state.frozen == ())
        assert db.stats()["head_samples"] < 3 * options.memory // 12 // ROW_BYTES
        got = db.query("sum(count_over_time(m[10d]))", time=T0 + 60 * 100_000).to_numpy()
        assert got.tolist() == [[n]]


def test_queries_get_what_is_left(tmp_path, unhurried):
    with tsengine.open(tmp_path, Options(memory=64 * MIB)) as db:
        memory, pool = db._storage.memory, db._engine.memory
        used = sum(memory.by_kind().values())
        assert pool.size == 64 * MIB - used
        db.append_remote_write(body([f"m_{k}" for k in range(30_000)]))
        assert pool.size == 64 * MIB - sum(memory.by_kind().values()) < 64 * MIB - used
        memory._part_bytes.clear()
        memory._measure = lambda: dict.fromkeys(KINDS, 64 * MIB)
        assert pool.size == 16 * MIB, "a quarter in any case"
        assert db.stats()["memory_bytes:queries"] == 0
        assert db.stats()["query_memory_limit_bytes"] == 16 * MIB


class FakeDatabase:
    def __init__(self, **options):
        self.options = Options(**options)


def with_bytes(memory, **kinds):
    memory._measured_s = float("inf")
    memory._found = dict.fromkeys(KINDS, 0) | kinds
    return memory


def test_how_many_series_there_may_be():
    memory = StorageMemory(FakeDatabase(memory=1024 * MIB))
    assert with_bytes(memory).series_max(0) == 1024 * MIB // 2 // 512
    assert with_bytes(memory, head=900 * MIB).series_max(0) == 1024 * MIB // 2 // 512
    # As dear as those that are there, twice: tables grow by doubling.
    assert with_bytes(memory, series=100 * MIB).series_max(100_000) == 100_000 + 412 * MIB // 2097
    assert with_bytes(memory, series=500 * MIB, parts=13 * MIB).series_max(7) == 7
    assert with_bytes(memory, series=511 * MIB).series_max(10) == 10 + MIB // (
        2 * 511 * MIB // 1000
    )


def test_when_a_head_is_flushed():
    memory = StorageMemory(FakeDatabase(memory=240 * MIB))
    limit = 20 * MIB // ROW_BYTES
    assert memory.head_samples_max() == limit
    with_bytes(memory)
    assert not memory.wants_flush(limit - 1)
    assert memory.wants_flush(limit)
    with_bytes(memory, series=211 * MIB)
    assert memory.wants_flush(300_000)
    assert not memory.wants_flush(200_000)
    with_bytes(memory, series=200 * MIB)
    assert not memory.wants_flush(300_000)
    memory.queries = lambda: 20 * MIB
    assert memory.wants_flush(300_000)
