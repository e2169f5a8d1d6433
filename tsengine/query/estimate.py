"""What a query will need, before it reads a sample: from its series, steps and block headers.

An upper bound of what the operators hold at once, node by node as `evaluate` runs them. Series that
are looked up here are found in the context's memo by the operators. What can't be known yet (how
many series of a vector find a partner, how many samples a window holds) counts as the most there
may be.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tsengine.promql import ast
from tsengine.query import plan as p
from tsengine.query.context import QueryContext
from tsengine.query.operators.aggregate import group_series
from tsengine.query.operators.filling import SeriesSet, bytes_held, n_samples_of, slices_of
from tsengine.query.operators.rollup import keeps_name
from tsengine.query.operators.select import (
    find_range_series,
    select_series,
    window_ends,
)
from tsengine.query.operators.subquery import grid
from tsengine.query.optimize import share_key
from tsengine.query.stepmatrix import BYTES_PER_SAMPLE

BYTES_PER_CELL = 9
"""A value and whether it is there."""

_BYTES_PER_SERIES = 64
"""Label pairs of a row, and what operators keep about it."""

_CHEAP_BYTES = 16 * 1024 * 1024
"""Bounds below this are taken as they are, without counting groups."""

_KEEPS_ROWS = frozenset({"topk", "bottomk", "limitk", "limit_ratio", "count_values"})
_ONE_ROW = frozenset({"absent", "absent_over_time", "vector"})


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of a result (`rows` series) and the most that are held while it is made."""

    rows: int
    held: int
    peak: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a query needs.

    Parameters
    ----------
    n_bytes
        Held at its peak.
    reason
        Which part of it needs most.
    answer_bytes, answer_samples
        Of the answer alone.

    """

    n_bytes: int
    reason: str
    answer_bytes: int
    answer_samples: int


def estimate(plan: p.Plan, ctx: QueryContext) -> Estimate:
    """The memory of a whole query, the order of its answer included.

    Raises
    ------
    QueryError
        A regular expression is invalid, or the query has to end.

    """
    estimator = _Estimator()
    cost = estimator.cost(plan, ctx)
    finish = 0 if ctx.is_instant else 2 * cost.held
    n_samples = max(cost.rows, 1) * ctx.n_steps
    if p.value_type(plan) is ast.ValueType.MATRIX:
        n_samples = cost.held // BYTES_PER_SAMPLE
    peak = max(cost.peak, finish) + estimator.kept
    return Estimate(peak, estimator.reason, cost.held, n_samples)


class _Estimator:
    def __init__(self) -> None:
        self.reason = "its steps alone"
        self.kept = 0
        self._largest = 0
        self._shared: dict[Hashable, Cost] = {}

    def cost(self, plan: p.Plan, ctx: QueryContext) -> Cost:
        ctx.check()
        key = share_key(plan) if ctx.shared_keys else None
        if key is None or key not in ctx.shared_keys:
            return self._cost(plan, ctx)
        place = (key, ctx.start_ms, ctx.end_ms, ctx.n_steps)
        known = self._shared.get(place)
        if known is not None:
            _choose_again(plan, ctx)
            return Cost(known.rows, known.held, known.held)
        # What is made for several uses stays to the end, beside what each of them counts.
        cost = self._shared[place] = self._cost(plan, ctx)
        self.kept += cost.held
        return cost

    def _cost(self, plan: p.Plan, ctx: QueryContext) -> Cost:
        match plan:
            case p.NumberPlan() | p.StringPlan():
                return _scalar(ctx)
            case p.SelectPlan():
                return self._read(select_series(plan, ctx), ctx)
            case p.RollupPlan():
                return self._rollup(plan, ctx)
            case p.MatrixPlan():
                return self._samples(find_range_series(ctx, plan), ctx)
            case p.SubqueryPlan():
                inner = self._inner(plan, ctx)
                return Cost(inner.rows, 2 * inner.held, inner.peak + 2 * inner.held)
            case p.SlicedAggregatePlan():
                return self._sliced(plan, ctx)
            case p.InvariantPlan(inner=inner_plan):
                once = self.cost(inner_plan, ctx.on_steps(ctx.steps_ms[:1], ctx.step_ms))
                held = _matrix_bytes(once.rows, ctx) if once.rows else _scalar(ctx).held
                return Cost(once.rows, held, max(once.peak, once.held + held))
        parts = [self.cost(child, ctx) for child in p.children(plan)]
        rows = _rows_of(plan, parts)
        held = _matrix_bytes(rows, ctx) if rows else _scalar(ctx).held
        # Matching two vectors takes room for the rows of a result before it has them.
        working = held if isinstance(plan, p.BinaryPlan) and rows else 0
        return Cost(rows, held, _peak_of(parts, held) + working)

    def _read(self, series: SeriesSet, ctx: QueryContext) -> Cost:
        """A kernel over all series of a selector: `select.collect`."""
        n_rows = len(series.refs)
        held = _matrix_bytes(n_rows, ctx)
        self._note(held, n_rows, ctx)
        return Cost(n_rows, held, held + _frames_bytes(series, ctx))

    def _samples(self, series: SeriesSet, ctx: QueryContext) -> Cost:
        """A range selector as the answer: its samples, and their columns once more."""
        n_rows, n_samples = len(series.refs), n_samples_of(ctx, series)
        held = n_samples * BYTES_PER_SAMPLE + n_rows * _BYTES_PER_SERIES
        if held > self._largest:
            self._largest, self.reason = held, f"{n_samples} samples of {n_rows} series"
        return Cost(n_rows, held, 2 * held)

    def _rollup(self, plan: p.RollupPlan, ctx: QueryContext) -> Cost:
        if isinstance(plan.source, p.SubqueryPlan):
            inner = self._inner(plan.source, ctx)
            held = _matrix_bytes(inner.rows, ctx)
            self._note(held, inner.rows, ctx)
            result = Cost(inner.rows, held, max(inner.peak, inner.held + held))
        else:
            result = self._read(find_range_series(ctx, plan.source, plan.node), ctx)
        if plan.node.name not in _ONE_ROW:
            return result
        return Cost(1, _matrix_bytes(1, ctx), result.peak)

    def _inner(self, plan: p.SubqueryPlan, ctx: QueryContext) -> Cost:
        ends_ms = window_ends(ctx, plan.shift)
        times = grid(int(ends_ms[0]), int(ends_ms[-1]), plan.range_ms, plan.step_ms)
        ctx.limits.check_steps(len(times))
        if len(times) == 0:
            return _scalar(ctx)
        steps_ms = np.arange(times.start, times.stop, times.step, dtype=np.int64)
        return self.cost(plan.inner, ctx.on_steps(steps_ms, plan.step_ms))

    def _sliced(self, plan: p.SlicedAggregatePlan, ctx: QueryContext) -> Cost:
        """Partials of slices, or the whole matrix where they would not be smaller."""
        series, drops_name = _operand_series(plan.operand, ctx)
        n_rows = len(series.refs)
        if n_rows == 0:
            return _scalar(ctx)
        n_groups = min(n_rows, 1)
        if plan.node.grouping or plan.node.without:
            n_groups = n_rows
            if _matrix_bytes(n_rows, ctx) > _CHEAP_BYTES:
                n_groups = _count_groups(plan.node, series, ctx, drops_name=drops_name)
        held = _matrix_bytes(n_groups, ctx)
        n_slices = len(slices_of(ctx, series))
        if 2 * n_groups * n_slices > n_rows:
            whole = self._read(series, ctx)
            return Cost(n_groups, held, whole.peak + held)
        self._note(held * (n_slices + 1), n_groups * (n_slices + 1), ctx)
        at_once = min(ctx.n_threads, n_slices) * -(-n_rows // n_slices)
        working = at_once * ctx.n_steps * BYTES_PER_CELL + _frames_bytes(series, ctx)
        return Cost(n_groups, held, held * (n_slices + 1) + working)

    def _note(self, n_bytes: int, n_rows: int, ctx: QueryContext) -> None:
        if n_bytes > self._largest:
            self._largest = n_bytes
            steps = "1 step" if ctx.n_steps == 1 else f"{ctx.n_steps} steps"
            self.reason = f"{n_rows} series at {steps}"


def _choose_again(plan: p.Plan, ctx: QueryContext) -> None:
    """Note for a part that reads the same as another one what its selector reads."""
    if isinstance(plan, p.SlicedAggregatePlan):
        plan = plan.operand
    if isinstance(plan, p.SelectPlan | p.RollupPlan):
        _operand_series(plan, ctx)


def _operand_series(
    operand: p.SelectPlan | p.RollupPlan, ctx: QueryContext
) -> tuple[SeriesSet, bool]:
    """Series under an aggregation in slices, and whether they lose their names before it."""
    if isinstance(operand, p.SelectPlan):
        return select_series(operand, ctx), False
    assert isinstance(operand.source, p.MatrixPlan), "subqueries are not aggregated in slices"
    return find_range_series(ctx, operand.source, operand.node), not keeps_name(operand.node)


def _count_groups(
    node: ast.Aggregate, series: SeriesSet, ctx: QueryContext, *, drops_name: bool
) -> int:
    drops_name = drops_name and not ctx.delayed_name_removal
    return len(group_series(ctx, node, series.labels, drops_name=drops_name)[1])


def _frames_bytes(series: SeriesSet, ctx: QueryContext) -> int:
    """Samples of the slices that are read at the same time."""
    if len(series.refs) == 0:
        return 0
    n_bytes, n_slices = bytes_held(ctx, series), len(slices_of(ctx, series))
    return min(ctx.n_threads, n_slices) * -(-n_bytes // n_slices)


def _matrix_bytes(n_rows: int, ctx: QueryContext) -> int:
    return n_rows * (ctx.n_steps * BYTES_PER_CELL + _BYTES_PER_SERIES)


def _scalar(ctx: QueryContext) -> Cost:
    return Cost(0, ctx.n_steps * 8, ctx.n_steps * 8)


def _rows_of(plan: p.Plan, parts: Sequence[Cost]) -> int:
    """Most series that an operator over vectors may give; 0 for a scalar."""
    if p.value_type(plan) is ast.ValueType.SCALAR:
        return 0
    most = max((part.rows for part in parts), default=0)
    match plan:
        case p.AggregatePlan(node=node):
            one = not node.grouping and not node.without and node.op not in _KEEPS_ROWS
            return min(most, 1) if one else most
        case p.CallPlan(node=node) if node.name in _ONE_ROW or not most:
            return 1
        case p.BinaryPlan(node=node, lhs=lhs, rhs=rhs):
            scalar = ast.ValueType.SCALAR
            vectors = p.value_type(lhs) is not scalar and p.value_type(rhs) is not scalar
            if vectors and (node.op == "or" or _fills(node)):
                return sum(part.rows for part in parts)
            return parts[0].rows if node.op in ("and", "unless") else most
        case _:
            return most


def _fills(node: ast.Binary) -> bool:
    matching = node.matching
    return matching is not None and (
        matching.fill_left is not None or matching.fill_right is not None
    )


def _peak_of(parts: Sequence[Cost], held: int) -> int:
    """Operands are made one after the other, then the result beside them all."""
    peak = before = 0
    for part in parts:
        peak = max(peak, before + part.peak)
        before += part.held
    return max(peak, before + held)
