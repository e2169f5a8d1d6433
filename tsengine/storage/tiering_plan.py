"""Which windows of which tier to build next, and which parts of tiers to make one. Pure.

Windows are built for whole UTC days that have ended. Neighbouring days make one part, up to a
partition of the tier (30 or 360 days), so a backfill of years makes few. Days that come one by one
are merged by eight, and once more when their partition has ended: a window is written three or four
times in all. What is planned is always a range of one tier: building it and merging the parts that
lie in it is the same, a read of all its windows and one part that takes the place of others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tsengine.storage.holes import inside, joined, outside, widened
from tsengine.storage.manifest import TierEntry
from tsengine.storage.pieces import I64Array
from tsengine.storage.retention_marks import window_start_after
from tsengine.storage.tier_map import Owned, Span, TierMap

DAY_MS = 86_400_000
FAN_IN = 8
PARTS_MAX = 3 * FAN_IN
"""Parts in one partition of a tier above which they are merged whatever they are."""
SETTLED_SHARE = 4
JOB_SAMPLES_MAX = 128 * 1024 * 1024
"""Samples of several days that are summed up in one job."""
_NARROW_MS = 30 * 60_000
_EVER = -(2**62), 2**62


@dataclass(frozen=True, slots=True)
class TierRange:
    """Whole windows of one tier: the closed range ``mint``, ``maxt``."""

    width_ms: int
    mint: int
    maxt: int


@dataclass(frozen=True, slots=True)
class TierSources:
    """What a plan is made from.

    Parameters
    ----------
    widths_ms
        Of the tiers that are configured, ascending.
    tier_map, entries
        Of the live parts of tiers.
    days, n_samples
        Days in which parts of samples have axes, ascending, and about how many samples: i64[D].
    blocked
        Closed ranges of days that must not be built now: heads have samples there, or data have
        just come.
    end_day
        First day that has not ended.
    raw_floor_ms
        Samples are complete from it on; None if all are.
    floors_ms
        Windows of a tier of this width that begin before it are past its retention.
    erase_floor_ms
        Samples before it may be erased any time; None if all stay.
    holes
        Closed ranges in which samples are missing.
    awaited
        Closed ranges of windows that were put aside and may come back.
    given_up
        By width: closed ranges of windows that are not to be built.

    """

    widths_ms: tuple[int, ...]
    tier_map: TierMap
    entries: tuple[TierEntry, ...]
    days: I64Array
    n_samples: I64Array
    blocked: tuple[Span, ...]
    end_day: int
    raw_floor_ms: int | None
    floors_ms: Mapping[int, int]
    erase_floor_ms: int | None = None
    holes: tuple[Span, ...] = ()
    awaited: tuple[Span, ...] = ()
    given_up: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)


def partition_days(width_ms: int) -> int:
    """Days that a part of this tier spans at most."""
    return 30 if width_ms < _NARROW_MS else 360


def level_of(mint: int, maxt: int) -> int:
    """The level of a tier's part, by the days it covers: eight of a level make one of the next."""
    n_days = -(-(maxt - mint + 1) // DAY_MS)
    return 0 if n_days < FAN_IN else 1 if n_days < FAN_IN**2 else 2


def plan_builds(sources: TierSources) -> list[TierRange]:
    """Ranges to be built, in the order in which to build them.

    Oldest first, since their samples are the next to expire, and what is finer before what is
    coarser and made of it.
    """
    builds = [build for width_ms in sources.widths_ms for build in _builds(sources, width_ms)]
    return sorted(builds, key=lambda build: (build.maxt, build.width_ms))


def plan_merges(sources: TierSources) -> list[TierRange]:
    """Clean ranges whose parts are to become one."""
    merges = []
    for width_ms in sources.widths_ms:
        for mint, maxt in _joined(sources.tier_map.clean(width_ms)):
            merges += _merges(sources, TierRange(width_ms, mint, maxt))
    return merges


def plan_drops(sources: TierSources) -> list[TierEntry]:
    """Parts that answer for nothing: others hold alone, or their tier is no longer configured.

    The latter stay while their windows can't be made again: from samples that stay, or from a finer
    tier that is configured. A coarser one does not have them.
    """
    owners: dict[str, list[Span]] = {entry.name: [] for entry in sources.entries}
    for width_ms in sources.tier_map.widths_ms:
        for owned in sources.tier_map.owned(width_ms):
            name = sources.entries[owned.tier].name
            owners[name].append((owned.mint, owned.maxt))
    drops = []
    others = {entry.width_ms for entry in sources.entries} - set(sources.widths_ms)
    held = {width_ms: _held_elsewhere(sources, width_ms) for width_ms in others}
    for entry in sources.entries:
        spans = owners[entry.name]
        if entry.width_ms not in sources.widths_ms:
            spans = [span for span in spans if not is_inside(span, held[entry.width_ms])]
        if not spans:
            drops.append(entry)
    return drops


def available_spans(
    width_ms: int,
    tier_map: TierMap,
    *,
    raw_floor_ms: int | None,
    floors_ms: Mapping[int, int],
    holes: Sequence[Span] = (),
    awaited: Sequence[Span] = (),
) -> list[Span]:
    """Closed ranges of whole windows that can be read: from this or finer tiers, or from samples.

    Samples are complete from ``raw_floor_ms`` on but for ``holes``, and all there is where no tier
    has anything, not one that is ``awaited`` either: it would not count where a newer one is. Of
    windows elsewhere something may be gone; they can't be built.
    """
    incomplete = widened(holes, width_ms)
    if raw_floor_ms is not None:
        low = window_start_after(raw_floor_ms, width_ms)
        incomplete = joined([(_EVER[0], low - 1), *incomplete])
    spans = outside(*_EVER, incomplete)
    if incomplete:
        for gap in _unowned(tier_map, awaited, incomplete[-1][1]):
            for mint, maxt in inside(*gap, incomplete):
                spans.append((window_start_after(mint, width_ms), maxt // width_ms * width_ms))
    for finer_ms in tier_map.widths_ms:
        if finer_ms <= width_ms and width_ms % finer_ms == 0:
            for owned in tier_map.owned(finer_ms):
                first = max(owned.mint, floors_ms.get(finer_ms, owned.mint))
                spans.append(
                    (window_start_after(first, width_ms), owned.maxt // width_ms * width_ms)
                )
    return _union(spans)


def kept_range(wanted: TierRange, floors_ms: Mapping[int, int]) -> TierRange | None:
    """The whole windows of a range that the retention of their tier keeps; None if there are none.

    ``floors_ms``: windows of a tier of this width that begin before it are past its retention.
    """
    floor_ms = floors_ms.get(wanted.width_ms, wanted.mint)
    first = max(wanted.mint, window_start_after(floor_ms, wanted.width_ms))
    return TierRange(wanted.width_ms, first, wanted.maxt) if first <= wanted.maxt else None


def is_inside(span: Span, ranges: Sequence[Span]) -> bool:
    """Whether a closed range lies in one of these, which are ascending and disjoint."""
    at = bisect_right(ranges, span[0], key=lambda one: one[0]) - 1
    return at >= 0 and ranges[at][0] <= span[0] and span[1] <= ranges[at][1]


def _builds(sources: TierSources, width_ms: int) -> list[TierRange]:
    clean = _joined(sources.tier_map.clean(width_ms))
    available = available_spans(
        width_ms,
        sources.tier_map,
        raw_floor_ms=sources.raw_floor_ms,
        floors_ms=sources.floors_ms,
        holes=sources.holes,
        awaited=sources.awaited,
    )
    if width_ms in sources.floors_ms:
        # What a build leaves out must not be planned, or it would be planned again for ever.
        kept = window_start_after(sources.floors_ms[width_ms], width_ms)
        available = [(max(low, kept), high) for low, high in available if high >= kept]
    given_up = sources.given_up.get(width_ms, ())
    available = [rest for span in available for rest in outside(*span, given_up)]
    days, n_samples = _touched_days(sources, width_ms)
    builds: list[TierRange] = []
    n_in_job = 0
    for day, n in zip(days.tolist(), n_samples.tolist(), strict=True):
        span = _to_build(day, clean, available)
        if span is None:
            continue
        last = builds[-1] if builds else None
        if last is not None and n_in_job + n <= JOB_SAMPLES_MAX:
            joined = (last.mint, span[1])
            if _may_join(sources, width_ms, (last.maxt, span[0]), joined, clean, available):
                builds[-1] = TierRange(width_ms, *joined)
                n_in_job += n
                continue
        builds.append(TierRange(width_ms, *span))
        n_in_job = n
    return builds


def _touched_days(sources: TierSources, width_ms: int) -> tuple[I64Array, I64Array]:
    """Days in which a source has something, that have ended and may be built now."""
    days, n_samples = [sources.days], [sources.n_samples]
    for entry in sources.entries:
        if entry.width_ms <= width_ms and width_ms % entry.width_ms == 0 and entry.n_samples:
            own = np.arange((entry.mint - 1) // DAY_MS, (entry.maxt - 1) // DAY_MS + 1)
            days.append(own)
            n_samples.append(np.full(len(own), entry.n_samples // len(own)))
    touched, inverse = np.unique(np.concatenate(days), return_inverse=True)
    sums = np.zeros(len(touched), np.int64)
    np.add.at(sums, inverse, np.concatenate(n_samples))
    is_due = touched < sources.end_day
    if width_ms in sources.floors_ms:
        is_due &= (touched + 1) * DAY_MS >= sources.floors_ms[width_ms] + width_ms
    for first, last in sources.blocked:
        is_due &= (touched < first) | (touched > last)
    return touched[is_due], sums[is_due]


def _to_build(day: int, clean: Sequence[Span], available: Sequence[Span]) -> Span | None:
    """The part of a day that is to be built: from its last unclean time back to what there is."""
    mint, maxt = day * DAY_MS + 1, (day + 1) * DAY_MS
    for low, high in reversed(available):
        low, high = max(low, mint), min(high, maxt)
        if low <= high and not is_inside((low, high), clean):
            return low, high
    return None


def _may_join(
    sources: TierSources,
    width_ms: int,
    gap: Span,
    joined: Span,
    clean: Sequence[Span],
    available: Sequence[Span],
) -> bool:
    """Whether two ranges may be built in one, with what lies between them (exclusive ``gap``)."""
    n_days = partition_days(width_ms)
    if (joined[0] - 1) // DAY_MS // n_days != (joined[1] - 1) // DAY_MS // n_days:
        return False
    if not is_inside(joined, available):
        return False
    between = (gap[0] + 1, gap[1] - 1)
    if between[0] > between[1]:
        return True
    first, last = (between[0] - 1) // DAY_MS, (between[1] - 1) // DAY_MS
    if any(low <= last and high >= first for low, high in sources.blocked):
        return False
    return not any(low <= between[1] and high >= between[0] for low, high in clean)


def _merges(sources: TierSources, clean: TierRange) -> list[TierRange]:
    """Merges inside one clean range without gaps."""
    n_days = partition_days(clean.width_ms)
    by_partition: dict[int, list[TierEntry]] = {}
    for entry in sorted(sources.entries, key=lambda entry: (entry.cover_min, entry.cover_max)):
        is_inside = clean.mint <= entry.cover_min and entry.cover_max <= clean.maxt
        if entry.width_ms == clean.width_ms and is_inside:
            partition = (entry.cover_min - 1) // DAY_MS // n_days
            by_partition.setdefault(partition, []).append(entry)
    merges = []
    for partition, members in by_partition.items():
        has_ended = (partition + 1) * n_days <= sources.end_day
        run = _run_to_merge(members, has_ended=has_ended)
        if run:
            mint, maxt = min(e.cover_min for e in run), max(e.cover_max for e in run)
            first, last = (mint - 1) // DAY_MS, (maxt - 1) // DAY_MS
            merge = kept_range(TierRange(clean.width_ms, mint, maxt), sources.floors_ms)
            is_blocked = any(low <= last and high >= first for low, high in sources.blocked)
            if merge is not None and not is_blocked:
                merges.append(merge)
    return merges


def _run_to_merge(members: Sequence[TierEntry], *, has_ended: bool) -> Sequence[TierEntry]:
    """Parts of a partition, ascending in time, that should be one; none if they are fine."""
    run: list[TierEntry] = []
    for entry in members:
        if run and (entry.level, entry.cover_min) != (run[-1].level, run[-1].cover_max + 1):
            run = []
        run.append(entry)
        if len(run) == FAN_IN:
            return run
    if len(members) > PARTS_MAX:
        return members
    largest = max(entry.size_bytes for entry in members)
    rest = sum(entry.size_bytes for entry in members) - largest
    if has_ended and len(members) > 1 and SETTLED_SHARE * rest >= largest:
        return members
    return []


def _unowned(tier_map: TierMap, awaited: Sequence[Span], last_ms: int) -> list[Span]:
    """Closed ranges up to a time that no part of any tier has, here or aside; ascending."""
    there = [
        (one.mint, one.maxt) for width_ms in tier_map.widths_ms for one in tier_map.owned(width_ms)
    ]
    owned = _union([*there, *awaited])
    gaps = []
    low = _EVER[0]
    for mint, maxt in owned:
        gaps.append((low, min(mint - 1, last_ms)))
        low = maxt + 1
    gaps.append((low, last_ms))
    return [(mint, maxt) for mint, maxt in gaps if mint <= maxt]


def _held_elsewhere(sources: TierSources, width_ms: int) -> list[Span]:
    """Closed ranges of windows that can be made of samples that stay, or of configured tiers."""
    floors = (sources.raw_floor_ms, sources.erase_floor_ms)
    low = max((floor_ms for floor_ms in floors if floor_ms is not None), default=None)
    first = _EVER[0] if low is None else window_start_after(low, width_ms)
    spans = outside(first, _EVER[1], widened(sources.holes, width_ms))
    for finer_ms in sources.widths_ms:
        if finer_ms <= width_ms and width_ms % finer_ms == 0:
            for mint, maxt in _joined(sources.tier_map.clean(finer_ms)):
                first = max(mint, sources.floors_ms.get(finer_ms, mint))
                spans.append((window_start_after(first, width_ms), maxt // width_ms * width_ms))
    return _union(spans)


def _joined(ranges: Sequence[Owned]) -> list[Span]:
    return _union([(owned.mint, owned.maxt) for owned in ranges])


def _union(spans: Sequence[Span]) -> list[Span]:
    """Closed ranges with neighbours and overlaps joined, ascending; empty ones left out."""
    union: list[Span] = []
    for low, high in sorted(span for span in spans if span[0] <= span[1]):
        if union and low <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(high, union[-1][1]))
        else:
            union.append((low, high))
    return union
