"""Trees of promql-parser and of ours as plain tuples that can be compared."""

import datetime

import promql_parser as oracle

from tsengine.model.matchers import Matcher, MatchOp
from tsengine.promql import ast
from tsengine.promql.functions import FUNCTIONS

# Bytes that are not UTF-8 become other characters in its tree.
MISREADS = ("\\xc5", "\\xff")


def our_shape(node):
    if isinstance(node, ast.Paren):
        return ("paren", our_shape(node.expr))
    if isinstance(node, ast.Unary):
        inner = our_shape(node.expr)
        return inner if node.op == "+" else ("minus", inner)
    if isinstance(node, ast.NumberLiteral):
        return ("number", str(node.value))
    if isinstance(node, ast.StringLiteral):
        return ("string", node.value)
    if isinstance(node, ast.VectorSelector):
        matchers = sorted(
            (m.name, m.op.name, m.value)
            for m in node.matchers
            if m != Matcher("__name__", MatchOp.EQUAL, node.name or "")
        )
        return ("selector", node.name, tuple(matchers), *_our_shift(node.shift))
    if isinstance(node, ast.MatrixSelector):
        return ("range", our_shape(node.selector), node.range_ms)
    if isinstance(node, ast.Subquery):
        inner = our_shape(node.expr)
        return ("subquery", inner, node.range_ms, node.step_ms, *_our_shift(node.shift))
    if isinstance(node, ast.Call):
        return ("call", node.name, tuple(map(our_shape, node.args)))
    if isinstance(node, ast.Aggregate):
        param = None if node.param is None else our_shape(node.param)
        clause = (node.without, tuple(sorted(node.grouping)))
        return ("aggregate", node.op, clause, param, our_shape(node.expr))
    matching = node.matching
    modifier = None
    if matching is not None:
        modifier = (
            matching.cardinality.name,
            matching.is_on,
            tuple(sorted(matching.labels)),
            tuple(sorted(matching.include)),
            str(matching.fill_left),
            str(matching.fill_right),
        )
    lhs, rhs = our_shape(node.lhs), our_shape(node.rhs)
    return ("binary", node.op, node.returns_bool, modifier, lhs, rhs)


def _our_shift(shift):
    at = shift.at_edge.name if shift.at_edge is not None else shift.at_ms
    return shift.offset_ms, at


_THEIR_OPS = {"Equal": "EQUAL", "NotEqual": "NOT_EQUAL", "Re": "REGEX", "NotRe": "NOT_REGEX"}
_THEIR_CARDS = {
    "OneToOne": "ONE_TO_ONE", "ManyToOne": "MANY_TO_ONE", "OneToMany": "ONE_TO_MANY",
    "ManyToMany": "MANY_TO_MANY",
}  # fmt: skip


def their_shape(node):
    if isinstance(node, oracle.ParenExpr):
        return ("paren", their_shape(node.expr))
    if isinstance(node, oracle.UnaryExpr):
        inner = their_shape(node.expr)
        return ("minus", inner)
    if isinstance(node, oracle.NumberLiteral):
        return ("number", str(node.val))
    if isinstance(node, oracle.StringLiteral):
        return ("string", node.val)
    if isinstance(node, oracle.VectorSelector):
        matchers = [
            (m.name, _THEIR_OPS[str(m.op).rpartition(".")[2]], m.value)
            for m in node.matchers.matchers
        ]
        name = node.name
        fixed = [m for m in matchers if m[:2] == ("__name__", "EQUAL") and m[2]]
        if name is None and len(fixed) == 1:
            name = fixed[0][2]
            matchers.remove(fixed[0])
        return ("selector", name, tuple(sorted(matchers)), *_their_shift(node))
    if isinstance(node, oracle.MatrixSelector):
        return ("range", their_shape(node.vector_selector), _ms(node.range))
    if isinstance(node, oracle.SubqueryExpr):
        step_ms = None if node.step is None else _ms(node.step)
        return ("subquery", their_shape(node.expr), _ms(node.range), step_ms, *_their_shift(node))
    if isinstance(node, oracle.Call):
        return ("call", node.func.name, tuple(map(their_shape, node.args)))
    if isinstance(node, oracle.AggregateExpr):
        param = None if node.param is None else their_shape(node.param)
        clause = (False, ())
        if node.modifier is not None:
            is_without = str(node.modifier.type).endswith("Without")
            clause = (is_without, tuple(sorted(node.modifier.labels)))
        return ("aggregate", str(node.op), clause, param, their_shape(node.expr))
    return _their_binary(node)


def _their_binary(node):
    op = str(node.op)
    lhs, rhs = their_shape(node.lhs), their_shape(node.rhs)
    returns_bool = node.modifier is not None and node.modifier.return_bool
    both_vectors = _is_vector(lhs) and _is_vector(rhs)
    if not both_vectors:
        return ("binary", op, returns_bool, None, lhs, rhs)
    is_set = op in ("and", "or", "unless")
    modifier = ("MANY_TO_MANY" if is_set else "ONE_TO_ONE", False, (), (), "None", "None")
    if node.modifier is not None:
        their = node.modifier
        cardinality = _THEIR_CARDS[str(their.card).rpartition(".")[2]]
        is_on = their.matching is not None and str(their.matching.type).endswith("Include")
        labels = () if their.matching is None else tuple(sorted(their.matching.labels))
        include = tuple(sorted(their.group_labels or ()))
        if is_set and cardinality == "ONE_TO_ONE":
            cardinality = "MANY_TO_MANY"
        fills = their.fill_values
        left, right = (None, None) if fills is None else (fills.lhs, fills.rhs)
        modifier = (cardinality, is_on, labels, include, str(left), str(right))
    return ("binary", op, returns_bool, modifier, lhs, rhs)


def _is_vector(shaped):
    kind = shaped[0]
    if kind in ("paren", "minus"):
        return _is_vector(shaped[1])
    if kind == "call":
        return FUNCTIONS[shaped[1]].returns is ast.ValueType.VECTOR
    if kind == "binary":
        return _is_vector(shaped[4]) or _is_vector(shaped[5])
    return kind in ("selector", "aggregate")


def _their_shift(node):
    offset_ms = 0 if node.offset is None else _ms(node.offset)
    if node.at is None:
        return offset_ms, None
    kind = str(node.at.type).rpartition(".")[2]
    if kind != "At":
        return offset_ms, kind.upper()
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return offset_ms, _ms(node.at.at - epoch)


def _ms(delta):
    return round(delta / datetime.timedelta(milliseconds=1))
