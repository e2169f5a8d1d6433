"""OpenMetrics and Parquet, in and out: samples survive the way to the bit."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.openmetrics import parser as openmetrics_parser

import tsengine
from tsengine.interop import openmetrics, parquet

T0 = 1_700_000_000_000
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]


def samples(db, selector='{__name__!=""}'):
    found = {}
    for batch in db.select(selector):
        bits = batch.column("value").to_numpy().view(np.uint64).tolist()
        times = batch.column("timestamp").cast("int64").to_pylist()
        for labels, t, b in zip(batch.column("labels").to_pylist(), times, bits, strict=True):
            found[tuple(labels), t] = b
    return found


@pytest.fixture
def db(tmp_path):
    with tsengine.open(tmp_path / "source") as opened:
        rng = np.random.default_rng(1)
        t = T0 + 15_000 * np.arange(500)
        for i in range(20):
            labels = {"__name__": f"m{i % 3}_total", "i": str(i), "text": 'a"b\\c\nd'}
            opened.append(labels, t + i % 2, rng.normal(size=500))
        opened.append({"__name__": "odd"}, t[:4], [math.nan, math.inf, -math.inf, -0.0])
        opened.append({"__name__": "with space.ü", "lä bel": "1"}, [T0], [5e-324])
        opened.append_metadata("m0_total", "counter", "Help\nwith a break.", "")
        yield opened


@pytest.fixture
def target(tmp_path):
    with tsengine.open(tmp_path / "target") as opened:
        yield opened


def test_parquet_round_trip(db, target, tmp_path):
    db.append({"__name__": "stale"}, [T0], [STALE])
    calls = []
    n = parquet.export_file(db, tmp_path / "x.parquet", progress=lambda *done: calls.append(done))
    assert n == len(samples(db)) == 10_006
    assert calls[-1][0] == calls[-1][1]
    report = parquet.import_file(target, tmp_path / "x.parquet")
    assert (report.n_samples, report.n_refused) == (n, 0)
    assert samples(target) == samples(db)


def test_openmetrics_round_trip(db, target, tmp_path):
    n = openmetrics.export_file(db, tmp_path / "x.om")
    report = openmetrics.import_file(target, tmp_path / "x.om")
    assert (report.n_samples, report.n_refused, report.reasons) == (n, 0, [])
    assert samples(target) == samples(db)
    assert target.metadata("m0")["m0"][0]["type"] == "counter"
    assert target.metadata("m0")["m0"][0]["help"] == "Help\nwith a break."


def test_openmetrics_export_is_read_by_the_standard_parser(tmp_path):
    with tsengine.open(tmp_path / "db") as db:
        db.append({"__name__": "a_total", "x": 'q"'}, [T0, T0 + 1500], [1.0, 2.0])
        db.append({"__name__": "b"}, [T0, T0 + 1, T0 + 2], [0.5, STALE, 1.5])
        db.append_metadata("a_total", "counter", "Some help.")
        assert openmetrics.export_file(db, tmp_path / "x.om") == 4
    text = (tmp_path / "x.om").read_text()
    families = {f.name: f for f in openmetrics_parser.text_string_to_metric_families(text)}
    assert families["a"].type == "counter"
    assert families["a"].documentation == "Some help."
    first = families["a"].samples[1]
    assert (first.name, first.labels, first.value) == ("a_total", {"x": 'q"'}, 2.0)
    assert float(first.timestamp) == T0 / 1000 + 1.5
    assert [s.value for s in families["b"].samples] == [0.5, 1.5]


def test_selector_and_range_of_an_export(db, tmp_path):
    n = parquet.export_file(
        db, tmp_path / "x.parquet", 'm0_total{i="0"}', start=T0 + 15_000, end=T0 + 30_000
    )
    assert n == 2
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.schema.field("labels").type == pa.map_(pa.string(), pa.string())
    assert dict(table["labels"][0].as_py()) == {
        "__name__": "m0_total", "i": "0", "text": 'a"b\\c\nd',
    }  # fmt: skip


OPENMETRICS = """\
# TYPE requests counter
# HELP requests Requests, "all".
# UNIT requests requests
requests_total{job="a",path="/x{y}"} 1 1700000000
requests_total{job="a",path="/x{y}"} 2.5 1700000015.5 # {trace="x"} 1 1700000015
requests_total{path="/x{y}",job="b"} +Inf 1.7e9
{"quoted name","la.bel"="v"} NaN 1700000000
# EOF
"""


def test_openmetrics_syntax(target, tmp_path):
    (tmp_path / "x.om").write_text(OPENMETRICS)
    report = openmetrics.import_file(target, tmp_path / "x.om")
    assert (report.n_samples, report.n_series, report.n_refused) == (4, 3, 0)
    found = {(dict(labels)["__name__"], t) for labels, t in samples(target)}
    assert found == {
        ("requests_total", T0), ("requests_total", T0 + 15_500), ("quoted name", T0),
    }  # fmt: skip
    assert target.metadata("requests") == {
        "requests": [{"type": "counter", "help": 'Requests, "all".', "unit": "requests"}]
    }
    assert target.query("requests_total", time=T0 + 16_000).type == "vector"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 1\n", "no # EOF after line 1"),
        ("a 1 1\n# EOF\nb 1 1\n", "line 3: text after # EOF"),
        ("a one 1\n# EOF\n", "line 1: not a number"),
        ("a 1 2 3\n# EOF\n", "line 1: expected a value and a timestamp"),
        ('a{b="c" 1 1\n# EOF\n', "line 1"),
        ("a{b} 1 1\n# EOF\n", "line 1: label 'b' has no value"),
        ('a{b="1",b="2"} 1 1\n# EOF\n', "line 1: a label name stands twice"),
        ("a 1 1e300\n# EOF\n", "line 1: timestamp 1e300 does not fit"),
        ("a 1 NaN\n# EOF\n", "line 1: timestamp NaN"),
        ("# TYPE a nonsense\n# EOF\n", "line 1: unknown metric type 'nonsense'"),
        (b'a{b="\xff"} 1 1\n# EOF\n', "line 1: not UTF-8"),
        ("= 1 1\n# EOF\n", "line 1: expected a metric name"),
    ],
)
def test_bad_openmetrics_names_the_line(target, tmp_path, text, message):
    (tmp_path / "x.om").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message.replace("#", r"\#")):
        openmetrics.import_file(target, tmp_path / "x.om")


def test_what_stood_before_a_bad_line_is_stored(target, tmp_path):
    (tmp_path / "x.om").write_text("a 1 1\na 2 2\nbroken\n# EOF\n")
    with pytest.raises(ValueError, match="line 3"):
        openmetrics.import_file(target, tmp_path / "x.om")
    assert len(samples(target)) == 2


def test_samples_without_a_timestamp_are_refused_and_counted(target, tmp_path):
    (tmp_path / "x.om").write_text("a 1\na 2 2\n# EOF\n")
    report = openmetrics.import_file(target, tmp_path / "x.om")
    assert (report.n_samples, report.n_refused) == (1, 1)
    assert report.reasons == ["line 1: sample without a timestamp"]


def test_parquet_with_label_columns(target, tmp_path):
    table = pa.table(
        {
            "timestamp": pa.array([T0, T0 + 1, T0 + 2, T0 + 3]),
            "value": pa.array([1, 2, 3, None], pa.int64()),
            "__name__": pa.array(["a", "a", "b", "b"]).dictionary_encode(),
            "job": pa.array(["x", None, "", "y"]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    report = parquet.import_file(target, tmp_path / "x.parquet")
    assert (report.n_samples, report.n_refused) == (3, 0)
    assert {(frozenset(labels), t) for labels, t in samples(target)} == {
        (frozenset({("__name__", "a"), ("job", "x")}), T0),
        (frozenset({("__name__", "a")}), T0 + 1),
        (frozenset({("__name__", "b")}), T0 + 2),
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": [1.0]}, "no column 'timestamp'"),
        ({"timestamp": [1]}, "no column 'value'"),
        ({"timestamp": ["x"], "value": [1.0]}, "'timestamp' can't have the type"),
        ({"timestamp": [1], "value": ["x"]}, "'value' must hold numbers"),
        ({"timestamp": [1], "value": [1.0]}, "no labels"),
        ({"timestamp": [1], "value": [1.0], "labels": ["x"]}, "'labels' must be a map"),
        ({"timestamp": [1], "value": [1.0], "job": [1]}, "'job' must hold strings"),
    ],
)
def test_bad_parquet_names_the_column(target, tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        parquet.import_file(target, tmp_path / "x.parquet")


def test_refused_series_do_not_stop_an_import(target, tmp_path):
    table = pa.table({"timestamp": [1, 2], "value": [1.0, 2.0], "__name__": ["ok", None]})
    pq.write_table(table, tmp_path / "x.parquet")
    report = parquet.import_file(target, tmp_path / "x.parquet")
    assert (report.n_samples, report.n_refused) == (1, 1)
    assert "row 0" in report.reasons[0]
