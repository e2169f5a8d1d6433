"""Functions of instant vectors and scalars: hand cases, and properties against Python's math."""

import datetime
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators.support import SPAN, make_context, read_step, to_matrix
from tests.reference import elementwise as twin
from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.promql import ast
from tsengine.query import labelspace
from tsengine.query.operators.functions import call_function
from tsengine.query.operators.labelfuncs import labels_of_absent
from tsengine.query.operators.sorting import natural_key
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, StringValue

PATIENT = settings(deadline=None)
NAN, INF = math.nan, math.inf
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)


def call(ctx, name, *args):
    """Call with matrices, lists of numbers (scalars) and strings."""
    values = []
    for arg in args:
        if isinstance(arg, str):
            values.append(StringValue(arg))
        elif isinstance(arg, int | float):
            values.append(ScalarSteps(np.full(ctx.n_steps, float(arg))))
        elif isinstance(arg, list):
            values.append(ScalarSteps(np.array(arg, np.float64)))
        else:
            values.append(arg)
    node = ast.Call(span=SPAN, name=name, args=(LEAF,) * len(values))
    return call_function(ctx, node, values)


def numbers(ctx, *cells):
    """One series per number, at the only step."""
    rows = [((("__name__", "m"), ("i", f"{i:03d}")), [v], False) for i, v in enumerate(cells)]
    return to_matrix(ctx, rows)


def series(ctx, *rows):
    return to_matrix(
        ctx, [(tuple(sorted(labels.items())), list(cells), False) for labels, cells in rows]
    )


def apply(name, *cells, args=()):
    ctx = make_context()
    result = call(ctx, name, numbers(ctx, *cells), *args)
    assert [dict(e.labels) for e in read_step(ctx, result, 0)] == [
        {"i": f"{i:03d}"} for i in range(len(cells))
    ]
    return result.values[:, 0].tolist()


MATH = {
    "abs": abs, "ceil": math.ceil, "floor": math.floor, "exp": math.exp, "sqrt": math.sqrt,
    "ln": math.log, "log2": math.log2, "log10": math.log10, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "asin": math.asin, "acos": math.acos, "atan": math.atan, "sinh": math.sinh,
    "cosh": math.cosh, "tanh": math.tanh, "asinh": math.asinh, "acosh": math.acosh,
    "atanh": math.atanh, "deg": lambda v: v * 180 / math.pi, "rad": lambda v: v * math.pi / 180,
}  # fmt: skip


@pytest.mark.parametrize("name", MATH)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-700, 700) | st.floats(-1, 1), min_size=1, max_size=20))
def test_elementwise_is_as_exact_as_the_c_library(name, cells):
    for got, v in zip(apply(name, *cells), cells, strict=True):
        try:
            want = MATH[name](v)
        except (ValueError, OverflowError):
            assert math.isnan(got) or math.isinf(got)
            continue
        assert got == want or abs(got - want) <= 1e-15 * abs(want)


@pytest.mark.parametrize(
    ("name", "cells", "want"),
    [
        ("sqrt", (-1.0, INF), (NAN, INF)),
        ("ln", (0.0, -1.0, INF), (-INF, NAN, INF)),
        ("exp", (-INF, INF, 1000.0), (0.0, INF, INF)),
        ("acosh", (0.5,), (NAN,)),
        ("atanh", (1.0, 2.0), (INF, NAN)),
        ("sgn", (-3.0, 0.0, 5.0, NAN, INF, -INF), (-1.0, 0.0, 1.0, NAN, 1.0, -1.0)),
        ("round", (-2.5, 2.5, -0.5, 0.4, NAN, INF), (-2.0, 3.0, 0.0, 0.0, NAN, INF)),
        ("sin", (INF,), (NAN,)),
    ],
)
def test_special_values(name, cells, want):
    np.testing.assert_array_equal(apply(name, *cells), want)


def test_sgn_keeps_the_sign_of_zero():
    assert np.signbit(apply("sgn", -0.0))[0]


