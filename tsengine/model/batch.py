"""Samples on their way in, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Float samples of any series in any order; later rows win over earlier ones of equal time.

    ``refs: u32[N]``, ``t_ms: i64[N]``, ``bits: u64[N]`` (the float64's bits).
    """

    refs: npt.NDArray[np.uint32]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(frozen=True, slots=True)
class SeriesColumns:
    """Samples grouped by series: strictly ascending refs, strictly ascending times inside each.

    ``refs: u32[S]``, ``offsets: i64[S + 1]``, ``t_ms: i64[N]``, ``bits: u64[N]``; row s owns
    samples ``offsets[s]:offsets[s + 1]``.
    """

    refs: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    t_ms: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.refs)
