"""Who answers for windows: which part of which tier, or samples, for each stretch of time. Pure.

Also what nobody tells: neither a tier nor complete samples. Nothing is read here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.storage.holes import inside, joined, outside
from tsengine.storage.pieces import U32Array
from tsengine.storage.retention_marks import window_start, window_start_after
from tsengine.storage.tier_map import Owned, Span, TierMap
from tsengine.storage.tier_stretches import EVER, STRETCHES_MAX, Completeness, Stretch, with_fewer


class TierAnswers:
    """Plans of one state; immutable, any thread.

    Parameters
    ----------
    tier_map
        Which part of a tier has which time, and where it is clean.
    unsettled
        Closed ranges in which heads may have samples.
    complete
        From when on samples are complete.
    floors_ms
        Of the tiers that are configured: windows of this width that begin before it are gone.

    """

    __slots__ = ("_floors_ms", "_map", "_unsettled", "complete")

    def __init__(
        self,
        tier_map: TierMap,
        unsettled: Sequence[Span],
        complete: Completeness,
        floors_ms: Mapping[int, int],
    ) -> None:
        self._map = tier_map
        self._unsettled = unsettled
        self._floors_ms = floors_ms
        self.complete = complete

    @property
    def widths_ms(self) -> tuple[int, ...]:
        """Widths of the tiers, ascending."""
        return self._map.widths_ms

    @property
    def kept_widths_ms(self) -> frozenset[int]:
        """Widths of the tiers that have parts, or are to have some."""
        return frozenset((*self.widths_ms, *self._floors_ms))

    def plan(self, width_ms: int, mint: int, maxt: int) -> list[Stretch]:
        """Who answers for the windows of a closed range of most series, ascending in time."""
        return self.plan_from(self.complete.common_ms, width_ms, mint, maxt)

    def plan_from(
        self, complete_ms: int | None, width_ms: int, mint: int, maxt: int
    ) -> list[Stretch]:
        """Likewise for series whose samples are complete from a time on.

        The coarsest clean tier first, then samples where they are complete, then tiers with the
        samples that came later, then what there is of samples.
        """
        widths = [w for w in reversed(self.widths_ms) if width_ms % w == 0]
        found: list[Stretch] = []
        gaps: list[Span] = [(mint, maxt)] if mint <= maxt else []
        for own_ms in widths:
            clean = self._map.clean(own_ms, self._unsettled)
            gaps = self._take(found, gaps, clean, own_ms, width_ms)
        incomplete = self.complete.incomplete(complete_ms, width_ms)
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

    def every_plan(self, width_ms: int, mint: int, maxt: int) -> dict[int | None, list[Stretch]]:
        """Plans by the times from which on samples of any series are complete."""
        return {at: self.plan_from(at, width_ms, mint, maxt) for at in self.complete.times}

    def plans(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int
    ) -> list[tuple[npt.NDArray[np.int64] | None, list[Stretch]]]:
        """Rows of ``refs`` and the plan for them; None for all rows."""
        plans = self.every_plan(width_ms, mint, maxt)
        first = plans[self.complete.common_ms]
        if all(plan == first for plan in plans.values()):
            return [(None, first)]
        return [(rows, plans[from_ms]) for from_ms, rows in self.complete.groups(refs)]

    def old_stretches(
        self, complete_ms: int | None, width_ms: int, mint: int, maxt: int
    ) -> list[Stretch]:
        """The plan of the windows that have times in which samples may be gone."""
        return [
            stretch
            for span in inside(mint, maxt, self.complete.incomplete(complete_ms, width_ms))
            for stretch in self.plan_from(complete_ms, width_ms, *span)
        ]

    def stand_ins(self, mint: int, maxt: int) -> list[Stretch]:
        """Tiers that stand for samples that are gone, the finest first; ascending in time.

        Stretches may begin or end inside windows.
        """
        times = [from_ms for from_ms in self.complete.times if from_ms is not None]
        gaps = inside(mint, maxt, self.complete.incomplete(max(times, default=None)))
        found: list[Stretch] = []
        for own_ms in self.widths_ms:
            gaps = self._take(found, gaps, self._map.owned(own_ms), own_ms, 1)
        return sorted(found, key=lambda stretch: stretch.mint)

    def covered(self, width_ms: int, mint: int, maxt: int) -> bool:
        """Whether a tier answers for any window of a closed range."""
        return any(stretch.width_ms for stretch in self.plan(width_ms, mint, maxt))

    def missing_spans(self, width_ms: int, refs: U32Array, mint: int, maxt: int) -> list[Span]:
        """Of a closed range what neither tiers nor complete samples tell; ascending, disjoint.

        In windows of this width; for 0 what of the samples themselves may be gone. Where there is
        no tier, none that has parts and none that will, what is hidden is nobody's to tell.
        """
        latest_ms = self.complete.latest_ms
        if not self.kept_widths_ms and self.complete.hidden_ms is not None:
            mint = max(mint, self.complete.hidden_ms)
        if latest_ms is None or window_start(mint, max(1, width_ms)) >= latest_ms:
            return []
        groups = self.complete.groups(refs)
        if width_ms == 0:
            times = [from_ms for from_ms, _ in groups if from_ms is not None]
            return inside(mint, maxt, self.complete.incomplete(max(times, default=None)))
        first, last = window_start(mint, width_ms), -(-maxt // width_ms) * width_ms
        found = [
            (stretch.mint, stretch.maxt)
            for complete_ms, _ in groups
            for stretch in self.old_stretches(complete_ms, width_ms, first, last)
            if stretch.width_ms == 0
        ]
        return list(joined(found))

    def unclean_spans(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """Whole windows of a closed range that tiers tell, perhaps without samples that came late.

        Where samples may be gone; ascending and disjoint.
        """
        found = [
            (stretch.mint, stretch.maxt)
            for complete_ms, _ in self.complete.groups(refs)
            for stretch in self.old_stretches(complete_ms, width_ms, mint, maxt)
            if stretch.width_ms and not stretch.is_clean
        ]
        return list(joined(found))

    def untold_spans(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """What is missing in a closed range (whole windows) though tiers keep it; ascending.

        Of samples (0) what no tier stands for.
        """
        missing = self.missing_spans(width_ms, refs, mint, maxt)
        widths = self.kept_widths_ms
        if not missing or not widths:
            return []
        if width_ms == 0:
            told = [(one.mint, one.maxt) for one in self.stand_ins(mint, maxt)]
            missing = [left for span in missing for left in outside(*span, told)]
        kept_ms = min(self.first_kept(own_ms, EVER[0]) for own_ms in widths)
        return inside(kept_ms, EVER[1], missing)

    def first_kept(self, own_ms: int, first_ms: int) -> int:
        """Where the first window of a tier begins that its retention keeps, from a time on."""
        return window_start_after(self._floors_ms.get(own_ms, first_ms), own_ms)

    def _take(
        self,
        found: list[Stretch],
        gaps: Sequence[Span],
        ranges: Sequence[Owned],
        own_ms: int,
        width_ms: int,
    ) -> list[Span]:
        """Fill gaps with ranges of a tier, whole windows of ``width_ms`` only; what is left.

        Both ascend. Either may be thousands, so a gap looks only at ranges that meet it.
        """
        left = []
        for lo, hi in gaps:
            at = bisect_left(ranges, lo, key=lambda owned: owned.maxt)
            while at < len(ranges) and ranges[at].mint <= hi:
                owned = ranges[at]
                at += 1
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
        first = max(owned.mint, self.first_kept(own_ms, owned.mint))
        return window_start_after(first, width_ms), owned.maxt // width_ms * width_ms
