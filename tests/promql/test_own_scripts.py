"""The project's own test scripts, and that together they use the whole language."""

from functools import partial
from pathlib import Path

import pytest

from tests.promql import databases, runner
from tests.promql.script import Eval, read_script
from tests.promql.trees import nodes
from tsengine.model.matchers import MatchOp
from tsengine.promql import ast
from tsengine.promql.functions import ALL_ON, FUNCTIONS
from tsengine.promql.lexer import AGGREGATORS
from tsengine.promql.parser import parse

SCRIPTS = sorted((Path(__file__).parent / "testdata").glob("*.test"))
OPERATORS = (
    "+ - * / % ^ atan2 == != < > <= >= </ >/ and or unless"
).split()  # fmt: skip


DATABASES = {
    "embedded": databases.embedded_database,
    "flushed": databases.flushed_database,
    "shared-axes": partial(databases.memory_database, share_axes=True),
    "own-axes": partial(databases.memory_database, share_axes=False),
}


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path, database):
    # How a query is varied is the same for all databases, so one of them with all of it will do.
    outcomes = runner.run_script(
        read_script(path), DATABASES[database], at_variants=database == "embedded"
    )
    problems = [
        f"{path.name}:{outcome.line}: {outcome.expr}\n    {outcome.problem}"
        for outcome in outcomes
        if outcome.problem is not None
    ]
    assert outcomes
    assert not problems, f"{len(problems)} cases:\n" + "\n".join(problems)


def nodes_of(paths):
    """All nodes of all expressions that are expected to succeed."""
    return [
        node
        for path in paths
        for command in read_script(path)
        if isinstance(command, Eval) and not command.expects("fail")
        for node in nodes(parse(command.expr, features=ALL_ON))
    ]


@pytest.fixture(scope="module")
def used():
    return nodes_of(SCRIPTS)


@pytest.fixture(scope="module")
def used_on_histograms():
    return nodes_of([path for path in SCRIPTS if "{{" in path.read_text()])


def test_every_function_is_used(used):
    calls = {node.name for node in used if isinstance(node, ast.Call)}
    assert calls == FUNCTIONS.keys()


def test_every_aggregator_is_used(used):
    aggregations = [node for node in used if isinstance(node, ast.Aggregate)]
    assert {node.op for node in aggregations} == AGGREGATORS
    assert {bool(node.grouping) for node in aggregations if node.without} == {True, False}
    assert {bool(node.grouping) for node in aggregations if not node.without} == {True, False}


def test_every_operator_is_used(used):
    operations = [node for node in used if isinstance(node, ast.Binary)]
    assert {node.op for node in operations} == set(OPERATORS)
    assert any(node.returns_bool for node in operations)
    matchings = [node.matching for node in operations if node.matching is not None]
    assert {matching.cardinality for matching in matchings} == set(ast.Cardinality)
    assert {matching.is_on for matching in matchings if matching.labels} == {True, False}
    assert any(matching.include for matching in matchings)
    assert any(matching.fill_left is not None for matching in matchings)
    assert any(matching.fill_right is not None for matching in matchings)
    assert {node.op for node in used if isinstance(node, ast.Unary)} == {"+", "-"}


def test_everything_that_takes_a_vector_meets_native_histograms(used_on_histograms):
    calls = {node.name for node in used_on_histograms if isinstance(node, ast.Call)}
    vectors = {ast.ValueType.VECTOR, ast.ValueType.MATRIX}
    assert calls >= {name for name, f in FUNCTIONS.items() if vectors & set(f.args)}
    aggregations = [node for node in used_on_histograms if isinstance(node, ast.Aggregate)]
    assert {node.op for node in aggregations} == AGGREGATORS
    operations = [node for node in used_on_histograms if isinstance(node, ast.Binary)]
    assert {node.op for node in operations} == set(OPERATORS)
    ranges = [node for node in used_on_histograms if isinstance(node, ast.VectorSelector)]
    assert any(node.anchored for node in ranges)
    assert any(node.smoothed for node in ranges)


def test_every_way_to_select_is_used(used):
    selectors = [node for node in used if isinstance(node, ast.VectorSelector)]
    assert {m.op for node in selectors for m in node.matchers} == set(MatchOp)
    subqueries = [node for node in used if isinstance(node, ast.Subquery)]
    assert {node.step_ms is None for node in subqueries} == {True, False}
    shifts = [node.shift for node in selectors + subqueries]
    assert {shift.at_edge for shift in shifts} == {None, *ast.Edge}
    assert {(node.anchored, node.smoothed) for node in selectors} == {
        (False, False), (True, False), (False, True)
    }  # fmt: skip
    assert any(shift.at_ms is not None for shift in shifts)
    assert any(shift.offset_ms > 0 for shift in shifts)
    assert any(shift.offset_ms < 0 for shift in shifts)
    durations = {node.name for node in used if isinstance(node, ast.DurationCall)}
    assert durations == {"step", "range", "min_of", "max_of"}
    operators = {node.op for node in used if isinstance(node, ast.DurationBinary)}
    assert operators == set("+-*/%^")
