"""Windows from samples, from narrower windows, and one after the other. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import windowtiers
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import Histograms, concatenate, is_handle, no_histograms
from tsengine.model.windows import (
    FLOAT_COLUMNS,
    HANDLE_COLUMNS,
    HISTOGRAM_COLUMNS,
    TIME_COLUMNS,
    Column,
    WindowBatch,
)
from tsengine.storage import tier_histograms
from tsengine.storage.head_read import copy_plain
from tsengine.storage.pieces import (
    I64Array,
    U64Array,
    expand_ranges,
    group_equal_runs,
    offsets_of,
)
from tsengine.storage.spans import Span as HiddenSpan
from tsengine.storage.tier_histograms import Columns

VALUE_ROWS = {
    Column.COUNT: windowtiers.COUNT,
    Column.SUM: windowtiers.SUM,
    Column.MIN: windowtiers.MIN,
    Column.MAX: windowtiers.MAX,
    Column.FIRST: windowtiers.FIRST,
    Column.LAST: windowtiers.LAST,
    Column.RESETS: windowtiers.RESETS,
    Column.STALE: windowtiers.STALE,
}
"""Rows of the kernels' table of values."""
_TIME_ROWS = {Column.FIRST_T: windowtiers.FIRST_T, Column.LAST_T: windowtiers.LAST_T}


def windows_of_samples(
    frames: FrameBatch, width_ms: int, columns: Collection[Column]
) -> WindowBatch:
    """Windows of all samples of a batch, in which staleness markers must still be."""
    cut = _Cut(frames.t_ms, frames.axis_offsets, frames.row_axis, width_ms)
    found: Columns = {}
    histograms = None
    if FLOAT_COLUMNS & set(columns):
        values, times = cut.tables()
        windowtiers.sum_up_samples(
            frames.t_ms, frames.axis_offsets, frames.row_axis, frames.values, frames.row_offsets,
            cut.starts, cut.axis_offsets, cut.row_offsets, values, times,
        )  # fmt: skip
        found |= _named(values, times)
    if HISTOGRAM_COLUMNS & set(columns):
        more, histograms = tier_histograms.columns_of_samples(
            frames, cut.starts, cut.axis_offsets, cut.row_offsets
        )
        found |= more
    return cut.batch({column: found[column] for column in columns}, histograms)


def sources_of_wider(columns: Collection[Column]) -> frozenset[Column]:
    """What `wider_windows` needs of narrower windows."""
    needed: frozenset[Column] = frozenset()
    for kind in (FLOAT_COLUMNS, HISTOGRAM_COLUMNS):
        if kind & set(columns):
            needed |= kind
    return needed


def wider_windows(windows: WindowBatch, width_ms: int, columns: Collection[Column]) -> WindowBatch:
    """Windows of a multiple of the width; ``windows`` has `sources_of_wider` of the columns."""
    cut = _Cut(windows.end_ms, windows.axis_offsets, windows.row_axis, width_ms)
    found: Columns = {}
    histograms = None
    if FLOAT_COLUMNS & set(columns):
        values, times = cut.tables()
        source = np.empty((windowtiers.N_VALUES, windows.n_windows))
        for column, row in VALUE_ROWS.items():
            source[row] = windows.columns[column]
        windowtiers.merge_windows(
            windows.axis_offsets, windows.row_axis, source,
            _times(windows, Column.FIRST_T), _times(windows, Column.LAST_T), windows.row_offsets,
            cut.starts, cut.axis_offsets, cut.row_offsets, values, times,
        )  # fmt: skip
        found |= _named(values, times)
    if HISTOGRAM_COLUMNS & set(columns):
        more, histograms = tier_histograms.columns_of_windows(
            windows, cut.starts, cut.axis_offsets, cut.row_offsets
        )
        found |= more
    return cut.batch({column: found[column] for column in columns}, histograms)


def join(batches: Sequence[WindowBatch], columns: Collection[Column]) -> WindowBatch:
    """Windows of the same series and width, those of each series in the order of time."""
    batches = [batch for batch in batches if batch.n_windows] or list(batches[:1])
    if len(batches) == 1:
        return replace(batches[0], columns={c: batches[0].columns[c] for c in columns})
    sizes = np.stack([np.diff(batch.row_offsets) for batch in batches])
    row_offsets = offsets_of(sizes.sum(axis=0))
    # Where the windows of batch k of a row begin: behind those of the batches before.
    starts = row_offsets[:-1] + np.cumsum(sizes, axis=0) - sizes
    tables = [no_histograms() if b.histograms is None else b.histograms for b in batches]
    first = offsets_of(np.array([len(table) for table in tables]))
    joined: Columns = {}
    for column in columns:
        out = np.empty(row_offsets[-1], np.int64)
        for k, (batch, size, start) in enumerate(zip(batches, sizes, starts, strict=True)):
            source = batch.columns[column].view(np.int64)
            if column in HANDLE_COLUMNS and first[k]:
                source = renumbered(source.view(np.uint64), int(first[k])).view(np.int64)
            copy_plain(source, batch.row_offsets[:-1], size, start, out)
        joined[column] = out if column in TIME_COLUMNS else out.view(np.float64)
    row_axis, axis_offsets, end_ms = _joined_axes(batches)
    return WindowBatch(
        batches[0].width_ms, end_ms, axis_offsets, row_axis, row_offsets, joined,
        concatenate(tables) if first[-1] else None,
    )  # fmt: skip


