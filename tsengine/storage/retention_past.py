"""Series by what rules took of them: their rule now, beside the rules that were theirs. Pure.

Made once for a catalog, and only while rules took more of some series than is hidden of these now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tsengine.storage.catalog_view import CatalogView
from tsengine.storage.pieces import I64Array
from tsengine.storage.retention_marks import NOTHING_MS
from tsengine.storage.retention_rules import NO_RULE, RuleGroups
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
class PastGroups:
    """Each series of a catalog is in one of the groups: ``of_row: i64[n_series]``."""

    catalog: CatalogView
    groups: tuple[PastGroup, ...]
    of_row: I64Array
    _joined: dict[tuple[int, ...], npt.NDArray[np.uint32]] = field(default_factory=dict)

    def refs_of_any(self, numbers: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """Series of some groups: u32[S] ascending, shared."""
        found = self._joined.get(numbers)
        if found is None:
            rows = np.flatnonzero(np.isin(self.of_row, numbers)).astype(np.uint32)
            found = self._joined[numbers] = self.catalog.refs.refs_of(rows)
        return found


def group_series(
    catalog: CatalogView, now: RuleGroups | None, past: Sequence[tuple[Taken, RuleGroups | None]]
) -> PastGroups:
    """Divide series by the rules in force and by what was taken, each with the rules that did.

    None in the place of rules that took something: of all series.
    """
    of_row = np.zeros(catalog.n_series, np.int64)
    groups = [PastGroup()]
    if now is not None:
        groups, of_row = _divided(groups, of_row, now, lambda group, k: replace(group, rule=k))
    for taken, rules in past:
        if rules is None:
            (samples_ms,), (windows_ms,) = taken.of_every().samples_ms, taken.of_every().windows_ms
            groups = [group.and_more(samples_ms, windows_ms) for group in groups]
        else:
            groups, of_row = _divided(groups, of_row, rules, _by(taken))
    return PastGroups(catalog, tuple(groups), of_row)


def _by(taken: Taken) -> Callable[[PastGroup, int], PastGroup]:
    """What becomes of a group of series that one of the rules has taken something of."""
    return lambda group, k: group.and_more(taken.samples_ms[k], taken.windows_ms[k])


def _divided(
    groups: Sequence[PastGroup],
    of_row: I64Array,
    rules: RuleGroups,
    change: Callable[[PastGroup, int], PastGroup],
) -> tuple[list[PastGroup], I64Array]:
    """Groups divided by the rules of their series, of which each changes its own."""
    n = len(rules.rules) + 1
    codes = of_row * n + (rules.of_row + 1)
    used = np.flatnonzero(np.bincount(codes, minlength=len(groups) * n))
    places = np.zeros(len(groups) * n, np.int64)
    places[used] = np.arange(len(used))
    made = []
    for code in used.tolist():
        group, k = groups[code // n], code % n - 1
        made.append(group if k == NO_RULE else change(group, k))
    return made, places[codes]
