"""PromQL text to a checked tree, by precedence climbing.

Errors have Prometheus's wording and the position it gives. Expressions can be nested only so far
(`DEPTH_MAX`): this bounds the recursion here and in every later pass over the tree, where a chain
``a + a + a`` is as deep as it has operands.

The parser is one class in layers: `tokens`, `duration_parser`, `selector_parser`, and here what
is made of selectors. Thread rules: every function may be called from any thread.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from tsengine.errors import ParseError
from tsengine.model.matchers import Matcher
from tsengine.promql import functions as fn
from tsengine.promql import lexer as lx
from tsengine.promql import typecheck
from tsengine.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
    Expr,
    NumberLiteral,
    Paren,
    Span,
    StringLiteral,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
)
from tsengine.promql.selector_parser import POSTFIX, SelectorParser
from tsengine.promql.tokens import POWER, PRECEDENCE

DEPTH_MAX: Final = 250
TEXT_SIZE_MAX: Final = 1024 * 1024

_CACHED_SIZE_MAX: Final = 1024
"""Dashboards ask the same again and again: trees of texts up to this size are kept."""

_LABEL_KEYWORDS: Final = lx.KEYWORDS - {"without"}
_PLAIN_MATCHING: Final = VectorMatching()


def parse(text: str, *, features: frozenset[str] = fn.ALL_OFF, max_depth: int = DEPTH_MAX) -> Expr:
    """Parse and check a query.

    Parameters
    ----------
    text
        The query, at most `TEXT_SIZE_MAX` bytes of UTF-8.
    features
        Prometheus's feature names; ``promql-duration-expr`` is always on.
    max_depth
        Greatest depth of the tree. More than `DEPTH_MAX` needs a raised recursion limit.

    Raises
    ------
    ParseError
        The query is not valid.

    """
    if len(text) <= _CACHED_SIZE_MAX:
        return _parse_cached(text, features, max_depth)
    return _parse(text, features, max_depth)


def _parse(text: str, features: frozenset[str], max_depth: int) -> Expr:
    parser = _start(text, features, max_depth)
    try:
        expr = parser.whole_expression()
        typecheck.check(expr, text)
    except RecursionError:
        raise parser.too_deep() from None
    return expr


_parse_cached = lru_cache(maxsize=256)(_parse)


def parse_selector(
    text: str, *, features: frozenset[str] = fn.ALL_OFF, max_depth: int = DEPTH_MAX
) -> tuple[Matcher, ...]:
    """Parse what a ``match[]`` parameter holds: a vector selector without modifiers.

    Raises ParseError, also if every matcher matches the empty string.
    """
    selector = _start(text, features, max_depth).whole_selector()
    typecheck.check(selector, text)
    return selector.matchers


def _start(text: str, features: frozenset[str], max_depth: int) -> _Parser:
    if len(text) <= TEXT_SIZE_MAX:
        try:
            parser = _Parser(text, features, max_depth)
        except UnicodeEncodeError as error:
            raise ParseError("invalid UTF-8 rune", column=error.start + 1) from None
        if len(parser.lexer.source) <= TEXT_SIZE_MAX:
            return parser
    raise ParseError(f"query is longer than {TEXT_SIZE_MAX} bytes")


class _Parser(SelectorParser):
    """Parses whole expressions."""

    __slots__ = ()

    def whole_expression(self) -> Expr:
        """The query."""
        if self.token.kind == lx.EOF:
            self.fail("no expression found in input", 0)
        expr = self.expression(0)
        if self.token.kind != lx.EOF:
            self.unexpected()
        return expr

    def whole_selector(self) -> VectorSelector:
        """A query that is nothing but a vector selector."""
        if self.token.kind != "{" and not self.at_metric_name():
            self.unexpected()
        selector = self.selector()
        if self.token.kind != lx.EOF:
            self.unexpected()
        return selector

    def expression(self, precedence_min: int) -> Expr:
        """Operands joined by operators that bind at least as tightly as asked."""
        lhs = self.operand()
        while True:
            op = self.token.kind
            precedence = PRECEDENCE.get(op, 0)
            if precedence == 0 or precedence < precedence_min:
                return lhs
            lhs_type, lhs_height = self.type, self.height
            self.advance()
            returns_bool, matching = self.binary_modifiers(lhs.span.start)
            self.descend()
            rhs = self.expression(precedence if op == "^" else precedence + 1)
            self.depth -= 1
            both_vectors = lhs_type is ValueType.VECTOR and self.type is ValueType.VECTOR
            one_to_one = matching.cardinality is Cardinality.ONE_TO_ONE
            if both_vectors and one_to_one and op in typecheck.SET_OPERATORS:
                matching = replace(matching, cardinality=Cardinality.MANY_TO_MANY)
            keeps_matching = both_vectors or typecheck.has_vector_matching(matching)
            lhs = Binary(
                op,
                lhs,
                rhs,
                matching if keeps_matching else None,
                returns_bool,
                span=Span(lhs.span.start, rhs.span.end),
            )
            if lhs_type is not ValueType.SCALAR or self.type is not ValueType.SCALAR:
                self.type = ValueType.VECTOR
            self.grow(max(lhs_height, self.height) + 1)

    def operand(self) -> Expr:
        """Signs, one primary expression, and the modifiers and brackets behind it."""
        token = self.token
        kind = token.kind
        expr: Expr
        if kind == lx.NUMBER or kind == lx.DURATION:
            value, is_duration = self.number()
            self.leaf(ValueType.SCALAR)
            expr = NumberLiteral(value, is_duration, span=Span(token.start, token.end))
        elif kind == "+" or kind == "-":
            return self.signed()
        elif kind == "(":
            self.advance()
            self.descend()
            inner = self.expression(0)
            self.depth -= 1
            self.expect(")")
            expr = Paren(inner, span=Span(token.start, self.end))
            self.grow(self.height + 1)
        elif kind == lx.STRING:
            self.advance()
            self.leaf(ValueType.STRING)
            expr = StringLiteral(token.value, span=Span(token.start, token.end))
        elif kind == "{":
            expr = self.selector()
        else:
            if not self.at_metric_name():
                self.unexpected()
            self.advance()
            following = self.token.kind
            if kind in lx.AGGREGATORS and following in ("(", "by", "without"):
                self.open_aggregates += 1
                clause = self.grouping_clause()
                args, height = self.arguments()
                expr = self.finish_aggregation(token, clause, args, height)
            elif following == "(" and (kind == lx.IDENTIFIER or kind in lx.PREPROCESSORS):
                args, height = self.arguments()
                expr = self.finish_call(token, args, height)
            else:
                expr = self.selector(token)
        while self.token.kind in POSTFIX:
            expr = self.postfix(expr)
        return expr

    def signed(self) -> Expr:
        """Signs and their operand; a sign directly before a number belongs to the number."""
        signs = []
        while self.token.kind == "+" or self.token.kind == "-":
            signs.append(self.advance())
            if len(signs) > self.max_depth:
                raise self.too_deep()
        self.descend()
        expr = self.expression(POWER)
        self.depth -= 1
        for sign in reversed(signs):
            span = Span(sign.start, expr.span.end)
            if type(expr) is NumberLiteral:
                value = -expr.value if sign.kind == "-" else expr.value
                expr = NumberLiteral(value, expr.is_duration, span=span)
            else:
                expr = Unary(sign.kind, expr, span=span)
                self.grow(self.height + 1)
        return expr

    def arguments(self) -> tuple[tuple[Expr, ...], int]:
        """Expressions in parentheses, and the greatest height among them."""
        self.expect("(")
        args: list[Expr] = []
        height = 0
        self.descend()
        while self.token.kind != ")" or args:
            args.append(self.expression(0))
            height = max(height, self.height)
            if self.token.kind != ",":
                break
            comma = self.advance()
            if self.token.kind in (")", ","):
                self.fail("trailing commas not allowed in function call args", comma.start)
        self.depth -= 1
        self.expect(")")
        return tuple(args), height

    def finish_call(self, name: lx.Token, args: tuple[Expr, ...], height: int) -> Call:
        """A function call whose arguments were read; `height` is theirs."""
        signature = fn.FUNCTIONS.get(name.value)
        if signature is None:
            shown = lx.quote(name.value)
            self.fail(f"unknown function with name {shown}", name.start)
        if signature.feature is not None and signature.feature not in self.features:
            self.fail(f"function {lx.quote(name.value)} is not enabled", name.start)
        self.grow(height + 1)
        self.type = signature.returns
        return Call(name.value, args, span=Span(name.start, self.end))

    def grouping_clause(self) -> tuple[bool, tuple[str, ...]] | None:
        """``by (...)`` or ``without (...)``, if one is next: whether it is without, and labels."""
        if self.token.kind not in ("by", "without"):
            return None
        without = self.advance().kind == "without"
        return without, self.grouping_labels()

    def finish_aggregation(
        self,
        op: lx.Token,
        clause: tuple[bool, tuple[str, ...]] | None,
        args: tuple[Expr, ...],
        height: int,
    ) -> Aggregate:
        """An aggregation whose arguments were read; `height` is theirs."""
        without, grouping = clause or self.grouping_clause() or (False, ())
        self.open_aggregates -= 1
        n_expected = 2 if op.kind in fn.PARAMETER_AGGREGATORS else 1
        if not args:
            self.fail("no arguments for aggregate expression provided", op.start)
        if op.kind in fn.EXPERIMENTAL_AGGREGATORS and (
            fn.EXPERIMENTAL_FUNCTIONS not in self.features
        ):
            self.fail(
                f"{op.kind}() is experimental and must be enabled with"
                f" --enable-feature={fn.EXPERIMENTAL_FUNCTIONS}",
                op.start,
            )
        if len(args) != n_expected:
            self.fail(
                "wrong number of arguments for aggregate expression provided,"
                f" expected {n_expected}, got {len(args)}",
                op.start,
            )
        self.grow(height + 1)
        self.type = ValueType.VECTOR
        return Aggregate(
            op.kind,
            args[-1],
            args[0] if n_expected == 2 else None,
            grouping,
            without,
            span=Span(op.start, self.end),
        )

    def grouping_labels(self) -> tuple[str, ...]:
        """Label names in parentheses, a trailing comma allowed."""
        self.expect("(", "grouping opts", '"("')
        names: list[str] = []
        while self.token.kind != ")" or not names:
            token = self.token
            if token.kind == ")":
                break
            is_name = token.kind in (lx.IDENTIFIER, lx.METRIC_IDENTIFIER, lx.STRING)
            if not is_name and token.kind not in _LABEL_KEYWORDS:
                self.unexpected("grouping opts", "label")
            name = token.value
            if token.kind == lx.STRING and (not name or not _is_utf8(name)):
                self.fail(f"invalid label name for grouping: {lx.quote(name)}", token.start)
            self.advance()
            names.append(name)
            if self.token.kind != ",":
                break
            self.advance()
        self.expect(")", "grouping opts", '"," or ")"')
        return tuple(names)

    def binary_modifiers(self, start: int) -> tuple[bool, VectorMatching]:
        """``bool``, ``on``, ``group_left``, ``fill`` and their kin; `start` is for errors."""
        kind = self.token.kind
        returns_bool = kind == "bool"
        if returns_bool:
            self.advance()
            kind = self.token.kind
        if kind not in ("on", "ignoring", "fill", "fill_left", "fill_right"):
            return returns_bool, _PLAIN_MATCHING
        cardinality = Cardinality.ONE_TO_ONE
        labels: tuple[str, ...] = ()
        include: tuple[str, ...] = ()
        is_on = kind == "on"
        if kind == "on" or kind == "ignoring":
            self.advance()
            labels = self.grouping_labels()
            if self.token.kind in ("group_left", "group_right"):
                is_left = self.advance().kind == "group_left"
                cardinality = Cardinality.MANY_TO_ONE if is_left else Cardinality.ONE_TO_MANY
                if self.token.kind == "(":
                    include = self.grouping_labels()
        fill_left, fill_right = self.fills(start)
        matching = VectorMatching(cardinality, labels, is_on, include, fill_left, fill_right)
        return returns_bool, matching

    def fills(self, start: int) -> tuple[float | None, float | None]:
        """Values of fill modifiers, for the left and the right side."""
        if self.token.kind not in lx.FILLS:
            return None, None
        kind = self.advance().kind
        values = {kind: self.fill_value()}
        other = {"fill_left": "fill_right", "fill_right": "fill_left"}.get(kind)
        if self.token.kind == other:
            self.advance()
            values[other] = self.fill_value()
        if fn.BINOP_FILL_MODIFIERS not in self.features:
            self.fail("binop fill modifiers are experimental and not enabled", start)
        if kind == "fill":
            return values[kind], values[kind]
        return values.get("fill_left"), values.get("fill_right")

    def fill_value(self) -> float:
        """A number in parentheses."""
        self.expect("(")
        sign = self.advance().kind if self.token.kind in ("+", "-") else "+"
        if self.token.kind not in (lx.NUMBER, lx.DURATION):
            self.unexpected()
        value, _ = self.number()
        self.expect(")")
        return -value if sign == "-" else value


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
