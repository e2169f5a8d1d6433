"""Selectors: which series, which samples, and what of them at every step.

Labels first: series are found and their labels known before a sample is read. Samples are read and
evaluated slice by slice; a kernel sees one ragged batch of frames at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels import extended, windows
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import Matcher
from tsengine.promql import ast
from tsengine.promql.functions import USE_START_TIMESTAMPS
from tsengine.query.context import QueryContext
from tsengine.query.histogram_layout import cost_of
from tsengine.query.operators.histogram_edges import between_samples
from tsengine.query.operators.histogram_reading import adopt_values, read_samples
from tsengine.query.operators.histogram_rollup import passing
from tsengine.query.operators.range_notes import SeriesNotes, no_notes
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    WindowFunction,
    WindowKernel,
    axis_order,
    new_cells,
    places_of,
    run_kernel,
)
from tsengine.query.plan import MatrixPlan, SelectPlan, Shift
from tsengine.query.scheduler import plan_slices, run_slices
from tsengine.query.stepmatrix import RangeVector, StepMatrix, cost, cost_of_cells

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]
_Refs = npt.NDArray[np.uint32]

_MS = 1000.0
_FAR_MS = 1 << 61
"""Times are clamped to this, so that a range can be subtracted from any of them."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Samples that a selector uses at time T: in (T - range - before, T + after].

    `drop_stale`, `totals_only`: see `SeriesSet`.
    """

    range_ms: int
    before_ms: int = 0
    after_ms: int = 0
    drop_stale: bool = False
    totals_only: bool = False


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Series that a selector found, and where their samples have to be looked for.

    ``refs: u32[S]``; `mint`, `maxt` closed; ``ends_ms: i64[T]`` right ends of the windows.
    `drop_stale`: markers are as if they were not there, instead of ending a series. `totals_only`:
    see `SelectPlan`.
    """

    refs: npt.NDArray[np.uint32]
    labels: LabelRows
    mint: int
    maxt: int
    ends_ms: _I64
    range_ms: int
    drop_stale: bool
    totals_only: bool = False

    @property
    def spans(self) -> Spans:
        """The windows."""
        return Spans(self.ends_ms, self.range_ms)


def window_ends(ctx: QueryContext, shift: Shift) -> _I64:
    """Right ends of the windows at all steps: i64[T], ascending."""
    ends = ctx.steps_ms if shift.at_ms is None else np.full(ctx.n_steps, shift.at_ms, np.int64)
    ends = np.clip(ends, -_FAR_MS, _FAR_MS)
    return ends - min(max(shift.offset_ms, -_FAR_MS), _FAR_MS)


def find_series(
    ctx: QueryContext, matchers: tuple[Matcher, ...], shift: Shift, reach: Reach
) -> SeriesSet:
    """Find the series of a selector; equal selectors over equal times are looked up once."""
    ends_ms = window_ends(ctx, shift)
    range_ms = min(reach.range_ms, _FAR_MS)
    mint = int(ends_ms[0]) - range_ms - reach.before_ms + 1
    maxt = int(ends_ms[-1]) + reach.after_ms
    key = ("series", matchers, mint, maxt)
    known = ctx.memo.get(key)
    if known is None:
        refs = ctx.view.find(matchers, mint, maxt, ctx.check)
        known = (refs, ctx.view.labels(refs))
        ctx.memo[key] = known
    refs, labels = known
    return SeriesSet(
        refs, labels, mint, maxt, ends_ms, range_ms, reach.drop_stale, reach.totals_only
    )


def find_range_series(ctx: QueryContext, plan: MatrixPlan) -> SeriesSet:
    """The series of a range selector; `anchored` and `smoothed` look one lookback further."""
    selector = plan.node.selector
    before_ms = ctx.lookback_ms if selector.anchored or selector.smoothed else 0
    after_ms = ctx.lookback_ms if selector.smoothed else 0
    reach = Reach(plan.range_ms, before_ms, after_ms, drop_stale=True, totals_only=plan.totals_only)
    return find_series(ctx, selector.matchers, plan.shift, reach)


def evaluate_select(plan: SelectPlan, ctx: QueryContext) -> StepMatrix:
    """An instant vector selector at every step; the metric name stays unless times were asked."""
    if plan.want_start and USE_START_TIMESTAMPS not in ctx.features:
        return StepMatrix(ctx.space.empty_rows(0), np.empty((0, ctx.n_steps)))
    series = select_series(plan, ctx)
    return collect(ctx, series, select_function(plan), no_notes(series.labels, plan.node.span))


def select_series(plan: SelectPlan, ctx: QueryContext) -> SeriesSet:
    """The series of an instant selector."""
    reach = Reach(ctx.lookback_ms, totals_only=plan.totals_only)
    if _is_smoothed(plan):
        reach = replace(reach, after_ms=ctx.lookback_ms, drop_stale=True)
    return find_series(ctx, plan.node.matchers, plan.shift, reach)


