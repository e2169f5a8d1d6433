"""Trees back to text on several lines, in the layout of Prometheus's ``format_query``.

What fits 100 bytes on one line stays there, however deep it stands. Anything longer is split:
operands, arguments and what stands in parentheses go to lines of their own, two spaces deeper.
"""

from __future__ import annotations

from typing import Final

from tsengine.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
)
from tsengine.promql.printer import aggregate_head, operator_text, subquery_suffix, to_text

LINE_SIZE_MAX: Final = 100
_INDENT: Final = "  "


def pretty(expr: Expr) -> str:
    """Write an expression in lines; the parser reads it back."""
    return _Layout(expr).lines(expr, 0)


class _Layout:
    """Knows which nodes of one tree are too long for a line.

    A node contains the texts of its children, so one with a long child is long: only nodes whose
    children are short are written to be measured, which keeps the whole linear in the text.
    """

    def __init__(self, root: Expr) -> None:
        self._short: dict[int, str] = {}
        """Texts of the nodes that fit one line, by identity; the tree outlives this object."""
        self._measure(root)

    def _measure(self, expr: Expr) -> None:
        children = _children(expr)
        for child in children:
            self._measure(child)
        if all(id(child) in self._short for child in children):
            text = to_text(expr)
            if len(text.encode("utf-8", "surrogateescape")) <= LINE_SIZE_MAX:
                self._short[id(expr)] = text

    def lines(self, expr: Expr, level: int) -> str:
        """The text of a node whose first line is indented by `level` steps."""
        indent = _INDENT * level
        text = self._short.get(id(expr))
        if isinstance(expr, Subquery):
            # Prometheus does not indent a short subquery.
            return text or self.lines(expr.expr, level) + subquery_suffix(expr)
        if isinstance(expr, Unary):
            return f"{indent}{expr.op}{self.lines(expr.expr, level).strip()}"
        if text is not None:
            return indent + text
        if isinstance(expr, Binary):
            lhs = self.lines(expr.lhs, level + 1)
            if expr.op == "^" and lhs.strip() == "+Inf":
                lhs = lhs.replace("+", "")  # a sign would bind the whole power
            return f"{lhs}\n{indent}{operator_text(expr)}\n{self.lines(expr.rhs, level + 1)}"
        if isinstance(expr, Paren):
            return f"{indent}(\n{self.lines(expr.expr, level + 1)}\n{indent})"
        if isinstance(expr, Call):
            args = ",\n".join(self.lines(arg, level + 1) for arg in expr.args)
            return f"{indent}{expr.name}(\n{args}\n{indent})"
        if isinstance(expr, Aggregate):
            args = ",\n".join(self.lines(arg, level + 1) for arg in _children(expr))
            return f"{indent}{aggregate_head(expr)}(\n{args}\n{indent})"
        assert isinstance(expr, (VectorSelector, MatrixSelector, StringLiteral, NumberLiteral))
        return indent + to_text(expr)


def _children(expr: Expr) -> tuple[Expr, ...]:
    """The nodes that may stand on lines of their own, in the order of the text."""
    match expr:
        case Binary(lhs=lhs, rhs=rhs):
            return (lhs, rhs)
        case Call(args=args):
            return args
        case Aggregate(expr=inner, param=param):
            return (inner,) if param is None else (param, inner)
        case Paren(expr=inner) | Unary(expr=inner) | Subquery(expr=inner):
            return (inner,)
    return ()
