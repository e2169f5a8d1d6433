"""Tiers as chores: windows of days that have ended are built, and their parts merged.

Each job reads all windows of a range, some series at a time, writes them as one part and commits it
in the place of the parts that lie in that range. A view reads windows from clean parts of this
tier, else from finer ones, else from samples; so the same job builds, rebuilds and merges.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tsengine.errors import StorageError
from tsengine.model.times import text_of_ms
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage import filenames
from tsengine.storage.checkpoint import targets_of
from tsengine.storage.chores import Job, JobContext
from tsengine.storage.filesystem import storage_error
from tsengine.storage.head_read import sorted_unique
from tsengine.storage.manifest import TierEntry
from tsengine.storage.pieces import I64Array, U32Array, expand_ranges
from tsengine.storage.retention import none_for_ever
from tsengine.storage.state import State
from tsengine.storage.tier_doubts import Doubts
from tsengine.storage.tier_map import Span
from tsengine.storage.tier_writer import write_tier_part
from tsengine.storage.tiering_plan import (
    DAY_MS,
    TierRange,
    TierSources,
    available_spans,
    is_inside,
    kept_range,
    level_of,
    plan_builds,
    plan_drops,
    plan_merges,
)

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase
    from tsengine.storage.part_reader import PartReader
    from tsengine.storage.view import DatabaseView

QUIET_MS = 300_000
"""A day is not built while parts with new samples of it have been coming for less than this."""
CHUNK_NUMBERS = 8 * 1024 * 1024
"""Samples, and numbers of windows, held at a time (more only if one series alone has more)."""
_SPARE_BYTES = 64 * 1024 * 1024
_SHARE_OF_RAW = 2
"""Windows take less than half of what they are made of."""


class TierPlanner:
    """Looks at states for both chores. For one thread at a time, that of the worker's lock."""

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._days: dict[str, tuple[I64Array, I64Array]] = {}
        self._seen_ms: dict[int, int] | None = None

    def sources(self, state: State, now_ms: int, *, eager: bool) -> TierSources:
        """What plans are made from; ``eager`` takes days as soon as they end, changed or not."""
        options = self._database.options
        delay_ms = 0 if eager else round(options.tier_delay * 1000)
        blocked = head_days(state)
        recent = self._recent_parts(state, now_ms)
        if not eager:
            blocked += [span for part in recent for span in _runs(self._days_of(part)[0])]
        days, n_samples = self._days_of_parts(state)
        return TierSources(
            widths_ms=tuple(round(tier.width * 1000) for tier in options.tiers),
            tier_map=state.tier_map,
            entries=tuple(tier.entry for tier in state.tiers),
            days=days,
            n_samples=n_samples,
            blocked=tuple(blocked),
            end_day=(now_ms - delay_ms) // DAY_MS,
            raw_floor_ms=self._database.stored_from(state),
            floors_ms=self._database.tier_floors(),
            erase_floor_ms=none_for_ever(self._database.retention.erase_floors(state).common_ms),
            holes=state.holes,
            awaited=state.awaited,
            given_up=self._database.retention.given_up,
        )

    def _recent_parts(self, state: State, now_ms: int) -> list[PartReader]:
        """Parts with samples that were not there some minutes ago.

        Merges change the names of parts but bring no new sequence; what the start finds is old.
        """
        newest = {part.entry.seq_max for part in state.parts}
        if self._seen_ms is None:
            self._seen_ms = dict.fromkeys(newest, now_ms - QUIET_MS)
        # A clock that was ahead and is put right must not make them recent for ever.
        self._seen_ms = {seq: min(self._seen_ms.get(seq, now_ms), now_ms) for seq in newest}
        return [p for p in state.parts if now_ms - self._seen_ms[p.entry.seq_max] < QUIET_MS]

    def _days_of_parts(self, state: State) -> tuple[I64Array, I64Array]:
        known = {part.entry.name: self._days_of(part) for part in state.parts}
        self._days = known
        if not known:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        days, inverse = np.unique(
            np.concatenate([days for days, _ in known.values()]), return_inverse=True
        )
        n_samples = np.zeros(len(days), np.int64)
        np.add.at(n_samples, inverse, np.concatenate([counts for _, counts in known.values()]))
        return days, n_samples

    def _days_of(self, part: PartReader) -> tuple[I64Array, I64Array]:
        """Days that the part's axes touch, and about how many of its samples lie in each."""
        found = self._days.get(part.entry.name)
        if found is None:
            first = (part.index.axis_mint - 1) // DAY_MS
            last = (part.index.axis_maxt - 1) // DAY_MS
            days = np.unique(expand_ranges(first, last - first + 1))
            counts = np.full(len(days), part.entry.n_samples // max(1, len(days)))
            found = self._days[part.entry.name] = days, counts
        return found


class TierBuilding:
    """Builds the windows of days that have ended, and again those that late data or deletes hit."""

    name = "tier_building"

    def __init__(self, planner: TierPlanner, *, eager: bool = False) -> None:
        self._planner = planner
        self._eager = eager

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        sources = self._planner.sources(state, now_ms, eager=self._eager)
        return [build_job("building", state, build) for build in plan_builds(sources)]


class TierMerging:
    """Merges parts of tiers, and removes those that answer for nothing."""

    name = "tier_merging"

    def __init__(self, planner: TierPlanner) -> None:
        self._planner = planner

    def plan(self, state: State, now_ms: int) -> list[Job]:
        """See `Chore.plan`."""
        sources = self._planner.sources(state, now_ms, eager=True)
        jobs = []
        drops = plan_drops(sources)
        if drops:
            names = frozenset(entry.name for entry in drops)
            jobs.append(
                Job(
                    f"removing parts {' '.join(sorted(names))} of tiers",
                    sum(entry.size_bytes for entry in drops),
                    lambda context: context.replace_tiers(names, ()),
                )
            )
        return jobs + [build_job("merging", state, merge) for merge in plan_merges(sources)]


def head_days(state: State) -> list[Span]:
    """Closed ranges of days in which heads have samples, ascending and disjoint."""
    heads = [*(frozen.head for frozen in state.frozen), state.head]
    days = frozenset[int]().union(*(head.view().days for head in heads))
    return _runs(np.array(sorted(days), np.int64))


def build_range(context: JobContext, wanted: TierRange) -> None:
    """Write the windows of a range as one part and commit it.

    What is past the retention of the tier by now is left out; nothing is done if that is all.
    Raises StorageError if a head has samples there meanwhile, or some were erased; Closed,
    CorruptionError.
    """
    floors_ms = context.database.tier_floors()
    kept = kept_range(wanted, floors_ms)
    if kept is None:
        return
    wanted = kept
    state = context.state
    floors = context.database.retention.build_floors(state)
    view = context.database.view_of(state, floors)
    check_buildable(context.database, state, wanted)
    seqs = [part.entry.seq_max for part in state.parts]
    seqs += [tier.entry.seq_max for tier in state.tiers]
    seqs += [tombstone.seq for tombstone in state.tombstones]
    directory = filenames.tiers_dir(context.directory)
    name = context.new_part_name()
    path = filenames.tier_dir(context.directory, name)
    doubts: list[Doubts] = []
    try:
        if not context.fs.exists(directory):
            context.fs.mkdir(directory)
            context.fs.sync_dir(context.directory)
        entry = write_tier_part(
            context.fs,
            directory,
            name,
            _chunks(context, state, view, wanted, doubts),
            width_ms=wanted.width_ms,
            cover=(wanted.mint, wanted.maxt),
            targets=lambda refs: targets_of(state.catalog, refs),
            seq_max=max(seqs, default=0),
            level=level_of(wanted.mint, wanted.maxt),
            doubts=lambda: Doubts.joined(doubts),
        )
    except BaseException as error:
        context.discard([path])
        if isinstance(error, OSError):
            raise storage_error(error, f"building {_describe(wanted)}") from error
        raise
    replaced = frozenset(
        tier.entry.name
        for tier in state.tiers
        if tier.entry.width_ms == wanted.width_ms and _takes_place(wanted, tier.entry, floors_ms)
    )
    taken = context.database.retention.taken_by_build(floors, (wanted.mint, wanted.maxt))
    context.replace_tiers(replaced, [entry], taken)


def _takes_place(built: TierRange, entry: TierEntry, floors_ms: Mapping[int, int]) -> bool:
    """Whether a part has nothing that is kept outside of a range that was built."""
    left = kept_range(TierRange(entry.width_ms, entry.cover_min, entry.cover_max), floors_ms)
    return left is not None and built.mint <= left.mint and left.maxt <= built.maxt


def is_buildable(database: StorageDatabase, state: State, wanted: TierRange) -> bool:
    """Whether all windows of a range can be read now."""
    try:
        check_buildable(database, state, wanted)
    except StorageError:
        return False
    return True


def check_buildable(database: StorageDatabase, state: State, wanted: TierRange) -> None:
    """Raise StorageError if a view that builds read does not have all of the range."""
    days = ((wanted.mint - 1) // DAY_MS, (wanted.maxt - 1) // DAY_MS)
    if any(first <= days[1] and last >= days[0] for first, last in head_days(state)):
        raise StorageError(f"new samples came for {_describe(wanted)}")
    available = available_spans(
        wanted.width_ms,
        state.tier_map,
        raw_floor_ms=database.stored_from(state),
        floors_ms=database.tier_floors(),
        holes=state.holes,
        awaited=state.awaited,
    )
    if not is_inside((wanted.mint, wanted.maxt), available):
        raise StorageError(f"samples went meanwhile that are needed for {_describe(wanted)}")


def _chunks(
    context: JobContext,
    state: State,
    view: DatabaseView,
    wanted: TierRange,
    doubts: list[Doubts],
) -> Iterator[tuple[U32Array, WindowBatch]]:
    """All windows of the range, some series at a time; those in doubt are added to ``doubts``.

    Of series without any window too: where nothing tells what there was, they may have had some.
    """
    refs, numbers = _numbers_of_series(state, view, wanted)
    others = np.setdiff1d(view.all_refs(), refs, assume_unique=True)
    unknown = view.doubts(others, wanted.width_ms, wanted.mint, wanted.maxt)
    doubts.append(unknown.renamed(others))
    chunk = np.cumsum(numbers) // CHUNK_NUMBERS
    borders = np.concatenate(([0], np.flatnonzero(np.diff(chunk)) + 1, [len(refs)]))
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        context.check_canceled()
        if start < end:
            own = refs[start:end]
            found = view.doubts(own, wanted.width_ms, wanted.mint, wanted.maxt)
            doubts.append(found.renamed(own))
            yield (
                own,
                view.read_windows(
                    own, wanted.width_ms, wanted.mint, wanted.maxt, frozenset(Column)
                ),
            )


def _numbers_of_series(
    state: State, view: DatabaseView, wanted: TierRange
) -> tuple[U32Array, I64Array]:
    """Series that have something in the range, ascending, and how many numbers to read of each."""
    tiers = [
        tier
        for tier in state.tiers
        if wanted.width_ms % tier.entry.width_ms == 0
        and tier.entry.cover_min <= wanted.maxt
        and tier.entry.cover_max >= wanted.mint
    ]
    parts = [p.series_samples(wanted.mint, wanted.maxt) for p in state.parts]
    held = [np.empty(0, np.uint32), *(own for own, _ in parts), *(tier.refs for tier in tiers)]
    refs = sorted_unique(np.concatenate(held))
    width_ms = min([wanted.width_ms] + [tier.entry.width_ms for tier in tiers])
    n_windows = (wanted.maxt - wanted.mint + 1) // width_ms
    numbers = np.full(len(refs), n_windows * len(Column), np.int64)
    if "raw" in view.tiers_read(wanted.width_ms, wanted.mint, wanted.maxt):
        for own, counts in parts:
            numbers[np.searchsorted(refs, own)] += counts
    return refs, numbers


def build_job(doing: str, state: State, wanted: TierRange) -> Job:
    """A job that builds windows; ``doing`` is its first word."""
    sources = [
        (part.entry.mint, part.entry.maxt, part.entry.size_bytes)
        for part in state.parts
        if part.entry.mint <= wanted.maxt and part.entry.maxt >= wanted.mint
    ]
    size = sum(
        size * (min(maxt, wanted.maxt) - max(mint, wanted.mint) + 1) // (maxt - mint + 1)
        for mint, maxt, size in sources
    )
    return Job(
        what=f"{doing} {_describe(wanted)}",
        size_bytes=size,
        run=lambda context: build_range(context, wanted),
        space_bytes=size // _SHARE_OF_RAW + _SPARE_BYTES,
    )


def _describe(wanted: TierRange) -> str:
    first, last = (text_of_ms(t_ms - 1).partition("T")[0] for t_ms in (wanted.mint, wanted.maxt))
    days = first if first == last else f"{first} to {last}"
    return f"windows of {wanted.width_ms // 1000} s of {days}"


def _runs(days: I64Array) -> list[Span]:
    """Ascending days as closed ranges."""
    if len(days) == 0:
        return []
    ends = np.flatnonzero(np.append(np.diff(days) != 1, True))
    starts = np.concatenate(([0], ends[:-1] + 1))
    return list(zip(days[starts].tolist(), days[ends].tolist(), strict=True))
