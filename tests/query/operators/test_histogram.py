"""Functions of classic histograms: against the reference step by step, and hand cases."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators.support import SPAN, assert_same_vectors, make_context, read_step
from tests.query.operators.support import to_matrix as matrix_of
from tests.reference import quantiles as twin
from tests.reference.vectors import SAME_LABELSET, Element, drop
from tsengine.errors import QueryError
from tsengine.promql import ast
from tsengine.query.operators import gotext
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.operators.functions import call_function
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, StringValue

SOME = settings(max_examples=150, deadline=None)
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)


def call(ctx, name, *args):
    values = [
        StringValue(a) if isinstance(a, str)
        else ScalarSteps(np.full(ctx.n_steps, a) if isinstance(a, float) else np.array(a))
        if isinstance(a, float | list)
        else a
        for a in args
    ]  # fmt: skip
    return call_function(ctx, ast.Call(span=SPAN, name=name, args=(LEAF,) * len(args)), values)


def rows_of(*rows):
    return [(tuple(sorted(labels.items())), list(cells), False) for labels, cells in rows]


LE = st.sampled_from(["0.1", "1", "1.0", "1e0", "5", "+Inf", "Inf", "-1", "0", "bad", ""])


@st.composite
def bucket_rows(draw, n_steps):
    keys = draw(
        st.lists(
            st.tuples(st.sampled_from(["m", "n"]), st.sampled_from(["1", "2"]), LE),
            unique=True,
            max_size=12,
        )
    )
    cell = st.none() | st.integers(0, 9).map(float)
    made = []
    for name, a, le in keys:
        labels = {"__name__": name, "a": a} | ({"le": le} if le else {})
        made.append((labels, draw(st.lists(cell, min_size=n_steps, max_size=n_steps))))
    return rows_of(*made)


def histograms(rows, t):
    """Buckets by the labels without le, at one step."""
    found = {}
    for labels, cells, _ in rows:
        bound = gotext.parse_float(dict(labels).get("le", ""))
        if bound is not None and cells[t] is not None:
            found.setdefault(drop(labels, ("le",)), []).append((bound, cells[t]))
    return found


def check(ctx, rows, evaluate, value_at):
    """Compare with one value per histogram; equal labels at one step have to fail."""
    expected, fails = [], False
    for t in range(ctx.n_steps):
        elements = []
        for labels, buckets in histograms(rows, t).items():
            bare = labels if ctx.delayed_name_removal else drop(labels, ("__name__",))
            elements.append(Element(bare, value_at(t, buckets), ctx.delayed_name_removal))
        fails |= len({e.labels for e in elements}) < len(elements)
        expected.append(elements)
    if fails:
        with pytest.raises(QueryError, match=SAME_LABELSET):
            evaluate(matrix_of(ctx, rows))
        return
    result = evaluate(matrix_of(ctx, rows))
    for t in range(ctx.n_steps):
        assert_same_vectors(read_step(ctx, result, t), expected[t], tolerance=1e-12)


@SOME
@given(st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), bucket_rows(n))), st.booleans(),
       st.data())  # fmt: skip
def test_histogram_quantile(case, delayed, data):
    n_steps, rows = case
    q = [data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.99, 1.0, -1.0, 2.0, math.nan]))
         for _ in range(n_steps)]  # fmt: skip
    ctx = make_context(n_steps, delayed=delayed)
    check(
        ctx,
        rows,
        lambda m: call(ctx, "histogram_quantile", q, m),
        lambda t, buckets: twin.bucket_quantiles(buckets, q[t])[0],
    )


@SOME
@given(st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), bucket_rows(n))), st.booleans(),
       st.data())  # fmt: skip
def test_histogram_fraction(case, delayed, data):
    n_steps, rows = case
    edge = st.sampled_from([-math.inf, -2.0, 0.0, 0.05, 0.5, 1.0, 3.0, 9.0, math.inf, math.nan])
    low, high = ([data.draw(edge) for _ in range(n_steps)] for _ in range(2))
    ctx = make_context(n_steps, delayed=delayed)
    check(
        ctx,
        rows,
        lambda m: call(ctx, "histogram_fraction", low, high, m),
        lambda t, buckets: twin.bucket_fractions(buckets, low[t], high[t]),
    )


DECREASING = (
    ({"__name__": "m", "le": "1"}, [2.0, 4.0]),
    ({"__name__": "m", "le": "10"}, [1.0, 2.0]),
    ({"__name__": "m", "le": "100"}, [5.0, 5.0]),
    ({"__name__": "m", "le": "+Inf"}, [5.0, 4.75]),
)
MONOTONICITY = (
    "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see "
    "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
)


@pytest.mark.parametrize("delayed", [False, True])
def test_info_about_forced_monotonicity_covers_all_steps(delayed):
    ctx = make_context(2, delayed=delayed, start_ms=1_700_000_000_000)
    call(ctx, "histogram_quantile", 0.5, matrix_of(ctx, rows_of(*DECREASING)))
    name = ' for metric name "m"' if delayed else ""
    assert ctx.annotations.infos == [
        f"{MONOTONICITY}{name}, from buckets 10 to +Inf, with a max diff of 2, over 2 samples from "
        "2023-11-14T22:13:20Z to 2023-11-14T22:14:20Z (1:1)"
    ]


def test_quantiles_share_one_info_and_carry_a_label():
    ctx = make_context(2)
    vector = matrix_of(ctx, rows_of(*DECREASING))
    result = call(ctx, "histogram_quantiles", vector, "q", 0.0, [0.5, 0.25], 1.0)
    assert len(ctx.annotations.infos) == 1
    assert "over 6 samples" in ctx.annotations.infos[0]
    labels = ctx.space.materialise(result.labels)
    assert labels == [{"q": "0.0"}, {"q": "0.25"}, {"q": "0.5"}, {"q": "1.0"}]
    assert result.valid.tolist() == [[True, True], [False, True], [True, False], [True, True]]


def test_quantiles_that_meet_are_refused():
    ctx = make_context()
    vector = matrix_of(ctx, rows_of(({"le": "+Inf"}, [1.0])))
    with pytest.raises(QueryError, match=SAME_LABELSET):
        call(ctx, "histogram_quantiles", vector, "q", 0.5, 0.5)


@pytest.mark.parametrize("delayed", [False, True])
def test_warnings_about_bad_buckets(delayed):
    ctx = make_context(delayed=delayed)
    rows = rows_of(
        ({"__name__": "m", "le": "x"}, [1.0]),
        ({"__name__": "m", "a": "1", "le": "x"}, [1.0]),
        ({"__name__": "m"}, [1.0]),
        ({"__name__": "m", "le": "absent"}, [None]),
    )
    assert call(ctx, "histogram_quantile", 0.5, matrix_of(ctx, rows)).n_series == 0
    assert ctx.annotations.warnings == [
        f'PromQL warning: bucket label "le" is missing or has a malformed value of "{le}" for '
        'metric name "m" (1:1)'
        for le in ("", "x")
    ]


def test_warnings_about_quantiles():
    ctx = make_context(4)
    call(ctx, "histogram_quantile", [math.nan, 0.5, 7.0, math.nan], matrix_of(ctx, []))
    texts = [f"quantile value should be between 0 and 1, got {q}" for q in ("7", "NaN")]
    assert ctx.annotations.warnings == [f"PromQL warning: {text} (1:1)" for text in texts]


@pytest.mark.parametrize("kind", ["count", "sum", "avg", "stddev", "stdvar"])
def test_functions_of_native_histograms_ignore_floats(kind):
    ctx = make_context(2)
    vector = matrix_of(ctx, rows_of(({"a": "1"}, [1.0, 2.0])))
    assert call(ctx, f"histogram_{kind}", vector).n_series == 0


def test_slices_on_several_threads_give_the_same():
    n_series, n_steps = 704, 1000
    rng = np.random.default_rng(5)
    bounds = ("0.1", "1", "10", "+Inf")
    ctx = make_context(n_steps)
    labels = ctx.space.from_dicts(
        [{"le": bounds[s % 4], "i": str(s // 4)} for s in range(n_series)]
    )
    valid = rng.random((n_series, n_steps)) < 0.9
    vector = StepMatrix(labels, rng.random((n_series, n_steps)), valid)
    node = ast.Aggregate(span=SPAN, op="quantile", expr=LEAF, param=LEAF, grouping=("i",))
    q = ScalarSteps(np.full(n_steps, 0.7))

    def results():
        yield call(ctx, "histogram_quantile", 0.7, vector)
        yield call(ctx, "histogram_fraction", 0.5, 5.0, vector)
        yield aggregate(ctx, node, vector, q)

    alone = list(results())
    infos = ctx.annotations.infos
    with ThreadPoolExecutor(1) as pool:
        ctx.pool, ctx.n_threads = pool, 2
        for one, other in zip(alone, results(), strict=True):
            present = one.present()
            np.testing.assert_array_equal(present, other.present())
            np.testing.assert_array_equal(one.values[present], other.values[present])
    assert ctx.annotations.infos == infos
