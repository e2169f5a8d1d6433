"""Aggregation operators: sum by (...), topk, quantile, count_values and their like.

Groups are found from the labels alone, before any number is touched; then kernels move numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels.aggregate import BLOCK, select_extreme, take_first
from tsengine.kernels.quantiles import group_quantiles
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import METRIC_NAME
from tsengine.promql import ast
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.labelspace import NAME_LABELS, LabelSpace
from tsengine.query.operators import gotext
from tsengine.query.operators.histogram_aggregate import fold_histograms, inform_ignored
from tsengine.query.operators.histogram_cells import histogram_cells, row_numbers, without_cells
from tsengine.query.operators.histogram_text import texts_of
from tsengine.query.operators.ratio import sampling_offsets
from tsengine.query.operators.room import require_room
from tsengine.query.partials import PARTIAL_OPS, make_partial, valid_or_dummy
from tsengine.query.scheduler import plan_slices, run_slices
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, take_rows

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_SUMS = frozenset({"sum", "avg"})
"""Aggregations that have a result for histograms."""
COUNTS = frozenset({"count", "group"})
"""Aggregations that don't look at values."""

_DENSE_KEYS = 1 << 20
"""A table of this many keys is made without thinking."""

_INT64_MIN = -9223372036854775808.0
_INT64_MAX = 9223372036854774784.0  # the largest double below 2^63, as Prometheus compares


def aggregate(
    ctx: QueryContext,
    node: ast.Aggregate,
    operand: StepMatrix,
    param: ScalarSteps | str | None,
) -> StepMatrix:
    """Evaluate an aggregation.

    `param` is the first argument: numbers per step, the label name of `count_values`, or None.

    Raises
    ------
    QueryError
        The parameter is NaN, no int64 or no label name, depending on the operator.

    """
    ctx.check()
    if node.op == "count_values":
        assert isinstance(param, str), "the type check lets only a string through"
        return _count_values(ctx, node, operand, param)
    if node.op in PARTIAL_OPS:
        return _fold(ctx, node, operand)
    assert isinstance(param, ScalarSteps), "the type check lets only a scalar through"
    match node.op:
        case "quantile":
            return _quantile(ctx, node, operand, param.values)
        case "topk" | "bottomk":
            return _select_k(ctx, node, operand, param.values)
        case "limitk":
            return _limit_k(ctx, node, operand, param.values)
        case "limit_ratio":
            return _limit_ratio(ctx, node, operand, param.values)
    raise AssertionError(f"unknown aggregation {node.op}")


def group_rows(
    space: LabelSpace, rows: LabelRows, grouping: tuple[str, ...], *, without: bool
) -> tuple[_I64, LabelRows]:
    """Groups of rows: ``group_of_row: i64[S]`` and the groups' labels, by first appearance."""
    if without:
        reduced = space.drop(rows, (*grouping, METRIC_NAME))
    else:
        reduced = space.keep(rows, grouping)
    group_of_row, first_row = space.group(reduced)
    return group_of_row, space.take(reduced, first_row)


def group_series(
    ctx: QueryContext, node: ast.Aggregate, series: LabelRows, *, drops_name: bool
) -> tuple[_I64, LabelRows]:
    """`group_rows` of series that may lose their names before; found once for a query."""
    # The memo keeps the labels too, so that their identity stays theirs.
    key = ("groups", id(series), node.grouping, node.without, drops_name)
    known = ctx.memo.get(key)
    if known is None:
        labels = series
        if drops_name and (node.without or not set(NAME_LABELS).isdisjoint(node.grouping)):
            labels = ctx.space.drop_name(series)
        groups = group_rows(ctx.space, labels, node.grouping, without=node.without)
        known = ctx.memo[key] = (groups, series)
    found: tuple[_I64, LabelRows] = known[0]
    return found


def _grouped(ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix) -> tuple[_I64, LabelRows]:
    return group_rows(ctx.space, operand.labels, node.grouping, without=node.without)


def _marks_of_groups(operand: StepMatrix, group_of_row: _I64, n_groups: int) -> _BOOL | None:
    """A group takes the mark of a lost name if any of its rows has it and is ever present."""
    marks = operand.drop_name
    if marks is None:
        return None
    if operand.valid is not None:
        marks = marks & np.any(operand.valid, axis=1)
    return np.bincount(group_of_row, weights=marks, minlength=n_groups) > 0


