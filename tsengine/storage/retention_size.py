"""What goes while the files are over their limit of bytes: the oldest, and little more. Pure.

Samples go by whole partitions (UTC days), tiers by parts; of the newest day single parts. What a
part overwrites must not come back, so it goes together with all that overlaps it and is older, or
not at all. A part of several days lies on others of all of them, so it is split before anything of
its first day goes: else a few late samples would take everything since with them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tsengine.storage.compaction_plan import partition_of, partition_range
from tsengine.storage.manifest import PartEntry, TierEntry
from tsengine.storage.retention_overlaps import Below

Entry = PartEntry | TierEntry
_Groups = dict[str, dict[str, Entry] | None]


@dataclass(frozen=True, slots=True)
class Removal:
    """Files to be given up, or that are past their retention."""

    parts: tuple[PartEntry, ...]
    tiers: tuple[TierEntry, ...]

    @classmethod
    def of(cls, entries: Collection[Entry]) -> Removal:
        """Of parts of samples and of tiers."""
        return cls(
            tuple(entry for entry in entries if isinstance(entry, PartEntry)),
            tuple(entry for entry in entries if isinstance(entry, TierEntry)),
        )

    @property
    def size_bytes(self) -> int:
        """What it frees."""
        return sum(entry.size_bytes for entry in self.entries)

    @property
    def entries(self) -> list[Entry]:
        """All of them."""
        entries: list[Entry] = [*self.parts]
        return entries + list(self.tiers)


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What is to be done to stay below a limit.

    Parameters
    ----------
    removal
        Goes now.
    splits
        Parts of several days to be split before more goes, for they have what is the oldest then.
    rest
        Goes instead while they can't be split.
    held
        Would go, but lies on what is not to be removed.

    """

    removal: Removal
    splits: tuple[PartEntry, ...]
    rest: Removal
    held: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class _Unit:
    """What goes at once, or is to be split; ``end`` is the last time of it that counts.

    Of those that end together the one goes first whose first entry begins first.
    """

    end: int
    entries: Sequence[Entry]
    does: Literal["go", "split", "stay"] = "go"


def is_wide(entry: PartEntry) -> bool:
    """Whether a part of samples is of several partitions."""
    return partition_of(entry.mint) != partition_of(entry.maxt)


def plan_size_removal(
    parts: Sequence[PartEntry],
    tiers: Sequence[TierEntry],
    *,
    size_bytes: int,
    limit_bytes: int,
    kept: frozenset[str] = frozenset(),
    lost: Sequence[Entry] = (),
) -> SizePlan:
    """The oldest of samples and tiers, by their last time, so that few enough bytes stay.

    ``size_bytes`` is the size of everything. The newest part of samples never goes, nor do those
    named in ``kept`` and damaged ones that are left out (``lost``), beside which nothing is split.
    """
    below = Below([*parts, *tiers, *lost])
    can_not_go = kept | {entry.name for entry in lost}
    units = [*_of_samples(parts, below, can_not_go, can_split=not lost)]
    groups = _groups(tiers, below, can_not_go)
    units += _one_by_one(tiers, groups)
    gone: dict[bool, dict[str, Entry]] = {False: {}, True: {}}
    splits: dict[str, PartEntry] = {}
    held: list[Entry] = []
    for unit in sorted(units, key=lambda unit: (unit.end, unit.entries[0].mint)):
        if size_bytes <= limit_bytes:
            break
        if unit.does == "go":
            new = {e.name: e for e in unit.entries if e.name not in gone[False] | gone[True]}
            gone[bool(splits)] |= new
            size_bytes -= sum(entry.size_bytes for entry in new.values())
        elif unit.does == "split":
            splits |= {entry.name: entry for entry in unit.entries if isinstance(entry, PartEntry)}
        else:
            held += unit.entries
    return SizePlan(
        Removal.of(gone[False].values()),
        tuple(splits.values()),
        Removal.of(gone[True].values()),
        tuple(held),
    )


def _of_samples(
    parts: Sequence[PartEntry], below: Below, can_not_go: Collection[str], *, can_split: bool
) -> Iterator[_Unit]:
    newest = max(parts, key=lambda part: (part.maxt, part.seq_max), default=None)
    if newest is None:
        return
    wide = [part for part in parts if is_wide(part)]
    for part in wide:
        if can_split and part.name not in can_not_go:
            yield _Unit(partition_range(partition_of(part.mint))[0], [part], "split")
    by_day: dict[int, list[PartEntry]] = {}
    for part in parts:
        if not is_wide(part) and part is not newest and part.name not in can_not_go:
            by_day.setdefault(partition_of(part.mint), []).append(part)
    stays = {*can_not_go, newest.name, *(part.name for part in wide)}
    for day, members in by_day.items():
        groups = _groups(members, below, stays)
        units = _one_by_one(members, groups)
        if day == partition_of(newest.maxt):
            # What lies on the newest is not said to be held.
            yield from (unit for unit in units if unit.does == "go")
            continue
        free = {e.name: e for unit in units if unit.does == "go" for e in unit.entries}
        if free:
            yield _Unit(max(entry.maxt for entry in free.values()), list(free.values()))
        yield from (unit for unit in units if unit.does == "stay")


def _groups(entries: Sequence[Entry], below: Below, stays: Collection[str]) -> _Groups:
    """By name: what goes with each of all parts there are below others; None if it can't."""
    groups: _Groups = {}
    for entry in sorted(entries, key=_age):
        own: dict[str, Entry] | None = {entry.name: entry}
        if entry.name in stays:
            own = None
        for other in sorted(below.directly(entry), key=_age, reverse=True):
            if own is None or other.name in own:
                continue  # Whatever lies below one that is in is in.
            group = groups.get(other.name)
            own = None if group is None else own | group
        groups[entry.name] = own
    return groups


def _age(entry: Entry) -> int:
    """What lies below an entry is less."""
    return entry.seq_max if isinstance(entry, TierEntry) else entry.seq_min


def _one_by_one(entries: Sequence[Entry], groups: _Groups) -> list[_Unit]:
    """Each with what it lies on, as if it ended with the last of that."""
    units = []
    for entry in entries:
        group = groups[entry.name]
        if group is None:
            units.append(_Unit(_end(entry), [entry], "stay"))
        else:
            members = list(group.values())
            units.append(_Unit(max(_end(member) for member in members), members))
    return units


def _end(entry: Entry) -> int:
    """The last time of an entry; parts of tiers may have no windows."""
    if isinstance(entry, TierEntry) and entry.n_samples == 0:
        return entry.cover_max
    return entry.maxt
