"""Selectors: which series, which samples, and what of them at every step.

Labels first: series are found and their labels known before a sample is read. Samples are read and
evaluated slice by slice; a kernel sees one ragged batch of frames at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

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
from tsengine.query.operators.filling import (
    SeriesSet,
    fill_slice,
    n_samples_of,
    note_tiers,
    slices_of,
)
from tsengine.query.operators.histogram_edges import between_samples
from tsengine.query.operators.histogram_reading import adopt_values, read_samples
from tsengine.query.operators.histogram_rollup import passing
from tsengine.query.operators.range_notes import SeriesNotes, no_notes
from tsengine.query.operators.tier_function import newest_of_windows, tier_function
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    TierFunction,
    WindowFunction,
    WindowKernel,
    axis_order,
    new_cells,
    places_of,
    run_kernel,
)
from tsengine.query.partials import SumPartial
from tsengine.query.plan import MatrixPlan, SelectPlan, Shift
from tsengine.query.readings import (
    Aim,
    Reading,
    Wanted,
    choose_readings,
    describe_readings,
    inexact_steps,
)
from tsengine.query.scheduler import run_slices
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

    `aim` says what it looks for among them; `drop_stale`, `totals_only`: see `SeriesSet`.
    """

    range_ms: int
    before_ms: int = 0
    after_ms: int = 0
    drop_stale: bool = False
    totals_only: bool = False
    aim: Aim = Aim.SAMPLES


def window_ends(ctx: QueryContext, shift: Shift) -> _I64:
    """Right ends of the windows at all steps: i64[T], ascending."""
    ends = ctx.steps_ms if shift.at_ms is None else np.full(ctx.n_steps, shift.at_ms, np.int64)
    ends = np.minimum(np.maximum(ends, -_FAR_MS), _FAR_MS)
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
        ctx.note_labels_of_series(known[1])
    refs, labels = known
    wanted = Wanted(ends_ms, range_ms, reach.before_ms, reach.aim, reach.after_ms)
    readings = _readings(ctx, refs, wanted)
    return SeriesSet(
        refs, labels, mint, maxt, wanted, reach.drop_stale, reach.totals_only,
        readings,
    )  # fmt: skip


def _readings(ctx: QueryContext, refs: _Refs, wanted: Wanted) -> tuple[Reading, ...]:
    # The memo keeps the refs too, so that their identity stays theirs.
    key = (
        "readings", id(refs), ctx.start_ms, ctx.end_ms, int(wanted.ends_ms[0]),
        int(wanted.ends_ms[-1]), ctx.n_steps, wanted.range_ms, wanted.before_ms, wanted.aim,
        wanted.after_ms,
    )  # fmt: skip
    known = ctx.memo.get(key)
    if known is None:
        known = ctx.memo[key] = (choose_readings(ctx.view, refs, wanted), refs)
    readings: tuple[Reading, ...] = known[0]
    return readings


def find_range_series(
    ctx: QueryContext, plan: MatrixPlan, function: ast.Call | None = None
) -> SeriesSet:
    """The series of a range selector; `anchored` and `smoothed` look one lookback further.

    `function` is what its samples are for; None if they are the answer.
    """
    known = _known_series(ctx, plan, function)
    if known is not None:
        return known
    selector = plan.node.selector
    before_ms = ctx.lookback_ms if selector.anchored or selector.smoothed else 0
    after_ms = ctx.lookback_ms if selector.smoothed else 0
    of_windows = None if function is None else range_tier_function(ctx, function, plan)
    aim = Aim.SAMPLES if of_windows is None else of_windows.aim
    reach = Reach(
        plan.range_ms, before_ms, after_ms, drop_stale=True, totals_only=plan.totals_only, aim=aim
    )
    series = find_series(ctx, selector.matchers, plan.shift, reach)
    return _keep_series(ctx, plan, function, series)


def _known_series(
    ctx: QueryContext, plan: SelectPlan | MatrixPlan, function: ast.Call | None
) -> SeriesSet | None:
    """What was found for a selector before: the estimate and the operator ask the same."""
    known = ctx.memo.get(("selected", id(plan), ctx.start_ms, ctx.end_ms, ctx.n_steps))
    if known is None or known[1] is not function:
        return None
    series: SeriesSet = known[2]
    return series


