"""Writing the components of a part: histograms and start timestamps as columns of floats.

A **group** is the histograms of one series that have one layout, in the order of time. Every bucket
and number of a group is a component, stored as a series of its own by the writer of parts. Memory
is bounded: columns are made, and written, some millions of values at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt

from tsengine.kernels.histogramcolumns import fill_buckets, list_buckets
from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import Histograms, is_handle, rows_of
from tsengine.storage import part_format
from tsengine.storage.component_format import (
    COUNT_KEY,
    HINT_KEY,
    START_KEY,
    SUM_KEY,
    ZERO_COUNT_KEY,
    ComponentTable,
    Layouts,
    encode_table,
)
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.head_read import copy_plain
from tsengine.storage.part_encoder import PartEncoder
from tsengine.storage.pieces import I64Array, U64Array, group_equal_runs, offsets_of

CHUNK_VALUES = 2 * 1024 * 1024
"""Values of components that are made at a time (more only if one component alone has more)."""

SPARSE_RATIO = 16
SPARSE_VALUES_MIN = 64 * 1024
"""A group is halved whose buckets' columns have more values than this, and so many a count."""

_NUMBER_KEYS = (COUNT_KEY, SUM_KEY, ZERO_COUNT_KEY, HINT_KEY)


class ComponentWriter:
    """The folder of components of a part under way."""

    def __init__(self, fs: FileSystem, path: str, ladder_ms: tuple[int, ...]) -> None:
        self._fs = fs
        self._path = path
        self._encoder = PartEncoder(fs, path, ladder_ms)
        self._layouts = _LayoutNumbers()
        self._refs: list[npt.NDArray[np.uint32]] = []
        self._layout_column: list[I64Array] = []
        self._keys: list[npt.NDArray[np.int32]] = []
        self._n_components = 0

    def add(self, chunk: SeriesColumns, targets: I64Array) -> None:
        """Write what a chunk has besides floats: a histogram or a start timestamp at least.

        Refs ascend over all chunks; start timestamps are integers that a double can hold.
        """
        owners = _owners(chunk, targets)
        starts = _start_components(chunk)
        groups = _groups_of(chunk, self._layouts)
        listed = _list_components(starts, groups)
        for which in _slices(listed.sizes):
            columns = _fill(which, listed, starts, groups)
            first = self._n_components + which.start
            offsets = offsets_of(listed.sizes[which])
            rows = listed.rows[which]
            self._encoder.add(
                SeriesColumns(
                    np.arange(first, first + len(rows), dtype=np.uint32),
                    offsets, columns[0], columns[1],
                ),
                owners[rows],
            )  # fmt: skip
        self._n_components += len(listed.keys)
        self._refs.append(chunk.refs[listed.rows])
        self._layout_column.append(listed.layouts)
        self._keys.append(listed.keys)

    def finish(self, *, seq_min: int, seq_max: int, level: int) -> I64Array:
        """Sync everything; the numbers of the part's section COMPONENT_FILES."""
        self._encoder.sync()
        index = self._encoder.finish(seq_min=seq_min, seq_max=seq_max, level=level, sections={})
        table = encode_table(
            ComponentTable(
                np.concatenate(self._refs),
                np.concatenate(self._layout_column),
                np.concatenate(self._keys),
                self._layouts.table(),
            )
        )
        self._fs.write_file(os.path.join(self._path, part_format.TABLE_FILE), table)
        self._fs.sync_dir(self._path)
        return np.array([index.size_bytes, index.crc, len(table), google_crc32c.value(table)])

    def paths(self) -> list[str]:
        """The folder's files."""
        names = (*part_format.FILES, part_format.TABLE_FILE)
        return [os.path.join(self._path, name) for name in names]

    def close(self) -> None:
        """Close the files."""
        self._encoder.close()


