"""A short run of the fuzzer, and what it relies on. The long one: ``python -m
tests.differential.fuzz``.
"""

from __future__ import annotations

import math

import pytest

from tests.differential.clocks import BASE_MS, END_MS, STALE_BITS
from tests.differential.compare import answers_differ, notes_differ, same_number
from tests.differential.data import make_series
from tests.differential.explained import RULES
from tests.differential.fuzz import fuzzing
from tests.differential.grammar import Node, smaller
from tests.differential.native_grammar import make_query
from tests.real.peers import MissingPeerError

RUNS = (
    ("embedded", False, 1, 1600), ("flushed", False, 2, 800), ("server", False, 3, 400),
    ("embedded", True, 4, 800),
)  # fmt: skip


@pytest.mark.parametrize(("mode", "delayed_names", "seed", "n_queries"), RUNS)
def test_random_queries_are_answered_alike(tmp_path, mode, delayed_names, seed, n_queries):
    try:
        with fuzzing(tmp_path, seed=seed, mode=mode, delayed_names=delayed_names) as fuzzer:
            summary = fuzzer.run(range(n_queries))
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))
    assert not summary.differences, "\n".join(map(str, summary.differences))
    assert summary.n_queries == n_queries
    assert summary.n_with_rows > n_queries / 3
    assert sum(summary.explained.values()) < n_queries / 10


def test_queries_and_data_are_the_same_for_a_seed():
    first, second = make_query(5, 17), make_query(5, 17)
    assert str(first[0]) == str(second[0])
    assert first[1] == second[1]
    assert repr(make_series(5)) == repr(make_series(5))
    assert repr(make_series(5)) != repr(make_series(6))


def test_samples_ascend_and_have_all_kinds_of_values():
    import struct

    bits = set()
    for _, samples in make_series(1):
        times = [t for t, _ in samples]
        assert times == sorted(set(times))
        assert BASE_MS <= times[0] <= times[-1] <= END_MS + 1
        bits |= {struct.unpack("<Q", struct.pack("<d", value))[0] for _, value in samples}
    specials = (math.nan, math.inf, -math.inf, -0.0, 5e-324)
    assert bits >= {struct.unpack("<Q", struct.pack("<d", value))[0] for value in specials}
    assert STALE_BITS in bits


def test_smaller_trees_keep_their_kind_and_end():
    node, _ = make_query(1, 3)
    for _ in range(1000):
        nexts = [other for other in smaller(node) if other.size < node.size]
        if not nexts:
            break
        assert {other.kind for other in nexts} == {node.kind}
        node = nexts[-1]
    else:
        raise AssertionError("shrinking does not end")


def test_a_planted_difference_is_found_and_made_small(tmp_path):
    class Wrong:
        """Gives every number of a `sum_over_time` one more."""

        def __init__(self, peer):
            self._peer = peer

        def query(self, expr, time_ms):
            return self._changed(expr, self._peer.query(expr, time_ms))

        def query_range(self, expr, *times):
            return self._changed(expr, self._peer.query_range(expr, *times))

        def _changed(self, expr, answer):
            if answer["status"] == "success" and expr.startswith("sum_over_time"):
                for row in answer["data"]["result"]:
                    for point in row.get("values") or [row["value"]]:
                        point[1] = str(float(point[1]) + 1)
            return answer

    try:
        with fuzzing(tmp_path, seed=1) as fuzzer:
            fuzzer.tsengine = Wrong(fuzzer.tsengine)
            summary = fuzzer.run(range(200))
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))
    values = [found for found in summary.differences if found.kind == "value"]
    assert values
    assert all(found.expr.startswith("sum_over_time") for found in values)
    assert "sum_over_time(level[5m])" in {found.expr for found in values}


def _vector(*values):
    rows = [{"metric": {"n": str(n)}, "value": [1, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": rows}}


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("1", "1.0000000001", True), ("1", "1.00000001", False), ("NaN", "NaN", True),
        ("NaN", "0", False), ("+Inf", "-Inf", False), ("+Inf", "1e308", False), ("0", "-0", False),
        ("0", "5e-324", False),
    ],
)  # fmt: skip
def test_numbers(left, right, equal):
    assert same_number(left, right) == equal
    assert (answers_differ(_vector(left), _vector(right)) is None) == equal


def test_what_else_is_compared():
    error = {"status": "error", "errorType": "execution", "error": "x"}
    assert answers_differ(_vector("1"), error)[0] == "status"
    assert answers_differ(error, {**error, "errorType": "bad_data"})[0] == "error type"
    assert answers_differ(error, {**error, "error": "y"}) is None
    assert answers_differ(_vector("1"), _vector("1", "2"))[0] == "labels"
    assert answers_differ(_vector("1", "2"), _vector("2", "1"))[0] == "value"
    swapped = _vector("1", "2")
    swapped["data"]["result"].reverse()
    assert answers_differ(_vector("1", "2"), swapped) is None
    assert answers_differ(_vector("1", "2"), swapped, root_op="sort")[0] == "order"
    noted = {**_vector("1"), "infos": ["PromQL info: x (1:1)"]}
    assert notes_differ(noted, _vector("1"))[0] == "infos"
    assert notes_differ(noted, noted) is None


def test_rules_have_names_and_reasons():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason for rule in RULES)
    assert str(Node("v", ("abs(", Node("v", ("up",)), ")"))) == "abs(up)"
