"""The rules of PromQL that the grammar can't express, checked on a finished tree."""

from __future__ import annotations

from typing import Final, NoReturn

from tsengine.errors import ParseError
from tsengine.model.matchers import METRIC_NAME
from tsengine.promql.ast import (
    Aggregate,
    Binary,
    Call,
    Cardinality,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    ValueType,
    VectorMatching,
    VectorSelector,
)
from tsengine.promql.functions import FUNCTIONS
from tsengine.promql.lexer import line_column, quote
from tsengine.promql.literals import matches_empty

COMPARISONS: Final = frozenset(("==", "!=", "<=", "<", ">=", ">"))
SET_OPERATORS: Final = frozenset(("and", "or", "unless"))

_SCALAR = ValueType.SCALAR
_VECTOR = ValueType.VECTOR
_MATRIX = ValueType.MATRIX
_STRING = ValueType.STRING


def check(expr: Expr, text: str) -> ValueType:
    """Type of an expression.

    Raises ParseError at the place in `text`, the query `expr` was made from, that breaks a rule.
    """
    if isinstance(expr, VectorSelector):
        _check_selector(expr, text)
        return _VECTOR
    if isinstance(expr, NumberLiteral):
        return _SCALAR
    if isinstance(expr, MatrixSelector):
        _check_selector(expr.selector, text)
        return _MATRIX
    if isinstance(expr, Call):
        return _check_call(expr, text)
    if isinstance(expr, Binary):
        lhs_type = check(expr.lhs, text)
        rhs_type = check(expr.rhs, text)
        return _check_binary(expr, lhs_type, rhs_type, text)
    if isinstance(expr, Aggregate):
        _expect(expr.expr, check(expr.expr, text), _VECTOR, "aggregation expression", text)
        if expr.param is not None:
            wanted = _STRING if expr.op == "count_values" else _SCALAR
            _expect(expr.param, check(expr.param, text), wanted, "aggregation parameter", text)
        return _VECTOR
    if isinstance(expr, Paren):
        return check(expr.expr, text)
    if isinstance(expr, Unary):
        found = check(expr.expr, text)
        if found is not _SCALAR and found is not _VECTOR:
            _fail(
                "unary expression only allowed on expressions of type scalar or instant vector,"
                f" got {quote(found.value)}",
                expr.span.start,
                text,
            )
        return found
    if isinstance(expr, Subquery):
        found = check(expr.expr, text)
        if found is not _VECTOR:
            _fail(
                f"subquery is only allowed on instant vector, got {_SHORT_NAMES[found]} instead",
                expr.span.start,
                text,
            )
        return _MATRIX
    assert isinstance(expr, StringLiteral), "every node class is handled"
    return _STRING


def has_vector_matching(matching: VectorMatching) -> bool:
    """Whether modifiers were given that need vectors on both sides."""
    return bool(matching.labels) or _has_fill(matching)


_SHORT_NAMES: Final = {
    _SCALAR: "scalar",
    _VECTOR: "vector",
    _MATRIX: "matrix",
    _STRING: "string",
}


def _fail(message: str, offset: int, text: str) -> NoReturn:
    line, column = line_column(text, offset)
    raise ParseError(message, line=line, column=column)


def _expect(expr: Expr, found: ValueType, wanted: ValueType, context: str, text: str) -> None:
    if found is not wanted:
        message = f"expected type {wanted.value} in {context}, got {found.value}"
        _fail(message, expr.span.start, text)


def _has_fill(matching: VectorMatching) -> bool:
    return matching.fill_left is not None or matching.fill_right is not None


def _check_selector(selector: VectorSelector, text: str) -> None:
    if selector.name is not None:
        if selector.name_in_braces:
            return
        others = [matcher.value for matcher in selector.matchers if matcher.name == METRIC_NAME]
        others.remove(selector.name)
        if others:
            names = f"{quote(selector.name)} or {quote(others[0])}"
            message = f"metric name must not be set twice: {names}"
            _fail(message, selector.span.start, text)
    elif all(map(matches_empty, selector.matchers)):
        message = "vector selector must contain at least one non-empty matcher"
        _fail(message, selector.span.start, text)


