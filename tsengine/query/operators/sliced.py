"""Aggregation inside the slices of the selector or rollup under it.

The matrix of all series at all steps is never there: each slice folds its rows into a partial of
its own, and the partials are merged in the order of the slices, so that the answer does not depend
on which thread was faster.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.model.labels import LabelRows
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.aggregate import COUNTS, aggregate, group_series
from tsengine.query.operators.filling import (
    SeriesSet,
    fill_slice,
    note_tiers,
    slices_of,
    sum_slice,
)
from tsengine.query.operators.range_notes import SeriesNotes
from tsengine.query.operators.rollup import PreparedRollup, annotate, finish_rollup, keeps_name
from tsengine.query.operators.select import collect, trimmed
from tsengine.query.operators.window_function import WindowFunction, new_cells
from tsengine.query.partials import Partial, SumPartial, make_partial
from tsengine.query.scheduler import run_slices
from tsengine.query.stepmatrix import SAME_LABELSET, StepMatrix, cost, cost_of_cells

_I64 = npt.NDArray[np.int64]


def aggregate_series(
    ctx: QueryContext,
    node: ast.Aggregate,
    series: SeriesSet,
    function: WindowFunction,
    notes: SeriesNotes,
    rollup: PreparedRollup | None = None,
) -> StepMatrix:
    """Aggregate what a function of windows makes of the series.

    Parameters
    ----------
    ctx, node
        The query; the aggregation, one of `partials.PARTIAL_OPS`.
    series, function
        What to read, and what to make of it.
    notes
        Where to collect what has to be annotated; it is reported.
    rollup
        What `series` and `function` are of; None if the operand is an instant selector.

    """
    loses_name = rollup is not None and not keeps_name(rollup.node)
    drops_name = loses_name and not ctx.delayed_name_removal
    group_of_row, group_labels = group_series(ctx, node, series.labels, drops_name=drops_name)
    n_rows, n_groups = len(series.refs), len(group_labels)
    slices = slices_of(ctx, series) if n_rows else []
    if (
        n_rows == 0
        # Partials would be as large as the matrix they are to replace.
        or 2 * n_groups * len(slices) > n_rows
        # Partials are of floats.
        or ctx.view.has_histograms(series.refs, *series.extent)
    ):
        matrix = collect(ctx, series, function, notes)
        if rollup is not None:
            matrix = finish_rollup(rollup.node, ctx, matrix, rollup.params)
        result = aggregate(ctx, node, matrix, None)
        ctx.account(cost(result) - cost(matrix))
        return result
    if node.op in COUNTS and rollup is None and function.summing is not None:
        # Which of the newest samples there are is all that matters.
        function = replace(function, looks_at_values=False)
    partials: list[Partial | None] = [None] * len(slices)
    n_present = np.zeros(n_rows, np.int64)

    def work(number: int, rows: range) -> None:
        window = slice(rows.start, rows.stop)
        groups = group_of_row[window]
        partial = partials[number] = make_partial(node.op, n_groups, ctx.n_steps)
        if isinstance(partial, SumPartial) and sum_slice(
            ctx, series, rows, function, groups, n_present[window], partial
        ):
            return
        cells = new_cells(len(rows), ctx.n_steps)
        fill_slice(ctx, series, rows, function, cells)
        n_present[window] = cells.n_present
        notes.bits[window] = cells.notes
        is_full = int(cells.n_present.sum()) == cells.values.size
        partial.add(cells.values, None if is_full else cells.valid, groups)

    n_held = cost_of_cells(n_groups * ctx.n_steps * len(slices))
    ctx.account(n_held)
    note_tiers(ctx, series)
    run_slices(ctx, slices, work)
    if drops_name and not ctx.space.has_one_name(series.labels):
        _refuse_equal_series(ctx, series.labels, n_present)
    marked = loses_name and not drops_name
    result = _merged(ctx, partials, group_labels, marked=marked)
    ctx.account(cost(result) - n_held)
    notes.report(ctx)
    if rollup is not None:
        annotate(
            rollup.node, ctx, _having_results(ctx, series.labels, n_present), result, rollup.params
        )
    return result


def _refuse_equal_series(ctx: QueryContext, labels: LabelRows, n_present: _I64) -> None:
    """As a rollup on its own would: series that lost their name must differ in the rest."""
    used = ctx.space.drop_name(_having_results(ctx, labels, n_present))
    if len(ctx.space.group(used)[1]) < len(used):
        raise QueryError(SAME_LABELSET)


def _having_results(ctx: QueryContext, labels: LabelRows, n_present: _I64) -> LabelRows:
    return labels if n_present.all() else ctx.space.take(labels, np.flatnonzero(n_present))


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
