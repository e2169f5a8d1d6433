"""The layout of format_query and the shape of parse_query; compared to Prometheus in tests/real."""

import json
from pathlib import Path

import pytest

from tests.promql.script import Eval, read_script
from tests.promql.trees import shape
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.pretty import LINE_SIZE_MAX, pretty
from tsengine.promql.syntax_json import syntax_tree

LONG = 'a_rather_long_metric_name{and="another one that is not short either",with="a label value"}'
NEAR = LONG + " or " + "m" * (LINE_SIZE_MAX - len(LONG) - 4)


def tree_of(text):
    return parse(text, features=ALL_ON)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("sum by(a)(foo)", ["sum by (a) (foo)"]),
        (f"sum by(a)(rate({LONG}[5m]))", ["sum by (a) (", f"  rate({LONG}[5m])", ")"]),
        (f"{LONG}+on(x)group_left(y){LONG}",
         [f"  {LONG}", "+ on (x) group_left (y)", f"  {LONG}"]),
        (f"topk(3,{LONG}>1)", ["topk(", "  3,", f"  {LONG} > 1", ")"]),
        (f"-({NEAR})", ["-(", f"  {NEAR}", ")"]),
        (f"({NEAR})[1h:5m] offset 1m",
         ["(", f"  {NEAR}", ")[1h:5m] offset 1m"]),
        # Prometheus does not indent a short subquery; a longer one takes its operand's place.
        (f"clamp_max(max_over_time(foo[1h:5m]) + {LONG}, 1)",
         ["clamp_max(", "    max_over_time(foo[1h:5m])", "  +", f"    {LONG},", "  1", ")"]),
        (f"max_over_time({LONG}[1h:5m])", ["max_over_time(", f"{LONG}[1h:5m]", ")"]),
        (f"clamp({LONG}, 1, 2)", ["clamp(", f"  {LONG},", "  1,", "  2", ")"]),
        (f"Inf ^ ({LONG} + b)", ["  Inf", "^", f"  ({LONG} + b)"]),
    ],
)  # fmt: skip
def test_layout(text, lines):
    printed = pretty(tree_of(text))
    assert printed.split("\n") == lines
    assert shape(tree_of(printed)) == shape(tree_of(text))


def test_lines_are_measured_in_bytes():
    name = "x" * (LINE_SIZE_MAX - 4)
    assert pretty(tree_of(f"{name}+1")) == f"{name} + 1"
    assert pretty(tree_of(f"{name}x+1")) == f"  {name}x\n+\n  1"
    accents = '{a="' + "é" * 46 + '"}'
    assert pretty(tree_of(accents + "+1")) == f"  {accents}\n+\n  1"


def own_queries():
    found = []
    for path in sorted((Path(__file__).parent / "testdata").glob("*.test")):
        found += [block.expr for block in read_script(path) if isinstance(block, Eval)]
    return found


def test_all_queries_of_the_scripts_are_read_back():
    queries = [query for query in own_queries() if _parses(query)]
    assert len(queries) > 300
    for query in queries:
        tree = tree_of(query)
        assert shape(tree_of(pretty(tree))) == shape(tree)
        json.dumps(syntax_tree(tree), allow_nan=False)


def _parses(query):
    try:
        tree_of(query)
    except Exception:
        return False
    return True


NO_SHIFT = {"offset": 0, "offsetExpr": None, "timestamp": None, "startOrEnd": None}
PLAIN = {**NO_SHIFT, "anchored": False, "smoothed": False}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1.5e3", {"type": "numberLiteral", "val": "1500"}),
        ("'a'", {"type": "stringLiteral", "val": "a"}),
        ("foo{b!='1'} offset 5m",
         {"type": "vectorSelector", "name": "foo", **PLAIN, "offset": 300_000,
          "matchers": [{"name": "__name__", "value": "foo", "type": "="},
                       {"name": "b", "value": "1", "type": "!="}]}),
        ("{'foo'}[1m] @ end()",
         {"type": "matrixSelector", "name": "", **PLAIN, "startOrEnd": "end", "range": 60_000,
          "rangeExpr": None, "matchers": [{"name": "__name__", "value": "foo", "type": "="}]}),
        ("(foo)[1h:] @ 1.5",
         {"type": "subquery", **NO_SHIFT, "timestamp": 1500, "range": 3_600_000,
          "rangeExpr": None, "step": 0, "stepExpr": None,
          "expr": {"type": "parenExpr",
                   "expr": {"type": "vectorSelector", "name": "foo", **PLAIN,
                            "matchers": [{"name": "__name__", "value": "foo", "type": "="}]}}}),
        ("-time()",
         {"type": "unaryExpr", "op": "-",
          "expr": {"type": "call", "args": [],
                   "func": {"name": "time", "argTypes": [], "variadic": 0,
                            "returnType": "scalar"}}}),
        ("topk by (a) (2, vector(1))",
         {"type": "aggregation", "op": "topk", "grouping": ["a"], "without": False,
          "param": {"type": "numberLiteral", "val": "2"},
          "expr": {"type": "call", "args": [{"type": "numberLiteral", "val": "1"}],
                   "func": {"name": "vector", "argTypes": ["scalar"], "variadic": 0,
                            "returnType": "vector"}}}),
    ],
)  # fmt: skip
def test_syntax_tree(text, tree):
    assert syntax_tree(tree_of(text)) == tree


def test_duration_expressions_in_the_syntax_tree():
    number = {"type": "numberLiteral", "val": "5", "duration": False}
    step = {"type": "durationExpr", "op": "step", "lhs": None, "rhs": None, "wrapped": False}
    assert syntax_tree(tree_of("foo[step()*(5)] offset -(step()+5)")) | {"matchers": []} == {
        "type": "matrixSelector", "name": "foo", **PLAIN, "matchers": [], "range": 0,
        "rangeExpr": {
            "type": "durationExpr", "op": "*", "lhs": step, "wrapped": False,
            "rhs": {"type": "durationExpr", "op": "+", "lhs": None, "rhs": number,
                    "wrapped": True},
        },
        "offsetExpr": {
            "type": "durationExpr", "op": "-", "lhs": None, "wrapped": False,
            "rhs": {"type": "durationExpr", "op": "+", "lhs": step, "rhs": number,
                    "wrapped": True},
        },
    }  # fmt: skip
