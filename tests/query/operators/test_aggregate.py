"""Aggregations against the reference, one step at a time, and hand cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators.support import (
    NUMBERS,
    SPAN,
    at_step,
    compare,
    make_context,
    read_step,
    to_matrix,
    vectors,
)
from tests.reference import aggregate as cells
from tests.reference import vectors as reference
from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.promql import ast
from tsengine.query.context import Limits
from tsengine.query.operators import gotext
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.operators.ratio import label_hashes
from tsengine.query.stepmatrix import ScalarSteps

SOME = settings(max_examples=150, deadline=None)
PATIENT = settings(deadline=None)
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
groupings = st.lists(st.sampled_from(["a", "b", "__name__", "nope"]), unique=True).map(tuple)


def node(op, grouping=(), without=False):
    return ast.Aggregate(
        span=SPAN, op=op, expr=LEAF, param=LEAF, grouping=grouping, without=without
    )


def sized(**kwargs):
    return st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), vectors(n, **kwargs)))


def scalar(*numbers):
    return ScalarSteps(np.array(numbers, np.float64))


@SOME
@given(
    st.sampled_from(["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]),
    groupings,
    st.booleans(),
    sized(),
)
def test_folds(op, grouping, without, case):
    n_steps, rows = case
    ctx = make_context(n_steps)
    compare(
        ctx,
        (rows,),
        lambda m: aggregate(ctx, node(op, grouping, without), m, None),
        lambda t, v: reference.aggregate(op, v, grouping, without),
        tolerance=1e-6 if op == "stddev" else 1e-9,
    )


@SOME
@given(groupings, st.booleans(), sized(), st.data())
def test_quantile(grouping, without, case, data):
    n_steps, rows = case
    q = [data.draw(st.floats(0, 1) | st.sampled_from([-1.0, 2.0, np.nan])) for _ in range(n_steps)]
    ctx = make_context(n_steps)
    compare(
        ctx,
        (rows,),
        lambda m: aggregate(ctx, node("quantile", grouping, without), m, scalar(*q)),
        lambda t, v: reference.aggregate("quantile", v, grouping, without, q[t]),
        tolerance=1e-12,
    )


@SOME
@given(groupings, st.booleans(), sized(), st.sampled_from(["v", "a", "b", "__name__"]))
def test_count_values(grouping, without, case, label):
    n_steps, rows = case
    ctx = make_context(n_steps)
    compare(
        ctx,
        (rows,),
        lambda m: aggregate(ctx, node("count_values", grouping, without), m, label),
        lambda t, v: reference.count_values(v, grouping, without, label, gotext.positional),
    )


@SOME
@given(st.sampled_from(["topk", "bottomk", "limitk"]), groupings, st.booleans(), sized(marks=True),
       st.data())  # fmt: skip
def test_choice_of_k(op, grouping, without, case, data):
    n_steps, rows = case
    k = [data.draw(st.integers(-1, 5)) + 0.5 for _ in range(n_steps)]
    ctx = make_context(n_steps)
    result = aggregate(ctx, node(op, grouping, without), to_matrix(ctx, rows), scalar(*k))
    for t in range(n_steps):
        groups = {}
        for element in at_step(rows, t):
            key = reference.group_key(element, grouping, without)
            groups.setdefault(key, []).append(element)
        want = []
        for members in groups.values():
            if op != "limitk":
                sign = -1 if op == "topk" else 1
                members.sort(key=lambda e: (math.isnan(e.value), sign * e.value))
            want += members[: max(0, int(k[t]))]
        got = read_step(ctx, result, t)
        if n_steps == 1 and op != "limitk":
            assert [e.labels for e in got] == [e.labels for e in want]
        assert {(e.labels, e.drop) for e in got} == {(e.labels, e.drop) for e in want}


@SOME
@given(sized(max_rows=8), st.floats(-1.2, 1.2))
def test_limit_ratio_and_its_complement(case, ratio):
    n_steps, rows = case
    ctx = make_context(n_steps)
    matrix = to_matrix(ctx, rows)
    other = ratio - 1 if ratio >= 0 else ratio + 1
    one, two = (
        aggregate(ctx, node("limit_ratio"), matrix, scalar(*[r] * n_steps)) for r in (ratio, other)
    )
    for t in range(n_steps):
        mine, rest = ({e.labels for e in read_step(ctx, m, t)} for m in (one, two))
        everything = {e.labels for e in at_step(rows, t)}
        if -1 <= ratio <= 1:
            assert mine | rest == everything
            if abs(ratio) not in (0, 1):
                assert not mine & rest
        else:
            assert mine == everything


def test_hash_of_labels_is_prometheus_s():
    """Sizes and texts of names and values, in order, through XXH64."""
    ctx = make_context()
    long = "x" * 300
    rows = ctx.space.from_dicts([{"__name__": "up", "job": "a"}, {}, {"l": long}])
    encoded = [
        b"\x08__name__\x02up\x03job\x01a",
        b"",
        b"\x01l\xff\x2c\x01\x00" + long.encode(),
    ]
    assert label_hashes(ctx.space, rows).tolist() == [cells.hash_label_rows(e) for e in encoded]


@pytest.mark.parametrize(
    ("op", "k", "text"),
    [
        ("topk", np.nan, "Parameter value is NaN"),
        ("limitk", np.nan, "Parameter value is NaN"),
        ("limit_ratio", np.nan, "Ratio value is NaN"),
        ("bottomk", 1e19, "Scalar value 1e+19 overflows int64"),
    ],
)
def test_refused_parameters(op, k, text):
    ctx = make_context()
    with pytest.raises(QueryError, match="^" + text.replace("+", r"\+") + "$"):
        aggregate(ctx, node(op), to_matrix(ctx, []), scalar(k))


def test_underflow_is_refused_only_if_some_step_asks_for_something():
    ctx = make_context(2)
    with pytest.raises(QueryError, match=r"^Scalar value -1e\+30 underflows int64$"):
        aggregate(ctx, node("topk"), to_matrix(ctx, []), scalar(1, -1e30))
    assert aggregate(ctx, node("topk"), to_matrix(ctx, []), scalar(0, -1e30)).n_series == 0


def test_count_values_refuses_a_label_that_is_no_utf8():
    ctx = make_context()
    with pytest.raises(QueryError, match=r'^invalid label name "a\\xc5z"$'):
        aggregate(ctx, node("count_values"), to_matrix(ctx, []), "a\udcc5z")


@pytest.mark.parametrize(
    ("op", "numbers", "texts"),
    [
        ("quantile", (0.5, 1.0), []),
        ("quantile", (np.nan, 0.5), ["quantile value should be between 0 and 1, got NaN"]),
        (
            "quantile",
            (1.5, -0.25),
            [f"quantile value should be between 0 and 1, got {q}" for q in ("1.5", "-0.25")],
        ),
        (
            "limit_ratio",
            (1.1, 0),
            ["ratio value should be between -1 and 1, got 1.1, capping to 1"],
        ),
        (
            "limit_ratio",
            (-3, 1),
            ["ratio value should be between -1 and 1, got -3, capping to -1"],
        ),
    ],
)
def test_warnings_about_parameters(op, numbers, texts):
    ctx = make_context(2)
    aggregate(ctx, node(op), to_matrix(ctx, []), scalar(*numbers))
    assert ctx.annotations.warnings == [f"PromQL warning: {text} (1:1)" for text in texts]


def test_a_group_takes_the_mark_of_any_member():
    ctx = make_context(delayed=True)
    rows = [
        ((("__name__", "m"), ("a", "1")), [1.0], True),
        ((("__name__", "m"), ("a", "2")), [2.0], False),
        ((("__name__", "n"), ("a", "2")), [3.0], False),
    ]
    result = aggregate(ctx, node("sum", ("__name__",)), to_matrix(ctx, rows), None)
    assert result.values[:, 0].tolist() == [3.0, 3.0]
    assert result.drop_name.tolist() == [True, False]


def test_numbers_as_go_writes_them():
    texts = {1e21: "1e+21", 1e6: "1e+06", 123456.5: "123456.5", 1e-4: "0.0001", 1e-5: "1e-05",
             np.nan: "NaN", -np.inf: "-Inf", -0.0: "-0"}  # fmt: skip
    assert {v: gotext.general(v) for v in texts} == texts
    assert gotext.positional(1e21) == "1" + "0" * 21
    assert gotext.open_metrics(3.0) == "3.0"
    assert gotext.open_metrics(1e6) == "1e+06"
    assert gotext.open_metrics(np.inf) == "+Inf"
    parsed = ["1e3", ".5", "5.", "+Inf", "-infinity", "0x1p-2", "1_0", " 1", "", "1e999", "NaN"]
    assert [gotext.parse_float(t) for t in parsed] == [
        1000.0, 0.5, 5.0, math.inf, -math.inf, 0.25, None, None, None, None, None,
    ]  # fmt: skip


@PATIENT
@given(NUMBERS)
def test_positional_text_reads_back(value):
    np.testing.assert_equal(float(gotext.positional(value)), value)


def test_a_group_ignores_the_marks_of_rows_that_are_never_present():
    ctx = make_context(delayed=True)
    rows = [
        ((("__name__", "m"), ("a", "1")), [None], True),
        ((("__name__", "m"), ("a", "2")), [2.0], False),
    ]
    result = aggregate(ctx, node("sum", ("__name__",)), to_matrix(ctx, rows), None)
    assert result.drop_name.tolist() == [False]


def test_count_values_asks_for_room_before_it_takes_it():
    ctx = make_context(100)
    ctx.limits = Limits(max_samples=5000)
    cells = np.arange(100.0).tolist()
    matrix = to_matrix(ctx, [((("a", "1"),), cells, False)])
    with pytest.raises(QueryLimitExceeded):
        aggregate(ctx, node("count_values"), matrix, "v")
    ctx.limits = Limits(max_samples=10_000)
    assert aggregate(ctx, node("count_values"), matrix, "v").n_series == 100
