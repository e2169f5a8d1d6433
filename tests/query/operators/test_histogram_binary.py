"""Binary and unary operators where a side holds native histograms."""

from dataclasses import replace

import numpy as np
import pytest

from tests.promql.histogram_notation import HINTS
from tests.query.operators.natives import cells_of, hist, matrix_of, only_row, texts
from tests.query.operators.support import SPAN, make_context
from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.promql import ast
from tsengine.query.context import Limits
from tsengine.query.operators.binary import binary, unary
from tsengine.query.stepmatrix import ScalarSteps

LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
A = hist(count=3, sum=5, buckets=[1, 2])
B = hist(count=4, sum=7, z_bucket=1, z_bucket_w=0.001, buckets=[0, 1, 2])
CUSTOM = hist(schema=-53, count=3, sum=4, custom_values=[5, 10], buckets=[1, 2])
OTHER_BOUNDS = hist(schema=-53, count=2, sum=2, custom_values=[10], buckets=[2])
GAUGE = HINTS["gauge"]


def node(op, matching=None, returns_bool=False):
    return ast.Binary(
        span=SPAN, op=op, lhs=LEAF, rhs=LEAF, matching=matching, returns_bool=returns_bool
    )


def types(op, left, right):
    return (
        "PromQL info: incompatible sample types encountered for binary operator "
        f'"{op}": {left} {op} {right}'
    )


def of_two(ctx, op, left, right, *, returns_bool=False, matching=None):
    """The cells of an operator on two vectors of one series."""
    result = binary(
        ctx,
        node(op, matching or ast.VectorMatching(), returns_bool),
        matrix_of(ctx, ({"__name__": "a", "i": "1"}, left)),
        matrix_of(ctx, ({"__name__": "b", "i": "1"}, right)),
    )
    rows = cells_of(ctx, result)
    return next(iter(rows.values())) if rows else [None] * ctx.n_steps


def of_scalar(ctx, op, cells, number, *, swapped=False, returns_bool=False):
    vector = matrix_of(ctx, ({"__name__": "a", "i": "1"}, cells))
    scalar = ScalarSteps(np.full(ctx.n_steps, float(number)))
    sides = (scalar, vector) if swapped else (vector, scalar)
    rows = cells_of(ctx, binary(ctx, node(op, None, returns_bool), *sides))
    return next(iter(rows.values())) if rows else [None] * ctx.n_steps


# --- arithmetic --------------------------------------------------------------------------------


def test_sum_and_difference():
    ctx = make_context(4)
    left, right = [A, A, 1.0, None], [B, None, 2.0, A]
    both = hist(count=7, sum=12, z_bucket=1, z_bucket_w=0.001, buckets=[1, 3, 2])
    assert of_two(ctx, "+", left, right) == [both, None, 3.0, None]
    rest = hist(
        count=-1, sum=-2, z_bucket=-1, z_bucket_w=0.001, buckets=[1, 1, -2],
        counter_reset_hint="gauge",
    )  # fmt: skip
    assert of_two(ctx, "-", left, right) == [rest, None, -1.0, None]
    assert texts(ctx) == []


@pytest.mark.parametrize("op", ["*", "/", "%", "^", "atan2", ">", "<", ">=", "<=", "</", ">/"])
def test_two_histograms_have_no_other_arithmetic(op):
    ctx = make_context(2)
    assert of_two(ctx, op, [A, 2.0], [A, None]) == [None, None]
    assert texts(ctx) == [types(op, "histogram", "histogram")]


@pytest.mark.parametrize("op", ["+", "-", "/", "%", "^", "atan2", "==", "!=", ">", "</", ">/"])
def test_float_and_histogram(op):
    for returns_bool in {False, op in ("==", ">")}:
        ctx = make_context()
        assert of_two(ctx, op, [2.0], [A], returns_bool=returns_bool) == [None]
        assert of_scalar(ctx, op, [A], 2.0, swapped=True, returns_bool=returns_bool) == [None]
        assert texts(ctx) == [types(op, "float", "histogram")]


@pytest.mark.parametrize("op", ["+", "-", "%", "^", "atan2", "==", "!=", ">", "<="])
def test_histogram_and_float(op):
    for returns_bool in {False, op in ("!=", ">")}:
        ctx = make_context()
        assert of_two(ctx, op, [A], [2.0], returns_bool=returns_bool) == [None]
        assert of_scalar(ctx, op, [A], 2.0, returns_bool=returns_bool) == [None]
        assert texts(ctx) == [types(op, "histogram", "float")]


