"""Postings of several states of one catalog, built by whoever asks first."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tsengine.storage import index
from tsengine.storage.index import PostingsBuilder
from tsengine.storage.interning import InternedState


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch) -> None:
    monkeypatch.setattr(index, "_ENTRIES_MIN", 32)
    monkeypatch.setattr(index, "_ENTRIES_MAX", 64 * 32)
    return


def rows_of(n_rows: int, n_keys: int) -> list[list[int]]:
    rng = np.random.default_rng(n_keys)
    return [rng.choice(n_keys, rng.integers(1, 5), replace=False).tolist() for _ in range(n_rows)]


def state_of(rows: list[list[int]], n_rows: int) -> InternedState:
    """The first rows, in arrays that have all of them, as a catalog's states do."""
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    pairs = np.array([key for row in rows for key in row], np.uint32)
    names = (np.arange(5000) % 7).astype(np.uint32)
    none = np.zeros(0, np.uint8)
    table = np.zeros(2, np.uint64)
    return InternedState(
        7, n_rows, n_rows, none, offsets, names, names, offsets, pairs, table, table
    )


def check(builder: PostingsBuilder, rows: list[list[int]], n_rows: int, n_keys: int) -> None:
    state = state_of(rows, n_rows)
    of_pairs = builder.series_of_pairs(state)
    expected: list[list[int]] = [[] for _ in range(n_keys)]
    for ref, row in enumerate(rows[:n_rows]):
        for key in row:
            expected[key].append(ref)
    for key in range(0, n_keys, max(1, n_keys // 50)):
        assert of_pairs.rows(key).tolist() == expected[key]
    np.testing.assert_array_equal(of_pairs.counts(n_keys), [len(refs) for refs in expected])
    of_names = builder.pairs_of_names(state)
    for name in range(7):
        assert of_names.rows(name).tolist() == list(range(name, n_rows, 7))


@pytest.mark.parametrize("n_keys", [5, 300, 100_000])
def test_states_of_any_size_may_be_asked_in_any_order(n_keys):
    rows = rows_of(3000, n_keys)
    builder = PostingsBuilder()
    for n_rows in (0, 1, 3, 40, 100, 2000, 30, 1500, 3000, 2999, 100, 0):
        check(builder, rows, n_rows, n_keys)


def test_what_is_prepared_is_there_for_later_states():
    rows = rows_of(3000, 50)
    builder = PostingsBuilder()
    builder.series_of_pairs(state_of(rows, 2000)).prepare()
    first = builder.series_of_pairs(state_of(rows, 2500)).rows(1)
    assert first.tolist() == [ref for ref, row in enumerate(rows[:2500]) if 1 in row]
    check(builder, rows, 3000, 50)


def test_readers_of_different_states_at_once():
    rows = rows_of(2000, 30)
    builder = PostingsBuilder()
    errors: list[BaseException] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for n_rows in rng.integers(0, 2001, 20).tolist():
                check(builder, rows, n_rows, 30)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not errors
