import math

import pytest

from tsengine.errors import QueryError
from tsengine.promql import ast
from tsengine.promql.durations import resolve_durations
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.printer import to_text


def resolved(text, *, start_ms=0, end_ms=3_600_000, step_ms=60_000):
    tree = parse(text, features=ALL_ON)
    return resolve_durations(tree, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("foo[step()]", "foo[1m]"),
        ("foo[range()]", "foo[1h]"),
        ("foo[5m + 30]", "foo[5m30s]"),
        ("foo[2 * 3 + 4 ^ 0.5]", "foo[8s]"),
        ("foo[2 ^ 3 ^ 0]", "foo[2s]"),
        ("foo[(2 + 3) * 4]", "foo[20s]"),
        ("foo[10 - 3 - 2]", "foo[5s]"),
        ("foo[7 % 4 * 2]", "foo[6s]"),
        ("foo[-(-5)]", "foo[5s]"),
        ("foo[-step() + 2m]", "foo[1m]"),
        ("foo[1 / 3]", "foo[333ms]"),
        ("foo[0.0019 + 0]", "foo[1ms]"),
        ("foo[min_of(step(), 5)]", "foo[5s]"),
        ("foo[max_of(step(), 5)]", "foo[1m]"),
        ("foo[max_of(-1, min_of(3, 2))]", "foo[2s]"),
        ("foo offset (step() / 2)", "foo offset 30s"),
        ("foo offset -step()", "foo offset -1m"),
        ("foo offset (0 - 1.0019)", "foo offset -1s1ms"),
        ("foo offset (1 - 1)", "foo"),
        ("foo offset max_of(1, 2)", "foo offset 2s"),
        ("foo[step() : step() / 2] offset (1h + 1)", "foo[1m:30s] offset 1h1s"),
        ("foo[step() : 0.0001 + 0]", "foo[1m:]"),
        ("foo[5m : step()] @ 5", "foo[5m:1m] @ 5.000"),
        ("sum by (a) (rate(foo[step()])) + -(bar offset (step()))",
         "sum by (a) (rate(foo[1m])) + -(bar offset 1m)"),
        ("quantile(scalar(foo offset (step())), foo)", "quantile(scalar(foo offset 1m), foo)"),
        ("sum_over_time(rate(foo[step()])[5m:])", "sum_over_time(rate(foo[1m])[5m:])"),
    ],
)  # fmt: skip
def test_values(text, printed):
    assert to_text(resolved(text)) == printed


def test_instant_queries_have_no_step_and_no_range():
    found = resolved("foo[step() + range() + 1]", start_ms=7000, end_ms=7000, step_ms=0)
    assert to_text(found) == "foo[1s]"


def test_no_expression_is_left():
    found = resolved("foo[step():step()] offset (step())")
    assert isinstance(found, ast.Subquery)
    assert (found.range_expr, found.step_expr, found.shift.offset_expr) == (None, None, None)
    assert (found.range_ms, found.step_ms, found.shift.offset_ms) == (60_000, 60_000, 60_000)


@pytest.mark.parametrize(
    "text",
    ["sum(rate(foo[5m])) / bar offset 1h", "topk(3, -(foo))", "'a'", "time() + 1",
     "max_over_time(foo[1h:5m] @ 3)"],
)  # fmt: skip
def test_trees_without_expressions_are_kept(text):
    tree = parse(text)
    assert resolve_durations(tree, start_ms=0, end_ms=60, step_ms=1) is tree


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("foo[step() - 1m]", "4:15: duration must be greater than 0"),
        ("foo[5 - 10]", "4:10: duration must be greater than 0"),
        ("foo[5m:-step()]", "7:14: duration must be greater than 0"),
        ("foo[1 / (1 - 1)]", "4:15: division by zero"),
        ("foo[1 % (1 - 1)]", "4:15: modulo by zero"),
        ("foo[1e9 ^ 99]", "4:12: duration is NaN or infinite"),
        ("foo[(0 - 8) ^ 0.5]", "4:17: duration is NaN or infinite"),
        ("foo[0 ^ -1]", "4:10: duration is NaN or infinite"),
        ("foo[9e9 * 2]", "4:11: duration is out of range"),
        ("foo offset (1 / (1 - 1))", "12:23: division by zero"),
        ("foo offset (-9e9 * 2)", "12:20: duration is out of range"),
    ],
)
def test_errors(text, error):
    with pytest.raises(QueryError) as caught:
        resolved(text)
    assert str(caught.value) == error


def test_an_infinite_step_is_an_error():
    with pytest.raises(QueryError, match="NaN or infinite"):
        resolved("foo[max_of(step(), 9 ^ 999)]")
    assert math.isfinite(resolved("foo[min_of(step(), 9 ^ 999)]").range_ms)
