"""Trees back to text, on one line and in Prometheus's layout; the parser reads it back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp
from tsengine.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
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
    VectorMatching,
    VectorSelector,
)
from tsengine.promql.lexer import quote
from tsengine.promql.literals import duration_text, seconds_to_ms

_PLAIN_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_GROUPED: Final = {Cardinality.MANY_TO_ONE: "group_left", Cardinality.ONE_TO_MANY: "group_right"}


def to_text(expr: Expr) -> str:
    """Write an expression; parsing the result gives an equal tree apart from positions."""
    if isinstance(expr, VectorSelector):
        return _selector(expr) + _at(expr.shift) + _modifiers(expr) + _offset(expr.shift)
    if isinstance(expr, MatrixSelector):
        shift = expr.selector.shift
        span = _span(expr.range_ms, expr.range_expr)
        inner = _selector(expr.selector)
        return f"{inner}[{span}]{_modifiers(expr.selector)}{_at(shift)}{_offset(shift)}"
    if isinstance(expr, Subquery):
        return to_text(expr.expr) + subquery_suffix(expr)
    if isinstance(expr, Call):
        return f"{expr.name}({_joined(expr.args)})"
    if isinstance(expr, Binary):
        return _binary(expr)
    if isinstance(expr, Aggregate):
        args = (expr.expr,) if expr.param is None else (expr.param, expr.expr)
        return f"{aggregate_head(expr)}({_joined(args)})"
    if isinstance(expr, NumberLiteral):
        return number_text(expr.value, is_duration=expr.is_duration)
    if isinstance(expr, Paren):
        return f"({to_text(expr.expr)})"
    if isinstance(expr, Unary):
        return f"{expr.op}{to_text(expr.expr)}"
    assert isinstance(expr, StringLiteral), "every node class is handled"
    return quote(expr.value)


def number_text(value: float, *, is_duration: bool = False) -> str:
    """Write a number without exponent, or a duration."""
    if is_duration:
        ms = seconds_to_ms(abs(value))
        assert ms is not None, "a duration fits 64-bit milliseconds"
        return ("-" if math.copysign(1, value) < 0 else "") + duration_text(ms)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


def subquery_suffix(expr: Subquery) -> str:
    """Write what stands behind the expression of a subquery."""
    step = "" if expr.step_ms is None else _span(expr.step_ms, expr.step_expr)
    span = _span(expr.range_ms, expr.range_expr)
    return f"[{span}:{step}]{_at(expr.shift)}{_offset(expr.shift)}"


def aggregate_head(expr: Aggregate) -> str:
    """Write what stands before the parenthesis of an aggregation."""
    if expr.without:
        return f"{expr.op} without ({_labels(expr.grouping)}) "
    return f"{expr.op} by ({_labels(expr.grouping)}) " if expr.grouping else expr.op


def operator_text(expr: Binary) -> str:
    """Write an operator with its modifiers."""
    words = [expr.op]
    if expr.returns_bool:
        words.append("bool")
    if expr.matching is not None:
        words += _matching(expr.matching)
    return " ".join(words)


def matcher_text(matcher: Matcher) -> str:
    """Write a matcher as it stands in braces."""
    return f"{_label(matcher.name)}{matcher.op.value}{quote(matcher.value)}"


def duration_expr_text(expr: DurationExpr) -> str:
    """Write a duration expression."""
    if isinstance(expr, DurationNumber):
        return number_text(expr.value, is_duration=expr.is_duration)
    if isinstance(expr, DurationCall):
        return f"{expr.name}({', '.join(map(duration_expr_text, expr.args))})"
    if isinstance(expr, DurationParen):
        return f"({duration_expr_text(expr.inner)})"
    if isinstance(expr, DurationUnary):
        return f"{expr.op}{duration_expr_text(expr.operand)}"
    assert isinstance(expr, DurationBinary), "every node class is handled"
    return f"{duration_expr_text(expr.lhs)} {expr.op} {duration_expr_text(expr.rhs)}"


def _joined(exprs: Iterable[Expr]) -> str:
    return ", ".join(map(to_text, exprs))


def _label(name: str) -> str:
    return name if _PLAIN_LABEL.fullmatch(name) else quote(name)


def _labels(names: tuple[str, ...]) -> str:
    return ", ".join(map(_label, names))


def _binary(expr: Binary) -> str:
    lhs = to_text(expr.lhs)
    if expr.op == "^" and lhs == "+Inf":
        lhs = "Inf"  # a sign would bind the whole power
    return f"{lhs} {operator_text(expr)} {to_text(expr.rhs)}"


def _matching(matching: VectorMatching) -> list[str]:
    words = []
    grouped = _GROUPED.get(matching.cardinality)
    if matching.labels or matching.is_on or grouped:
        words.append(f"{'on' if matching.is_on else 'ignoring'} ({_labels(matching.labels)})")
    if grouped:
        words.append(f"{grouped} ({_labels(matching.include)})")
    left, right = matching.fill_left, matching.fill_right
    if left is not None and right is not None and number_text(left) == number_text(right):
        words.append(f"fill ({number_text(left)})")
    else:
        if left is not None:
            words.append(f"fill_left ({number_text(left)})")
        if right is not None:
            words.append(f"fill_right ({number_text(right)})")
    return words


def _selector(selector: VectorSelector) -> str:
    """Name and braces, without what may follow."""
    name = None if selector.name_in_braces else selector.name
    matchers = list(selector.matchers)
    if name is not None:
        matchers.remove(Matcher(METRIC_NAME, MatchOp.EQUAL, name))
    if not matchers:
        return name or "{}"
    return f"{name or ''}{{{','.join(sorted(map(matcher_text, matchers)))}}}"


def _modifiers(selector: VectorSelector) -> str:
    return (" anchored" if selector.anchored else "") + (" smoothed" if selector.smoothed else "")


def _span(ms: int, expr: DurationExpr | None) -> str:
    return duration_text(ms) if expr is None else duration_expr_text(expr)


def _at(shift: TimeShift) -> str:
    if shift.at_edge is not None:
        return f" @ {shift.at_edge.value}()"
    if shift.at_ms is None:
        return ""
    seconds, ms = divmod(abs(shift.at_ms), 1000)
    return f" @ {'-' if shift.at_ms < 0 else ''}{seconds}.{ms:03d}"


def _offset(shift: TimeShift) -> str:
    if shift.offset_expr is not None:
        return f" offset {duration_expr_text(shift.offset_expr)}"
    if shift.offset_ms == 0:
        return ""
    sign = "-" if shift.offset_ms < 0 else ""
    return f" offset {sign}{duration_text(abs(shift.offset_ms))}"
