"""What overwrites others goes no sooner than these: which parts lie below a part. Pure.

Of the samples of a series at one time that of the highest sequence is read. If retention dropped it
and left an older one, this one would be read when the retention is raised or the clock is set back.
So no part loses what a part below it still has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention_rules import NO_RULE, RuleGroups

FirstKept = Mapping[int, int]
"""By rule, or NO_RULE: samples of its series from this time on may not go; others may."""


class Below:
    """Which parts lie below a part: overlap it and are older. Of samples, or of tiers by width."""

    def __init__(self, entries: Sequence[PartEntry | TierEntry]) -> None:
        self._layers: dict[int, list[PartEntry | TierEntry]] = {}
        for entry in entries:
            self._layers.setdefault(_layer_of(entry), []).append(entry)
        self._tables = {
            layer: np.array([_extent(entry) for entry in members], np.int64)
            for layer, members in self._layers.items()
        }

    def directly(self, *entries: PartEntry | TierEntry) -> list[PartEntry | TierEntry]:
        """Others that parts of one kind, taken as one, lie on."""
        layer = _layer_of(entries[0])
        extents = [_extent(entry) for entry in entries]
        mint = min(extent[0] for extent in extents)
        maxt = max(extent[1] for extent in extents)
        seq = max(extent[2] for extent in extents)
        table = self._tables[layer]
        is_below = (table[:, 0] <= maxt) & (table[:, 1] >= mint) & (table[:, 2] < seq)
        names = {entry.name for entry in entries}
        found = [self._layers[layer][at] for at in np.flatnonzero(is_below).tolist()]
        return [entry for entry in found if entry.name not in names]

    def of(self, entry: PartEntry | TierEntry) -> list[PartEntry | TierEntry]:
        """The part itself, all below it, below these and so on."""
        found = {entry.name: entry}
        waiting = [entry]
        while waiting:
            for other in self.directly(waiting.pop()):
                if other.name not in found:
                    found[other.name] = other
                    waiting.append(other)
        return list(found.values())

    def without_held(self, entries: Sequence[TierEntry]) -> list[TierEntry]:
        """Those that may go together: nothing stays below them."""
        gone: set[str] = set()
        for entry in sorted(entries, key=lambda entry: entry.seq_max):
            if all(other.name in gone for other in self.directly(entry)):
                gone.add(entry.name)
        return [entry for entry in entries if entry.name in gone]


def _layer_of(entry: PartEntry | TierEntry) -> int:
    return entry.width_ms if isinstance(entry, TierEntry) else 0


def _extent(entry: PartEntry | TierEntry) -> tuple[int, int, int]:
    """The closed range of time that a part has to say something of, and its age."""
    if isinstance(entry, TierEntry):
        return entry.cover_min, entry.cover_max, entry.seq_max
    return entry.mint, entry.maxt, entry.seq_min


class Overlaps:
    """Up to where parts of samples may lose what is past its retention.

    Parameters
    ----------
    parts
        All that can be read.
    lost
        Those that are left out because they are damaged. They may come back, with any series.
    rules_of
        The rules, or NO_RULE, of the series in a part.

    """

    def __init__(
        self,
        parts: Sequence[PartReader],
        lost: Sequence[PartEntry | TierEntry],
        rules_of: Callable[[PartReader], Collection[int]],
    ) -> None:
        self._parts = {part.entry.name: part for part in parts}
        self._lost = lost
        self._rules_of = rules_of

    @cached_property
    def _below(self) -> Below:
        """Made when it is asked for: mostly nothing is past its retention."""
        return Below([part.entry for part in self._parts.values()] + list(self._lost))

    def first_kept(
        self,
        entries: Sequence[PartEntry],
        gone: Collection[str] = (),
        cut: Mapping[str, Callable[[int], int]] | None = None,
    ) -> FirstKept:
        """What holds the samples of parts that one commit replaces.

        Parts named in ``gone`` go in that commit, or before; of those in ``cut`` only samples from
        a time on, told by the rule, are left then.
        """
        below = [entry for entry in self._below.directly(*entries) if entry.name not in gone]
        if not below:
            return {}
        own = {number for e in entries for number in self._rules_of(self._parts[e.name])}
        found: dict[int, int] = {}
        for entry in below:
            part = self._parts.get(entry.name)
            for number in own if part is None else own.intersection(self._rules_of(part)):
                first = entry.mint
                if cut is not None and entry.name in cut:
                    first = max(first, cut[entry.name](number))
                found[number] = min(first, found.get(number, first))
        return found


def rules_in(part: PartReader, groups: RuleGroups | None) -> Collection[int]:
    """The rules, or NO_RULE, of the series in a part."""
    if groups is None:
        return (NO_RULE,)
    numbers: list[int] = np.unique(groups.of_refs(part.refs)).tolist()
    return numbers