def test_round_to_a_multiple_that_varies():
    ctx = make_context(3)
    vector = series(ctx, ({"a": "1"}, [5.25, 7.0, 7.0]))
    result = call(ctx, "round", vector, [0.1, 5.0, 0.0])
    np.testing.assert_array_equal(result.values, [[5.3, 5.0, NAN]])


some = st.floats() | st.sampled_from([NAN, INF, -INF, 0.0, -0.0])


@PATIENT
@given(some, some, some)
def test_clamps_follow_go(v, low, high):
    np.testing.assert_equal(apply("clamp_min", v, args=(low,))[0], twin.greatest(low, v))
    np.testing.assert_equal(apply("clamp_max", v, args=(high,))[0], twin.least(high, v))
    if high < low:
        ctx = make_context()
        assert read_step(ctx, call(ctx, "clamp", numbers(ctx, v), low, high), 0) == []
    else:
        want = twin.clamp_cells(v, low, high)
        np.testing.assert_equal(apply("clamp", v, args=(low, high))[0], want)


@PATIENT
@given(some, some)
def test_min_of_and_max_of(a, b):
    ctx = make_context(2)
    least, greatest = call(ctx, "min_of", a, b), call(ctx, "max_of", a, b)
    np.testing.assert_equal(least.values, [twin.least(a, b)] * 2)
    np.testing.assert_equal(greatest.values, [twin.greatest(a, b)] * 2)


@pytest.mark.parametrize("name", ["abs", "round", "clamp_min", "timestamp", "year"])
def test_names_go_and_series_merge_only_if_they_never_meet(name):
    args = (0.0,) if name == "clamp_min" else ()
    ctx = make_context(2)
    apart = series(ctx, ({"__name__": "m"}, [1.0, None]), ({"__name__": "n"}, [None, 2.0]))
    result = call(ctx, name, apart, *args)
    assert ctx.space.materialise(result.labels) == [{}]
    assert result.valid is None or result.valid.all()
    together = series(ctx, ({"__name__": "m"}, [1.0, None]), ({"__name__": "n"}, [1.0, 2.0]))
    with pytest.raises(QueryError, match="vector cannot contain metrics with the same labelset"):
        call(ctx, name, together, *args)
    later = make_context(2, delayed=True)
    matrix = series(later, ({"__name__": "m"}, [1.0, None]), ({"__name__": "n"}, [1.0, 2.0]))
    result = call(later, name, matrix, *args)
    assert result.drop_name.tolist() == [True, True]
    assert result.labels is matrix.labels


# --- scalars, time, presence ------------------------------------------------------------------


def test_scalar_of_exactly_one_element():
    ctx = make_context(4)
    vector = series(ctx, ({"a": "1"}, [1.0, None, 3.0, NAN]), ({"a": "2"}, [None, None, 4.0, None]))
    np.testing.assert_array_equal(call(ctx, "scalar", vector).values, [1.0, NAN, NAN, NAN])
    full = series(ctx, ({"a": "1"}, [1.0, 2.0, 3.0, 4.0]))
    assert call(ctx, "scalar", full).values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert np.isnan(call(ctx, "scalar", series(ctx)).values).all()


def test_vector_time_and_constants():
    ctx = make_context(3, start_ms=1500)
    vector = call(ctx, "vector", [1.0, 2.0, 3.0])
    assert ctx.space.materialise(vector.labels) == [{}]
    assert vector.values.tolist() == [[1.0, 2.0, 3.0]]
    assert call(ctx, "time").values.tolist() == [1.5, 61.5, 121.5]
    constants = {"start": 1.5, "end": 121.5, "range": 120.0, "step": 60.0, "pi": math.pi}
    for name, want in constants.items():
        assert call(ctx, name).values.tolist() == [want] * 3
    timestamps = call(ctx, "timestamp", series(ctx, ({"a": "1"}, [5.0, None, 7.0])))
    assert timestamps.values[0, [0, 2]].tolist() == [1.5, 121.5]
    assert timestamps.valid.tolist() == [[True, False, True]]