def test_factors():
    ctx = make_context(3)
    double = hist(count=6, sum=10, buckets=[2, 4])
    assert of_two(ctx, "*", [A, 2.0, A], [2.0, A, None]) == [double, double, None]
    assert of_scalar(ctx, "*", [A, 3.0, None], 2) == [double, 6.0, None]
    assert of_scalar(ctx, "*", [A, 3.0, None], 2, swapped=True) == [double, 6.0, None]
    assert of_scalar(ctx, "/", [double, 3.0, None], 2) == [A, 1.5, None]
    assert of_two(ctx, "/", [double, 3.0, None], [2.0, 2.0, 2.0]) == [A, 1.5, None]
    negative = of_scalar(ctx, "*", [A, None, None], -1)[0]
    assert negative == hist(count=-3, sum=-5, buckets=[-1, -2], counter_reset_hint="gauge")
    nothing = of_scalar(ctx, "/", [A, None, None], 0)[0]
    assert (nothing.count, nothing.sum, nothing.positive) == (np.inf, np.inf, {})
    assert of_scalar(ctx, "*", [A, None, None], 0)[0] == hist()
    assert texts(ctx) == []


def test_layouts_of_sums():
    ctx = make_context()
    assert of_two(ctx, "+", [A], [CUSTOM]) == [None]
    text = "PromQL warning: incompatible bucket layout encountered for binary operator +"
    assert texts(ctx) == [text]
    ctx = make_context()
    want = hist(schema=-53, count=1, sum=2, custom_values=[10], buckets=[1])
    assert of_two(ctx, "-", [CUSTOM], [OTHER_BOUNDS]) == [replace(want, hint=GAUGE)]
    text = "PromQL info: mismatched custom buckets were reconciled during subtraction"
    assert texts(ctx) == [text]


@pytest.mark.parametrize(("op", "word"), [("+", "addition"), ("-", "subtraction")])
def test_contradicting_hints_leave_no_result(op, word):
    ctx = make_context(2)
    reset, not_reset = (hist(count=1, counter_reset_hint=hint) for hint in ("reset", "not_reset"))
    gone, kept = of_two(ctx, op, [reset, reset], [not_reset, reset])
    assert gone is None
    assert kept.hint == (GAUGE if op == "-" else HINTS["reset"])
    text = f"PromQL warning: conflicting counter resets during histogram {word}"
    assert texts(ctx) == [text]


# --- comparisons -------------------------------------------------------------------------------


def test_equality():
    ctx = make_context(3)
    left, right = [A, A, 1.0], [replace(A, hint=GAUGE), B, 1.0]
    assert of_two(ctx, "==", left, right) == [A, None, 1.0]
    assert of_two(ctx, "!=", left, right) == [None, A, None]
    assert of_two(ctx, "==", left, right, returns_bool=True) == [1.0, 0.0, 1.0]
    assert of_two(ctx, "!=", left, right, returns_bool=True) == [0.0, 1.0, 0.0]
    assert texts(ctx) == []


def test_filters_drop_histograms_and_keep_floats():
    ctx = make_context(2)
    assert of_scalar(ctx, ">", [A, 2.0], 1) == [None, 2.0]
    assert of_scalar(ctx, "!=", [A, 2.0], 1) == [None, 2.0]
    assert texts(ctx) == [types(op, "histogram", "float") for op in (">", "!=")]


# --- trims -------------------------------------------------------------------------------------


def test_trims():
    ctx = make_context(2)
    low = hist(count=1, buckets=[1])
    (cut, gone) = of_scalar(ctx, "</", [A, 5.0], 1.0)
    assert (cut.count, cut.positive, gone) == (low.count, low.positive, None)
    (cut, _) = of_two(ctx, ">/", [A, None], [1.0, 1.0])
    assert (cut.count, cut.positive) == (2.0, {1: 2.0})
    assert texts(ctx) == [types("</", "float", "float")]


def test_trims_keep_the_name_and_need_the_histogram_on_the_left():
    ctx = make_context()
    vector = matrix_of(ctx, ({"__name__": "a"}, [A]))
    one = ScalarSteps(np.ones(1))
    kept = binary(ctx, node("</"), vector, one)
    assert ctx.space.materialise(kept.labels) == [{"__name__": "a"}]
    assert binary(ctx, node("</"), one, vector).n_series == 0
    assert texts(ctx) == [types("</", "float", "histogram")]