class _LayoutNumbers:
    """The layouts of a part under way, numbered from 0."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, bytes, int], int] = {}
        self._keys: list[tuple[int, int, bytes, int]] = []

    def number(self, histograms: Histograms) -> I64Array:
        """Layout of each histogram: i64[N]. Python runs once per different layout."""
        words = np.empty((len(histograms), 3), np.int64)
        words[:, 0] = histograms.schema
        words[:, 1] = histograms.zero_threshold.view(np.int64)
        words[:, 2] = histograms.bounds_id
        groups, heads = group_equal_runs(words.reshape(-1), 3 * np.arange(len(histograms) + 1))
        numbers = np.empty(len(heads), np.int64)
        for k, (schema, threshold, bounds) in enumerate(words[heads].tolist()):
            own = b""
            if bounds >= 0:
                span = slice(*histograms.bounds_offsets[bounds : bounds + 2].tolist())
                own = histograms.bounds[span].tobytes()
            numbers[k] = self._number((schema, threshold, own, 0))
        return numbers[groups]

    def again(self, number: int, rank: int) -> int:
        """Another layout with the content of a first one, for a group of its own."""
        return self._number((*self._keys[number][:3], rank))

    def _number(self, key: tuple[int, int, bytes, int]) -> int:
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
        return number

    def table(self) -> Layouts:
        """All layouts met so far."""
        keys = self._keys
        bounds = [np.frombuffer(own, np.float64) for _, _, own, _ in keys]
        return Layouts(
            np.array([schema for schema, *_ in keys], np.int8),
            np.array([threshold for _, threshold, *_ in keys], np.int64).view(np.float64),
            offsets_of(np.array([len(own) for own in bounds], np.int64)),
            np.concatenate([np.empty(0), *bounds]),
        )


@dataclass(frozen=True, slots=True)
class _Starts:
    """Start timestamps of a chunk: series with one, and the samples from the first to the last.

    ``rows, firsts, sizes: i64[K]``, ``t_ms: i64[N]`` and ``bits: u64[N]`` of all samples.
    """

    rows: I64Array
    firsts: I64Array
    sizes: I64Array
    t_ms: I64Array
    bits: U64Array


@dataclass(frozen=True, slots=True)
class _Groups:
    """The histograms of a chunk in the order of (series, layout, time), and their components.

    ``rows, layouts: i64[G]`` of each group, ``offsets: i64[G + 1]`` into ``t_ms: i64[N]`` and
    ``histograms``; ``numbers: u64[4, N]`` the bits of count, sum, zero count and hint; buckets of
    the groups as `list_buckets` gives them.
    """

    rows: I64Array
    layouts: I64Array
    offsets: I64Array
    t_ms: I64Array
    histograms: Histograms
    numbers: U64Array
    bucket_offsets: I64Array
    bucket_keys: npt.NDArray[np.int32]
    bucket_first: I64Array
    bucket_last: I64Array


@dataclass(frozen=True, slots=True)
class _Listed:
    """Components of a chunk in the order of (series, layout, key).

    ``rows: i64[C]`` series of the chunk, ``layouts: i64[C]`` as in files, ``keys: i32[C]``,
    ``firsts, sizes: i64[C]`` samples of the chunk (start timestamps) or of the groups, ``sources:
    i64[C]`` the bucket among those of the groups, -1 for what is no bucket.
    """

    rows: I64Array
    layouts: I64Array
    keys: npt.NDArray[np.int32]
    firsts: I64Array
    sizes: I64Array
    sources: I64Array


def _owners(chunk: SeriesColumns, targets: I64Array) -> I64Array:
    """A number per series that its components share: that of the target, or one of its own."""
    dense = np.unique(targets, return_inverse=True)[1].astype(np.int64)
    own = int(dense.max(initial=0)) + 1 + np.arange(len(chunk))
    return np.where(targets >= 0, dense, own)


def _spans(is_stored: npt.NDArray[np.bool_], offsets: I64Array) -> tuple[I64Array, I64Array]:
    """First stored item of each run and one behind the last; (large, 0) where there is none."""
    at = np.arange(len(is_stored))
    first = np.minimum.reduceat(np.where(is_stored, at, 2**62), offsets[:-1])
    end = np.maximum.reduceat(np.where(is_stored, at + 1, 0), offsets[:-1])
    return first, end


def _start_components(chunk: SeriesColumns) -> _Starts:
    if chunk.start_ms is None:
        none = np.empty(0, np.int64)
        return _Starts(none, none, none, none, np.empty(0, np.uint64))
    first, end = _spans(chunk.start_ms != 0, chunk.offsets)
    rows = np.flatnonzero(end)
    bits = chunk.start_ms.astype(np.float64).view(np.uint64)
    return _Starts(rows, first[rows], end[rows] - first[rows], chunk.t_ms, bits)


def _groups_of(chunk: SeriesColumns, layouts: _LayoutNumbers) -> _Groups | None:
    if chunk.histograms is None:
        return None
    at = np.flatnonzero(is_handle(chunk.bits))
    if len(at) == 0:
        return None
    histograms = chunk.histograms.take(rows_of(chunk.bits[at]))
    row = np.searchsorted(chunk.offsets, at, side="right") - 1
    layout = layouts.number(histograms)
    t_ms = chunk.t_ms[at]
    group = (row << 32) + layout
    if (group[1:] < group[:-1]).any():
        order = np.argsort(group, kind="stable")
        histograms, t_ms, group = histograms.take(order), t_ms[order], group[order]
    offsets = np.append(np.flatnonzero(np.append(True, group[1:] != group[:-1])), len(group))
    listed = _list_of_buckets(offsets, histograms)
    split = _split_sparse(offsets, histograms, listed)
    if len(split) > len(offsets):
        group = _renumbered(group, offsets, split, layouts)
        order = np.argsort(group, kind="stable")
        histograms, t_ms, group = histograms.take(order), t_ms[order], group[order]
        offsets = np.append(np.flatnonzero(np.append(True, group[1:] != group[:-1])), len(group))
        listed = _list_of_buckets(offsets, histograms)
    starts = offsets[:-1]
    numbers = np.empty((4, len(group)), np.uint64)
    numbers[0] = histograms.count.view(np.uint64)
    numbers[1] = histograms.sum.view(np.uint64)
    numbers[2] = histograms.zero_count.view(np.uint64)
    numbers[3] = histograms.hint.astype(np.float64).view(np.uint64)
    return _Groups(
        group[starts] >> 32, group[starts] & 0xFFFFFFFF, offsets, t_ms, histograms, numbers, *listed
    )


_Buckets: TypeAlias = tuple[I64Array, npt.NDArray[np.int32], I64Array, I64Array]
"""``(offsets: i64[G + 1], keys, first, last)`` of the buckets of groups."""


def _list_of_buckets(offsets: I64Array, histograms: Histograms) -> _Buckets:
    n_entries = len(histograms.keys)
    keys, first, last = np.empty(n_entries, np.int32), *np.empty((2, n_entries), np.int64)
    bucket_offsets = np.empty(len(offsets), np.int64)
    n = list_buckets(
        offsets, histograms.offsets, histograms.keys, keys, first, last, bucket_offsets
    )
    return bucket_offsets, keys[:n], first[:n], last[:n]


def _split_sparse(offsets: I64Array, histograms: Histograms, listed: _Buckets) -> I64Array:
    """Borders of groups with those halved whose columns would be almost only zeros.

    Else a histogram of a million buckets at both ends of a series would make all between as large.
    """
    while True:
        bucket_offsets, _, first, last = listed
        n_values = np.diff(offsets_of(last - first + 1)[bucket_offsets])
        n_counts = np.diff(histograms.offsets[offsets])
        sizes = np.diff(offsets)
        is_sparse = n_values > np.maximum(SPARSE_RATIO * n_counts, SPARSE_VALUES_MIN)
        if not (is_sparse & (sizes > 1)).any():
            return offsets
        offsets = np.union1d(offsets, (offsets[:-1] + sizes // 2)[is_sparse])
        listed = _list_of_buckets(offsets, histograms)


def _renumbered(
    group: I64Array, offsets: I64Array, split: I64Array, layouts: _LayoutNumbers
) -> I64Array:
    """Numbers of histograms' groups with one more layout for each part of a group but its first."""
    of_part = np.searchsorted(offsets, split[:-1], side="right") - 1
    rank = np.arange(len(of_part)) - np.searchsorted(of_part, of_part)
    numbers = group[split[:-1]]
    for part in np.flatnonzero(rank).tolist():
        row, layout = divmod(int(numbers[part]), 1 << 32)
        numbers[part] = (row << 32) + layouts.again(layout, int(rank[part]))
    return np.repeat(numbers, np.diff(split))