def _all_or_mask(valid: _BOOL) -> _BOOL | None:
    return None if valid.all() else valid


def _fold(ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix) -> StepMatrix:
    group_of_row, labels = _grouped(ctx, node, operand)
    cells = None
    if node.op in _SUMS:
        cells = histogram_cells(ctx, operand)
    elif node.op not in COUNTS:
        operand = _without_histograms(ctx, node.op, operand, node.expr.span)
    if len(labels) == operand.n_series:
        # Every row is a group of its own, in the same order.
        values = _of_single_rows(node.op, operand.values)
        if cells is not None:
            values[cells] = operand.values[cells]
        return replace(operand, labels=labels, values=values)
    partial = make_partial(node.op, len(labels), operand.n_steps)
    floats = operand if cells is None else without_cells(operand, cells)
    partial.add(floats.values, floats.valid, group_of_row)
    values, valid = partial.finish()
    if cells is not None:
        fold_histograms(ctx, node, operand, cells, group_of_row, values, valid)
    marks = _marks_of_groups(operand, group_of_row, len(labels))
    return StepMatrix(labels, values, _all_or_mask(valid), marks)


def _without_histograms(
    ctx: QueryContext, op: str, operand: StepMatrix, span: ast.Span
) -> StepMatrix:
    """What an aggregation looks at that ignores histograms; says so if there are any."""
    cells = histogram_cells(ctx, operand)
    if cells is None:
        return operand
    inform_ignored(ctx, op, span)
    return without_cells(operand, cells)


def _of_single_rows(op: str, values: _F64) -> _F64:
    """What `op` makes of groups of one row."""
    match op:
        case "sum" | "avg":
            with np.errstate(invalid="ignore"):  # absent cells may hold the stale marker
                return values + 0.0  # a sum is never -0
        case "min" | "max":
            return values
        case "count" | "group":
            return np.ones(values.shape)
        case "stddev" | "stdvar":
            return np.where(np.isfinite(values), 0.0, np.nan)
    raise AssertionError(f"{op} is not folded")


def rows_by_group(group_of_row: _I64, n_groups: int) -> tuple[_I64, _I64, int]:
    """Rows group after group, the groups' bounds, and the size of the largest group."""
    order = np.argsort(group_of_row, kind="stable")
    sizes = np.bincount(group_of_row, minlength=n_groups)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return order, offsets, int(sizes.max(initial=0))


def slices_of_groups(ctx: QueryContext, operand: StepMatrix, n_groups: int) -> list[range]:
    """Runs of groups for the query's threads to work on."""
    return plan_slices(
        n_groups, n_samples=operand.values.size, n_steps=operand.n_steps, n_threads=ctx.n_threads
    )


def _quantile(ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix, q: _F64) -> StepMatrix:
    assert node.param is not None, "quantile has a parameter"
    numbers = q[~np.isnan(q)]
    if len(numbers) < len(q):
        warn_quantile(ctx, np.nan, node.param.span)
    for value in (numbers.max(initial=0.0), numbers.min(initial=0.0)):
        if not 0.0 <= value <= 1.0:
            warn_quantile(ctx, value, node.param.span)
    operand = _without_histograms(ctx, node.op, operand, node.expr.span)
    group_of_row, labels = _grouped(ctx, node, operand)
    order, offsets, largest = rows_by_group(group_of_row, len(labels))
    shape = (len(labels), operand.n_steps)
    values, valid = np.empty(shape), np.empty(shape, np.bool_)
    cells, all_valid = valid_or_dummy(operand.valid)

    def work(number: int, groups: range) -> None:
        part = slice(groups.start, groups.stop)
        counters = np.empty((2, BLOCK), np.int64)
        group_quantiles(
            operand.values, cells, all_valid, order, offsets[groups.start : groups.stop + 1], q,
            np.empty(BLOCK * largest), counters[0], counters[1], values[part], valid[part],
        )  # fmt: skip

    run_slices(ctx, slices_of_groups(ctx, operand, len(labels)), work)
    marks = _marks_of_groups(operand, group_of_row, len(labels))
    return StepMatrix(labels, values, _all_or_mask(valid), marks)


