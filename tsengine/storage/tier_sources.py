"""What windows are made of: parts of tiers, and the samples that these lack.

One stretch of a plan at a time (`tier_answers` makes plans, `tier_read` follows them). Immutable;
any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.head_read import is_among
from tsengine.storage.mask import Mask
from tsengine.storage.pieces import I64Array, U32Array
from tsengine.storage.tier_last import SampleRows, rows_of_frames
from tsengine.storage.tier_late import with_late
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_stretches import Stretch
from tsengine.storage.tier_windows import (
    join,
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


@dataclass(frozen=True, slots=True, eq=False)
class WindowSources:
    """Parts of tiers and samples of one state.

    Parameters
    ----------
    tiers
        Open parts of all tiers; the stretches of plans number them.
    read_samples
        Reads what there is of samples.
    late_refs, late_sources
        Tell who may have samples that a tier lacks.
    mask
        What deletes and rules hide of windows; None for nothing.

    """

    tiers: Sequence[TierReader]
    read_samples: ReadSamples
    late_refs: LateRefs
    late_sources: LateSources
    mask: Mask | None

    def read(
        self, refs: U32Array, width_ms: int, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        """Windows of the series ``refs`` (ascending) in a stretch. Raises CorruptionError."""
        if stretch.width_ms == 0:
            frames = self.read_samples(refs, stretch.mint, stretch.maxt)
            return windows_of_samples(frames, width_ms, columns)
        late = self.late_rows(refs, stretch)
        if late is not None:
            plain = replace(stretch, is_clean=True)
            others = np.flatnonzero(~late)
            rows = np.flatnonzero(late)
            with_more = self._read_late(refs[rows], width_ms, stretch, columns)
            if len(others) == 0:
                return with_more
            windows = self.read(refs[others], width_ms, plain, columns)
            pieces = [spread(windows, others, len(refs)), spread(with_more, rows, len(refs))]
            return join(pieces, columns)
        is_same = stretch.width_ms == width_ms
        wanted = columns if is_same else sources_of_wider(columns)
        windows = self.read_tier(refs, stretch, wanted)
        return windows if is_same else wider_windows(windows, width_ms, columns)

    def _read_late(
        self, refs: U32Array, width_ms: int, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        """Windows of a tier and the samples that it lacks, made one."""
        old, new = self.samples_of(refs, stretch)
        known = self.read_tier(refs, stretch, sources_of_wider(columns))
        return with_late(known, old, new, width_ms, columns)

    def read_tier(
        self, refs: U32Array, stretch: Stretch, columns: frozenset[Column]
    ) -> WindowBatch:
        """What the tier of a stretch has, of its own width, without what is hidden."""
        tier = self.tiers[stretch.tier]
        windows = tier.read(refs, stretch.mint, stretch.maxt, columns)
        if self.mask is None:
            return windows
        first = stretch.mint - stretch.width_ms + 1
        spans = self.mask.spans(refs, tier.entry.seq_max, first, stretch.maxt)
        return windows if spans is None else without_hidden_windows(windows, spans)

    def samples_of(self, refs: U32Array, stretch: Stretch) -> tuple[SampleRows, SampleRows]:
        """Samples that are there: those that the tier of a stretch has seen, and the others."""
        seq_max = self.tiers[stretch.tier].entry.seq_max
        old, new = (
            rows_of_frames(self.read_samples(refs, stretch.mint, stretch.maxt, begin))
            for begin in ((EVERY_SEQUENCE[0], seq_max), (seq_max + 1, EVERY_SEQUENCE[1]))
        )
        return old, new

    def late_rows(self, refs: U32Array, stretch: Stretch) -> npt.NDArray[np.bool_] | None:
        """Which series may have samples that the tier of a stretch lacks; None if none has."""
        late = np.zeros(len(refs), np.bool_)
        for own in self._refs_after(stretch):
            late |= is_among(refs, own)
        return late if late.any() else None

    def has_late(self, stretch: Stretch) -> bool:
        """Whether samples are read besides the tier of a stretch."""
        return bool(self._refs_after(stretch))

    def _refs_after(self, stretch: Stretch) -> list[U32Array]:
        """Of the sources that have something that the tier of a stretch lacks: their series."""
        if stretch.is_clean or stretch.width_ms == 0:
            return []
        seq_max = self.tiers[stretch.tier].entry.seq_max
        return self.late_refs(seq_max, stretch.mint, stretch.maxt)
