"""Samples on their way in, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Samples of any series in any order; later rows win over earlier ones of equal time.

    ``refs: u32[N]``, ``t_ms: i64[N]``, ``bits: u64[N]`` (the float64's bits). ``histograms`` is the
    table of the handles in ``bits``, None if there are none. ``start_ms: i64[N]`` are the samples'
    start timestamps (0 where unknown), None if none is known.
    """

    refs: npt.NDArray[np.uint32]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    histograms: Histograms | None = None
    start_ms: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(frozen=True, slots=True)
class SeriesColumns:
    """Samples grouped by series: strictly ascending refs, strictly ascending times inside each.

    ``refs: u32[S]``, ``offsets: i64[S + 1]``, ``t_ms: i64[N]``, ``bits: u64[N]``; row s owns
    samples ``offsets[s]:offsets[s + 1]``. ``histograms`` is the table of the handles in ``bits``,
    None if there are none. ``start_ms: i64[N]`` are the samples' start timestamps (0 where
    unknown), None if none is known or they were not asked for.
    """

    refs: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]
    histograms: Histograms | None = None
    start_ms: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.refs)
