"""Query answers as the JSON of Prometheus's HTTP API (the value of "data").

The bulk is written by one kernel into a buffer that is used again for every piece of the answer;
per sample and per bucket nothing happens in Python, and no call holds the interpreter for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from tsengine.kernels.numbers import (
    BUCKET_SIZE_MAX,
    CURSOR_SIZE,
    HEAD_SIZE_MAX,
    HISTOGRAM_SIZE_MAX,
    POINT_SIZE_MAX,
    write_series,
)
from tsengine.model.histograms import handles
from tsengine.model.labels import LabelRows
from tsengine.model.ragged import offsets_of

PairTexts: TypeAlias = Callable[[npt.NDArray[np.uint32]], tuple[Sequence[str], Sequence[str]]]

PIECE_SIZE = 256 * 1024
"""Answers are made in pieces of about so many bytes."""
_SLICE_PAIRS = 4096
_END = b"]}"
_BEFORE_HISTOGRAM = b'{"metric":{},"histogram":[0,'


@dataclass(frozen=True, slots=True)
class JsonHistograms:
    """H histograms as the API shows them.

    ``counts, sums: f64[H]``; histogram h owns the buckets ``offsets[h]:offsets[h + 1]``, ascending
    and none empty, of ``rules: u8[B]`` (0: open on the left, 1: open on the right, 3: closed) and
    ``lowers, uppers, bucket_counts: f64[B]``.
    """

    counts: npt.NDArray[np.float64]
    sums: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.int64]
    rules: npt.NDArray[np.uint8]
    lowers: npt.NDArray[np.float64]
    uppers: npt.NDArray[np.float64]
    bucket_counts: npt.NDArray[np.float64]


_NO_HISTOGRAMS = JsonHistograms(
    np.empty(0), np.empty(0), np.zeros(1, np.int64), np.empty(0, np.uint8),
    np.empty(0), np.empty(0), np.empty(0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JsonSeries:
    """Series with their samples.

    Parameters
    ----------
    rows
        Label sets of the S series, none of which may be without samples.
    pair_texts
        Names and values of some pair ids: u32[P].
    values, value_offsets
        f64[N] of all series one after the other; series s owns
        ``value_offsets[s]:value_offsets[s + 1]``: i64[S + 1]. May hold handles of `histograms`.
    stamps_ms, stamp_of_value
        Timestamps i64[K], and which one each value has: i64[N], None if that is its position among
        those of its series.
    histograms
        None if `values` holds no handles.
    present
        Which values count: bool[N], None if all do.

    """

    rows: LabelRows
    pair_texts: PairTexts
    values: npt.NDArray[np.float64]
    value_offsets: npt.NDArray[np.int64]
    stamps_ms: npt.NDArray[np.int64]
    stamp_of_value: npt.NDArray[np.int64] | None
    histograms: JsonHistograms | None = None
    present: npt.NDArray[np.bool_] | None = None


def matrix_json(series: JsonSeries) -> Iterator[bytes]:
    """``{"resultType":"matrix","result":[...]}`` in pieces."""
    yield b'{"resultType":"matrix","result":['
    yield from _series(series, True)
    yield _END


def vector_json(series: JsonSeries) -> Iterator[bytes]:
    """``{"resultType":"vector","result":[...]}`` in pieces; each series has one sample."""
    yield b'{"resultType":"vector","result":['
    yield from _series(series, False)
    yield _END


def histogram_texts(histograms: JsonHistograms) -> list[bytes]:
    """``{"count":...}`` of each histogram."""
    n = len(histograms.counts)
    rows = LabelRows(np.zeros(n + 1, np.int64), np.zeros(0, np.uint32))
    values = handles(np.arange(n)).view(np.float64)
    nowhere = np.zeros(n, np.int64)
    series = JsonSeries(
        rows, _no_pair, values, np.arange(n + 1), np.zeros(1, np.int64), nowhere, histograms
    )
    pieces = b"".join(_series(series, False)).split(_BEFORE_HISTOGRAM)
    return [piece[: piece.rindex(b"]}")] for piece in pieces[1:]]


def scalar_json(time_ms: int, value: float) -> bytes:
    """``{"resultType":"scalar","result":[t,"v"]}``."""
    body = _pair(time_ms, format_value(value).encode())
    return b'{"resultType":"scalar","result":' + body + b"}"


def string_json(time_ms: int, text: str) -> bytes:
    """``{"resultType":"string","result":[t,"text"]}``."""
    quoted = orjson.dumps(_printable(text))
    stamp = format_timestamp(time_ms).encode()
    return b'{"resultType":"string","result":[' + stamp + b"," + quoted + b"]}"


def format_timestamp(t_ms: int) -> str:
    """Seconds; three decimals unless whole."""
    sign = "-" if t_ms < 0 else ""
    seconds, millis = divmod(abs(t_ms), 1000)
    return f"{sign}{seconds}.{millis:03d}" if millis else f"{sign}{seconds}"


def format_value(value: float) -> str:
    """One value as the API writes it, without quotes."""
    rows = LabelRows(np.zeros(2, np.int64), np.zeros(0, np.uint32))
    nowhere = np.zeros(1, np.int64)
    one = JsonSeries(rows, _no_pair, np.array([value]), np.arange(2), nowhere, nowhere)
    text = b"".join(_series(one, False))
    return text[text.rindex(b',"') + 2 : text.rindex(b'"')].decode()


def _no_pair(pairs: npt.NDArray[np.uint32]) -> tuple[list[str], list[str]]:
    raise AssertionError("rows without labels have no pairs")


def _pair(time_ms: int, value: bytes) -> bytes:
    return b"[" + format_timestamp(time_ms).encode() + b',"' + value + b'"]'


def _printable(text: str) -> str:
    """Bytes that are not UTF-8 become the replacement character, as in Go's JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _series(series: JsonSeries, is_matrix: bool) -> Iterator[bytes]:
    rows = series.rows
    if len(rows) == 0:
        return
    distinct, row_pairs = np.unique(rows.pairs, return_inverse=True)
    pair_text, pair_offsets = _pair_arena(distinct, series.pair_texts)
    stamp_text, stamp_offsets = _arena([format_timestamp(t).encode() for t in series.stamps_ms])
    histograms = series.histograms or _NO_HISTOGRAMS
    out = np.empty(
        max(
            PIECE_SIZE,
            HEAD_SIZE_MAX + _longest_row(np.diff(pair_offsets), row_pairs, rows.offsets),
            int(np.diff(stamp_offsets).max(initial=0))
            + POINT_SIZE_MAX
            + HISTOGRAM_SIZE_MAX
            + BUCKET_SIZE_MAX * int(np.diff(histograms.offsets).max(initial=0)),
        ),
        np.uint8,
    )
    arguments = (
        np.ascontiguousarray(series.values),
        np.empty(0, np.bool_) if series.present is None else series.present,
        np.ascontiguousarray(series.value_offsets, np.int64),
        np.empty(0, np.int64)
        if series.stamp_of_value is None
        else np.ascontiguousarray(series.stamp_of_value, np.int64),
        stamp_text,
        stamp_offsets,
        pair_text,
        pair_offsets,
        np.ascontiguousarray(row_pairs, np.int64),
        np.ascontiguousarray(rows.offsets, np.int64),
        histograms.counts,
        histograms.sums,
        histograms.offsets,
        histograms.rules,
        histograms.lowers,
        histograms.uppers,
        histograms.bucket_counts,
    )
    cursor = np.zeros(CURSOR_SIZE, np.int64)
    while cursor[0] < len(rows):
        size = write_series(*arguments, int(is_matrix), cursor, out)
        assert size >= 0, "the buffer holds the longest item, and every handle has a histogram"
        yield out[:size].tobytes()


