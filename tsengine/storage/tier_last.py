"""Samples that stand for those that are gone: the last one of each window. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import taken_histograms
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import Histograms, concatenate, handles, is_handle, rows_of
from tsengine.model.windows import Column, WindowBatch
from tsengine.storage.pieces import I64Array, U64Array, expand_ranges, group_equal_runs, offsets_of
from tsengine.storage.tier_columns import ends_of

LAST_COLUMNS = frozenset(
    {
        Column.COUNT,
        Column.LAST,
        Column.LAST_T,
        Column.STALE,
        Column.H_COUNT,
        Column.H_LAST,
        Column.H_LAST_T,
    }
)
"""Columns that `last_samples` looks at."""


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Samples in the order of (row, time): ``rows, t_ms: i64[N]``, ``bits: u64[N]``."""

    rows: I64Array
    t_ms: I64Array
    bits: U64Array
    histograms: Histograms | None

    @classmethod
    def joined(cls, pieces: Sequence[SampleRows]) -> SampleRows:
        """The samples of pieces of one request; of equal times that of the later piece."""
        tables = [piece.histograms for piece in pieces if piece.histograms is not None]
        first = 0
        all_bits = []
        for piece in pieces:
            bits = piece.bits
            if piece.histograms is not None:
                at = np.flatnonzero(is_handle(bits))
                bits = bits.copy()
                bits[at] = handles(rows_of(bits[at]) + first)
                first += len(piece.histograms)
            all_bits.append(bits)
        rows = np.concatenate([piece.rows for piece in pieces])
        t_ms = np.concatenate([piece.t_ms for piece in pieces])
        order = np.lexsort((t_ms, rows))
        is_same = (np.diff(rows[order]) == 0) & (np.diff(t_ms[order]) == 0)
        order = order[np.append(~is_same, True)[: len(order)]]
        return cls(
            rows[order],
            t_ms[order],
            np.concatenate(all_bits)[order],
            concatenate(tables) if tables else None,
        )

    def without_markers(self) -> SampleRows:
        """The samples that are no staleness markers."""
        return self.take(np.flatnonzero(self.bits != STALE_BITS))

    def take(self, kept: I64Array) -> SampleRows:
        """Some samples, ascending."""
        return SampleRows(self.rows[kept], self.t_ms[kept], self.bits[kept], self.histograms)

    def frames(self, n_rows: int) -> FrameBatch:
        """The samples as a batch of ``n_rows`` rows; equal times are one axis."""
        row_offsets = offsets_of(np.bincount(self.rows, minlength=n_rows))
        row_axis, heads = group_equal_runs(self.t_ms, row_offsets)
        sizes = np.diff(row_offsets)[heads]
        bits, histograms = taken_histograms(self.bits, self.histograms)
        return FrameBatch(
            self.t_ms[expand_ranges(row_offsets[heads], sizes)],
            offsets_of(sizes),
            row_axis,
            bits.view(np.float64),
            row_offsets,
            histograms,
        )


def rows_of_frames(frames: FrameBatch) -> SampleRows:
    """The samples of a batch."""
    sizes = np.diff(frames.row_offsets)
    at = expand_ranges(frames.axis_offsets[frames.row_axis], sizes)
    return SampleRows(
        np.repeat(np.arange(len(sizes)), sizes),
        frames.t_ms[at],
        frames.values.view(np.uint64),
        frames.histograms,
    )


def last_samples(windows: WindowBatch, mint: int, maxt: int) -> SampleRows:
    """Last float and last histogram of each window, and markers, with mint <= t <= maxt.

    A marker stands at the end of its window, or of the range if that ends inside the window.
    """
    row = np.repeat(np.arange(windows.n_rows), np.diff(windows.row_offsets))
    end_ms = ends_of(windows)
    columns = windows.columns
    # Behind the last sample of the range, or one behind the range, a marker is read as such.
    is_behind = (columns[Column.COUNT] > 0) & (columns[Column.LAST_T] >= maxt)
    is_behind |= (columns[Column.H_COUNT] > 0) & (columns[Column.H_LAST_T] >= maxt)
    marker_ms = np.where(is_behind, end_ms, np.minimum(end_ms, maxt))
    parts = [
        (columns[Column.COUNT] > 0, columns[Column.LAST_T], columns[Column.LAST]),
        (columns[Column.H_COUNT] > 0, columns[Column.H_LAST_T], columns[Column.H_LAST]),
        (columns[Column.STALE] > 0, marker_ms, np.full(len(end_ms), STALE_BITS)),
    ]
    rows, times, bits = [], [], []
    for is_there, t_ms, values in parts:
        at = np.flatnonzero(is_there & (t_ms >= mint) & (t_ms <= maxt))
        rows.append(row[at])
        times.append(t_ms[at].astype(np.int64))
        bits.append(values.view(np.uint64)[at])
    t_ms, owner = np.concatenate(times), np.concatenate(rows)
    order = np.lexsort((t_ms, owner))
    return SampleRows(owner[order], t_ms[order], np.concatenate(bits)[order], windows.histograms)
