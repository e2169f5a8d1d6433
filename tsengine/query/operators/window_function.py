"""What is made of the samples of a window: a kernel of floats, and what histograms change about it.

Most slices hold floats alone and go straight to a kernel. A slice with native histograms or start
timestamps is handed to the function's `special` part instead, which may call the kernel on what is
left. What a function makes of windows of a tier, instead of samples, is its `TierFunction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import is_handle
from tsengine.model.ragged import expand_ranges, offsets_of
from tsengine.model.windows import Column, WindowBatch
from tsengine.query.context import QueryContext
from tsengine.query.partials import SumPartial
from tsengine.query.readings import Aim

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

WindowKernel = Callable[[FrameBatch, _I64, _I64, int, _F64, _BOOL, _I64], None]
"""``(batch, order, ends_ms, range_ms, out[R, T], valid[R, T], n_present[R])``."""

SummingKernel = Callable[[FrameBatch, _I64, _I64, int, _I64, _I64, SumPartial], None]
"""``(batch, order, ends_ms, range_ms, groups[R], n_present[R], partial)``."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a slice of series.

    ``start_ms: i64[N]`` are the start timestamps beside ``batch.values`` (0 where unknown), None
    if none is known or they were not asked for.
    """

    batch: FrameBatch
    start_ms: _I64 | None = None

    @property
    def is_plain(self) -> bool:
        """Whether kernels of floats may be run as they are."""
        return self.batch.histograms is None and self.start_ms is None

    def handles(self) -> _BOOL:
        """Which values are histograms: bool[N]."""
        return is_handle(self.batch.values.view(np.uint64))

    def places(self) -> _I64:
        """Where each value's time stands in ``batch.t_ms``: i64[N]."""
        return places_of(self.batch)

    def filtered(self, kept: _BOOL) -> Samples:
        """Without the values that are not kept (bool[N]); rows that lose any get own axes."""
        if kept.all():
            return self
        batch = filter_frames(self.batch, kept)
        return Samples(batch, None if self.start_ms is None else self.start_ms[kept])


@dataclass(frozen=True, slots=True)
class Spans:
    """Windows (end - range, end]: ``ends_ms: i64[T]`` ascending."""

    ends_ms: _I64
    range_ms: int


@dataclass(frozen=True, slots=True)
class Cells:
    """What a function fills for R series at T steps.

    ``values: f64[R, T]``, ``valid: bool[R, T]``, ``n_present: i64[R]``, and ``notes: u16[R]``, the
    bits of `range_notes` that are collected for each series.
    """

    values: _F64
    valid: _BOOL
    n_present: _I64
    notes: npt.NDArray[np.uint16]

    def rows(self, rows: slice) -> Cells:
        """Some of the rows, as views."""
        return Cells(self.values[rows], self.valid[rows], self.n_present[rows], self.notes[rows])

    def recount(self) -> None:
        """Set `n_present` after `valid` has changed."""
        self.n_present[:] = np.count_nonzero(self.valid, axis=1)


def new_cells(n_rows: int, n_steps: int) -> Cells:
    """Cells to be filled."""
    return Cells(
        np.empty((n_rows, n_steps), np.float64),
        np.empty((n_rows, n_steps), np.bool_),
        np.zeros(n_rows, np.int64),
        np.zeros(n_rows, np.uint16),
    )


Special = Callable[[QueryContext, Samples, Spans, Cells], None]
"""Fills the cells from samples among which there are histograms or start timestamps."""


TierFill = Callable[[QueryContext, WindowBatch, Spans, Cells], None]
"""Fills the cells from windows of a tier; ends and range are multiples of the width."""


@dataclass(frozen=True, slots=True)
class TierFunction:
    """What a function makes of windows of a tier.

    Parameters
    ----------
    aim
        What it needs to be exact.
    fill
        For slices of floats alone.
    special
        For slices with native histograms.
    columns, histogram_columns
        What it looks at; the second only where there are histograms.
    is_scaled
        Whether a longer range gives more, so that results of rounded ranges are scaled back.

    """

    aim: Aim
    fill: TierFill
    special: TierFill
    columns: tuple[Column, ...]
    histogram_columns: tuple[Column, ...]
    is_scaled: bool = False


