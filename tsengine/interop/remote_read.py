"""Prometheus remote read: requests in, responses of raw samples out (``prometheus.ReadResponse``).

Requests are small and parsed field by field. Responses are built column by column: nothing happens
in Python per series or sample. The streamed kind of response is in `read_stream`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tsengine.errors import MalformedRequest
from tsengine.interop.arrow import read_slices, row_times
from tsengine.interop.histogram_messages import histogram_fields
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import is_handle, rows_of
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.model.ragged import offsets_of

SAMPLES: Final = 0
STREAMED_XOR_CHUNKS: Final = 1
"""Response types: one message, or a stream of chunks."""

_OPS: Final = (MatchOp.EQUAL, MatchOp.NOT_EQUAL, MatchOp.REGEX, MatchOp.NOT_REGEX)
_NOTHING: Final = pa.scalar(b"", pa.large_binary())
_SAMPLE_SIZE: Final = 12
"""Bytes of a sample with its key and length, without the varint of its time."""


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """One selection; both ends are closed, in ms."""

    mint: int
    maxt: int
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a client asks for; `accepted` are the response types it names, best first."""

    queries: tuple[ReadQuery, ...]
    accepted: tuple[int, ...]

    def response_type(self) -> int:
        """The first type that is served, SAMPLES if none is named; raises MalformedRequest."""
        for wanted in self.accepted or (SAMPLES,):
            if wanted in (SAMPLES, STREAMED_XOR_CHUNKS):
                return wanted
        raise MalformedRequest(
            "none of the accepted response types is served; "
            "accept SAMPLES (0) or STREAMED_XOR_CHUNKS (1)"
        )


