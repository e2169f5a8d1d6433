"""Functions of instant vectors that hold native histograms."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.query.operators.natives import cells_of, hist, matrix_of, only_row, texts
from tests.query.operators.support import SPAN, make_context
from tsengine.promql import ast
from tsengine.query.operators.functions import call_function
from tsengine.query.operators.histogram_text import texts_of
from tsengine.query.operators.scalars import repeat
from tsengine.query.stepmatrix import ScalarSteps, StringValue

LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
A = hist(count=4, sum=6, buckets=[1, 2, 1])
CUSTOM = hist(schema=-53, count=4, sum=20, custom_values=[5, 10], buckets=[1, 3])
WITH_NAN = hist(count=5, sum=math.nan, buckets=[1, 2, 1])
# Of A, whose buckets stand for the geometric means of their bounds.
VARIANCE = sum(n * (2.0**x - 1.5) ** 2 for n, x in ((1, -0.5), (2, 0.5), (1, 1.5))) / 4
CONFLICT = "PromQL warning: vector contains a mix of classic and native histograms"


def call(ctx, name, *args):
    values = [
        StringValue(arg) if isinstance(arg, str)
        else ScalarSteps(np.full(ctx.n_steps, float(arg))) if isinstance(arg, int | float)
        else ScalarSteps(np.array(arg, np.float64)) if isinstance(arg, list)
        else arg
        for arg in args
    ]  # fmt: skip
    return call_function(ctx, ast.Call(span=SPAN, name=name, args=(LEAF,) * len(args)), values)


def row_of(ctx, name, *args):
    rows = cells_of(ctx, call(ctx, name, *args))
    assert len(rows) <= 1
    return next(iter(rows.values())) if rows else [None] * ctx.n_steps


@pytest.mark.parametrize(
    ("name", "of_a", "of_custom"),
    [
        ("histogram_count", 4.0, 4.0),
        ("histogram_sum", 6.0, 20.0),
        ("histogram_avg", 1.5, 5.0),
        ("histogram_stdvar", VARIANCE, 6.25),
        ("histogram_stddev", math.sqrt(VARIANCE), 2.5),
    ],
)
def test_numbers_of_histograms(name, of_a, of_custom):
    ctx = make_context(4)
    upper = replace(CUSTOM, positive={1: 4.0})
    matrix = matrix_of(ctx, ({"__name__": "m"}, [A, upper, 3.0, None]))
    want = [pytest.approx(of_a), of_custom, None, None]
    assert row_of(ctx, name, matrix) == want
    assert cells_of(ctx, call(ctx, name, matrix)).keys() == {frozenset()}
    assert texts(ctx) == []


def test_quantiles_of_both_kinds_in_one_vector():
    ctx = make_context(2)
    matrix = matrix_of(
        ctx,
        ({"__name__": "n", "i": "1"}, [A, None]),
        ({"__name__": "c", "i": "2", "le": "1"}, [1.0, 1.0]),
        ({"__name__": "c", "i": "2", "le": "+Inf"}, [2.0, 2.0]),
        ({"__name__": "m", "i": "1"}, [None, CUSTOM]),
    )
    native, classic = frozenset([("i", "1")]), frozenset([("i", "2")])
    assert cells_of(ctx, call(ctx, "histogram_quantile", 0.5, matrix)) == {
        native: [pytest.approx(math.sqrt(2)), pytest.approx(5 + 5 / 3)], classic: [1.0, 1.0],
    }  # fmt: skip
    assert cells_of(ctx, call(ctx, "histogram_fraction", 0.0, 1.0, matrix)) == {
        native: [0.25, 0.05], classic: [0.5, 0.5],
    }  # fmt: skip
    several = cells_of(ctx, call(ctx, "histogram_quantiles", matrix, "q", 0.5, [1.0, 0.0]))
    assert several[native | {("q", "0.5")}][1] == pytest.approx(5 + 5 / 3)
    assert several[native | {("q", "1.0")}] == [4.0, None]
    assert several[native | {("q", "0.0")}] == [None, 0.0]
    assert several[classic | {("q", "1.0")}] == [1.0, None]
    assert texts(ctx) == []


@pytest.mark.parametrize("delayed", [False, True])
def test_equal_labels_of_both_kinds_have_no_result(delayed):
    where = ' for metric name "h"' if delayed else ""
    for name, args in (
        ("histogram_quantile", [0.5]),
        ("histogram_fraction", [0.0, 1.0]),
        ("histogram_quantiles", []),
    ):
        ctx = make_context(3, delayed=delayed)
        matrix = matrix_of(
            ctx,
            ({"__name__": "h", "le": "1"}, [1.0, 1.0, None]),
            ({"__name__": "h", "le": "+Inf"}, [2.0, 2.0, None]),
            ({"__name__": "h"}, [A, None, A]),
        )
        args = [*args, matrix] if args else [matrix, "q", 0.5]
        rows = cells_of(ctx, call(ctx, name, *args))
        ((labels, cells),) = rows.items()
        assert [cell is None for cell in cells] == [True, False, False]
        assert dict(labels).get("__name__") == ("h" if delayed else None)
        assert texts(ctx) == [CONFLICT + where]


def test_a_native_histogram_keeps_its_le():
    ctx = make_context()
    matrix = matrix_of(ctx, ({"__name__": "h", "le": "1"}, [A]), ({"__name__": "h"}, [A]))
    rows = cells_of(ctx, call(ctx, "histogram_quantile", 1.0, matrix))
    assert rows == {frozenset([("le", "1")]): [4.0], frozenset(): [4.0]}
    assert texts(ctx) == []


def test_bad_buckets_are_told_of_floats_only():
    ctx = make_context(2, delayed=True)
    matrix = matrix_of(ctx, ({"__name__": "h"}, [A, None]), ({"__name__": "f"}, [None, 1.0]))
    assert row_of(ctx, "histogram_quantile", 1.0, matrix) == [4.0, None]
    assert texts(ctx) == [
        'PromQL warning: bucket label "le" is missing or has a malformed value of "" for metric '
        'name "f"'
    ]


def test_bad_quantiles():
    ctx = make_context(3)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, A, A]))
    low, high, nan = row_of(ctx, "histogram_quantile", [-1.0, 2.0, math.nan], matrix)
    assert (low, high, math.isnan(nan)) == (-math.inf, math.inf, True)


@pytest.mark.parametrize("delayed", [False, True])
def test_observations_of_nan_are_told(delayed):
    where = ' for metric name "h"' if delayed else ""
    ctx = make_context(2, delayed=delayed)
    matrix = matrix_of(ctx, ({"__name__": "h"}, [WITH_NAN, None]))
    skewed, _ = row_of(ctx, "histogram_quantile", 0.2, matrix)
    assert skewed == 1.0
    text = "PromQL info: input to histogram_quantile has NaN observations, result is"
    assert texts(ctx) == [f"{text} skewed higher{where}"]
    ctx = make_context(delayed=delayed)
    matrix = matrix_of(ctx, ({"__name__": "h"}, [WITH_NAN]))
    assert math.isnan(row_of(ctx, "histogram_quantile", 0.9, matrix)[0])
    assert texts(ctx) == [f"{text} NaN{where}"]
    ctx = make_context(delayed=delayed)
    matrix = matrix_of(ctx, ({"__name__": "h"}, [WITH_NAN]))
    assert row_of(ctx, "histogram_fraction", 0.0, 1.0, matrix) == [0.2]
    assert texts(ctx) == [
        "PromQL info: input to histogram_fraction has NaN observations, which are excluded from "
        f"all fractions{where}"
    ]


@pytest.mark.parametrize(
    ("name", "args", "want"),
    [
        ("abs", [], 2.0),
        ("sgn", [], -1.0),
        ("round", [5.0], 0.0),
        ("clamp", [0.0, 1.0], 0.0),
        ("clamp_min", [0.0], 0.0),
        ("clamp_max", [-3.0], -3.0),
        ("year", [], 1969.0),
        ("minute", [], 59.0),
    ],
)
def test_functions_of_floats_leave_histograms_out(name, args, want):
    ctx = make_context(3)
    matrix = matrix_of(ctx, ({"__name__": "m"}, [A, -2.0, None]))
    assert row_of(ctx, name, matrix, *args) == [None, want, None]
    assert texts(ctx) == []


def test_histograms_do_not_meet_floats_that_lost_their_name():
    ctx = make_context()
    matrix = matrix_of(ctx, ({"__name__": "h"}, [A]), ({"__name__": "f"}, [-1.0]))
    assert cells_of(ctx, call(ctx, "abs", matrix)) == {frozenset(): [1.0]}


def test_scalar_counts_floats_only():
    ctx = make_context(4)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, 1.0, 2.0, A]), ({"i": "2"}, [3.0, A, 4.0, A]))
    np.testing.assert_array_equal(call(ctx, "scalar", matrix).values, [3.0, 1.0, np.nan, np.nan])


def test_presence_and_time_look_at_no_values():
    ctx = make_context(2)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, None]))
    assert row_of(ctx, "absent", matrix) == [None, 1.0]
    assert row_of(ctx, "timestamp", matrix) == [0.0, None]


def test_sorting():
    ctx = make_context()
    matrix = matrix_of(ctx, ({"i": "2"}, [A]), ({"i": "3"}, [2.0]), ({"i": "1"}, [1.0]))
    for name, want in (
        ("sort", ["1", "3"]), ("sort_desc", ["3", "1"]),
    ):  # fmt: skip
        labels = ctx.space.materialise(call(ctx, name, matrix).labels)
        assert [row["i"] for row in labels] == want
    by_label = call(ctx, "sort_by_label", matrix, "i")
    assert [row["i"] for row in ctx.space.materialise(by_label.labels)] == ["1", "2", "3"]
    ctx = make_context(2)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, 1.0]))
    assert only_row(ctx, call(ctx, "sort", matrix)) == [None, 1.0]
    assert only_row(ctx, call(ctx, "sort_by_label", matrix, "i")) == [A, 1.0]


def test_label_functions_move_histograms():
    ctx = make_context(3)
    matrix = matrix_of(
        ctx,
        ({"__name__": "m", "i": "1"}, [A, None, 1.0]),
        ({"__name__": "m"}, [None, CUSTOM, None]),
    )
    want = {frozenset([("__name__", "m")]): [A, CUSTOM, 1.0]}
    assert cells_of(ctx, call(ctx, "label_replace", matrix, "i", "", "i", "1")) == want
    assert cells_of(ctx, call(ctx, "label_join", matrix, "i", "", "j")) == want


def test_constant_parts_are_repeated():
    ctx = make_context(1)
    once = matrix_of(ctx, ({"i": "1"}, [A]), ({"i": "2"}, [None]))
    ctx_of_all = replace(ctx, steps_ms=np.arange(3))
    assert only_row(ctx_of_all, repeat(once, ctx_of_all)) == [A, A, A]


@pytest.mark.parametrize(
    ("histogram", "text"),
    [
        (hist(), "{count:0, sum:0}"),
        (hist(z_bucket=2), "{count:0, sum:0, [-0,0]:2}"),
        (
            hist(count=1e6, sum=math.nan, n_buckets=[0, 3], buckets=[0.5]),
            "{count:1e+06, sum:NaN, [-2,-1):3, (0.5,1]:0.5}",
        ),
        (
            hist(schema=1, count=3, sum=-math.inf, buckets=[0, 0, 3]),
            "{count:3, sum:-Inf, (1.414213562373095,2]:3}",
        ),
        (
            hist(schema=-53, custom_values=[-1, 2.5], buckets=[1, 2, 3]),
            "{count:0, sum:0, [-Inf,-1]:1, (-1,2.5]:2, (2.5,+Inf]:3}",
        ),
        (
            hist(z_bucket=1, z_bucket_w=3, n_buckets=[0, 0, 4], buckets=[0, 0, 5]),
            "{count:0, sum:0, [-4,-2):4, [-3,3]:1, (2,4]:5}",
        ),
    ],
)
def test_text_of_a_histogram(histogram, text):
    ctx = make_context()
    matrix = matrix_of(ctx, ({"i": "1"}, [histogram]))
    assert list(texts_of(ctx.histograms.take(matrix.values[0]))) == [text]
