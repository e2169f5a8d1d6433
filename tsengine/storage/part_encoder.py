"""Series to the three files `axes`, `values` and `index` of one folder (docs/format/part.md).

A part is such a folder, and its components are another one inside it. Memory is bounded by the
chunks that the caller hands in, plus the index's columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import google_crc32c
import numpy as np
import numpy.typing as npt

from tsengine.codecs.axis import encode_axes
from tsengine.codecs.block import encode_blocks
from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.histograms import is_handle
from tsengine.storage import part_format
from tsengine.storage.axis_layout import Layout, lay_out
from tsengine.storage.filesystem import AppendFile, FileSystem
from tsengine.storage.head_read import copy_plain
from tsengine.storage.part_format import VECTOR_ROWS, PartHeader, Section
from tsengine.storage.part_index import REQUIRED_SECTIONS
from tsengine.storage.part_stats import columns_of_stats
from tsengine.storage.pieces import (
    I64Array,
    U64Array,
    expand_ranges,
    group_equal_runs,
    offsets_of,
)

SYNC_EVERY_BYTES = 4 * 1024 * 1024
"""A part under way is synced this often, so that the log's fsync never waits for much."""
KNOWN_AXIS_ROWS_MAX = 1 << 20
"""Rows of earlier axes that are remembered to be shared by later chunks."""


@dataclass(frozen=True, slots=True)
class WrittenIndex:
    """What `PartEncoder.finish` wrote last."""

    header: PartHeader
    size_bytes: int
    crc: int


class _PayloadFile:
    """A file of payloads, synced now and then, with its running checksum."""

    def __init__(self, fs: FileSystem, path: str, magic: bytes) -> None:
        assert not fs.exists(path), "names of parts are never used twice"
        self._file: AppendFile = fs.open_append(path)
        self._unsynced = 0
        self.crc = 0
        self.write(part_format.file_header(magic))

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.size

    def write(self, data: bytes) -> None:
        """Append, in steps after each of which the file is synced."""
        self.crc = google_crc32c.extend(self.crc, data)
        for start in range(0, len(data), SYNC_EVERY_BYTES):
            piece = data[start : start + SYNC_EVERY_BYTES]
            self._file.write(piece)
            self._unsynced += len(piece)
            if self._unsynced >= SYNC_EVERY_BYTES:
                self.sync()

    def sync(self) -> None:
        """Make what was written durable."""
        self._file.datasync()
        self._unsynced = 0

    def close(self) -> None:
        """Close without syncing."""
        self._file.close()


class _KnownAxes:
    """The latest axes of a part under way, so that chunks of one target share them."""

    def __init__(self) -> None:
        self._t_ms = np.empty(0, np.int64)
        self._sizes = np.empty(0, np.int64)
        self._ids = np.empty(0, np.int64)

    def number(self, t_ms: I64Array, offsets: I64Array, next_id: int) -> tuple[I64Array, I64Array]:
        """Ids of distinct axes; new ones count from ``next_id``: ``(ids, which are new)``."""
        n_known = len(self._ids)
        sizes = np.concatenate([self._sizes, np.diff(offsets)])
        together = np.concatenate([self._t_ms, t_ms])
        groups, heads = group_equal_runs(together, offsets_of(sizes))
        head = heads[groups[n_known:]]
        is_new = head >= n_known
        ids = np.empty(len(head), np.int64)
        ids[~is_new] = self._ids[head[~is_new]]
        ids[is_new] = next_id + np.arange(int(is_new.sum()))
        new = np.flatnonzero(is_new)
        self._remember(together, sizes, np.concatenate([self._ids, ids]), n_known + new)
        return ids, new

    def _remember(self, t_ms: I64Array, sizes: I64Array, ids: I64Array, new: I64Array) -> None:
        """Keep known and new axes, dropping the oldest above the limit."""
        kept = np.concatenate([np.arange(len(self._ids)), new])
        rows = np.cumsum(sizes[kept][::-1])[::-1]
        kept = kept[rows <= KNOWN_AXIS_ROWS_MAX]
        starts = offsets_of(sizes)[kept]
        self._t_ms = t_ms[expand_ranges(starts, sizes[kept])]
        self._sizes = sizes[kept]
        self._ids = ids[kept]