def warn_quantile(ctx: QueryContext, q: float, span: ast.Span) -> None:
    """Warn that a quantile is outside 0..1."""
    ctx.add_warning(
        f"quantile value should be between 0 and 1, got {gotext.general(float(q))}", span
    )


# --- a choice of rows, which keep their labels ------------------------------------------------


def _nothing(ctx: QueryContext, operand: StepMatrix) -> StepMatrix:
    return take_rows(ctx.space, operand, np.empty(0, np.int64))


def _chosen(ctx: QueryContext, operand: StepMatrix, chosen: _BOOL) -> StepMatrix:
    """Rows of which some step was chosen: ``chosen: bool[S, T]``."""
    rows = np.flatnonzero(chosen.any(axis=1))
    result = take_rows(ctx.space, operand, rows)
    result.valid = _all_or_mask(chosen[rows])
    return result


def _whole_k(k: _F64) -> _I64 | None:
    """The parameter of topk and its like as i64[T]; None if it asks for nothing anywhere."""
    if np.isnan(k).any():
        raise QueryError("Parameter value is NaN")
    if not (k >= 1).any():
        return None
    if k.min() <= _INT64_MIN:
        raise QueryError(f"Scalar value {gotext.general(float(k.min()))} underflows int64")
    if k.max() >= _INT64_MAX:
        raise QueryError(f"Scalar value {gotext.general(float(k.max()))} overflows int64")
    return k.astype(np.int64)


def _select_k(ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix, k: _F64) -> StepMatrix:
    whole = _whole_k(k)
    if whole is None or operand.n_series == 0:
        return _nothing(ctx, operand)
    cells = histogram_cells(ctx, operand)
    if cells is not None:
        if cells[:, whole >= 1].any():
            inform_ignored(ctx, node.op, node.span)
        operand = without_cells(operand, cells)
    if operand.n_steps == 1 and operand.valid is not None:
        # Absent rows must not decide which group comes first in the answer.
        operand = take_rows(ctx.space, operand, np.flatnonzero(operand.valid[:, 0]))
        operand.valid = None
    group_of_row, labels = _grouped(ctx, node, operand)
    order, offsets, largest = rows_by_group(group_of_row, len(labels))
    room = BLOCK * min(int(whole.max()), largest)
    chosen = np.zeros(operand.values.shape, np.bool_)
    cells, all_valid = valid_or_dummy(operand.valid)
    select_extreme(
        operand.values, cells, all_valid, order, offsets, whole, node.op == "topk",
        np.empty(room), np.empty(room, np.int64), np.empty(BLOCK, np.int64), chosen,
    )  # fmt: skip
    if operand.n_steps != 1:
        return _chosen(ctx, operand, chosen)
    # An instant query shows each group from its best value on; NaN comes last either way.
    rows = np.flatnonzero(chosen[:, 0])
    keys = operand.values[rows, 0]
    if node.op == "topk":
        keys = -keys
    rows = rows[np.lexsort((keys, np.isnan(keys), group_of_row[rows]))]
    result = take_rows(ctx.space, operand, rows)
    result.valid = None
    return result


def _limit_k(ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix, k: _F64) -> StepMatrix:
    whole = _whole_k(k)
    if whole is None or operand.n_series == 0:
        return _nothing(ctx, operand)
    group_of_row, labels = _grouped(ctx, node, operand)
    chosen = np.empty(operand.values.shape, np.bool_)
    cells, all_valid = valid_or_dummy(operand.valid)
    taken = np.zeros((len(labels), operand.n_steps), np.int64)
    take_first(cells, all_valid, group_of_row, whole, taken, chosen)
    return _chosen(ctx, operand, chosen)


