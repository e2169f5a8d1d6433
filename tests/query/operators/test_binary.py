"""Binary operators against the reference, one step at a time, and hand cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators import support
from tests.query.operators.support import SPAN, compare, make_context, to_matrix, vectors
from tests.reference import vectors as reference
from tsengine.errors import QueryError
from tsengine.promql import ast
from tsengine.query.operators.binary import binary, unary
from tsengine.query.stepmatrix import ScalarSteps

SOME = settings(max_examples=200, deadline=None)
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
OPERATORS = (*reference.ARITHMETIC, *reference.COMPARISON)


def node(op, matching=None, returns_bool=False):
    return ast.Binary(
        span=SPAN, op=op, lhs=LEAF, rhs=LEAF, matching=matching, returns_bool=returns_bool
    )


@st.composite
def matchings(draw, cardinalities):
    labels = tuple(draw(st.lists(st.sampled_from(["a", "b", "__name__"]), unique=True)))
    cardinality = draw(st.sampled_from(cardinalities))
    include = ()
    is_on = draw(st.booleans())
    if cardinality in (ast.Cardinality.MANY_TO_ONE, ast.Cardinality.ONE_TO_MANY):
        allowed = [n for n in ("a", "b") if not (is_on and n in labels)]
        if allowed:
            include = tuple(draw(st.lists(st.sampled_from(allowed), unique=True)))
    fill = st.none() | st.integers(-2, 2).map(float)
    fills = (None, None)
    if cardinality is not ast.Cardinality.MANY_TO_MANY and draw(st.booleans()):
        fills = draw(st.tuples(fill, fill))
    return ast.VectorMatching(cardinality, labels, is_on, include, *fills)


@SOME
@given(
    st.sampled_from(OPERATORS),
    matchings([c for c in ast.Cardinality if c is not ast.Cardinality.MANY_TO_MANY]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.just(n), vectors(n, marks=True), vectors(n, names=("m", "o"), marks=True)
        )
    ),
)
def test_two_vectors(op, matching, returns_bool, delayed, case):
    n_steps, left, right = case
    returns_bool = returns_bool and op in reference.COMPARISON
    ctx = make_context(n_steps, delayed=delayed)
    compare(
        ctx,
        (left, right),
        lambda a, b: binary(ctx, node(op, matching, returns_bool), a, b),
        lambda t, a, b: reference.binary(op, a, b, matching, returns_bool, delayed),
        tolerance=1e-15,
        with_marks=delayed,
    )


@SOME
@given(
    st.sampled_from(["and", "or", "unless"]),
    matchings([ast.Cardinality.MANY_TO_MANY]),
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(st.just(n), vectors(n, marks=True), vectors(n, names=("m", "o")))
    ),
)
def test_set_operators(op, matching, case):
    n_steps, left, right = case
    ctx = make_context(n_steps, delayed=True)
    # A label set that both sides have is one series; its mark is any of the two.
    compare(
        ctx,
        (left, right),
        lambda a, b: binary(ctx, node(op, matching), a, b),
        lambda t, a, b: reference.set_operator(op, a, b, matching),
        with_marks=False,
    )


@SOME
@given(
    st.sampled_from(OPERATORS),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.just(n),
            vectors(n, marks=True),
            st.lists(support.NUMBERS, min_size=n, max_size=n),
        )
    ),
)
def test_vector_and_scalar(op, swapped, returns_bool, delayed, case):
    n_steps, rows, numbers = case
    returns_bool = returns_bool and op in reference.COMPARISON
    ctx = make_context(n_steps, delayed=delayed)
    scalar = ScalarSteps(np.array(numbers))

    def evaluate(vector):
        sides = (scalar, vector) if swapped else (vector, scalar)
        return binary(ctx, node(op, None, returns_bool), *sides)

    compare(
        ctx,
        (rows,),
        evaluate,
        lambda t, a: reference.with_scalar(op, a, numbers[t], swapped, returns_bool, delayed),
        tolerance=1e-15,
        with_marks=delayed,
    )


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_power_is_never_a_square_root(n_steps):
    ctx = make_context(n_steps)
    cells = [-np.inf, -0.0, 0.0, 4.0, -4.0]
    vector = to_matrix(ctx, rows_of(*(({"a": str(k)}, [x] * n_steps) for k, x in enumerate(cells))))
    result = binary(ctx, node("^"), vector, ScalarSteps(np.full(n_steps, 0.5)))
    np.testing.assert_array_equal(result.values[:, -1], [np.inf, 0.0, 0.0, 2.0, np.nan])
    assert not np.signbit(result.values[:3]).any()


@pytest.mark.parametrize(
    ("op", "a", "b", "want"),
    [
        ("%", 5.5, -2.0, 1.5), ("%", -5.5, 2.0, -1.5), ("%", 1.0, 0.0, np.nan),
        ("%", 1.0, np.inf, 1.0), ("^", -1.0, np.inf, 1.0), ("^", np.nan, 0.0, 1.0),
        ("^", 1.0, np.nan, 1.0), ("^", -8.0, 1 / 3, np.nan), ("/", 0.0, 0.0, np.nan),
        ("/", -1.0, 0.0, -np.inf), ("atan2", 0.0, -1.0, np.pi), ("==", np.nan, np.nan, 0.0),
        ("!=", np.nan, np.nan, 1.0), ("<", 1.0, np.nan, 0.0),
    ],
)  # fmt: skip
def test_two_scalars(op, a, b, want):
    lhs, rhs = ScalarSteps(np.array([a])), ScalarSteps(np.array([b]))
    result = binary(make_context(), node(op), lhs, rhs)
    np.testing.assert_equal(result.values[0], want)


def rows_of(*rows):
    return [(tuple(sorted(labels.items())), list(cells), False) for labels, cells in rows]


def test_error_names_the_match_group_and_both_series():
    ctx = make_context()
    one = to_matrix(ctx, rows_of(({"__name__": "x", "job": "j"}, [1.0])))
    two = to_matrix(
        ctx,
        rows_of(
            ({"__name__": "y", "job": "j", "le": 'b"'}, [1.0]),
            ({"__name__": "y", "job": "j", "le": "a"}, [2.0]),
        ),
    )
    matching = ast.VectorMatching(labels=("job",), is_on=True)
    with pytest.raises(QueryError) as failed:
        binary(ctx, node("+", matching), one, two)
    assert str(failed.value) == (
        'found duplicate series for the match group {job="j"} on the right hand-side of the '
        'operation: [{__name__="y", job="j", le="a"}, {__name__="y", job="j", le="b\\""}];'
        "many-to-many matching not allowed: matching labels must be unique on one side"
    )


def test_duplicates_that_never_meet_are_a_series_that_changed_its_labels():
    ctx = make_context(3)
    many = to_matrix(ctx, rows_of(({"__name__": "x", "pod": "p"}, [1.0, 2.0, 3.0])))
    info = to_matrix(
        ctx,
        rows_of(
            ({"__name__": "i", "pod": "p", "node": "old"}, [1.0, None, None]),
            ({"__name__": "i", "pod": "p", "node": "new"}, [None, 1.0, 1.0]),
        ),
    )
    matching = ast.VectorMatching(ast.Cardinality.MANY_TO_ONE, ("pod",), True, ("node",))
    result = binary(ctx, node("*", matching), many, info)
    assert ctx.space.materialise(result.labels) == [
        {"node": "old", "pod": "p"},
        {"node": "new", "pod": "p"},
    ]
    assert result.valid.tolist() == [[True, False, False], [False, True, True]]
    assert result.values[result.valid].tolist() == [1.0, 2.0, 3.0]


def test_no_error_at_a_step_where_one_side_is_empty():
    ctx = make_context(2)
    left = to_matrix(ctx, rows_of(({"a": "1"}, [None, 5.0])))
    right = to_matrix(
        ctx, rows_of(({"a": "1", "b": "1"}, [1.0, None]), ({"a": "1", "b": "2"}, [1.0, 7.0]))
    )
    result = binary(ctx, node("+", ast.VectorMatching(labels=("a",), is_on=True)), left, right)
    assert result.valid.tolist() == [[False, True]]
    assert result.values[0, 1] == 12.0


def test_pairs_that_a_comparison_filters_out_count_in_one_to_one_matching_only():
    ctx = make_context()
    many = to_matrix(ctx, rows_of(({"x": "1", "y": "a"}, [5.0]), ({"x": "1", "y": "b"}, [1.0])))
    one = to_matrix(ctx, rows_of(({"x": "1", "y": "c"}, [2.0])))
    rules = ast.VectorMatching(labels=("x",), is_on=True)
    for op in (">", "<", "!=", "==", "+"):
        with pytest.raises(QueryError, match="many-to-one matching must be explicit"):
            binary(ctx, node(op, rules), many, one)
    grouped = ast.VectorMatching(ast.Cardinality.MANY_TO_ONE, ("x",), True, ("y",))
    result = binary(ctx, node(">", grouped), many, one)
    assert result.values[result.present()].tolist() == [5.0]
    for op in ("!=", "+"):
        with pytest.raises(QueryError, match="grouping labels must ensure unique matches"):
            binary(ctx, node(op, grouped), many, one)


@pytest.mark.parametrize("op", ["</", ">/"])
def test_trim_of_floats_gives_nothing_and_an_info(op):
    ctx = make_context(text="a </ b")
    vector = to_matrix(ctx, rows_of(({"a": "1"}, [1.0])))
    for other in (vector, ScalarSteps(np.array([1.0]))):
        matching = ast.VectorMatching() if other is vector else None
        result = binary(ctx, node(op, matching), vector, other)
        assert result.n_series == 0
    assert ctx.annotations.infos == [
        "PromQL info: incompatible sample types encountered for binary operator "
        f'"{op}": float {op} float (1:1)'
    ]


@pytest.mark.parametrize("delayed", [False, True])
def test_minus_drops_the_name_and_plus_keeps_it(delayed):
    ctx = make_context(2, delayed=delayed)
    rows = rows_of(
        ({"__name__": "x", "a": "1"}, [1.0, None]), ({"__name__": "y", "a": "1"}, [None, 2.0])
    )
    matrix = to_matrix(ctx, rows)
    assert unary(ctx, ast.Unary(span=SPAN, op="+", expr=LEAF), matrix) is matrix
    result = unary(ctx, ast.Unary(span=SPAN, op="-", expr=LEAF), matrix)
    if delayed:
        assert result.drop_name.tolist() == [True, True]
        assert result.labels is matrix.labels
    else:
        assert ctx.space.materialise(result.labels) == [{"a": "1"}]
        assert result.values.tolist() == [[-1.0, -2.0]]
    assert matrix.values[0, 0] == 1.0  # operands are not written to
    overlapping = to_matrix(ctx, [(labels, [1.0, 1.0], False) for labels, _, _ in rows])
    if not delayed:
        with pytest.raises(QueryError, match="same labelset"):
            unary(ctx, ast.Unary(span=SPAN, op="-", expr=LEAF), overlapping)


@pytest.mark.parametrize(
    ("left", "right"), [([None, 1.0], [2.0, None]), ([1.0, None], [None, 2.0])]
)
def test_series_of_both_sides_of_or_takes_the_mark_of_its_first_sample(left, right):
    ctx = make_context(2, delayed=True)
    labels = (("__name__", "m"),)
    sides = [
        to_matrix(ctx, [(labels, cells, mark)]) for cells, mark in ((left, False), (right, True))
    ]
    matching = ast.VectorMatching(ast.Cardinality.MANY_TO_MANY)
    result = binary(ctx, node("or", matching), *sides)
    assert result.n_series == 1
    assert result.drop_name.tolist() == [left[0] is None]


def test_fills_stand_in_for_missing_partners():
    ctx = make_context(2)
    left = to_matrix(
        ctx,
        rows_of(
            ({"__name__": "l", "a": "1"}, [1.0, 1.0]), ({"__name__": "l", "a": "2"}, [2.0, None])
        ),
    )
    right = to_matrix(
        ctx, rows_of(({"__name__": "r", "a": "1"}, [10.0, None]), ({"a": "3"}, [30.0, 30.0]))
    )
    result = binary(
        ctx, node("-", ast.VectorMatching(fill_left=0.0, fill_right=100.0)), left, right
    )
    got = dict(
        zip(
            (labels["a"] for labels in ctx.space.materialise(result.labels)),
            np.where(result.present(), result.values, np.nan).tolist(),
            strict=True,
        )
    )
    np.testing.assert_equal(got, {"1": [-9.0, -99.0], "2": [-98.0, np.nan], "3": [-30.0, -30.0]})