def test_absent_step_by_step():
    ctx = make_context(3)
    vector = series(ctx, ({"a": "1"}, [5.0, None, None]), ({"a": "2"}, [1.0, None, 7.0]))
    result = call(ctx, "absent", vector)
    assert ctx.space.materialise(result.labels) == [{}]
    assert result.valid.tolist() == [[False, True, False]]
    assert result.values[0, 1] == 1.0
    assert call(ctx, "absent", series(ctx, ({"a": "1"}, [5.0, 5.0, 5.0]))).n_series == 0


def matcher(name, op, value):
    return Matcher(name, MatchOp(op), value)


def test_labels_of_absent():
    equal = [matcher("__name__", "=", "m"), matcher("a", "=", "1"), matcher("b", "=~", "x.*")]
    selector = ast.VectorSelector(span=SPAN, name="m", matchers=tuple(equal))
    assert labels_of_absent(selector) == {"a": "1"}
    assert labels_of_absent(ast.Paren(span=SPAN, expr=selector)) == {"a": "1"}
    assert labels_of_absent(ast.MatrixSelector(span=SPAN, selector=selector, range_ms=1)) == {
        "a": "1"
    }
    twice = (matcher("a", "=", "1"), matcher("a", "=", "2"), matcher("c", "=", "3"))
    assert labels_of_absent(ast.VectorSelector(span=SPAN, name=None, matchers=twice)) == {"c": "3"}
    # Only what comes after the first equality matcher takes a label back.
    late = (matcher("a", "=~", ".+"), matcher("a", "=", "2"))
    assert labels_of_absent(ast.VectorSelector(span=SPAN, name=None, matchers=late)) == {"a": "2"}
    assert labels_of_absent(LEAF) == {}


# --- dates ------------------------------------------------------------------------------------


@PATIENT
@given(st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)))
def test_parts_of_dates(moment):
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    seconds = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)).total_seconds()
    want = {
        "year": moment.year, "month": moment.month, "day_of_month": moment.day,
        "day_of_year": moment.timetuple().tm_yday, "day_of_week": moment.isoweekday() % 7,
        "hour": moment.hour, "minute": moment.minute,
    }  # fmt: skip
    if moment.year < 9999:
        next_month = moment.replace(day=28) + datetime.timedelta(days=4)
        want["days_in_month"] = (next_month - datetime.timedelta(days=next_month.day)).day
    for name, value in want.items():
        assert apply(name, seconds) == [value], name


def test_dates_of_values_that_are_none():
    # What does not fit 64 bits wraps around, as on Prometheus's amd64.
    assert apply("year", NAN, INF, 1e300) == [292277026596.0] * 3
    assert apply("minute", -0.9, 59.9, -60.0) == [0.0, 0.0, 59.0]


def test_dates_without_argument_are_those_of_the_step():
    ctx = make_context(2, start_ms=-60_000)
    result = call(ctx, "minute")
    assert result.values.tolist() == [[59.0, 0.0]]
    assert ctx.space.materialise(result.labels) == [{}]


# --- labels -----------------------------------------------------------------------------------


def replaced(labels, target, template, source, pattern):
    ctx = make_context()
    result = call(
        ctx, "label_replace", series(ctx, (labels, [1.0])), target, template, source, pattern
    )
    return ctx.space.materialise(result.labels)[0]


@pytest.mark.parametrize(
    ("template", "want"),
    [
        ("$1", "host"), ("${1}x", "hostx"), ("$1x", ""), ("$0", "host:80"), ("$port", "80"),
        ("${port}1", "801"), ("$port1", ""), ("$$1", "$1"), ("$", "$"), ("a$-b", "a$-b"),
        ("${1", "${1"), ("$9", ""), ("$1-$2-$3", "host-80-"), ("${}", "${}"), ("plain", "plain"),
    ],
)  # fmt: skip
def test_expansion_of_replacements(template, want):
    got = replaced({"addr": "host:80"}, "to", template, "addr", "([^:]+):(?P<port>[0-9]+)")
    assert got == {"addr": "host:80"} | ({"to": want} if want else {})