class _Columns(Mapping[int, I64Array]):
    """Columns of an index, each made whole when it is asked for: all at once take much memory."""

    def __init__(
        self, pieces: Mapping[int, list[npt.NDArray[np.integer]]], sections: Mapping[int, I64Array]
    ) -> None:
        self._pieces = pieces
        self._sections = sections

    def __getitem__(self, number: int) -> I64Array:
        if number in self._sections:
            return self._sections[number]
        return np.concatenate([np.empty(0, np.int64), *self._pieces[number]]).astype(np.int64)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pieces.keys() | self._sections.keys())

    def __len__(self) -> int:
        return len(self._pieces.keys() | self._sections.keys())


class PartEncoder:
    """A folder under way: its payload files and the columns of its index."""

    def __init__(
        self,
        fs: FileSystem,
        path: str,
        ladder_ms: tuple[int, ...],
        *,
        with_statistics: bool = True,
        is_quick: bool = False,
    ) -> None:
        fs.mkdir(path)
        self._fs = fs
        self._path = path
        self._ladder_ms = ladder_ms
        self._axes = _PayloadFile(
            fs, os.path.join(path, part_format.AXES_FILE), part_format.AXES_MAGIC
        )
        self._values = _PayloadFile(
            fs, os.path.join(path, part_format.VALUES_FILE), part_format.VALUES_MAGIC
        )
        self._with_statistics = with_statistics
        self._is_quick = is_quick
        self._columns: dict[int, list[npt.NDArray[np.integer]]] = {
            section: [] for section in REQUIRED_SECTIONS
        }
        self._known = _KnownAxes()
        self._n_axes = self._n_patterns = 0
        self._last_ref = -1
        self._mint, self._maxt = 2**63 - 1, -(2**63)
        self.n_samples = 0
        self.n_series = 0

    def add(self, chunk: SeriesColumns, targets: I64Array) -> None:
        """Encode and write the series of a chunk; ``targets: i64[S]`` as for `write_part`.

        Handles stand in the file as they stand in the chunk.
        """
        assert int(chunk.refs[0]) > self._last_ref, "refs ascend over all chunks"
        assert int(np.diff(chunk.offsets).min()) > 0, "every series has samples"
        layout = lay_out(chunk, targets, self._ladder_ms)
        self._add_axes(layout)
        self._add_values(chunk, layout)
        self._put(Section.REFS, chunk.refs)
        self._put(Section.SERIES_BLOCKS, layout.series_blocks)
        self._put(Section.BLOCK_FIRST_ROW, layout.first_rows)
        self._put(
            Section.BLOCK_PATTERN,
            np.where(layout.patterns > 0, layout.patterns + self._n_patterns, 0),
        )
        self._put(Section.PATTERN_RUNS, np.diff(layout.pattern_offsets))
        # The first run of a pattern starts at its first row; the others say what they skip.
        ends = layout.run_first + layout.run_length
        skips = layout.run_first - np.concatenate([[0], ends[:-1]])
        skips[layout.pattern_offsets[:-1]] = 0
        self._put(Section.RUN_SKIP, skips)
        self._put(Section.RUN_LENGTH, layout.run_length)
        self._n_patterns += len(layout.pattern_offsets) - 1
        self._last_ref = int(chunk.refs[-1])
        self._mint = min(self._mint, int(chunk.t_ms.min()))
        self._maxt = max(self._maxt, int(chunk.t_ms.max()))
        self.n_samples += len(chunk.t_ms)
        self.n_series += len(chunk)

    def sync(self) -> None:
        """Make the payloads durable."""
        self._axes.sync()
        self._values.sync()

    def finish(
        self, *, seq_min: int, seq_max: int, level: int, sections: Mapping[int, I64Array]
    ) -> WrittenIndex:
        """Write and sync the index with these further ``sections``; `sync` was called."""
        header = PartHeader(
            level=level,
            mint=self._mint,
            maxt=self._maxt,
            n_samples=self.n_samples,
            n_series=self.n_series,
            seq_min=seq_min,
            seq_max=seq_max,
            axes_size_bytes=self._axes.size,
            values_size_bytes=self._values.size,
            axes_crc=self._axes.crc,
            values_crc=self._values.crc,
        )
        index = part_format.encode_index(header, _Columns(self._columns, sections))
        self._fs.write_file(os.path.join(self._path, part_format.INDEX_FILE), index)
        return WrittenIndex(header, len(index), google_crc32c.value(index))

    def close(self) -> None:
        """Close the files."""
        self._axes.close()
        self._values.close()

    def _put(self, section: int, column: npt.NDArray[np.integer]) -> None:
        # Only times and statistics need more than 32 bits; small types keep memory low.
        is_wide = section in (Section.AXIS_MINT, Section.AXIS_SPAN) or section >= Section.STAT_FIRST
        self._columns.setdefault(section, []).append(
            column if is_wide else column.astype(np.uint32)
        )

    def _add_axes(self, layout: Layout) -> None:
        ids, new = self._known.number(layout.axis_t, layout.axis_offsets, self._n_axes)
        self._put(Section.BLOCK_AXIS, ids[layout.axes])
        self._n_axes += len(new)
        starts = layout.axis_offsets[new]
        rows = layout.axis_offsets[new + 1] - starts
        t_ms, offsets = layout.axis_t, layout.axis_offsets
        if len(new) < len(ids):
            t_ms, offsets = t_ms[expand_ranges(starts, rows)], offsets_of(rows)
        if len(new):
            payload, payload_offsets = encode_axes(t_ms, offsets)
            self._axes.write(payload.tobytes())
            self._put(Section.AXIS_SIZE, np.diff(payload_offsets))
        mint, maxt = t_ms[offsets[:-1]], t_ms[offsets[1:] - 1]
        self._put(Section.AXIS_ROWS, rows)
        self._put(Section.AXIS_MINT, mint)
        self._put(Section.AXIS_SPAN, maxt - mint)

    def _add_values(self, chunk: SeriesColumns, layout: Layout) -> None:
        offsets = np.append(layout.starts, len(chunk.t_ms))
        sizes = np.diff(offsets)
        payload_of, blocks = _distinct_blocks(chunk.bits, offsets, layout.first_rows)
        bits = chunk.bits
        if len(blocks) < len(sizes):
            offsets = offsets_of(sizes[blocks])
            bits = np.empty(offsets[-1], np.uint64)
            copy_plain(
                chunk.bits.view(np.int64), layout.starts[blocks], sizes[blocks], offsets[:-1],
                bits.view(np.int64),
            )  # fmt: skip
        encoded = encode_blocks(bits, offsets, layout.first_rows[blocks], is_quick=self._is_quick)
        self._values.write(encoded.payload.tobytes())
        self._put(Section.BLOCK_SIZE, sizes)
        # 0 for a payload of its own, else how many payloads back the equal one stands.
        first_use = np.zeros(len(sizes), np.int64)
        first_use[blocks] = 1
        self._put(
            Section.BLOCK_PAYLOAD_BACK,
            np.where(first_use > 0, 0, np.cumsum(first_use) - payload_of),
        )
        is_stale = np.logical_or.reduceat(chunk.bits == STALE_BITS, layout.starts)
        flags = np.where(is_stale, part_format.FLAG_STALE, 0)
        if chunk.histograms is not None:
            has_histogram = np.logical_or.reduceat(is_handle(chunk.bits), layout.starts)
            flags |= np.where(has_histogram, part_format.FLAG_HISTOGRAM, 0)
        self._put(Section.BLOCK_FLAGS, flags)
        self._put(Section.PAYLOAD_SIZE, np.diff(encoded.offsets))
        if self._with_statistics:
            for section, column in columns_of_stats(encoded.stats, np.diff(offsets)).items():
                self._put(section, column)


def _distinct_blocks(
    bits: U64Array, offsets: I64Array, first_rows: I64Array
) -> tuple[I64Array, I64Array]:
    """Blocks that are stored once: ``(index of each block's payload, first block of each)``.

    Blocks share a payload if their values are equal and their vectors are cut at the same places.
    """
    groups, _ = group_equal_runs(bits.view(np.int64), offsets)
    key = groups * VECTOR_ROWS + first_rows % VECTOR_ROWS
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse], first[order]
