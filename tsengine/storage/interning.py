"""Symbols, label pairs and series as append-only arrays with hash tables over them.

Ids are dense, in order of first appearance, and never change. One writer; what lies below the
counts of an `InternedState` never changes, so its holder may read it from any thread.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import catalog as kernels
from tsengine.kernels import hashing
from tsengine.kernels.postings import find_in_rows
from tsengine.model.matchers import METRIC_NAME
from tsengine.storage.columns import ColumnPart, GrowingColumn

NONE = 0xFFFFFFFF
"""Stands for a symbol, pair or series that does not exist."""

_CAPACITY_MIN = 256


@dataclass(frozen=True, slots=True, eq=False)
class HashKeys:
    """Keys of all hashes of one database; whoever doesn't know them can't make collisions.

    ``spans: u64[KEY_WORDS]`` for `hash_spans` and `hash_rows`, ``pairs: u64[3]``,
    ``rows: u64[N_ROW_KEYS]``.
    """

    spans: npt.NDArray[np.uint64]
    pairs: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.uint64]

    @classmethod
    def derive(cls, secret: bytes) -> HashKeys:
        """Expand a secret of 32 bytes."""
        sizes = (hashing.KEY_WORDS, 3, kernels.N_ROW_KEYS)
        stream = hashlib.shake_256(b"tsengine catalog keys" + secret).digest(8 * sum(sizes))
        words = np.frombuffer(stream, "<u8").astype(np.uint64)
        spans, pairs, rows = np.split(words, np.cumsum(sizes)[:-1])
        for point in (hashing.POINT_1, hashing.POINT_2):
            spans[point] = spans[point] % hashing.PRIME
        return cls(spans, pairs, rows)


@dataclass(frozen=True, slots=True, eq=False)
class InternedState:
    """All arrays at one moment, with the counts up to which they are meant.

    Symbol s: ``text[text_offsets[s]:text_offsets[s + 1]]``. Pair p: symbols ``pair_names[p]``,
    ``pair_values[p]``. Series r: pairs ``row_pairs[row_offsets[r]:row_offsets[r + 1]]``.
    """

    n_symbols: int
    n_pairs: int
    n_series: int
    text: npt.NDArray[np.uint8]
    text_offsets: npt.NDArray[np.int64]
    pair_names: npt.NDArray[np.uint32]
    pair_values: npt.NDArray[np.uint32]
    row_offsets: npt.NDArray[np.int64]
    row_pairs: npt.NDArray[np.uint32]
    symbol_table: npt.NDArray[np.uint64]
    pair_table: npt.NDArray[np.uint64]


class Interner:
    """The writer's side: finds or inserts many items a call. Writer lane only."""

    def __init__(self, keys: HashKeys) -> None:
        self.keys = keys
        self._counts = np.zeros(3, np.int64)
        self._n_symbols = self._counts[0:1]
        self._n_pairs = self._counts[1:2]
        self._n_series = self._counts[2:3]
        self._text = GrowingColumn(np.uint8, 16 * _CAPACITY_MIN)
        self._text_offsets = GrowingColumn(np.int64, _CAPACITY_MIN + 1)
        self._pair_names = GrowingColumn(np.uint32, _CAPACITY_MIN)
        self._pair_values = GrowingColumn(np.uint32, _CAPACITY_MIN)
        self._row_offsets = GrowingColumn(np.int64, _CAPACITY_MIN + 1)
        self._row_pairs = GrowingColumn(np.uint32, 8 * _CAPACITY_MIN)
        self._symbol_table = np.zeros(2 * _CAPACITY_MIN, np.uint64)
        self._pair_table = np.zeros(2 * _CAPACITY_MIN, np.uint64)
        self._series_table = np.zeros(2 * _CAPACITY_MIN, np.uint64)

    @property
    def n_series(self) -> int:
        """Number of series; the next new one gets this ref."""
        return int(self._n_series[0])

    def state(self) -> InternedState:
        """What is there now; nothing is copied."""
        n_symbols, n_pairs, n_series = (int(count) for count in self._counts)
        return InternedState(
            n_symbols, n_pairs, n_series, self._text.array, self._text_offsets.array,
            self._pair_names.array, self._pair_values.array, self._row_offsets.array,
            self._row_pairs.array, self._symbol_table, self._pair_table,
        )  # fmt: skip

    def hash_spans(
        self,
        data: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.uint64]:
        """Fingerprints u64[2n] of n spans of data."""
        hashes = np.empty(2 * len(starts), np.uint64)
        hashing.hash_spans(data, starts, ends, len(starts), self.keys.spans, hashes)
        return hashes

    def symbols(
        self,
        data: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        hashes: npt.NDArray[np.uint64],
        *,
        insert: bool,
    ) -> npt.NDArray[np.uint32]:
        """Ids u32[n] of texts given as spans inside data; NONE for unknown ones if not inserted."""
        n = len(starts)
        ids = np.empty(n, np.uint32)
        reached = 0
        while True:
            reached = kernels.intern_symbols(
                data, starts, ends, hashes, reached, n, insert, self._symbol_table,
                self._text.array, self._text_offsets.array, self._n_symbols, ids,
            )  # fmt: skip
            if reached == n:
                return ids
            used = int(self._n_symbols[0])
            n_text = int(self._text_offsets.array[used])
            self._text.grow(n_text, n_text + int(ends[reached] - starts[reached]))
            self._text_offsets.grow(used + 1, used + 2)
            self._symbol_table = _grown_table(self._symbol_table, used + 1)

    def pairs(
        self, names: npt.NDArray[np.uint32], values: npt.NDArray[np.uint32], *, insert: bool
    ) -> npt.NDArray[np.uint32]:
        """Ids u32[n] of pairs of symbols; NONE for unknown ones if not inserted."""
        n = len(names)
        ids = np.empty(n, np.uint32)
        reached = 0
        while True:
            reached = kernels.intern_pairs(
                names, values, self.keys.pairs, reached, n, insert, self._pair_table,
                self._pair_names.array, self._pair_values.array, self._n_pairs, ids,
            )  # fmt: skip
            if reached == n:
                return ids
            used = int(self._n_pairs[0])
            self._pair_names.grow(used, used + 1)
            self._pair_values.grow(used, used + 1)
            self._pair_table = _grown_table(self._pair_table, used + 1)

    def series(
        self, row_ends: npt.NDArray[np.int64], pairs: npt.NDArray[np.uint32], *, insert: bool
    ) -> npt.NDArray[np.uint32]:
        """Refs u32[n] of rows of pair ids; NONE for empty rows and, if not inserted, unknown ones.

        Rows are in bytewise order of the label names, so equal label sets are equal rows.
        """
        n = len(row_ends)
        refs = np.empty(n, np.uint32)
        reached = 0
        while True:
            reached = kernels.intern_series(
                row_ends, pairs, self.keys.rows, reached, n, insert, self._series_table,
                self._row_offsets.array, self._row_pairs.array, self._n_series, refs,
            )  # fmt: skip
            if reached == n:
                return refs
            used = int(self._n_series[0])
            n_entries = int(self._row_offsets.array[used])
            size = int(row_ends[reached]) - (int(row_ends[reached - 1]) if reached else 0)
            self._row_pairs.grow(n_entries, n_entries + size)
            self._row_offsets.grow(used + 1, used + 2)
            self._series_table = _grown_table(self._series_table, used + 1)

    def parts_to_spill(self) -> list[ColumnPart]:
        """What of the arrays could go to scratch files now; see `GrowingColumn.part_to_spill`."""
        n_symbols, n_pairs, n_series = (int(count) for count in self._counts)
        columns = (
            (self._text, int(self._text_offsets.array[n_symbols])),
            (self._text_offsets, n_symbols + 1),
            (self._pair_names, n_pairs),
            (self._pair_values, n_pairs),
            (self._row_offsets, n_series + 1),
            (self._row_pairs, int(self._row_offsets.array[n_series])),
        )
        parts = (column.part_to_spill(n_used) for column, n_used in columns)
        return [part for part in parts if part is not None]


