"""A real Prometheus reads native histograms that we encode, in both kinds of answers."""

from __future__ import annotations

import dataclasses
import http.server
import threading
import time

import numpy as np
import pytest

from tests.http import wire
from tests.interop.test_chunks import columns
from tests.interop.test_result_histograms import answer
from tests.real.processes import api
from tests.real.test_clients import prometheus
from tsengine.interop.read_stream import stream_query
from tsengine.interop.remote_read import query_result
from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_values import NativeHistogram
from tsengine.model.labels import LabelRows

STEP_MS = 1000
N = 130


def growing(hint):
    """Histograms that grow, fall back twice and change their layout."""
    base = NativeHistogram(
        schema=1, count=20.0, sum=3.25, zero_threshold=2.0**-10, zero_count=3.0,
        positive={-2: 4.0, 1: 6.0, 2: 2.0}, negative={0: 5.0}, hint=hint,
    )  # fmt: skip
    out = []
    for k in range(N):
        scale = float(k % 50 + 1)
        row = dataclasses.replace(
            base, count=20 * scale, sum=3.25 * scale + k / 7, zero_count=3 * scale,
            positive={i: n * scale for i, n in base.positive.items()},
            negative={i: n * scale for i, n in base.negative.items()},
        )  # fmt: skip
        if k % 50 > 10:
            row.positive[7] = 1.0 * (k % 50)
        if k > 100:
            row = dataclasses.replace(row, schema=0, zero_threshold=0.2)
        out.append(row)
    return out


def custom():
    base = NativeHistogram(
        schema=-53, count=9.0, sum=7.5, positive={0: 1.0, 2: 3.0, 3: 5.0},
        custom_bounds=(0.5, 2.25, 123456.789),
    )  # fmt: skip
    return [
        dataclasses.replace(base, count=9.0 + k, positive={**base.positive, 3: 5.0 + k})
        for k in range(N)
    ]


class View:
    """Three series; names are symbols 0 and 1, values the others."""

    texts = ("__name__", "kind", "h", "counter", "gauge", "custom")
    pair_names = np.array([0, 1, 1, 1], np.uint32)
    pair_values = np.array([2, 3, 4, 5], np.uint32)

    def __init__(self, rows, first_ms):
        self.dictionary = self
        times = first_ms + np.arange(N) * STEP_MS
        t_ms, values, offsets, table = columns(
            [list(zip(times.tolist(), row, strict=True)) for row in rows]
        )
        self.frames = FrameBatch(t_ms, offsets, np.arange(3), values, offsets, table)

    def text(self, symbol):
        return self.texts[symbol]

    def count_samples(self, refs, mint, maxt):
        return 3 * N

    def labels(self, refs):
        pairs = [pair for ref in refs.tolist() for pair in (0, 1 + ref)]
        return LabelRows(np.arange(len(refs) + 1) * 2, np.array(pairs, np.uint32))

    def read(self, refs, mint, maxt, *, drop_stale):
        return self.frames


def serve(view, is_streamed):
    """A server that answers every remote read with all of the view."""
    refs = np.array([0, 1, 2], np.uint32)
    in_order = np.array([0, 2, 1], np.uint32)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            if is_streamed:
                body = b"".join(stream_query(view, in_order, 0, 1, 0))
                kind = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
            else:
                body = wire.snappy(query_result(view, refs, 0, 1))
                kind = "application/x-protobuf"
                self.send_header("Content-Encoding", "snappy")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("is_streamed", [True, False], ids=["chunks", "samples"])
def test_histograms_are_read(tmp_path, is_streamed):
    first_ms = int(time.time()) * 1000 - N * STEP_MS
    gauges = growing("gauge")
    if is_streamed:
        # In messages of samples Prometheus itself gets series of both kinds wrong.
        gauges[-2:] = [1.5, -2.0]
    rows = [growing("unknown"), gauges, custom()]
    view = View(rows, first_ms)
    server = serve(view, is_streamed)
    url = f"http://127.0.0.1:{server.server_address[1]}/read"
    end = (first_ms + N * STEP_MS) / 1000
    steps = [first_ms + k * STEP_MS for k in range(N)]
    labels = [{"__name__": "h", "kind": kind} for kind in ("counter", "gauge", "custom")]
    expected = answer(labels, rows, steps=steps).to_prometheus()["result"]
    try:
        with prometheus(tmp_path, f'remote_read: [{{url: "{url}", read_recent: true}}]\n') as other:
            found = api(other, "query", query=f"h[{N + 9}s]", time=end)["result"]
            resets = api(other, "query", query="resets(h[3m])", time=end)["result"]
    finally:
        server.shutdown()
        server.server_close()
    assert sorted(found, key=by_kind) == sorted(expected, key=by_kind)
    n_resets = {by_kind(row): row["value"][1] for row in resets}
    # Two falls, and one for the layout that changes.
    assert (n_resets["counter"], n_resets["custom"]) == ("3", "0")


def by_kind(row):
    return row["metric"]["kind"]
