"""interop/prometheus_json.py and kernels/numbers.py against the plain-Python twin."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import numbers as reference
from tsengine.interop import prometheus_json
from tsengine.model.labels import LabelRows

anything = st.floats(allow_nan=True, allow_infinity=True, width=64)
label_sets = st.dictionaries(
    st.sampled_from(["__name__", "a", 'b"c', "ü"]), st.text(min_size=1, max_size=5), max_size=4
)


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
    text = prometheus_json.matrix_json(
        label_rows, lambda pair: pairs[pair], values, offsets, stamps, which
    )
    scaled = [
        (dict(sorted(labels.items())), [(t * 1501, v) for t, v in samples])
        for labels, samples in rows
    ]
    expected = reference.write_series(scaled, matrix=True)
    assert json.loads(text)["result"] == json.loads(f"[{expected}]")
    assert text.startswith(b'{"resultType":"matrix","result":[')
    if all(ord(c) > 31 and c != "\x7f" for labels, _ in rows for v in labels.values() for c in v):
        assert text.decode() == '{"resultType":"matrix","result":[' + expected + "]}"


def test_vector_scalar_and_string():
    rows, pairs = columns([({"__name__": "up", "job": "a"}, None), ({}, None)])
    text = prometheus_json.vector_json(rows, lambda p: pairs[p], np.array([1.0, math.nan]), 1500)
    assert text == (
        b'{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},'
        b'"value":[1.500,"1"]},{"metric":{},"value":[1.500,"NaN"]}]}'
    )
    assert prometheus_json.scalar_json(4000, 2.0) == (b'{"resultType":"scalar","result":[4,"2"]}')
    assert prometheus_json.string_json(-1, 'a"') == (
        b'{"resultType":"string","result":[-0.001,"a\\""]}'
    )


def test_no_rows():
    rows, _ = columns([])
    text = prometheus_json.vector_json(rows, lambda p: ("", ""), np.zeros(0), 0)
    assert text == b'{"resultType":"vector","result":[]}'
