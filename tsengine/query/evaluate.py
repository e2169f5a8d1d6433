"""Runs plans: one case per node, each handed to its operator."""

from __future__ import annotations

from collections.abc import Sequence

from tsengine.promql.ast import Span
from tsengine.query import plan as p
from tsengine.query.context import QueryContext
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.operators.binary import binary, unary
from tsengine.query.operators.functions import call_function
from tsengine.query.operators.info import add_info_labels
from tsengine.query.operators.range_notes import no_notes
from tsengine.query.operators.rollup import evaluate_rollup, prepare_rollup
from tsengine.query.operators.scalars import evaluate_number, evaluate_string, repeat
from tsengine.query.operators.select import (
    evaluate_range_vector,
    evaluate_select,
    select_function,
    select_series,
)
from tsengine.query.operators.sliced import aggregate_series
from tsengine.query.operators.subquery import evaluate_subquery_rollup, evaluate_subquery_vector
from tsengine.query.optimize import share_key
from tsengine.query.stepmatrix import (
    EvalValue,
    RangeVector,
    ScalarSteps,
    StepMatrix,
    cost,
    remove_names,
)


def evaluate(plan: p.Plan, ctx: QueryContext) -> EvalValue:
    """Value of a plan at the steps of the context.

    Raises
    ------
    QueryError
        The query failed, ran too long, was canceled or needs too much.

    """
    ctx.check()
    match plan:
        case p.NumberPlan(node=node):
            return _replacing(ctx, (), evaluate_number(node, ctx))
        case p.StringPlan(node=node):
            return evaluate_string(node)
        case p.SelectPlan() | p.RollupPlan() | p.SlicedAggregatePlan():
            return _evaluate_once(plan, ctx)
        case p.AggregatePlan(node=node, operand=operand, param=param, label=label):
            argument = label if param is None else _scalar(param, ctx)
            vector = evaluate_vector(operand, ctx)
            return _replacing(ctx, [vector], aggregate(ctx, node, vector, argument))
        case p.CallPlan(node=node, args=args):
            values = [evaluate(arg, ctx) for arg in args]
            return _replacing(ctx, values, call_function(ctx, node, values))
        case p.InfoPlan(operand=operand):
            vector = evaluate_vector(operand, ctx)
            return _replacing(ctx, [vector], add_info_labels(ctx, plan, vector))
        case p.BinaryPlan(node=node, lhs=lhs, rhs=rhs):
            left, right = _number(lhs, ctx), _number(rhs, ctx)
            return _replacing(ctx, [left, right], binary(ctx, node, left, right))
        case p.UnaryPlan(node=node, operand=operand):
            number = _number(operand, ctx)
            return _replacing(ctx, [number], unary(ctx, node, number))
        case p.InvariantPlan(inner=inner):
            once_ctx = ctx.on_steps(ctx.steps_ms[:1], ctx.step_ms)
            once = evaluate(inner, once_ctx)
            if ctx.counts is not None and once_ctx.counts is not None:
                ctx.counts.add_repeated(once_ctx.counts)
            return _replacing(ctx, [once], repeat(once, ctx))
    raise AssertionError(f"{type(plan).__name__} has no value at steps")


def _replacing(ctx: QueryContext, operands: Sequence[EvalValue], result: EvalValue) -> EvalValue:
    """Put a result on the query's account in the place of the operands it was made of."""
    ctx.account(cost(result) - cost(*operands))
    return result


def evaluate_vector(plan: p.Plan, ctx: QueryContext) -> StepMatrix:
    """Value of a plan that is an instant vector."""
    value = evaluate(plan, ctx)
    assert isinstance(value, StepMatrix), "the type check lets only a vector through"
    return value


def evaluate_range(plan: p.MatrixPlan | p.SubqueryPlan, ctx: QueryContext) -> RangeVector:
    """A range vector as the answer of an instant query."""
    if isinstance(plan, p.MatrixPlan):
        return evaluate_range_vector(plan, ctx)
    return evaluate_subquery_vector(plan, ctx, evaluate_vector)


def _number(plan: p.Plan, ctx: QueryContext) -> StepMatrix | ScalarSteps:
    value = evaluate(plan, ctx)
    assert isinstance(value, StepMatrix | ScalarSteps), "the type check lets no string through"
    return value


