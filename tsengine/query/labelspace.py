"""Labels while a query runs: the database's dictionary plus the pairs the query itself makes.

Ids from `OVERLAY` on belong to this query: pairs and symbols that the dictionary does not hold,
made by `label_replace`, `count_values` and the like. A pair the dictionary has always goes by the
dictionary's id, so equal label sets have equal runs of ids, whoever made them.

One space per query, made after its view was pinned. Interning is for the thread that runs the
operators; looking up (names, values, keep, drop, ...) is for any thread. All methods over rows are
vectorised; only `materialise` makes Python objects per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryLimitExceeded
from tsengine.kernels.labelrows import FIRST_OWN_PAIR, filter_rows, group_rows
from tsengine.kernels.labeltexts import order_rows
from tsengine.kernels.postings import gather_rows
from tsengine.model.labels import (
    NO_ID,
    LabelDictionary,
    LabelRows,
    LabelTexts,
    texts_of_pairs,
)

OVERLAY = FIRST_OWN_PAIR
"""First id of a query's own pairs and symbols."""
OVERLAY_SIZE_MAX = 256 << 20
"""Characters of the texts that one query may make."""

NAME_LABELS = ("__name__", "__type__", "__unit__")
"""The labels that go when a series loses its name."""

_U32 = npt.NDArray[np.uint32]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class LabelSpace:
    """Pairs and symbols of one query; see the module's text for threads."""

    def __init__(self, dictionary: LabelDictionary) -> None:
        self._dictionary = dictionary
        # Pinned lengths: pairs that are added to the dictionary while the query runs are none of
        # ours, and an id beyond the arrays we hold must not be used.
        self._base_names: _U32 = dictionary.pair_names
        self._base_values: _U32 = dictionary.pair_values
        self._n_base_symbols = dictionary.n_symbols
        self._overlay_names: list[int] = []
        self._overlay_values: list[int] = []
        self._overlay_texts: list[str] = []
        self._overlay_size = 0
        self._symbol_ids: dict[str, int] = {}
        self._pair_ids: dict[tuple[int, int], int] = {}
        self._overlay_names_array: _U32 = np.empty(0, np.uint32)

    # --- pairs ------------------------------------------------------------------------------

    def intern(self, name: str, value: str) -> int:
        """Id of a pair, made if need be. An empty value is the caller's mistake."""
        assert value, "an empty label value is an absent label"
        name_symbol, value_symbol = self._intern_symbol(name), self._intern_symbol(value)
        key = (name_symbol, value_symbol)
        pair = self._pair_ids.get(key)
        if pair is not None:
            return pair
        pair = self._base_pair(name_symbol, value_symbol)
        if pair == NO_ID:
            pair = OVERLAY + len(self._overlay_names)
            self._overlay_names.append(name_symbol)
            self._overlay_values.append(value_symbol)
        self._pair_ids[key] = pair
        return pair

    def intern_values(self, name: str, values: Iterable[str]) -> _I64:
        """Ids of the pairs of one name and many values; -1 where a value is empty: i64[K]."""
        return np.array([self.intern(name, v) if v else NO_ID for v in values], np.int64)

    def name_of(self, pair: int) -> str:
        """Label name of a pair."""
        return self._text(self._symbols_of(pair)[0])

    def value_of(self, pair: int) -> str:
        """Label value of a pair."""
        return self._text(self._symbols_of(pair)[1])

    def texts_of(self, pairs: _U32) -> tuple[list[str], list[str]]:
        """Names and values of many pairs; a fraction of the time of asking one by one."""
        if len(pairs) and int(pairs.max()) >= OVERLAY:
            ids = pairs.tolist()
            return [self.name_of(pair) for pair in ids], [self.value_of(pair) for pair in ids]
        return texts_of_pairs(self._dictionary, pairs)

    @property
    def texts(self) -> LabelTexts:
        """The arrays of the dictionary, in which the query's own pairs are not."""
        return self._dictionary.arrays

    def _symbols_of(self, pair: int) -> tuple[int, int]:
        pair = int(pair)
        if pair >= OVERLAY:
            return self._overlay_names[pair - OVERLAY], self._overlay_values[pair - OVERLAY]
        return int(self._base_names[pair]), int(self._base_values[pair])

    def _text(self, symbol: int) -> str:
        if symbol >= OVERLAY:
            return self._overlay_texts[symbol - OVERLAY]
        return self._dictionary.text(symbol)

    def _find_symbol(self, text: str) -> int:
        """Id of a symbol, NO_ID if neither the dictionary (as pinned) nor the query has it."""
        known = self._symbol_ids.get(text)
        if known is not None:
            return known
        symbol = self._dictionary.find_symbol(text)
        return symbol if 0 <= symbol < self._n_base_symbols else NO_ID

    def _intern_symbol(self, text: str) -> int:
        symbol = self._find_symbol(text)
        if symbol == NO_ID:
            self._overlay_size += len(text)
            if self._overlay_size > OVERLAY_SIZE_MAX:
                raise QueryLimitExceeded(
                    f"the query makes more than {OVERLAY_SIZE_MAX} characters of new label values"
                )
            symbol = OVERLAY + len(self._overlay_texts)
            self._overlay_texts.append(text)
        self._symbol_ids[text] = symbol
        return symbol

    def _base_pair(self, name_symbol: int, value_symbol: int) -> int:
        if name_symbol >= OVERLAY or value_symbol >= OVERLAY:
            return NO_ID
        pair = self._dictionary.find_pair(name_symbol, value_symbol)
        return pair if 0 <= pair < len(self._base_names) else NO_ID

    # --- rows to and from texts ---------------------------------------------------------------

    def materialise(self, rows: LabelRows) -> list[dict[str, str]]:
        """One dict per row, in the order of the rows, names bytewise ascending."""
        distinct, inverse = self._distinct_pairs(rows.pairs)
        texts = list(zip(*self.texts_of(distinct), strict=True))
        codes = inverse.tolist()
        bounds = rows.offsets.tolist()
        return [dict([texts[c] for c in codes[start:end]]) for start, end in pairwise(bounds)]

    def from_dicts(self, dicts: Sequence[Mapping[str, str]]) -> LabelRows:
        """Rows of label sets given as dicts; empty values are left out."""
        pairs: list[int] = []
        offsets = [0]
        for labels in dicts:
            for name in sorted(labels, key=_bytes):
                if labels[name]:
                    pairs.append(self.intern(name, labels[name]))
            offsets.append(len(pairs))
        return LabelRows(np.array(offsets, np.int64), np.array(pairs, np.uint32))

    @staticmethod
    def empty_rows(n_rows: int) -> LabelRows:
        """`n_rows` label sets without labels."""
        return LabelRows(np.zeros(n_rows + 1, np.int64), np.empty(0, np.uint32))

    # --- rows to rows -------------------------------------------------------------------------

    def keep(self, rows: LabelRows, names: Iterable[str]) -> LabelRows:
        """Rows with only the labels of these names."""
        return self._filter(rows, names, keep=True)

    def drop(self, rows: LabelRows, names: Iterable[str]) -> LabelRows:
        """Rows without the labels of these names."""
        return self._filter(rows, names, keep=False)

    def drop_name(self, rows: LabelRows) -> LabelRows:
        """Rows without the metric name and what goes with it."""
        return self.drop(rows, NAME_LABELS)

    def has_one_name(self, rows: LabelRows) -> bool:
        """Whether all rows have the same name: then they differ in other labels, if they do."""
        names = self.keep(rows, NAME_LABELS)
        n_each = len(names.pairs) // max(len(rows), 1)
        if len(names.pairs) != n_each * len(rows) or (np.diff(names.offsets) != n_each).any():
            return False
        each = names.pairs.reshape(len(rows), n_each)
        return bool((each == each[:1]).all())

    def group(self, rows: LabelRows) -> tuple[_I64, _I64]:
        """Number equal label sets alike, groups in order of first appearance.

        Returns
        -------
        group_of_row: i64[S], first_row: i64[G]

        """
        n_rows = len(rows)
        group_of_row = np.empty(n_rows, np.int64)
        first_row = np.empty(n_rows, np.int64)
        if n_rows == 0:
            return group_of_row, first_row
        if len(rows.pairs) == 0:
            group_of_row[:] = 0
            return group_of_row, np.zeros(1, np.int64)
        table = np.full(1 << (2 * n_rows - 1).bit_length(), -1, np.int64)
        n_groups = group_rows(rows.offsets, rows.pairs, table, group_of_row, first_row)
        return group_of_row, first_row[:n_groups].copy()

    def column(self, rows: LabelRows, name: str) -> _I64:
        """Pair id of the label `name` of each row, -1 where a row lacks it: i64[S]."""
        kept = self.keep(rows, (name,))
        if len(kept.pairs) == len(rows):
            return kept.pairs.astype(np.int64)
        found = np.full(len(rows), NO_ID, np.int64)
        found[np.diff(kept.offsets) > 0] = kept.pairs
        return found

    def names(self, rows: LabelRows) -> list[str]:
        """Names of all labels that occur, each once."""
        return [self._text(symbol) for symbol in np.unique(self._names_of(rows.pairs)).tolist()]

    def set_column(self, rows: LabelRows, name: str, pair_ids: _I64) -> LabelRows:
        """Rows whose label `name` is replaced: ``pair_ids: i64[S]`` of that name, -1 removes it."""
        rest = self.drop(rows, (name,))
        mine = _bytes(name)
        symbols = self._names_of(rest.pairs)
        distinct, inverse = self._distinct_symbols(symbols)
        before = np.array([_bytes(self._text(s)) < mine for s in distinct.tolist()], np.bool_)
        n_before = (
            np.concatenate(([0], np.cumsum(before[inverse])))
            if len(symbols)
            else (np.zeros(1, np.int64))
        )
        chosen = np.flatnonzero(pair_ids >= 0)
        starts = rest.offsets[chosen]
        places = starts + n_before[rest.offsets[chosen + 1]] - n_before[starts]
        pairs = np.insert(rest.pairs, places, pair_ids[chosen].astype(np.uint32))
        added = np.concatenate(([0], np.cumsum(pair_ids >= 0)))
        return LabelRows(rest.offsets + added, pairs)

    def take(self, rows: LabelRows, idx: npt.NDArray[np.integer]) -> LabelRows:
        """Rows in the order of ``idx: i64[R]``; a row may come more than once."""
        n_pairs = int((rows.offsets[np.asarray(idx) + 1] - rows.offsets[idx]).sum())
        offsets, pairs = np.empty(len(idx) + 1, np.int64), np.empty(n_pairs, np.uint32)
        gather_rows(idx.astype(np.uint32), rows.offsets, rows.pairs, offsets, pairs)
        return LabelRows(offsets, pairs)

    def concat(self, parts: Sequence[LabelRows]) -> LabelRows:
        """Rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lengths = [np.diff(part.offsets) for part in parts]
        offsets = np.concatenate(([0], np.cumsum(np.concatenate([*lengths, []])))).astype(np.int64)
        no_pairs = np.empty(0, np.uint32)
        return LabelRows(offsets, np.concatenate([*(part.pairs for part in parts), no_pairs]))

    def sort_order(self, rows: LabelRows) -> _I64:
        """Rows by their labels: name then value, label by label, bytewise; a prefix comes first.

        Returns positions i64[S]; equal rows keep their order.
        """
        order = np.arange(len(rows))
        if len(rows) < 2:
            return order
        if not self._overlay_names:
            texts, spare = self.texts, np.empty(len(rows), np.int64)
            order_rows(
                texts.text, texts.text_offsets, texts.pair_names, texts.pair_values,
                rows.offsets, rows.pairs, order, spare,
            )  # fmt: skip
            return order
        distinct, inverse = self._distinct_pairs(rows.pairs)
        # Texts order as their UTF-8 does: both go by code points.
        names, values = self.texts_of(distinct)
        by_value = np.array(sorted(range(len(values)), key=values.__getitem__), np.int64)
        rank_of_name = {name: rank for rank, name in enumerate(sorted(set(names)))}
        name_ranks = np.array([rank_of_name[name] for name in names], np.int64)
        rank = np.empty(len(names), np.int64)
        rank[by_value[np.argsort(name_ranks[by_value], kind="stable")]] = np.arange(len(names))
        codes = rank[inverse]
        lengths = np.diff(rows.offsets)
        # Least significant label first, each pass stable.
        for place in range(int(lengths.max(initial=0)) - 1, -1, -1):
            keys = np.full(len(rows), -1, np.int64)
            has = lengths > place
            keys[has] = codes[rows.offsets[:-1][has] + place]
            if keys.min() != keys.max():
                order = order[np.argsort(keys[order], kind="stable")]
        return order.astype(np.int64)

    # --- inside -------------------------------------------------------------------------------

    def _filter(self, rows: LabelRows, names: Iterable[str], *, keep: bool) -> LabelRows:
        symbols = [s for s in map(self._find_symbol, names) if s != NO_ID]
        # A row has each name once at most.
        room = min(len(rows) * len(symbols), len(rows.pairs)) if keep else len(rows.pairs)
        offsets, pairs = np.empty(len(rows) + 1, np.int64), np.empty(room, np.uint32)
        n_left = filter_rows(
            rows.offsets, rows.pairs, self._base_names, self._own_names(),
            np.array(symbols, np.uint32), keep, offsets, pairs,
        )  # fmt: skip
        return LabelRows(offsets, pairs[:n_left])

    def _own_names(self) -> _U32:
        """Name symbols of the query's own pairs."""
        if len(self._overlay_names_array) != len(self._overlay_names):
            self._overlay_names_array = np.array(self._overlay_names, np.uint32)
        return self._overlay_names_array

    def _names_of(self, pairs: _U32) -> _U32:
        """Name symbols of pairs: u32[...]."""
        if not self._overlay_names:
            return self._base_names[pairs]
        own = pairs >= np.uint32(OVERLAY)
        symbols = np.empty(len(pairs), np.uint32)
        symbols[own] = self._own_names()[pairs[own] - np.uint32(OVERLAY)]
        symbols[~own] = self._base_names[pairs[~own]]
        return symbols

    def _distinct_pairs(self, pairs: _U32) -> tuple[_U32, _I64]:
        return _distinct(pairs, len(self._base_names), len(self._overlay_names))

    def _distinct_symbols(self, symbols: _U32) -> tuple[_U32, _I64]:
        return _distinct(symbols, self._n_base_symbols, len(self._overlay_texts))


def _distinct(ids: _U32, n_base: int, n_overlay: int) -> tuple[_U32, _I64]:
    """Distinct ids in ascending order and each id's position among them (as numpy's unique)."""
    n_ids = n_base + n_overlay
    if len(ids) * 8 < n_ids:
        distinct, inverse = np.unique(ids, return_inverse=True)
        return distinct, inverse.astype(np.int64)
    # Many ids of a small range: marking beats sorting.
    dense = ids.astype(np.int64)
    dense[ids >= np.uint32(OVERLAY)] += n_base - OVERLAY
    seen = np.zeros(n_ids, np.bool_)
    seen[dense] = True
    place = np.cumsum(seen) - 1
    marked = np.flatnonzero(seen)
    marked[marked >= n_base] += OVERLAY - n_base
    return marked.astype(np.uint32), place[dense]
