"""Slow twin of kernels/histogramwire.py: reads ``prometheus.Histogram`` messages."""

from __future__ import annotations

import struct

from tests.http import wire
from tsengine.model.histogram_values import NativeHistogram
from tsengine.model.histograms import HINT_NAMES


def write_histograms(data):
    """[(t_ms, NativeHistogram)] of ``histograms`` fields behind each other."""
    out = []
    for number, message in wire.fields(data):
        assert number == 4
        out.append(read_histogram(message))
    return out


def read_histogram(message):
    """Time and value of one message; every field at most once but for the spans."""
    one: dict[int, object] = {}
    spans: dict[int, list[tuple[int, int]]] = {8: [], 11: []}
    for number, value in wire.fields(message):
        if number in spans:
            found = dict(wire.fields(value))
            spans[number].append((_zigzag(found.get(1, 0)), found.get(2, 0)))
        else:
            assert number not in one
            one[number] = value
    integers = {1, 3, 4, 5, 6, 9, 12, 14, 15, 16}
    floats = {2, 3, 4, 5, 7, 10, 13, 14, 15, 16}
    assert not one.keys() - (integers if 1 in one else floats)
    t = one.get(15, 0)
    return t - (1 << 64) if t >> 63 else t, NativeHistogram(
        schema=_zigzag(one.get(4, 0)),
        count=float(one[1]) if 1 in one else _double(one[2]),
        sum=_double(one.get(3)),
        zero_threshold=_double(one.get(5)),
        zero_count=float(one[6]) if 1 in one else _double(one[7]),
        positive=_buckets(spans[11], _counts(one, 12, 13)),
        negative=_buckets(spans[8], _counts(one, 9, 10)),
        custom_bounds=_doubles(one.get(16, b"")),
        hint=HINT_NAMES[one.get(14, 0)],
    )


def _zigzag(value):
    return value >> 1 ^ -(value & 1)


def _double(raw):
    return struct.unpack("<d", raw)[0] if raw is not None else 0.0


def _doubles(raw):
    return struct.unpack(f"<{len(raw) // 8}d", raw)


def _counts(one, deltas, doubles):
    if 1 not in one:
        return _doubles(one.get(doubles, b""))
    raw, pos, count, out = one.get(deltas, b""), 0, 0, []
    while pos < len(raw):
        value, pos = wire._read_varint(raw, pos)
        count += _zigzag(value)
        out.append(float(count))
    return out


def _buckets(spans, counts):
    index, found = 0, []
    for offset, length in spans:
        index += offset
        found += range(index, index + length)
        index += length
    return dict(zip(found, counts, strict=True))
