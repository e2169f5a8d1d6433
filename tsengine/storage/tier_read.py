"""Reading windows: for each stretch of time from the tier that answers for it, else from samples.

A plan says which source answers for which closed range (pure); a read follows it. Immutable; any
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.head_read import is_among
from tsengine.storage.holes import inside, joined, outside
from tsengine.storage.mask import Mask
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.retention_marks import window_start, window_start_after
from tsengine.storage.tier_doubts import (
    DOUBT_COLUMNS,
    Doubts,
    after_late,
    of_spans,
    windows_touched,
)
from tsengine.storage.tier_last import LAST_COLUMNS, SampleRows, last_samples, rows_of_frames
from tsengine.storage.tier_late import with_late
from tsengine.storage.tier_map import Owned, Span, TierMap, cut_by
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_stretches import EVER, STRETCHES_MAX, Completeness, Stretch, with_fewer
from tsengine.storage.tier_windows import (
    join,
    no_windows,
    sources_of_wider,
    spread,
    wider_windows,
    windows_of_samples,
    without_hidden_windows,
)

EVERY_SEQUENCE = (0, 2**63 - 1)


class ReadSamples(Protocol):
    """Reads samples of series in a closed range, staleness markers included.

    Of sources whose first sequence lies in the closed range ``begin``; heads come last.
    """

    def __call__(
        self, refs: U32Array, mint: int, maxt: int, begin: tuple[int, int] = ..., /
    ) -> FrameBatch:
        """Rows in the order of ``refs``, which ascend."""
        ...


LateRefs = Callable[[int, int, int], list[U32Array]]
"""Of the sources that have something after a sequence, near a closed range: their series."""


@dataclass(frozen=True, slots=True, eq=False)
class LateSource:
    """A source that has something after a sequence.

    It has samples of the series ``refs`` (u32[S] ascending) in the closed ranges ``spans``
    (i64[K, 2]) only. ``is_mixed``: also of before the sequence, not told apart.
    """

    refs: U32Array
    spans: I64Array
    is_mixed: bool


LateSources = Callable[[int, int, int], list[LateSource]]
"""Sources that have something after a sequence, near a closed range, hidden or not."""

CountSamples = Callable[[U32Array, int, int], int]
"""Upper bound of the samples of series in a closed range."""

RAW = "raw"
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))


def tier_name(width_ms: int) -> str:
    """What users call a tier: its width, or raw for 0."""
    if width_ms == 0:
        return RAW
    unit, suffix = next(u for u in _UNITS if width_ms % u[0] == 0)
    return f"{width_ms // unit}{suffix}"


class TierReads:
    """What reads of windows need of one state.

    Parameters
    ----------
    tiers, tier_map
        Open parts of all tiers, and the map that was made of them.
    unsettled
        Closed ranges in which heads may have samples.
    read_samples
        Reads what there is of samples.
    late_refs, late_sources
        Tell who may have samples that a tier lacks.
    complete
        From when on samples are complete.
    floors_ms
        Windows of a tier of this width that begin before it are gone.
    mask
        What deletes and rules hide.

    """

    __slots__ = (
        "_complete", "_floors_ms", "_late_refs", "_late_sources", "_map", "_mask",
        "_read_samples", "_tiers", "_unsettled",
    )  # fmt: skip

    def __init__(
        self,
        tiers: Sequence[TierReader],
        tier_map: TierMap,
        unsettled: Sequence[Span],
        read_samples: ReadSamples,
        late_refs: LateRefs,
        late_sources: LateSources,
        *,
        complete: Completeness,
        floors_ms: Mapping[int, int],
        mask: Mask | None,
    ) -> None:
        self._tiers = tiers
        self._map = tier_map
        self._unsettled = unsettled
        self._read_samples = read_samples
        self._late_refs = late_refs
        self._late_sources = late_sources
        self._complete = complete
        self._floors_ms = floors_ms
        self._mask = mask

    @property
    def widths_ms(self) -> tuple[int, ...]:
        """Widths of the tiers, ascending."""
        return self._map.widths_ms

    @property
    def mask(self) -> Mask | None:
        """What deletes and rules hide of windows."""
        return self._mask

    def plan(self, width_ms: int, mint: int, maxt: int) -> list[Stretch]:
        """Who answers for the windows of a closed range of most series, ascending in time.

        The coarsest clean tier first, then samples where they are complete, then tiers with the
        samples that came later, then what there is of samples.
        """
        return self._plan(width_ms, mint, maxt, self._complete.common_ms)

    def _plan(self, width_ms: int, mint: int, maxt: int, complete_ms: int | None) -> list[Stretch]:
        """Likewise for series whose samples are complete from a time on."""
        widths = [w for w in reversed(self.widths_ms) if width_ms % w == 0]
        found: list[Stretch] = []
        gaps: list[Span] = [(mint, maxt)] if mint <= maxt else []
        for own_ms in widths:
            clean = self._map.clean(own_ms, self._unsettled)
            gaps = self._take(found, gaps, clean, own_ms, width_ms)
        incomplete = self._complete.incomplete(complete_ms, width_ms)
        if incomplete and gaps and widths:
            old = [part for gap in gaps for part in inside(*gap, incomplete)]
            gaps = [part for gap in gaps for part in outside(*gap, incomplete)]
            for own_ms in widths:
                known: list[Stretch] = []
                old = self._take(known, old, self._map.owned(own_ms), own_ms, width_ms)
                found += [replace(stretch, is_clean=False) for stretch in known]
            gaps += old
        found += [Stretch(lo, hi, 0, -1) for lo, hi in gaps]
        found.sort(key=lambda stretch: stretch.mint)
        return found if len(found) <= STRETCHES_MAX else with_fewer(found, incomplete)

    def read(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, columns: Collection[Column]
    ) -> WindowBatch:
        """Windows of the series ``refs`` (ascending) with mint <= end <= maxt.

        ``mint - 1`` and ``maxt`` are multiples of the width. Raises CorruptionError.
        """
        assert (mint - 1) % width_ms == maxt % width_ms == 0, "whole windows"
        columns = frozenset(columns)
        batches = []
        for rows, plan in self._plans(refs, width_ms, mint, maxt):
            own = refs if rows is None else refs[rows]
            found = [self._read(own, width_ms, stretch, columns) for stretch in plan]
            batches += found if rows is None else [spread(one, rows, len(refs)) for one in found]
        if not batches:
            return no_windows(len(refs), width_ms, columns)
        return join(batches, columns)

    def count(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, count_samples: CountSamples
    ) -> int:
        """Upper bound of the windows and samples that `read` looks at, from indexes alone."""
        n = 0
        for rows, plan in self._plans(refs, width_ms, mint, maxt):
            own = refs if rows is None else refs[rows]
            for stretch in plan:
                if stretch.width_ms:
                    n += self._tiers[stretch.tier].count_windows(own, stretch.mint, stretch.maxt)
                if not stretch.width_ms or self._late_rows(own, stretch) is not None:
                    n += count_samples(own, stretch.mint, stretch.maxt)
        return n

    def _plans(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int
    ) -> list[tuple[npt.NDArray[np.int64] | None, list[Stretch]]]:
        """Rows of ``refs`` and the plan for them; None for all rows."""
        plans = {at: self._plan(width_ms, mint, maxt, at) for at in self._complete.times}
        first = plans[self._complete.common_ms]
        if all(plan == first for plan in plans.values()):
            return [(None, first)]
        return [(rows, plans[from_ms]) for from_ms, rows in self._complete.groups(refs)]

    def names(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        """Names of what a read of windows (0: of samples) uses, finest first."""
        if width_ms == 0:
            widths = {stretch.width_ms for stretch in self._last_plan(mint, maxt)}
            hidden_ms = self._complete.hidden_ms
            if hidden_ms is None or maxt >= hidden_ms or not widths:
                widths.add(0)
        else:
            plans = [self._plan(width_ms, mint, maxt, at) for at in self._complete.times]
            stretches = {stretch for plan in plans for stretch in plan}
            widths = {stretch.width_ms for stretch in stretches}
            if any(self._has_late(stretch) for stretch in stretches):
                widths.add(0)
        return tuple(tier_name(w) for w in sorted(widths))

    def exact_floor_ms(self, width_ms: int, refs: U32Array) -> int | None:
        """Windows of this width (0: samples) are exact for times after it; None: all are."""
        spans = self.missing_spans(width_ms, refs, *EVER)
        spans += self.doubtful_spans(width_ms, refs, *EVER)
        return max((last for _, last in spans), default=None)

    def missing_spans(self, width_ms: int, refs: U32Array, mint: int, maxt: int) -> list[Span]:
        """Of a closed range what neither tiers nor complete samples tell; ascending, disjoint.

        In windows of this width; for 0 what of the samples themselves may be gone.
        """
        latest_ms = self._complete.latest_ms
        if latest_ms is None or window_start(mint, max(1, width_ms)) >= latest_ms:
            return []
        groups = self._complete.groups(refs)
        if width_ms == 0:
            times = [from_ms for from_ms, _ in groups if from_ms is not None]
            return inside(mint, maxt, self._complete.incomplete(max(times, default=None)))
        first, last = window_start(mint, width_ms), -(-maxt // width_ms) * width_ms
        found = [
            (stretch.mint, stretch.maxt)
            for complete_ms, _ in groups
            for stretch in self._old_stretches(width_ms, first, last, complete_ms)
            if stretch.width_ms == 0
        ]
        return list(joined(found))

    def doubtful_spans(self, width_ms: int, refs: U32Array, mint: int, maxt: int) -> list[Span]:
        """Windows of a closed range that are told, perhaps not as all samples would.

        By a tier; or they are missing, but there are samples, hidden or not. Of samples (0) those
        that no tier stands for likewise.
        """
        latest_ms = self._complete.latest_ms
        width = max(1, width_ms)
        first, last = window_start(mint, width), -(-maxt // width) * width
        is_all_there = latest_ms is None or first >= latest_ms
        if is_all_there and not any(len(tier.doubts) for tier in self._tiers):
            return []
        found = self._spans_of_samples(refs, width_ms, first, last)
        if width_ms:
            doubts = self._doubts(refs, width_ms, first, last, is_precise=False)
            found += doubts.widened(width_ms).spans()
        return list(joined(found))

    def _spans_of_samples(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """Of what is not told in a closed range, where sources of the series have anything."""
        untold = self.untold_spans(refs, width_ms, mint, maxt)
        if not untold:
            return []
        return [
            span
            for source in self._late_sources(-1, untold[0][0], untold[-1][1])
            if is_among(refs, source.refs).any()
            for low, high in untold
            for span in windows_touched(source.spans, max(1, width_ms), low, high)
        ]

    def untold_spans(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """What is missing in a closed range (whole windows) though tiers keep it; ascending.

        Of samples (0) what no tier stands for.
        """
        missing = self.missing_spans(width_ms, refs, mint, maxt)
        if not missing or not self.widths_ms:
            return []
        if width_ms == 0:
            told = [(one.mint, one.maxt) for one in self._last_plan(mint, maxt)]
            missing = [left for span in missing for left in outside(*span, told)]
        kept_ms = min(self._first_kept(own_ms, EVER[0]) for own_ms in self.widths_ms)
        return inside(kept_ms, EVER[1], missing)

    def doubts(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> Doubts:
        """Windows of a closed range (whole ones) that are not known to be of all samples, by rows.

        Reads samples that came late.
        """
        found = self._doubts(refs, width_ms, mint, maxt, is_precise=True)
        return found.widened(width_ms).settled()

    def _doubts(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, *, is_precise: bool
    ) -> Doubts:
        """Likewise; else, where late samples may be, but not what is missing."""
        found = []
        for complete_ms, rows in self._complete.groups(refs):
            own = refs if len(rows) == len(refs) else refs[rows]
            pieces = [
                piece
                for stretch in self._doubted(width_ms, mint, maxt, complete_ms)
                if stretch.width_ms or is_precise
                for piece in self._doubts_of(own, stretch, is_precise=is_precise)
            ]
            found += [piece.renamed(rows) for piece in pieces if len(piece)]
        return Doubts.joined(found)

    def _doubted(
        self, width_ms: int, mint: int, maxt: int, complete_ms: int | None
    ) -> list[Stretch]:
        """What of a plan may have windows in doubt."""
        old = self._old_stretches(width_ms, mint, maxt, complete_ms)
        if not any(len(tier.doubts) for tier in self._tiers):
            return old
        plan = self._plan(width_ms, mint, maxt, complete_ms)
        return old + [s for s in plan if s.width_ms and s.is_clean and s not in old]

    def _old_stretches(
        self, width_ms: int, mint: int, maxt: int, complete_ms: int | None
    ) -> list[Stretch]:
        """The plan of the windows that have times in which samples may be gone."""
        return [
            stretch
            for span in inside(mint, maxt, self._complete.incomplete(complete_ms, width_ms))
            for stretch in self._plan(width_ms, *span, complete_ms)
        ]

    def _doubts_of(self, refs: U32Array, stretch: Stretch, *, is_precise: bool) -> list[Doubts]:
        """Windows of a stretch that are in doubt, by rows; samples are incomplete there."""
        mint, maxt = stretch.mint, stretch.maxt
        if stretch.width_ms == 0:
            return [Doubts.of_all(np.arange(len(refs)), mint, maxt)]
        tier = self._tiers[stretch.tier]
        found = [tier.doubts.within(mint, maxt).of_refs(refs)]
        seq, own_ms = tier.entry.seq_max, stretch.width_ms
        for away in self._complete.unseen:
            if away.is_lacked_by(own_ms, seq):
                extent = np.array([(away.mint, away.maxt)], np.int64)
                found += of_spans(refs, refs, windows_touched(extent, own_ms, mint, maxt))
        if stretch.is_clean:
            return found
        for deleted in () if self._mask is None else self._mask.deletes:
            if deleted.seq > seq:
                # A series that the tier has nothing of loses no window.
                own = deleted.refs[is_among(deleted.refs, tier.refs)]
                cut = windows_touched(cut_by(deleted, own_ms), own_ms, mint, maxt)
                found += of_spans(refs, own, cut)
        for source in self._late_sources(seq, mint, maxt):
            if source.is_mixed or not is_precise:
                spans = windows_touched(source.spans, own_ms, mint, maxt)
                found += of_spans(refs, source.refs, spans)
        late = self._late_rows(refs, stretch) if is_precise else None
        if late is not None:
            rows = np.flatnonzero(late)
            old, new = self._samples_of(refs[rows], stretch)
            known = self._read_tier(refs[rows], stretch, DOUBT_COLUMNS)
            found.append(after_late(known, old, new).renamed(rows))
        return found

    def covered(self, width_ms: int, mint: int, maxt: int) -> bool:
        """Whether a tier answers for any window of a closed range."""
        return any(stretch.width_ms for stretch in self.plan(width_ms, mint, maxt))

    def old_tiers(self, mint: int, maxt: int) -> list[tuple[TierReader, int, int]]:
        """Tiers with windows of a closed range in which samples are gone, and what of it they have.

        Times of the range are those of samples.
        """
        latest_ms = self._complete.latest_ms
        if latest_ms is None:
            return []
        maxt = min(maxt, latest_ms - 1)
        found = []
        for tier in self._tiers:
            entry = tier.entry
            first = entry.mint - entry.width_ms + 1
            low = max(mint, first, self._first_kept(entry.width_ms, first))
            high = min(maxt, entry.maxt)
            if low <= high:
                found.append((tier, low, high))
        return found

    def old_rows(self, refs: U32Array, mint: int, maxt: int) -> npt.NDArray[np.bool_]:
        """Which series have windows of where samples are gone: bool[S]."""
        is_there = np.zeros(len(refs), np.bool_)
        for tier, low, high in self.old_tiers(mint, maxt):
            here = is_among(refs, tier.refs)
            hidden = None if self._mask is None else self._mask.touching(refs, low, high)
            left = None if hidden is None else hidden.windows(tier.entry.seq_max)
            if left is not None:
                is_left = np.zeros(len(refs), np.bool_)
                for rows, _, _ in left:
                    is_left[rows] = True
                here &= is_left
            is_there |= here
        return is_there

    def last_samples(self, refs: U32Array, mint: int, maxt: int) -> SampleRows | None:
        """What stands for samples that are gone: the last of each window of the finest tier.

        A staleness marker stands at the end of a window that ends with one. None if there are none.
        """
        stretches = self._last_plan(mint, maxt)
        if not stretches:
            return None
        found = SampleRows.joined([self._last_of(refs, stretch) for stretch in stretches])
        if not self._complete.longer:
            return found
        is_gone = found.t_ms < self._complete.of_refs(refs)[found.rows]
        for low, high in self._complete.holes:
            is_gone |= (found.t_ms >= low) & (found.t_ms <= high)
        return found.take(np.flatnonzero(is_gone))

    def _last_plan(self, mint: int, maxt: int) -> list[Stretch]:
        """Tiers that stand for samples that are gone; stretches may begin or end inside windows."""
        times = [from_ms for from_ms in self._complete.times if from_ms is not None]
        gaps = inside(mint, maxt, self._complete.incomplete(max(times, default=None)))
        found: list[Stretch] = []
        for own_ms in self.widths_ms:
            gaps = self._take(found, gaps, self._map.owned(own_ms), own_ms, 1)
        return sorted(found, key=lambda stretch: stretch.mint)

    def _last_of(self, refs: U32Array, stretch: Stretch) -> SampleRows:
        """Last samples of the windows that meet a stretch."""
        end = -(-stretch.maxt // stretch.width_ms) * stretch.width_ms
        windows = self._read_tier(refs, replace(stretch, maxt=end), LAST_COLUMNS)
        return last_samples(windows, stretch.mint, stretch.maxt)

    def _read(
        self, refs: U32Array, width_ms: int, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        if stretch.width_ms == 0:
            frames = self._read_samples(refs, stretch.mint, stretch.maxt)
            return windows_of_samples(frames, width_ms, columns)
        late = self._late_rows(refs, stretch)
        if late is not None:
            plain = replace(stretch, is_clean=True)
            others = np.flatnonzero(~late)
            rows = np.flatnonzero(late)
            with_more = self._read_late(refs[rows], width_ms, stretch, columns)
            if len(others) == 0:
                return with_more
            windows = self._read(refs[others], width_ms, plain, columns)
            pieces = [spread(windows, others, len(refs)), spread(with_more, rows, len(refs))]
            return join(pieces, columns)
        is_same = stretch.width_ms == width_ms
        wanted = columns if is_same else sources_of_wider(columns)
        windows = self._read_tier(refs, stretch, wanted)
        return windows if is_same else wider_windows(windows, width_ms, columns)

    def _has_late(self, stretch: Stretch) -> bool:
        """Whether samples are read besides the tier of a stretch."""
        if stretch.is_clean or stretch.width_ms == 0:
            return False
        seq_max = self._tiers[stretch.tier].entry.seq_max
        return bool(self._late_refs(seq_max, stretch.mint, stretch.maxt))

    def _late_rows(self, refs: U32Array, stretch: Stretch) -> npt.NDArray[np.bool_] | None:
        """Which series may have samples that the tier of a stretch lacks; None if none has."""
        if stretch.is_clean or stretch.width_ms == 0:
            return None
        seq_max = self._tiers[stretch.tier].entry.seq_max
        late = np.zeros(len(refs), np.bool_)
        for own in self._late_refs(seq_max, stretch.mint, stretch.maxt):
            late |= is_among(refs, own)
        return late if late.any() else None

    def _read_late(
        self, refs: U32Array, width_ms: int, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        """Windows of a tier and the samples that it lacks, made one."""
        old, new = self._samples_of(refs, stretch)
        known = self._read_tier(refs, stretch, sources_of_wider(columns))
        return with_late(known, old, new, width_ms, columns)

    def _samples_of(self, refs: U32Array, stretch: Stretch) -> tuple[SampleRows, SampleRows]:
        """Samples that are there: those that the tier of a stretch has seen, and the others."""
        seq_max = self._tiers[stretch.tier].entry.seq_max
        old, new = (
            rows_of_frames(self._read_samples(refs, stretch.mint, stretch.maxt, begin))
            for begin in ((EVERY_SEQUENCE[0], seq_max), (seq_max + 1, EVERY_SEQUENCE[1]))
        )
        return old, new

    def _read_tier(
        self, refs: U32Array, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        tier = self._tiers[stretch.tier]
        windows = tier.read(refs, stretch.mint, stretch.maxt, columns)
        if self._mask is None:
            return windows
        first = stretch.mint - stretch.width_ms + 1
        spans = self._mask.spans(refs, tier.entry.seq_max, first, stretch.maxt)
        return windows if spans is None else without_hidden_windows(windows, spans)

    def _take(
        self,
        found: list[Stretch],
        gaps: Sequence[Span],
        ranges: Sequence[Owned],
        own_ms: int,
        width_ms: int,
    ) -> list[Span]:
        """Fill gaps with ranges of a tier, whole windows of ``width_ms`` only; what is left."""
        left = []
        for lo, hi in gaps:
            for owned in ranges:
                first, last = self._whole(owned, own_ms, width_ms)
                first, last = max(first, lo), min(last, hi)
                if first > last:
                    continue
                found.append(Stretch(first, last, own_ms, owned.tier))
                if first > lo:
                    left.append((lo, first - 1))
                lo = last + 1
            if lo <= hi:
                left.append((lo, hi))
        return left

    def _whole(self, owned: Owned, own_ms: int, width_ms: int) -> Span:
        """The whole windows of ``width_ms`` in a range of a tier that its retention keeps."""
        first = max(owned.mint, self._first_kept(own_ms, owned.mint))
        return window_start_after(first, width_ms), owned.maxt // width_ms * width_ms

    def _first_kept(self, own_ms: int, first_ms: int) -> int:
        """Where the first window of a tier begins that its retention keeps, from a time on."""
        return window_start_after(self._floors_ms.get(own_ms, first_ms), own_ms)