def _check_binary(expr: Binary, lhs_type: ValueType, rhs_type: ValueType, text: str) -> ValueType:
    """Type of a binary operation, whose operands were checked."""
    op = expr.op
    is_set = op in SET_OPERATORS
    start = expr.span.start
    if expr.returns_bool and op not in COMPARISONS:
        message = "bool modifier can only be used on comparison operators"
        _fail(message, _operator_start(expr, text), text)
    both_scalars = lhs_type is _SCALAR and rhs_type is _SCALAR
    if both_scalars and op in COMPARISONS and not expr.returns_bool:
        message = "comparisons between scalars must use BOOL modifier"
        _fail(message, _operator_start(expr, text), text)
    matching = expr.matching
    if matching is not None and matching.is_on:
        for label in matching.labels:
            if label in matching.include:
                message = f"label {quote(label)} must not occur in ON and GROUP clause at once"
                _fail(message, _operator_start(expr, text), text)
    for side, found in ((expr.lhs, lhs_type), (expr.rhs, rhs_type)):
        if found is not _SCALAR and found is not _VECTOR:
            message = "binary expression must contain only scalar and instant vector types"
            _fail(message, side.span.start, text)
    if lhs_type is not _VECTOR or rhs_type is not _VECTOR:
        if matching is not None and matching.labels:
            _fail("vector matching only allowed between instant vectors", start, text)
        if matching is not None and _has_fill(matching):
            message = "filling in missing series only allowed between instant vectors"
            _fail(message, start, text)
        if is_set:
            shown = quote(op)
            message = f"set operator {shown} not allowed in binary scalar expression"
            _fail(message, start, text)
        return _SCALAR if both_scalars else _VECTOR
    assert matching is not None, "the parser sets it between vectors"
    if is_set and matching.cardinality is not Cardinality.MANY_TO_MANY:
        _fail(f"no grouping allowed for {quote(op)} operation", start, text)
    if is_set and _has_fill(matching):
        _fail("filling in missing series not allowed for set operators", start, text)
    return _VECTOR


def _operator_start(expr: Binary, text: str) -> int:
    """Byte offset of a binary operator: what follows the left operand, past spaces."""
    source = text.encode("utf-8", "surrogateescape")
    pos = expr.lhs.span.end
    while source[pos : pos + 1].isspace():
        pos += 1
    return pos


def _check_call(expr: Call, text: str) -> ValueType:
    signature = FUNCTIONS[expr.name]
    n_args = len(expr.args)
    n_min, n_max = signature.n_args_min, signature.n_args_max
    if n_args < n_min or (n_max is not None and n_args > n_max):
        if n_min == n_max:
            wanted = f"{n_min}"
        elif n_args < n_min:
            wanted = f"at least {n_min}"
        else:
            wanted = f"at most {n_max}"
        message = f"expected {wanted} argument(s) in call to {quote(expr.name)}, got {n_args}"
        _fail(message, expr.span.start, text)
    context = f'call to function "{expr.name}"'
    last = len(signature.args) - 1
    for idx, arg in enumerate(expr.args):
        if expr.name == "info" and idx == 1:
            _check_info_selector(arg, text)
            continue
        _expect(arg, check(arg, text), signature.args[min(idx, last)], context, text)
    return signature.returns


def _check_info_selector(arg: Expr, text: str) -> None:
    """The second argument of info() chooses labels: braces only, and they may match nothing."""
    if not isinstance(arg, VectorSelector):
        found = check(arg, text)
        _expect(arg, found, _VECTOR, 'call to function "info"', text)
        _fail("expected label selectors only", arg.span.start, text)
    if arg.name is not None and not arg.name_in_braces:
        message = "expected label selectors only, got vector selector instead"
        _fail(message, arg.span.start, text)
