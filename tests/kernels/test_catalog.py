"""Interning tables, label checks and the memo against dicts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import catalog as reference
from tsengine.kernels import catalog as kernels

texts = st.sampled_from(
    [b"", b"a", b"b", b"ab", b"__name__", b"__name_", b"\xff", b"\xc3\xa4", b"x" * 8, b"x" * 9]
)
LIMITS = (4, 8, 9, 30)


def spans_of(items: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = np.cumsum([len(item) for item in items], dtype=np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), ends))[: len(ends)]
    return np.frombuffer(b"".join(items), np.uint8), starts, ends


def check_labels(rows, limits, shared=False):
    flat = [text for row in rows for label in row for text in label]
    data, starts, ends = spans_of(flat)
    row_ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    # Equal labels have one number, as far as `shared` says.
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    numbers = {pair: k for k, pair in enumerate(pairs)} if shared else {}
    labels = np.array([numbers.get(pair, k) for k, pair in enumerate(pairs)], np.int64)
    label_statuses, smaller, kept = np.empty((3, len(pairs)), np.int64)
    kept_ends, statuses = np.empty((2, len(rows)), np.int64)
    n = kernels.check_labels(
        data, row_ends, labels, starts[::2].copy(), ends[::2].copy(), starts[1::2].copy(),
        ends[1::2].copy(), *limits, len(rows), label_statuses, smaller, kept, kept_ends, statuses,
    )  # fmt: skip
    assert n == (kept_ends[-1] if len(rows) else 0)
    made = []
    for r in range(len(rows)):
        own = kept[kept_ends[r - 1] if r else 0 : kept_ends[r]]
        made.append(([pairs[k] for k in own], int(statuses[r])))
    return made


@given(st.lists(st.lists(st.tuples(texts, texts), max_size=6), max_size=6))
@settings(deadline=None, max_examples=500)
def test_check_labels_matches_reference(rows):
    named = [[*row, (b"__name__", b"m")] for row in rows]
    for given_rows in (rows, named, [*rows, *named]):
        expected = reference.check_labels(given_rows, LIMITS)
        assert check_labels(given_rows, LIMITS) == expected
        assert check_labels(given_rows, LIMITS, shared=True) == expected


@given(st.permutations([b"%d" % i for i in range(40)]), st.integers(0, 40))
@settings(deadline=None, max_examples=100)
def test_check_labels_sorts_long_rows(names, n):
    row = [(name, b"x") for name in names[:n]] + [(b"__name__", b"m")]
    limits = (100, 100, 100, 10_000)
    assert check_labels([row, row], limits) == reference.check_labels([row, row], limits)


@given(st.binary(max_size=12) | st.text(max_size=8).map(lambda text: text.encode()))
@settings(deadline=None, max_examples=600)
def test_utf8_is_checked_as_python_does(value):
    rows = [[(b"__name__", b"m"), (b"v", b"ascii!!!" + value)]]
    limits = (10, 100, 100, 1000)
    assert check_labels(rows, limits) == reference.check_labels(rows, limits)


@pytest.mark.parametrize("first", range(0xC0, 0x100))
def test_utf8_borders_of_each_leading_byte(first):
    limits = (10, 100, 100, 1000)
    rows = [
        [(b"__name__", bytes([first, second, *rest]))]
        for second in (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
        for rest in ([], [0x80], [0x80, 0xBF], [0x80, 0xC0], [0x7F, 0x80])
    ]
    assert check_labels(rows, limits) == reference.check_labels(rows, limits)


class Tables:
    """Room for everything a test interns, or less to see the kernels stop."""

    def __init__(self, n_slots: int, capacity: int) -> None:
        self.table = np.zeros(n_slots, np.uint64)
        self.state = np.zeros(1, np.int64)
        self.flat_8 = np.empty(8 * capacity, np.uint8)
        self.flat_32 = np.empty((2, 8 * capacity), np.uint32)
        self.offsets = np.zeros(capacity + 1, np.int64)

    def symbols(self, items: list[bytes], hashes: np.ndarray, insert: bool) -> list[int]:
        data, starts, ends = spans_of(items)
        ids = np.empty(len(items), np.uint32)
        reached = kernels.intern_symbols(
            data, starts, ends, hashes, 0, len(items), insert, self.table, self.flat_8,
            self.offsets, self.state, ids,
        )  # fmt: skip
        return ids[:reached].tolist()

    def pairs(self, items: list[tuple[int, int]], keys: np.ndarray, insert: bool) -> list[int]:
        names, values = np.array(items, np.uint32).reshape(-1, 2).T.copy()
        ids = np.empty(len(items), np.uint32)
        reached = kernels.intern_pairs(
            names, values, keys, 0, len(items), insert, self.table, *self.flat_32, self.state, ids
        )
        return ids[:reached].tolist()

    def series(self, rows: list[tuple[int, ...]], keys: np.ndarray, insert: bool) -> list[int]:
        refs = np.empty(len(rows), np.uint32)
        reached = kernels.intern_series(
            np.cumsum([len(row) for row in rows], dtype=np.int64),
            np.array([pair for row in rows for pair in row], np.uint32),
            keys, 0, len(rows), insert, self.table, self.offsets, self.flat_32[0], self.state,
            refs,
        )  # fmt: skip
        return refs[:reached].tolist()


def symbol_hashes(items: list[bytes], weak: bool) -> np.ndarray:
    """Equal for equal texts; weak ones put everything into one slot."""
    return np.array(
        [0 if weak else (hash(item) ^ part) % 2**61 for item in items for part in (0, 1)],
        np.uint64,
    )


@given(st.lists(st.lists(texts, max_size=12), max_size=4), st.booleans())
@settings(deadline=None, max_examples=150)
def test_intern_symbols_matches_reference(batches, weak):
    tables, known = Tables(64, 64), {}
    for batch in batches:
        hashes = symbol_hashes(batch, weak)
        for insert in (False, True):
            expected = reference.intern_symbols(known, batch, insert)
            assert tables.symbols(batch, hashes, insert) == expected
    held = [
        tables.flat_8[tables.offsets[i] : tables.offsets[i + 1]].tobytes()
        for i in range(int(tables.state[0]))
    ]
    assert held == list(known)


ids = st.integers(0, 3) | st.just(reference.NONE)
seeds = st.integers(0, 2**32)


@given(st.lists(st.lists(st.tuples(ids, ids), max_size=12), max_size=4), seeds, st.booleans())
@settings(deadline=None, max_examples=150)
def test_intern_pairs_matches_reference(batches, seed, weak):
    keys = np.random.default_rng(seed).integers(0, 2**64, 3, np.uint64) * np.uint64(not weak)
    tables, known = Tables(64, 64), {}
    for batch in batches:
        for insert in (False, True):
            assert tables.pairs(batch, keys, insert) == reference.intern_pairs(known, batch, insert)
    assert tables.flat_32[:, : len(known)].T.tolist() == [list(pair) for pair in known]


@given(
    st.lists(st.lists(st.lists(ids, max_size=4).map(tuple), max_size=12), max_size=4),
    seeds,
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_intern_series_matches_reference(batches, seed, weak):
    keys = np.random.default_rng(seed).integers(0, 2**64, 256, np.uint64) * np.uint64(not weak)
    tables, known = Tables(128, 64), {}
    for batch in batches:
        for insert in (False, True):
            found = tables.series(batch, keys, insert)
            assert found == reference.intern_series(known, batch, insert)


def test_interning_stops_where_there_is_no_room():
    items = [b"%03d" % i for i in range(40)]
    assert len(Tables(16, 64).symbols(items, symbol_hashes(items, False), True)) == 12
    assert len(Tables(64, 2).symbols(items, symbol_hashes(items, False), True)) == 2
    few = Tables(64, 64)
    few.flat_8 = np.empty(10, np.uint8)
    assert len(few.symbols(items, symbol_hashes(items, False), True)) == 3
    keys = np.arange(1, 257).astype(np.uint64) << np.uint64(33)
    pairs = [(i, i) for i in range(40)]
    assert len(Tables(16, 64).pairs(pairs, keys, True)) == 12
    assert len(Tables(64, 2).pairs(pairs, keys, True)) == 16
    rows = [(i, i + 1, i + 2) for i in range(40)]
    assert len(Tables(16, 64).series(rows, keys, True)) == 12
    assert len(Tables(64, 3).series(rows, keys, True)) == 3
    assert len(Tables(64, 3).series([(1,) * 25], keys, True)) == 0


@given(st.lists(st.integers(0, 2**32 - 1), max_size=12), st.sampled_from([16, 32, 4096]))
@settings(deadline=None, max_examples=150)
def test_grow_table_matches_reference(tags, n_slots):
    old = np.zeros(16, np.uint64)
    entries = [tag << 32 | number + 1 for number, tag in enumerate(tags)]
    old[: len(entries)] = entries
    new = np.zeros(n_slots, np.uint64)
    kernels.grow_table(old, new)
    expected = reference.grow_table(entries, n_slots)
    bits = n_slots.bit_length() - 1
    for tag, numbers in expected.items():
        found, slot = set(), tag >> (32 - bits)
        while new[slot]:
            if int(new[slot]) >> 32 == tag:
                found.add(int(new[slot]) & 0xFFFFFFFF)
            slot = (slot + 1) % n_slots
        assert found == numbers
    assert np.count_nonzero(new) == len(entries)


memo_keys = st.tuples(st.integers(0, 2**61 - 2), st.integers(0, 3)) | st.tuples(
    st.integers(0, 5), st.integers(0, 1)
)
batches_of_keys = st.lists(
    st.lists(st.tuples(memo_keys, st.integers(0, 9) | st.just(reference.NONE)), max_size=8),
    max_size=5,
)


@given(batches_of_keys)
@settings(deadline=None, max_examples=200)
def test_memo_matches_reference_while_there_is_room(batches):
    table, held = np.zeros(2 * 1024, np.uint64), np.zeros(1024, np.uint32)
    memo: dict = {}
    taken = 0
    for batch in batches:
        keys, refs = [key for key, _ in batch], [ref for _, ref in batch]
        hashes = np.array(keys, np.uint64).ravel()
        taken += kernels.memo_insert(hashes, np.array(refs, np.uint32), len(batch), table, held)
        reference.memo_insert(memo, keys, refs)
        found, misses = np.empty(len(batch), np.uint32), np.empty(len(batch), np.int64)
        n_misses = kernels.memo_find(hashes, len(batch), table, held, found, misses)
        expected = reference.memo_find(memo, keys)
        assert found.tolist() == expected
        missed = [i for i, ref in enumerate(expected) if ref == reference.NONE]
        assert misses[:n_misses].tolist() == missed
    assert taken == len(memo) == np.count_nonzero(held)


def test_a_full_memo_forgets_but_never_lies():
    rng = np.random.default_rng(5)
    table, held = np.zeros(2 * 64, np.uint64), np.zeros(64, np.uint32)
    hashes = rng.integers(0, 2**61, 2 * 1000, np.uint64)
    refs = np.arange(1000, dtype=np.uint32)
    assert kernels.memo_insert(hashes, refs, 1000, table, held) == 64
    found, misses = np.empty(1000, np.uint32), np.empty(1000, np.int64)
    n_misses = kernels.memo_find(hashes, 1000, table, held, found, misses)
    assert n_misses == 1000 - 64
    hit = found != reference.NONE
    np.testing.assert_array_equal(found[hit], refs[hit])
