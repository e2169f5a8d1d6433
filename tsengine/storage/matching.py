"""Matchers to series, told by their rows in the catalog's state.

A matcher becomes a `PairCondition`: a set of pairs of its label, which a series must have one of
or must have none of. An absent label has the empty value; stored values are never empty. So a
matcher that refuses "" asks for one of the pairs it accepts, and a matcher that accepts "" asks for
none of the pairs it refuses.

The cheapest positive condition gives the candidates; every other one is then tested on the
candidates' own labels, or, where it covers few series, by its postings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.kernels import postings as kernels
from tsengine.model.labels import NO_ID
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.storage.index import Postings
from tsengine.storage.interning import InternedState
from tsengine.storage.value_patterns import (
    KEPT_SIZE_MAX,
    Affix,
    Anything,
    Literals,
    Pattern,
    RePattern,
    parse,
)

RegexCache = dict[tuple[int, str], tuple[int, npt.NDArray[np.uint32]]]
"""(name symbol, expression) -> (number of pairs looked at, those of them that match)."""

_CACHE_ENTRIES_MAX = 512
_CACHE_PAIRS_MAX = 8 * 1024 * 1024
_COUNTED_PAIRS_MAX = 1024
_ROW_TEST_COST = 4
"""A test on a candidate's labels costs about as much as marking this many postings."""


