"""Aggregation inside the slices of the selector or rollup under it.

The matrix of all series at all steps is never there: each slice folds its rows into a partial of
its own, and the partials are merged in the order of the slices, so that the answer does not depend
on which thread was faster.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.model.labels import LabelRows
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.aggregate import aggregate, group_rows
from tsengine.query.operators.rollup import PreparedRollup, annotate, finish_rollup, keeps_name
from tsengine.query.operators.select import (
    SeriesSet,
    WindowKernel,
    collect,
    held_slice,
    run_kernel,
    slices_of,
    trimmed,
)
from tsengine.query.partials import Partial, make_partial
from tsengine.query.scheduler import run_slices
from tsengine.query.stepmatrix import SAME_LABELSET, StepMatrix, cost, cost_of_cells

_I64 = npt.NDArray[np.int64]


def aggregate_series(
    ctx: QueryContext,
    node: ast.Aggregate,
    series: SeriesSet,
    kernel: WindowKernel,
    rollup: PreparedRollup | None = None,
) -> StepMatrix:
    """Aggregate what a kernel makes of the series.

    Parameters
    ----------
    ctx, node
        The query; the aggregation, one of `partials.PARTIAL_OPS`.
    series, kernel
        What to read, and what to make of it.
    rollup
        What `series` and `kernel` are of; None if the operand is an instant selector.

    """
    drops_name = rollup is not None and not keeps_name(rollup.node)
    labels = series.labels
    if drops_name and not ctx.delayed_name_removal:
        labels = ctx.space.drop_name(labels)
    group_of_row, group_labels = group_rows(ctx.space, labels, node.grouping, without=node.without)
    n_rows, n_groups = len(series.refs), len(group_labels)
    slices = slices_of(ctx, series) if n_rows else []
    if n_rows == 0 or 2 * n_groups * len(slices) > n_rows:
        # Nothing to do, or partials as large as the matrix they are to replace.
        matrix = collect(ctx, series, kernel)
        if rollup is not None:
            matrix = finish_rollup(rollup.node, ctx, matrix, rollup.params)
        result = aggregate(ctx, node, matrix, None)
        ctx.account(cost(result) - cost(matrix))
        return result
    partials: list[Partial | None] = [None] * len(slices)
    n_present = np.zeros(n_rows, np.int64)

    def work(number: int, rows: range) -> None:
        window = slice(rows.start, rows.stop)
        values = np.empty((len(rows), ctx.n_steps), np.float64)
        valid = np.empty(values.shape, np.bool_)
        with held_slice(ctx, series, rows) as batch:
            run_kernel(kernel, batch, series, values, valid, n_present[window])
        is_full = int(n_present[window].sum()) == values.size
        partial = make_partial(node.op, n_groups, ctx.n_steps)
        partial.add(values, None if is_full else valid, group_of_row[window])
        partials[number] = partial

    n_held = cost_of_cells(n_groups * ctx.n_steps * len(slices))
    ctx.account(n_held)
    run_slices(ctx, slices, work)
    if drops_name and not ctx.delayed_name_removal:
        _refuse_equal_series(ctx, labels, n_present)
    marked = drops_name and ctx.delayed_name_removal
    result = _merged(ctx, partials, group_labels, marked=marked)
    ctx.account(cost(result) - n_held)
    if rollup is not None:
        with_result = ctx.space.take(series.labels, np.flatnonzero(n_present))
        annotate(rollup.node, ctx, with_result, result, rollup.params)
    return result


def _refuse_equal_series(ctx: QueryContext, labels: LabelRows, n_present: _I64) -> None:
    """As a rollup on its own would: series that lost their name must differ in the rest."""
    used = ctx.space.take(labels, np.flatnonzero(n_present > 0))
    if len(ctx.space.group(used)[1]) < len(used):
        raise QueryError(SAME_LABELSET)


def _merged(
    ctx: QueryContext, partials: list[Partial | None], labels: LabelRows, *, marked: bool
) -> StepMatrix:
    first, *rest = partials
    assert first is not None, "every slice leaves a partial"
    for partial in rest:
        assert partial is not None, "every slice leaves a partial"
        first.merge(partial)
    values, valid = first.finish()
    matrix = trimmed(ctx, labels, values, valid, np.count_nonzero(valid, axis=1))
    if marked:
        matrix.drop_name = np.ones(matrix.n_series, np.bool_)
    return matrix
