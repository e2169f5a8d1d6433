"""The newest samples of series, and their text."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text

import tsengine
from tests.interop.test_chunks import columns
from tsengine import errors
from tsengine.interop.arrow import LABELS, SELECT_SCHEMA, TIMESTAMP
from tsengine.interop.exposition import exposition, newest_table
from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_values import NativeHistogram
from tsengine.model.labels import LabelRows

STALE = np.uint64(0x7FF0000000000002).view(np.float64)
T = 1_700_000_000_000
EVERYTHING = ['{__name__=~".+"}']


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "data") as opened:
        yield opened


def texts(db, **kwargs):
    return exposition(db.newest(EVERYTHING, T), **kwargs).decode().splitlines()


def test_newest_within_the_lookback(db):
    db.append({"__name__": "a", "i": "1"}, [T - 1000, T, T + 1], [1.0, 2.0, 3.0])
    db.append({"__name__": "a", "i": "2"}, [T - 300_000], [4.0])
    db.append({"__name__": "a", "i": "3"}, [T - 300_001], [5.0])
    db.append({"__name__": "a", "i": "4"}, [T - 2000, T - 1000], [6.0, STALE])
    db.flush()
    db.append({"__name__": "a", "i": "5"}, [T - 7], [math.nan])
    table = db.newest(["a", 'a{i="1"}'], T).to_pydict()
    rows = {dict(labels)["i"]: value for labels, value in
            zip(table["labels"], table["value"], strict=True)}  # fmt: skip
    assert rows.keys() == {"1", "2", "5"}
    assert (rows["1"], rows["2"]) == (2.0, 4.0)
    assert math.isnan(rows["5"])
    stamps = [round(stamp.timestamp() * 1000) for stamp in table["timestamp"]]
    assert sorted(stamps) == [T - 300_000, T - 7, T]
    assert db.newest(["a"], T, lookback=5.0).num_rows == 2
    assert db.newest([], T).num_rows == 0
    with pytest.raises(errors.ParseError):
        db.newest(["a{"], T)


def test_text_and_openmetrics(db):
    db.append({"__name__": "b", "x": 'q"\\\n'}, [T - 1500], [2.5])
    db.append({"__name__": "b", "instance": "i"}, [T], [-math.inf])
    db.append({"__name__": "a.b", "y.z": "é", "9": "n"}, [T - 5], [1e21])
    db.append({"__name__": "a"}, [T], [1e-7])
    assert texts(db) == [
        "# TYPE a untyped",
        f'a{{instance=""}} 1e-7 {T}',
        "# TYPE a_b untyped",
        f'a_b{{_="n",y_z="é",instance=""}} 1e+21 {T - 5}',
        "# TYPE b untyped",
        f'b{{instance="i"}} -Inf {T}',
        f'b{{x="q\\"\\\\\\n",instance=""}} 2.5 {T - 1500}',
    ]
    assert texts(db, openmetrics=True, utf8=True) == [
        "# TYPE a unknown",
        'a{instance=""} 1e-7 1700000000.000',
        '# TYPE "a.b" unknown',
        '{"a.b","9"="n","y.z"="é",instance=""} 1e+21 1699999999.995',
        "# TYPE b unknown",
        'b{instance="i"} -Inf 1700000000.000',
        'b{x="q\\"\\\\\\n",instance=""} 2.5 1699999998.500',
        "# EOF",
    ]


def test_nothing(db):
    assert texts(db) == []
    assert texts(db, openmetrics=True) == ["# EOF"]
    db.append({"__name__": "only"}, [T], [1])
    assert texts(db) == ["# TYPE only untyped", f'only{{instance=""}} 1 {T}']


VALUES = st.floats(allow_nan=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(rows=st.dictionaries(st.tuples(st.sampled_from("abc"), TEXTS), VALUES, max_size=6))
def test_parsers_read_it_back(rows):
    maps = [[("__name__", name), ("x", text)] for name, text in rows]
    indices = pa.array(range(len(rows)), pa.int32())
    labels = pa.DictionaryArray.from_arrays(indices, pa.array(maps, LABELS))
    stamps = pa.array([T] * len(rows), TIMESTAMP)
    columns = [labels, stamps, pa.array(rows.values(), pa.float64())]
    table = pa.table(columns, schema=SELECT_SCHEMA)
    for read, openmetrics in ((read_text, False), (read_openmetrics, True)):
        found = {}
        for family in read(exposition(table, openmetrics=openmetrics).decode()):
            for sample in family.samples:
                found[sample.name, sample.labels["x"]] = sample.value
        assert found == rows


def test_series_whose_newest_sample_is_a_histogram_are_left_out():
    first_ms = int(T)
    rows = [[1.5, CUSTOM], [CUSTOM, 2.5], [CUSTOM]]
    view = HistogramView([[(first_ms + k, cell) for k, cell in enumerate(row)] for row in rows])
    table = newest_table(view, np.arange(3, dtype=np.uint32), 0, T + 9)
    (row,) = table.to_pylist()
    assert (dict(row["labels"]), row["value"]) == ({"kind": "gauge"}, 2.5)


CUSTOM = NativeHistogram(schema=-53, count=1.0, sum=2.0, positive={0: 1.0}, custom_bounds=(0.5,))


class HistogramView:
    """A view of three series."""

    texts = ("kind", "counter", "gauge", "other")
    pair_names = np.zeros(3, np.uint32)
    pair_values = np.array([1, 2, 3], np.uint32)

    def __init__(self, rows):
        self.dictionary = self
        t_ms, values, offsets, table = columns(rows)
        self.frames = FrameBatch(t_ms, offsets, np.arange(3), values, offsets, table)

    def text(self, symbol):
        return self.texts[symbol]

    def count_samples(self, refs, mint, maxt):
        return 5

    def labels(self, refs):
        return LabelRows(np.arange(len(refs) + 1), refs)

    def read(self, refs, mint, maxt, *, drop_stale):
        return self.frames
