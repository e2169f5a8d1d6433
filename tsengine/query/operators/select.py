"""Selectors: which series, which samples, and what of them at every step.

Labels first: series are found and their labels known before a sample is read. Samples are read and
evaluated slice by slice; a kernel sees one ragged batch of frames at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import extended, windows
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import Matcher
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.plan import MatrixPlan, SelectPlan, Shift
from tsengine.query.scheduler import plan_slices, run_slices
from tsengine.query.stepmatrix import RangeVector, StepMatrix, cost, cost_of_cells

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_FAR_MS = 1 << 61
"""Times are clamped to this, so that a range can be subtracted from any of them."""

WindowKernel = Callable[[FrameBatch, _I64, _I64, int, _F64, _BOOL, _I64], None]
"""``(batch, order, ends_ms, range_ms, out[S, T], valid[S, T], n_present[S])``."""

Sink = Callable[[int, range, _F64, _BOOL | None], None]
"""``(slice number, rows, values[R, T], valid[R, T] or None)``: takes what a slice computed."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Samples that a selector uses at time T: in (T - range - before, T + after].

    `drop_stale`: see `SeriesSet`.
    """

    range_ms: int
    before_ms: int = 0
    after_ms: int = 0
    drop_stale: bool = False


@dataclass(frozen=True, slots=True)
class SeriesSet:
    """Series that a selector found, and where their samples have to be looked for.

    ``refs: u32[S]``; `mint`, `maxt` closed; ``ends_ms: i64[T]`` right ends of the windows.
    `drop_stale`: markers are as if they were not there, instead of ending a series.
    """

    refs: npt.NDArray[np.uint32]
    labels: LabelRows
    mint: int
    maxt: int
    ends_ms: _I64
    range_ms: int
    drop_stale: bool


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
    return SeriesSet(refs, labels, mint, maxt, ends_ms, range_ms, reach.drop_stale)


def find_range_series(ctx: QueryContext, plan: MatrixPlan) -> SeriesSet:
    """The series of a range selector; `anchored` and `smoothed` look one lookback further."""
    selector = plan.node.selector
    before_ms = ctx.lookback_ms if selector.anchored or selector.smoothed else 0
    after_ms = ctx.lookback_ms if selector.smoothed else 0
    reach = Reach(plan.range_ms, before_ms, after_ms, drop_stale=True)
    return find_series(ctx, selector.matchers, plan.shift, reach)


def evaluate_select(plan: SelectPlan, ctx: QueryContext) -> StepMatrix:
    """An instant vector selector at every step; the metric name stays unless times were asked."""
    return collect(ctx, select_series(plan, ctx), select_kernel(plan))


def select_series(plan: SelectPlan, ctx: QueryContext) -> SeriesSet:
    """The series of an instant selector."""
    reach = Reach(ctx.lookback_ms)
    if _is_smoothed(plan):
        reach = Reach(ctx.lookback_ms, after_ms=ctx.lookback_ms, drop_stale=True)
    return find_series(ctx, plan.node.matchers, plan.shift, reach)


def select_kernel(plan: SelectPlan) -> WindowKernel:
    """The kernel of an instant selector."""
    return _interpolated if _is_smoothed(plan) else latest(want_time=plan.want_time)


def _is_smoothed(plan: SelectPlan) -> bool:
    # Times are those of samples: there is nothing to interpolate.
    return plan.node.smoothed and not plan.want_time


def latest(*, want_time: bool) -> WindowKernel:
    """The kernel of ordinary instant selectors."""
    op = windows.TIME_S if want_time else windows.VALUE

    def call(
        batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
        out: _F64, valid: _BOOL, n_present: _I64,
    ) -> None:  # fmt: skip
        windows.select_latest(
            op, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
            batch.row_offsets, ends_ms, range_ms, out, valid, n_present,
        )  # fmt: skip

    return call


def _interpolated(
    batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
    out: _F64, valid: _BOOL, n_present: _I64,
) -> None:  # fmt: skip
    extended.interpolate_instants(
        batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values, batch.row_offsets,
        ends_ms, range_ms, out, valid, n_present,
    )  # fmt: skip


def collect(ctx: QueryContext, series: SeriesSet, kernel: WindowKernel) -> StepMatrix:
    """Run a kernel over all series and keep the rows that hold anything.

    The result is on the query's account.
    """
    n_rows, n_steps = len(series.refs), ctx.n_steps
    ctx.account(cost_of_cells(n_rows * n_steps))
    values = np.empty((n_rows, n_steps), np.float64)
    valid = np.empty((n_rows, n_steps), np.bool_)
    n_present = np.zeros(n_rows, np.int64)

    def work(number: int, rows: range) -> None:
        window = slice(rows.start, rows.stop)
        with held_slice(ctx, series, rows) as batch:
            run_kernel(kernel, batch, series, values[window], valid[window], n_present[window])

    if n_rows > 0:
        run_slices(ctx, slices_of(ctx, series), work)
    matrix = trimmed(ctx, series.labels, values, valid, n_present)
    ctx.account(cost(matrix) - cost_of_cells(n_rows * n_steps))
    return matrix


def run_kernel(
    kernel: WindowKernel,
    batch: FrameBatch,
    series: SeriesSet,
    values: _F64,
    valid: _BOOL,
    n_present: _I64,
) -> None:
    """Check what a kernel takes on trust, and call it."""
    assert batch.n_rows == len(values) == len(valid) == len(n_present), "one row per series"
    kernel(batch, axis_order(batch), series.ends_ms, series.range_ms, values, valid, n_present)


def slices_of(ctx: QueryContext, series: SeriesSet) -> list[range]:
    """Slices of the series, by the samples that will be read."""
    n_samples = ctx.view.count_samples(series.refs, series.mint, series.maxt)
    return plan_slices(
        len(series.refs), n_samples=n_samples, n_steps=ctx.n_steps, n_threads=ctx.n_threads
    )


@contextmanager
def held_slice(ctx: QueryContext, series: SeriesSet, rows: range) -> Iterator[FrameBatch]:
    """Samples of some of the series, on the query's account as long as they are in use."""
    refs = series.refs[rows.start : rows.stop]
    batch = ctx.view.read(refs, series.mint, series.maxt, drop_stale=series.drop_stale)
    n_samples = len(batch.values)
    ctx.limits.note_read(n_samples)
    ctx.account(n_samples)
    try:
        yield batch
    finally:
        ctx.account(-n_samples)


def axis_order(batch: FrameBatch) -> _I64:
    """Rows with those of one axis side by side: i64[S]."""
    row_axis = batch.row_axis
    if len(row_axis) < 2 or bool(np.all(row_axis[1:] >= row_axis[:-1])):
        return np.arange(len(row_axis))
    return np.argsort(row_axis, kind="stable")


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
    ctx.account(ctx.view.count_samples(series.refs, series.mint, series.maxt))
    batch = ctx.view.read(series.refs, series.mint, series.maxt, drop_stale=True)
    ctx.limits.note_read(len(batch.values))
    lengths = np.diff(batch.row_offsets)
    starts = batch.axis_offsets[batch.row_axis]
    at = np.repeat(starts - batch.row_offsets[:-1], lengths) + np.arange(len(batch.values))
    row, t_ms, values = np.repeat(np.arange(batch.n_rows), lengths), batch.t_ms[at], batch.values
    selector = plan.node.selector
    if selector.anchored or selector.smoothed:
        row, t_ms, values = _with_edges(ctx, selector, series, batch, (row, t_ms, values))
    lengths = np.bincount(row, minlength=batch.n_rows)
    used = np.flatnonzero(lengths > 0)
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
