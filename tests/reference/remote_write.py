"""Remote write 1.0 and 2.0 in plain Python: an encoder for tests, and a slow reader of both."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

METADATA_FIELDS_V1 = {"metric": 2, "help": 4, "unit": 5}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def double_field(number: int, bits: int) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<Q", bits)


def bits_of(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


@dataclass
class Exemplar:
    """Labels in the order they are sent; the value as bits."""

    labels: list[tuple[bytes, bytes]]
    t_ms: int = 0
    bits: int = 0


@dataclass
class Series:
    """One TimeSeries message: labels in the order they are sent, samples as (t_ms, bits).

    ``n_histograms`` and ``n_exemplars`` more of them follow, the former invalid, the latter empty.
    ``histograms`` are messages; ``starts`` those of the samples (2.0), none where there are fewer.
    """

    labels: list[tuple[bytes, bytes]]
    samples: list[tuple[int, int]] = field(default_factory=list)
    n_histograms: int = 0
    n_exemplars: int = 0
    metadata: tuple[int, bytes, bytes] | None = None
    histograms: list[bytes] = field(default_factory=list)
    exemplars: list[Exemplar] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)


def sample(t_ms: int, bits: int) -> bytes:
    return double_field(1, bits) + varint_field(2, t_ms)


def label_v1(name: bytes, value: bytes) -> bytes:
    return length_field(1, length_field(1, name) + length_field(2, value))


def encode_v1(series: list[Series], metadata: list[tuple[int, bytes, bytes, bytes]] = ()) -> bytes:
    out = []
    for one in series:
        message = b"".join(label_v1(name, value) for name, value in one.labels)
        message += b"".join(length_field(2, sample(t, bits)) for t, bits in one.samples)
        for exemplar in one.exemplars:
            labels = b"".join(label_v1(name, value) for name, value in exemplar.labels)
            rest = double_field(2, exemplar.bits) + varint_field(3, exemplar.t_ms)
            message += length_field(3, labels + rest)
        message += length_field(3, double_field(2, 0)) * one.n_exemplars
        message += b"".join(length_field(4, histogram) for histogram in one.histograms)
        message += length_field(4, varint_field(1, 5)) * one.n_histograms
        out.append(length_field(1, message))
    for kind, metric, help_text, unit in metadata:
        message = varint_field(1, kind) + length_field(2, metric)
        out.append(length_field(3, message + length_field(4, help_text) + length_field(5, unit)))
    return b"".join(out)


def encode_v2(series: list[Series], first_symbol: bytes = b"") -> bytes:
    symbols = {first_symbol: 0}

    def ref(text: bytes) -> int:
        return symbols.setdefault(text, len(symbols))

    out = []
    for one in series:
        refs = b"".join(varint(ref(text)) for label in one.labels for text in label)
        message = length_field(1, refs)
        starts = [varint_field(3, start) for start in one.starts]
        starts += [b""] * (len(one.samples) - len(starts))
        for (t, bits), start in zip(one.samples, starts, strict=True):
            message += length_field(2, sample(t, bits) + start)
        message += b"".join(length_field(3, histogram) for histogram in one.histograms)
        message += length_field(3, varint_field(1, 5)) * one.n_histograms
        for exemplar in one.exemplars:
            own = b"".join(varint(ref(text)) for label in exemplar.labels for text in label)
            rest = double_field(2, exemplar.bits) + varint_field(3, exemplar.t_ms)
            message += length_field(4, length_field(1, own) + rest)
        message += length_field(4, double_field(2, 0)) * one.n_exemplars
        if one.metadata is not None:
            kind, help_text, unit = one.metadata
            content = varint_field(1, kind) if kind else b""
            content += varint_field(3, ref(help_text)) + varint_field(4, ref(unit))
            message += length_field(5, content)
        out.append(length_field(5, message))
    table = b"".join(length_field(4, text) for text in symbols)
    return table + b"".join(out)
