"""What functions make of windows of a tier where a slice holds native histograms.

Windows keep floats and histograms apart, so a range with both is known as such. Rules are those of
samples (`histogram_rollup`, `histogram_increase`); of the histograms inside a window no more is
known than their sum, the first, the last, and the sum of those before resets: sums don't warn of
clashing hints, and a result may have a finer schema than one in the middle of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.kernels import windowrollups
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import (
    HINT_GAUGE,
    HINT_NOT_RESET,
    HINT_UNKNOWN,
    Histograms,
    is_handle,
    no_histograms,
    rows_of,
)
from tsengine.model.ragged import offsets_of
from tsengine.model.windows import Column, WindowBatch
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import combine, is_reset, scale
from tsengine.query.operators import range_notes as notes
from tsengine.query.operators.histogram_reading import adopt, unknown_unless_gauge
from tsengine.query.operators.histogram_windows import (
    HistogramRows,
    WindowList,
    drop_mixed,
    histogram_rows,
    make_lists,
    pick_from_runs,
    portions,
    pure_windows,
    put,
)
from tsengine.query.operators.range_notes import note_rows
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    TierFill,
    axis_order,
    filter_frames,
    new_cells,
    running_count,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_MS = 1000.0


def counting(fill: TierFill) -> TierFill:
    """A function to which a histogram is a sample as any other."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        fill(ctx, _with_columns(batch, {Column.COUNT: _all_counts(batch)}), spans, cells)

    return special


def picking_values(
    fill: TierFill, column: Column, of_histograms: Column, times: tuple[Column, ...]
) -> TierFill:
    """The first or last value, of any kind; ``times`` are those of the float and the histogram."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        is_first = column is Column.FIRST
        held = _prevails(batch, *times, is_first=is_first)
        values = _chosen(batch, held, column, of_histograms)
        both = _with_columns(batch, {Column.COUNT: _all_counts(batch), column: values})
        fill(ctx, both, spans, cells)
        _adopt(ctx, batch, cells)

    return special


def picking_times(fill: TierFill, column: Column, of_histograms: Column) -> TierFill:
    """The time of the first or last sample of any kind."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        held = _prevails(batch, column, of_histograms, is_first=column is Column.FIRST_T)
        values = np.where(held, batch.columns[of_histograms], batch.columns[column])
        both = _with_columns(batch, {Column.COUNT: _all_counts(batch), column: values})
        fill(ctx, both, spans, cells)

    return special


def newest(fill: TierFill) -> TierFill:
    """The newest sample of any kind, or its time."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        held = _prevails(batch, Column.LAST_T, Column.H_LAST_T, is_first=False)
        last_ms = np.where(held, batch.columns[Column.H_LAST_T], batch.columns[Column.LAST_T])
        both = {
            Column.COUNT: _all_counts(batch),
            Column.LAST: _chosen(batch, held, Column.LAST, Column.H_LAST),
            Column.LAST_T: last_ms,
        }
        fill(ctx, _with_columns(batch, both), spans, cells)
        _adopt(ctx, batch, cells)

    return special


def ignoring(fill: TierFill) -> TierFill:
    """A function of floats that leaves histograms aside."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        fill(ctx, batch, spans, cells)
        held = new_cells(*cells.values.shape)
        counts = batch.columns[Column.H_COUNT]
        windowrollups.add_windows(
            windowrollups.SUM, batch.end_ms, batch.axis_offsets, batch.row_axis, axis_order(batch),
            counts, counts, batch.row_offsets, spans.ends_ms, spans.range_ms,
            held.values, held.valid, held.n_present,
        )  # fmt: skip
        mixed = held.valid & cells.valid
        note_rows(cells.notes, notes.IGNORED, np.flatnonzero(mixed.any(axis=1)))

    return special


