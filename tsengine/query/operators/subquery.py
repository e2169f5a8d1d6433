"""Subqueries: an expression on a grid of its own, whose results serve as samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.histogram_reading import without_series_hints
from tsengine.query.operators.range_notes import SeriesNotes
from tsengine.query.operators.rollup import (
    check_parameters,
    finish_rollup,
    parameter_steps,
    span_of_range,
    window_function,
)
from tsengine.query.operators.select import trimmed, window_ends
from tsengine.query.operators.window_function import Samples, Spans, new_cells
from tsengine.query.plan import Plan, SubqueryPlan
from tsengine.query.scheduler import plan_slices, run_slices
from tsengine.query.stepmatrix import (
    RangeVector,
    ScalarSteps,
    StepMatrix,
    cost,
    cost_of_cells,
)

_I64 = npt.NDArray[np.int64]

EvaluateVector = Callable[[Plan, QueryContext], StepMatrix]
"""The evaluator, for the expression inside; handed in because it calls this module."""


def grid(first_end_ms: int, last_end_ms: int, range_ms: int, step_ms: int) -> range:
    """Multiples of the step in (first end - range, last end]."""
    # Floor division: the first multiple strictly after the left end, also before the epoch.
    first = ((first_end_ms - range_ms) // step_ms + 1) * step_ms
    return range(first, last_end_ms + 1, step_ms)


def _evaluate_inner(
    plan: SubqueryPlan, ctx: QueryContext, evaluate: EvaluateVector, *, is_answer: bool = False
) -> tuple[_I64, _I64, StepMatrix | None]:
    """Window ends, grid, and the inner result on the grid (None if the grid is empty).

    `is_answer`: nothing looks at windows of it, which matters to the counts of samples only.
    """
    ends_ms = window_ends(ctx, plan.shift)
    times = grid(int(ends_ms[0]), int(ends_ms[-1]), plan.range_ms, plan.step_ms)
    ctx.limits.check_steps(len(times))
    steps_ms = np.arange(times.start, times.stop, times.step, dtype=np.int64)
    if len(steps_ms) == 0:
        return ends_ms, steps_ms, None
    inner_ctx = ctx.on_steps(steps_ms, plan.step_ms)
    value = evaluate(plan.inner, inner_ctx)
    if ctx.counts is not None and inner_ctx.counts is not None:
        if is_answer:
            ctx.counts.add_at(-1, int(inner_ctx.counts.total.sum()), 0)
            ctx.counts.add_subquery(inner_ctx.counts, 0, 0)
        else:
            ctx.counts.add_subquery(inner_ctx.counts, plan.shift.offset_ms, plan.range_ms)
    return ends_ms, steps_ms, value


def _as_samples(ctx: QueryContext, matrix: StepMatrix, steps_ms: _I64) -> Samples:
    """Results as samples, histograms with a table of their own."""
    batch = as_frames(matrix, steps_ms)
    values, table = without_series_hints(ctx, batch.values)
    return Samples(batch if table is None else replace(batch, values=values, histograms=table))


def as_frames(matrix: StepMatrix, steps_ms: _I64) -> FrameBatch:
    """A matrix as samples: full rows share the grid as axis, rows with gaps have their own."""
    n_rows, n_steps = matrix.values.shape
    if matrix.valid is None:
        return FrameBatch(
            t_ms=steps_ms,
            axis_offsets=np.array([0, n_steps], np.int64),
            row_axis=np.zeros(n_rows, np.int64),
            values=np.ascontiguousarray(matrix.values).reshape(-1),
            row_offsets=np.arange(n_rows + 1, dtype=np.int64) * n_steps,
        )
    lengths = np.count_nonzero(matrix.valid, axis=1)
    is_full = lengths == n_steps
    gappy = np.flatnonzero(~is_full)
    row_axis = np.zeros(n_rows, np.int64)
    row_axis[gappy] = np.arange(1, len(gappy) + 1)
    columns = np.nonzero(matrix.valid[gappy])[1]
    return FrameBatch(
        t_ms=np.concatenate((steps_ms, steps_ms[columns])),
        axis_offsets=np.concatenate(
            (np.array([0, n_steps]), n_steps + np.cumsum(lengths[gappy]))
        ).astype(np.int64),
        row_axis=row_axis,
        values=matrix.values[matrix.valid],
        row_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths))),
    )


def evaluate_subquery_rollup(
    node: ast.Call,
    source: SubqueryPlan,
    ctx: QueryContext,
    params: list[ScalarSteps],
    evaluate: EvaluateVector,
) -> StepMatrix:
    """A function of a subquery at every step."""
    steps = parameter_steps(params)
    ends_ms, grid_ms, inner = _evaluate_inner(source, ctx, evaluate)
    if inner is None or inner.n_series == 0:
        nothing = StepMatrix(ctx.space.empty_rows(0), np.empty((0, ctx.n_steps)))
        return finish_rollup(node, ctx, nothing, steps)
    points_ms = grid_ms[inner.present().any(axis=0)]

    def steps_with_samples() -> npt.NDArray[np.bool_]:
        first, last = (
            np.searchsorted(points_ms, times, side="right")
            for times in (ends_ms - source.range_ms, ends_ms)
        )
        return np.asarray(last > first)

    check_parameters(node, steps, steps_with_samples)
    function = window_function(node, ctx, steps)
    spans = Spans(ends_ms, source.range_ms)
    cells = new_cells(inner.n_series, ctx.n_steps)

    def work(number: int, rows: range) -> None:
        window = slice(rows.start, rows.stop)
        inner_valid = None if inner.valid is None else inner.valid[window]
        part = StepMatrix(ctx.space.empty_rows(0), inner.values[window], inner_valid)
        samples = _as_samples(ctx, part, grid_ms)
        function.fill(ctx, samples, spans, cells.rows(window))
        if ctx.counts is not None:
            ctx.counts.add_windows(
                samples.batch, ends_ms - source.range_ms, ends_ms, is_stored=False
            )

    ctx.account(cost_of_cells(cells.values.size))
    slices = plan_slices(
        inner.n_series, n_samples=inner.values.size, n_steps=ctx.n_steps, n_threads=ctx.n_threads
    )
    run_slices(ctx, slices, work)
    ctx.account(-cost(inner))
    marks = None if inner.drop_name is None else inner.drop_name[cells.n_present > 0]
    matrix = trimmed(ctx, inner.labels, cells.values, cells.valid, cells.n_present)
    SeriesNotes(cells.notes, inner.labels, span_of_range(node)).report(ctx)
    ctx.account(cost(matrix) - cost_of_cells(cells.values.size))
    return finish_rollup(node, ctx, matrix, steps, marks)


def evaluate_subquery_vector(
    plan: SubqueryPlan, ctx: QueryContext, evaluate: EvaluateVector
) -> RangeVector:
    """A subquery as the answer of an instant query."""
    _, grid_ms, inner = _evaluate_inner(plan, ctx, evaluate, is_answer=True)
    if inner is None:
        no_rows = ctx.space.empty_rows(0)
        return RangeVector(no_rows, np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0))
    present = inner.present()
    lengths = np.count_nonzero(present, axis=1)
    used = np.flatnonzero(lengths > 0)
    return RangeVector(
        labels=ctx.space.take(inner.labels, used),
        offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths[used]))),
        t_ms=grid_ms[np.nonzero(present)[1]],
        values=inner.values[present],
        drop_name=None if inner.drop_name is None else inner.drop_name[used],
    )
