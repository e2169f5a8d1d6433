"""Aggregations over vectors of floats and native histograms."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.promql.histogram_notation import combined
from tests.query.operators.natives import cells_of, hist, matrix_of, only_row, texts
from tests.query.operators.support import SPAN, make_context
from tsengine.errors import QueryLimitExceeded
from tsengine.promql import ast
from tsengine.query.context import Limits
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.stepmatrix import ScalarSteps

SOME = settings(max_examples=60, deadline=None)
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
A = hist(count=3, sum=5, buckets=[1, 2])
B = hist(count=4, sum=7, z_bucket=1, z_bucket_w=0.001, buckets=[0, 1, 2])
CUSTOM = hist(schema=-53, count=3, sum=4, custom_values=[5, 10], buckets=[1, 2])
OTHER_BOUNDS = hist(schema=-53, count=2, sum=2, custom_values=[10], buckets=[2])
MIXED_TYPES = "PromQL warning: encountered a mix of histograms and floats for aggregation"


def node(op, grouping=()):
    return ast.Aggregate(span=SPAN, op=op, expr=LEAF, param=LEAF, grouping=grouping, without=False)


def aggregated(ctx, op, matrix, param=None, grouping=()):
    if isinstance(param, float):
        param = ScalarSteps(np.full(ctx.n_steps, param))
    return aggregate(ctx, node(op, grouping), matrix, param)


def named(name, **labels):
    return {"__name__": name, **labels}


def test_sum_and_avg_of_histograms():
    ctx = make_context(3)
    matrix = matrix_of(ctx, (named("m", i="1"), [A, A, None]), (named("m", i="2"), [B, None, None]))
    both = hist(count=7, sum=12, z_bucket=1, z_bucket_w=0.001, buckets=[1, 3, 2])
    assert only_row(ctx, aggregated(ctx, "sum", matrix)) == [both, A, None]
    half = hist(count=3.5, sum=6, z_bucket=0.5, z_bucket_w=0.001, buckets=[0.5, 1.5, 1])
    assert only_row(ctx, aggregated(ctx, "avg", matrix)) == [half, A, None]
    assert texts(ctx) == []


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_groups_of_one_row_stay_as_they_are(op):
    ctx = make_context(2)
    gauge = hist(count=1, counter_reset_hint="gauge")
    matrix = matrix_of(ctx, (named("m", i="1"), [gauge, 2.0]), (named("m", i="2"), [None, A]))
    result = cells_of(ctx, aggregated(ctx, op, matrix, grouping=("i",)))
    assert result == {frozenset([("i", "1")]): [gauge, 2.0], frozenset([("i", "2")]): [None, A]}


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_floats_and_histograms_of_one_group_have_no_result(op):
    ctx = make_context(3)
    matrix = matrix_of(ctx, (named("m", i="1"), [A, A, 1.0]), (named("m", i="2"), [2.0, A, 3.0]))
    whole = aggregated(ctx, op, matrix)
    mixed, histograms, floats = only_row(ctx, whole)
    assert mixed is None
    assert histograms.count == (6.0 if op == "sum" else 3.0)
    assert floats == (4.0 if op == "sum" else 2.0)
    assert texts(ctx) == [MIXED_TYPES]


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_exponential_and_custom_buckets_do_not_add(op):
    ctx = make_context(2)
    matrix = matrix_of(
        ctx,
        (named("first", i="1"), [A, A]),
        (named("second", i="2"), [CUSTOM, None]),
        (named("third", i="3"), [A, A]),
        (named("fourth", i="4"), [CUSTOM, None]),
    )
    mixed, fine = only_row(ctx, aggregated(ctx, op, matrix))
    assert mixed is None
    assert fine.count == (6.0 if op == "sum" else 3.0)
    assert texts(ctx) == [
        "PromQL warning: vector contains a mix of histograms with exponential and custom buckets "
        'schemas for metric name "second"'
    ]


def test_different_custom_bounds_are_reconciled():
    ctx = make_context()
    matrix = matrix_of(ctx, (named("m", i="1"), [CUSTOM]), (named("m", i="2"), [OTHER_BOUNDS]))
    want = hist(schema=-53, count=5, sum=6, custom_values=[10], buckets=[5])
    assert only_row(ctx, aggregated(ctx, "sum", matrix)) == [want]
    assert texts(ctx) == [
        "PromQL info: mismatched custom buckets were reconciled during aggregation"
    ]


@pytest.mark.parametrize("hints", [("reset", "not_reset"), ("not_reset", "gauge", "reset")])
def test_contradicting_hints_warn(hints):
    ctx = make_context()
    rows = [(named("m", i=h), [hist(count=1, counter_reset_hint=h)]) for h in hints]
    (total,) = only_row(ctx, aggregated(ctx, "sum", matrix_of(ctx, *rows)))
    assert total.count == len(hints)
    assert texts(ctx) == ["PromQL warning: conflicting counter resets during histogram aggregation"]


@pytest.mark.parametrize("op", ["count", "group"])
def test_counting_takes_both(op):
    ctx = make_context(2)
    matrix = matrix_of(ctx, (named("m", i="1"), [A, None]), (named("m", i="2"), [1.0, A]))
    want = [2.0, 1.0] if op == "count" else [1.0, 1.0]
    assert only_row(ctx, aggregated(ctx, op, matrix)) == want
    single = aggregated(ctx, op, matrix, grouping=("i",))
    assert set(map(tuple, cells_of(ctx, single).values())) == {(1.0, None), (1.0, 1.0)}
    assert texts(ctx) == []


@pytest.mark.parametrize("op", ["min", "max", "stddev", "stdvar", "quantile"])
@pytest.mark.parametrize("grouping", [(), ("i",)])
def test_histograms_are_ignored(op, grouping):
    ctx = make_context(2)
    param = 0.5 if op == "quantile" else None
    matrix = matrix_of(ctx, (named("m", i="1"), [A, 3.0]), (named("m", i="2"), [A, A]))
    value = 0.0 if op.startswith("std") else 3.0
    assert only_row(ctx, aggregated(ctx, op, matrix, param, grouping)) == [None, value]
    assert texts(ctx) == [f"PromQL info: ignored histogram in {op} aggregation"]


@pytest.mark.parametrize("op", ["topk", "bottomk"])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_choosing_by_value_ignores_histograms(op, n_steps):
    ctx = make_context(n_steps)
    matrix = matrix_of(ctx, ({"i": "1"}, [A] * n_steps), ({"i": "2"}, [1.0] * n_steps))
    result = cells_of(ctx, aggregated(ctx, op, matrix, 5.0))
    assert result == {frozenset([("i", "2")]): [1.0] * n_steps}
    assert texts(ctx) == [f"PromQL info: ignored histogram in {op} aggregation"]


def test_nothing_is_told_where_nothing_is_asked_for():
    ctx = make_context(2)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, None]), ({"i": "2"}, [1.0, 2.0]))
    result = aggregate(ctx, node("topk"), matrix, ScalarSteps(np.array([0.0, 1.0])))
    assert cells_of(ctx, result) == {frozenset([("i", "2")]): [None, 2.0]}
    assert texts(ctx) == []


def test_limits_keep_histograms():
    ctx = make_context(2)
    matrix = matrix_of(ctx, ({"i": "1"}, [A, None]), ({"i": "2"}, [1.0, B]))
    result = cells_of(ctx, aggregated(ctx, "limitk", matrix, 1.0))
    assert result == {frozenset([("i", "1")]): [A, None], frozenset([("i", "2")]): [None, B]}
    result = cells_of(ctx, aggregated(ctx, "limit_ratio", matrix, 1.0))
    assert result == {frozenset([("i", "1")]): [A, None], frozenset([("i", "2")]): [1.0, B]}
    assert texts(ctx) == []


def test_count_values_of_histograms():
    ctx = make_context(2)
    shown = hist(count=20, sum=10, z_bucket_w=0.001, z_bucket=2, buckets=[1, 2], n_buckets=[1, 2])
    matrix = matrix_of(
        ctx,
        ({"i": "1"}, [shown, np.nan]),
        ({"i": "2"}, [shown, shown]),
        ({"i": "3"}, [6.0, None]),
        ({"i": "4"}, [CUSTOM, CUSTOM]),
    )
    exponential = "{count:20, sum:10, [-2,-1):2, [-1,-0.5):1, [-0.001,0.001]:2, (0.5,1]:1, (1,2]:2}"
    assert cells_of(ctx, aggregated(ctx, "count_values", matrix, "v")) == {
        frozenset([("v", exponential)]): [2.0, 1.0],
        frozenset([("v", "6")]): [1.0, None],
        frozenset([("v", "NaN")]): [None, 1.0],
        frozenset([("v", "{count:3, sum:4, [-Inf,5]:1, (5,10]:2}")]): [1.0, 1.0],
    }


def test_sums_are_on_the_query_s_account():
    ctx = make_context()
    ctx.limits = Limits(max_samples=3)
    big = hist(count=100, sum=1, buckets=[1] * 100)
    matrix = matrix_of(ctx, ({"i": "1"}, [big]), ({"i": "2"}, [big]))
    with pytest.raises(QueryLimitExceeded):
        aggregated(ctx, "sum", matrix)


counts = st.lists(st.integers(0, 3).map(float), max_size=4)
HISTOGRAMS = st.builds(
    lambda schema, buckets, negative, offset, zero: hist(
        schema=schema, buckets=buckets, n_buckets=negative, offset=offset, z_bucket=zero,
        z_bucket_w=2.0**-10 if zero else 0.0, count=sum(buckets) + sum(negative) + zero, sum=1.0,
    ),
    st.integers(-1, 2), counts, counts, st.integers(-3, 3), st.integers(0, 2).map(float),
)  # fmt: skip


@SOME
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.lists(
                    st.none() | st.integers(-2, 2).map(float) | HISTOGRAMS, min_size=n, max_size=n
                ),
                max_size=6,
            ),
        )
    )
)
def test_sums_are_those_of_the_reference(case):
    n_steps, cells = case
    ctx = make_context(n_steps)
    rows = [(named("m", i=str(i), g=str(i % 2)), row) for i, row in enumerate(cells)]
    result = cells_of(ctx, aggregated(ctx, "sum", matrix_of(ctx, *rows), grouping=("g",)))
    wanted = {}
    for g in ("0", "1"):
        row = []
        for t in range(n_steps):
            members = [r[t] for (labels, r) in rows if labels["g"] == g and r[t] is not None]
            floats = [m for m in members if isinstance(m, float)]
            histograms = [m for m in members if not isinstance(m, float)]
            if (floats and histograms) or not members:
                row.append(None)
            elif floats:
                row.append(sum(floats))
            else:
                row.append(reduce(lambda a, b: combined(a, b, 1.0), histograms))
        if any(cell is not None for cell in row):
            wanted[frozenset([("g", g)])] = row
    assert result == wanted
