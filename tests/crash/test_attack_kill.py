"""SIGKILL under floats, histograms, exemplars and start timestamps with flushes and merges.

Like the soak (`soak.py`), with remote write 2.0; what was acknowledged is read from the directory.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from urllib.parse import urlsplit

import numpy as np

import tsengine
from tests.crash.serving import ServerProcess
from tests.crash.soak import Keeper
from tests.http.wire import HEADERS_V2, snappy
from tests.reference import remote_write as wire
from tests.reference.histogramscan import Message, encode
from tsengine.model.histograms import is_handle, rows_of
from tsengine.storage.select import read_columns

N_WRITERS = 3


def histogram(k: int, t_ms: int) -> bytes:
    """Buckets come, go and change their schema with k."""
    counts = [1 + (k * j) % 7 for j in range(1 + k % 5)]
    return encode(
        Message(
            count=sum(counts), sum=wire.bits_of(float(k)), schema=k // 40 % 3, t_ms=t_ms,
            threshold=wire.bits_of(0.001), positive_spans=[(k % 9, len(counts))],
            positive=[int(d) for d in np.diff([0, *counts])], start_ms=t_ms - 500,
        )
    )  # fmt: skip


class RichWriter(threading.Thread):
    """Rising numbers as floats with starts and exemplars, and as histograms."""

    def __init__(self, url, number, base_ms, first):
        super().__init__(daemon=True)
        self._address = urlsplit(url)
        self._number = number
        self._base_ms = base_ms
        self.next = self.acknowledged = first
        self.refused = []

    def run(self):
        connection = http.client.HTTPConnection(
            self._address.hostname, self._address.port, timeout=30
        )
        try:
            while True:
                n = random.randrange(1, 20)
                connection.request(
                    "POST", "/api/v1/write", self._body(self.next, self.next + n), HEADERS_V2
                )
                self.next += n
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 204:
                    self.refused.append((answer.status, text))
                    return
                self.acknowledged = self.next
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def _body(self, first, end):
        w = b"%d" % self._number
        times = [(k, self._base_ms + k * 1000) for k in range(first, end)]
        floats = wire.Series(
            [(b"__name__", b"crash_total"), (b"w", w)],
            [(t, wire.bits_of(float(k))) for k, t in times],
            starts=[t - 700 for _, t in times],
            exemplars=[
                wire.Exemplar([(b"trace_id", b"%d" % k)], t, wire.bits_of(float(k)))
                for k, t in times
            ],
        )
        native = wire.Series(
            [(b"__name__", b"crash"), (b"w", w)], histograms=[histogram(k, t) for k, t in times]
        )
        return snappy(wire.encode_v2([floats, native]))


def test_nothing_acknowledged_is_lost_of_any_kind(tmp_path):
    directory = tmp_path / "db"
    directory.mkdir()
    rng = random.Random(5)
    base_ms = int(time.time() * 1000) - 86_400_000
    written = [0] * N_WRITERS
    for _ in range(5):
        server = ServerProcess(directory, "--enable-admin-api", log=tmp_path / "log")
        try:
            writers = [RichWriter(server.url, w, base_ms, written[w]) for w in range(N_WRITERS)]
            for thread in (*writers, Keeper(server.url, 0.05)):
                thread.start()
            time.sleep(rng.uniform(0.3, 1.5))
        finally:
            server.kill()
        for writer in writers:
            writer.join(timeout=60)
            assert writer.refused == []
        written = [writer.acknowledged for writer in writers]
        verify(directory, written, base_ms)
    assert sum(written) > 0
    assert tsengine.check(str(directory)).problems == []


def verify(directory, written, base_ms):
    with tsengine.open(str(directory), read_only=True) as db:
        for w, n in enumerate(written):
            floats = columns_of(db, f'crash_total{{w="{w}"}}')
            native = columns_of(db, f'crash{{w="{w}"}}')
            if n == 0:
                continue
            for columns, before_ms in ((floats, 700), (native, 500)):
                assert len(columns.t_ms) >= n
                k = np.arange(len(columns.t_ms))
                np.testing.assert_array_equal(columns.t_ms, base_ms + 1000 * k)
                np.testing.assert_array_equal(columns.start_ms, columns.t_ms - before_ms)
            np.testing.assert_array_equal(
                floats.bits.view(np.float64), np.arange(len(floats.t_ms), dtype=float)
            )
            check_histograms(native)
            answer = db.query_exemplars(f'crash_total{{w="{w}"}}', 0, 2**50)
            found = {int(e["labels"]["trace_id"]): e for e in answer[0]["exemplars"]}
            assert set(range(n)) <= set(found)
            assert all(float(e["value"]) == k for k, e in found.items())


def columns_of(db, selector):
    view = db._storage.view()
    names = [text.partition("=") for text in selector.partition("{")[2][:-1].split(",")]
    wanted = {"__name__": selector.partition("{")[0]} | {
        name: value.strip('"') for name, _, value in names
    }
    refs = np.array([ref for ref, labels in all_series(view) if labels == wanted], np.uint32)
    return read_columns(view._parts, view._heads, refs, -(2**63), 2**63 - 1, with_start=True)


def all_series(view):
    from tsengine.model.labels import label_dicts

    refs = np.arange(view.dictionary.n_series, dtype=np.uint32)
    return list(enumerate(label_dicts(view.dictionary, view.labels(refs))))


def check_histograms(columns):
    assert is_handle(columns.bits).all()
    table = columns.histograms
    rows = rows_of(columns.bits)
    for k, row in enumerate(rows.tolist()):
        counts = [float(1 + (k * j) % 7) for j in range(1 + k % 5)]
        keys = [(1 << 20) + k % 9 + j for j in range(len(counts))]
        span = slice(*table.offsets[row : row + 2].tolist())
        assert table.sum[row] == k
        assert table.schema[row] == k // 40 % 3
        assert table.keys[span].tolist() == keys
        assert table.counts[span].tolist() == counts
        assert table.count[row] == sum(counts)
