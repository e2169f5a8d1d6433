"""Remote read as a stream of chunks: frames of ``prometheus.ChunkedReadResponse``.

A frame is the length of its message as a varint, the message's CRC-32C as four bytes, big endian,
and the message: one series, or a part of one, with its chunks. What is in memory at a time is a
slice of the series, not the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tsengine.interop.arrow import row_times
from tsengine.interop.chunks import make_chunks
from tsengine.interop.remote_read import (
    PairTexts,
    binary,
    concatenated,
    heads,
    joined_lists,
    varint_bytes,
)
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelDictionary, LabelRows
from tsengine.model.ragged import expand_ranges, offsets_of

FRAME_SIZE_MAX: Final = 1024 * 1024
"""A frame is cut before it would be larger, unless labels and one chunk are."""
SLICE_SAMPLES: Final = 256 * 1024
"""About so many samples are read and encoded at a time."""
_PIECE_SIZE: Final = 256 * 1024
_MARGIN: Final = 64
"""Bytes of a message beside labels and chunks, and more."""


class _View(Protocol):
    @property
    def dictionary(self) -> LabelDictionary: ...
    def labels(self, refs: npt.NDArray[np.uint32]) -> LabelRows: ...
    def count_samples(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> int: ...
    def read(
        self, refs: npt.NDArray[np.uint32], mint: int, maxt: int, *, drop_stale: bool
    ) -> FrameBatch: ...


def stream_query(
    view: _View, refs: npt.NDArray[np.uint32], mint: int, maxt: int, query: int
) -> Iterator[bytes]:
    """Frames of one query's answer, in pieces of any size.

    Parameters
    ----------
    view
        Stays pinned until the iterator ends.
    refs
        u32[S] in the order of their labels, which clients rely on.
    mint, maxt
        Both ends are closed, in ms.
    query
        Position of the query in its request.

    """
    texts = PairTexts(view.dictionary)
    for some, start_ms, end_ms in _slices(view, refs, mint, maxt):
        # Storage reads in the order of refs.
        places = np.argsort(some)
        frames = view.read(some[places], start_ms, end_ms, drop_stale=False)
        if len(frames.values):
            labels = view.labels(some[places])
            yield from _pieces(_messages(texts, labels, frames, places, query))


def _slices(
    view: _View, refs: npt.NDArray[np.uint32], mint: int, maxt: int
) -> Iterator[tuple[npt.NDArray[np.uint32], int, int]]:
    """Ranges of the series, and of the time where one series alone has many samples."""
    pending = [(refs, mint, maxt)]
    while pending:
        some, start_ms, end_ms = pending.pop()
        n_samples = view.count_samples(some, start_ms, end_ms) if len(some) else 0
        if n_samples == 0:
            continue
        if n_samples <= SLICE_SAMPLES or (len(some) == 1 and start_ms == end_ms):
            yield some, start_ms, end_ms
        elif len(some) > 1:
            half = len(some) // 2
            pending += [(some[half:], start_ms, end_ms), (some[:half], start_ms, end_ms)]
        else:
            middle = (start_ms + end_ms) // 2
            pending += [(some, middle + 1, end_ms), (some, start_ms, middle)]


def _messages(
    texts: PairTexts,
    labels: LabelRows,
    frames: FrameBatch,
    places: npt.NDArray[np.int64],
    query: int,
) -> Iterator[bytes]:
    """Messages of a slice, one series at most in each; row r comes at ``places[r]``."""
    t_ms = row_times(frames)
    chunks = make_chunks(t_ms, frames.values, frames.row_offsets, frames.histograms)
    descriptions = concatenated(
        _number(0x08, t_ms[chunks.starts]),
        _number(0x10, t_ms[chunks.ends - 1]),
        _number(0x18, chunks.types),
    )
    data = _gathered(chunks.data, chunks.begins, chunks.sizes)
    bodies = concatenated(descriptions, heads(0x22, data), data)
    fields = concatenated(heads(0x12, bodies), bodies)
    row = np.searchsorted(frames.row_offsets, chunks.starts, side="right") - 1
    filled, first = np.unique(row, return_index=True)
    label_texts = texts.joined(LabelRows(*_rows(labels, filled)))
    sizes = np.asarray(pc.binary_length(fields), np.int64)
    label_sizes = np.asarray(pc.binary_length(label_texts), np.int64)
    starts = _frame_starts(first, sizes, label_sizes)
    own = np.searchsorted(first, starts, side="right") - 1
    joined = joined_lists(np.append(starts, len(fields)), fields)
    series = concatenated(label_texts.take(pa.array(own)), joined)
    series = series.take(pa.array(np.argsort(places[filled[own]], kind="stable")))
    last = pa.scalar(b"\x10" + _varint(query) if query else b"", pa.large_binary())
    for message in concatenated(heads(0x0A, series), series, last):
        yield message.as_py()


def _frame_starts(
    first: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], label_sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """First chunk of each frame; ``first: i64[S]`` are those of the series."""
    ends = np.cumsum(sizes)
    of_series = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(sizes))))
    begins = ends - sizes
    room = np.maximum(FRAME_SIZE_MAX - _MARGIN - label_sizes - int(sizes.max()), 1)
    group = (begins - begins[first][of_series]) // room[of_series]
    is_start = np.ones(len(sizes), np.bool_)
    is_start[1:] = (group[1:] != group[:-1]) | (of_series[1:] != of_series[:-1])
    return np.flatnonzero(is_start)


def _rows(
    labels: LabelRows, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Offsets and pairs of some rows."""
    sizes = np.diff(labels.offsets)[rows]
    offsets = offsets_of(sizes)
    return offsets, labels.pairs[expand_ranges(labels.offsets[:-1][rows], sizes)]


def _number(key: int, numbers: npt.NDArray[np.int64]) -> pa.Array:
    """A varint field in every row."""
    texts, widths = varint_bytes(numbers.view(np.uint64))
    return concatenated(
        pa.scalar(bytes([key]), pa.large_binary()), binary(texts, offsets_of(widths))
    )


def _gathered(
    data: npt.NDArray[np.uint8], begins: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> pa.Array:
    """Pieces of bytes as texts, in the order given."""
    offsets = offsets_of(sizes)
    if np.array_equal(begins, offsets[:-1]):
        return binary(data, offsets)
    return binary(data[expand_ranges(begins, sizes)], offsets)


def _pieces(messages: Iterator[bytes]) -> Iterator[bytes]:
    """Frames around messages, several small ones in a piece."""
    parts: list[bytes] = []
    size = 0
    for message in messages:
        crc: int = google_crc32c.value(message)
        parts += (_varint(len(message)), crc.to_bytes(4, "big"), message)
        size += len(message)
        if size >= _PIECE_SIZE:
            yield b"".join(parts)
            parts.clear()
            size = 0
    if parts:
        yield b"".join(parts)


def _varint(number: int) -> bytes:
    return varint_bytes(np.array([number], np.uint64))[0].tobytes()