def _list_components(starts: _Starts, groups: _Groups | None) -> _Listed:
    """All components of a chunk: which there are, in the order in which they are stored."""
    n_starts = len(starts.rows)
    rows, layouts = [starts.rows], [np.zeros(n_starts, np.int64)]
    keys, sources = [np.full(n_starts, START_KEY)], [np.full(n_starts, -1)]
    firsts, sizes = [starts.firsts], [starts.sizes]
    if groups is not None:
        for number, key in enumerate(_NUMBER_KEYS):
            is_stored = (groups.numbers[number] != 0) | (key == COUNT_KEY)
            first, end = _spans(is_stored, groups.offsets)
            which = np.flatnonzero(end)
            rows.append(groups.rows[which])
            layouts.append(groups.layouts[which] + 1)
            keys.append(np.full(len(which), key))
            firsts.append(first[which])
            sizes.append(end[which] - first[which])
            sources.append(np.full(len(which), -1))
        n_buckets = np.diff(groups.bucket_offsets)
        rows.append(np.repeat(groups.rows, n_buckets))
        layouts.append(np.repeat(groups.layouts + 1, n_buckets))
        keys.append(groups.bucket_keys.astype(np.int64))
        firsts.append(groups.bucket_first)
        sizes.append(groups.bucket_last - groups.bucket_first + 1)
        sources.append(np.arange(len(groups.bucket_keys)))
    columns = [np.concatenate(c) for c in (rows, layouts, keys, firsts, sizes, sources)]
    order = np.lexsort((columns[2], columns[1], columns[0]))
    row, layout, keys_in_order, first, size, source = (column[order] for column in columns)
    return _Listed(row, layout, keys_in_order.astype(np.int32), first, size, source)


