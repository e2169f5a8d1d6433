"""The syntax tree of PromQL: frozen values, each with its place in the text.

Nothing here looks at data. `parser.parse` makes trees, `typecheck` checks them,
`printer` writes them out, `tsengine.query` turns them into plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from tsengine.model.matchers import Matcher


class ValueType(Enum):
    """What an expression evaluates to; the values are Prometheus's words in error texts."""

    SCALAR = "scalar"
    VECTOR = "instant vector"
    MATRIX = "range vector"
    STRING = "string"


class Edge(Enum):
    """`@ start()` and `@ end()`."""

    START = "start"
    END = "end"


class Cardinality(Enum):
    """How the two sides of a binary operation between vectors pair up."""

    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "many-to-one"  # group_left
    ONE_TO_MANY = "one-to-many"  # group_right
    MANY_TO_MANY = "many-to-many"  # and, or, unless


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of byte offsets into the UTF-8 query text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expr:
    """Base of all nodes."""

    span: Span


@dataclass(frozen=True, slots=True)
class NumberLiteral(Expr):
    """A number; `is_duration` if it was written as one (``5m``), which the printer keeps."""

    value: float
    is_duration: bool = False


@dataclass(frozen=True, slots=True)
class StringLiteral(Expr):
    r"""A string. Bytes that are not UTF-8 (``"\xff"``) are kept as surrogate escapes."""

    value: str


# --- duration expressions: what may stand in brackets and after offset -----------------------


@dataclass(frozen=True, slots=True)
class DurationNumber(Expr):
    """Seconds."""

    value: float
    is_duration: bool = False


@dataclass(frozen=True, slots=True)
class DurationCall(Expr):
    """``step()``, ``range()``, ``min_of(a, b)``, ``max_of(a, b)``."""

    name: str
    args: tuple[DurationExpr, ...] = ()


@dataclass(frozen=True, slots=True)
class DurationUnary(Expr):
    """Sign in front of a duration expression."""

    op: str
    operand: DurationExpr


@dataclass(frozen=True, slots=True)
class DurationBinary(Expr):
    """``+ - * / % ^`` between duration expressions."""

    op: str
    lhs: DurationExpr
    rhs: DurationExpr


@dataclass(frozen=True, slots=True)
class DurationParen(Expr):
    """Parentheses, kept for the printer."""

    inner: DurationExpr


DurationExpr = DurationNumber | DurationCall | DurationUnary | DurationBinary | DurationParen


@dataclass(frozen=True, slots=True)
class TimeShift:
    """`offset` and `@` of a selector or subquery.

    Parameters
    ----------
    offset_ms
        What T moves back by; 0 without `offset` and until `offset_expr` is resolved.
    offset_expr
        Set while the offset is an unresolved duration expression.
    at_ms, at_edge
        At most one is set.

    """

    offset_ms: int = 0
    offset_expr: DurationExpr | None = None
    at_ms: int | None = None
    at_edge: Edge | None = None


# --- expressions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VectorSelector(Expr):
    """An instant selector.

    `matchers` holds all matchers sorted by (label, operator, value), the name as one on
    ``__name__``; `name` is the name if one equality fixes it, however it was written
    (`name_in_braces`: not before the braces), or None.
    """

    name: str | None
    matchers: tuple[Matcher, ...]
    shift: TimeShift = TimeShift()
    anchored: bool = False
    smoothed: bool = False
    name_in_braces: bool = False


@dataclass(frozen=True, slots=True)
class MatrixSelector(Expr):
    """A range selector. `range_ms` is 0 while `range_expr` is unresolved."""

    selector: VectorSelector
    range_ms: int
    range_expr: DurationExpr | None = None


@dataclass(frozen=True, slots=True)
class Subquery(Expr):
    """``expr[range:step]``; `step_ms` is None for the engine's default step.

    `range_ms` and `step_ms` are 0 while their expressions are unresolved.
    """

    expr: Expr
    range_ms: int
    step_ms: int | None
    range_expr: DurationExpr | None = None
    step_expr: DurationExpr | None = None
    shift: TimeShift = TimeShift()


@dataclass(frozen=True, slots=True)
class Call(Expr):
    """A function call; `name` is a key of `functions.FUNCTIONS`."""

    name: str
    args: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Aggregate(Expr):
    """An aggregation; `op` in lower case; `param` for topk, quantile, count_values and so on."""

    op: str
    expr: Expr
    param: Expr | None = None
    grouping: tuple[str, ...] = ()
    without: bool = False


@dataclass(frozen=True, slots=True)
class VectorMatching:
    """``on``/``ignoring`` (`labels`, `is_on`), ``group_x`` (`cardinality`, `include`), fills."""

    cardinality: Cardinality = Cardinality.ONE_TO_ONE
    labels: tuple[str, ...] = ()
    is_on: bool = False
    include: tuple[str, ...] = ()
    fill_left: float | None = None
    fill_right: float | None = None


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """A binary operation; `matching` is None unless both sides are vectors."""

    op: str
    lhs: Expr
    rhs: Expr
    matching: VectorMatching | None = None
    returns_bool: bool = False


@dataclass(frozen=True, slots=True)
class Unary(Expr):
    """``+`` or ``-`` in front of an expression."""

    op: str
    expr: Expr


@dataclass(frozen=True, slots=True)
class Paren(Expr):
    """Parentheses, kept for positions and the printer."""

    expr: Expr


def walk(expr: Expr) -> Iterator[Expr]:
    """All nodes of a tree in no particular order, duration expressions left out; not recursive."""
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        yield node
        match node:
            case Call(args=args):
                waiting.extend(args)
            case Binary(lhs=lhs, rhs=rhs):
                waiting += [lhs, rhs]
            case Aggregate(expr=inner, param=param):
                waiting.append(inner)
                if param is not None:
                    waiting.append(param)
            case MatrixSelector(selector=selector):
                waiting.append(selector)
            case Subquery(expr=inner) | Unary(expr=inner) | Paren(expr=inner):
                waiting.append(inner)
