"""Aggregations over cells that are native histograms: `sum`, `avg`, and what others say of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.model.histograms import CUSTOM_SCHEMA, HINT_NOT_RESET, HINT_RESET, Histograms
from tsengine.model.labels import LabelRows
from tsengine.promql import ast
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import average, combine
from tsengine.query.operators.histogram_cells import keep, metric_names, row_numbers
from tsengine.query.stepmatrix import StepMatrix

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]


def inform_ignored(ctx: QueryContext, op: str, span: ast.Span) -> None:
    """Say that an aggregation has left histograms out."""
    ctx.add_info(f"ignored histogram in {op} aggregation", span)


def fold_histograms(
    ctx: QueryContext,
    node: ast.Aggregate,
    operand: StepMatrix,
    cells: _BOOL,
    group_of_row: _I64,
    values: _F64,
    valid: _BOOL,
) -> None:
    """Put the sums or averages of histograms beside those of floats.

    A group that has floats and histograms at a step, or exponential and custom buckets, has no
    result there.

    Parameters
    ----------
    ctx, node
        The query; the aggregation, `sum` or `avg`.
    operand, cells
        What is aggregated, and which of its cells are histograms, bool[S, T].
    group_of_row
        i64[S].
    values, valid
        f64[G, T] and bool[G, T], C-contiguous: results of the floats; changed in place.

    """
    lists = _cells_by_group(operand, cells, group_of_row)
    flat_values, flat_valid = values.reshape(-1), valid.reshape(-1)
    has_floats = flat_valid[lists.target]
    if has_floats.any():
        ctx.add_warning(
            "encountered a mix of histograms and floats for aggregation", node.expr.span
        )
        flat_valid[lists.target[has_floats]] = False
        lists = lists.only(~has_floats)
    if len(lists.target) == 0:
        return
    table = ctx.histograms.table()
    if node.op == "sum":
        made = combine(table, lists.offsets, lists.number, np.ones(len(lists.number)))
    else:
        made = average(table, lists.offsets, lists.number)
    result, fits = made.table, ~made.is_mixed
    if made.is_mixed.any():
        _warn_mixed(ctx, node, operand.labels, table, lists.only(made.is_mixed))
        result = result.take(np.flatnonzero(fits))
    if made.reconciled.any():
        ctx.add_info("mismatched custom buckets were reconciled during aggregation", node.expr.span)
    if (_has_conflicting_hints(table, lists) & fits).any():
        ctx.add_warning("conflicting counter resets during histogram aggregation", node.expr.span)
    flat_values[lists.target[fits]] = keep(ctx, result)
    flat_valid[lists.target[fits]] = True


class _Lists:
    """Histograms of each cell of the result, L cells.

    ``target: i64[L]`` is the place of the cell in the result, groups times steps; its histograms
    are ``number[offsets[l]:offsets[l + 1]]`` (rows of the arena's table) of rows ``row`` of the
    operand, in the operand's order.
    """

    def __init__(self, target: _I64, offsets: _I64, number: _I64, row: _I64) -> None:
        self.target = target
        self.offsets = offsets
        self.number = number
        self.row = row

    def list_of_item(self) -> _I64:
        """The list each histogram is in: i64[offsets[-1]]."""
        return np.repeat(np.arange(len(self.target)), np.diff(self.offsets))

    def only(self, wanted: _BOOL) -> _Lists:
        """Some of the lists: ``wanted: bool[L]``."""
        items = np.repeat(wanted, np.diff(self.offsets))
        sizes = np.diff(self.offsets)[wanted]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        return _Lists(self.target[wanted], offsets, self.number[items], self.row[items])


def _cells_by_group(operand: StepMatrix, cells: _BOOL, group_of_row: _I64) -> _Lists:
    rows, steps = np.nonzero(cells)
    targets = group_of_row[rows] * operand.n_steps + steps
    order = np.argsort(targets, kind="stable")
    targets = targets[order]
    starts = np.flatnonzero(np.diff(targets, prepend=-1))
    return _Lists(
        target=targets[starts],
        offsets=np.append(starts, len(targets)),
        number=row_numbers(operand.values[cells][order]),
        row=rows[order],
    )


def _has_conflicting_hints(table: Histograms, lists: _Lists) -> _BOOL:
    """Lists in which one histogram is a counter reset and another one is not: bool[L]."""
    hints = table.hint[lists.number]
    starts = lists.offsets[:-1]
    both: _BOOL = np.logical_or.reduceat(hints == HINT_RESET, starts)
    both &= np.logical_or.reduceat(hints == HINT_NOT_RESET, starts)
    return both


def _warn_mixed(
    ctx: QueryContext, node: ast.Aggregate, labels: LabelRows, table: Histograms, lists: _Lists
) -> None:
    """Name the metrics whose histograms were the first of another kind in their group."""
    is_custom = table.schema[lists.number] == CUSTOM_SCHEMA
    first = lists.offsets[:-1]
    list_of_item = lists.list_of_item()
    others = np.flatnonzero(is_custom != is_custom[first][list_of_item])
    firsts = others[np.flatnonzero(np.diff(list_of_item[others], prepend=-1))]
    for name in sorted(set(metric_names(ctx, labels, np.unique(lists.row[firsts])))):
        ctx.add_warning(
            "vector contains a mix of histograms with exponential and custom buckets schemas for "
            f"metric name {quote(name)}",
            node.expr.span,
        )
