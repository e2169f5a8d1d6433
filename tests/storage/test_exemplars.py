"""The exemplar store against a list of everything that was added."""

import gc
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.exemplars import ExemplarBatch, join_batches, pack_labels, unpack_labels
from tsengine.storage.exemplar_records import decode_exemplars, encode_exemplars
from tsengine.storage.exemplars import FILES_MAX, ExemplarStore, read_exemplars
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.manifest import ExemplarEntry
from tsengine.storage.tombstones import Tombstone

GOLDEN = Path(__file__).parent.parent / "golden"


def batch(*rows):
    """Rows (ref, t, value, labels)."""
    refs, t_ms, values, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ExemplarBatch(
        np.array(refs, np.uint32),
        np.array(t_ms, np.int64),
        np.array(values, np.float64),
        tuple(pack_labels(pairs.items()) for pairs in labels),
    )


def rows_of(found):
    return [
        (int(r), int(t), float(v), unpack_labels(packed))
        for r, t, v, packed in zip(found.refs, found.t_ms, found.values, found.labels, strict=True)
    ]


def open_store(directory, files=(), **options):
    (directory / "exemplars").mkdir(exist_ok=True)
    return ExemplarStore(
        LocalFileSystem(), str(directory), files, n_recent_max=options.get("n_recent_max", 1000)
    )


def flush(store, number, floor_ms=None, n_max=1000):
    mark = store.mark()
    entry, kept = store.write(mark, lambda: f"{number:010d}.ex", floor_ms, n_max)
    files = (*kept, *([] if entry is None else [entry]))
    store.commit(mark, files)
    return files


EVERY = np.arange(100, dtype=np.uint32)
TIMES = (-(2**62), 2**62)


def test_exemplars_are_found_before_and_after_the_flush(tmp_path):
    store = open_store(tmp_path)
    store.add(batch((2, 20, 1.5, {"trace_id": "b"}), (1, 10, 0.5, {"trace_id": "a", "span": "x"})))
    expected = [(1, 10, 0.5, {"trace_id": "a", "span": "x"}), (2, 20, 1.5, {"trace_id": "b"})]
    assert rows_of(store.view().find(EVERY, *TIMES)) == expected
    files = flush(store, 1)
    assert rows_of(store.view().find(EVERY, *TIMES)) == expected
    assert [(f.mint, f.maxt, f.n) for f in files] == [(10, 20, 2)]
    again = open_store(tmp_path, files)
    assert rows_of(again.view().find(EVERY, *TIMES)) == expected
    assert rows_of(again.view().find(np.array([2], np.uint32), *TIMES)) == expected[1:]
    assert rows_of(again.view().find(EVERY, 10, 19)) == expected[:1]


def test_what_comes_after_the_mark_stays_in_memory(tmp_path):
    store = open_store(tmp_path)
    store.add(batch((1, 1, 1.0, {})))
    mark = store.mark()
    store.add(batch((1, 2, 2.0, {})))
    entry, kept = store.write(mark, lambda: "0000000001.ex", None, 1000)
    assert entry.n == 1
    store.commit(mark, (*kept, entry))
    assert rows_of(store.view().find(EVERY, *TIMES)) == [(1, 1, 1.0, {}), (1, 2, 2.0, {})]
    assert store.n_exemplars == 2


def test_many_files_are_joined_and_old_exemplars_dropped(tmp_path):
    store = open_store(tmp_path)
    for number in range(1, FILES_MAX + 1):
        store.add(batch((1, number, float(number), {"n": str(number)})))
        assert len(flush(store, number)) == number
    store.add(batch((1, 100, 100.0, {})))
    files = flush(store, 50, floor_ms=3, n_max=4)
    assert [(f.mint, f.maxt, f.n) for f in files] == [(6, 100, 4)]
    assert [t for _, t, _, _ in rows_of(store.view().find(EVERY, *TIMES))] == [6, 7, 8, 100]


def test_repeated_exemplars_appear_once(tmp_path):
    store = open_store(tmp_path)
    one = (1, 10, float("nan"), {"trace_id": "a"})
    store.add(batch(one))
    flush(store, 1)
    store.add(batch(one, (1, 10, 2.0, {"trace_id": "a"})))
    assert len(store.view().find(EVERY, *TIMES)) == 2


def test_memory_between_flushes_is_bounded(tmp_path):
    store = open_store(tmp_path, n_recent_max=10)
    for number in range(100):
        store.add(batch((1, number, 0.0, {})))
    assert [t for _, t, _, _ in rows_of(store.view().find(EVERY, *TIMES))] == list(range(90, 100))
    mark = store.mark()
    assert mark == 100