def _limit_ratio(
    ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix, ratio: _F64
) -> StepMatrix:
    assert node.param is not None, "limit_ratio has a parameter"
    if np.isnan(ratio).any():
        raise QueryError("Ratio value is NaN")
    for value, bound in ((ratio.max(initial=0.0), 1), (ratio.min(initial=0.0), -1)):
        if abs(value) > 1:
            text = f"ratio value should be between -1 and 1, got {gotext.general(float(value))}"
            ctx.add_warning(f"{text}, capping to {bound}", node.param.span)
    capped = np.clip(ratio, -1.0, 1.0)
    offsets = sampling_offsets(ctx.space, operand.labels)[:, None]
    chosen = np.where(capped >= 0, offsets < capped, offsets >= 1.0 + capped)
    if operand.valid is not None:
        chosen &= operand.valid
    return _chosen(ctx, operand, chosen)


# --- count_values -----------------------------------------------------------------------------


def _count_values(
    ctx: QueryContext, node: ast.Aggregate, operand: StepMatrix, label: str
) -> StepMatrix:
    """One series per group and distinct value; the value is the text of `label`."""
    if not gotext.is_label_name(label):
        raise QueryError(f"invalid label name {quote(label)}")
    space = ctx.space
    # The label is replaced before grouping: whatever the rows carry under it does not matter.
    others = space.drop(operand.labels, (label,))
    grouping = tuple(name for name in node.grouping if name != label)
    group_of_row, group_labels = group_rows(space, others, grouping, without=node.without)
    group_of_cell, step_of_cell, cells = _present_cells(operand, group_of_row)
    vanishes = node.without and label in (*node.grouping, METRIC_NAME)
    keys, n_distinct = group_of_cell, 1
    if not vanishes:
        pairs, code = _value_pairs(ctx, label, cells)
        n_distinct = max(len(pairs), 1)
        keys = group_of_cell * n_distinct + code
    series_keys, series_of_cell = _numbered(keys, len(group_labels) * n_distinct)
    n_series, n_steps = len(series_keys), operand.n_steps
    require_room(ctx, n_series * n_steps)
    counts = np.bincount(series_of_cell * n_steps + step_of_cell, minlength=n_series * n_steps)
    values = counts.reshape(n_series, n_steps).astype(np.float64)
    labels = space.take(group_labels, series_keys // n_distinct)
    if not vanishes:
        labels = space.set_column(labels, label, pairs[series_keys % n_distinct])
    return StepMatrix(labels, values, _all_or_mask(values > 0), None)


def _present_cells(operand: StepMatrix, group_of_row: _I64) -> tuple[_I64, _I64, _F64]:
    """Group, step and value of every present cell, as copies."""
    if operand.valid is None:
        groups = np.repeat(group_of_row, operand.n_steps)
        steps = np.tile(np.arange(operand.n_steps), operand.n_series)
        return groups, steps, operand.values.reshape(-1).copy()
    rows, steps = np.nonzero(operand.valid)
    return group_of_row[rows], steps, operand.values[operand.valid]


def _value_pairs(ctx: QueryContext, label: str, cells: _F64) -> tuple[_I64, _I64]:
    """Pairs of a label for the distinct values of cells, and each cell's place among them.

    ``cells: f64[N]`` are overwritten.
    """
    space = ctx.space
    is_histogram = ctx.histograms.which(cells)
    numbers, place = np.unique(row_numbers(cells[is_histogram]), return_inverse=True)
    cells[np.isnan(cells)] = np.nan
    floats = cells if len(numbers) == 0 else cells[~is_histogram]
    distinct = np.unique(floats.view(np.uint64))
    code = np.searchsorted(distinct, floats.view(np.uint64))
    texts = (gotext.positional(value) for value in distinct.view(np.float64).tolist())
    pairs = space.intern_values(label, texts)
    if len(numbers) == 0:
        return pairs, code
    pair_of_cell = np.empty(len(cells), np.int64)
    pair_of_cell[~is_histogram] = pairs[code]
    pairs = space.intern_values(label, texts_of(ctx.histograms.table().take(numbers)))
    pair_of_cell[is_histogram] = pairs[place]
    # Histograms may have the same text.
    return np.unique(pair_of_cell, return_inverse=True)


def _numbered(keys: _I64, n_keys: int) -> tuple[_I64, _I64]:
    """Distinct keys in ascending order and each key's place; keys are below `n_keys`."""
    if n_keys > len(keys) + _DENSE_KEYS:
        return np.unique(keys, return_inverse=True)
    seen = np.zeros(n_keys, np.bool_)
    seen[keys] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[keys]
