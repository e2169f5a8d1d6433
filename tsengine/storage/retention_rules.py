"""Which series each retention rule is for: the first one that matches a series counts.

Matching is remembered per catalog: of a catalog that has grown only the new series are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.errors import OptionsError, QueryError
from tsengine.model.matchers import Matcher
from tsengine.options import RetentionRule
from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.matching import check_matchers, find_series

SelectorParser = Callable[[str], Sequence[Matcher]]

NO_RULE = -1


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it is applied; ``keep_ms`` None keeps for ever."""

    text: str
    matchers: tuple[Matcher, ...]
    keep_ms: int | None


@dataclass(frozen=True, slots=True, eq=False)
class SeriesGroups:
    """The series of one catalog in groups: ``of_row: int[n_series]`` are their numbers."""

    catalog: CatalogView
    of_row: npt.NDArray[np.signedinteger[Any]]
    _refs: dict[tuple[int, ...], npt.NDArray[np.uint32]] = field(default_factory=dict, init=False)

    def refs_of_any(self, numbers: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """Series of some groups: u32[S] ascending, shared."""
        found = self._refs.get(numbers)
        if found is None:
            is_one = len(numbers) == 1
            is_in = self.of_row == numbers[0] if is_one else np.isin(self.of_row, numbers)
            rows = np.flatnonzero(is_in).astype(np.uint32)
            found = self._refs[numbers] = self.catalog.refs.refs_of(rows)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class RuleGroups(SeriesGroups):
    """The rule of each series of one catalog: ``of_row: i16[n_series]``, NO_RULE for none."""

    of_row: npt.NDArray[np.int16]
    rules: tuple[Rule, ...]

    def refs(self, number: int) -> npt.NDArray[np.uint32]:
        """Series of a rule, or of NO_RULE: u32[S] ascending, shared."""
        return self.refs_of_any((number,))

    def of_refs(self, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int16]:
        """The rule of each ref, NO_RULE also for refs that are not there: i16[N]."""
        rows = self.catalog.refs.rows_of(refs, len(self.of_row))
        return np.where(rows >= 0, np.append(self.of_row, np.int16(NO_RULE))[rows], NO_RULE)


class RuleSet:
    """The rules of a database. Thread-safe.

    Raises OptionsError for a selector that is none.
    """

    def __init__(self, rules: Sequence[RetentionRule], parse: SelectorParser | None) -> None:
        self.given = tuple(rules)
        self.rules = tuple(_parsed(rule, parse) for rule in rules)
        self._latest: RuleGroups | None = None

    def groups(self, catalog: CatalogView) -> RuleGroups:
        """The rules of a catalog's series."""
        latest = self._latest
        if latest is not None and latest.catalog is catalog:
            return latest
        known = _NO_ROWS
        if latest is not None and latest.catalog.refs is catalog.refs:
            known = latest.of_row[: catalog.n_series]
        made = RuleGroups(catalog, self._matched(catalog, known), self.rules)
        if latest is None or len(known) == len(latest.of_row) or not len(known):
            # Whichever thread comes last: all are right. An older catalog's are not kept.
            self._latest = made
        return made

    def _matched(self, catalog: CatalogView, known: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        of_row = np.full(catalog.n_series, NO_RULE, np.int16)
        of_row[: len(known)] = known
        if len(known) == catalog.n_series:
            return of_row
        new = np.arange(len(known), catalog.n_series, dtype=np.uint32) if len(known) else None
        for number, rule in enumerate(self.rules):
            rows = find_series(catalog, rule.matchers, among=new)
            of_row[rows[of_row[rows] == NO_RULE]] = number
        return of_row


_NO_ROWS = np.empty(0, np.int16)


def _parsed(rule: RetentionRule, parse: SelectorParser | None) -> Rule:
    if parse is None:
        raise OptionsError("this database has no parser for the selectors of retention rules")
    try:
        matchers = tuple(parse(rule.match))
        check_matchers(matchers)
    except QueryError as error:
        raise OptionsError(f"the retention rule {rule.match!r}: {error}") from error
    return Rule(rule.match, matchers, None if rule.keep is None else round(rule.keep * 1000))