def select_function(plan: SelectPlan) -> WindowFunction:
    """What an instant selector makes of its samples."""
    if plan.want_start:
        return WindowFunction(_no_starts, _latest_starts, wants_starts=True)
    if _is_smoothed(plan):
        return WindowFunction(_interpolated, between_samples(_interpolated))
    return latest(want_time=plan.want_time)


def _is_smoothed(plan: SelectPlan) -> bool:
    # Times are those of samples: there is nothing to interpolate.
    return plan.node.smoothed and not plan.want_time and not plan.want_start


def latest(*, want_time: bool) -> WindowFunction:
    """The newest samples' values or times."""
    if want_time:
        return WindowFunction(_latest_kernel(windows.TIME_S))
    kernel = _latest_kernel(windows.VALUE)
    return WindowFunction(kernel, passing(kernel))


def _latest_kernel(op: int) -> WindowKernel:
    def call(
        batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
        out: _F64, valid: _BOOL, n_present: _I64,
    ) -> None:  # fmt: skip
        windows.select_latest(
            op, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
            batch.row_offsets, ends_ms, range_ms, out, valid, n_present,
        )  # fmt: skip

    return call


def _latest_starts(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
    """Start timestamps of the newest samples in seconds, 0 where unknown."""
    values = samples.batch.values
    start_ms = np.zeros(len(values)) if samples.start_ms is None else samples.start_ms
    is_stale = values.view(np.uint64) == STALE_BITS
    seconds = np.where(is_stale, values, start_ms / _MS)
    batch = replace(samples.batch, values=seconds, histograms=None)
    run_kernel(_latest_kernel(windows.VALUE), batch, spans, cells)


def _no_starts(
    batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
    out: _F64, valid: _BOOL, n_present: _I64,
) -> None:  # fmt: skip
    """As `_latest_starts` where no start timestamp is known."""
    zeros = np.where(batch.values.view(np.uint64) == STALE_BITS, batch.values, 0.0)
    plain = replace(batch, values=zeros, histograms=None)
    _latest_kernel(windows.VALUE)(plain, order, ends_ms, range_ms, out, valid, n_present)


def _interpolated(
    batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
    out: _F64, valid: _BOOL, n_present: _I64,
) -> None:  # fmt: skip
    extended.interpolate_instants(
        batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values, batch.row_offsets,
        ends_ms, range_ms, out, valid, n_present,
    )  # fmt: skip


def collect(
    ctx: QueryContext,
    series: SeriesSet,
    function: WindowFunction,
    notes: SeriesNotes | None = None,
) -> StepMatrix:
    """Run a function over all series and keep the rows that hold anything.

    The result is on the query's account. What has to be annotated is collected in `notes` and
    reported; without them it is not.
    """
    n_rows, n_steps = len(series.refs), ctx.n_steps
    ctx.account(cost_of_cells(n_rows * n_steps))
    cells = new_cells(n_rows, n_steps)

    def work(number: int, rows: range) -> None:
        part = cells.rows(slice(rows.start, rows.stop))
        with held_slice(ctx, series, rows, want_starts=function.wants_starts) as samples:
            function.fill(ctx, samples, series.spans, part)
            count_samples(ctx, series, samples.batch, part.valid)

    if n_rows > 0:
        run_slices(ctx, slices_of(ctx, series), work)
    if notes is not None:
        notes.bits[:] = cells.notes
        notes.report(ctx)
    matrix = trimmed(ctx, series.labels, cells.values, cells.valid, cells.n_present)
    ctx.account(cost(matrix) - cost_of_cells(n_rows * n_steps))
    return matrix


def count_samples(ctx: QueryContext, series: SeriesSet, batch: FrameBatch, valid: _BOOL) -> None:
    """Count what a kernel looked at, if the query asks for it; ``valid: bool[R, T]`` its results.

    Instant selectors look at one sample where they give one, range selectors at whole windows.
    """
    if ctx.counts is None:
        return
    if not series.drop_stale:
        ctx.counts.add_cells(valid)
        return
    before_ms = int(series.ends_ms[0]) - series.range_ms + 1 - series.mint
    after_ms = series.maxt - int(series.ends_ms[-1])
    lefts_ms = series.ends_ms - series.range_ms - before_ms
    ctx.counts.add_windows(batch, lefts_ms, series.ends_ms + after_ms)


def slices_of(ctx: QueryContext, series: SeriesSet) -> list[range]:
    """Slices of the series, by the samples that will be read."""
    return plan_slices(
        len(series.refs),
        n_samples=n_samples_of(ctx, series),
        n_steps=ctx.n_steps,
        n_threads=ctx.n_threads,
    )


def n_samples_of(ctx: QueryContext, series: SeriesSet) -> int:
    """Upper bound of the samples of the series, from block headers; counted once for a query."""
    # The memo keeps the refs too, so that their identity stays theirs.
    key = ("samples", id(series.refs), series.mint, series.maxt)
    known = ctx.memo.get(key)
    if known is None:
        n_samples = ctx.view.count_samples(series.refs, series.mint, series.maxt)
        known = ctx.memo[key] = (n_samples, series.refs)
    return int(known[0])


@contextmanager
def held_slice(
    ctx: QueryContext, series: SeriesSet, rows: range, *, want_starts: bool = False
) -> Iterator[Samples]:
    """Samples of some of the series, on the query's account as long as they are in use."""
    samples = _read(ctx, series, series.refs[rows.start : rows.stop], want_starts=want_starts)
    n_samples = len(samples.batch.values)
    ctx.limits.note_read(n_samples)
    n_held = n_samples + _cost_of_histograms(samples.batch)
    ctx.account(n_held)
    try:
        yield samples
    finally:
        ctx.account(-n_held)


def _read(ctx: QueryContext, series: SeriesSet, refs: _Refs, *, want_starts: bool) -> Samples:
    return read_samples(
        ctx, refs, series.mint, series.maxt, drop_stale=series.drop_stale,
        totals_only=series.totals_only,
        want_starts=want_starts and USE_START_TIMESTAMPS in ctx.features,
    )  # fmt: skip


def _cost_of_histograms(batch: FrameBatch) -> int:
    return 0 if batch.histograms is None else cost_of(batch.histograms)


def trimmed(
    ctx: QueryContext, labels: LabelRows, values: _F64, valid: _BOOL, n_present: _I64
) -> StepMatrix:
    """A matrix without the rows that hold nothing, and without validity if nothing is absent."""
    used = n_present > 0
    if not used.all():
        rows = np.flatnonzero(used)
        labels = ctx.space.take(labels, rows)
        values, valid, n_present = values[rows], valid[rows], n_present[rows]
    is_full = int(n_present.sum()) == values.size
    return StepMatrix(labels, values, None if is_full else valid)


def evaluate_range_vector(plan: MatrixPlan, ctx: QueryContext) -> RangeVector:
    """A range selector as the answer of an instant query: its samples, without stale markers.

    An anchored or smoothed range also has values at both its ends.
    """
    series = find_range_series(ctx, plan)
    ctx.account(n_samples_of(ctx, series))
    batch = _read(ctx, series, series.refs, want_starts=False).batch
    ctx.limits.note_read(len(batch.values))
    row = np.repeat(np.arange(batch.n_rows), np.diff(batch.row_offsets))
    t_ms, values = batch.t_ms[places_of(batch)], adopt_values(ctx, batch)
    selector = plan.node.selector
    if selector.anchored or selector.smoothed:
        if batch.histograms is not None:
            modifier = "smoothed" if selector.smoothed else "anchored"
            raise QueryError(f"{modifier} modifier is not supported with histograms")
        row, t_ms, values = _with_edges(ctx, selector, series, batch, (row, t_ms, values))
    lengths = np.bincount(row, minlength=batch.n_rows)
    used = np.flatnonzero(lengths > 0)
    if ctx.counts is not None:
        ctx.counts.add_at(0, len(values), len(values))
    return RangeVector(
        labels=ctx.space.take(series.labels, used),
        offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[used]))),
        t_ms=t_ms,
        values=values,
    )


