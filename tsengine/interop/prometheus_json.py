"""Query answers as the JSON of Prometheus's HTTP API (the value of "data").

The bulk is written by one kernel into a buffer that is used again for every piece of the answer;
per sample and per bucket nothing happens in Python, and no call holds the interpreter for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from tsengine.kernels.labeltexts import write_pairs
from tsengine.kernels.numbers import (
    BUCKET_SIZE_MAX,
    CURSOR_SIZE,
    HEAD_SIZE_MAX,
    HISTOGRAM_SIZE_MAX,
    LABEL_SETS,
    MATRIX,
    POINT_SIZE_MAX,
    STAMP_SIZE_MAX,
    VECTOR,
    WORD_SLACK,
    write_series,
    write_stamps,
)
from tsengine.model.histograms import handles
from tsengine.model.labels import LabelRows, LabelTexts
from tsengine.model.ragged import offsets_of

PairTexts: TypeAlias = Callable[[npt.NDArray[np.uint32]], tuple[Sequence[str], Sequence[str]]]
Piece: TypeAlias = bytes | memoryview
NewBuffer: TypeAlias = Callable[[int], npt.NDArray[np.uint8]]

PIECE_SIZE = 256 * 1024
"""Answers are made in pieces of about so many bytes."""
_SLICE_PAIRS = 4096
_MARK_AT = 4096
_PAIR_SIZE = 64
"""Bytes that a pair mostly has room in."""
_FEW_PAIRS = 64
"""So many pairs are written sooner than equal ones among them are found."""
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
    texts
        What `pair_texts` tells, as arrays, for pairs that are in them; or None.

    """

    rows: LabelRows
    pair_texts: PairTexts
    values: npt.NDArray[np.float64]
    value_offsets: npt.NDArray[np.int64]
    stamps_ms: npt.NDArray[np.int64]
    stamp_of_value: npt.NDArray[np.int64] | None
    histograms: JsonHistograms | None = None
    present: npt.NDArray[np.bool_] | None = None
    texts: LabelTexts | None = None


def matrix_json(series: JsonSeries, new_buffer: NewBuffer | None = None) -> Iterator[Piece]:
    """``{"resultType":"matrix","result":[...]}`` in pieces.

    With `new_buffer`, which makes a buffer of at least so many bytes, the pieces of a large answer
    are buffers of their own and not copied out of one.
    """
    yield b'{"resultType":"matrix","result":['
    yield from _series(series, MATRIX, new_buffer)
    yield _END


def vector_json(series: JsonSeries, new_buffer: NewBuffer | None = None) -> Iterator[Piece]:
    """As `matrix_json` ``{"resultType":"vector",...``; each series has one sample."""
    yield b'{"resultType":"vector","result":['
    yield from _series(series, VECTOR, new_buffer)
    yield _END


def label_sets_json(
    rows: LabelRows, pair_texts: PairTexts, texts: LabelTexts | None = None
) -> Iterator[Piece]:
    """``[{"name":"value",...},...]`` in pieces; `pair_texts`, `texts`: see `JsonSeries`."""
    nothing = np.zeros(0, np.int64)
    offsets = np.zeros(len(rows) + 1, np.int64)
    yield b"["
    yield from _series(
        JsonSeries(rows, pair_texts, np.empty(0), offsets, nothing, None, texts=texts), LABEL_SETS
    )
    yield b"]"


def histogram_texts(histograms: JsonHistograms) -> list[bytes]:
    """``{"count":...}`` of each histogram."""
    n = len(histograms.counts)
    rows = LabelRows(np.zeros(n + 1, np.int64), np.zeros(0, np.uint32))
    values = handles(np.arange(n)).view(np.float64)
    nowhere = np.zeros(n, np.int64)
    series = JsonSeries(
        rows, _no_pair, values, np.arange(n + 1), np.zeros(1, np.int64), nowhere, histograms
    )
    pieces = b"".join(_series(series, VECTOR)).split(_BEFORE_HISTOGRAM)
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
    text = b"".join(_series(one, VECTOR))
    return text[text.rindex(b',"') + 2 : text.rindex(b'"')].decode()


def _no_pair(pairs: npt.NDArray[np.uint32]) -> tuple[list[str], list[str]]:
    raise AssertionError("rows without labels have no pairs")


def _pair(time_ms: int, value: bytes) -> bytes:
    return b"[" + format_timestamp(time_ms).encode() + b',"' + value + b'"]'


