"""What to merge next. Pure: entries in, merges out; nothing here touches a file.

Flushes write level 0, parts of any time span. A merge of level-0 parts splits them by partition (a
UTC day, left-open and right-closed); merges of higher levels stay inside one partition. Eight
parts of a level make one of the next, so a sample is rewritten about once per factor of eight. Only
flushes that lie in one partition are merged by four: a query of the last hour reads every one of
them, at a price for each series, and a day of some hundred flushes is rewritten no more often.
A partition that no new data is expected for is made one part as soon as that is cheap; while a part
that is still to be split touches it (a backfill under way) new data are expected.

Two parts that overlap in time are ordered by their sequences: the later wins where times are equal.
So a merge may not jump over a part that lies between its inputs in sequence and overlaps them.

Where samples were erased, windows of tiers still have to take in what came late (`Barriers`): what
they have seen and what not stay apart until then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tsengine.storage.manifest import PartEntry

FAN_IN = 8
FAN_IN_FLUSHES = 4
"""Of flushes in one partition. Others are split, into as many parts whatever their number is."""
PARTITION_MS = 86_400_000
SETTLED_SHARE = 4
"""A closed partition is made one part when all but its largest part make up 1/4 of that one."""


@dataclass(frozen=True, slots=True)
class Merge:
    """Parts to be replaced by one part per partition they touch.

    ``inputs`` ascend in sequence; ``level`` is that of the new parts.
    """

    inputs: tuple[PartEntry, ...]
    level: int


@dataclass(frozen=True, slots=True)
class Barriers:
    """What tiers have seen of times in which samples were erased, while they lack some of it.

    Parts that have anything before ``before_ms`` and whose first sequences lie on two sides of one
    of ``seqs``, which ascend, are not merged.
    """

    before_ms: int
    seqs: tuple[int, ...]

    def apart(self, ordered: Sequence[PartEntry]) -> list[list[PartEntry]]:
        """Parts, ascending in sequence, as runs of neighbours that may be merged."""
        runs: list[list[PartEntry]] = []
        side = None
        for part in ordered:
            own = None
            if part.mint < self.before_ms:
                own = bisect_left(self.seqs, part.seq_min)
            if not runs or (own is not None and side is not None and own != side):
                runs.append([])
                side = None
            runs[-1].append(part)
            side = side if own is None else own
        return runs


NO_BARRIERS = Barriers(0, ())


def partition_of(t_ms: int, partition_ms: int = PARTITION_MS) -> int:
    """Number of the partition that holds a time: left-open, right-closed."""
    return (t_ms - 1) // partition_ms


def partition_range(partition: int, partition_ms: int = PARTITION_MS) -> tuple[int, int]:
    """First and last time of a partition, ms, both inside."""
    return partition * partition_ms + 1, (partition + 1) * partition_ms


def plan_compaction(
    parts: Sequence[PartEntry],
    *,
    partition_ms: int = PARTITION_MS,
    fan_in: int = FAN_IN,
    fan_in_flushes: int = FAN_IN_FLUSHES,
    barriers: Barriers = NO_BARRIERS,
) -> list[Merge]:
    """Merges that are due, most useful first; run one, then plan again.

    Merges of one plan share no part. Every merge may be run on its own: it jumps over no part
    that overlaps it.
    """
    ordered = sorted(parts, key=lambda part: (part.seq_min, part.mint))
    spanning = [part for part in ordered if _is_unsplit(part, partition_ms)]
    # More than one, so that a part that can't be read does not hold up all later ones.
    merges = [
        _merge(inputs, ordered)
        for run in barriers.apart(spanning)
        for inputs in _full_flushes(run, fan_in, fan_in_flushes, partition_ms)
    ]
    by_partition: dict[int, list[PartEntry]] = {}
    for part in ordered:
        if not _is_unsplit(part, partition_ms):
            by_partition.setdefault(partition_of(part.mint, partition_ms), []).append(part)
    newest = max((partition_of(part.maxt, partition_ms) for part in ordered), default=0)
    awaited = [_touched(part, partition_ms) for part in spanning]
    for partition, everything in sorted(by_partition.items(), reverse=True):
        # The day before the newest one still receives what was late by minutes.
        is_closed = partition < newest - 1 and not any(partition in days for days in awaited)
        for members in barriers.apart(everything):
            run = _full_level(members, fan_in)
            if run is None and is_closed and _is_settling_cheap(members):
                run = members
            if run is not None:
                merges.append(_merge(run, ordered))
    return [merge for merge in merges if merge is not None]


def plan_full_merge(
    parts: Sequence[PartEntry],
    *,
    partition_ms: int = PARTITION_MS,
    barriers: Barriers = NO_BARRIERS,
) -> list[Merge]:
    """Merges after which every partition is one part, or as many as barriers leave apart.

    Parts that touch a common partition are merged together, so nothing can be jumped over.
    """
    merges = []
    for _, _, together in _connected(parts, partition_ms):
        together.sort(key=lambda part: (part.seq_min, part.mint))
        for run in barriers.apart(together):
            for low, high, members in _connected(run, partition_ms):
                if len(members) > 1 or low != high:
                    ordered = sorted(members, key=lambda part: (part.seq_min, part.mint))
                    merges.append(Merge(tuple(ordered), max(part.level for part in members) + 1))
    return merges


def plan_urgent_compaction(
    parts: Sequence[PartEntry],
    *,
    partition_ms: int = PARTITION_MS,
    barriers: Barriers = NO_BARRIERS,
) -> list[Merge]:
    """Merges that leave the fewest parts for the bytes they rewrite, whatever the levels are.

    For when there are too many parts. Each makes one part of all that a partition has, or of what
    barriers leave together.
    """
    ordered = sorted(parts, key=lambda part: (part.seq_min, part.mint))
    by_partition: dict[int, list[PartEntry]] = {}
    for part in ordered:
        if not _is_spanning(part, partition_ms):
            by_partition.setdefault(partition_of(part.mint, partition_ms), []).append(part)
    runs = [run for members in by_partition.values() for run in barriers.apart(members)]
    crowded = [members for members in runs if len(members) > 1]
    crowded.sort(key=lambda members: sum(p.size_bytes for p in members) / (len(members) - 1))
    merges = [_merge(members, ordered) for members in crowded]
    return [merge for merge in merges if merge is not None]


def _is_unsplit(part: PartEntry, partition_ms: int) -> bool:
    """Whether the part has not been through a splitting merge."""
    return part.level == 0 or _is_spanning(part, partition_ms)


def _is_spanning(part: PartEntry, partition_ms: int) -> bool:
    return partition_of(part.mint, partition_ms) != partition_of(part.maxt, partition_ms)


def _touched(part: PartEntry, partition_ms: int) -> range:
    """Partitions that a part may have samples in."""
    first, last = partition_of(part.mint, partition_ms), partition_of(part.maxt, partition_ms)
    return range(first, last + 1)


def _full_flushes(
    run: Sequence[PartEntry], fan_in: int, fan_in_flushes: int, partition_ms: int
) -> list[Sequence[PartEntry]]:
    """Neighbours (in sequence) that are to be split or lie in one partition, as many as are due."""
    found = []
    first = 0
    while first < len(run):
        n_wanted = fan_in_flushes
        touched = {_touched(part, partition_ms) for part in run[first : first + n_wanted]}
        if len(touched) > 1 or len(touched.pop()) > 1:
            n_wanted = fan_in
        if first + n_wanted <= len(run):
            found.append(run[first : first + n_wanted])
        first += n_wanted
    return found


def _full_level(members: Sequence[PartEntry], fan_in: int) -> list[PartEntry] | None:
    """The first ``fan_in`` neighbours (in sequence) of a partition that are of one level."""
    run: list[PartEntry] = []
    for part in members:
        if run and part.level != run[-1].level:
            run = []
        run.append(part)
        if len(run) == fan_in:
            return run
    return None


def _is_settling_cheap(members: Sequence[PartEntry]) -> bool:
    """Whether making one part of a closed partition rewrites little for what it joins."""
    if len(members) < 2:
        return False
    largest = max(part.n_samples for part in members)
    return SETTLED_SHARE * (sum(part.n_samples for part in members) - largest) >= largest


def _merge(inputs: Sequence[PartEntry], everything: Iterable[PartEntry]) -> Merge | None:
    """A merge of these inputs, or None if it would jump over a part that overlaps it."""
    names = {part.name for part in inputs}
    low, high = min(p.seq_min for p in inputs), max(p.seq_max for p in inputs)
    mint, maxt = min(p.mint for p in inputs), max(p.maxt for p in inputs)
    for other in everything:
        if other.name in names or other.maxt < mint or other.mint > maxt:
            continue
        if other.seq_min <= high and other.seq_max >= low:
            return None
    return Merge(tuple(inputs), max(part.level for part in inputs) + 1)


def _connected(
    parts: Iterable[PartEntry], partition_ms: int
) -> list[tuple[int, int, list[PartEntry]]]:
    """Parts joined where their spans of partitions overlap: ``(first, last, parts)``."""
    joined: list[tuple[int, int, list[PartEntry]]] = []
    for part in sorted(parts, key=lambda part: part.mint):
        low = partition_of(part.mint, partition_ms)
        high = partition_of(part.maxt, partition_ms)
        if joined and low <= joined[-1][1]:
            first, last, members = joined[-1]
            joined[-1] = (first, max(last, high), [*members, part])
        else:
            joined.append((low, high, [part]))
    return joined
