"""Writes remote-write 2.0 messages: how other protocols' samples take the road of everybody's.

Prometheus's ``io.prometheus.write.v2.Request``; field numbers as in its specification.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..protobuf import bytes_field, varint

_TYPES = {"unknown": 0, "counter": 1, "gauge": 2, "histogram": 3, "summary": 5}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known about a metric; `kind` is a key of Prometheus's metric types."""

    kind: str
    help: str
    unit: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A native histogram with integer counts; buckets as ``{index: count}`` of filled ones."""

    t_ms: int
    start_ms: int
    schema: int
    count: int
    sum: float
    zero_count: int
    zero_threshold: float
    positive: Mapping[int, int]
    negative: Mapping[int, int]
    is_gauge: bool = False


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A trace's sample."""

    labels: Mapping[str, str]
    value: float
    t_ms: int


@dataclass(slots=True)
class Series:
    """One series of a message. `samples` are ``(value's bits, ms, start ms or 0)``."""

    labels: tuple[tuple[str, str], ...]
    metadata: Metadata
    samples: list[tuple[int, int, int]] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    exemplars: list[Exemplar] = field(default_factory=list)


def encode(series: Sequence[Series]) -> bytes:
    """The whole message."""
    symbols: dict[str, int] = {"": 0}
    body = b"".join(_series_messages(one, symbols) for one in series)
    return b"".join(bytes_field(4, _utf8(text)) for text in symbols) + body


def _series_messages(series: Series, symbols: dict[str, int]) -> bytes:
    """A series in one message, or in two when it has both floats and histograms."""
    head = bytes_field(1, _refs(dict(series.labels), symbols))
    tail = bytes_field(5, _metadata(series.metadata, symbols))
    exemplars = b"".join(bytes_field(4, _exemplar(one, symbols)) for one in series.exemplars)
    out = []
    if series.samples:
        points = b"".join(bytes_field(2, _sample(*sample)) for sample in series.samples)
        out.append(bytes_field(5, head + points + exemplars + tail))
        exemplars = b""
    if series.histograms:
        points = b"".join(bytes_field(3, _histogram(one)) for one in series.histograms)
        out.append(bytes_field(5, head + points + exemplars + tail))
    return b"".join(out)


def _sample(bits: int, t_ms: int, start_ms: int) -> bytes:
    return b"\x09" + struct.pack("<Q", bits) + _int(2, t_ms) + _int(3, start_ms)


def _metadata(metadata: Metadata, symbols: dict[str, int]) -> bytes:
    return (
        _int(1, _TYPES[metadata.kind])
        + _int(3, _symbol(metadata.help, symbols))
        + _int(4, _symbol(metadata.unit, symbols))
    )


def _exemplar(exemplar: Exemplar, symbols: dict[str, int]) -> bytes:
    refs = bytes_field(1, _refs(exemplar.labels, symbols))
    return refs + b"\x11" + struct.pack("<d", exemplar.value) + _int(3, exemplar.t_ms)


def _histogram(histogram: Histogram) -> bytes:
    parts = [
        _int(1, histogram.count), _double(3, histogram.sum), _int(4, _zigzag(histogram.schema)),
        _double(5, histogram.zero_threshold), _int(6, histogram.zero_count),
    ]  # fmt: skip
    for span_field, buckets in ((8, histogram.negative), (11, histogram.positive)):
        spans, deltas = _spans(buckets)
        parts += [bytes_field(span_field, span) for span in spans]
        if deltas:
            parts.append(bytes_field(span_field + 1, deltas))
    parts += [_int(14, 3 if histogram.is_gauge else 0), _int(15, histogram.t_ms)]
    parts.append(_int(17, histogram.start_ms))
    return b"".join(parts)


def _spans(buckets: Mapping[int, int]) -> tuple[list[bytes], bytes]:
    """Runs of neighbouring buckets, and the differences of their counts."""
    spans: list[bytes] = []
    deltas: list[bytes] = []
    end, length, offset, before = 0, 0, 0, 0
    for index in sorted(buckets):
        if length and index == end:
            length += 1
        else:
            if length:
                spans.append(_int(1, _zigzag(offset)) + _int(2, length))
            offset, length = index - end, 1
        end = index + 1
        deltas.append(varint(_zigzag(buckets[index] - before)))
        before = buckets[index]
    if length:
        spans.append(_int(1, _zigzag(offset)) + _int(2, length))
    return spans, b"".join(deltas)


def _refs(labels: Mapping[str, str], symbols: dict[str, int]) -> bytes:
    return b"".join(
        varint(_symbol(name, symbols)) + varint(_symbol(text, symbols))
        for name, text in sorted(labels.items())
    )


def _symbol(text: str, symbols: dict[str, int]) -> int:
    return symbols.setdefault(text, len(symbols))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _zigzag(value: int) -> int:
    return value * 2 if value >= 0 else -value * 2 - 1


def _double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def _int(number: int, value: int) -> bytes:
    """A varint field; zero is left out, as by everybody."""
    if not value:
        return b""
    return varint(number << 3) + varint(value & 0xFFFFFFFFFFFFFFFF)
