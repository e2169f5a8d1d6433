"""A query rewritten so that the time it is about does not depend on the time it is asked at."""

from dataclasses import replace

from tsengine.promql import ast
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.printer import to_text

_TIME_DEPENDENT = frozenset(
    ("days_in_month", "day_of_month", "day_of_week", "day_of_year", "end", "hour", "minute",
     "month", "year", "predict_linear", "range", "start", "step", "time", "timestamp")
)  # fmt: skip


def pin_time(expr: str, time_ms: int) -> str | None:
    """The query with @ on every selector that has none; None if it depends on the time anyhow."""
    tree = parse(expr, features=ALL_ON)
    if any(call.name in _TIME_DEPENDENT for call in _calls(tree)):
        return None
    return to_text(_pinned(tree, time_ms))


def _children(node):
    if isinstance(node, ast.Call):
        return list(node.args)
    if isinstance(node, ast.Binary):
        return [node.lhs, node.rhs]
    if isinstance(node, ast.Aggregate):
        return [node.expr] if node.param is None else [node.param, node.expr]
    return [node.expr] if isinstance(node, ast.Unary | ast.Paren | ast.Subquery) else []


def _calls(node):
    found = [node] if isinstance(node, ast.Call) else []
    for child in _children(node):
        found += _calls(child)
    return found


def _pinned(node, time_ms):
    if isinstance(node, ast.VectorSelector | ast.Subquery):
        shift = node.shift
        if shift.at_ms is None and shift.at_edge is None:
            return replace(node, shift=replace(shift, at_ms=time_ms))
        return node
    if isinstance(node, ast.MatrixSelector):
        return replace(node, selector=_pinned(node.selector, time_ms))
    if isinstance(node, ast.Call):
        return replace(node, args=tuple(_pinned(arg, time_ms) for arg in node.args))
    if isinstance(node, ast.Binary):
        return replace(node, lhs=_pinned(node.lhs, time_ms), rhs=_pinned(node.rhs, time_ms))
    if isinstance(node, ast.Aggregate):
        param = None if node.param is None else _pinned(node.param, time_ms)
        return replace(node, expr=_pinned(node.expr, time_ms), param=param)
    if isinstance(node, ast.Unary | ast.Paren):
        return replace(node, expr=_pinned(node.expr, time_ms))
    return node
