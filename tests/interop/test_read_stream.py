"""Remote read as a stream of chunks, decoded by a slow reader."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest

import tsengine
from tests.http import wire
from tests.interop.test_remote_read import request
from tests.reference import xorchunk
from tsengine import errors
from tsengine.interop import read_stream
from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import handles
from tsengine.model.labels import LabelRows

T = 1_700_000_000_000


def messages(data):
    """Messages of frames; lengths and checksums have to be right."""
    pos = 0
    while pos < len(data):
        size, pos = wire._read_varint(data, pos)
        crc = int.from_bytes(data[pos : pos + 4], "big")
        message = data[pos + 4 : pos + 4 + size]
        pos += 4 + size
        assert len(message) == size
        assert google_crc32c.value(bytes(message)) == crc
        yield message


def decoded(data):
    """[(query, labels, [(t, float or fields of a histogram)])], a row per frame."""
    out = []
    for message in messages(data):
        found = dict(wire.fields(message))
        assert not found.keys() - {1, 2}
        labels, samples = {}, []
        for number, content in wire.fields(found[1]):
            values = dict(wire.fields(content))
            if number == 1:
                labels[values[1].decode()] = values[2].decode()
                continue
            assert number == 2
            if values[3] == 1:
                chunk = xorchunk.decode_xor_chunk(values[4])
                chunk = [(t, xorchunk.to_float(word)) for t, word in chunk]
            else:
                assert values[3] == 3
                _, chunk = xorchunk.encode_histogram_chunks(values[4])
            assert [signed(values.get(1, 0)), signed(values.get(2, 0))] == [
                chunk[0][0],
                chunk[-1][0],
            ]
            assert len(chunk) <= 120
            samples += chunk
        out.append((found.get(2, 0), labels, samples))
    return out


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def test_streams(tmp_path):
    with tsengine.open(tmp_path / "data") as db:
        times = T + np.arange(1000) * 15_000
        values = np.random.default_rng(1).normal(size=1000)
        db.append({"__name__": "a", "x": "é"}, times, values)
        db.append({"__name__": "a"}, [-5, 0, T], [1.5, -0.0, float("inf")])
        db.append({"__name__": "b"}, [T], [3.0])
        message = request(
            (-10, T + 10**9, [(0, "__name__", "a")]), (T, T, [(2, "__name__", "a|b")]),
            (0, 1, [(0, "__name__", "none")]), accepted=[1, 0],
        )  # fmt: skip
        pieces = list(db.remote_read_stream(message))
        expected = list(zip(times.tolist(), values.tolist(), strict=True))
        assert all(pieces)
        assert decoded(b"".join(pieces)) == [
            (0, {"__name__": "a"}, [(-5, 1.5), (0, 0.0), (T, float("inf"))]),
            (0, {"__name__": "a", "x": "é"}, expected),
            (1, {"__name__": "a"}, [(T, float("inf"))]),
            (1, {"__name__": "a", "x": "é"}, [(T, values[0])]),
            (1, {"__name__": "b"}, [(T, 3.0)]),
        ]  # fmt: skip
        assert db.remote_read_stream(request(accepted=[0, 1])) is None
        assert db.remote_read_stream(request()) is None
        assert list(db.remote_read_stream(request(accepted=[1]))) == []
        with pytest.raises(errors.MalformedRequest, match="accept SAMPLES"):
            db.remote_read_stream(request(accepted=[2]))
        with pytest.raises(errors.MalformedRequest, match="error parsing regexp"):
            db.remote_read_stream(request((0, 1, [(2, "a", "(")]), accepted=[1]))


def test_what_is_written_later_is_not_in_the_stream(tmp_path):
    with tsengine.open(tmp_path / "data") as db:
        db.append({"__name__": "a"}, [T], [1.0])
        stream = db.remote_read_stream(request((0, T + 9, [(0, "__name__", "a")]), accepted=[1]))
        db.append({"__name__": "a"}, [T + 1], [2.0])
        assert decoded(b"".join(stream)) == [(0, {"__name__": "a"}, [(T, 1.0)])]


def test_long_series_take_several_frames_and_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(read_stream, "FRAME_SIZE_MAX", 10_000)
    monkeypatch.setattr(read_stream, "SLICE_SAMPLES", 2_500)
    monkeypatch.setattr(read_stream, "_PIECE_SIZE", 4_000)
    with tsengine.open(tmp_path / "data") as db:
        times = T + np.arange(9000) * 1000
        values = np.random.default_rng(1).normal(size=9000)
        db.append({"a": "1", "__name__": "x"}, times, values)
        for k in range(2, 6):
            db.append({"a": str(k), "__name__": "x"}, times[:900], values[:900])
        pieces = list(
            db.remote_read_stream(request((0, T + 10**9, [(0, "__name__", "x")]), accepted=[1]))
        )
        assert len(pieces) > 10
        data = b"".join(pieces)
        assert max(map(len, messages(data))) <= 10_000
        found = decoded(data)
        assert [labels["a"] for _, labels, _ in found] == sorted(r["a"] for _, r, _ in found)
        one = [sample for _, labels, samples in found if labels["a"] == "1" for sample in samples]
        assert one == list(zip(times.tolist(), values.tolist(), strict=True))
        rest = [sample for _, labels, samples in found if labels["a"] == "4" for sample in samples]
        assert rest == one[:900]


class View:
    """One slice of series with histograms."""

    dictionary = None

    def __init__(self, frames, labels):
        self.frames, self.rows = frames, labels
        self.dictionary = self

    pair_names = np.array([0, 0], np.uint32)
    pair_values = np.array([1, 2], np.uint32)

    def text(self, symbol):
        return ("a", "1", "2")[symbol]

    def count_samples(self, refs, mint, maxt):
        return 3

    def labels(self, refs):
        return self.rows

    def read(self, refs, mint, maxt, *, drop_stale):
        return self.frames


def test_histograms():
    one = NativeHistogram(schema=0, count=2.0, sum=1.0, positive={3: 2.0})
    two = NativeHistogram(schema=0, count=3.0, sum=1.5, positive={3: 3.0})
    values = np.array([0, 1.5, 0.0])
    values[[0, 2]] = handles(np.array([0, 1])).view(float)
    frames = FrameBatch(
        np.array([T, T + 1, T + 2]), np.array([0, 3]), np.array([0, 0]), values,
        np.array([0, 3, 3]), from_list([one, two]),
    )  # fmt: skip
    frames = FrameBatch(
        np.array([T, T + 1, T + 2]), np.array([0, 3, 3]), np.array([0, 1]), values,
        frames.row_offsets, frames.histograms,
    )  # fmt: skip
    view = View(frames, LabelRows(np.array([0, 1, 2]), np.array([0, 1], np.uint32)))
    refs = np.array([0, 1], np.uint32)
    ((query, labels, samples),) = decoded(b"".join(read_stream.stream_query(view, refs, 0, 1, 5)))
    assert (query, labels) == (5, {"a": "1"})
    (t, first), middle, (_, last) = samples
    assert (t, first["positive"], middle, last["positive"]) == (T, {3: 2.0}, (T + 1, 1.5), {3: 3.0})
