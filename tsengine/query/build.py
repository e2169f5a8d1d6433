"""Syntax tree to logical plan: parentheses go, times are resolved, functions find their family."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tsengine.errors import QueryError
from tsengine.model.matchers import Matcher
from tsengine.promql import ast
from tsengine.query import plan as p

DEFAULT_SUBQUERY_STEP_MS = 60_000
"""Step of a subquery without one: Prometheus's default evaluation interval."""


@dataclass(frozen=True, slots=True)
class QueryTimes:
    """First and last time of the outermost query: what `@ start()` and `@ end()` mean."""

    start_ms: int
    end_ms: int


def build(expr: ast.Expr, times: QueryTimes) -> p.Plan:
    """Make the plan of a typechecked tree whose duration expressions are resolved.

    Raises
    ------
    QueryError
        The expression uses something that is not supported yet.

    """
    match expr:
        case ast.Paren(expr=inner):
            return build(inner, times)
        case ast.NumberLiteral():
            return p.NumberPlan(expr)
        case ast.StringLiteral():
            return p.StringPlan(expr)
        case ast.VectorSelector():
            return p.SelectPlan(expr, _shift(expr.shift, times))
        case ast.MatrixSelector():
            return p.MatrixPlan(expr, _shift(expr.selector.shift, times), expr.range_ms)
        case ast.Subquery():
            step_ms = DEFAULT_SUBQUERY_STEP_MS if expr.step_ms is None else expr.step_ms
            inner_plan = build(expr.expr, times)
            return p.SubqueryPlan(
                expr, inner_plan, _shift(expr.shift, times), expr.range_ms, step_ms
            )
        case ast.Call():
            return _build_call(expr, times)
        case ast.Aggregate():
            return _build_aggregate(expr, times)
        case ast.Binary():
            return p.BinaryPlan(expr, build(expr.lhs, times), build(expr.rhs, times))
        case ast.Unary(expr=inner):
            return p.UnaryPlan(expr, build(inner, times))
    raise QueryError(f"{type(expr).__name__} is not an expression")


def without_parens(expr: ast.Expr) -> ast.Expr:
    """The expression inside any parentheses."""
    while isinstance(expr, ast.Paren):
        expr = expr.expr
    return expr


def _shift(shift: ast.TimeShift, times: QueryTimes) -> p.Shift:
    at_ms = shift.at_ms
    if shift.at_edge is ast.Edge.START:
        at_ms = times.start_ms
    elif shift.at_edge is ast.Edge.END:
        at_ms = times.end_ms
    return p.Shift(shift.offset_ms, at_ms)


def _build_call(call: ast.Call, times: QueryTimes) -> p.Plan:
    # Annotations name the place of an argument without its parentheses.
    call = replace(call, args=tuple(map(without_parens, call.args)))
    _check_range_modifiers(call)
    if call.name == "info":
        return _build_info(call, times)
    args = [build(arg, times) for arg in call.args]
    for idx, arg in enumerate(args):
        if isinstance(arg, p.MatrixPlan | p.SubqueryPlan):
            return p.RollupPlan(call, arg, tuple(args[:idx] + args[idx + 1 :]))
    if call.name in ("timestamp", "start_timestamp") and isinstance(
        call.args[0], ast.VectorSelector
    ):
        assert isinstance(args[0], p.SelectPlan), "a selector becomes a selection"
        is_time = call.name == "timestamp"
        return replace(args[0], want_time=is_time, want_start=not is_time)
    return p.CallPlan(call, tuple(args))


def _build_info(call: ast.Call, times: QueryTimes) -> p.Plan:
    operand = build(call.args[0], times)
    matchers: tuple[Matcher, ...] = ()
    if len(call.args) > 1:
        selector = call.args[1]
        assert isinstance(selector, ast.VectorSelector), "the type check lets only braces through"
        matchers = selector.matchers
    return p.InfoPlan(call, operand, matchers, _first_shift(operand) or p.Shift())


def _first_shift(plan: p.Plan) -> p.Shift | None:
    """When the first selector of a plan looks, subqueries around it included; None without one."""
    if p.value_type(plan) in (ast.ValueType.SCALAR, ast.ValueType.STRING):
        return None
    if isinstance(plan, p.SelectPlan | p.MatrixPlan):
        return plan.shift
    for child in p.children(plan):
        found = _first_shift(child)
        if found is None:
            continue
        if isinstance(plan, p.SubqueryPlan) and found.at_ms is None:
            return p.Shift(found.offset_ms + plan.shift.offset_ms, plan.shift.at_ms)
        return found
    return None


_MODIFIER_FUNCTIONS = {
    "anchored": ("changes", "delta", "increase", "rate", "resets"),
    "smoothed": ("delta", "increase", "rate"),
}


def _check_range_modifiers(call: ast.Call) -> None:
    """Refuse `anchored` and `smoothed` where they never work, in Prometheus's words."""
    for arg in call.args:
        inner = without_parens(arg)
        if not isinstance(inner, ast.MatrixSelector):
            continue
        for modifier, names in _MODIFIER_FUNCTIONS.items():
            if getattr(inner.selector, modifier) and call.name not in names:
                raise QueryError(
                    f"{modifier} modifier can only be used with: {', '.join(names)}"
                    f" - not with {call.name}"
                )


def _build_aggregate(node: ast.Aggregate, times: QueryTimes) -> p.Plan:
    operand = build(node.expr, times)
    if node.param is None:
        return p.AggregatePlan(node, operand)
    param = without_parens(node.param)
    node = replace(node, param=param)
    if isinstance(param, ast.StringLiteral):
        return p.AggregatePlan(node, operand, label=param.value)
    return p.AggregatePlan(node, operand, build(param, times))