def summing(fill: TierFill, *, is_average: bool) -> TierFill:
    """The functions sum_over_time and avg_over_time."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        fill(ctx, batch, spans, cells)
        found = _held_rows(batch, spans)
        if found is None:
            return
        drop_mixed(found, cells)
        table = replace(found.table, hint=unknown_unless_gauge(found.table))
        sums = _held_handles(batch, Column.H_SUM)
        counts = offsets_of(_held_column(batch, Column.H_COUNT).astype(np.int64))
        windows = _without_mixed(batch, pure_windows(found, spans.ends_ms, 1), cells)
        for portion in portions(windows.last - windows.first + 1):
            ctx.check()
            part = windows.some(portion)
            offsets = offsets_of(part.last - part.first + 1)
            _, at = pick_from_runs(part.first, part.last + 1)
            made = combine(table, offsets, sums[at], np.ones(len(at)))
            note_rows(cells.notes, notes.MIXED_SCHEMAS, part.row[made.is_mixed])
            reconciled = made.reconciled & ~made.is_mixed
            note_rows(cells.notes, notes.AGGREGATION_RECONCILED, part.row[reconciled])
            result = made.table
            if is_average:
                n = counts[part.last + 1] - counts[part.first]
                result = scale(result, n.astype(np.float64), divide=True)
            put(ctx, cells, part, result, ~made.is_mixed)
        cells.recount()

    return special


# --- increases ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """Windows that hold histograms, in the order of the slice: columns of length N.

    ``first, last: i64`` are rows of `table`, ``resets: i64`` too or -1; ``is_seam: bool`` says that
    a counter was reset between a window and the one before it in its series.
    """

    table: Histograms
    count: _I64
    first: _I64
    last: _I64
    first_ms: _I64
    last_ms: _I64
    resets: _I64
    is_seam: _BOOL


def extrapolating(fill: TierFill, op: int) -> TierFill:
    """The functions rate, increase and delta (`op` as in `kernels.windowrollups`)."""

    def special(ctx: QueryContext, batch: WindowBatch, spans: Spans, cells: Cells) -> None:
        fill(ctx, batch, spans, cells)
        found = _held_rows(batch, spans)
        if found is None:
            return
        drop_mixed(found, cells)
        held = _held(batch, found, is_counter=op != windowrollups.DELTA)
        windows = pure_windows(found, spans.ends_ms, 1)
        if op != windowrollups.DELTA:
            windows = _without_mixed(batch, windows, cells)
        n = _n_samples(held, windows)
        windows, n = windows.some(n > 1), n[n > 1]
        _note_kinds(held, windows, cells, is_counter=op != windowrollups.DELTA)
        resets, seams = np.flatnonzero(held.resets >= 0), np.flatnonzero(held.is_seam)
        of_resets = _runs(resets, windows.first, windows.last)
        of_seams = _runs(seams, windows.first + 1, windows.last)
        sizes = 2 + of_resets[1] - of_resets[0] + of_seams[1] - of_seams[0]
        for portion in portions(sizes):
            ctx.check()
            part = windows.some(portion)
            every = np.arange(len(part))
            at_reset, reset = pick_from_runs(of_resets[0][portion], of_resets[1][portion])
            at_seam, seam = pick_from_runs(of_seams[0][portion], of_seams[1][portion])
            lists = (
                (every, held.last[part.last], 1.0),
                (every, held.first[part.first], -1.0),
                (at_reset, held.resets[resets[reset]], 1.0),
                (at_seam, held.last[seams[seam] - 1], 1.0),
            )
            made = combine(held.table, *make_lists(len(part), lists))
            note_rows(cells.notes, notes.MIXED_SCHEMAS, part.row[made.is_mixed])
            reconciled = made.reconciled & ~made.is_mixed
            note_rows(cells.notes, notes.SUBTRACTION_RECONCILED, part.row[reconciled])
            factors = _factors(op, held, part, n[portion], spans, made.table.count)
            grown = scale(made.table, factors)
            hint = np.full(len(part), HINT_GAUGE, np.uint8)
            put(ctx, cells, part, replace(grown, hint=hint), ~made.is_mixed)
        cells.recount()

    return special


def _held(batch: WindowBatch, found: HistogramRows, *, is_counter: bool) -> _Held:
    table = found.table
    # That a sample followed its neighbour without a reset says nothing of windows.
    hint = np.where(table.hint == HINT_NOT_RESET, HINT_UNKNOWN, table.hint).astype(np.uint8)
    table = replace(table, hint=hint)
    first, last = (_held_handles(batch, column) for column in (Column.H_FIRST, Column.H_LAST))
    resets = np.full(len(first), -1)
    is_seam = np.zeros(len(first), np.bool_)
    if is_counter:
        resets = _held_handles(batch, Column.H_RESETS)
        after = np.flatnonzero(~found.is_first)
        is_seam[after] = is_reset(table, last[after - 1], first[after])
    return _Held(
        table=table,
        count=_held_column(batch, Column.H_COUNT).astype(np.int64),
        first=first,
        last=last,
        first_ms=_held_column(batch, Column.H_FIRST_T),
        last_ms=_held_column(batch, Column.H_LAST_T),
        resets=resets,
        is_seam=is_seam,
    )


def _without_mixed(batch: WindowBatch, windows: WindowList, cells: Cells) -> WindowList:
    """The ranges without a window in which exponential and custom buckets met: it has no sum."""
    n_mixed = running_count(_held_handles(batch, Column.H_SUM) < 0)
    fits = n_mixed[windows.last + 1] == n_mixed[windows.first]
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[~fits])
    return windows.some(fits)


def _n_samples(held: _Held, windows: WindowList) -> _I64:
    counts = offsets_of(held.count)
    return np.asarray(counts[windows.last + 1] - counts[windows.first])


def _runs(places: _I64, first: _I64, last: _I64) -> tuple[_I64, _I64]:
    """Which of the ascending places lie in each closed run, half-open; none if it is empty."""
    start = np.searchsorted(places, first)
    return start, np.maximum(np.searchsorted(places, last + 1), start)


def _note_kinds(held: _Held, windows: WindowList, cells: Cells, *, is_counter: bool) -> None:
    """Note what hints say about the kind of the metric."""
    is_gauge = held.table.hint == HINT_GAUGE
    if is_counter:
        n_gauges = running_count(is_gauge[held.first] | is_gauge[held.last])
        has_gauge = n_gauges[windows.last + 1] > n_gauges[windows.first]
        note_rows(cells.notes, notes.NOT_COUNTER, windows.row[has_gauge])
    else:
        are_gauges = is_gauge[held.first[windows.first]] & is_gauge[held.last[windows.last]]
        note_rows(cells.notes, notes.NOT_GAUGE, windows.row[~are_gauges])


def _factors(op: int, held: _Held, windows: WindowList, n: _I64, spans: Spans, grown: _F64) -> _F64:
    """By how much increases of the counts `grown` become those of the whole range: f64[W]."""
    first_ms, last_ms = held.first_ms[windows.first], held.last_ms[windows.last]
    head = (first_ms - (windows.end_ms - spans.range_ms)) / _MS
    tail = (windows.end_ms - last_ms) / _MS
    covered = (last_ms - first_ms) / _MS
    gap = covered / (n - 1)
    head = np.where(head >= gap * 1.1, gap / 2, head)
    tail = np.where(tail >= gap * 1.1, gap / 2, tail)
    if op != windowrollups.DELTA:
        first_count = held.table.count[held.first[windows.first]]
        with np.errstate(all="ignore"):
            to_zero = covered * (first_count / grown)
        bounded = (grown > 0) & (first_count >= 0) & (to_zero < head)
        head = np.where(bounded, to_zero, head)
    factors: _F64 = (covered + head + tail) / covered
    return factors / (spans.range_ms / _MS) if op == windowrollups.RATE else factors


# --- columns ------------------------------------------------------------------------------------


def _with_columns(batch: WindowBatch, columns: Mapping[Column, Any]) -> WindowBatch:
    return replace(batch, columns={**batch.columns, **columns})


def _all_counts(batch: WindowBatch) -> _F64:
    """Samples of any kind in each window: f64[N]."""
    return np.asarray(batch.columns[Column.COUNT] + batch.columns[Column.H_COUNT], np.float64)


def _prevails(
    batch: WindowBatch, of_floats: Column, of_histograms: Column, *, is_first: bool
) -> _BOOL:
    """Windows whose first or last sample, by these columns of times, is a histogram: bool[N]."""
    columns = batch.columns
    has_float, has_histogram = columns[Column.COUNT] > 0, columns[Column.H_COUNT] > 0
    before = columns[of_histograms] < columns[of_floats]
    return np.asarray(has_histogram & (~has_float | (before == is_first)))


def _chosen(batch: WindowBatch, held: _BOOL, of_floats: Column, of_histograms: Column) -> _F64:
    """Values with handles where histograms are held, by their bits: f64[N]."""
    handles, floats = (
        np.asarray(batch.columns[column], np.float64).view(np.uint64)
        for column in (of_histograms, of_floats)
    )
    return np.where(held, handles, floats).view(np.float64)


def _adopt(ctx: QueryContext, batch: WindowBatch, cells: Cells) -> None:
    table = batch.histograms
    if table is not None:
        adopt(ctx, replace(table, hint=unknown_unless_gauge(table)), cells)


def _samples(batch: WindowBatch, count: Column) -> Samples:
    """Something at the ends of the windows for which `count` is not zero."""
    table = no_histograms() if batch.histograms is None else batch.histograms
    counts = np.asarray(batch.columns[count], np.float64)
    frames = FrameBatch(
        t_ms=batch.end_ms,
        axis_offsets=batch.axis_offsets,
        row_axis=batch.row_axis,
        values=counts,
        row_offsets=batch.row_offsets,
        histograms=table if count is Column.H_COUNT else None,
    )
    kept = counts > 0
    return Samples(frames if kept.all() else filter_frames(frames, kept))


def _held_rows(batch: WindowBatch, spans: Spans) -> HistogramRows | None:
    """Which windows of the rows with histograms are in the ranges; None without any.

    Positions count windows with histograms; the table is the batch's own.
    """
    return histogram_rows(_samples(batch, Column.COUNT), _samples(batch, Column.H_COUNT), spans)


def _held_column(batch: WindowBatch, column: Column) -> Any:
    """A column where there are histograms."""
    return batch.columns[column][batch.columns[Column.H_COUNT] > 0]


def _held_handles(batch: WindowBatch, column: Column) -> _I64:
    """Rows of the batch's table that a column stands for where there are histograms, or -1."""
    bits = _held_column(batch, column).view(np.uint64)
    return np.where(is_handle(bits), rows_of(bits), -1)
