"""What functions of ranges, and instant selectors, make of windows of a tier: the floats.

Sums, differences and the newest value have kernels of their own (`kernels.windowrollups`); for
extremes and picks a column of the windows goes through the kernel of samples. Slices with native
histograms are the matter of `tier_histograms`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from tsengine.kernels import rollups, windowrollups
from tsengine.model.frame import FrameBatch
from tsengine.model.windows import TIME_COLUMNS, Column, WindowBatch
from tsengine.query.context import QueryContext
from tsengine.query.operators.tier_histograms import (
    counting,
    extrapolating,
    ignoring,
    newest,
    picking_times,
    picking_values,
    summing,
)
from tsengine.query.operators.window_function import (
    Cells,
    Spans,
    TierFill,
    TierFunction,
    axis_order,
    filter_frames,
)
from tsengine.query.readings import Aim

_F64 = npt.NDArray[np.float64]
_BOOL = npt.NDArray[np.bool_]

_MS = 1000.0

_DIFFERENCES = {
    "rate": windowrollups.RATE,
    "increase": windowrollups.INCREASE,
    "delta": windowrollups.DELTA,
}
_PICKS = {
    "first_over_time": (rollups.FIRST, Column.FIRST, Column.H_FIRST),
    "last_over_time": (rollups.LAST, Column.LAST, Column.H_LAST),
    "ts_of_first_over_time": (rollups.FIRST, Column.FIRST_T, Column.H_FIRST_T),
    "ts_of_last_over_time": (rollups.LAST, Column.LAST_T, Column.H_LAST_T),
}
_EXTREMES = {
    "min_over_time": (rollups.MIN, Column.MIN),
    "max_over_time": (rollups.MAX, Column.MAX),
}


def tier_function(name: str) -> TierFunction | None:
    """What a function of a range vector makes of windows; None if it needs samples."""
    if name in _DIFFERENCES:
        return _difference(name)
    if name in _PICKS:
        return _pick(name)
    if name in _EXTREMES:
        op, column = _EXTREMES[name]
        fill = partial(fill_extremes, op, column)
        return TierFunction(
            Aim.RANGES, fill, ignoring(fill), (Column.COUNT, column), (Column.H_COUNT,)
        )
    match name:
        case "sum_over_time" | "avg_over_time":
            is_average = name == "avg_over_time"
            fill = partial(fill_sums, windowrollups.AVG if is_average else windowrollups.SUM)
            return TierFunction(
                Aim.RANGES, fill, summing(fill, is_average=is_average),
                (Column.COUNT, Column.SUM), (Column.H_COUNT, Column.H_SUM),
                is_scaled=not is_average,
            )  # fmt: skip
        case "count_over_time":
            return _counting(fill_counts, is_scaled=True)
        case "present_over_time" | "absent_over_time":
            return _counting(fill_presence, is_scaled=False)
    return None


def newest_of_windows(*, want_time: bool) -> TierFunction:
    """What an instant selector makes of windows."""
    op = windowrollups.TIME_S if want_time else windowrollups.VALUE
    columns = (Column.COUNT, Column.LAST, Column.LAST_T, Column.STALE)
    fill = partial(fill_newest, op)
    return TierFunction(
        Aim.NEWEST, fill, newest(fill), columns,
        (Column.H_COUNT, Column.H_LAST, Column.H_LAST_T),
    )  # fmt: skip


def _difference(name: str) -> TierFunction:
    op = _DIFFERENCES[name]
    fill = partial(fill_differences, op)
    columns = [Column.COUNT, Column.FIRST, Column.LAST, Column.FIRST_T, Column.LAST_T]
    of_histograms = [
        Column.H_COUNT, Column.H_FIRST, Column.H_LAST, Column.H_FIRST_T, Column.H_LAST_T,
    ]  # fmt: skip
    if op != windowrollups.DELTA:
        columns.append(Column.RESETS)
        of_histograms += [Column.H_RESETS, Column.H_SUM]
    return TierFunction(
        Aim.RANGES, fill, extrapolating(fill, op), tuple(columns),
        tuple(of_histograms), is_scaled=op != windowrollups.RATE,
    )  # fmt: skip


def _pick(name: str) -> TierFunction:
    op, column, of_histograms = _PICKS[name]
    fill = partial(fill_picks, op, column)
    if column in TIME_COLUMNS:
        special = picking_times(fill, column, of_histograms)
        return TierFunction(
            Aim.RANGES, fill, special, (Column.COUNT, column), (Column.H_COUNT, of_histograms)
        )
    times = (Column.FIRST_T, Column.H_FIRST_T)
    if column is Column.LAST:
        times = (Column.LAST_T, Column.H_LAST_T)
    return TierFunction(
        Aim.RANGES, fill, picking_values(fill, column, of_histograms, times),
        (Column.COUNT, column), (Column.H_COUNT, of_histograms, *times),
    )  # fmt: skip


def _counting(fill: TierFill, *, is_scaled: bool) -> TierFunction:
    return TierFunction(
        Aim.RANGES, fill, counting(fill), (Column.COUNT,), (Column.H_COUNT,),
        is_scaled=is_scaled,
    )  # fmt: skip


# --- fills --------------------------------------------------------------------------------------


def floats_of(batch: WindowBatch, column: Column) -> _F64:
    """A column of values, or of times in seconds: f64[N]."""
    values = batch.columns[column]
    return np.asarray(values / _MS if column in TIME_COLUMNS else values, np.float64)


def column_frames(batch: WindowBatch, column: Column) -> FrameBatch:
    """A column as samples at the ends of the windows, without windows that hold no floats."""
    frames = FrameBatch(
        t_ms=batch.end_ms,
        axis_offsets=batch.axis_offsets,
        row_axis=batch.row_axis,
        values=floats_of(batch, column),
        row_offsets=batch.row_offsets,
    )
    kept: _BOOL = batch.columns[Column.COUNT] > 0
    return frames if kept.all() else filter_frames(frames, kept)


def fill_sums(op: int, ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
    """Sums or means (op of `windowrollups.add_windows`)."""
    _add(op, batch, floats_of(batch, Column.SUM), spans, cells)


def fill_counts(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
    """How many samples."""
    _add(windowrollups.SUM, batch, floats_of(batch, Column.COUNT), spans, cells)


def fill_presence(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
    """1 where there is a sample."""
    fill_counts(ctx, batch, spans, cells)
    cells.values.fill(1.0)


def _add(op: int, batch: WindowBatch, sums: _F64, spans: Spans, cells: Cells) -> None:
    windowrollups.add_windows(
        op, batch.end_ms, batch.axis_offsets, batch.row_axis, axis_order(batch),
        floats_of(batch, Column.COUNT), sums, batch.row_offsets, spans.ends_ms, spans.range_ms,
        cells.values, cells.valid, cells.n_present,
    )  # fmt: skip


def fill_differences(
    op: int, ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells
) -> None:
    """Rates, increases, deltas (op of `windowrollups.extrapolate_windows`)."""
    columns = batch.columns
    # A delta knows of no resets; the kernel does not look at them then.
    resets = columns.get(Column.RESETS, columns[Column.COUNT])
    windowrollups.extrapolate_windows(
        op, batch.end_ms, batch.axis_offsets, batch.row_axis, axis_order(batch),
        columns[Column.COUNT], columns[Column.FIRST], columns[Column.LAST],
        columns[Column.FIRST_T], columns[Column.LAST_T], resets, batch.row_offsets,
        spans.ends_ms, spans.range_ms, cells.values, cells.valid, cells.n_present,
    )  # fmt: skip


def fill_picks(
    op: int, column: Column, ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells
) -> None:
    """A column of the first or last window (op of `rollups.pick_samples`)."""
    frames = column_frames(batch, column)
    rollups.pick_samples(
        op, frames.t_ms, frames.axis_offsets, frames.row_axis, axis_order(frames), frames.values,
        frames.row_offsets, spans.ends_ms, spans.range_ms, cells.values, cells.valid,
        cells.n_present,
    )  # fmt: skip


def fill_extremes(
    op: int, column: Column, ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells
) -> None:
    """The least or greatest of a column (op of `rollups.extreme_windows`)."""
    frames = column_frames(batch, column)
    rollups.extreme_windows(
        op, frames.t_ms, frames.axis_offsets, frames.row_axis, axis_order(frames), frames.values,
        frames.row_offsets, spans.ends_ms, spans.range_ms, cells.values, cells.valid,
        cells.n_present,
    )  # fmt: skip


def fill_newest(op: int, ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
    """The newest value or its time (op of `windowrollups.latest_of_windows`)."""
    columns = batch.columns
    windowrollups.latest_of_windows(
        op, batch.end_ms, batch.axis_offsets, batch.row_axis, axis_order(batch),
        columns[Column.COUNT], columns[Column.LAST], columns[Column.LAST_T],
        columns[Column.STALE], batch.row_offsets, spans.ends_ms, spans.range_ms,
        cells.values, cells.valid, cells.n_present,
    )  # fmt: skip
