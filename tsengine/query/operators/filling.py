"""Series of a selector, read and evaluated in slices: from samples or from windows of a tier."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.windows import Column, WindowBatch
from tsengine.promql.functions import USE_START_TIMESTAMPS
from tsengine.query.context import QueryContext
from tsengine.query.histogram_layout import cost_of
from tsengine.query.histogram_math import scale
from tsengine.query.operators.histogram_cells import keep
from tsengine.query.operators.histogram_reading import read_samples
from tsengine.query.operators.range_notes import INEXACT, note_rows
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    TierFunction,
    WindowFunction,
    axis_order,
    new_cells,
)
from tsengine.query.partials import SumPartial
from tsengine.query.readings import Reading, Wanted, cut_steps, inexact_steps, inexact_text
from tsengine.query.scheduler import plan_slices
from tsengine.query.stepmatrix import BYTES_PER_SAMPLE

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]
_Refs = npt.NDArray[np.uint32]

_BYTES_PER_WINDOW = 56
"""A window of the function that needs most columns."""


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Series that a selector found, and where their samples have to be looked for.

    ``refs: u32[S]``; `mint`, `maxt` closed; ``ends_ms: i64[T]`` right ends of the ranges, which
    look further back, and ahead, as `wanted` says. `drop_stale`: markers are as if they were
    not there, instead of ending a series. `totals_only`: see `SelectPlan`. `readings` divide the
    steps between samples and tiers.
    """

    refs: _Refs
    labels: LabelRows
    mint: int
    maxt: int
    wanted: Wanted
    drop_stale: bool
    totals_only: bool
    readings: tuple[Reading, ...]

    @property
    def ends_ms(self) -> _I64:
        """Right ends of the ranges at all steps: i64[T]."""
        return self.wanted.ends_ms

    @property
    def range_ms(self) -> int:
        """Length of the ranges."""
        return self.wanted.range_ms

    def bounds_of(self, reading: Reading) -> tuple[int, int]:
        """Closed range of the samples, or of the ends and beginnings of windows, of a reading.

        Where windows stand for samples, to the end of the last one: what it had may be missed.
        """
        first_ms, last_ms = (int(self.ends_ms[at]) for at in (reading.first, reading.last - 1))
        mint = first_ms - reading.range_ms - self.wanted.before_ms + 1
        maxt = last_ms + self.wanted.after_ms
        width = reading.width_ms
        if not width:
            coarse = reading.coarse_ms or 1
            return mint, -(-maxt // coarse) * coarse
        return (mint - 1) // width * width + 1, -(-maxt // width) * width

    @property
    def extent(self) -> tuple[int, int]:
        """Closed range of everything that is read."""
        bounds = [self.bounds_of(reading) for reading in self.readings]
        return min(mint for mint, _ in bounds), max(maxt for _, maxt in bounds)

    def inexact_text(self, ctx: QueryContext) -> str:
        """The info about results that are not exact; empty if all are."""
        if all(reading.is_exact for reading in self.readings):
            return ""
        return inexact_text(self.readings, ctx.view.exact_floor_ms(0, self.refs))


# --- slices -------------------------------------------------------------------------------------


def slices_of(ctx: QueryContext, series: SeriesSet) -> list[range]:
    """Slices of the series, by the samples and windows that will be read."""
    return plan_slices(
        len(series.refs),
        n_samples=n_samples_of(ctx, series),
        n_steps=ctx.n_steps,
        n_threads=ctx.n_threads,
    )


def n_samples_of(ctx: QueryContext, series: SeriesSet) -> int:
    """Upper bound of the samples and windows of the series; counted once for a query."""
    # The memo keeps the refs too, so that their identity stays theirs.
    key = ("samples", id(series.refs), series.mint, series.maxt, series.readings)
    known = ctx.memo.get(key)
    if known is None:
        n_samples = sum(_bound(ctx, series, reading) for reading in series.readings)
        known = ctx.memo[key] = (n_samples, series.refs)
    return int(known[0])


def _bound(ctx: QueryContext, series: SeriesSet, reading: Reading) -> int:
    mint, maxt = series.bounds_of(reading)
    if not reading.width_ms:
        return ctx.view.count_samples(series.refs, mint, maxt)
    return ctx.view.count_windows(series.refs, reading.width_ms, mint, maxt)


def bytes_held(ctx: QueryContext, series: SeriesSet) -> int:
    """Upper bound of what samples and windows take if those of all series are held at once."""
    has_windows = any(reading.width_ms for reading in series.readings)
    return n_samples_of(ctx, series) * (_BYTES_PER_WINDOW if has_windows else BYTES_PER_SAMPLE)


def note_tiers(ctx: QueryContext, series: SeriesSet) -> None:
    """Remember what the series are read from, for the query's statistics."""
    if len(series.refs) == 0:
        return
    if not ctx.view.tier_widths_ms:
        ctx.limits.note_tiers(("raw",))
        return
    for reading in series.readings:
        bounds = series.bounds_of(reading)
        ctx.limits.note_tiers(ctx.view.tiers_read(reading.width_ms, *bounds))


# --- cells --------------------------------------------------------------------------------------


def fill_slice(
    ctx: QueryContext, series: SeriesSet, rows: range, function: WindowFunction, cells: Cells
) -> None:
    """Read some of the series, and compute all their cells; ``cells`` has one row for each."""
    n_steps = cells.values.shape[1]
    for reading in series.readings:
        if reading.last - reading.first == n_steps:
            _fill_reading(ctx, series, rows, function, reading, cells)
            return
        ctx.check()
        part = new_cells(len(rows), reading.last - reading.first)
        at_steps = function.at_steps
        one = function if at_steps is None else at_steps(reading.steps)
        _fill_reading(ctx, series, rows, one, reading, part)
        _put_columns(cells, reading.steps, part)


def sum_slice(
    ctx: QueryContext,
    series: SeriesSet,
    rows: range,
    function: WindowFunction,
    groups: _I64,
    n_present: _I64,
    partial: SumPartial,
) -> bool:
    """As `fill_slice`, but results are only added to sums; False if that can't be done.

    ``groups, n_present: i64[R]`` of these rows.
    """
    reading = series.readings[0]
    if (
        function.summing is None
        or len(series.readings) > 1
        or reading.width_ms
        or not reading.is_exact
        or ctx.counts is not None
        or (function.wants_starts and USE_START_TIMESTAMPS in ctx.features)
    ):
        return False
    with held_slice(ctx, series, rows, series.bounds_of(reading)) as samples:
        assert samples.is_plain, "histograms are not summed in slices"
        batch = samples.batch
        order, ends_ms = axis_order(batch), series.ends_ms
        function.summing(batch, order, ends_ms, reading.range_ms, groups, n_present, partial)
    return True


def _fill_reading(
    ctx: QueryContext,
    series: SeriesSet,
    rows: range,
    function: WindowFunction,
    reading: Reading,
    cells: Cells,
) -> None:
    spans = Spans(series.ends_ms[reading.steps], reading.range_ms)
    if not reading.width_ms:
        with held_slice(
            ctx, series, rows, series.bounds_of(reading), want_starts=function.wants_starts,
            with_values=function.looks_at_values,
        ) as samples:  # fmt: skip
            function.fill(ctx, samples, spans, cells)
            _count(ctx, series, reading, samples.batch, cells.valid)
            n_read = np.diff(samples.batch.row_offsets)
    else:
        assert function.of_windows is not None, "windows are only chosen for who can use them"
        n_read = _fill_from_windows(ctx, series, rows, function.of_windows, reading, cells)
    if not reading.is_exact:
        inexact, told = inexact_steps(reading, series.wanted)
        is_inexact = cells.valid[:, inexact].any(axis=1) | told.any()
        if cut_steps(reading, series.wanted).any():
            # What there is may have given no result because it is cut otherwise.
            is_inexact |= n_read > 0
        note_rows(cells.notes, INEXACT, np.flatnonzero(is_inexact))


def _put_columns(cells: Cells, steps: slice | _I64, part: Cells) -> None:
    """Put results of some of the steps where they belong."""
    cells.values[:, steps] = part.values
    cells.valid[:, steps] = part.valid
    cells.n_present[:] += part.n_present
    cells.notes[:] |= part.notes


def _fill_from_windows(
    ctx: QueryContext,
    series: SeriesSet,
    rows: range,
    function: TierFunction,
    reading: Reading,
    cells: Cells,
) -> _I64:
    """Fill cells from windows; how many there are of each series: i64[R]."""
    with _held_windows(ctx, series, rows, function, reading) as batch:
        fill = function.special if Column.H_COUNT in batch.columns else function.fill
        ends_ms = series.ends_ms[reading.steps]
        if not reading.coarse_ms or series.wanted.is_aligned(reading.width_ms):
            fill(ctx, batch, Spans(ends_ms, reading.range_ms), cells)
        else:
            for steps, spans in _rounded_out(ends_ms, reading):
                part = new_cells(len(rows), len(steps))
                fill(ctx, batch, spans, part)
                if function.is_scaled and spans.range_ms != reading.range_ms:
                    _scale(ctx, part, reading.range_ms / spans.range_ms)
                _put_columns(cells, steps, part)
        _count(ctx, series, reading, batch, cells.valid)
        return np.diff(batch.row_offsets)


def _rounded_out(ends_ms: _I64, reading: Reading) -> Iterator[tuple[_I64, Spans]]:
    """Ranges made longer to whole windows, with their steps, those of one length together."""
    width = reading.width_ms
    right_ms = -(-ends_ms // width) * width
    lengths = right_ms - (ends_ms - reading.range_ms) // width * width
    for length in np.unique(lengths).tolist():
        steps = np.flatnonzero(lengths == length)
        yield steps, Spans(right_ms[steps], length)


def _scale(ctx: QueryContext, cells: Cells, factor: float) -> None:
    held = ctx.histograms.which(cells.values) & cells.valid
    if not held.any():
        np.multiply(cells.values, factor, out=cells.values)
        return
    table = ctx.histograms.take(cells.values[held])
    scaled = scale(table, np.full(len(table), factor))
    cells.values[~held] *= factor
    cells.values[held] = keep(ctx, scaled)


def _count(
    ctx: QueryContext,
    series: SeriesSet,
    reading: Reading,
    batch: FrameBatch | WindowBatch,
    valid: _BOOL,
) -> None:
    """Count what a kernel looked at, if the query asks for it; ``valid: bool[R, t]`` its results.

    Instant selectors look at one sample where they give one, range selectors at whole ranges.
    """
    if ctx.counts is None:
        return
    counts = ctx.counts.at_steps(reading.steps)
    if not series.drop_stale:
        counts.add_cells(valid)
        return
    ends_ms = series.ends_ms[reading.steps]
    lefts_ms = ends_ms - reading.range_ms - series.wanted.before_ms
    counts.add_windows(batch, lefts_ms, ends_ms + series.wanted.after_ms)


# --- reading ------------------------------------------------------------------------------------


@contextmanager
def held_slice(
    ctx: QueryContext,
    series: SeriesSet,
    rows: range,
    bounds: tuple[int, int],
    *,
    want_starts: bool = False,
    with_values: bool = True,
) -> Iterator[Samples]:
    """Samples of some of the series, on the query's account as long as they are in use."""
    samples = read_samples(
        ctx, series.refs[rows.start : rows.stop], *bounds, drop_stale=series.drop_stale,
        totals_only=series.totals_only,
        want_starts=want_starts and USE_START_TIMESTAMPS in ctx.features, with_values=with_values,
    )  # fmt: skip
    batch = samples.batch
    ctx.limits.note_read(len(batch.values))
    n_held = len(batch.values)
    if batch.histograms is not None:
        n_held += cost_of(batch.histograms)
    ctx.account(n_held)
    try:
        yield samples
    finally:
        ctx.account(-n_held)


@contextmanager
def _held_windows(
    ctx: QueryContext, series: SeriesSet, rows: range, function: TierFunction, reading: Reading
) -> Iterator[WindowBatch]:
    """Windows of some of the series, as `held_slice`."""
    refs = series.refs[rows.start : rows.stop]
    mint, maxt = series.bounds_of(reading)
    columns: Collection[Column] = function.columns
    if ctx.view.has_histograms(refs, mint, maxt):
        columns = (*function.columns, *function.histogram_columns)
    batch = ctx.view.read_windows(refs, reading.width_ms, mint, maxt, columns)
    ctx.limits.note_read(batch.n_windows)
    n_bytes = sum(column.nbytes for column in batch.columns.values())
    n_held = n_bytes // BYTES_PER_SAMPLE
    if batch.histograms is not None:
        n_held += cost_of(batch.histograms)
    ctx.account(n_held)
    try:
        yield batch
    finally:
        ctx.account(-n_held)
