"""Columns of windows as files have them, and those that follow from others. Pure, no I/O.

In files all columns are doubles. Times are stored as milliseconds since the window began, 1 up to
its width, 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tsengine.kernels.jit import ERR_CORRUPT
from tsengine.kernels.windowtiers import add_window_starts, derive_column
from tsengine.model.windows import TIME_COLUMNS, Column, WindowBatch
from tsengine.storage.head_read import copy_plain
from tsengine.storage.pieces import I64Array, expand_ranges
from tsengine.storage.tier_windows import VALUE_ROWS

F64Array = npt.NDArray[np.float64]

SOURCES: Mapping[Column, tuple[Column, ...]] = {
    Column.SUM: (Column.COUNT, Column.FIRST),
    Column.MIN: (Column.COUNT, Column.FIRST, Column.LAST),
    Column.MAX: (Column.COUNT, Column.FIRST, Column.LAST),
    Column.RESETS: (Column.COUNT,),
    Column.LAST: (Column.FIRST,),
    Column.LAST_T: (Column.FIRST_T,),
    Column.H_LAST_T: (Column.H_FIRST_T,),
}
"""What a column follows from where it is not stored. Others are then 0 or NaN."""

SPARSE_COLUMNS = frozenset({Column.MIN, Column.MAX})
"""Columns that may be stored with gaps: NaN where they follow from others."""

_ZEROS = frozenset({Column.STALE, Column.H_COUNT, *TIME_COLUMNS})
_NONE = np.empty(0)


def to_stored(windows: WindowBatch, column: Column) -> F64Array:
    """A column as it stands in files: f64[N]."""
    values = windows.columns[column]
    if column not in TIME_COLUMNS:
        return values.view(np.float64)
    return np.where(values == 0, 0, values - (ends_of(windows) - windows.width_ms)).astype(float)


def times_from_stored(windows: WindowBatch, values: F64Array) -> I64Array | None:
    """A column of times from its form in files, whose memory it takes; None if one is no time."""
    times = values.view(np.int64)
    status = add_window_starts(
        windows.end_ms, windows.axis_offsets, windows.row_axis, windows.row_offsets,
        windows.width_ms, values, times,
    )  # fmt: skip
    return None if status == ERR_CORRUPT else times


def ends_of(windows: WindowBatch) -> I64Array:
    """Right end of each window: i64[N]."""
    starts = windows.axis_offsets[windows.row_axis]
    if len(starts) == 1:
        return windows.end_ms[starts[0] : starts[0] + windows.n_windows]
    return windows.end_ms[expand_ranges(starts, np.diff(windows.row_offsets))]


def fill_gaps(
    column: Column,
    rows: I64Array,
    row_offsets: I64Array,
    stored: Mapping[Column, F64Array],
    out: F64Array,
) -> None:
    """As `fill_following` for SPARSE_COLUMNS, only where ``out`` has the bits of NumPy's NaN."""
    derive_column(
        VALUE_ROWS[column], 1, rows, row_offsets, stored[Column.COUNT], stored[Column.FIRST],
        stored[Column.LAST], out,
    )  # fmt: skip


def fill_following(
    column: Column,
    rows: I64Array,
    row_offsets: I64Array,
    stored: Mapping[Column, F64Array],
    out: F64Array,
) -> None:
    """Write what a column is in some rows if it follows from others (those in `SOURCES`).

    ``rows: i64[K]``; columns are f64[N] in the form of files, row s having the windows
    ``row_offsets[s]:row_offsets[s + 1]``. What is no number is NumPy's NaN.
    """
    if column in (Column.LAST, Column.LAST_T, Column.H_LAST_T):
        source = stored[SOURCES[column][0]]
        starts = row_offsets[rows]
        copy_plain(
            source.view(np.int64), starts, row_offsets[rows + 1] - starts, starts,
            out.view(np.int64),
        )  # fmt: skip
    elif column in SOURCES:
        derive_column(
            VALUE_ROWS[column], 0, rows, row_offsets, stored[Column.COUNT],
            stored.get(Column.FIRST, _NONE), stored.get(Column.LAST, _NONE), out,
        )  # fmt: skip
    else:
        starts = row_offsets[rows]
        at = expand_ranges(starts, row_offsets[rows + 1] - starts)
        out[at] = 0.0 if column in _ZEROS else np.nan
