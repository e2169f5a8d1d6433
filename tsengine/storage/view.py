"""One pinned state of the database, as queries see it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import Matcher
from tsengine.model.times import MAXT, MINT
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage import select
from tsengine.storage.catalog import CatalogView
from tsengine.storage.head import HeadView
from tsengine.storage.head_read import is_among
from tsengine.storage.manifest import PartEntry
from tsengine.storage.mask import Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention_marks import window_start, window_start_after
from tsengine.storage.tier_answers import TierAnswers
from tsengine.storage.tier_doubts import Doubts
from tsengine.storage.tier_exactness import TierExactness
from tsengine.storage.tier_last import SampleRows, rows_of_frames
from tsengine.storage.tier_map import TierMap
from tsengine.storage.tier_read import TierReads
from tsengine.storage.tier_reader import TierReader
from tsengine.storage.tier_sources import EVERY_SEQUENCE, LateSource, WindowSources
from tsengine.storage.tier_stretches import Completeness, Loss, Unseen


class DatabaseView:
    """Parts, heads and catalog of one moment; immutable, any thread.

    Parameters
    ----------
    parts
        In ascending sequence: a later one wins where timestamps are equal.
    heads
        Oldest first; all newer than the parts.
    floor_ms
        Samples before it are hidden, being past the retention; None keeps all.
    complete_ms
        From it on samples are complete, so windows of tiers stand for what is before it; ``mask``
        hides what of that is past the retention. None for ``floor_ms``.
    longer
        Series for which another time holds, u32[S] ascending, with that time; None for all times.
    holes
        Closed ranges, ascending and disjoint, where samples of any series are missing.
    unseen, losses
        See `Completeness`.
    mask
        What else is not returned; None for nothing.
    tiers, tier_map
        Open parts of tiers, and the map made of them, parts and tombstones; None makes one.
    tier_floors_ms
        By width of the tiers that are configured: windows that begin before it are past the
        retention of their tier.

    """

    __slots__ = (
        "_answers", "_exactness", "_floor_ms", "_heads", "_mask", "_parts", "_tiers", "_whole_ms",
        "_window_sources", "_windows", "catalog",
    )  # fmt: skip

    def __init__(
        self,
        catalog: CatalogView,
        parts: Sequence[PartReader],
        heads: Sequence[HeadView],
        floor_ms: int | None,
        mask: Mask | None = None,
        tiers: Sequence[TierReader] = (),
        tier_map: TierMap | None = None,
        tier_floors_ms: Mapping[int, int] | None = None,
        complete_ms: int | None = None,
        longer: Sequence[tuple[npt.NDArray[np.uint32], int | None]] = (),
        holes: tuple[tuple[int, int], ...] = (),
        unseen: tuple[Unseen, ...] = (),
        losses: tuple[Loss, ...] = (),
    ) -> None:
        self.catalog = catalog
        self._parts = tuple(parts)
        self._heads = tuple(heads)
        self._floor_ms = floor_ms
        self._mask = mask
        self._tiers = tuple(tiers)
        if tier_map is None:
            tier_map = TierMap(self._tiers, self._parts, [] if mask is None else mask.deletes)
        complete = Completeness(
            floor_ms if complete_ms is None else complete_ms,
            tuple(longer),
            floor_ms,
            holes,
            unseen,
            losses,
        )
        self._answers = TierAnswers(
            tier_map,
            [span for head in self._heads if head.n_samples for span in head.touched_spans()],
            complete,
            tier_floors_ms or {},
        )
        self._window_sources = WindowSources(
            self._tiers,
            self._read_samples,
            self._late_refs,
            lambda *near: self._late_sources(tier_map, *near),
            None if mask is None else mask.of_tiers,
        )
        self._windows = TierReads(self._answers, self._window_sources)
        self._exactness = TierExactness(self._answers, self._window_sources)
        self._whole_ms = _whole_from(complete, self._answers.widths_ms)

    @property
    def dictionary(self) -> CatalogView:
        """Texts behind the pair ids."""
        return self.catalog

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Closed time range of the stored samples, None when there are none."""
        spans = [(p.entry.mint, p.entry.maxt) for p in self._parts]
        spans += [(h.mint, h.maxt) for h in self._heads if h.n_samples]
        spans = [(self._clip(mint), maxt) for mint, maxt in spans]
        spans += [(low, high) for _, low, high in self._windows.old_tiers(MINT, MAXT)]
        if not spans:
            return None
        return min(mint for mint, _ in spans), max(maxt for _, maxt in spans)

    @property
    def hides_samples(self) -> bool:
        """Whether anything at all is hidden; then not every series of the catalog may be shown."""
        return self._mask is not None

    @property
    def entries(self) -> tuple[PartEntry, ...]:
        """What the manifest says about the parts."""
        return tuple(part.entry for part in self._parts)

    @property
    def n_samples(self) -> int:
        """Stored samples, duplicates between sources counted each time."""
        parts = sum(p.entry.n_samples for p in self._parts)
        return parts + sum(h.n_samples for h in self._heads)

    def find(
        self,
        matchers: Sequence[Matcher],
        mint: int,
        maxt: int,
        check: Callable[[], None] | None = None,
    ) -> npt.NDArray[np.uint32]:
        """Matching series that an answer over the closed range is about: u32[S] ascending.

        Those with data near it, those that a rule may have taken all of, and those in doubt. All
        of them beside a part that is aside, in holes that no tier tells, or where samples were
        erased and there is no tier. `check` is called between matchers and may raise to give up.
        """
        found = self.catalog.find(matchers, check)
        if mint >= self._whole_ms:
            return self.live(found, mint, maxt)
        if (
            self._answers.complete.is_beside_aside(mint, maxt)
            or self._exactness.spans_aside(found, 0, mint, maxt)
            or self._exactness.untold_for_ever(found, 0, mint, maxt)
        ):
            return found
        lost = found[self._exactness.lost_rows(found, mint, maxt)]
        return np.union1d(self.live(found, mint, maxt), lost)

    def all_refs(self) -> npt.NDArray[np.uint32]:
        """Every series: u32[S] ascending."""
        return self.catalog.all_refs()

    def live(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> npt.NDArray[np.uint32]:
        """Those of `refs` that occur in a source which touches the closed range.

        Series of which everything there is hidden are left out as far as headers tell.
        """
        if len(refs) == 0:
            return refs
        if mint >= self._whole_ms:
            return refs[self._occurring(refs, mint, maxt, self._mask)]
        alive = self._old_rows(refs, mint, maxt)
        mint = self._clip(mint)
        if mint <= maxt:
            alive |= self._occurring(refs, mint, maxt, self._mask)
        return refs[alive]

    def _old_rows(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int
    ) -> npt.NDArray[np.bool_]:
        """Which have windows where samples are gone, or samples that tiers are still to sum up."""
        alive = self._windows.old_rows(refs, mint, maxt)
        width_ms = min(self._answers.widths_ms, default=0)
        if width_ms:
            mint, maxt = window_start(mint, width_ms), -(-maxt // width_ms) * width_ms
        spans = self._answers.untold_spans(refs, width_ms, mint, maxt)
        if width_ms:
            spans += self._answers.unclean_spans(refs, width_ms, mint, maxt)
        for span in spans:
            alive |= self._occurring(refs, *span, self._window_sources.mask)
        return alive

    def _occurring(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, mask: Mask | None
    ) -> npt.NDArray[np.bool_]:
        """Which occur in a source that touches a closed range, as far as a mask leaves anything."""
        alive = np.zeros(len(refs), np.bool_)
        hidden = None if mask is None else mask.touching(refs, mint, maxt)
        if hidden is not None:
            parts, heads = self._sources(mint, maxt)
            alive[select.visible_rows(parts, heads, refs, mint, maxt, hidden)] = True
            return alive
        for source_refs in self._refs_of_sources(mint, maxt):
            alive |= is_among(refs, source_refs)
            if alive.all():
                break
        return alive

    def live_of_all(self, mint: int, maxt: int) -> npt.NDArray[np.uint32] | None:
        """`live` of every series of the catalog; None if that is all of them."""
        if self._mask is not None or self._clip(mint) > maxt:
            return self.live(self.all_refs(), mint, maxt)
        sources = self._refs_of_sources(self._clip(mint), maxt)
        if any(map(self.catalog.is_covered, sources)):
            return None
        everything = self.all_refs()
        marks = np.zeros(self.catalog.next_ref, np.bool_)
        for refs in sources:
            marks[refs[: np.searchsorted(refs, len(marks))]] = True
            if np.count_nonzero(marks) >= len(everything) and marks[everything].all():
                return None
        return everything[marks[everything] | self._old_rows(everything, mint, maxt)]

    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows:
        """Label sets of the given series."""
        return self.catalog.labels(refs)

    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int:
        """Upper bound of what `read` returns, from block headers."""
        if mint >= self._whole_ms:
            return self._count_samples(refs, mint, maxt)
        old = self._windows.old_tiers(mint, maxt)
        n_windows = sum(tier.count_windows(refs, low, high) for tier, low, high in old)
        return n_windows + self._count_samples(refs, mint, maxt)

    def _count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int:
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        return select.count_samples(parts, heads, refs, mint, maxt)

    def read(
        self,
        refs: npt.NDArray[np.uint32],
        mint: int,
        maxt: int,
        *,
        drop_stale: bool,
        with_values: bool = True,
    ) -> FrameBatch:
        """Samples of the closed range as frames; rows in the order of `refs`.

        Where samples may be gone, the last of each window of the finest tier stands for them, and a
        staleness marker at the end of a window that ends with one; samples that are there besides
        are returned too. `with_values`: see `select.read_frames`.
        """
        old = None
        if mint < self._whole_ms:
            old = self._windows.last_samples(refs, mint, maxt)
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        frames = select.read_frames(
            parts, heads, refs, mint, maxt,
            drop_stale=drop_stale, with_values=with_values, mask=self._mask,
        )  # fmt: skip
        if old is None:
            return frames
        if drop_stale:
            old = old.without_markers()
        return SampleRows.joined([old, rows_of_frames(frames)]).frames(len(refs))

    def has_histograms(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> bool:
        """Whether a sample that `read` returns may be a histogram; never falsely False, cheap."""
        if mint < self._whole_ms:
            old = self._windows.old_tiers(mint, maxt)
            if any(tier.has_histograms(refs) for tier, _, _ in old):
                return True
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        return any(head.has_histograms_of(refs, mint, maxt) for head in heads) or any(
            part.has_histograms(refs, mint, maxt) for part in parts
        )

    def read_start_times(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> SeriesColumns:
        """Samples of the closed range that have a known start timestamp.

        ``bits`` are those of the start's i64 ms; series without any are left out.
        """
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        return select.read_start_times(parts, heads, refs, mint, maxt, mask=self._mask)

    @property
    def tier_widths_ms(self) -> tuple[int, ...]:
        """Widths of the tiers that cover anything, ascending."""
        return self._answers.widths_ms

    def exact_floor_ms(self, width_ms: int, refs: npt.NDArray[np.uint32]) -> int | None:
        """Windows of this width (0: samples) are exact for times after it; None: all are."""
        return self._exactness.exact_floor_ms(width_ms, refs)

    def missing_spans(
        self, width_ms: int, refs: npt.NDArray[np.uint32], mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        """Of a closed range what neither tiers nor complete samples tell; ascending, disjoint.

        In windows of this width; for 0 what of the samples themselves may be gone.
        """
        if not width_ms and mint >= self._whole_ms:
            return []
        return self._answers.missing_spans(width_ms, refs, mint, maxt)

    def doubtful_spans(
        self, width_ms: int, refs: npt.NDArray[np.uint32], mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        """Windows of a closed range that are told, perhaps not as all samples would.

        And those, or for 0 what of the samples, that no tier tells though there are samples.
        """
        if not width_ms and mint >= self._whole_ms:
            return []
        return self._exactness.doubtful_spans(width_ms, refs, mint, maxt)

    def doubts(self, refs: npt.NDArray[np.uint32], width_ms: int, mint: int, maxt: int) -> Doubts:
        """Windows of a closed range that `read_windows` can't tell exactly, by rows of `refs`.

        Reads samples that came late.
        """
        return self._exactness.doubts(refs, width_ms, mint, maxt)

    def covered(self, width_ms: int, mint: int, maxt: int) -> bool:
        """Whether a clean part of this or a finer tier serves any window of a closed range."""
        return self._answers.covered(width_ms, mint, maxt)

    def tiers_read(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        """Names of what `read_windows` uses in a closed range, or `read` (width 0), finest first.

        They are ``raw`` and widths as "5m" and "1h".
        """
        return self._windows.names(width_ms, mint, maxt)

    def read_windows(
        self,
        refs: npt.NDArray[np.uint32],
        width_ms: int,
        mint: int,
        maxt: int,
        columns: Collection[Column],
    ) -> WindowBatch:
        """Windows with mint <= end <= maxt; rows in the order of `refs`, which ascend.

        ``mint - 1`` and ``maxt`` are multiples of the width. They come from the tier of this width
        where it is clean, else from finer tiers, else they are made of samples.
        """
        return self._windows.read(refs, width_ms, mint, maxt, columns)

    def count_windows(
        self, refs: npt.NDArray[np.uint32], width_ms: int, mint: int, maxt: int
    ) -> int:
        """Upper bound of what `read_windows` looks at, samples included, from indexes alone."""
        return self._windows.count(refs, width_ms, mint, maxt, self._count_samples)

    def _read_samples(
        self,
        refs: npt.NDArray[np.uint32],
        mint: int,
        maxt: int,
        begin: tuple[int, int] = EVERY_SEQUENCE,
    ) -> FrameBatch:
        """Samples that there are, staleness markers included.

        Of sources whose first sequence lies in a closed range; heads have all ends.
        """
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        if begin != EVERY_SEQUENCE:
            parts = [part for part in parts if begin[0] <= part.entry.seq_min <= begin[1]]
            heads = heads if begin[1] == EVERY_SEQUENCE[1] else []
        return select.read_frames(parts, heads, refs, mint, maxt, drop_stale=False, mask=self._mask)

    def _late_refs(self, seq: int, mint: int, maxt: int) -> list[npt.NDArray[np.uint32]]:
        """Series of the sources near a closed range that have something after a sequence."""
        parts, heads = self._sources(self._clip(mint), maxt)
        late = [part for part in parts if part.entry.seq_max > seq]
        return [part.refs for part in late] + [head.refs() for head in heads]

    def _late_sources(self, tier_map: TierMap, seq: int, mint: int, maxt: int) -> list[LateSource]:
        """Likewise with where they have samples, also those that retention hides by now."""
        parts, heads = self._sources(mint, maxt)
        found = [
            LateSource(part.refs, tier_map.touched(part), part.entry.seq_min <= seq)
            for part in parts
            if part.entry.seq_max > seq
        ]
        return found + [
            LateSource(head.refs(), np.array(head.touched_spans(), np.int64), is_mixed=False)
            for head in heads
        ]

    def _clip(self, mint: int) -> int:
        return mint if self._floor_ms is None else max(mint, self._floor_ms)

    def _sources(self, mint: int, maxt: int) -> tuple[list[PartReader], list[HeadView]]:
        parts = [p for p in self._parts if p.entry.mint <= maxt and p.entry.maxt >= mint]
        heads = [h for h in self._heads if h.n_samples and h.mint <= maxt and h.maxt >= mint]
        return parts, heads

    def _refs_of_sources(self, mint: int, maxt: int) -> list[npt.NDArray[np.uint32]]:
        parts, heads = self._sources(mint, maxt)
        return [head.refs() for head in heads] + [part.refs for part in parts]


def _whole_from(complete: Completeness, widths_ms: Sequence[int]) -> int:
    """From when on nothing is gone of any series; whole windows of the narrowest tier."""
    times = [max(loss.samples_ms, loss.windows_ms) for loss in complete.losses]
    latest_ms = complete.latest_ms
    if latest_ms is not None:
        times.append(latest_ms)
    if not times:
        return MINT
    return window_start_after(max(times), min(widths_ms, default=1))
