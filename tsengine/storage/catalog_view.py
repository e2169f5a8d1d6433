"""Reading the catalog: one immutable state, from any thread, without locks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tsengine.kernels import postings as kernels
from tsengine.model.labels import NO_ID, LabelRows, LabelTexts
from tsengine.model.matchers import METRIC_NAME, Matcher
from tsengine.storage import matching
from tsengine.storage.index import Postings, PostingsBuilder
from tsengine.storage.interning import HashKeys, InternedState, find_pair, find_symbol
from tsengine.storage.ref_map import RefMap

_FOUND_MAX = 64
_FOUND_SERIES_MAX = 16 * 1024
"""Dashboards ask the same again and again: so many answers of so many series are kept."""
_ASKED_SIZE_MAX = 16 * 1024
"""Characters of a question that is kept with its answer: clients may send a million."""


@dataclass(frozen=True, slots=True, eq=False)
class CatalogView:
    """The series published at one moment. Implements `tsengine.model.labels.LabelDictionary`.

    ``refs`` arguments are u32 arrays of refs that are there; `matching` works on rows of the state.
    """

    state: InternedState
    refs: RefMap
    keys: HashKeys
    series_of_pairs: Postings
    pairs_of_names: Postings
    regex_cache: matching.RegexCache
    found: dict[tuple[Matcher, ...], npt.NDArray[np.uint32]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        state: InternedState,
        refs: RefMap,
        keys: HashKeys,
        postings: PostingsBuilder,
        regex_cache: matching.RegexCache,
    ) -> CatalogView:
        """View of a state whose rows the builder's postings are of."""
        of_pairs, of_names = postings.series_of_pairs(state), postings.pairs_of_names(state)
        return cls(state, refs, keys, of_pairs, of_names, regex_cache)

    @property
    def n_series(self) -> int:
        """Number of series."""
        return self.state.n_series

    @property
    def next_ref(self) -> int:
        """Refs are below it."""
        return self.refs.next_ref(self.n_series)

    def all_refs(self) -> npt.NDArray[np.uint32]:
        """Every series: u32[S] ascending."""
        return self.refs.refs_of(np.arange(self.n_series, dtype=np.uint32))

    def is_covered(self, refs: npt.NDArray[np.uint32]) -> bool:
        """Whether ascending, distinct refs have those of all series; False if that takes a look."""
        n_series = self.n_series
        is_enough = self.refs.is_identity and 0 < n_series <= len(refs)
        return is_enough and int(refs[n_series - 1]) == n_series - 1

    def has(self, refs: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Which refs, of any numbers, are there: bool[N]."""
        return self.refs.has(refs, self.n_series)

    def prepare(self) -> None:
        """Build the postings that the first query would have to build."""
        self.series_of_pairs.prepare()
        self.pairs_of_names.prepare()

    @property
    def n_symbols(self) -> int:
        """Number of symbols."""
        return self.state.n_symbols

    @property
    def n_pairs(self) -> int:
        """Number of label pairs."""
        return self.state.n_pairs

    @property
    def pair_names(self) -> npt.NDArray[np.uint32]:
        """Symbol id of each pair's label name: u32[P], read-only."""
        return _read_only(self.state.pair_names[: self.state.n_pairs])

    @property
    def pair_values(self) -> npt.NDArray[np.uint32]:
        """Symbol id of each pair's value: u32[P], read-only."""
        return _read_only(self.state.pair_values[: self.state.n_pairs])

    @property
    def arrays(self) -> LabelTexts:
        """Texts and pairs as arrays."""
        state = self.state
        return LabelTexts(state.text, state.text_offsets, self.pair_names, self.pair_values)

    def text(self, symbol: int) -> str:
        """Text of a symbol."""
        return self.text_bytes(symbol).decode()

    def text_bytes(self, symbol: int) -> bytes:
        """UTF-8 of a symbol."""
        start, end = self.state.text_offsets[symbol : symbol + 2]
        return self.state.text[start:end].tobytes()

    def texts(self, symbols: npt.NDArray[np.integer]) -> list[str]:
        """Texts of many symbols, in order."""
        return [text.decode() for text in self.texts_bytes(symbols)]

    def texts_bytes(self, symbols: npt.NDArray[np.integer]) -> list[bytes]:
        """UTF-8 of many symbols, in order; a third of the time of asking one by one."""
        symbols = symbols.astype(np.int64)
        starts = self.state.text_offsets[symbols].tolist()
        ends = self.state.text_offsets[symbols + 1].tolist()
        text = self.state.text.data
        return [bytes(text[start:end]) for start, end in zip(starts, ends, strict=True)]

    def find_symbol(self, text: str) -> int:
        """Id of a symbol, NO_ID if there is none."""
        return find_symbol(self.state, self.keys, text.encode("utf-8", "surrogatepass"))

    def find_pair(self, name: int, value: int) -> int:
        """Id of the pair of two symbol ids, NO_ID if there is none."""
        return find_pair(self.state, self.keys, name, value)

    def find(
        self, matchers: Sequence[Matcher], check: Callable[[], None] | None = None
    ) -> npt.NDArray[np.uint32]:
        """Refs of the series that fulfil all matchers, ascending: u32[S], not to be written.

        `check` is called between matchers and may raise to give up. Raises QueryError for an
        invalid regular expression.
        """
        asked = tuple(matchers)
        known = self.found.get(asked)
        if known is None:
            known = self.refs.refs_of(matching.find_series(self, matchers, check))
            size = sum(len(matcher.name) + len(matcher.value) for matcher in asked)
            if len(known) <= _FOUND_SERIES_MAX and size <= _ASKED_SIZE_MAX:
                if len(self.found) >= _FOUND_MAX:
                    self.found.clear()
                self.found[asked] = known
        return known

    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows:
        """Label sets of series, sorted by name bytewise; arrays are the caller's."""
        rows = self._rows(refs)
        starts = self.state.row_offsets[rows]
        n_entries = int((self.state.row_offsets[rows.astype(np.int64) + 1] - starts).sum())
        offsets = np.empty(len(rows) + 1, np.int64)
        pairs = np.empty(n_entries, np.uint32)
        kernels.gather_rows(rows, self.state.row_offsets, self.state.row_pairs, offsets, pairs)
        return LabelRows(offsets, pairs)

    def pair_column(self, refs: npt.NDArray[np.uint32], name: str) -> npt.NDArray[np.int64]:
        """Pair id of one label of each series, -1 where label or series is absent: i64[S]."""
        symbol = self.find_symbol(name)
        rows = self.refs.rows_of(refs, self.n_series)
        is_there = rows >= 0
        column = np.full(len(refs), NO_ID, np.int64)
        if symbol != NO_ID:
            known = rows[is_there].astype(np.uint32)
            column[is_there] = self.pair_column_of_symbol(known, symbol)
        return column

    def pair_column_of_symbol(
        self, rows: npt.NDArray[np.uint32], name: int
    ) -> npt.NDArray[np.int64]:
        """As `pair_column`, for rows of the state and the symbol of a label name."""
        state = self.state
        out = np.empty(len(rows), np.int64)
        kernels.find_in_rows(rows, state.row_offsets, state.row_pairs, state.pair_names, name, out)
        return out

    def label_names(self, refs: npt.NDArray[np.uint32] | None) -> list[str]:
        """Names of all labels of the series, sorted; None asks for all series."""
        used = np.zeros(self.n_symbols, np.bool_)
        used[self.pair_names[self._pairs_in(refs)]] = True
        return sorted(self.texts(used.nonzero()[0]))

    def label_values(self, name: str, refs: npt.NDArray[np.uint32] | None) -> list[str]:
        """Values of one label in the series, sorted; None asks for all series."""
        return sorted(self.texts(self.label_value_symbols(name, refs)))

    def label_value_symbols(
        self, name: str, refs: npt.NDArray[np.uint32] | None
    ) -> npt.NDArray[np.integer]:
        """Symbols of the values of one label in the series, each once, in no order of texts."""
        symbol = self.find_symbol(name)
        if symbol == NO_ID:
            return np.zeros(0, np.int64)
        if refs is None:
            pairs = self.pairs_of_names.rows(symbol).astype(np.int64)
        else:
            column = self.pair_column_of_symbol(self._rows(refs), symbol)
            used = np.zeros(self.n_pairs, np.bool_)
            used[column[column >= 0]] = True
            pairs = np.flatnonzero(used)
        return self.pair_values[pairs]

    def cardinality(self, limit: int) -> dict[str, int | list[tuple[str, int]]]:
        """What takes the room, largest first, at most ``limit`` of each kind.

        The keys are those of Prometheus's /status/tsdb: memoryInBytesByLabelName sums the values'
        sizes over all series.
        """
        names, values = self.pair_names, self.pair_values
        series_of_pair = self.series_of_pairs.counts(self.n_pairs)
        sizes = np.diff(self.state.text_offsets[: self.n_symbols + 1])
        n_symbols = self.n_symbols
        n_values = np.bincount(names, minlength=n_symbols)
        n_bytes = np.bincount(names, series_of_pair * sizes[values], minlength=n_symbols)
        metrics = np.flatnonzero(names == self.find_symbol(METRIC_NAME))
        largest_metrics = metrics[_largest(series_of_pair[metrics], limit)]
        return {
            "seriesCountByMetricName": [
                (self.text(values[pair]), int(series_of_pair[pair])) for pair in largest_metrics
            ],
            "labelValueCountByLabelName": self._by_name(n_values, limit),
            "memoryInBytesByLabelName": self._by_name(n_bytes, limit),
            "seriesCountByLabelValuePair": [
                (f"{self.text(names[pair])}={self.text(values[pair])}", int(series_of_pair[pair]))
                for pair in _largest(series_of_pair, limit)
            ],
            "numLabelPairs": self.n_pairs,
        }

    def _by_name(self, counts: npt.NDArray[np.number], limit: int) -> list[tuple[str, int]]:
        largest = _largest(counts, limit)
        return [(self.text(symbol), int(counts[symbol])) for symbol in largest if counts[symbol]]

    def _pairs_in(self, refs: npt.NDArray[np.uint32] | None) -> npt.NDArray[np.int64]:
        """Pairs that occur in the series, ascending."""
        if refs is None:
            return np.arange(self.n_pairs)
        used = np.zeros(self.n_pairs, np.bool_)
        used[self.labels(refs).pairs] = True
        return np.flatnonzero(used)

    def _rows(self, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Rows of refs, contiguous and all below n_series: kernels rely on it."""
        refs = np.ascontiguousarray(refs, np.uint32)
        if self.refs.is_identity:
            if len(refs) and int(refs.max()) >= self.n_series:
                raise IndexError(f"series ref {int(refs.max())} is not below {self.n_series}")
            return refs
        rows = self.refs.rows_of(refs, self.n_series)
        if (rows < 0).any():
            raise IndexError(f"series ref {int(refs[rows < 0][0])} is not there")
        return rows.astype(np.uint32)


def _largest(counts: npt.NDArray[np.number], limit: int) -> npt.NDArray[np.int64]:
    """Positions of the largest counts, descending, ties in order of position."""
    return np.argsort(-counts, kind="stable")[:limit]


def _read_only(array: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    array.flags.writeable = False
    return array
