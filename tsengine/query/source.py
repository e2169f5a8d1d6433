"""What queries need from storage. Storage fulfils it without importing this package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.matchers import Matcher
from tsengine.model.windows import Column, WindowBatch


class SampleView(Protocol):
    """One pinned, immutable state of the database; every method may be called from any thread."""

    @property
    def dictionary(self) -> LabelDictionary:
        """Texts behind the pair ids of `labels`."""

    def find(
        self,
        matchers: Sequence[Matcher],
        mint: int,
        maxt: int,
        check: Callable[[], None] | None = None,
    ) -> npt.NDArray[np.uint32]:
        """Refs of matching series, ascending: u32[S]. The closed time range prunes roughly.

        `check` is called now and then and may raise to give up. Raises QueryError for an invalid
        regular expression.
        """

    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows:
        """Label sets of the given series."""

    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int:
        """Upper bound of the samples `read` would return, from block headers alone."""

    def read(
        self,
        refs: npt.NDArray[np.uint32],
        mint: int,
        maxt: int,
        *,
        drop_stale: bool,
        with_values: bool = True,
    ) -> FrameBatch:
        """Samples with mint <= t <= maxt. With `drop_stale` markers are left out.

        Without `with_values` any value but a marker or a histogram may be another one.

        Where samples are gone, those that windows of the finest tier left end with, at their times.
        """

    @property
    def tier_widths_ms(self) -> tuple[int, ...]:
        """Widths of the tiers that hold or cover anything, ascending."""

    def exact_floor_ms(self, width_ms: int, refs: npt.NDArray[np.uint32]) -> int | None:
        """Windows of a width, or samples for 0, are exact after this time; None: all are."""

    def missing_spans(
        self, width_ms: int, refs: npt.NDArray[np.uint32], mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        """Where of a closed range windows of a width, or samples for 0, may not be there.

        Closed ranges, ascending and disjoint; of windows whole ones.
        """

    def doubtful_spans(
        self, width_ms: int, refs: npt.NDArray[np.uint32], mint: int, maxt: int
    ) -> list[tuple[int, int]]:
        """Where of a closed range windows are there, but perhaps not those of all samples.

        And where they, or samples for 0, are missing, but there are samples that are hidden, or
        retention rules took them.
        """

    def covered(self, width_ms: int, mint: int, maxt: int) -> bool:
        """Whether a tier of this or a finer width serves any of the closed range."""

    def tiers_read(self, width_ms: int, mint: int, maxt: int) -> tuple[str, ...]:
        """What `read_windows`, or `read` for 0, takes of the range from: ``raw``, ``5m``, ..."""

    def read_windows(
        self,
        refs: npt.NDArray[np.uint32],
        width_ms: int,
        mint: int,
        maxt: int,
        columns: Collection[Column],
    ) -> WindowBatch:
        """Windows whose ends are in mint <= end <= maxt; mint - 1 and maxt multiples of the width.

        From tiers of this width where they are up to date, else from finer ones, else from samples.
        """

    def count_windows(
        self, refs: npt.NDArray[np.uint32], width_ms: int, mint: int, maxt: int
    ) -> int:
        """Upper bound of what `read_windows` looks at: windows, and samples it makes them of."""

    def has_histograms(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> bool:
        """Whether a sample that `read` would return may be a histogram; never falsely False."""

    def read_start_times(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> SeriesColumns:
        """Samples with mint <= t <= maxt whose start timestamp is known.

        ``bits`` are those of the start's i64 ms; series without any are left out.
        """


class SampleSource(Protocol):
    """A database to query."""

    def view(self) -> SampleView:
        """Pin the present state."""