def _scalar(plan: p.Plan, ctx: QueryContext) -> ScalarSteps:
    value = evaluate(plan, ctx)
    assert isinstance(value, ScalarSteps), "the type check lets only a scalar through"
    return value


def _evaluate_once(
    plan: p.SelectPlan | p.RollupPlan | p.SlicedAggregatePlan, ctx: QueryContext
) -> StepMatrix:
    """Read samples for a part of the query, or take what an equal part has made of them."""
    key = share_key(plan) if ctx.shared_keys else None
    if key is None or key not in ctx.shared_keys:
        return _evaluate_reading(plan, ctx)
    place = ("result", key, ctx.start_ms, ctx.end_ms, ctx.n_steps)
    if place not in ctx.memo:
        before = None if ctx.counts is None else ctx.counts.copy()
        with ctx.annotations.recorded() as notes:
            made = _evaluate_reading(plan, ctx)
        counted = ctx.counts.since(*before) if ctx.counts and before else None
        ctx.memo[place] = (made, notes, counted)
    else:
        # Annotations name the place in the query, so an equal part elsewhere has its own.
        _, notes, counted = ctx.memo[place]
        ctx.annotations.add_again(notes, _noted_span(plan))
        if ctx.counts is not None and counted is not None:
            ctx.counts.add(*counted)
    matrix = ctx.memo[place][0]
    assert isinstance(matrix, StepMatrix), "only matrices are kept under this key"
    # It stays for the rest of the query, so every use is counted beside it.
    ctx.account(cost(matrix))
    return matrix


def _noted_span(plan: p.SelectPlan | p.RollupPlan | p.SlicedAggregatePlan) -> Span:
    """Where annotations of a part that reads samples point to."""
    inner = plan.operand if isinstance(plan, p.SlicedAggregatePlan) else plan
    return inner.node.args[0].span if isinstance(inner, p.RollupPlan) else inner.node.span


def _evaluate_reading(
    plan: p.SelectPlan | p.RollupPlan | p.SlicedAggregatePlan, ctx: QueryContext
) -> StepMatrix:
    match plan:
        case p.SelectPlan():
            return _evaluate_select(plan, ctx)
        case p.RollupPlan():
            return _evaluate_rollup(plan, ctx)
        case p.SlicedAggregatePlan():
            return _evaluate_sliced(plan, ctx)


def _evaluate_select(plan: p.SelectPlan, ctx: QueryContext) -> StepMatrix:
    matrix = evaluate_select(plan, ctx)
    if plan.want_time or plan.want_start:
        return remove_names(ctx.space, matrix, delayed=ctx.delayed_name_removal)
    return matrix


def _evaluate_rollup(plan: p.RollupPlan, ctx: QueryContext) -> StepMatrix:
    params = [_scalar(param, ctx) for param in plan.params]
    if isinstance(plan.source, p.SubqueryPlan):
        return evaluate_subquery_rollup(plan.node, plan.source, ctx, params, evaluate_vector)
    return evaluate_rollup(plan.node, plan.source, ctx, params)


def _evaluate_sliced(plan: p.SlicedAggregatePlan, ctx: QueryContext) -> StepMatrix:
    operand = plan.operand
    if share_key(operand) in ctx.shared_keys:
        # The operand is wanted elsewhere too, as it is.
        vector = _evaluate_once(operand, ctx)
        result = aggregate(ctx, plan.node, vector, None)
        ctx.account(cost(result) - cost(vector))
        return result
    if isinstance(operand, p.SelectPlan):
        series = select_series(operand, ctx)
        notes = no_notes(series.labels, operand.node.span, series.inexact_text(ctx))
        return aggregate_series(ctx, plan.node, series, select_function(operand), notes)
    assert isinstance(operand.source, p.MatrixPlan), "subqueries are not aggregated in slices"
    params = [_scalar(param, ctx) for param in operand.params]
    rollup = prepare_rollup(operand.node, operand.source, ctx, params)
    return aggregate_series(ctx, plan.node, rollup.series, rollup.function, rollup.notes, rollup)