def test_many_small_batches_become_few_and_marks_still_part_them(tmp_path):
    store = open_store(tmp_path, n_recent_max=100_000)
    expected = []
    for number in range(3000):
        store.add(batch((number % 7, number, float(number), {"trace_id": str(number)})))
        expected.append((number % 7, number, float(number), {"trace_id": str(number)}))
        if number == 1777:
            mark = store.mark()
    assert len(store.view().recent) < 40
    expected.sort(key=lambda row: row[:2])
    assert rows_of(store.view().find(EVERY, *TIMES)) == expected
    entry, kept = store.write(mark, lambda: "0000000001.ex", None, 10**6)
    store.add(batch((99, 1, 0.0, {})))
    store.commit(mark, (*kept, entry))
    assert (entry.n, store.n_recent) == (1778, 3000 - 1778 + 1)
    assert rows_of(store.view().find(EVERY, *TIMES)) == sorted(
        [*expected, (99, 1, 0.0, {})], key=lambda row: row[:2]
    )


@pytest.mark.parametrize("per_batch", [1, 5, 2000])
@pytest.mark.parametrize("size", [0, 32, 128])
def test_counted_bytes_are_about_those_that_are_taken(tmp_path, per_batch, size):
    store = open_store(tmp_path, n_recent_max=100_000)
    gc.collect()
    tracemalloc.start()
    try:
        for first in range(0, 6000, per_batch):
            numbers = range(first, first + per_batch)
            rows = [(k % 9, k, 0.0, {"trace_id": f"{k:0{size}d}"}) for k in numbers]
            store.add(batch(*rows))
        del rows
        gc.collect()  # It frees tuples that Python keeps for later.
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.8 * taken < store.n_bytes < 1.25 * taken
    store.commit(store.mark(), ())
    assert store.n_bytes == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "delete", "flush"]), st.integers(0, 40)), max_size=40
    )
)
@settings(derandomize=True)
def test_bytes_and_numbers_are_those_of_what_is_there(script):
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory), n_recent_max=50)
        for number, (what, n) in enumerate(script):
            if what == "add":
                store.add(batch(*[(k % 3, k, 0.0, {"id": "x" * k}) for k in range(n)]))
            elif what == "delete":
                store.delete(Tombstone(number, 0, n, np.array([1], np.uint32)))
            else:
                flush(store, number)
            recent = store.view().recent
            assert store.n_recent == sum(len(one) for one in recent)
            assert (store.n_bytes > 0) == bool(recent)
            fresh = open_store(Path(directory), n_recent_max=10**6)
            for one in recent:
                fresh.mark()
                fresh.add(one)
            if all(len(one) for one in recent):
                assert store.n_bytes == fresh.n_bytes


def test_adding_is_about_as_fast_after_many_batches(tmp_path):
    store = open_store(tmp_path, n_recent_max=10**6)
    many = [batch((1, number, 0.0, {})) for number in range(40_000)]

    def seconds(batches):
        before = time.thread_time()
        for one in batches:
            store.add(one)
        return time.thread_time() - before

    first = seconds(many[:4000])
    seconds(many[4000:36_000])
    assert seconds(many[36_000:]) < 3 * first


def test_a_damaged_file_is_named_and_left_alone(tmp_path):
    store = open_store(tmp_path)
    store.add(batch((1, 10, 0.5, {"trace_id": "a"})))
    files = flush(store, 1)
    path = tmp_path / "exemplars" / files[0].name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=r"0000000001\.ex"):
        store.view().find(EVERY, *TIMES)
    for number in range(2, 2 + FILES_MAX):
        store.add(batch((1, 10 * number, 0.5, {})))
        kept = flush(store, number)
    assert [f.name for f in kept] == ["0000000001.ex", "0000000009.ex"]
    assert len(store.view().find(EVERY, 20, 1000)) == FILES_MAX


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_batch_survives_its_bytes_and_no_mutation_passes(data):
    texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    row = st.tuples(
        st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.floats(),
        st.dictionaries(texts, texts, max_size=3),
    )  # fmt: skip
    made = batch(*data.draw(st.lists(row, max_size=5)))
    payload = encode_exemplars(made)
    found = decode_exemplars(payload)
    assert found.refs.tolist() == made.refs.tolist()
    assert found.t_ms.tolist() == made.t_ms.tolist()
    assert found.values.view(np.uint64).tolist() == made.values.view(np.uint64).tolist()
    assert found.labels == made.labels
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises((CorruptionError, UnsupportedFormat)):
        decode_exemplars(payload[:cut])


def test_the_golden_file_is_read_for_ever():
    directory = GOLDEN / "exemplars-v1"
    entry = ExemplarEntry("0000000012.ex", 1_700_000_000_000, 1_700_000_000_000, 1, 0)
    found = read_exemplars(LocalFileSystem(), str(directory), entry)
    assert rows_of(found) == [(5, 1_700_000_000_000, 0.5, {"trace_id": "ab"})]


def test_the_example_of_the_format_page():
    made = encode_exemplars(batch((5, 1_700_000_000_000, 0.5, {"trace_id": "ab"})))
    assert made.hex(" ").startswith("00 00 00 00 01 00 00 00 0b 00 00 00 00 00 00 00 00 68 e5 cf")
    assert made.endswith(b"trace_id\xffab")
    assert len(made) == 51
    assert len(join_batches([])) == 0
