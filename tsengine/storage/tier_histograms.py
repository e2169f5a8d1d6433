"""Histograms of windows: from samples, and from narrower windows. Pure, no I/O.

Where exponential and custom buckets met in one window there is no sum; queries drop such ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_pairs import is_reset
from tsengine.model.histogram_sums import combine
from tsengine.model.histograms import Histograms, concatenate, handles, is_handle, rows_of
from tsengine.model.windows import HISTOGRAM_COLUMNS, TIME_COLUMNS, Column, WindowBatch
from tsengine.storage.pieces import I64Array, expand_ranges, offsets_of

Columns: TypeAlias = dict[Column, npt.NDArray[np.float64] | npt.NDArray[np.int64]]
"""The columns of histograms of N windows."""


def without_any(n_windows: int) -> Columns:
    """The columns where no window has histograms."""
    columns: Columns = {}
    for column in HISTOGRAM_COLUMNS:
        if column in TIME_COLUMNS:
            columns[column] = np.zeros(n_windows, np.int64)
        else:
            empty = 0.0 if column == Column.H_COUNT else np.nan
            columns[column] = np.full(n_windows, empty, np.float64)
    return columns


def columns_of_samples(
    frames: FrameBatch,
    starts: I64Array,
    window_offsets: I64Array,
    row_offsets: I64Array,
) -> tuple[Columns, Histograms | None]:
    """Columns of the windows of all rows, and the table of their handles.

    Windows as `cut_windows` gives them for the axes; ``row_offsets: i64[S + 1]`` is where those of
    each row are.
    """
    columns = without_any(int(row_offsets[-1]))
    bits = frames.values.view(np.uint64)
    if frames.histograms is None:
        return columns, None
    at = np.flatnonzero(is_handle(bits))
    if len(at) == 0:
        return columns, None
    row = np.searchsorted(frames.row_offsets, at, side="right") - 1
    axis = frames.row_axis[row]
    on_axis = at - frames.row_offsets[row] + frames.axis_offsets[axis]
    window = np.searchsorted(starts, on_axis, side="right") - 1
    place = row_offsets[row] + window - window_offsets[axis]
    own = _Grouped.of(place)
    t_ms = frames.t_ms[on_axis]
    table = frames.histograms.take(rows_of(bits[at]))
    n = np.arange(len(at))
    follows = n[1:][place[1:] == place[:-1]]
    lost = follows[is_reset(table, follows - 1, follows)] - 1
    columns[Column.H_COUNT][own.places] = own.sizes
    columns[Column.H_FIRST_T][own.places] = t_ms[own.first]
    columns[Column.H_LAST_T][own.places] = t_ms[own.last]
    return columns, _fill(columns, table, own.first, own.last, own, n, place[lost], lost)


def columns_of_windows(
    windows: WindowBatch,
    starts: I64Array,
    window_offsets: I64Array,
    row_offsets: I64Array,
) -> tuple[Columns, Histograms | None]:
    """Columns of wider windows, cut from the ends of ``windows``; otherwise as above."""
    columns = without_any(int(row_offsets[-1]))
    counts = windows.columns[Column.H_COUNT]
    at = np.flatnonzero(counts)
    if windows.histograms is None or len(at) == 0:
        return columns, None
    row = np.searchsorted(windows.row_offsets, at, side="right") - 1
    axis = windows.row_axis[row]
    on_axis = at - windows.row_offsets[row] + windows.axis_offsets[axis]
    window = np.searchsorted(starts, on_axis, side="right") - 1
    place = row_offsets[row] + window - window_offsets[axis]
    own = _Grouped.of(place)
    table = windows.histograms
    first, last = (_handle_rows(windows, c)[at] for c in (Column.H_FIRST, Column.H_LAST))
    sums, resets = (_handle_rows(windows, c)[at] for c in (Column.H_SUM, Column.H_RESETS))
    n = np.arange(1, len(at))
    follows = n[place[1:] == place[:-1]]
    seams = follows[is_reset(table, last[follows - 1], first[follows])]
    inside = np.flatnonzero(resets >= 0)
    # What was lost at the seam before a window comes before what was lost in it.
    lost_at = np.concatenate([seams, inside])
    order = np.argsort(lost_at, kind="stable")
    lost = np.concatenate([last[seams - 1], resets[inside]])[order]
    columns[Column.H_COUNT][own.places] = np.add.reduceat(counts[at], own.first)
    columns[Column.H_FIRST_T][own.places] = windows.columns[Column.H_FIRST_T][at[own.first]]
    columns[Column.H_LAST_T][own.places] = windows.columns[Column.H_LAST_T][at[own.last]]
    used = _fill(
        columns, table, first[own.first], last[own.last], own, sums, place[lost_at[order]], lost
    )
    # Where kinds met there were resets: what was lost there and is not told has no sum.
    columns[Column.H_RESETS][place[(sums < 0) & (resets < 0)]] = np.nan
    return columns, used


@dataclass(frozen=True, slots=True)
class _Grouped:
    """Runs of equal places: ``places, first, last, sizes: i64[G]``."""

    places: I64Array
    first: I64Array
    last: I64Array
    sizes: I64Array

    @classmethod
    def of(cls, place: I64Array) -> _Grouped:
        first = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
        last = np.append(first[1:], len(place)) - 1
        return cls(place[first], first, last, last - first + 1)


def _fill(
    columns: Columns,
    table: Histograms,
    first: I64Array,
    last: I64Array,
    own: _Grouped,
    summed: I64Array,
    lost_places: I64Array,
    lost: I64Array,
) -> Histograms:
    """Write the columns of handles; the table of what they stand for.

    ``first, last: i64[G]`` are rows of ``table`` for each group; ``summed: i64[N]`` the rows that
    are summed up in each, -1 where a sum is not known; ``lost: i64[L]`` rows that belong to the
    ascending ``lost_places``.
    """
    is_known = np.minimum.reduceat(summed, own.first) >= 0
    known = np.flatnonzero(is_known)
    rows = summed[expand_ranges(own.first[known], own.sizes[known])]
    sums, is_whole = _sums(table, own.sizes[known], rows)
    known = known[is_whole]
    losing, losses = np.unique(lost_places, return_counts=True)
    resets, is_whole = _sums(table, losses, lost)
    losing = losing[is_whole]
    n = offsets_of(np.array([len(first), len(last), len(sums), len(resets)]))
    for column, places, start in (
        (Column.H_FIRST, own.places, n[0]),
        (Column.H_LAST, own.places, n[1]),
        (Column.H_SUM, own.places[known], n[2]),
        (Column.H_RESETS, losing, n[3]),
    ):
        columns[column].view(np.uint64)[places] = handles(start + np.arange(len(places)))
    return concatenate([table.take(first), table.take(last), sums, resets])


def _sums(
    table: Histograms, sizes: I64Array, rows: I64Array
) -> tuple[Histograms, npt.NDArray[np.bool_]]:
    """``(sums of lists of rows, which lists have one)``; those without are left out."""
    made = combine(table, offsets_of(sizes), rows, np.ones(len(rows)))
    if made.is_mixed.any():
        return made.table.take(np.flatnonzero(~made.is_mixed)), ~made.is_mixed
    return made.table, ~made.is_mixed


def _handle_rows(windows: WindowBatch, column: Column) -> I64Array:
    """Rows that the handles of a column stand for, -1 where there is none."""
    bits = windows.columns[column].view(np.uint64)
    return np.where(is_handle(bits), rows_of(bits), -1)
