"""What may stand in brackets and behind ``offset``: durations and arithmetic on them."""

from __future__ import annotations

from typing import Final

from tsengine.promql import lexer as lx
from tsengine.promql.ast import (
    DurationBinary,
    DurationCall,
    DurationExpr,
    DurationNumber,
    DurationParen,
    DurationUnary,
    Span,
)
from tsengine.promql.literals import seconds_to_ms
from tsengine.promql.tokens import POWER, PRECEDENCE, TokenStream

DURATION_EXPECTED: Final = "number, duration, step(), or range()"
_SUM: Final = PRECEDENCE["+"]


class DurationParser(TokenStream):
    """Parses durations. `context` is what error texts say about the place and the expectation."""

    __slots__ = ()

    def positive_duration(self, context: tuple[str, str]) -> tuple[int, DurationExpr | None]:
        """What stands in brackets: milliseconds, or 0 and an expression."""
        start = self.token.start
        expr = self.duration(0, context)
        if not isinstance(expr, DurationNumber):
            return 0, expr
        ms = seconds_to_ms(expr.value)
        # Milliseconds are the unit: less than one is no duration.
        if ms is None or ms <= 0 or expr.value < 0.001:
            self.fail("duration must be greater than 0", start)
        return ms, None

    def offset_value(self) -> tuple[int, DurationExpr | None]:
        """What stands behind ``offset``: milliseconds, or 0 and an expression.

        A sign, a number, a duration or a call ends it; only after a leading parenthesis do
        operators belong to the offset.
        """
        context = ("offset", DURATION_EXPECTED)
        starts_with_paren = self.token.kind == "("
        expr = self.duration(0 if starts_with_paren else POWER + 1, context)
        if not isinstance(expr, DurationNumber):
            return 0, expr
        ms = seconds_to_ms(expr.value)
        assert ms is not None, "the range was checked"
        return ms, None

    def duration(self, precedence_min: int, context: tuple[str, str]) -> DurationExpr:
        """Operands of a duration joined by operators; `context` is for errors."""
        lhs, height = self.duration_operand(precedence_min, context)
        while True:
            op = self.token
            precedence = PRECEDENCE.get(op.kind, 0)
            # Comparisons and set operators don't exist between durations.
            if precedence < _SUM or precedence < precedence_min or op.kind == "atan2":
                self.height = height
                return lhs
            self.advance()
            self.descend()
            tighter = precedence if op.kind == "^" else precedence + 1
            rhs = self.duration(tighter, context)
            self.depth -= 1
            if op.kind in "/%" and isinstance(rhs, DurationNumber) and rhs.value == 0:
                what = "division" if op.kind == "/" else "modulo"
                self.fail(f"{what} by zero", op.start)
            lhs = DurationBinary(op.kind, lhs, rhs, span=Span(lhs.span.start, rhs.span.end))
            height = max(height, self.height) + 1
            self.grow(height)

    def duration_operand(
        self, precedence_min: int, context: tuple[str, str]
    ) -> tuple[DurationExpr, int]:
        """Signs and a number, a call or parentheses; with the height."""
        signs = []
        while self.token.kind == "+" or self.token.kind == "-":
            signs.append(self.advance())
            if len(signs) > self.max_depth:
                raise self.too_deep()
        if signs:
            self.descend()
            expr = self.duration(max(precedence_min, POWER), context)
            self.depth -= 1
            for sign in reversed(signs):
                expr = self.signed_duration(sign, expr)
            return expr, self.height
        token = self.token
        if token.kind in (lx.NUMBER, lx.DURATION):
            value, is_duration = self.number()
            if not _fits_duration(value):
                self.fail("duration out of range", token.start)
            self.height = 1
            return DurationNumber(value, is_duration, span=Span(token.start, token.end)), 1
        if token.kind == "(":
            self.advance()
            self.descend()
            inner = self.duration(0, context)
            self.depth -= 1
            self.expect(")", *context)
            self.grow(self.height + 1)
            return DurationParen(inner, span=Span(token.start, self.end)), self.height
        if token.kind not in lx.DURATION_WORDS:
            self.unexpected(*context)
        self.advance()
        self.expect("(", *context)
        args: tuple[DurationExpr, ...] = ()
        height = 0
        if token.kind in ("min_of", "max_of"):
            self.descend()
            first = self.duration(0, context)
            height = self.height
            self.expect(",", *context)
            args = (first, self.duration(0, context))
            height = max(height, self.height)
            self.depth -= 1
        self.expect(")", *context)
        self.grow(height + 1)
        return DurationCall(token.kind, args, span=Span(token.start, self.end)), self.height

    def signed_duration(self, sign: lx.Token, expr: DurationExpr) -> DurationExpr:
        """Put a sign before a duration; plus leaves no trace."""
        span = Span(sign.start, expr.span.end)
        if isinstance(expr, DurationNumber):
            value = -expr.value if sign.kind == "-" else expr.value
            return DurationNumber(value, expr.is_duration, span=span)
        if sign.kind == "+":
            return expr
        self.grow(self.height + 1)
        return DurationUnary("-", expr, span=span)


def _fits_duration(seconds: float) -> bool:
    """Whether it fits 64-bit nanoseconds."""
    return -(2**63) / 1e9 <= seconds <= 2**63 / 1e9
