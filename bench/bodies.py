"""Remote-write bodies like those of node_exporter: ten labels, about 256 label bytes a series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cramjam
import numpy as np
import numpy.typing as npt
from numba import njit

from tests.reference import remote_write as wire

SERIES_PER_BODY = 2000
METRICS_PER_HOST = 100
T_MS = 1_700_000_000_000
N_TIME_DIGITS = 6
"""Bytes of the varint of such a time."""


def labels_of(idx: int) -> list[tuple[bytes, bytes]]:
    """Labels of one series; a host has 100 of them."""
    host, metric = divmod(idx, METRICS_PER_HOST)
    labels = {
        "__name__": f"node_cpu_metric_{metric}_total",
        "arch": "x86_64",
        "datacenter": f"eu-west-1{host % 3}",
        "env": "production",
        "instance": f"host-{host:05d}.eu-west-1.compute.internal:9100",
        "job": "node-exporter",
        "os": "Ubuntu22.04",
        "region": "eu-west-1",
        "service": f"service-{host % 29}",
        "team": f"team-{host % 17}",
    }
    return [(name.encode(), value.encode()) for name, value in labels.items()]


def make_bodies(n_series: int, version: int) -> list[bytes]:
    """Snappy-compressed bodies of all series, one sample each."""
    made = []
    for first in range(0, n_series, SERIES_PER_BODY):
        series = [
            wire.Series(
                labels_of(i),
                [(T_MS, wire.bits_of(i / 7))],
                metadata=(1, b"Seconds the CPUs spent in each mode.", b"seconds"),
            )
            for i in range(first, min(n_series, first + SERIES_PER_BODY))
        ]
        body = wire.encode_v1(series) if version == 1 else wire.encode_v2(series)
        made.append(bytes(cramjam.snappy.compress_raw(body)))
    return made


@dataclass(frozen=True, slots=True)
class TimelessBody:
    """A compressed body whose samples share one time, which can be set cheaply."""

    data: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]
    digits: npt.NDArray[np.int64]

    def at(self, t_ms: int) -> bytes:
        """The body with its samples at `t_ms`."""
        body = self.data.copy()
        body[self.places] = _digits_of(t_ms)[self.digits]
        return body.tobytes()


class Scrapes:
    """Bodies of 1.0 in which only values and times change, so that sending them is cheap."""

    def __init__(self, n_series: int) -> None:
        self._messages = []
        self._positions = []
        for first in range(0, n_series, SERIES_PER_BODY):
            out = bytearray()
            found = []
            for i in range(first, min(n_series, first + SERIES_PER_BODY)):
                labels = b"".join(_encoded_label(*label) for label in labels_of(i))
                out += wire.length_field(1, labels + _ZERO_SAMPLE)
                found.append(len(out) - _VALUE_FROM_END)
            self._messages.append(np.frombuffer(bytes(out), np.uint8))
            self._positions.append(np.array(found)[:, None])

    def bodies(self, values: npt.NDArray[np.float64]) -> list[TimelessBody]:
        """All bodies with these values. Shapes: f64[n_series]."""
        made = []
        first = 0
        for message, positions in zip(self._messages, self._positions, strict=True):
            last = first + len(positions)
            filled = message.copy()
            filled[positions + np.arange(8)] = values[first:last].view(np.uint8).reshape(-1, 8)
            made.append(_timeless(filled, positions + 9))
            first = last
        return made


_encoded_label = lru_cache(wire.label_v1)
_ZERO_SAMPLE = wire.length_field(2, wire.sample(T_MS, 0))
_VALUE_FROM_END = N_TIME_DIGITS + 1 + 8


def _digits_of(t_ms: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(wire.varint(t_ms), np.uint8)


def _timeless(message: npt.NDArray[np.uint8], positions: npt.NDArray[np.int64]) -> TimelessBody:
    """Compress, and find the bytes that hold the digits of the time that stands at `positions`."""
    digit_at = np.full(len(message), -1, np.int64)
    spans = positions + np.arange(N_TIME_DIGITS)
    digit_at[spans] = np.arange(N_TIME_DIGITS)
    data = np.frombuffer(bytes(cramjam.snappy.compress_raw(message)), np.uint8)
    digits = _literal_digits(data, digit_at)
    places = np.flatnonzero(digits >= 0)
    body = TimelessBody(data, places, digits[places])
    moved = message.copy()
    moved[spans] = _digits_of(T_MS + 987_654_321)
    unpacked = bytes(cramjam.snappy.decompress_raw(body.at(T_MS + 987_654_321)))
    assert unpacked == moved.tobytes(), "a copy in the Snappy stream mixes times and other bytes"
    return body


@njit
def _literal_digits(data, digit_at):
    """Walk a Snappy stream; for each of its bytes the digit of the time it is, or -1."""
    digits = np.full(len(data), -1, np.int64)
    pos = 0
    while data[pos] >= 128:
        pos += 1
    pos += 1
    at = 0
    while pos < len(data):
        tag = np.int64(data[pos])
        pos += 1
        if tag & 3 == 0:
            size = tag >> 2
            if size >= 60:
                n_bytes = size - 59
                size = 0
                for i in range(n_bytes):
                    size |= np.int64(data[pos + i]) << (8 * i)
                pos += n_bytes
            size += 1
            digits[pos : pos + size] = digit_at[at : at + size]
            pos += size
        elif tag & 3 == 1:
            size = (tag >> 2 & 7) + 4
            pos += 1
        else:
            size = (tag >> 2) + 1
            pos += 2 if tag & 3 == 2 else 4
        at += size
    return digits
