"""Series by what rules took of them: their rule now, beside the rules that were theirs. Pure.

Made for a catalog, and only while rules took more of some series than is hidden of these now. Of a
catalog that has grown only the new series are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.pieces import I64Array
from tsengine.storage.retention_marks import NOTHING_MS
from tsengine.storage.retention_rules import NO_RULE, RuleGroups, SeriesGroups
from tsengine.storage.retention_taken import Taken


@dataclass(frozen=True, slots=True)
class PastGroup:
    """Series of one rule, or of NO_RULE, of which samples and windows before some times went."""

    rule: int = NO_RULE
    samples_ms: int = NOTHING_MS
    windows_ms: int = NOTHING_MS

    def and_more(self, samples_ms: int, windows_ms: int) -> PastGroup:
        """Series of which that went too."""
        return replace(
            self,
            samples_ms=max(self.samples_ms, samples_ms),
            windows_ms=max(self.windows_ms, windows_ms),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PastGroups(SeriesGroups):
    """Each series of a catalog is in one of the groups: ``of_row: i32[n_series]``."""

    of_row: npt.NDArray[np.int32]
    groups: tuple[PastGroup, ...]


def group_series(
    catalog: CatalogView,
    now: RuleGroups | None,
    past: Sequence[tuple[Taken, RuleGroups | None]],
    known: PastGroups | None = None,
) -> PastGroups:
    """Divide series by the rules in force and by what was taken, each with the rules that did.

    None in the place of rules that took something: of all series. ``known`` are the groups of the
    first series of the catalog, made of the same rules and of what these took.
    """
    n_known = 0 if known is None else len(known.of_row)
    of_row = np.zeros(catalog.n_series - n_known, np.int64)
    groups = [PastGroup()]
    if now is not None:
        groups, of_row = _divided(
            groups, of_row, now, n_known, lambda group, k: replace(group, rule=k)
        )
    for taken, rules in past:
        if rules is None:
            every = taken.of_every()
            groups = [g.and_more(every.samples_ms[0], every.windows_ms[0]) for g in groups]
        else:
            groups, of_row = _divided(groups, of_row, rules, n_known, _by(taken))
    numbers = {} if known is None else {group: k for k, group in enumerate(known.groups)}
    places = [numbers.setdefault(group, len(numbers)) for group in groups]
    found = np.array(places, np.int32)[of_row]
    if known is not None:
        found = np.concatenate([known.of_row, found])
    return PastGroups(catalog, found, tuple(numbers))


def _by(taken: Taken) -> Callable[[PastGroup, int], PastGroup]:
    """What becomes of a group of series that one of the rules has taken something of."""
    return lambda group, k: group.and_more(taken.samples_ms[k], taken.windows_ms[k])


def _divided(
    groups: Sequence[PastGroup],
    of_row: I64Array,
    rules: RuleGroups,
    n_known: int,
    change: Callable[[PastGroup, int], PastGroup],
) -> tuple[list[PastGroup], I64Array]:
    """Groups divided by the rules of their series, of which each changes its own.

    ``of_row`` is of the series behind the first ``n_known``.
    """
    n = len(rules.rules) + 1
    codes = of_row * n + (rules.of_row[n_known:] + 1)
    used = np.flatnonzero(np.bincount(codes, minlength=len(groups) * n))
    places = np.zeros(len(groups) * n, np.int64)
    places[used] = np.arange(len(used))
    made = []
    for code in used.tolist():
        group, k = groups[code // n], code % n - 1
        made.append(group if k == NO_RULE else change(group, k))
    return made, places[codes]
