"""interop/prometheus_json.py and kernels/numbers.py against the plain-Python twin."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import numbers as reference
from tests.reference.memory_source import MemoryDictionary
from tsengine.interop import prometheus_json
from tsengine.kernels import numbers
from tsengine.model.histograms import handles
from tsengine.model.labels import LabelRows, texts_of_pairs

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
label_sets = st.dictionaries(
    st.sampled_from(["__name__", "a", 'b"c', "ü"]), st.text(min_size=1, max_size=5), max_size=4
)


def texts_of(pairs):
    """The names and values of pair ids, out of a list of pairs."""
    return lambda ids: tuple(zip(*(pairs[pair] for pair in ids.tolist()), strict=True))


def columns(rows):
    """Pair ids over a dictionary of the texts that occur."""
    pairs = sorted({item for labels, _ in rows for item in labels.items()})
    ids, offsets = [], [0]
    for labels, _ in rows:
        ids += [pairs.index(item) for item in sorted(labels.items())]
        offsets.append(len(ids))
    return LabelRows(np.array(offsets, np.int64), np.array(ids, np.uint32)), pairs


@given(anything)
@settings(deadline=None, max_examples=500)
def test_one_value_is_written_as_go_writes_it(value):
    assert prometheus_json.format_value(value) == reference.format_value(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "-0"), (1.0, "1"), (1e-6, "0.000001"), (9.99e-7, "9.99e-07"),
        (1e20, "100000000000000000000"), (1e21, "1e+21"), (1e-7, "1e-07"), (5e-324, "5e-324"),
        (123456789012345680000.0, "123456789012345680000"), (1.7976931348623157e308,
        "1.7976931348623157e+308"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"),
        (0.1, "0.1"), (100.0, "100"), (1234.5, "1234.5"), (-2.5e-10, "-2.5e-10"),
    ],
)  # fmt: skip
def test_known_texts(value, text):
    assert prometheus_json.format_value(value) == text


@given(
    st.lists(
        st.tuples(label_sets, st.lists(st.tuples(st.integers(-3, 5), anything), min_size=1)),
        max_size=5,
    )
)
@settings(deadline=None, max_examples=100)
def test_matrix_matches_reference(rows):
    label_rows, pairs = columns(rows)
    values = np.array([v for _, samples in rows for _, v in samples])
    offsets = np.cumsum([0] + [len(samples) for _, samples in rows])
    stamps = np.arange(-3, 6) * 1501
    which = np.array([t + 3 for _, samples in rows for t, _ in samples], np.int64)
    series = prometheus_json.JsonSeries(label_rows, texts_of(pairs), values, offsets, stamps, which)
    text = b"".join(prometheus_json.matrix_json(series))
    scaled = [
        (dict(sorted(labels.items())), [(t * 1501, v) for t, v in samples])
        for labels, samples in rows
    ]
    expected = reference.write_series(scaled, matrix=True)
    assert json.loads(text)["result"] == json.loads(f"[{expected}]")
    assert text.startswith(b'{"resultType":"matrix","result":[')
    if all(ord(c) > 31 and c != "\x7f" for labels, _ in rows for v in labels.values() for c in v):
        assert text.decode() == '{"resultType":"matrix","result":[' + expected + "]}"


def vector(rows, pairs, values, time_ms, histograms=None):
    series = prometheus_json.JsonSeries(
        rows, texts_of(pairs), np.array(values), np.arange(len(values) + 1),
        np.array([time_ms]), np.zeros(len(values), np.int64), histograms,
    )  # fmt: skip
    return b"".join(prometheus_json.vector_json(series))


def test_vector_scalar_and_string():
    rows, pairs = columns([({"__name__": "up", "job": "a"}, None), ({}, None)])
    assert vector(rows, pairs, [1.0, math.nan], 1500) == (
        b'{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},'
        b'"value":[1.500,"1"]},{"metric":{},"value":[1.500,"NaN"]}]}'
    )
    assert prometheus_json.scalar_json(4000, 2.0) == (b'{"resultType":"scalar","result":[4,"2"]}')
    assert prometheus_json.string_json(-1, 'a"') == (
        b'{"resultType":"string","result":[-0.001,"a\\""]}'
    )


def test_no_rows():
    rows, pairs = columns([])
    assert vector(rows, pairs, [], 0) == b'{"resultType":"vector","result":[]}'


def shown(*histograms):
    """Histograms given as (count, sum, [(rule, lower, upper, count), ...])."""
    buckets = [bucket for _, _, found in histograms for bucket in found]
    return prometheus_json.JsonHistograms(
        counts=np.array([count for count, _, _ in histograms], float),
        sums=np.array([total for _, total, _ in histograms], float),
        offsets=np.cumsum([0] + [len(found) for _, _, found in histograms]),
        rules=np.array([rule for rule, _, _, _ in buckets], np.uint8),
        lowers=np.array([lower for _, lower, _, _ in buckets], float),
        uppers=np.array([upper for _, _, upper, _ in buckets], float),
        bucket_counts=np.array([count for _, _, _, count in buckets], float),
    )


EXAMPLE = (42, 34593.34, [(3, -0.25, 0.25, 3), (0, 0.25, 0.5, 12), (0, 0.5, 1, 21), (0, 2, 4, 6)])
EXAMPLE_JSON = (
    '{"count":"42","sum":"34593.34","buckets":[[3,"-0.25","0.25","3"],[0,"0.25","0.5","12"],'
    '[0,"0.5","1","21"],[0,"2","4","6"]]}'
)


def test_histograms_in_a_vector():
    rows, pairs = columns([({"__name__": "h"}, None), ({"__name__": "x"}, None), ({}, None)])
    table = shown((0, math.nan, []), EXAMPLE)
    values = [*handles(np.array([1])).view(float), 2.0, *handles(np.array([0])).view(float)]
    assert vector(rows, pairs, values, 1000, table).decode() == (
        '{"resultType":"vector","result":[{"metric":{"__name__":"h"},"histogram":[1,'
        + EXAMPLE_JSON
        + ']},{"metric":{"__name__":"x"},"value":[1,"2"]},'
        '{"metric":{},"histogram":[1,{"count":"0","sum":"NaN"}]}]}'
    )


def test_histograms_beside_floats_in_a_matrix():
    rows, pairs = columns([({"a": "1"}, None), ({"a": "2"}, None), ({"a": "3"}, None)])
    values = np.array([1.5, 0, 2.5, 0, 4, 5])
    values[[1, 3]] = handles(np.array([0, 1])).view(float)
    table = shown(EXAMPLE, (3, -1.5, [(1, -2, -1, 2), (2, -1, math.inf, 1e30)]))
    series = prometheus_json.JsonSeries(
        rows, texts_of(pairs), values, np.array([0, 3, 4, 6]),
        np.array([1000, 2500, 3000]), np.array([0, 1, 2, 0, 1, 2]), table,
    )  # fmt: skip
    assert b"".join(prometheus_json.matrix_json(series)).decode() == (
        '{"resultType":"matrix","result":[{"metric":{"a":"1"},"values":[[1,"1.5"],[3,"2.5"]],'
        f'"histograms":[[2.500,{EXAMPLE_JSON}]]}},'
        '{"metric":{"a":"2"},"histograms":[[1,{"count":"3","sum":"-1.5","buckets":'
        '[[1,"-2","-1","2"],[2,"-1","+Inf","1e+30"]]}]]},'
        '{"metric":{"a":"3"},"values":[[2.500,"4"],[3,"5"]]}]}'
    )


def test_a_handle_without_a_histogram_is_a_nan_where_there_are_none():
    rows, pairs = columns([({}, None)])
    assert b'[0,"NaN"]' in vector(rows, pairs, handles(np.array([7])).view(float), 0)


@pytest.mark.parametrize("piece_size", [1, 400, 5000])
def test_pieces_of_any_size_make_the_same_text(monkeypatch, piece_size):
    rng = np.random.default_rng(1)
    rows, pairs = columns([({"a": "x" * k, "b": str(k)}, None) for k in range(20)])
    values = rng.normal(size=200)
    values[rng.permutation(200)[:100]] = handles(rng.integers(0, 2, 100)).view(float)
    series = prometheus_json.JsonSeries(
        rows, texts_of(pairs), values, np.arange(21) * 10, np.arange(10) * 1501,
        np.tile(np.arange(10), 20), shown(EXAMPLE, (0, 0, [])),
    )  # fmt: skip
    whole = b"".join(prometheus_json.matrix_json(series))
    monkeypatch.setattr(prometheus_json, "PIECE_SIZE", piece_size)
    pieces = list(prometheus_json.matrix_json(series))
    assert b"".join(pieces) == whole
    assert len(pieces) >= 5
    result = json.loads(whole)["result"]
    assert sum(len(row["values"]) + len(row["histograms"]) for row in result) == 200


@given(st.lists(st.text(alphabet=st.sampled_from('",\\a\udc80ü'), max_size=4), min_size=1))
def test_texts_that_look_like_ends_of_texts(texts):
    expected = [orjson.dumps(prometheus_json._printable(text))[1:-1] for text in texts]
    assert prometheus_json._escaped(texts) == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**6), 10**6), max_size=20))
@settings(deadline=None, max_examples=200)
def test_timestamps_match_reference(stamps):
    text = np.empty(max(len(stamps), 1) * numbers.STAMP_SIZE_MAX, np.uint8)
    offsets = np.full(len(stamps) + 1, -1, np.int64)
    size = numbers.write_stamps(np.array(stamps, np.int64), text, offsets)
    whole = text[:size].tobytes().decode()
    assert offsets[-1] == size
    found = [whole[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
    assert found == reference.write_stamps(stamps)


@pytest.mark.parametrize("t_ms", [0, -1, 999, 1000, -(2**63), 2**63 - 1, 10**18, 10**4 - 1])
def test_timestamps_at_the_borders(t_ms):
    text = prometheus_json.string_json(t_ms, "x").decode()
    assert text == f'{{"resultType":"string","result":[{reference.format_timestamp(t_ms)},"x"]}}'
    rows, pairs = columns([({}, None)])
    assert f"[{reference.format_timestamp(t_ms)},".encode() in vector(rows, pairs, [1.0], t_ms)


@given(st.lists(label_sets, max_size=6))
@settings(deadline=None, max_examples=50)
def test_label_sets_match_orjson(found):
    rows, pairs = columns([(labels, None) for labels in found])
    text = b"".join(prometheus_json.label_sets_json(rows, texts_of(pairs)))
    assert text == orjson.dumps(found, option=orjson.OPT_SORT_KEYS)


def test_many_label_sets_come_in_pieces():
    found = [{"__name__": "x", "i": str(i % 700), "j": "y" * 60} for i in range(5000)]
    rows, pairs = columns([(labels, None) for labels in found])
    pieces = list(prometheus_json.label_sets_json(rows, texts_of(pairs)))
    assert len(pieces) > 3
    assert b"".join(pieces) == orjson.dumps(found)


@given(st.lists(label_sets, max_size=8))
@settings(deadline=None)
def test_arrays_of_a_dictionary_give_the_same_label_sets(found):
    dictionary = MemoryDictionary()
    ids = [[dictionary.pair(*pair) for pair in sorted(labels.items())] for labels in found]
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    rows = LabelRows(offsets, np.array([pair for row in ids for pair in row], np.uint32))
    texts_of = partial(texts_of_pairs, dictionary)
    pieces = list(prometheus_json.label_sets_json(rows, texts_of, dictionary.arrays))
    assert pieces == list(prometheus_json.label_sets_json(rows, texts_of))
