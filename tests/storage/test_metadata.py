"""The store of types, helps and units: what it keeps, how much memory that takes, where it ends."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsengine
from tsengine.errors import OptionsError
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.storage.metadata_store import N_VARIANTS_MAX, MetadataStore, entries_bytes

T0 = 1_700_000_000_000


def entry(number, help_text="", kind="counter"):
    return MetadataEntry(f"metric_number_{number:06d}_total", kind, help_text, "seconds")


def test_what_is_new_above_the_limit_is_dropped_and_counted(caplog):
    store = MetadataStore()
    store.update([entry(0, "x" * 100)])
    each = store.n_bytes
    assert each == entries_bytes([entry(0, "x" * 100)])
    store.size_max = 10 * each
    store.update(entry(k, "x" * 100) for k in range(30))
    assert list(store.by_metric()) == [entry(k).metric for k in range(10)]
    assert (store.n_bytes, store.n_dropped) == (10 * each, 20)
    store.update([entry(40, "x" * 100)])
    assert store.n_dropped == 21
    assert len([r for r in caplog.records if r.name.startswith("tsengine")]) == 1


def test_a_known_metric_gets_its_new_text_instead_of_the_old_one():
    store = MetadataStore()
    store.update([entry(0, "old"), entry(1, "old")])
    store.size_max = store.n_bytes
    store.is_dirty = False
    store.update([entry(0, "new")])
    assert store.by_metric(entry(0).metric) == {entry(0).metric: (entry(0, "new"),)}
    assert store.is_dirty
    store.update([entry(0, "far longer than before")])
    assert store.by_metric(entry(0).metric) == {entry(0).metric: (entry(0, "new"),)}
    assert store.n_dropped == 1
    # A limit that is lowered takes nothing away.
    store.size_max = 1
    store.update([entry(1, "old"), entry(1, "longer")])
    assert store.entries() == [entry(0, "new"), entry(1, "old")]
    assert store.n_dropped == 2


texts = st.sampled_from(["", "a", "help", "help " * 20, "é" * 7])
entries = st.builds(
    MetadataEntry, st.sampled_from(["m", "n", "o" * 30]), st.sampled_from(["counter", "gauge"]),
    texts, texts,
)  # fmt: skip


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.tuples(entries, st.integers(0, 5000)), max_size=60))
def test_bytes_are_those_of_what_is_kept(updates):
    store = MetadataStore()
    for one, size_max in updates:
        store.size_max = size_max
        before, n_dropped = store.n_bytes, store.n_dropped
        store.update([one])
        kept = store.by_metric(one.metric).get(one.metric, ())
        assert store.n_bytes == sum(entries_bytes(own) for own in store.by_metric().values())
        assert store.n_bytes <= max(before, size_max)
        assert (one == next(iter(kept), None)) == (store.n_dropped == n_dropped)
        assert len(kept) <= N_VARIANTS_MAX


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_counted_bytes_are_about_those_that_are_taken(size):
    gc.collect()
    tracemalloc.start()
    try:
        store = MetadataStore()
        for k in range(5000):
            # As a decoder makes them: no two share a text.
            name, text = f"metric_number_{k}_total", "".join(["h"] * size)
            store.update([MetadataEntry(name, "counter", text, "".join(["sec", "onds"]))])
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.75 * taken < store.n_bytes < 1.25 * taken


def test_a_database_counts_and_limits_it(tmp_path):
    with tsengine.open(tmp_path, Options(metadata_memory=100_000)) as db:
        for k in range(600):
            db.append_metadata(entry(k).metric, "counter", "x" * 100, "seconds")
        n_kept = len(db.metadata())
        assert 150 < n_kept < 250
        stats = db.stats()
        assert stats["metadata_dropped"] == 600 - n_kept
        assert 90_000 < stats["memory_bytes:metadata"]
        assert stats["memory_bytes:metadata"] < 100_000 + 600 * 200
        db.flush()
        db.append({"__name__": "m"}, [T0], [1.0])
    # What is kept comes back, from the file and from the log, and a larger limit takes more.
    with tsengine.open(tmp_path, Options(metadata_memory=100_000)) as db:
        assert len(db.metadata()) == n_kept
        assert db.stats()["metadata_dropped"] == 0
        db.reconfigure(metadata_memory=200_000)
        for k in range(600):
            db.append_metadata(entry(k).metric, "counter", "x" * 100, "seconds")
        assert 2 * n_kept - 30 <= len(db.metadata()) < 600


def test_what_the_log_dropped_is_dropped_by_its_replay(tmp_path):
    options = Options(metadata_memory=50_000)
    with tsengine.open(tmp_path, options) as db:
        for k in range(200):
            db.append_metadata(entry(k).metric, "counter", "x" * 100, "seconds")
        kept = db.metadata()
    with tsengine.open(tmp_path, options) as db:
        assert db.metadata() == kept
        assert db.stats()["metadata_dropped"] == 0


def test_a_limit_below_nothing_is_refused(tmp_path):
    with pytest.raises(OptionsError, match="metadata_memory"):
        tsengine.open(tmp_path, Options(metadata_memory=-1))