class Matchable(Protocol):
    """What matching needs of a catalog's state; `CatalogView` is one."""

    @property
    def state(self) -> InternedState:
        """Symbols, pairs and series."""
        ...

    @property
    def series_of_pairs(self) -> Postings:
        """Label pair -> series refs."""
        ...

    @property
    def pairs_of_names(self) -> Postings:
        """Label name (symbol) -> pairs."""
        ...

    @property
    def regex_cache(self) -> RegexCache:
        """Shared by all views of a catalog."""
        ...

    @property
    def pair_values(self) -> npt.NDArray[np.uint32]:
        """Symbol of each pair's value."""
        ...

    def texts_bytes(self, symbols: npt.NDArray[np.integer]) -> list[bytes]:
        """UTF-8 of symbols."""
        ...

    def find_symbol(self, text: str) -> int:
        """Id of a text or NO_ID."""
        ...

    def find_pair(self, name: int, value: int) -> int:
        """Id of a pair of symbols or NO_ID."""
        ...

    def pair_column_of_symbol(
        self, rows: npt.NDArray[np.uint32], name: int
    ) -> npt.NDArray[np.int64]:
        """Each series' pair of one label, -1 where absent."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PairCondition:
    """A series has one of the pairs (u32[K], ascending), or none of them if negated."""

    name: int
    pairs: npt.NDArray[np.uint32]
    negated: bool


def find_series(
    view: Matchable,
    matchers: Sequence[Matcher],
    check: Callable[[], None] | None = None,
    among: npt.NDArray[np.uint32] | None = None,
) -> npt.NDArray[np.uint32]:
    """Rows of the view's series that fulfil all matchers, ascending: u32[S].

    `check` is called between matchers and may raise to give up. Only rows ``among`` those given
    (ascending) are looked at. Raises QueryError for an invalid regular expression.
    """
    # All are compiled before the first is answered: an invalid one must not hide behind an
    # empty result.
    patterns = [_pattern(matcher) for matcher in matchers]
    conditions = []
    for matcher, pattern in zip(matchers, patterns, strict=True):
        if check is not None:
            check()
        condition = _condition(view, matcher, pattern)
        if condition.negated and not len(condition.pairs):
            continue
        if not condition.negated and not len(condition.pairs):
            return np.empty(0, np.uint32)
        conditions.append(condition)
    costs = {id(condition): _cost(view, condition) for condition in conditions}
    conditions.sort(key=lambda condition: (condition.negated, costs[id(condition)]))
    if among is not None:
        found = among
    elif not conditions or conditions[0].negated:
        found = np.arange(view.state.n_series, dtype=np.uint32)
    else:
        found = _series_with(view, conditions.pop(0).pairs)
    for condition in conditions:
        if not len(found):
            break
        found = found[_fulfilled(view, condition, found, costs[id(condition)])]
    return found


def check_matchers(matchers: Sequence[Matcher]) -> None:
    """Raise QueryError for an invalid regular expression."""
    for matcher in matchers:
        _pattern(matcher)


def _pattern(matcher: Matcher) -> Pattern:
    if matcher.op in (MatchOp.EQUAL, MatchOp.NOT_EQUAL):
        return Literals(frozenset([matcher.value]))
    return parse(matcher.value)


def _condition(view: Matchable, matcher: Matcher, pattern: Pattern) -> PairCondition:
    name = view.find_symbol(matcher.name)
    accepts_empty = pattern.matches("")
    negated = accepts_empty != (matcher.op in (MatchOp.NOT_EQUAL, MatchOp.NOT_REGEX))
    if name == NO_ID:
        return PairCondition(name, np.empty(0, np.uint32), negated)
    pairs = _matching_pairs(view, name, pattern)
    if accepts_empty:
        all_pairs = view.pairs_of_names.rows(name)
        refused = np.ones(view.state.n_pairs, np.bool_)
        refused[pairs] = False
        pairs = all_pairs[refused[all_pairs]]
    return PairCondition(name, pairs, negated)


def _matching_pairs(view: Matchable, name: int, pattern: Pattern) -> npt.NDArray[np.uint32]:
    """Pairs of a label whose value the pattern accepts: u32[K], ascending."""
    if isinstance(pattern, Literals):
        symbols = [view.find_symbol(text) for text in pattern.texts if text]
        pairs = [view.find_pair(name, symbol) for symbol in symbols if symbol != NO_ID]
        return np.array(sorted(pair for pair in pairs if pair != NO_ID), np.uint32)
    all_pairs = view.pairs_of_names.rows(name)
    if isinstance(pattern, Anything):
        return all_pairs
    values = view.pair_values[all_pairs]
    if isinstance(pattern, Affix):
        return all_pairs[_affix_mask(view, values, pattern)]
    return _regex_pairs(view, name, all_pairs, pattern)


def _affix_mask(
    view: Matchable, values: npt.NDArray[np.uint32], pattern: Affix
) -> npt.NDArray[np.bool_]:
    needle = np.frombuffer(pattern.text.encode(), np.uint8)
    mask = np.empty(len(values), np.bool_)
    state = view.state
    kernels.match_texts(state.text, state.text_offsets, values, needle, pattern.mode, mask)
    if pattern.longer:
        sizes = state.text_offsets[values.astype(np.int64) + 1] - state.text_offsets[values]
        mask &= sizes > len(needle)
    return mask


def _regex_pairs(
    view: Matchable, name: int, all_pairs: npt.NDArray[np.uint32], pattern: RePattern
) -> npt.NDArray[np.uint32]:
    """As `_matching_pairs` by running the expression over every value not yet seen by it.

    The cache is shared by all views of a catalog: pairs never change, so an entry made by a newer
    view is cut to this one's pairs.
    """
    n_seen, known = view.regex_cache.get((name, pattern.expression), (0, np.empty(0, np.uint32)))
    fresh = all_pairs[all_pairs >= n_seen]
    accepts = pattern.accepts_bytes
    hits = [accepts(text) for text in view.texts_bytes(view.pair_values[fresh])]
    found = np.concatenate((known, fresh[np.array(hits, np.bool_)]))
    if view.state.n_pairs > n_seen and len(pattern.expression) <= KEPT_SIZE_MAX:
        n_cached = sum(len(pairs) for _, pairs in list(view.regex_cache.values()))
        if len(view.regex_cache) >= _CACHE_ENTRIES_MAX or n_cached + len(found) > _CACHE_PAIRS_MAX:
            view.regex_cache.clear()
        view.regex_cache[(name, pattern.expression)] = (view.state.n_pairs, found)
    return found[found < view.state.n_pairs]


def _cost(view: Matchable, condition: PairCondition) -> int:
    """Postings of the condition's pairs, or the most there can be where counting would take long.

    A series has at most one pair of a label.
    """
    if len(condition.pairs) > _COUNTED_PAIRS_MAX:
        return view.state.n_series
    return view.series_of_pairs.count(condition.pairs)


def _series_with(view: Matchable, pairs: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Series that have one of the pairs, ascending."""
    if len(pairs) == 1:
        return view.series_of_pairs.rows(int(pairs[0]))
    marks = np.zeros(view.state.n_series, np.bool_)
    view.series_of_pairs.mark(pairs, marks, True)
    return np.flatnonzero(marks).astype(np.uint32)


def _fulfilled(
    view: Matchable, condition: PairCondition, rows: npt.NDArray[np.uint32], cost: int
) -> npt.NDArray[np.bool_]:
    """Which of the rows fulfil a condition: bool[S]."""
    if cost + view.state.n_series // 64 < _ROW_TEST_COST * len(rows):
        marks = np.zeros(view.state.n_series, np.bool_)
        view.series_of_pairs.mark(condition.pairs, marks, True)
        has_one = marks[rows]
    else:
        column = view.pair_column_of_symbol(rows, condition.name)
        wanted = np.zeros(view.state.n_pairs + 1, np.bool_)
        wanted[condition.pairs] = True
        # An absent label is -1: the last cell, which stays False.
        has_one = wanted[column]
    return ~has_one if condition.negated else has_one