def test_label_replace():
    labels = {"__name__": "m", "a": "1", "b": "x\ny"}
    assert replaced(labels, "a", "2", "b", "x") == labels  # anchored
    assert replaced(labels, "a", "2", "b", "x.y") == labels | {"a": "2"}  # . matches a newline
    assert replaced(labels, "a", "", "a", ".*") == {"__name__": "m", "b": "x\ny"}
    assert replaced(labels, "c", "n", "nope", "") == labels | {"c": "n"}
    assert replaced(labels, "c", "n", "nope", ".+") == labels
    assert replaced(labels, "a", "$2", "a", "(x)|(1)") == labels
    assert replaced(labels, "a", "$1", "a", "(x)|1") == {"__name__": "m", "b": "x\ny"}


@pytest.mark.parametrize("pattern", ["(.*", "a|*", "a{1001}", r"\C"])
def test_label_replace_refuses_bad_patterns(pattern):
    ctx = make_context()
    text = "invalid regular expression in label_replace(): " + pattern
    with pytest.raises(QueryError) as failed:
        call(ctx, "label_replace", series(ctx), "a", "", "b", pattern)
    assert str(failed.value) == text


def test_label_replace_refuses_many_groups():
    ctx = make_context()
    with pytest.raises(QueryError, match=r"has 101 groups, the limit is 100; write \(\?:"):
        call(ctx, "label_replace", series(ctx), "a", "$1", "b", "(x?)" * 101)


@pytest.mark.parametrize(
    ("name", "args"),
    [("label_join", ("a", "-", "a", "a")), ("label_replace", ("a", "$0-$0", "a", ".*"))],
)
def test_labels_that_double_come_to_a_limit(name, args):
    ctx = make_context()
    vector = series(ctx, ({"__name__": "m", "a": "xy"}, [1.0]))
    for _ in range(18):
        vector = call(ctx, name, vector, *args)
    with pytest.raises(QueryLimitExceeded, match=r"label value of \d+ characters, the limit is"):
        call(ctx, name, vector, *args)


def test_texts_that_a_query_makes_come_to_a_limit(monkeypatch):
    monkeypatch.setattr(labelspace, "OVERLAY_SIZE_MAX", 1000)
    ctx = make_context()
    vector = series(ctx, *(({"__name__": "m", "a": str(n)}, [1.0]) for n in range(20)))
    with pytest.raises(QueryLimitExceeded, match="more than 1000 characters of new label values"):
        call(ctx, "label_join", vector, "b", "x" * 60, "a", "a")


@pytest.mark.parametrize("name", ["", "\udcff"])
def test_label_functions_refuse_bad_names(name):
    ctx = make_context()
    with pytest.raises(QueryError, match=r"invalid destination label name in label_replace\(\)"):
        call(ctx, "label_replace", series(ctx), name, "", "b", "")
    with pytest.raises(QueryError, match=r"invalid destination label name in label_join\(\)"):
        call(ctx, "label_join", series(ctx), name, "", "b")
    with pytest.raises(QueryError, match=r"invalid source label name in label_join\(\)"):
        call(ctx, "label_join", series(ctx), "a", "", name)


def test_label_join():
    ctx = make_context()
    vector = series(ctx, ({"a": "1", "b": "2"}, [1.0]), ({"b": "3", "d": "x"}, [2.0]))
    joined = call(ctx, "label_join", vector, "d", "-", "a", "nope", "b")
    assert ctx.space.materialise(joined.labels) == [
        {"a": "1", "b": "2", "d": "1--2"},
        {"b": "3", "d": "--3"},
    ]
    nothing = call(ctx, "label_join", vector, "d", "-")
    assert ctx.space.materialise(nothing.labels) == [{"a": "1", "b": "2"}, {"b": "3"}]


