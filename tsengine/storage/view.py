"""One pinned state of the database, as queries see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import Matcher
from tsengine.storage import select
from tsengine.storage.catalog import CatalogView
from tsengine.storage.head import HeadView
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_reader import PartReader


class DatabaseView:
    """Parts, heads and catalog of one moment; immutable, any thread.

    Parameters
    ----------
    parts
        In ascending sequence: a later one wins where timestamps are equal.
    heads
        Oldest first; all newer than the parts.
    floor_ms
        Samples before it are past the retention and not returned; None keeps all.

    """

    __slots__ = ("_floor_ms", "_heads", "_parts", "catalog")

    def __init__(
        self,
        catalog: CatalogView,
        parts: Sequence[PartReader],
        heads: Sequence[HeadView],
        floor_ms: int | None,
    ) -> None:
        self.catalog = catalog
        self._parts = tuple(parts)
        self._heads = tuple(heads)
        self._floor_ms = floor_ms

    @property
    def dictionary(self) -> CatalogView:
        """Texts behind the pair ids."""
        return self.catalog

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Closed time range of the stored samples, None when there are none."""
        mints = [p.entry.mint for p in self._parts] + [h.mint for h in self._heads if h.n_samples]
        maxts = [p.entry.maxt for p in self._parts] + [h.maxt for h in self._heads if h.n_samples]
        if not mints:
            return None
        mint = min(mints) if self._floor_ms is None else max(min(mints), self._floor_ms)
        return mint, max(maxts)

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
        """Matching series with data near the closed range: u32[S] ascending.

        `check` is called between matchers and may raise to give up.
        """
        return self.live(self.catalog.find(matchers, check), mint, maxt)

    def all_refs(self) -> npt.NDArray[np.uint32]:
        """Every series: u32[S] ascending."""
        return np.arange(self.catalog.n_series, dtype=np.uint32)

    def live(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> npt.NDArray[np.uint32]:
        """Those of `refs` that occur in a source which touches the closed range."""
        mint = self._clip(mint)
        if len(refs) == 0 or mint > maxt:
            return refs[:0]
        alive = np.zeros(len(refs), bool)
        for source_refs in self._refs_of_sources(mint, maxt):
            if len(source_refs) == 0:
                continue
            at = np.searchsorted(source_refs, refs)
            at[at == len(source_refs)] = 0
            alive |= source_refs[at] == refs
            if alive.all():
                return refs
        return refs[alive]

    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows:
        """Label sets of the given series."""
        return self.catalog.labels(refs)

    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int:
        """Upper bound of what `read` returns, from block headers."""
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        return select.count_samples(parts, heads, refs, mint, maxt)

    def read(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch:
        """Samples of the closed range as frames; rows in the order of `refs`."""
        mint = self._clip(mint)
        parts, heads = self._sources(mint, maxt)
        return select.read_frames(parts, heads, refs, mint, maxt, drop_stale=drop_stale)

    def has_histograms(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> bool:
        """Whether a sample that `read` returns may be a histogram; never falsely False, cheap."""
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
        return select.read_start_times(parts, heads, refs, mint, maxt)

    def _clip(self, mint: int) -> int:
        return mint if self._floor_ms is None else max(mint, self._floor_ms)

    def _sources(self, mint: int, maxt: int) -> tuple[list[PartReader], list[HeadView]]:
        parts = [p for p in self._parts if p.entry.mint <= maxt and p.entry.maxt >= mint]
        heads = [h for h in self._heads if h.n_samples and h.mint <= maxt and h.maxt >= mint]
        return parts, heads

    def _refs_of_sources(self, mint: int, maxt: int) -> list[npt.NDArray[np.uint32]]:
        parts, heads = self._sources(mint, maxt)
        return [head.refs() for head in heads] + [part.refs for part in parts]
