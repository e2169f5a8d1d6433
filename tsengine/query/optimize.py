"""Rewrites of plans that save work: constant parts and equal parts once, aggregation in slices."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial

from tsengine.query import plan as p

_TIME_FUNCTIONS = frozenset(
    {
        "days_in_month", "day_of_month", "day_of_week", "day_of_year", "hour", "minute", "month",
        "year", "predict_linear", "time", "timestamp", "start", "end", "step", "range",
    }
)  # fmt: skip
"""Functions whose result depends on the step even where their arguments don't."""

MERGEABLE_AGGREGATES = frozenset({"sum", "count", "avg", "min", "max", "group"})
"""Aggregations whose partial results of slices can be merged."""

_TOTALS_FUNCTIONS = frozenset({"histogram_count", "histogram_sum", "histogram_avg"})
_BUCKET_FUNCTIONS = frozenset({"histogram_quantile", "histogram_quantiles", "histogram_fraction"})
_TRIMS = frozenset({"</", ">/"})


def optimize(plan: p.Plan, *, n_steps: int, slice_aggregates: bool = True) -> p.Plan:
    """Apply all rewrites.

    Parameters
    ----------
    plan
        What `build` made.
    n_steps
        Steps of the query; with one step nothing is worth repeating.
    slice_aggregates
        Whether aggregations may run inside slices; off to compare both ways.

    """
    plan = _mark_totals(plan, is_under_totals=False)
    if slice_aggregates:
        plan = _slice_aggregates(plan)
    # Subqueries have grids of their own, so a single step outside does not mean one inside.
    return mark_invariant(plan, worthwhile=n_steps > 1)


def is_invariant(plan: p.Plan) -> bool:
    """Whether a plan gives the same at every step."""
    match plan:
        case p.NumberPlan() | p.StringPlan() | p.InvariantPlan():
            return True
        case p.SelectPlan(shift=shift) | p.MatrixPlan(shift=shift):
            return shift.at_ms is not None
        case p.InfoPlan(operand=operand, shift=shift):
            return shift.at_ms is not None and is_invariant(operand)
        case p.SubqueryPlan(shift=shift):
            return shift.at_ms is not None
        case p.CallPlan(node=node) | p.RollupPlan(node=node):
            if node.name in _TIME_FUNCTIONS:
                return False
    return all(is_invariant(child) for child in p.children(plan))


def mark_invariant(plan: p.Plan, *, worthwhile: bool) -> p.Plan:
    """Wrap the largest parts that don't depend on the step.

    Literals stay bare: repeating them costs nothing. Range vectors stay bare: their rollup is
    wrapped instead, or repeats its window.
    """
    if isinstance(plan, p.NumberPlan | p.StringPlan | p.InvariantPlan):
        return plan
    if worthwhile and is_invariant(plan) and not isinstance(plan, p.MatrixPlan | p.SubqueryPlan):
        return p.InvariantPlan(mark_invariant(plan, worthwhile=False))
    if isinstance(plan, p.SubqueryPlan):
        return replace(plan, inner=mark_invariant(plan.inner, worthwhile=True))
    return _map_children(plan, partial(mark_invariant, worthwhile=worthwhile))


def _mark_totals(plan: p.Plan, *, is_under_totals: bool) -> p.Plan:
    """Mark selectors of whose histograms only totals are used.

    As in Prometheus they are below a function of totals with nothing that needs buckets above them
    at all. A subquery needs them to find counter resets.
    """
    match plan:
        case p.SelectPlan() | p.MatrixPlan():
            return replace(plan, totals_only=is_under_totals)
        case p.SubqueryPlan():
            return plan
        case p.CallPlan(node=node) if node.name in _BUCKET_FUNCTIONS:
            return plan
        case p.BinaryPlan(node=node) if node.op in _TRIMS:
            return plan
        case p.CallPlan(node=node) if node.name in _TOTALS_FUNCTIONS:
            is_under_totals = True
    return _map_children(plan, partial(_mark_totals, is_under_totals=is_under_totals))


def _slice_aggregates(plan: p.Plan) -> p.Plan:
    plan = _map_children(plan, _slice_aggregates)
    if (
        isinstance(plan, p.AggregatePlan)
        and plan.node.op in MERGEABLE_AGGREGATES
        and (
            (
                isinstance(plan.operand, p.SelectPlan)
                and not plan.operand.want_time
                and not plan.operand.want_start
            )
            or (
                isinstance(plan.operand, p.RollupPlan)
                and isinstance(plan.operand.source, p.MatrixPlan)
                and plan.operand.node.name != "absent_over_time"
            )
        )
    ):
        return p.SlicedAggregatePlan(plan.node, plan.operand)
    return plan


def shared_keys(plan: p.Plan) -> frozenset[Hashable]:
    """Keys of the parts that occur more than once and are worth keeping; see `share_key`."""
    counts: dict[Hashable, int] = {}
    pending = [plan]
    while pending:
        part = pending.pop()
        key = share_key(part)
        if key is not None:
            counts[key] = counts.get(key, 0) + 1
            if counts[key] > 1:
                # What is below will not be computed again.
                continue
        pending.extend(p.children(part))
    return frozenset(key for key, n in counts.items() if n > 1)


def share_key(plan: p.Plan) -> Hashable | None:
    """What makes two parts that read samples the same, wherever they stand; None if too complex."""
    match plan:
        case p.SelectPlan(node=node, shift=shift):
            wants = (plan.want_time, plan.want_start, plan.totals_only)
            return ("select", node.matchers, shift, wants, node.smoothed)
        case p.RollupPlan(node=node, source=p.MatrixPlan() as source, params=params):
            if not all(isinstance(param, p.NumberPlan) for param in params):
                return None
            numbers = tuple(repr(param.node.value) for param in params)  # type: ignore[union-attr]
            selector = source.node.selector
            modifiers = (selector.anchored, selector.smoothed, source.totals_only)
            read = (selector.matchers, source.shift, modifiers)
            return ("rollup", node.name, read, source.range_ms, numbers)
        case p.SlicedAggregatePlan(node=node, operand=operand):
            inner = share_key(operand)
            if inner is None:
                return None
            return ("aggregate", node.op, node.grouping, node.without, inner)
        case _:
            return None


def _map_children(plan: p.Plan, change: Callable[[p.Plan], p.Plan]) -> p.Plan:
    """The same node over changed operands."""
    match plan:
        case p.SubqueryPlan() | p.InvariantPlan():
            return replace(plan, inner=change(plan.inner))
        case p.RollupPlan():
            source = change(plan.source)
            assert isinstance(source, p.MatrixPlan | p.SubqueryPlan), "rewrites keep range vectors"
            return replace(plan, source=source, params=tuple(map(change, plan.params)))
        case p.CallPlan():
            return replace(plan, args=tuple(map(change, plan.args)))
        case p.AggregatePlan():
            param = None if plan.param is None else change(plan.param)
            return replace(plan, operand=change(plan.operand), param=param)
        case p.UnaryPlan() | p.InfoPlan():
            return replace(plan, operand=change(plan.operand))
        case p.BinaryPlan():
            return replace(plan, lhs=change(plan.lhs), rhs=change(plan.rhs))
        case _:
            return plan