def _keep_series(
    ctx: QueryContext, plan: SelectPlan | MatrixPlan, function: ast.Call | None, series: SeriesSet
) -> SeriesSet:
    """Remember them, and what they are read from for those who want the plan explained."""
    # The plan is kept too, so that its identity stays its own.
    place = ("selected", id(plan), ctx.start_ms, ctx.end_ms, ctx.n_steps)
    ctx.memo[place] = (plan, function, series)
    if ctx.view.tier_widths_ms:
        ctx.choices[id(plan)] = describe_readings(series.readings, ctx.steps_ms)
    return series


_USE_STARTS = frozenset({"rate", "increase"})


def range_tier_function(ctx: QueryContext, node: ast.Call, plan: MatrixPlan) -> TierFunction | None:
    """What a function of a range selector makes of windows; None if it needs samples."""
    selector = plan.node.selector
    if selector.anchored or selector.smoothed:
        return None
    if node.name in _USE_STARTS and USE_START_TIMESTAMPS in ctx.features:
        return None
    return tier_function(node.name)


def evaluate_select(plan: SelectPlan, ctx: QueryContext) -> StepMatrix:
    """An instant vector selector at every step; the metric name stays unless times were asked."""
    if plan.want_start and USE_START_TIMESTAMPS not in ctx.features:
        return StepMatrix(ctx.space.empty_rows(0), np.empty((0, ctx.n_steps)))
    series = select_series(plan, ctx)
    notes = no_notes(series.labels, plan.node.span, series.inexact_text(ctx))
    return collect(ctx, series, select_function(plan), notes)


def select_series(plan: SelectPlan, ctx: QueryContext) -> SeriesSet:
    """The series of an instant selector."""
    known = _known_series(ctx, plan, None)
    if known is not None:
        return known
    of_windows = select_function(plan).of_windows
    aim = Aim.SAMPLES if of_windows is None else of_windows.aim
    reach = Reach(ctx.lookback_ms, totals_only=plan.totals_only, aim=aim)
    if _is_smoothed(plan):
        reach = replace(reach, after_ms=ctx.lookback_ms, drop_stale=True)
    series = find_series(ctx, plan.node.matchers, plan.shift, reach)
    return _keep_series(ctx, plan, None, series)


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


@cache
def latest(*, want_time: bool) -> WindowFunction:
    """The newest samples' values or times."""
    of_windows = newest_of_windows(want_time=want_time)
    if want_time:
        return WindowFunction(_latest_kernel(windows.TIME_S), of_windows=of_windows)
    kernel = _latest_kernel(windows.VALUE)
    return WindowFunction(kernel, passing(kernel), of_windows=of_windows, summing=_sum_latest)


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


def _sum_latest(
    batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
    groups: _I64, n_present: _I64, partial: SumPartial,
) -> None:  # fmt: skip
    partial.fold(
        lambda *sums: windows.latest_sums(
            batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
            batch.row_offsets, ends_ms, range_ms, *sums, n_present,
        ),
        groups,
    )  # fmt: skip


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
        fill_slice(ctx, series, rows, function, cells.rows(slice(rows.start, rows.stop)))

    note_tiers(ctx, series)
    if n_rows > 0:
        run_slices(ctx, slices_of(ctx, series), work)
    if notes is not None:
        notes.bits[:] = cells.notes
        notes.report(ctx)
    matrix = trimmed(ctx, series.labels, cells.values, cells.valid, cells.n_present)
    ctx.account(cost(matrix) - cost_of_cells(n_rows * n_steps))
    return matrix


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
    batch = read_samples(
        ctx, series.refs, series.mint, series.maxt, drop_stale=True, totals_only=series.totals_only
    ).batch
    ctx.limits.note_read(len(batch.values))
    note_tiers(ctx, series)
    row = np.repeat(np.arange(batch.n_rows), np.diff(batch.row_offsets))
    t_ms, values = batch.t_ms[places_of(batch)], adopt_values(ctx, batch)
    reading = series.readings[0]
    floor_ms = None if reading.is_exact else ctx.view.exact_floor_ms(0, series.refs)
    if floor_ms is not None:
        _, is_told = inexact_steps(reading, series.wanted)
        if is_told.any() or np.any(t_ms <= floor_ms):
            ctx.add_info(series.inexact_text(ctx), plan.node.span)
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