def _slices(sizes: I64Array) -> Iterator[slice]:
    """Runs of components of about CHUNK_VALUES values."""
    number = np.cumsum(sizes) // CHUNK_VALUES
    borders = np.concatenate(([0], np.flatnonzero(np.diff(number)) + 1, [len(sizes)]))
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        yield slice(start, end)


def _fill(
    which: slice, listed: _Listed, starts: _Starts, groups: _Groups | None
) -> tuple[I64Array, U64Array]:
    """Times and values of some components, one after the other."""
    firsts, sizes = listed.firsts[which], listed.sizes[which]
    keys, sources = listed.keys[which], listed.sources[which]
    positions = offsets_of(sizes)
    t_ms = np.empty(positions[-1], np.int64)
    bits = np.zeros(positions[-1], np.uint64)

    def copy(chosen: npt.NDArray[np.bool_], source: I64Array, out: I64Array) -> None:
        at = np.flatnonzero(chosen)
        copy_plain(source, firsts[at], sizes[at], positions[at], out)

    is_start = keys == START_KEY
    copy(is_start, starts.t_ms, t_ms)
    copy(is_start, starts.bits.view(np.int64), bits.view(np.int64))
    if groups is None:
        return t_ms, bits
    copy(~is_start, groups.t_ms, t_ms)
    for number, key in enumerate(_NUMBER_KEYS):
        copy(keys == key, groups.numbers[number].view(np.int64), bits.view(np.int64))
    is_bucket = sources >= 0
    if is_bucket.any():
        lo, hi = int(sources[is_bucket][0]), int(sources[is_bucket][-1]) + 1
        histograms = groups.histograms
        fill_buckets(
            groups.offsets, histograms.offsets, histograms.keys, histograms.counts.view(np.uint64),
            groups.bucket_offsets, groups.bucket_keys, groups.bucket_first,
            positions[:-1][is_bucket], lo, hi, bits,
        )  # fmt: skip
    return t_ms, bits
