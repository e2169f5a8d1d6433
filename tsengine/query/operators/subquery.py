"""Subqueries: an expression on a grid of its own, whose results serve as samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tsengine.model.frame import FrameBatch
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.rollup import (
    check_parameters,
    finish_rollup,
    parameter_steps,
    window_kernel,
)
from tsengine.query.operators.select import SeriesSet, run_kernel, trimmed, window_ends
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
    plan: SubqueryPlan, ctx: QueryContext, evaluate: EvaluateVector
) -> tuple[_I64, _I64, StepMatrix | None]:
    """Window ends, grid, and the inner result on the grid (None if the grid is empty)."""
    ends_ms = window_ends(ctx, plan.shift)
    times = grid(int(ends_ms[0]), int(ends_ms[-1]), plan.range_ms, plan.step_ms)
    ctx.limits.check_steps(len(times))
    steps_ms = np.arange(times.start, times.stop, times.step, dtype=np.int64)
    if len(steps_ms) == 0:
        return ends_ms, steps_ms, None
    return ends_ms, steps_ms, evaluate(plan.inner, ctx.on_steps(steps_ms, plan.step_ms))


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
    no_refs = np.empty(0, np.uint32)
    series = SeriesSet(no_refs, inner.labels, 0, 0, ends_ms, source.range_ms, drop_stale=False)
    kernel = window_kernel(node, ctx, steps)
    shape = (inner.n_series, ctx.n_steps)
    values, valid = np.empty(shape, np.float64), np.empty(shape, np.bool_)
    n_present = np.zeros(inner.n_series, np.int64)

    def work(number: int, rows: range) -> None:
        window = slice(rows.start, rows.stop)
        inner_valid = None if inner.valid is None else inner.valid[window]
        part = StepMatrix(ctx.space.empty_rows(0), inner.values[window], inner_valid)
        batch = as_frames(part, grid_ms)
        run_kernel(kernel, batch, series, values[window], valid[window], n_present[window])

    ctx.account(cost_of_cells(values.size))
    slices = plan_slices(
        inner.n_series, n_samples=inner.values.size, n_steps=ctx.n_steps, n_threads=ctx.n_threads
    )
    run_slices(ctx, slices, work)
    ctx.account(-cost(inner))
    marks = None if inner.drop_name is None else inner.drop_name[n_present > 0]
    matrix = trimmed(ctx, inner.labels, values, valid, n_present)
    ctx.account(cost(matrix) - cost_of_cells(values.size))
    return finish_rollup(node, ctx, matrix, steps, marks)


def evaluate_subquery_vector(
    plan: SubqueryPlan, ctx: QueryContext, evaluate: EvaluateVector
) -> RangeVector:
    """A subquery as the answer of an instant query."""
    _, grid_ms, inner = _evaluate_inner(plan, ctx, evaluate)
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