@dataclass(frozen=True, slots=True)
class WindowFunction:
    """A function of ranges.

    Parameters
    ----------
    kernel
        For slices of plain floats.
    special
        For other slices; None if handles may go through the kernel and none comes out.
    wants_starts
        Whether start timestamps matter.
    looks_at_values
        False if only times and staleness markers of floats matter.
    of_windows
        The function of windows of a tier; None if it needs samples.
    at_steps
        Makes the function for some of the steps; None if it is the same at all.
    summing
        A kernel of plain floats that adds its results to sums instead of giving them; or None.

    """

    kernel: WindowKernel
    special: Special | None = field(default=None)
    wants_starts: bool = False
    looks_at_values: bool = True
    of_windows: TierFunction | None = None
    at_steps: Callable[[slice], WindowFunction] | None = None
    summing: SummingKernel | None = None

    def fill(self, ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        """Compute all cells of a slice."""
        assert samples.batch.n_rows == len(cells.values), "one row per series"
        if self.special is None or samples.is_plain:
            run_kernel(self.kernel, samples.batch, spans, cells)
        else:
            self.special(ctx, samples, spans, cells)


def run_kernel(kernel: WindowKernel, batch: FrameBatch, spans: Spans, cells: Cells) -> None:
    """Fill the cells with what a kernel of floats makes of a batch."""
    kernel(
        batch, axis_order(batch), spans.ends_ms, spans.range_ms,
        cells.values, cells.valid, cells.n_present,
    )  # fmt: skip


def axis_order(batch: FrameBatch | WindowBatch) -> _I64:
    """Rows with those of one axis side by side: i64[S]."""
    row_axis = batch.row_axis
    if len(row_axis) < 2 or bool(np.all(row_axis[1:] >= row_axis[:-1])):
        return np.arange(len(row_axis))
    return np.argsort(row_axis, kind="stable")


def places_of(batch: FrameBatch) -> _I64:
    """Where each value's time stands in ``t_ms``: i64[N]."""
    return expand_ranges(batch.axis_offsets[batch.row_axis], np.diff(batch.row_offsets))


def filter_frames(batch: FrameBatch, kept: _BOOL) -> FrameBatch:
    """The batch without the values that are not kept: ``kept: bool[N]``.

    Rows that lose nothing stay on their axes, the others get axes of their own.
    """
    lengths = np.diff(batch.row_offsets)
    n_kept: _I64 = np.diff(running_count(kept)[batch.row_offsets])
    own = np.flatnonzero(n_kept < lengths)
    row_axis = batch.row_axis.copy()
    row_axis[own] = len(batch.axis_offsets) - 1 + np.arange(len(own))
    of_own = expand_ranges(batch.row_offsets[own], lengths[own])
    places = expand_ranges(batch.axis_offsets[batch.row_axis[own]], lengths[own])
    axis_sizes = np.concatenate((np.diff(batch.axis_offsets), n_kept[own]))
    return replace(
        batch,
        t_ms=np.concatenate((batch.t_ms, batch.t_ms[places[kept[of_own]]])),
        axis_offsets=offsets_of(axis_sizes),
        row_axis=row_axis,
        values=batch.values[kept],
        row_offsets=offsets_of(n_kept),
    )


def trim_frames(batch: FrameBatch, mint: int) -> FrameBatch:
    """The batch without samples before `mint`; axes stay shared."""
    kept = batch.t_ms >= mint
    if kept.all():
        return batch
    axis_sizes: _I64 = np.diff(running_count(kept)[batch.axis_offsets])
    return replace(
        batch,
        t_ms=batch.t_ms[kept],
        axis_offsets=offsets_of(axis_sizes),
        values=batch.values[kept[places_of(batch)]],
        row_offsets=offsets_of(axis_sizes[batch.row_axis]),
    )


def running_count(flags: _BOOL) -> _I64:
    """How many flags are set before each place, and in all: i64[len(flags) + 1]."""
    return offsets_of(flags.view(np.int8))