def metric_symbols(
    state: InternedState, refs: npt.NDArray[np.uint32], keys: HashKeys
) -> npt.NDArray[np.int64]:
    """Symbol i64[S] of each series' metric name; every series has one."""
    name = find_symbol(state, keys, METRIC_NAME.encode())
    pairs = np.empty(len(refs), np.int64)
    find_in_rows(refs, state.row_offsets, state.row_pairs, state.pair_names, name, pairs)
    return state.pair_values[pairs].astype(np.int64)


def find_symbol(state: InternedState, keys: HashKeys, text: bytes) -> int:
    """Id of a text, -1 if it is not below the state's count. Any thread.

    The table may be the one the writer is filling: its slots are aligned words that go once from 0
    to their final content, so every symbol of the state is found where it was when the state was
    made, and what came later is recognised by its number.
    """
    data = np.frombuffer(text, np.uint8)
    hashes = np.empty(2, np.uint64)
    span = np.array([0, len(text)], np.int64)
    hashing.hash_spans(data, span[:1], span[1:], 1, keys.spans, hashes)
    tag = (int(hashes[0]) >> 29) & 0xFFFFFFFF
    for symbol in _candidates(state.symbol_table, tag, state.n_symbols):
        start, end = state.text_offsets[symbol : symbol + 2]
        if end - start == len(text) and state.text[start:end].tobytes() == text:
            return symbol
    return -1


def find_pair(state: InternedState, keys: HashKeys, name: int, value: int) -> int:
    """Id of a pair of symbols, -1 if it is not below the state's count. Any thread."""
    k0, k1, k2 = (int(key) for key in keys.pairs)
    tag = ((k0 + k1 * name + k2 * value) & 0xFFFFFFFFFFFFFFFF) >> 32
    for pair in _candidates(state.pair_table, tag, state.n_pairs):
        if state.pair_names[pair] == name and state.pair_values[pair] == value:
            return pair
    return -1


def _candidates(table: npt.NDArray[np.uint64], tag: int, count: int) -> list[int]:
    """Ids below count whose tag is the given one."""
    mask = len(table) - 1
    slot = tag >> (32 - mask.bit_length())
    found = []
    while entry := int(table[slot]):
        if entry >> 32 == tag and (entry & 0xFFFFFFFF) <= count:
            found.append((entry & 0xFFFFFFFF) - 1)
        slot = (slot + 1) & mask
    return found


def _grown_table(table: npt.NDArray[np.uint64], n_needed: int) -> npt.NDArray[np.uint64]:
    if 4 * n_needed <= 3 * len(table):
        return table
    larger = np.zeros(2 * len(table), np.uint64)
    kernels.grow_table(table, larger)
    return larger
