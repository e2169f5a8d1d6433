"""Reading windows: for each stretch of time from the tier that answers for it, else from samples.

Also what stands for samples that are gone. Immutable; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.head_read import is_among
from tsengine.storage.pieces import U32Array
from tsengine.storage.tier_answers import TierAnswers
from tsengine.storage.tier_last import LAST_COLUMNS, SampleRows, last_samples
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_sources import WindowSources
from tsengine.storage.tier_stretches import Stretch
from tsengine.storage.tier_windows import join, no_windows, spread

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
    """Reads of windows of one state: who answers is planned by `TierAnswers`."""

    __slots__ = ("_answers", "_sources")

    def __init__(self, answers: TierAnswers, sources: WindowSources) -> None:
        self._answers = answers
        self._sources = sources

    def read(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, columns: Collection[Column]
    ) -> WindowBatch:
        """Windows of the series ``refs`` (ascending) with mint <= end <= maxt.

        ``mint - 1`` and ``maxt`` are multiples of the width. Raises CorruptionError.
        """
        assert (mint - 1) % width_ms == maxt % width_ms == 0, "whole windows"
        columns = frozenset(columns)
        batches = []
        for rows, plan in self._answers.plans(refs, width_ms, mint, maxt):
            own = refs if rows is None else refs[rows]
            found = [self._sources.read(own, width_ms, stretch, columns) for stretch in plan]
            batches += found if rows is None else [spread(one, rows, len(refs)) for one in found]
        if not batches:
            return no_windows(len(refs), width_ms, columns)
        return join(batches, columns)

    def count(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, count_samples: CountSamples
    ) -> int:
        """Upper bound of the windows and samples that `read` looks at, from indexes alone."""
        n = 0
        for rows, plan in self._answers.plans(refs, width_ms, mint, maxt):
            own = refs if rows is None else refs[rows]
            for stretch in plan:
                if stretch.width_ms:
                    tier = self._sources.tiers[stretch.tier]
                    n += tier.count_windows(own, stretch.mint, stretch.maxt)
                if not stretch.width_ms or self._sources.late_rows(own, stretch) is not None:
                    n += count_samples(own, stretch.mint, stretch.maxt)
        return n

    def names(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        """Names of what a read of windows (0: of samples) uses, finest first."""
        if width_ms == 0:
            widths = {stretch.width_ms for stretch in self._answers.stand_ins(mint, maxt)}
            hidden_ms = self._answers.complete.hidden_ms
            if hidden_ms is None or maxt >= hidden_ms or not widths:
                widths.add(0)
        else:
            plans = self._answers.every_plan(width_ms, mint, maxt).values()
            stretches = {stretch for plan in plans for stretch in plan}
            widths = {stretch.width_ms for stretch in stretches}
            if any(self._sources.has_late(stretch) for stretch in stretches):
                widths.add(0)
        return tuple(tier_name(w) for w in sorted(widths))

    def old_tiers(self, mint: int, maxt: int) -> list[tuple[TierReader, int, int]]:
        """Tiers with windows of a closed range in which samples are gone, and what of it they have.

        Times of the range are those of samples.
        """
        latest_ms = self._answers.complete.latest_ms
        if latest_ms is None:
            return []
        maxt = min(maxt, latest_ms - 1)
        found = []
        for tier in self._sources.tiers:
            entry = tier.entry
            first = entry.mint - entry.width_ms + 1
            low = max(mint, first, self._answers.first_kept(entry.width_ms, first))
            high = min(maxt, entry.maxt)
            if low <= high:
                found.append((tier, low, high))
        return found

    def old_rows(self, refs: U32Array, mint: int, maxt: int) -> npt.NDArray[np.bool_]:
        """Which series have windows of where samples are gone: bool[S]."""
        is_there = np.zeros(len(refs), np.bool_)
        mask = self._sources.mask
        for tier, low, high in self.old_tiers(mint, maxt):
            here = is_among(refs, tier.refs)
            hidden = None if mask is None else mask.touching(refs, low, high)
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

        A staleness marker stands at the end of a window that ends with one, or where samples are
        there again. None if there are none.
        """
        complete = self._answers.complete
        if complete.latest_ms is None or mint >= complete.latest_ms:
            return None
        # Whole windows: where the range ends says nothing of markers.
        widest_ms = max(self._answers.widths_ms, default=1)
        stretches = self._answers.stand_ins(mint, -(-maxt // widest_ms) * widest_ms)
        if not stretches:
            return None
        found = SampleRows.joined([self._last_of(refs, stretch) for stretch in stretches])
        found = found.take(np.flatnonzero(found.t_ms <= maxt))
        if not complete.longer:
            return found
        is_gone = found.t_ms < complete.of_refs(refs)[found.rows]
        for low, high in complete.holes:
            is_gone |= (found.t_ms >= low) & (found.t_ms <= high)
        return found.take(np.flatnonzero(is_gone))

    def _last_of(self, refs: U32Array, stretch: Stretch) -> SampleRows:
        """Last samples of the windows that meet a stretch."""
        end = -(-stretch.maxt // stretch.width_ms) * stretch.width_ms
        windows = self._sources.read_tier(refs, replace(stretch, maxt=end), LAST_COLUMNS)
        return last_samples(windows, stretch.mint, stretch.maxt)