class _View(Protocol):
    @property
    def dictionary(self) -> LabelDictionary: ...
    def find(self, matchers: Sequence[Matcher], mint: int, maxt: int) -> npt.NDArray[np.uint32]: ...
    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows: ...
    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int: ...
    def read(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch: ...


def parse_request(message: bytes) -> ReadRequest:
    """Read a decompressed ``prometheus.ReadRequest``; raises MalformedRequest."""
    try:
        queries = []
        accepted: list[int] = []
        for number, value in _fields(message):
            if number == 1:
                queries.append(_parse_query(value))
            elif number == 2:
                accepted += [value] if isinstance(value, int) else _varints(value)
        return ReadRequest(tuple(queries), tuple(accepted))
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise MalformedRequest(f"body is not a ReadRequest: {error}") from None


def _parse_query(data: bytes) -> ReadQuery:
    mint = maxt = 0
    matchers = []
    for number, value in _fields(data):
        if number == 1:
            mint = _signed(value)
        elif number == 2:
            maxt = _signed(value)
        elif number == 3:
            found: dict[int, Any] = {1: 0, 2: b"", 3: b"", **dict(_fields(value))}
            matchers.append(Matcher(found[2].decode(), _OPS[found[1]], found[3].decode()))
    return ReadQuery(mint, maxt, tuple(matchers))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: int, or bytes."""
    pos = 0
    while pos < len(data):
        key, pos = _varint(data, pos)
        kind = key & 7
        if kind == 0:
            value, pos = _varint(data, pos)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, pos = _varint(data, pos)
        if size is None or pos + size > len(data):
            raise ValueError(f"field cut or of unknown type at byte {pos}")
        yield key >> 3, data[pos : pos + size]
        pos += size


def _varints(data: bytes) -> list[int]:
    out = []
    pos = 0
    while pos < len(data):
        value, pos = _varint(data, pos)
        out.append(value)
    return out


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), pos
    raise ValueError(f"number too long at byte {pos}")


def query_result(view: _View, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> bytes:
    """One ``results`` field of a response: the samples of the given series, bit-exact.

    Series come in the order of `refs`: u32[S]; those without samples are left out.
    """
    pairs = PairTexts(view.dictionary)
    parts = []
    for start, stop, frames in read_slices(view, refs, mint, maxt):
        counts = np.diff(frames.row_offsets)
        filled = np.flatnonzero(counts)
        bounds = np.concatenate([[0], frames.row_offsets[1:][filled]])
        labels = pairs.joined(view.labels(refs[start:stop][filled]))
        bodies = concatenated(labels, *_samples(frames, bounds))
        parts.append(_joined(concatenated(heads(0x0A, bodies), bodies)))
    body = b"".join(parts)
    return b"\x0a" + varint_bytes(np.array([len(body)], np.uint64))[0].tobytes() + body


def _samples(frames: FrameBatch, bounds: npt.NDArray[np.int64]) -> list[pa.Array]:
    """``samples`` of each row and, if there are any, ``histograms``; ``bounds: i64[rows + 1]``."""
    t_ms = row_times(frames)
    table = frames.histograms
    if table is None:
        samples, ends = sample_fields(t_ms, frames.values)
        return [binary(samples, ends[bounds])]
    bits = np.ascontiguousarray(frames.values).view(np.uint64)
    held = is_handle(bits)
    samples, ends = sample_fields(t_ms[~held], frames.values[~held])
    messages, message_ends = histogram_fields(table, rows_of(bits[held]), t_ms[held])
    n_before = offsets_of(held.view(np.int8))[bounds]
    message_bounds = np.concatenate((np.zeros(1, np.int64), message_ends))
    return [
        binary(samples, ends[bounds - n_before]),
        binary(messages, message_bounds[n_before]),
    ]


def sample_fields(
    t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """``samples`` fields of N samples behind each other, and their bounds: i64[N + 1]."""
    texts, widths = varint_bytes(t_ms.view(np.uint64))
    bounds = np.zeros(len(t_ms) + 1, np.int64)
    np.cumsum(widths + _SAMPLE_SIZE, out=bounds[1:])
    out = np.empty(bounds[-1], np.uint8)
    starts = bounds[:-1]
    out[starts] = 0x12
    out[starts + 1] = widths + 10
    out[starts + 2] = 0x09
    little = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    for k in range(8):
        out[starts + (3 + k)] = little[:, k]
    out[starts + 11] = 0x10
    places = np.cumsum(widths) - widths
    for k in range(int(widths.max(initial=0))):
        has = widths > k
        out[starts[has] + (12 + k)] = texts[places[has] + k]
    return out, bounds


def varint_bytes(
    numbers: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Varints behind each other, and their widths: i64[N]."""
    widths = np.ones(len(numbers), np.int64)
    for k in range(1, 10):
        widths += numbers >= np.uint64(1 << (7 * k))
    ends = np.cumsum(widths)
    out = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    for k in range(int(widths.max(initial=0))):
        has = widths > k
        seven = (numbers[has] >> np.uint64(7 * k)) & np.uint64(0x7F)
        more = np.where(widths[has] > k + 1, 0x80, 0).astype(np.uint8)
        out[ends[has] - widths[has] + k] = seven.astype(np.uint8) | more
    return out, widths


class PairTexts:
    """``labels`` fields of label pairs."""

    def __init__(self, dictionary: LabelDictionary) -> None:
        self._dictionary = dictionary

    def joined(self, rows: LabelRows) -> pa.Array:
        """The ``labels`` fields of S label sets, one text each."""
        distinct, codes = np.unique(rows.pairs, return_inverse=True)
        names = self._texts(self._dictionary.pair_names[distinct])
        values = self._texts(self._dictionary.pair_values[distinct])
        pairs = concatenated(heads(0x0A, names), names, heads(0x12, values), values)
        fields = concatenated(heads(0x0A, pairs), pairs).take(pa.array(codes))
        return joined_lists(rows.offsets, fields)

    def _texts(self, symbols: npt.NDArray[np.uint32]) -> pa.Array:
        return pa.array(
            [self._dictionary.text(int(s)).encode() for s in symbols], pa.large_binary()
        )


def heads(key: int, bodies: pa.Array) -> pa.Array:
    """Key and length that stand before each body."""
    sizes = pc.binary_length(bodies).to_numpy().astype(np.uint64)
    texts, widths = varint_bytes(sizes)
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(widths, out=bounds[1:])
    return concatenated(pa.scalar(bytes([key]), pa.large_binary()), binary(texts, bounds))


def binary(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> pa.Array:
    """Texts of bytes behind each other; text i is ``data[offsets[i]:offsets[i + 1]]``."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, np.int64)), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def concatenated(*columns: pa.Array | pa.Scalar) -> pa.Array:
    """Texts of several columns joined row by row; a scalar stands in every row."""
    return pc.binary_join_element_wise(*columns, _NOTHING)


def joined_lists(offsets: npt.NDArray[np.int64], texts: pa.Array) -> pa.Array:
    """Texts ``offsets[i]:offsets[i + 1]`` as one, for each i."""
    lists = pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)), texts)
    return pc.binary_join(lists, _NOTHING)


def _joined(texts: pa.Array) -> bytes:
    whole: bytes = joined_lists(np.array([0, len(texts)]), texts)[0].as_buffer().to_pybytes()
    return whole
