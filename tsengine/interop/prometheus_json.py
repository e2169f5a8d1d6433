"""Query answers as the JSON of Prometheus's HTTP API (the value of "data").

The bulk is written by one kernel into one buffer; per sample nothing happens in Python.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import orjson

from tsengine.kernels.numbers import VALUE_SIZE_MAX, write_series
from tsengine.model.labels import LabelRows

_ROW_SIZE_MAX = 48
_SAMPLE_SIZE_MAX = VALUE_SIZE_MAX + 6


def matrix_json(
    rows: LabelRows,
    pair_text: Callable[[int], tuple[str, str]],
    values: npt.NDArray[np.float64],
    value_offsets: npt.NDArray[np.int64],
    stamps_ms: npt.NDArray[np.int64],
    stamp_of_value: npt.NDArray[np.int64],
) -> bytes:
    """``{"resultType":"matrix","result":[...]}``.

    Parameters
    ----------
    rows
        Label sets of the S series, none of which may be without values.
    pair_text
        Name and value of a pair id.
    values, value_offsets
        f64[N] of all series one after the other; series s owns
        ``value_offsets[s]:value_offsets[s + 1]``: i64[S + 1].
    stamps_ms, stamp_of_value
        Distinct timestamps i64[K], and which one each value has: i64[N].

    """
    body = _series(rows, pair_text, values, value_offsets, stamps_ms, stamp_of_value, True)
    return b'{"resultType":"matrix","result":[' + body + b"]}"


def vector_json(
    rows: LabelRows,
    pair_text: Callable[[int], tuple[str, str]],
    values: npt.NDArray[np.float64],
    time_ms: int,
) -> bytes:
    """``{"resultType":"vector","result":[...]}``; one value per row: f64[S]."""
    offsets = np.arange(len(values) + 1)
    stamps = np.zeros(len(values), np.int64)
    body = _series(rows, pair_text, values, offsets, np.array([time_ms]), stamps, False)
    return b'{"resultType":"vector","result":[' + body + b"]}"


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
    one = np.array([value])
    text = _series(
        rows, _no_pair, one, np.arange(2), np.zeros(1, np.int64), np.zeros(1, int), False
    )
    return text[text.rindex(b',"') + 2 : text.rindex(b'"')].decode()


def _no_pair(pair: int) -> tuple[str, str]:
    raise AssertionError("rows without labels have no pairs")


def _pair(time_ms: int, value: bytes) -> bytes:
    return b"[" + format_timestamp(time_ms).encode() + b',"' + value + b'"]'


def _printable(text: str) -> str:
    """Bytes that are not UTF-8 become the replacement character, as in Go's JSON."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _series(
    rows: LabelRows,
    pair_text: Callable[[int], tuple[str, str]],
    values: npt.NDArray[np.float64],
    value_offsets: npt.NDArray[np.int64],
    stamps_ms: npt.NDArray[np.int64],
    stamp_of_value: npt.NDArray[np.int64],
    is_matrix: bool,
) -> bytes:
    if len(rows) == 0:
        return b""
    distinct, row_pairs = np.unique(rows.pairs, return_inverse=True)
    pair_texts = [
        b":".join(orjson.dumps(_printable(text)) for text in pair_text(int(pair)))
        for pair in distinct.tolist()
    ]
    pair_bytes, pair_offsets = _arena(pair_texts)
    stamp_texts = [format_timestamp(t).encode() for t in stamps_ms.tolist()]
    stamp_bytes, stamp_offsets = _arena(stamp_texts)
    values = np.ascontiguousarray(values)
    text = np.frombuffer(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY), np.uint8)
    pair_sizes = np.diff(pair_offsets)
    size = (
        _ROW_SIZE_MAX * len(rows)
        + int(pair_sizes[row_pairs].sum())
        + len(row_pairs)
        + len(values) * (_SAMPLE_SIZE_MAX + max(map(len, stamp_texts), default=0))
    )
    out = np.empty(size, np.uint8)
    written = write_series(
        text,
        values,
        np.ascontiguousarray(value_offsets, np.int64),
        np.ascontiguousarray(stamp_of_value, np.int64),
        stamp_bytes,
        stamp_offsets,
        pair_bytes,
        pair_offsets,
        np.ascontiguousarray(row_pairs, np.int64),
        np.ascontiguousarray(rows.offsets, np.int64),
        int(is_matrix),
        out,
    )
    assert written >= 0, "orjson writes floats, and the buffer holds the longest texts"
    return out[:written].tobytes()


def _arena(texts: list[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts one after the other, and where each begins: u8[...], i64[n + 1]."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts) or b"\0", np.uint8), offsets
