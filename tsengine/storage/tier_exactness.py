"""Which windows are perhaps not those of all samples that ever were: as queries and builds ask.

What it means to be in doubt is said in `tier_doubts`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.storage.head_read import is_among
from tsengine.storage.holes import inside, joined, widened
from tsengine.storage.pieces import U32Array
from tsengine.storage.retention_marks import window_start
from tsengine.storage.tier_answers import TierAnswers
from tsengine.storage.tier_doubts import (
    DOUBT_COLUMNS,
    Doubts,
    after_late,
    of_spans,
    windows_touched,
)
from tsengine.storage.tier_map import Span, cut_by
from tsengine.storage.tier_sources import WindowSources
from tsengine.storage.tier_stretches import EVER, Stretch


class TierExactness:
    """Doubts of one state; immutable, any thread."""

    __slots__ = ("_answers", "_sources")

    def __init__(self, answers: TierAnswers, sources: WindowSources) -> None:
        self._answers = answers
        self._sources = sources

    def exact_floor_ms(self, width_ms: int, refs: U32Array) -> int | None:
        """Windows of this width (0: samples) are exact for times after it; None: all are."""
        spans = self._answers.missing_spans(width_ms, refs, *EVER)
        spans += self.doubtful_spans(width_ms, refs, *EVER)
        return max((last for _, last in spans), default=None)

    def doubtful_spans(self, width_ms: int, refs: U32Array, mint: int, maxt: int) -> list[Span]:
        """Windows of a closed range that are told, perhaps not as all samples would.

        By a tier; or they are missing, but there are samples, hidden or not, or rules took them, or
        their part is aside, or no tier is to tell anything. Of samples (0) those that no tier
        stands for likewise.
        """
        latest_ms = self._answers.complete.latest_ms
        width = max(1, width_ms)
        first, last = window_start(mint, width), -(-maxt // width) * width
        lost = self._lost_spans(refs, width_ms, first, last)
        is_all_there = latest_ms is None or first >= latest_ms
        if is_all_there and not self._has_listed():
            return list(joined(lost))
        found = lost + self._spans_of_samples(refs, width_ms, first, last)
        found += self.spans_aside(refs, width_ms, first, last)
        found += self.untold_for_ever(refs, width_ms, first, last)
        if width_ms:
            doubts = self._doubts(refs, width_ms, first, last, is_precise=False)
            found += doubts.widened(width_ms).spans()
        return list(joined(found))

    def doubts(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> Doubts:
        """Windows of a closed range (whole ones) that are not known to be of all samples, by rows.

        Reads samples that came late.
        """
        found = self._doubts(refs, width_ms, mint, maxt, is_precise=True)
        return found.widened(width_ms).settled()

    def lost_rows(self, refs: U32Array, mint: int, maxt: int) -> npt.NDArray[np.bool_]:
        """Of which series rules may have taken something of a closed range: bool[S].

        Or parts of tiers list windows in doubt.
        """
        is_lost = np.zeros(len(refs), np.bool_)
        for tier in self._sources.tiers:
            if len(tier.doubts):
                is_lost[tier.doubts.within(mint, maxt).of_refs(refs).owners] = True
        for loss in self._answers.complete.losses:
            if loss.mint <= maxt and mint < max(loss.samples_ms, loss.windows_ms):
                is_lost |= is_among(refs, loss.refs)
        return is_lost

    def untold_for_ever(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """What is missing in a closed range if there is no tier, and none to come."""
        if self._answers.kept_widths_ms:
            return []
        return self._answers.missing_spans(width_ms, refs, mint, maxt)

    def spans_aside(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """What parts that are aside may have in a closed range, of what is not told."""
        complete = self._answers.complete
        holes = widened(complete.holes, max(1, width_ms))
        if not inside(mint, maxt, holes):
            return []
        if self._answers.kept_widths_ms:
            untold = self._answers.untold_spans(refs, width_ms, mint, maxt)
        else:
            untold = self._answers.missing_spans(width_ms, refs, mint, maxt)
        if width_ms == 0 and complete.hidden_ms is not None:
            untold = inside(complete.hidden_ms, EVER[1], untold)
        return [span for low, high in untold for span in inside(low, high, holes)]

    def _lost_spans(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """What rules took in a closed range: windows; or, where nothing tells them, samples."""
        found: list[Span] = []
        for loss in self._answers.complete.losses:
            if mint >= max(loss.samples_ms, loss.windows_ms) or not is_among(refs, loss.refs).any():
                continue
            first = window_start(loss.mint, max(1, width_ms))
            if width_ms:
                found += inside(mint, maxt, [(first, loss.windows_ms - 1)])
            for low, high in self._answers.missing_spans(width_ms, refs, mint, maxt):
                found += inside(low, high, [(first, loss.samples_ms - 1)])
        return found

    def _has_listed(self) -> bool:
        """Whether a part of a tier lists windows in doubt."""
        return any(len(tier.doubts) for tier in self._sources.tiers)

    def _spans_of_samples(self, refs: U32Array, width_ms: int, mint: int, maxt: int) -> list[Span]:
        """Of what is not told in a closed range, where sources of the series have anything."""
        untold = self._answers.untold_spans(refs, width_ms, mint, maxt)
        if not untold:
            return []
        return [
            span
            for source in self._sources.late_sources(-1, untold[0][0], untold[-1][1])
            if is_among(refs, source.refs).any()
            for low, high in untold
            for span in windows_touched(source.spans, max(1, width_ms), low, high)
        ]

    def _doubts(
        self, refs: U32Array, width_ms: int, mint: int, maxt: int, *, is_precise: bool
    ) -> Doubts:
        """As `doubts`; if not precise, where late samples may be, but not what is missing."""
        found = []
        for complete_ms, rows in self._answers.complete.groups(refs):
            own = refs if len(rows) == len(refs) else refs[rows]
            pieces = [
                piece
                for stretch in self._doubted(complete_ms, width_ms, mint, maxt)
                if stretch.width_ms or is_precise
                for piece in self._doubts_of(own, stretch, is_precise=is_precise)
            ]
            found += [piece.renamed(rows) for piece in pieces if len(piece)]
        return Doubts.joined(found)

    def _doubted(
        self, complete_ms: int | None, width_ms: int, mint: int, maxt: int
    ) -> list[Stretch]:
        """What of a plan may have windows in doubt."""
        old = self._answers.old_stretches(complete_ms, width_ms, mint, maxt)
        if not self._has_listed():
            return old
        plan = self._answers.plan_from(complete_ms, width_ms, mint, maxt)
        known = set(old)
        return old + [s for s in plan if s.width_ms and s.is_clean and s not in known]

    def _doubts_of(self, refs: U32Array, stretch: Stretch, *, is_precise: bool) -> list[Doubts]:
        """Windows of a stretch that are in doubt, by rows; samples are incomplete there."""
        mint, maxt = stretch.mint, stretch.maxt
        if stretch.width_ms == 0:
            return [Doubts.of_all(np.arange(len(refs)), mint, maxt)]
        tier = self._sources.tiers[stretch.tier]
        found = [tier.doubts.within(mint, maxt).of_refs(refs)]
        seq, own_ms = tier.entry.seq_max, stretch.width_ms
        for away in self._answers.complete.unseen:
            if away.is_lacked_by(own_ms, seq):
                extent = np.array([(away.mint, away.maxt)], np.int64)
                found += of_spans(refs, refs, windows_touched(extent, own_ms, mint, maxt))
        if stretch.is_clean:
            return found
        mask = self._sources.mask
        for deleted in () if mask is None else mask.deletes:
            if deleted.seq > seq:
                # A series that the tier has nothing of loses no window.
                own = deleted.refs[is_among(deleted.refs, tier.refs)]
                cut = windows_touched(cut_by(deleted, own_ms), own_ms, mint, maxt)
                found += of_spans(refs, own, cut)
        for source in self._sources.late_sources(seq, mint, maxt):
            if source.is_mixed or not is_precise:
                spans = windows_touched(source.spans, own_ms, mint, maxt)
                found += of_spans(refs, source.refs, spans)
        return found + (self._doubts_of_late(refs, stretch) if is_precise else [])

    def _doubts_of_late(self, refs: U32Array, stretch: Stretch) -> list[Doubts]:
        """Those that samples make which the tier has not seen, by looking at them."""
        late = self._sources.late_rows(refs, stretch)
        if late is None:
            return []
        rows = np.flatnonzero(late)
        old, new = self._sources.samples_of(refs[rows], stretch)
        known = self._sources.read_tier(refs[rows], stretch, DOUBT_COLUMNS)
        return [after_late(known, old, new).renamed(rows)]
