"""Native histograms as an Arrow column of structs: what goes out comes in again."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tsengine
from tests.reference import rich_samples
from tests.reference.rich_samples import Histogram, bits
from tsengine.interop import arrow_file, csv_file, openmetrics, parquet
from tsengine.interop.arrow import HISTOGRAM_SCHEMA, SELECT_SCHEMA
from tsengine.interop.histogram_columns import HISTOGRAM, floats_of, histogram_array, samples_of
from tsengine.model.histograms import handles

T0 = 1_700_000_000_000
BIAS = 2**20


@settings(max_examples=100, deadline=None)
@given(st.lists(rich_samples.histograms() | st.integers(0, 2**20), max_size=12), st.data())
def test_a_column_holds_every_bit(values, data):
    rows = [value for value in values if isinstance(value, Histogram)]
    numbers = data.draw(st.permutations(range(len(rows))))
    table = rich_samples.table_of([rows[numbers.index(i)] for i in range(len(rows))])
    places = iter(handles(np.array(numbers, np.int64)).tolist())
    column = np.array([next(places) if isinstance(v, Histogram) else v for v in values], np.uint64)
    structs = histogram_array(column, table)
    assert structs.type == HISTOGRAM
    assert structs.is_null().to_pylist() == [not isinstance(v, Histogram) for v in values]
    floats = floats_of(column)
    assert [math.isnan(v) for v in floats] == [isinstance(v, Histogram) for v in values]

    some = data.draw(st.integers(0, len(values)))
    found, back = samples_of(floats[some:], structs[some:])
    found_rows = [] if back is None else rich_samples.rows_of_table(back)
    assert found_rows == [value for value in values[some:] if isinstance(value, Histogram)]
    numbered = iter(handles(np.arange(len(found_rows))).tolist())
    expected = [next(numbered) if isinstance(v, Histogram) else v for v in values[some:]]
    assert found.view(np.uint64).tolist() == expected


def test_fields_are_those_of_the_histogram():
    table = rich_samples.table_of(
        [
            Histogram(
                3, 2, bits(9.0), bits(-1.5), bits(0.001), bits(2.0),
                ((-BIAS - 4, bits(1.0)), (-BIAS + 7, bits(2.0)), (BIAS - 2, bits(1.5)),
                 (BIAS, bits(2.5))), None,
            ),
            Histogram(-53, 3, bits(3.0), bits(4.0), 0, 0, ((BIAS + 2, bits(3.0)),),
                      (bits(0.5), bits(1.0))),
        ]
    )  # fmt: skip
    exponential, custom = histogram_array(handles(np.arange(2)), table).to_pylist()
    assert exponential == {
        "schema": 3, "zero_threshold": 0.001, "zero_count": 2.0, "count": 9.0, "sum": -1.5,
        "positive": [{"index": -2, "count": 1.5}, {"index": 0, "count": 2.5}],
        "negative": [{"index": -7, "count": 2.0}, {"index": 4, "count": 1.0}],
        "custom_bounds": None, "hint": "not_reset",
    }  # fmt: skip
    assert custom["positive"] == [{"index": 2, "count": 3.0}]
    assert (custom["schema"], custom["custom_bounds"], custom["hint"]) == (-53, [0.5, 1.0], "gauge")


def test_what_others_wrote_is_put_in_order_or_refused():
    good = {
        "schema": 0, "zero_threshold": 0.0, "zero_count": 0.0, "count": 3.0, "sum": 1.0,
        "positive": [
            {"index": 5, "count": 1.0}, {"index": 2, "count": 0.0}, {"index": -1, "count": 2.0},
        ],
        "negative": None, "custom_bounds": None, "hint": "unknown",
    }  # fmt: skip
    _, table = samples_of(np.zeros(1), pa.array([good], HISTOGRAM))
    [found] = rich_samples.rows_of_table(table)
    assert found.buckets == ((BIAS - 1, bits(2.0)), (BIAS + 5, bits(1.0)))
    for change, reason in (
        ({"hint": "soon"}, "hint that is none of unknown, reset"),
        ({"count": None}, "without 'count'"),
        ({"positive": [{"index": 2**20, "count": 1.0}]}, "beyond 1048575"),
        ({"custom_bounds": [1.0]}, "custom_bounds of an exponential"),
        ({"schema": -53, "custom_bounds": [None]}, "empty places"),
    ):
        with pytest.raises(ValueError, match=reason):
            samples_of(np.zeros(1), pa.array([good | change], HISTOGRAM))
    narrow = pa.array([{"schema": 1}], pa.struct([("schema", pa.int8())]))
    with pytest.raises(ValueError, match="lacks zero_threshold, zero_count"):
        samples_of(np.zeros(1), narrow)


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "source") as opened:
        refs = opened.series_refs([{"__name__": "h", "i": "1"}, {"__name__": "f"}])
        rows = [
            Histogram(
                2, 0, bits(float(k + 3)), bits(k / 4), bits(0.5), bits(1.0),
                ((-BIAS - 1, bits(float(k + 1))), (BIAS + k, bits(1.0))), None,
            )
            for k in range(1, 20)
        ]  # fmt: skip
        rows.append(
            Histogram(-53, 3, bits(1.0), bits(2.0), 0, 0, ((BIAS, bits(1.0)),), (bits(3.0),))
        )
        table = rich_samples.table_of(rows)
        times = T0 + 1000 * np.arange(20)
        values = handles(np.arange(20)).view(np.float64)
        opened.append_columns(np.full(10, refs[0]), times[:10], values[:10], table)
        opened.append_columns(np.full(20, refs[1]), times, np.arange(20.0))
        opened.flush()
        opened.append_columns(np.full(10, refs[0]), times[10:], values[10:], table)
        opened.append_columns(refs[:1], times[5:6], [7.5])
        yield opened


def samples(db, selector='{__name__!=""}'):
    table = db.select(selector).read_all()
    rows = table.to_pylist()
    for row in rows:
        row["labels"] = tuple(row["labels"])
        row["value"] = None if math.isnan(row["value"]) else row["value"]
    return table.schema, rows


def test_select_has_the_column_only_where_histograms_may_be(db):
    schema, rows = samples(db)
    assert schema == HISTOGRAM_SCHEMA
    assert sum(row["histogram"] is not None for row in rows) == 19
    assert sum(row["value"] is not None for row in rows) == 21
    own = [row for row in rows if dict(row["labels"])["__name__"] == "h"]
    assert own[4]["histogram"]["count"] == 8.0
    assert (own[5]["value"], own[5]["histogram"]) == (7.5, None)
    assert own[12]["histogram"]["positive"] == [{"index": 13, "count": 1.0}]
    db.flush()
    assert samples(db) == (schema, rows)
    schema, rows = samples(db, "f")
    assert schema == SELECT_SCHEMA
    assert [row["value"] for row in rows] == list(np.arange(20.0))


@pytest.mark.parametrize("form", [parquet, arrow_file])
def test_files_round_trip(db, tmp_path, form):
    path = tmp_path / "samples"
    assert form.export_file(db, path) == 40
    with tsengine.open(tmp_path / "target") as target:
        report = form.import_file(target, path)
        assert (report.n_samples, report.n_refused) == (40, 0)
        assert samples(target) == samples(db)


def test_a_column_of_label_values_may_be_called_histogram(tmp_path):
    columns = {"__name__": ["a"], "histogram": ["x"], "timestamp": [T0], "value": [1.0]}
    pq.write_table(pa.table(columns), tmp_path / "x")
    with tsengine.open(tmp_path / "target") as target:
        assert parquet.import_file(target, tmp_path / "x").n_samples == 1
        assert samples(target)[1][0]["labels"] == (("__name__", "a"), ("histogram", "x"))


@pytest.mark.parametrize("form", [csv_file, openmetrics])
def test_texts_leave_histograms_out(db, tmp_path, form):
    path = tmp_path / "samples"
    assert form.export_file(db, path) == 21
    with tsengine.open(tmp_path / "target") as target:
        form.import_file(target, path)
        found = samples(target)[1]
        assert [row["value"] for row in found if len(row["labels"]) == 2] == [7.5]