def spread(windows: WindowBatch, rows: I64Array, n_rows: int) -> WindowBatch:
    """The windows of some of ``n_rows`` rows (``rows`` ascending) as those of all."""
    sizes = np.zeros(n_rows, np.int64)
    sizes[rows] = np.diff(windows.row_offsets)
    row_axis = np.full(n_rows, len(windows.axis_offsets) - 1, np.int64)
    row_axis[rows] = windows.row_axis
    return replace(
        windows,
        axis_offsets=np.append(windows.axis_offsets, windows.axis_offsets[-1]),
        row_axis=row_axis,
        row_offsets=offsets_of(sizes),
    )


def renumbered(bits: U64Array, n_before: int) -> U64Array:
    """Handles of rows of a table that comes behind one of ``n_before``."""
    return np.where(is_handle(bits), bits + np.uint64(n_before), bits)


def no_windows(n_rows: int, width_ms: int, columns: Collection[Column]) -> WindowBatch:
    """Series without windows."""
    none: Columns = {}
    for column in columns:
        none[column] = np.empty(0, np.int64) if column in TIME_COLUMNS else np.empty(0, np.float64)
    return WindowBatch(
        width_ms,
        np.empty(0, np.int64),
        np.zeros(2, np.int64),
        np.zeros(n_rows, np.int64),
        np.zeros(n_rows + 1, np.int64),
        none,
    )


def without_hidden_windows(windows: WindowBatch, spans: Sequence[HiddenSpan]) -> WindowBatch:
    """The windows but those that touch a hidden closed range of their series."""
    is_hidden = np.zeros(windows.n_windows, np.bool_)
    sizes = np.diff(windows.row_offsets)
    end_ms = windows.end_ms[expand_ranges(windows.axis_offsets[windows.row_axis], sizes)]
    for rows, lo, hi in spans:
        at = expand_ranges(windows.row_offsets[rows], sizes[rows])
        ends = end_ms[at]
        is_hidden[at] |= (ends >= lo) & (ends - windows.width_ms < hi)
    if not is_hidden.any():
        return windows
    kept = np.flatnonzero(~is_hidden)
    row_offsets = offsets_of((~is_hidden).view(np.int8))[windows.row_offsets]
    row_axis, heads = group_equal_runs(end_ms[kept], row_offsets)
    sizes = np.diff(row_offsets)[heads]
    return replace(
        windows,
        end_ms=end_ms[kept][expand_ranges(row_offsets[heads], sizes)],
        axis_offsets=offsets_of(sizes),
        row_axis=row_axis,
        row_offsets=row_offsets,
        columns={column: values[kept] for column, values in windows.columns.items()},
    )


class _Cut:
    """Windows of axes of times, and where those of each row go."""

    def __init__(
        self, t_ms: I64Array, axis_offsets: I64Array, row_axis: I64Array, width_ms: int
    ) -> None:
        ends, starts = np.empty((2, len(t_ms)), np.int64)
        self._width_ms = width_ms
        self._row_axis = row_axis
        self.axis_offsets = np.empty(len(axis_offsets), np.int64)
        n = windowtiers.cut_windows(t_ms, axis_offsets, width_ms, ends, starts, self.axis_offsets)
        self._ends, self.starts = ends[:n], starts[:n]
        self.row_offsets = offsets_of(np.diff(self.axis_offsets)[row_axis])

    def tables(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Room for values ``f64[8, N]`` and times ``i64[2, N]``."""
        n = int(self.row_offsets[-1])
        return np.empty((windowtiers.N_VALUES, n)), np.empty((windowtiers.N_TIMES, n), np.int64)

    def batch(self, columns: Columns, histograms: Histograms | None) -> WindowBatch:
        """The windows with their columns."""
        return WindowBatch(
            self._width_ms, self._ends, self.axis_offsets, self._row_axis, self.row_offsets,
            columns, histograms,
        )  # fmt: skip


def _named(values: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> Columns:
    named: Columns = {column: values[row] for column, row in VALUE_ROWS.items()}
    return named | {column: times[row] for column, row in _TIME_ROWS.items()}


def _times(windows: WindowBatch, column: Column) -> I64Array:
    return np.ascontiguousarray(windows.columns[column], np.int64)


def _joined_axes(batches: Sequence[WindowBatch]) -> tuple[I64Array, I64Array, I64Array]:
    """``(row_axis, axis_offsets, end_ms)``: rows with the same axes in all batches share one."""
    n_batches = len(batches)
    axes = np.stack([batch.row_axis for batch in batches], axis=1)
    row_axis, heads = group_equal_runs(axes.reshape(-1), n_batches * np.arange(len(axes) + 1))
    sizes = np.stack(
        [np.diff(b.axis_offsets)[axes[heads, k]] for k, b in enumerate(batches)], axis=1
    )
    starts = offsets_of(sizes.reshape(-1))
    end_ms = np.empty(starts[-1], np.int64)
    positions = starts[:-1].reshape(sizes.shape)
    for k, batch in enumerate(batches):
        first = batch.axis_offsets[axes[heads, k]]
        copy_plain(
            batch.end_ms, first, np.ascontiguousarray(sizes[:, k]),
            np.ascontiguousarray(positions[:, k]), end_ms,
        )  # fmt: skip
    return row_axis, starts[: len(heads) * n_batches + 1 : n_batches].copy(), end_ms
