"""PromQL text to a checked tree, by precedence climbing.

Errors have Prometheus's wording and the position it gives. Expressions can be nested only so far
(`DEPTH_MAX`): this bounds the recursion here and in every later pass over the tree, where a chain
``a + a + a`` is as deep as it has operands.

Thread rules: every function may be called from any thread.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NoReturn

from tsengine.errors import ParseError
from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp
from tsengine.promql import functions as fn
from tsengine.promql import lexer as lx
from tsengine.promql import typecheck
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
    Edge,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    Span,
    StringLiteral,
    Subquery,
    TimeShift,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
)
from tsengine.promql.literals import (
    check_regex,
    duration_seconds,
    number_value,
    seconds_to_ms,
)

DEPTH_MAX: Final = 250
TEXT_SIZE_MAX: Final = 1024 * 1024

_PRECEDENCE: Final = {
    "or": 1,
    "and": 2, "unless": 2,
    "==": 3, "!=": 3, "<=": 3, "<": 3, ">=": 3, ">": 3, "</": 3, ">/": 3,
    "+": 4, "-": 4,
    "*": 5, "/": 5, "%": 5, "atan2": 5,
    "^": 6,
}  # fmt: skip
_POWER: Final = 6
_MATCH_OPS: Final = {op.value: op for op in MatchOp}
# Keywords that can't name a metric; all others can where an operand is expected.
_NOT_METRICS: Final = frozenset(("atan2", "bool", "group_left", "group_right", "ignoring", "on"))
_LABEL_KEYWORDS: Final = lx.KEYWORDS - {"without"}
_POSTFIX: Final = frozenset(("[", "offset", "@", "anchored", "smoothed"))
_DURATION_EXPECTED: Final = "number, duration, step(), or range()"


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
    parser = _start(text, features, max_depth)
    try:
        expr = parser.whole_expression()
        typecheck.check(expr, text)
    except RecursionError:
        raise parser.too_deep() from None
    return expr


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
    if len(text) > TEXT_SIZE_MAX:
        raise ParseError(f"query is longer than {TEXT_SIZE_MAX} bytes")
    try:
        return _Parser(text, features, max_depth)
    except UnicodeEncodeError as error:
        line, column = 1, error.start + 1
        raise ParseError("invalid UTF-8 rune", line=line, column=column) from None


class _Parser:
    """State of one parse.

    `token` is the next one. Beside the expression it returns, a method that parses one leaves
    its type in `type` and the depth of its tree in `height`.
    """

    __slots__ = (
        "depth", "end", "features", "height", "lexer", "max_depth", "open_aggregates", "text",
        "token", "type",
    )  # fmt: skip

    def __init__(self, text: str, features: frozenset[str], max_depth: int) -> None:
        self.text = text
        self.features = features
        self.max_depth = max_depth
        self.lexer = lx.Lexer(text)
        self.depth = 0  # of the recursion
        self.height = 0
        self.type = ValueType.SCALAR
        self.open_aggregates = 0
        self.end = 0  # of the token before
        self.token = self.lexer.next()

    # --- tokens and errors ---------------------------------------------------------------------

    def advance(self) -> lx.Token:
        """Step over the next token and return it."""
        token = self.token
        self.end = token.end
        self.token = self.lexer.next()
        return token

    def fail(self, message: str, offset: int) -> NoReturn:
        """Raise a ParseError at a byte offset."""
        line, column = lx.line_column(self.text, offset)
        raise ParseError(message, line=line, column=column)

    def unexpected(self, context: str = "", expected: str = "") -> NoReturn:
        """Raise the error for a next token that fits nowhere."""
        token = self.token
        if token.kind == lx.ERROR:
            self.fail(token.value, token.start)
        if not context and self.open_aggregates:
            context = "aggregation"
        message = f"unexpected {self.lexer.describe(token)}"
        message += f" in {context}" if context else ""
        message += f", expected {expected}" if expected else ""
        self.fail(message, token.start)

    def too_deep(self) -> ParseError:
        """Error for nesting beyond the limit, at the next token."""
        line, column = lx.line_column(self.text, self.token.start)
        message = f"expression is nested too deeply, the limit is {self.max_depth} levels"
        return ParseError(message, line=line, column=column)

    def expect(self, kind: str, context: str = "", expected: str = "") -> lx.Token:
        """Step over a token that has to be of this kind."""
        if self.token.kind != kind:
            self.unexpected(context, expected)
        return self.advance()

    def grow(self, height: int) -> None:
        """Note the height of a node just built."""
        if height > self.max_depth:
            raise self.too_deep()
        self.height = height

    def descend(self) -> None:
        """Enter one more level of nesting."""
        self.depth += 1
        if self.depth > self.max_depth:
            raise self.too_deep()

    # --- expressions ---------------------------------------------------------------------------

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
            precedence = _PRECEDENCE.get(op, 0)
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
        while self.token.kind in _POSTFIX:
            expr = self.postfix(expr)
        return expr

    def leaf(self, value_type: ValueType) -> None:
        """Note type and height of a node without children."""
        self.type = value_type
        self.height = 1

    def signed(self) -> Expr:
        """Signs and their operand; a sign directly before a number belongs to the number."""
        signs = []
        while self.token.kind == "+" or self.token.kind == "-":
            signs.append(self.advance())
            if len(signs) > self.max_depth:
                raise self.too_deep()
        self.descend()
        expr = self.expression(_POWER)
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

    def at_metric_name(self) -> bool:
        """Whether the next token can be a metric name."""
        kind = self.token.kind
        return (
            kind == lx.IDENTIFIER
            or kind == lx.METRIC_IDENTIFIER
            or (kind in lx.KEYWORDS and kind not in _NOT_METRICS)
        )

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

    # --- modifiers of binary operators ---------------------------------------------------------

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

    # --- selectors -----------------------------------------------------------------------------

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
            offset_ms, offset_expr = self.offset_value()
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
        context = ("subquery or range selector", _DURATION_EXPECTED)
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

    # --- numbers and durations -----------------------------------------------------------------

    def number(self) -> tuple[float, bool]:
        """Value of the number or duration that is next, and whether it is a duration."""
        token = self.token
        is_duration = token.kind == lx.DURATION
        try:
            value = duration_seconds(token.value) if is_duration else number_value(token.value)
        except ValueError as error:
            self.fail(str(error), token.start)
        self.advance()
        return value, is_duration

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
        context = ("offset", _DURATION_EXPECTED)
        starts_with_paren = self.token.kind == "("
        expr = self.duration(0 if starts_with_paren else _POWER + 1, context)
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
            precedence = _PRECEDENCE.get(op.kind, 0)
            # Comparisons and set operators don't exist between durations.
            if precedence < 4 or precedence < precedence_min or op.kind == "atan2":
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
            expr = self.duration(max(precedence_min, _POWER), context)
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


_PLAIN_MATCHING: Final = VectorMatching()


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


def _fits_duration(seconds: float) -> bool:
    """Whether it fits 64-bit nanoseconds."""
    return -(2**63) / 1e9 <= seconds <= 2**63 / 1e9


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _go_float(value: float) -> str:
    """Text of a float as Go's %f writes it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value:f}"
