"""Windows of a tier: what is kept of the samples of one series in (end - width, end]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import Histograms


class Column(IntEnum):
    """What is known of a window. The numbers are those in files.

    Floats and native histograms of a window are kept apart. Staleness markers are no samples: only
    STALE knows of them. Values are f64, times i64 ms.

    COUNT
        Float samples. The other columns of floats are NaN, and times 0, where it is 0.
    SUM
        Their sum, added with compensation; NaN if one is.
    MIN, MAX
        As `min_over_time` has them: NaN only if all are.
    FIRST, LAST, FIRST_T, LAST_T
        Value and time of the first and of the last float.
    RESETS
        Sum of each v[i - 1] with v[i] < v[i - 1], both in this window: what a counter lost.
    STALE
        1 if the last sample of the window, of any kind, is a staleness marker, else 0.
    H_COUNT, H_FIRST_T, H_LAST_T
        The same of the histograms.
    H_SUM, H_FIRST, H_LAST, H_RESETS
        Handles of a table of histograms, or NaN where there is none: the sum of all (none if
        exponential meet custom buckets), the first, the last, and the sum of those before a counter
        reset.

    """

    COUNT = 1
    SUM = 2
    MIN = 3
    MAX = 4
    FIRST = 5
    LAST = 6
    FIRST_T = 7
    LAST_T = 8
    RESETS = 9
    STALE = 10
    H_COUNT = 17
    H_FIRST_T = 18
    H_LAST_T = 19
    H_SUM = 20
    H_FIRST = 21
    H_LAST = 22
    H_RESETS = 23


FLOAT_COLUMNS = frozenset(column for column in Column if column < Column.H_COUNT)
HISTOGRAM_COLUMNS = frozenset(Column) - FLOAT_COLUMNS
HANDLE_COLUMNS = frozenset({Column.H_SUM, Column.H_FIRST, Column.H_LAST, Column.H_RESETS})
TIME_COLUMNS = frozenset({Column.FIRST_T, Column.LAST_T, Column.H_FIRST_T, Column.H_LAST_T})


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows of series, one row per requested series and in the order requested.

    Like `FrameBatch`, with several values at each time: ``end_ms: i64[M]`` right ends of all axes,
    multiples of ``width_ms``, ascending inside each axis; ``axis_offsets: i64[A + 1]``;
    ``row_axis: i64[S]``; ``row_offsets: i64[S + 1]``; ``columns[c]: f64[N]`` (times i64[N]), those
    that were asked for. A window without any sample and marker is not there. ``histograms`` is the
    table of the handles, None if there are none.
    """

    width_ms: int
    end_ms: npt.NDArray[np.int64]
    axis_offsets: npt.NDArray[np.int64]
    row_axis: npt.NDArray[np.int64]
    row_offsets: npt.NDArray[np.int64]
    columns: Mapping[Column, npt.NDArray[np.float64] | npt.NDArray[np.int64]]
    histograms: Histograms | None = None

    @property
    def n_rows(self) -> int:
        """Number of series."""
        return len(self.row_axis)

    @property
    def n_windows(self) -> int:
        """Number of windows of all series."""
        return int(self.row_offsets[-1])
