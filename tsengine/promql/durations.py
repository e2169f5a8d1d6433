"""Values of duration expressions: they depend on the query's step and range."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from tsengine.errors import QueryError
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
    Paren,
    Subquery,
    TimeShift,
    Unary,
    VectorSelector,
)

_SECONDS_MAX: Final = 2**63 / 1e9  # what 64-bit nanoseconds hold


def resolve_durations(expr: Expr, *, start_ms: int, end_ms: int, step_ms: int) -> Expr:
    """Put milliseconds in the place of all duration expressions.

    Parameters
    ----------
    expr
        A tree as the parser makes it. Subtrees without duration expressions are kept as they are.
    start_ms, end_ms, step_ms
        Of the query. An instant query has equal start and end, and 0 as its step.

    Returns
    -------
    Expr
        The tree with `range_ms`, `step_ms` and `offset_ms` filled and no `*_expr` left.

    Raises
    ------
    QueryError
        A duration is not finite, out of range, or not above 0 where it has to be.

    """
    return _Resolver(step_ms / 1000, (end_ms - start_ms) / 1000).expr(expr)


class _Resolver:
    """Walks a tree with the values of ``step()`` and ``range()`` in seconds."""

    __slots__ = ("range_s", "step_s")

    def __init__(self, step_s: float, range_s: float) -> None:
        self.step_s = step_s
        self.range_s = range_s

    def expr(self, expr: Expr) -> Expr:
        """The expression without duration expressions; itself if there were none."""
        if isinstance(expr, VectorSelector):
            shift = self.shift(expr.shift)
            return expr if shift is expr.shift else replace(expr, shift=shift)
        if isinstance(expr, MatrixSelector):
            return self.matrix(expr)
        if isinstance(expr, Subquery):
            return self.subquery(expr)
        if isinstance(expr, Call):
            args = tuple([self.expr(arg) for arg in expr.args])
            same = all(new is old for new, old in zip(args, expr.args, strict=True))
            return expr if same else replace(expr, args=args)
        if isinstance(expr, Binary):
            lhs, rhs = self.expr(expr.lhs), self.expr(expr.rhs)
            same = lhs is expr.lhs and rhs is expr.rhs
            return expr if same else replace(expr, lhs=lhs, rhs=rhs)
        if isinstance(expr, Aggregate):
            inner = self.expr(expr.expr)
            param = None if expr.param is None else self.expr(expr.param)
            same = inner is expr.expr and param is expr.param
            return expr if same else replace(expr, expr=inner, param=param)
        if isinstance(expr, Unary | Paren):
            inner = self.expr(expr.expr)
            return expr if inner is expr.expr else replace(expr, expr=inner)
        return expr

    def matrix(self, expr: MatrixSelector) -> Expr:
        """A range selector."""
        selector = self.expr(expr.selector)
        assert isinstance(selector, VectorSelector), "a selector resolves to a selector"
        range_ms = expr.range_ms
        if expr.range_expr is not None:
            range_ms = self.milliseconds(expr.range_expr, signed=False)
        if selector is expr.selector and expr.range_expr is None:
            return expr
        return replace(expr, selector=selector, range_ms=range_ms, range_expr=None)

    def subquery(self, expr: Subquery) -> Expr:
        """A subquery; a step that truncates to 0 ms leaves the engine's default."""
        shift = self.shift(expr.shift)
        step_ms, range_ms = expr.step_ms, expr.range_ms
        if expr.step_expr is not None:
            step_ms = self.milliseconds(expr.step_expr, signed=False) or None
        if expr.range_expr is not None:
            range_ms = self.milliseconds(expr.range_expr, signed=False)
        inner = self.expr(expr.expr)
        same = inner is expr.expr and shift is expr.shift
        if same and expr.range_expr is None and expr.step_expr is None:
            return expr
        return replace(
            expr,
            expr=inner,
            range_ms=range_ms,
            step_ms=step_ms,
            range_expr=None,
            step_expr=None,
            shift=shift,
        )

    def shift(self, shift: TimeShift) -> TimeShift:
        """A time shift."""
        if shift.offset_expr is None:
            return shift
        offset_ms = self.milliseconds(shift.offset_expr, signed=True)
        return replace(shift, offset_ms=offset_ms, offset_expr=None)

    def milliseconds(self, expr: DurationExpr, *, signed: bool) -> int:
        """Milliseconds of a duration expression, truncated toward zero."""
        seconds = self.seconds(expr)
        if not math.isfinite(seconds):
            raise _error(expr, "duration is NaN or infinite")
        if seconds <= 0 and not signed:
            raise _error(expr, "duration must be greater than 0")
        if abs(seconds) > _SECONDS_MAX:
            raise _error(expr, "duration is out of range")
        return int(seconds * 1000)

    def seconds(self, expr: DurationExpr) -> float:
        """Value of a duration expression."""
        if isinstance(expr, DurationNumber):
            return expr.value
        if isinstance(expr, DurationParen):
            return self.seconds(expr.inner)
        if isinstance(expr, DurationUnary):
            value = self.seconds(expr.operand)
            return -value if expr.op == "-" else value
        if isinstance(expr, DurationCall):
            if expr.name == "step":
                return self.step_s
            if expr.name == "range":
                return self.range_s
            lhs, rhs = map(self.seconds, expr.args)
            return _min_of(lhs, rhs) if expr.name == "min_of" else -_min_of(-lhs, -rhs)
        lhs, rhs = self.seconds(expr.lhs), self.seconds(expr.rhs)
        return _binary(expr, lhs, rhs)


def _binary(expr: DurationBinary, lhs: float, rhs: float) -> float:
    """Result of one operation in doubles, as Go computes it."""
    if expr.op == "+":
        return lhs + rhs
    if expr.op == "-":
        return lhs - rhs
    if expr.op == "*":
        return lhs * rhs
    if expr.op == "^":
        return _power(lhs, rhs)
    if rhs == 0:
        raise _error(expr, "division by zero" if expr.op == "/" else "modulo by zero")
    if expr.op == "/":
        return lhs / rhs
    return math.nan if math.isinf(lhs) else math.fmod(lhs, rhs)


def _power(base: float, exponent: float) -> float:
    """C's pow: infinity and NaN where Python raises."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        is_odd = exponent == int(exponent) and int(exponent) % 2 == 1
        return -math.inf if base < 0 and is_odd else math.inf
    except ValueError:  # 0 to a negative power, or a root of a negative number
        return math.inf if base == 0 else math.nan


def _min_of(lhs: float, rhs: float) -> float:
    """The smaller one; NaN if either is, unless the other is -Inf."""
    if lhs == -math.inf or rhs == -math.inf:
        return -math.inf
    if math.isnan(lhs) or math.isnan(rhs):
        return math.nan
    return min(lhs, rhs)


def _error(expr: DurationExpr, message: str) -> QueryError:
    """Error with a byte range, without parentheses, which is what Prometheus puts before it."""
    while isinstance(expr, DurationParen):
        expr = expr.inner
    return QueryError(f"{expr.span.start}:{expr.span.end}: {message}")