def _printable(text: str) -> str:
    """Bytes that are not UTF-8 become the replacement character, as in Go's JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _series(series: JsonSeries, form: int, new_buffer: NewBuffer | None = None) -> Iterator[Piece]:
    rows = series.rows
    if len(rows) == 0:
        return
    pairs = _pairs_of(rows, series)
    stamp_text, stamp_offsets = _stamp_arena(series.stamps_ms)
    histograms = series.histograms or _NO_HISTOGRAMS
    head_size, heads_size = _head_sizes(pairs, rows.offsets)
    point_size = STAMP_SIZE_MAX + POINT_SIZE_MAX
    size = PIECE_SIZE
    if series.histograms is None:
        # Pages of a large buffer cost a small answer more than writing it.
        size = min(size, heads_size + len(series.values) * point_size)
    else:
        buckets_max = int(np.diff(histograms.offsets).max(initial=0))
        point_size += HISTOGRAM_SIZE_MAX + BUCKET_SIZE_MAX * buckets_max
    arguments = (
        np.ascontiguousarray(series.values),
        np.empty(0, np.bool_) if series.present is None else series.present,
        np.ascontiguousarray(series.value_offsets, np.int64),
        np.empty(0, np.int64)
        if series.stamp_of_value is None
        else np.ascontiguousarray(series.stamp_of_value, np.int64),
        stamp_text,
        stamp_offsets,
        pairs.text,
        pairs.starts,
        pairs.ends,
        pairs.of_rows,
        np.ascontiguousarray(rows.offsets, np.int64),
        histograms.counts,
        histograms.sums,
        histograms.offsets,
        histograms.rules,
        histograms.lowers,
        histograms.uppers,
        histograms.bucket_counts,
        form,
        np.zeros(CURSOR_SIZE, np.int64),
    )
    size = max(size, head_size, point_size)
    if new_buffer is None or size < PIECE_SIZE:
        return (yield from _copied_pieces(arguments, np.empty(size, np.uint8)))
    while arguments[-1][0] < len(rows):
        out = new_buffer(size)
        yield out[: _write_piece(arguments, out)].data


def _copied_pieces(arguments: tuple[Any, ...], out: npt.NDArray[np.uint8]) -> Iterator[bytes]:
    cursor, offsets = arguments[-1], arguments[10]
    while cursor[0] < len(offsets) - 1:
        yield out[: _write_piece(arguments, out)].tobytes()


def _write_piece(arguments: tuple[Any, ...], out: npt.NDArray[np.uint8]) -> int:
    size: int = write_series(*arguments, out)
    assert size >= 0, "the buffer holds the longest item, and every handle has a histogram"
    return size


@dataclass(frozen=True, slots=True)
class _Pairs:
    """``"name":"value"`` of pair p is ``text[starts[p]:ends[p]]``; `of_rows` has those of rows.

    Shapes: ``text: u8[...]``, ``starts, ends: i64[P]``, ``of_rows: u32[...]``.
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    of_rows: npt.NDArray[np.uint32]


def _pairs_of(rows: LabelRows, series: JsonSeries) -> _Pairs:
    ids = np.ascontiguousarray(rows.pairs, np.uint32)
    if len(ids) >= _MARK_AT and (top := int(ids.max()) + 1) <= 8 * len(ids):
        # Marking beats sorting, and the ids can stay what they are.
        seen = np.zeros(top, np.bool_)
        seen[ids] = True
        places = np.flatnonzero(seen)
        text, offsets = _pair_arena(places.astype(np.uint32), series)
        starts, ends = np.zeros(top, np.int64), np.zeros(top, np.int64)
        starts[places], ends[places] = offsets[:-1], offsets[1:]
        return _Pairs(text, starts, ends, ids)
    if len(ids) <= _FEW_PAIRS:
        text, offsets = _pair_arena(ids, series)
        return _Pairs(text, offsets[:-1], offsets[1:], np.arange(len(ids), dtype=np.uint32))
    distinct, of_rows = np.unique(ids, return_inverse=True)
    text, offsets = _pair_arena(distinct, series)
    return _Pairs(text, offsets[:-1], offsets[1:], of_rows.astype(np.uint32))


_Arena: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def _pair_arena(pairs: npt.NDArray[np.uint32], series: JsonSeries) -> _Arena:
    """``"name":"value"`` of each pair one after the other, and where each begins."""
    plain = None if series.texts is None else _plain_arena(pairs, series.texts)
    return _any_arena(pairs, series.pair_texts) if plain is None else plain


def _plain_arena(pairs: npt.NDArray[np.uint32], texts: LabelTexts) -> _Arena | None:
    """`_pair_arena` of pairs that are all in a dictionary; None if some need more than a copy."""
    if len(pairs) and int(pairs.max()) >= len(texts.pair_names):
        return None
    offsets = np.empty(len(pairs) + 1, np.int64)
    size = _PAIR_SIZE * len(pairs)
    while True:
        text = np.empty(size + WORD_SLACK, np.uint8)
        used = write_pairs(
            texts.text, texts.text_offsets, texts.pair_names, texts.pair_values, pairs,
            text[:size], offsets,
        )  # fmt: skip
        if used < 0:
            return None
        if used <= size:
            return text[: used + WORD_SLACK], offsets
        size = used


def _any_arena(pairs: npt.NDArray[np.uint32], pair_texts: PairTexts) -> _Arena:
    """`_pair_arena` of any pairs.

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
    parts.append(bytes(WORD_SLACK))
    return np.frombuffer(b"".join(parts), np.uint8), offsets_of(sizes)


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


def _head_sizes(pairs: _Pairs, offsets: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Bounds of the bytes of one label set with what stands around it, and of all of them."""
    n_rows = len(offsets) - 1
    pair_size = int((pairs.ends - pairs.starts).max(initial=0)) + 1
    bound = HEAD_SIZE_MAX + int((offsets[1:] - offsets[:-1]).max()) * pair_size
    if bound <= PIECE_SIZE // 4 and len(pairs.of_rows) >= _MARK_AT:
        return bound, n_rows * bound
    sizes = pairs.ends[pairs.of_rows] - pairs.starts[pairs.of_rows] + 1
    ends = offsets_of(sizes)[offsets]
    return HEAD_SIZE_MAX + int((ends[1:] - ends[:-1]).max()), n_rows * HEAD_SIZE_MAX + int(ends[-1])


def _stamp_arena(
    stamps_ms: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts of timestamps one after the other, and where each begins: u8[...], i64[n + 1]."""
    text = np.empty(len(stamps_ms) * STAMP_SIZE_MAX + WORD_SLACK, np.uint8)
    offsets = np.empty(len(stamps_ms) + 1, np.int64)
    write_stamps(np.ascontiguousarray(stamps_ms, np.int64), text, offsets)
    return text, offsets
