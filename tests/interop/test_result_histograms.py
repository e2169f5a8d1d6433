"""Answers with native histograms, in every form."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from tests.reference.memory_source import MemoryDictionary
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import handles
from tsengine.query.answer import QueryResult
from tsengine.query.histogram_arena import HistogramArena
from tsengine.query.labelspace import LabelSpace
from tsengine.query.stepmatrix import RangeVector
from tsengine.result import Result

H = NativeHistogram(
    schema=0, count=12.0, sum=18.4, zero_threshold=0.001, zero_count=2.0,
    positive={0: 4.0, 2: 1.0}, negative={1: 5.0}, hint="gauge",
)  # fmt: skip
H_JSON = (
    '{"count":"12","sum":"18.4","buckets":[[1,"-2","-1","5"],[3,"-0.001","0.001","2"],'
    '[0,"0.5","1","4"],[0,"2","4","1"]]}'
)
CUSTOM = NativeHistogram(
    schema=-53,
    count=6.0,
    sum=math.inf,
    positive={0: 1.0, 1: 2.0, 2: 3.0},
    custom_bounds=(0.5, 10.0),
)
CUSTOM_JSON = (
    '{"count":"6","sum":"+Inf","buckets":[[3,"-Inf","0.5","1"],[0,"0.5","10","2"],'
    '[0,"10","+Inf","3"]]}'
)
EMPTY = NativeHistogram(schema=3, count=0.0, sum=0.0)
EMPTY_JSON = '{"count":"0","sum":"0"}'


def answer(labels, cells, *, steps, kind="matrix"):
    """`cells`: a list per series of a float, a histogram or None (absent)."""
    space = LabelSpace(MemoryDictionary())
    found = []
    values, valid = np.empty((2, len(labels), len(steps)))
    for s, row in enumerate(cells):
        for k, cell in enumerate(row):
            valid[s, k] = cell is not None
            values[s, k] = cell if isinstance(cell, float) else math.nan
            if isinstance(cell, NativeHistogram):
                values[s, k : k + 1] = handles(np.array([len(found)])).view(float)
                found.append(cell)
    is_valid = valid.astype(bool)
    return Result(
        QueryResult(
            kind, space.from_dicts(labels), space, np.array(steps, np.int64), values,
            None if is_valid.all() else is_valid, histograms=from_list(found) if found else None,
        )
    )  # fmt: skip


@pytest.fixture
def matrix():
    return answer(
        [{"__name__": "a"}, {"__name__": "b", "x": "1"}],
        [[1.5, H, None], [CUSTOM, None, EMPTY]],
        steps=[1000, 2000, 3000],
    )


def test_json_of_a_matrix(matrix):
    assert matrix.to_json().decode() == (
        '{"resultType":"matrix","result":[{"metric":{"__name__":"a"},"values":[[1,"1.5"]],'
        f'"histograms":[[2,{H_JSON}]]}},{{"metric":{{"__name__":"b","x":"1"}},'
        f'"histograms":[[1,{CUSTOM_JSON}],[3,{EMPTY_JSON}]]}}]}}'
    )
    assert matrix.to_prometheus() == json.loads(matrix.to_json())


def test_json_of_a_vector():
    result = answer([{"a": "1"}, {"a": "2"}], [[H], [2.0]], steps=[1500], kind="vector")
    assert result.to_json().decode() == (
        f'{{"resultType":"vector","result":[{{"metric":{{"a":"1"}},"histogram":[1.500,{H_JSON}]}},'
        '{"metric":{"a":"2"},"value":[1.500,"2"]}]}'
    )


def test_buckets_end_where_the_zero_bucket_begins():
    wide = NativeHistogram(
        schema=0, count=7.0, sum=0.0, zero_threshold=0.75, zero_count=1.0,
        positive={0: 2.0, 1: 1.0}, negative={0: 3.0},
    )  # fmt: skip
    result = answer([{}], [[wide]], steps=[0], kind="vector")
    (row,) = result.to_prometheus()["result"]
    assert row["histogram"][1]["buckets"] == [
        [1, "-1", "-0.75", "3"], [3, "-0.75", "0.75", "1"], [0, "0.75", "1", "2"],
        [0, "1", "2", "1"],
    ]  # fmt: skip


@pytest.mark.parametrize("zero_count", [-2.0, math.nan])
def test_zero_bucket_without_positive_count_is_left_out(zero_count):
    odd = NativeHistogram(
        schema=0, count=1.0, sum=0.0, zero_threshold=0.5, zero_count=zero_count,
        positive={1: 3.0, 2: -1.0},
    )  # fmt: skip
    result = answer([{}], [[odd]], steps=[0], kind="vector")
    (row,) = result.to_prometheus()["result"]
    assert row["histogram"][1]["buckets"] == [[0, "1", "2", "3"], [0, "2", "4", "-1"]]


def test_arrays_have_nan_for_histograms(matrix):
    np.testing.assert_array_equal(matrix.to_numpy(), [[1.5, math.nan, math.nan], [math.nan] * 3])
    assert matrix.validity().tolist() == [[True, True, False], [True, False, True]]
    (_, times, values), (_, other_times, other_values) = matrix.series()
    assert (times.tolist(), values.tolist()) == ([1000], [1.5])
    assert (other_times.tolist(), other_values.tolist()) == ([], [])


def test_histograms_as_objects(matrix):
    (labels, times, found), (_, other_times, others) = matrix.histograms()
    assert labels == {"__name__": "a"}
    assert (times.tolist(), found) == ([2000], [H])
    assert (other_times.tolist(), others) == ([1000, 3000], [CUSTOM, EMPTY])
    floats = answer([{}], [[1.0]], steps=[7])
    ((_, times, found),) = floats.histograms()
    assert (times.tolist(), found) == ([], [])


def test_csv_has_json_in_the_value_column(matrix):
    lines = list(csv.reader(io.StringIO(matrix.to_csv().decode())))
    assert lines == [
        ["__name__", "x", "timestamp", "value"],
        ["a", "", "1.000", "1.5"],
        ["a", "", "2.000", H_JSON],
        ["b", "1", "1.000", CUSTOM_JSON],
        ["b", "1", "3.000", EMPTY_JSON],
    ]


def test_arrow_has_a_column_of_structs(matrix):
    table = matrix.to_arrow()
    assert table.column_names == ["labels", "timestamp", "value", "histogram"]
    values = table.column("value").to_pylist()
    found = table.column("histogram").to_pylist()
    assert values[0] == 1.5
    assert all(math.isnan(value) for value in values[1:])
    assert found[0] is None
    assert [row["count"] for row in found[1:]] == [12.0, 6.0, 0.0]
    assert [row["sum"] for row in found[1:]] == [18.4, math.inf, 0.0]
    floats = answer([{}], [[1.0]], steps=[7])
    assert floats.to_arrow().column_names == ["labels", "timestamp", "value"]
    assert b"resultType" in matrix.to_arrow_stream()


def test_truncated(matrix):
    cut = matrix.truncate(1)
    assert cut.labels == [{"__name__": "a"}]
    assert [found for _, _, found in cut.histograms()] == [[H]]
    assert json.loads(cut.to_json())["result"] == json.loads(matrix.to_json())["result"][:1]


def test_range_vectors():
    space = LabelSpace(MemoryDictionary())
    rows = space.from_dicts([{"a": "1"}, {"a": "2"}])
    values = np.array([1.0, 0.0, 0.0])
    values[1:] = handles(np.array([1, 0])).view(float)
    samples = RangeVector(rows, np.array([0, 2, 3]), np.array([5, 1005, 2005]), values)
    result = Result(
        QueryResult(
            "matrix", rows, space, np.empty(0, np.int64), np.empty((2, 0)), samples=samples,
            histograms=from_list([EMPTY, CUSTOM]),
        )
    )  # fmt: skip
    assert result.is_range_vector
    assert result.to_json().decode() == (
        '{"resultType":"matrix","result":[{"metric":{"a":"1"},"values":[[0.005,"1"]],'
        f'"histograms":[[1.005,{CUSTOM_JSON}]]}},'
        f'{{"metric":{{"a":"2"}},"histograms":[[2.005,{EMPTY_JSON}]]}}]}}'
    )
    assert [found for _, _, found in result.histograms()] == [[CUSTOM], [EMPTY]]
    cut = result.truncate(1)
    assert [times.tolist() for _, times, _ in cut.histograms()] == [[1005]]


def test_an_answer_keeps_only_its_own_histograms():
    arena = HistogramArena()
    plain = np.array([[1.0, math.nan]])
    assert arena.extract(plain, None) == (plain, None)
    first = arena.add(from_list([H, CUSTOM]))
    second = arena.add(from_list([EMPTY, H]))
    values = np.array([[second[0], 1.0, first[1]], [second[0], first[0], second[1]]])
    valid = np.array([[True, True, True], [True, False, False]])
    own, table = arena.extract(values, valid)
    assert len(table) == 2
    result = Result(
        QueryResult(
            "matrix", *make_rows(2), np.arange(3), own, valid, histograms=table
        )
    )  # fmt: skip
    assert [found for _, _, found in result.histograms()] == [[EMPTY, CUSTOM], [EMPTY]]
    assert arena.extract(plain, None) == (plain, None)


def make_rows(n):
    space = LabelSpace(MemoryDictionary())
    return space.from_dicts([{"a": str(k)} for k in range(n)]), space
