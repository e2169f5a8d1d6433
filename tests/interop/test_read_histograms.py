"""Stored native histograms through remote read, federation and queries."""

from __future__ import annotations

import dataclasses

import pytest

import tsengine
from tests.http import wire
from tests.interop.test_read_stream import decoded
from tests.interop.test_remote_read import request
from tests.reference import histogramwire
from tsengine.model.histogram_values import NativeHistogram

T = 1_700_000_000_000
H = NativeHistogram(
    schema=2, count=7.5, sum=-1.25, zero_threshold=0.5, zero_count=1.5, positive={3: 2.0, 4: 1.0},
    negative={1: 3.0}, hint="gauge",
)  # fmt: skip


@pytest.fixture(params=["head", "part"])
def db(request, tmp_path):
    with tsengine.open(tmp_path / "data") as opened:
        opened.append({"__name__": "h", "x": "1"}, [T, T + 3000], [1.5, 2.5])
        more = dataclasses.replace(H, count=8.5, zero_count=2.5)
        opened.append_histograms({"__name__": "h", "x": "1"}, [T + 1000, T + 2000], [H, more])
        opened.append_histograms({"__name__": "h", "x": "2"}, [T + 1000], [H])
        if request.param == "part":
            opened.flush()
        yield opened


def test_messages(db):
    message = request((T, T + 3000, [(0, "__name__", "h")]))
    ((_, result),) = wire.fields(db.remote_read(message, 100))
    found = {}
    for number, series in wire.fields(result):
        assert number == 1
        parts = list(wire.fields(series))
        labels = [dict(wire.fields(content)) for number, content in parts if number == 1]
        n_floats = sum(number == 2 for number, _ in parts)
        histograms = [
            histogramwire.read_histogram(content) for number, content in parts if number == 4
        ]
        found[labels[-1][2]] = (n_floats, histograms)
    assert found[b"1"][0] == 2
    assert [(t, h.count) for t, h in found[b"1"][1]] == [(T + 1000, 7.5), (T + 2000, 8.5)]
    assert found[b"2"] == (0, [(T + 1000, H)])


def test_stream(db):
    message = request((T, T + 3000, [(0, "__name__", "h")]), accepted=[1])
    (_, labels, samples), (_, _, others) = decoded(b"".join(db.remote_read_stream(message)))
    assert labels == {"__name__": "h", "x": "1"}
    assert [t for t, _ in samples] == [T, T + 1000, T + 2000, T + 3000]
    assert (samples[0][1], samples[3][1]) == (1.5, 2.5)
    assert samples[1][1]["positive"] == {3: 2.0, 4: 1.0}
    assert samples[2][1]["count"] == 8.5
    assert [t for t, _ in others] == [T + 1000]


def test_federation_leaves_histograms_out(db):
    table = db.newest(["h"], T + 2500).to_pylist()
    assert table == []
    (row,) = db.newest(["h"], T + 3000).to_pylist()
    assert (dict(row["labels"]), row["value"]) == ({"__name__": "h", "x": "1"}, 2.5)


def test_queries(db):
    result = db.query_range("h", T, T + 3000, 1.0).to_prometheus()["result"]
    first, second = result
    assert first["values"] == [[T // 1000, "1.5"], [T // 1000 + 3, "2.5"]]
    assert [(t, h["count"]) for t, h in first["histograms"]] == [
        (T // 1000 + 1, "7.5"), (T // 1000 + 2, "8.5"),
    ]  # fmt: skip
    assert "values" not in second
    assert [t for t, _ in second["histograms"]] == [T // 1000 + k for k in (1, 2, 3)]
    (row,) = db.query('h{x="2"}', T + 1000).to_prometheus()["result"]
    assert row["histogram"][1]["sum"] == "-1.25"
    (_, times, found), _ = db.query("h[10s]", T + 3000).histograms()
    assert times.tolist() == [T + 1000, T + 2000]
    assert found[0] == H