@pytest.mark.parametrize("name", ["label_replace", "label_join"])
def test_label_functions_merge_series_that_never_meet(name):
    rest = ("b", "", "b", ".*") if name == "label_replace" else ("b", "", "nope")
    ctx = make_context(2)
    apart = series(ctx, ({"b": "1"}, [1.0, None]), ({"b": "2"}, [None, 2.0]))
    result = call(ctx, name, apart, *rest)
    assert result.values.tolist() == [[1.0, 2.0]]
    together = series(ctx, ({"b": "1"}, [1.0, None]), ({"b": "2"}, [3.0, 2.0]))
    with pytest.raises(QueryError, match="same labelset"):
        call(ctx, name, together, *rest)


def test_writing_the_name_takes_back_its_removal():
    ctx = make_context(delayed=True)
    rows = [
        ((("__name__", "m"), ("a", "1")), [1.0], True),
        ((("__name__", "n"), ("a", "1")), [1.0], True),
    ]
    matrix = to_matrix(ctx, rows)
    result = call(ctx, "label_replace", matrix, "__name__", "new_$0", "__name__", "m")
    assert result.drop_name.tolist() == [False, True]
    assert ctx.space.materialise(result.labels)[0] == {"__name__": "new_m", "a": "1"}
    result = call(ctx, "label_join", matrix, "__name__", "_", "__name__", "a")
    assert result.drop_name.tolist() == [False, False]
    result = call(ctx, "label_join", matrix, "c", "_", "a")
    assert result.drop_name.tolist() == [True, True]


# --- order ------------------------------------------------------------------------------------


def order(ctx, result):
    return [dict(e.labels)["i"] for e in read_step(ctx, result, 0)]


def test_sort_by_value_puts_nan_last_either_way():
    ctx = make_context()
    vector = numbers(ctx, 2.0, NAN, -INF, 1.0, 1.0)
    assert order(ctx, call(ctx, "sort", vector)) == ["002", "003", "004", "000", "001"]
    assert order(ctx, call(ctx, "sort_desc", vector)) == ["000", "003", "004", "002", "001"]
    assert isinstance(call(ctx, "sort", series(ctx)), StepMatrix)


def test_sort_by_label_is_natural():
    ctx = make_context()
    texts = ["10", "9", "a10b", "a9b", "", "009", "x"]
    vector = series(ctx, *(({"l": t, "i": str(i)} if t else {"i": str(i)}, [0.0])
                           for i, t in enumerate(texts)))  # fmt: skip
    ascending = order(ctx, call(ctx, "sort_by_label", vector, "l"))
    assert [texts[int(i)] for i in ascending] == ["", "9", "009", "10", "a9b", "a10b", "x"]
    assert order(ctx, call(ctx, "sort_by_label_desc", vector, "l")) == ascending[::-1]
    assert order(ctx, call(ctx, "sort_by_label", vector, "nope")) == sorted(ascending)


@PATIENT
@given(st.lists(st.integers(0, 10**20).map(str) | st.text(max_size=5)))
def test_natural_order_sorts_integers_as_numbers(texts):
    ordered = sorted(texts, key=natural_key)
    plain = [int(t) for t in ordered if t.isascii() and t.isdigit()]
    assert plain == sorted(plain)


@pytest.mark.parametrize("name", ["sort", "sort_desc", "sort_by_label", "sort_by_label_desc"])
def test_sort_in_a_range_query_only_warns(name):
    ctx = make_context(2)
    vector = series(ctx, ({"a": "1"}, [2.0, 1.0]), ({"a": "0"}, [1.0, 2.0]))
    args = ("a",) if "label" in name else ()
    assert call(ctx, name, vector, *args) is vector
    assert ctx.annotations.warnings == [
        "PromQL warning: sort is ineffective for range queries since results are always ordered "
        "by labels (1:1)"
    ]