def _with_edges(
    ctx: QueryContext,
    selector: ast.VectorSelector,
    series: SeriesSet,
    batch: FrameBatch,
    samples: tuple[_I64, _I64, _F64],
) -> tuple[_I64, _I64, _F64]:
    """Samples ``(row, t_ms, value)`` strictly inside the one range there is, and at its ends."""
    modifier = extended.SMOOTHED if selector.smoothed else extended.ANCHORED
    end_ms = int(series.ends_ms[0])
    start_ms = end_ms - series.range_ms
    row, t_ms, values = samples
    shape = (batch.n_rows, 1)
    valid = np.empty(shape, np.bool_)
    edges = []
    for op, edge_ms in ((extended.LEFT, start_ms), (extended.RIGHT, end_ms)):
        out = np.empty(shape)
        extended.difference_of_edges(
            op, modifier, ctx.lookback_ms, batch.t_ms, batch.axis_offsets, batch.row_axis,
            axis_order(batch), batch.values, batch.row_offsets, series.ends_ms[:1],
            series.range_ms, out, valid, np.empty(batch.n_rows, np.int64),
        )  # fmt: skip
        rows = np.flatnonzero(valid)
        edges.append((rows, np.full(len(rows), edge_ms), out[rows, 0]))
    inside = valid[row, 0] & (t_ms > start_ms) & (t_ms < end_ms)
    parts = (edges[0], (row[inside], t_ms[inside], values[inside]), edges[1])
    row, t_ms, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((t_ms, row))
    return row[order], t_ms[order], values[order]
