"""What queries need from storage. Storage fulfils it without importing this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.matchers import Matcher


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
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch:
        """Samples with mint <= t <= maxt. With `drop_stale` markers are left out."""

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
