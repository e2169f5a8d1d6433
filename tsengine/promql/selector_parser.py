"""Selectors, and the modifiers and brackets that may follow an expression."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp
from tsengine.promql import functions as fn
from tsengine.promql import lexer as lx
from tsengine.promql.ast import (
    DurationExpr,
    Edge,
    Expr,
    MatrixSelector,
    Span,
    Subquery,
    TimeShift,
    ValueType,
    VectorSelector,
)
from tsengine.promql.duration_parser import DURATION_EXPECTED, DurationParser
from tsengine.promql.literals import check_regex, seconds_to_ms

POSTFIX: Final = frozenset(("[", "offset", "@", "anchored", "smoothed"))
_MATCH_OPS: Final = {op.value: op for op in MatchOp}
# Keywords that can't name a metric; all others can where an operand is expected.
_NOT_METRICS: Final = frozenset(("atan2", "bool", "group_left", "group_right", "ignoring", "on"))


class SelectorParser(DurationParser):
    """Parses selectors."""

    __slots__ = ()

    def at_metric_name(self) -> bool:
        """Whether the next token can be a metric name."""
        kind = self.token.kind
        return (
            kind == lx.IDENTIFIER
            or kind == lx.METRIC_IDENTIFIER
            or (kind in lx.KEYWORDS and kind not in _NOT_METRICS)
        )

    def leaf(self, value_type: ValueType) -> None:
        """Note type and height of a node without children."""
        self.type = value_type
        self.height = 1

    def selector(self, name: lx.Token | None = None) -> VectorSelector:
        """A vector selector; its name may have been read."""
        start = self.token.start if name is None else name.start
        if name is None and self.token.kind != "{":
            name = self.advance()
        matchers: list[Matcher] = []
        if self.token.kind == "{":
            self.advance()
            while self.token.kind != "}" or not matchers:
                if self.token.kind == "}":
                    break
                matchers.append(self.matcher())
                if self.token.kind != ",":
                    break
                self.advance()
            self.expect("}", "label matching", '"," or "}"')
        self.leaf(ValueType.VECTOR)
        fixed = [m.value for m in matchers if m.name == METRIC_NAME and m.op is MatchOp.EQUAL]
        if name is not None:
            matchers.append(Matcher(METRIC_NAME, MatchOp.EQUAL, name.value))
            known: str | None = name.value
        else:
            known = fixed[0] if len(fixed) == 1 and fixed[0] else None
        # In one order, so that selectors that mean the same are equal.
        matchers.sort(key=_matcher_order)
        return VectorSelector(
            known,
            tuple(matchers),
            name_in_braces=name is None and known is not None,
            span=Span(start, self.end),
        )

    def matcher(self) -> Matcher:
        """One condition inside braces, or a quoted metric name."""
        label = self.token
        if label.kind not in (lx.IDENTIFIER, lx.STRING):
            self.unexpected("label matching", 'identifier or "}"')
        self.advance()
        op = _MATCH_OPS.get(self.token.kind)
        if op is None:
            if label.kind == lx.STRING:
                return Matcher(METRIC_NAME, MatchOp.EQUAL, label.value)
            self.unexpected("label matching", "label matching operator")
        self.advance()
        value = self.expect(lx.STRING, "label matching", "string")
        if op is MatchOp.REGEX or op is MatchOp.NOT_REGEX:
            problem = check_regex(value.value)
            if problem is not None:
                self.fail(problem, label.start)
        return Matcher(label.value, op, value.value)

    def postfix(self, expr: Expr) -> Expr:
        """One modifier or bracket behind an expression."""
        kind = self.token.kind
        if kind == "[":
            return self.brackets(expr)
        if kind == "offset":
            self.advance()
            height = self.height
            offset_ms, offset_expr = self.offset_value()
            self.height = height
            shift = _shift_of(expr)
            if shift is None:
                self.fail(
                    "offset modifier must be preceded by an instant vector selector or range"
                    " vector selector or a subquery",
                    expr.span.start,
                )
            if shift.offset_ms or shift.offset_expr is not None:
                self.fail("offset may not be set multiple times", expr.span.start)
            shift = replace(shift, offset_ms=offset_ms, offset_expr=offset_expr)
            return _with_shift(expr, shift, self.end)
        if kind == "@":
            return self.at_modifier(expr)
        self.advance()
        return self.extended_range(expr, kind)

    def extended_range(self, expr: Expr, kind: str) -> Expr:
        """``anchored`` or ``smoothed`` behind an expression."""
        start = expr.span.start
        if fn.EXTENDED_RANGE_SELECTORS not in self.features:
            self.fail(f"{kind} modifier is experimental and not enabled", start)
        if isinstance(expr, Subquery):
            self.fail(f"{kind} modifier is not supported for subqueries", start)
        selector = expr.selector if isinstance(expr, MatrixSelector) else expr
        if not isinstance(selector, VectorSelector):
            self.fail(f"{kind} modifier not implemented", start)
        anchored = selector.anchored or kind == "anchored"
        smoothed = selector.smoothed or kind == "smoothed"
        if anchored and smoothed:
            self.fail("anchored and smoothed modifiers cannot be used together", start)
        marked = replace(selector, anchored=anchored, smoothed=smoothed)
        if isinstance(expr, MatrixSelector):
            return replace(expr, selector=marked, span=Span(start, self.end))
        return replace(marked, span=Span(start, self.end))

    def at_modifier(self, expr: Expr) -> Expr:
        """``@`` behind an expression."""
        self.advance()
        at_ms: int | None = None
        edge: Edge | None = None
        seconds = 0.0
        if self.token.kind in ("start", "end"):
            edge = Edge(self.advance().kind)
            self.expect("(", "@", "timestamp")
            self.expect(")", "@", "timestamp")
        else:
            sign = self.advance().kind if self.token.kind in ("+", "-") else "+"
            if self.token.kind not in (lx.NUMBER, lx.DURATION):
                self.unexpected("@", "timestamp")
            seconds, _ = self.number()
            seconds = -seconds if sign == "-" else seconds
            at_ms = seconds_to_ms(seconds)
        start = expr.span.start
        if edge is None and at_ms is None:
            shown = _go_float(seconds)
            self.fail(f"timestamp out of bounds for @ modifier: {shown}", start)
        shift = _shift_of(expr)
        if shift is None:
            self.fail(
                "@ modifier must be preceded by an instant vector selector or range vector"
                " selector or a subquery",
                start,
            )
        if shift.at_ms is not None or shift.at_edge is not None:
            self.fail("@ <timestamp> may not be set multiple times", start)
        return _with_shift(expr, replace(shift, at_ms=at_ms, at_edge=edge), self.end)

    def brackets(self, expr: Expr) -> Expr:
        """A range or a subquery behind an expression."""
        height = self.height
        bracket = self.advance()
        context = ("subquery or range selector", DURATION_EXPECTED)
        range_ms, range_expr = self.positive_duration(context)
        if self.token.kind == ":":
            self.advance()
            step_ms: int | None = None
            step_expr: DurationExpr | None = None
            if self.token.kind != "]":
                context = ("subquery selector", 'number, duration, step(), range(), or "]"')
                step_ms, step_expr = self.positive_duration(context)
            self.expect("]", "subquery selector", '"]"')
            self.type = ValueType.MATRIX
            self.grow(height + 1)
            span = Span(expr.span.start, self.end)
            return Subquery(expr, range_ms, step_ms, range_expr, step_expr, span=span)
        self.expect("]", "subquery or range", '":" or "]"')
        problem = ""
        if not isinstance(expr, VectorSelector):
            problem = "ranges only allowed for vector selectors"
        elif expr.shift.offset_ms or expr.shift.offset_expr is not None:
            problem = "no offset modifiers allowed before range"
        elif expr.shift.at_ms is not None or expr.shift.at_edge is not None:
            problem = "no @ modifiers allowed before range"
        if problem:
            self.fail(problem, bracket.start)
        assert isinstance(expr, VectorSelector), "anything else was refused above"
        self.type = ValueType.MATRIX
        self.grow(height + 1)
        return MatrixSelector(expr, range_ms, range_expr, span=Span(expr.span.start, self.end))


def _matcher_order(matcher: Matcher) -> tuple[str, str, str]:
    return matcher.name, matcher.op.value, matcher.value


def _shift_of(expr: Expr) -> TimeShift | None:
    """Time shift of an expression that can have one."""
    if isinstance(expr, MatrixSelector):
        return expr.selector.shift
    return expr.shift if isinstance(expr, VectorSelector | Subquery) else None


def _with_shift(expr: Expr, shift: TimeShift, end: int) -> Expr:
    """The same selector or subquery with another time shift, ending at a byte offset."""
    span = Span(expr.span.start, end)
    if isinstance(expr, MatrixSelector):
        return replace(expr, selector=replace(expr.selector, shift=shift), span=span)
    assert isinstance(expr, VectorSelector | Subquery), "only these have a time shift"
    return replace(expr, shift=shift, span=span)


def _go_float(value: float) -> str:
    """Text of a float as Go's %f writes it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value:f}"
