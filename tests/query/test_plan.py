"""Plans: building, rewriting, explaining."""

import pytest

from tsengine.promql.durations import resolve_durations
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.query import plan as p
from tsengine.query.build import QueryTimes, build
from tsengine.query.explain import explain
from tsengine.query.optimize import is_invariant, optimize, share_key, shared_keys


def planned(text):
    expr = resolve_durations(parse(text, features=ALL_ON), start_ms=0, end_ms=60_000, step_ms=1000)
    return build(expr, QueryTimes(0, 60_000))


def optimized(text, n_steps=61):
    return explain(optimize(planned(text), n_steps=n_steps))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", False),
        ("a @ 5", True),
        ("a @ start() + b @ end()", True),
        ("a @ 5 + b", False),
        ("1 + 2", True),
        ("time()", False),
        ("pi()", True),
        ("rate(a[5m] @ 5)", True),
        ("predict_linear(a[5m] @ 5, 60)", False),
        ("timestamp(a @ 5)", True),
        ("timestamp(abs(a @ 5))", False),
        ("hour(a @ 5)", False),
        ("sum_over_time(a[5m:1m] @ 5)", True),
        ("sum_over_time((a @ 5)[5m:1m])", False),
        ("topk(scalar(a), b @ 5)", False),
        ("topk(scalar(a @ 5), b @ 5)", True),
        ("start()", False),
    ],
)
def test_invariance(text, wanted):
    assert is_invariant(planned(text)) is wanted


def test_the_largest_constant_part_is_wrapped():
    assert optimized("sum(rate(a[5m] @ 5)) * 2 + b") == "\n".join(
        (
            "binary +",
            "  once for all steps",
            "    binary *",
            "      aggregate in slices sum",
            "        rollup rate",
            "          samples of a{} over 300000 ms at 5000",
            "      number 2.0",
            "  latest samples of b{}",
        )
    )


def test_one_step_needs_no_wrapping_but_a_subquery_s_grid_does():
    assert "once" not in optimized("a @ 5", n_steps=1)
    assert optimized("sum_over_time((a @ 5)[1h:1m])", n_steps=1) == "\n".join(
        (
            "rollup sum_over_time",
            "  subquery over 3600000 ms every 60000 ms",
            "    once for all steps",
            "      latest samples of a{} at 5000",
        )
    )


@pytest.mark.parametrize(
    ("text", "sliced"),
    [
        ("sum(a)", True),
        ("avg by (x) (rate(a[5m]))", True),
        ("group without (x) (a)", True),
        ("sum(timestamp(a))", False),
        ("sum(abs(a))", False),
        ("sum(absent_over_time(a[5m]))", False),
        ("sum(rate(a[5m:1m]))", False),
        ("stddev(a)", False),
        ("topk(1, a)", False),
    ],
)
def test_which_aggregations_run_in_slices(text, sliced):
    assert ("in slices" in optimized(text)) is sliced


def keys_of(text):
    return shared_keys(optimize(planned(text), n_steps=2))


def test_equal_parts_are_known_by_what_they_read():
    rate = share_key(planned("rate(a[5m])"))
    total = share_key(optimize(planned("sum(rate(a[5m]))"), n_steps=2))
    assert keys_of("rate(a[5m]) + rate(a[4m]) + a + b") == set()
    assert keys_of("rate(a[5m]) + rate({__name__='a'}[300s]) + a + a") == {
        rate,
        share_key(planned("a")),
    }
    assert keys_of("rate(a[5m]) / on () group_left () sum(rate(a[5m]))") == {rate}
    assert keys_of("sum(rate(a[5m])) > 2 * sum(rate(a[5m]))") == {total}
    nan = planned("quantile_over_time(NaN, a[5m])")
    assert share_key(nan) == share_key(planned("quantile_over_time(NaN, a[5m])"))
    assert share_key(planned("quantile_over_time(scalar(b), a[5m])")) is None


def test_explain_shows_shifts_matchers_and_groupings():
    text = explain(planned('count without (x) (-{a=~"b.*", c!="d"} offset 1m) > bool 1'))
    assert text == "\n".join(
        (
            "binary >",
            "  aggregate count without (x)",
            "    unary -",
            "      latest samples of {a=~'b.*', c!='d'} offset 60000 ms",
            "  number 1.0",
        )
    )
    assert "string 'n'" in explain(planned('label_join(a, "n", "-", "x")'))
    assert "sample times of a{}" in explain(planned("timestamp((a))"))


def test_value_types():
    kinds = {
        "1": "scalar", "1 + 2": "scalar", "a + 1": "instant vector", "-a": "instant vector",
        "-1": "scalar", "scalar(a)": "scalar", "a[5m]": "range vector", "(a[5m:])": "range vector",
        '"x"': "string", "sum(a)": "instant vector", "rate(a[5m])": "instant vector",
    }  # fmt: skip
    for text, kind in kinds.items():
        assert p.value_type(planned(text)).value == kind
    assert p.value_type(p.InvariantPlan(planned("1"))).value == "scalar"
