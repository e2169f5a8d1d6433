"""Trees as plain values in the shape of Prometheus's ``parse_query``, for its user interface.

Texts carry no positions. The matchers of a selector come sorted, not in the order of the text:
the tree keeps them sorted.
"""

from __future__ import annotations

from typing import Any, Final

from tsengine.promql.ast import (
    Aggregate,
    Binary,
    Call,
    DurationBinary,
    DurationCall,
    DurationExpr,
    DurationNumber,
    DurationParen,
    DurationUnary,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    TimeShift,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
)
from tsengine.promql.functions import FUNCTIONS
from tsengine.promql.printer import number_text

_TYPE_NAMES: Final = {
    ValueType.SCALAR: "scalar",
    ValueType.VECTOR: "vector",
    ValueType.MATRIX: "matrix",
    ValueType.STRING: "string",
}


def syntax_tree(expr: Expr) -> dict[str, Any]:
    """One node with its children: dicts, lists, texts, numbers, booleans and None."""
    if isinstance(expr, VectorSelector):
        return {"type": "vectorSelector", **_selector(expr)}
    if isinstance(expr, MatrixSelector):
        span = {"range": expr.range_ms, "rangeExpr": _duration(expr.range_expr)}
        return {"type": "matrixSelector", **_selector(expr.selector), **span}
    if isinstance(expr, Subquery):
        return {
            "type": "subquery",
            "expr": syntax_tree(expr.expr),
            "range": expr.range_ms,
            "rangeExpr": _duration(expr.range_expr),
            "step": expr.step_ms or 0,
            "stepExpr": _duration(expr.step_expr),
            **_shift(expr.shift),
        }
    if isinstance(expr, Call):
        return _call(expr)
    if isinstance(expr, Binary):
        return {
            "type": "binaryExpr",
            "op": expr.op,
            "lhs": syntax_tree(expr.lhs),
            "rhs": syntax_tree(expr.rhs),
            "matching": _matching(expr.matching),
            "bool": expr.returns_bool,
        }
    if isinstance(expr, Aggregate):
        return {
            "type": "aggregation",
            "op": expr.op,
            "expr": syntax_tree(expr.expr),
            "param": None if expr.param is None else syntax_tree(expr.param),
            "grouping": list(expr.grouping),
            "without": expr.without,
        }
    if isinstance(expr, NumberLiteral):
        return {"type": "numberLiteral", "val": number_text(expr.value)}
    if isinstance(expr, StringLiteral):
        # Bytes that are not UTF-8 have no JSON text.
        text = expr.value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return {"type": "stringLiteral", "val": text}
    if isinstance(expr, Paren):
        return {"type": "parenExpr", "expr": syntax_tree(expr.expr)}
    assert isinstance(expr, Unary), "every node class is handled"
    return {"type": "unaryExpr", "op": expr.op, "expr": syntax_tree(expr.expr)}


def _selector(expr: VectorSelector) -> dict[str, Any]:
    return {
        "name": "" if expr.name is None or expr.name_in_braces else expr.name,
        "matchers": [
            {"name": matcher.name, "value": matcher.value, "type": matcher.op.value}
            for matcher in expr.matchers
        ],
        "anchored": expr.anchored,
        "smoothed": expr.smoothed,
        **_shift(expr.shift),
    }


def _shift(shift: TimeShift) -> dict[str, Any]:
    return {
        "offset": shift.offset_ms,
        "offsetExpr": _duration(shift.offset_expr),
        "timestamp": shift.at_ms,
        "startOrEnd": None if shift.at_edge is None else shift.at_edge.value,
    }


def _call(expr: Call) -> dict[str, Any]:
    signature = FUNCTIONS[expr.name]
    return {
        "type": "call",
        "func": {
            "name": expr.name,
            "argTypes": [_TYPE_NAMES[kind] for kind in signature.args],
            "variadic": signature.variadic,
            "returnType": _TYPE_NAMES[signature.returns],
        },
        "args": [syntax_tree(arg) for arg in expr.args],
    }


def _matching(matching: VectorMatching | None) -> dict[str, Any] | None:
    if matching is None:
        return None
    return {
        "card": matching.cardinality.value,
        "labels": list(matching.labels),
        "on": matching.is_on,
        "include": list(matching.include),
        "fillValues": {"lhs": matching.fill_left, "rhs": matching.fill_right},
    }


def _duration(expr: DurationExpr | None) -> dict[str, Any] | None:
    """Parentheses are a mark on what they enclose; a number in them becomes a signed one."""
    if expr is None:
        return None
    if isinstance(expr, DurationNumber):
        text = number_text(expr.value)
        return {"type": "numberLiteral", "val": text, "duration": expr.is_duration}
    if isinstance(expr, DurationParen):
        inner = _duration(expr.inner)
        if isinstance(expr.inner, DurationNumber):
            inner = _operation("+", None, expr.inner)
        assert inner is not None, "parentheses enclose something"
        return {**inner, "wrapped": True}
    if isinstance(expr, DurationCall):
        lhs, rhs = expr.args or (None, None)
        return _operation(expr.name, lhs, rhs)
    if isinstance(expr, DurationUnary):
        return _operation(expr.op, None, expr.operand)
    assert isinstance(expr, DurationBinary), "every node class is handled"
    return _operation(expr.op, expr.lhs, expr.rhs)


def _operation(op: str, lhs: DurationExpr | None, rhs: DurationExpr | None) -> dict[str, Any]:
    return {
        "type": "durationExpr",
        "op": op,
        "lhs": _duration(lhs),
        "rhs": _duration(rhs),
        "wrapped": False,
    }