def _pair_arena(
    pairs: npt.NDArray[np.uint32], pair_texts: PairTexts
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """``"name":"value"`` of each pair, as `_arena` makes it.

    In slices: making, joining and freeing many objects in one go holds the interpreter for long.
    Of a slice, nearly all is done by few calls: two threads that run much Python code let a third
    one, the server's event loop, wait for the interpreter again and again.
    """
    heads: dict[str, bytes] = {}
    parts: list[bytes] = []
    sizes = np.empty(len(pairs), np.int64)
    for start in range(0, len(pairs), _SLICE_PAIRS):
        names, values = pair_texts(pairs[start : start + _SLICE_PAIRS])
        for name in set(names) - heads.keys():
            heads[name] = orjson.dumps(_printable(name)) + b':"'
        texts = [
            heads[name] + value + b'"' for name, value in zip(names, _escaped(values), strict=True)
        ]
        sizes[start : start + len(texts)] = [len(text) for text in texts]
        parts.append(b"".join(texts))
    return np.frombuffer(b"".join(parts) or b"\0", np.uint8), offsets_of(sizes)


def _escaped(texts: Sequence[str]) -> list[bytes]:
    """What stands between the quotes of each text in JSON."""
    try:
        whole = orjson.dumps(texts)
    except TypeError:
        whole = orjson.dumps([_printable(text) for text in texts])
    if b'\\",' in whole:
        # A quote and a comma at the end of a text would look like its end.
        return [orjson.dumps(_printable(text))[1:-1] for text in texts]
    return whole[2:-2].split(b'","')


def _longest_row(
    sizes: npt.NDArray[np.int64], row_pairs: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> int:
    """Bytes of the longest label set; ``sizes`` are those of the pairs' texts."""
    ends = np.zeros(len(row_pairs) + 1, np.int64)
    np.cumsum(sizes[row_pairs], out=ends[1:])
    return int((ends[offsets[1:]] - ends[offsets[:-1]]).max()) + int(np.diff(offsets).max())


def _arena(texts: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts one after the other, and where each begins: u8[...], i64[n + 1]."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts) or b"\0", np.uint8), offsets
