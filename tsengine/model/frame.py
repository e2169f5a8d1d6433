"""What storage gives to queries: rows of values over shared time axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """A ragged batch of frames, one row per requested series and in the order requested.

    Every row is dense on its axis: a series with gaps or removed samples is given an axis of its
    own, so kernels know no presence. A series without samples in the range has a row of length 0.

    Shapes: ``t_ms: i64[M]`` all axes one after the other, ascending inside each;
    ``axis_offsets: i64[A + 1]``; ``row_axis: i64[S]``; ``values: f64[N]`` all rows one after the
    other, bits as stored (stale markers included unless they were asked to be dropped);
    ``row_offsets: i64[S + 1]``. ``row_offsets[s + 1] - row_offsets[s]`` is the length of axis
    ``row_axis[s]``.

    ``histograms`` is the table of the handles in ``values`` (see `tsengine.model.histograms`), None
    if there are none. A staleness marker of a histogram series is the float one.
    """

    t_ms: npt.NDArray[np.int64]
    axis_offsets: npt.NDArray[np.int64]
    row_axis: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    row_offsets: npt.NDArray[np.int64]
    histograms: Histograms | None = None

    @property
    def n_rows(self) -> int:
        """Number of series."""
        return len(self.row_axis)