# --- matching ----------------------------------------------------------------------------------


def test_the_last_row_of_a_step_tells():
    ctx = make_context()
    left = matrix_of(ctx, ({"i": "1"}, [A]), ({"i": "2"}, [1.0]))
    right = matrix_of(ctx, ({"i": "1"}, [1.0]), ({"i": "2"}, [A]))
    assert cells_of(ctx, binary(ctx, node("+", ast.VectorMatching()), left, right)) == {}
    assert texts(ctx) == [types("+", "float", "histogram")]


def test_group_left_carries_histograms():
    ctx = make_context()
    rules = ast.VectorMatching(ast.Cardinality.MANY_TO_ONE, ("g",), True, ("k",))
    many = matrix_of(ctx, ({"g": "1", "i": "1"}, [A]), ({"g": "1", "i": "2"}, [2.0]))
    one = matrix_of(ctx, ({"g": "1", "k": "x"}, [3.0]))
    assert cells_of(ctx, binary(ctx, node("*", rules), many, one)) == {
        frozenset({"g": "1", "i": "1", "k": "x"}.items()): [hist(count=9, sum=15, buckets=[3, 6])],
        frozenset({"g": "1", "i": "2", "k": "x"}.items()): [6.0],
    }


@pytest.mark.parametrize("op", ["*", "+", "</"])
def test_a_join_asks_for_room_before_it_makes_histograms(op):
    ctx = make_context()
    rules = ast.VectorMatching(ast.Cardinality.ONE_TO_MANY, (), True)
    other = A if op == "+" else 1.0
    many = matrix_of(ctx, *(({"i": str(i)}, [other]) for i in range(100)))
    one = matrix_of(ctx, ({}, [hist(count=1000, buckets=[1] * 1000)]))
    ctx.limits = Limits(max_samples=10_000)
    with pytest.raises(QueryLimitExceeded):
        binary(ctx, node(op, rules), one, many)
    assert len(ctx.histograms) < 200


def test_a_pair_without_result_is_no_second_match():
    ctx = make_context()
    rules = ast.VectorMatching(ast.Cardinality.ONE_TO_ONE, ("g",), True)
    one = matrix_of(ctx, ({"g": "1"}, [1.0]))
    fine = matrix_of(ctx, ({"g": "1", "i": "1"}, [A]), ({"g": "1", "i": "2"}, [2.0]))
    assert only_row(ctx, binary(ctx, node("+", rules), fine, one)) == [3.0]
    twice = matrix_of(ctx, ({"g": "1", "i": "1"}, [1.0]), ({"g": "1", "i": "2"}, [2.0]))
    with pytest.raises(QueryError, match="many-to-one matching must be explicit"):
        binary(ctx, node("+", rules), twice, one)


def test_fills_meet_histograms():
    ctx = make_context(2)
    rules = ast.VectorMatching(fill_left=2.0, fill_right=3.0)
    want = [hist(count=9, sum=15, buckets=[3, 6]), hist(count=6, sum=10, buckets=[2, 4])]
    assert of_two(ctx, "*", [A, None], [None, A], matching=rules) == want


def test_set_operators_carry_histograms():
    ctx = make_context(3)
    rules = ast.VectorMatching(ast.Cardinality.MANY_TO_MANY)
    left = matrix_of(ctx, ({"__name__": "a", "i": "1"}, [A, None, 1.0]))
    right = matrix_of(ctx, ({"__name__": "a", "i": "1"}, [1.0, B, None]))
    for op, want in (("and", [A, None, None]), ("or", [A, B, 1.0]), ("unless", [None, None, 1.0])):
        assert only_row(ctx, binary(ctx, node(op, rules), left, right)) == want


# --- signs -------------------------------------------------------------------------------------


def test_signs():
    ctx = make_context(3)
    vector = matrix_of(ctx, ({"__name__": "a"}, [A, 2.0, None]))
    minus = unary(ctx, ast.Unary(span=SPAN, op="-", expr=LEAF), vector)
    negative = hist(count=-3, sum=-5, buckets=[-1, -2], counter_reset_hint="gauge")
    assert cells_of(ctx, minus) == {frozenset(): [negative, -2.0, None]}
    assert unary(ctx, ast.Unary(span=SPAN, op="+", expr=LEAF), vector) is vector
