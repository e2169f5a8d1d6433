"""An open part of a tier: windows of its series, read by column.

The windows of a series are those of its stored counts; its other stored columns have the same axis.
Thread-safe; nothing changes after opening.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.model.histograms import Histograms, handles, is_handle
from tsengine.model.windows import HANDLE_COLUMNS, TIME_COLUMNS, Column, WindowBatch
from tsengine.storage import part_format
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import TierEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_select import PartPieces
from tsengine.storage.pieces import (
    I64Array,
    U32Array,
    expand_ranges,
    group_equal_runs,
    offsets_of,
)
from tsengine.storage.scratch import Scratch, with_spilled
from tsengine.storage.tier_columns import (
    SOURCES,
    F64Array,
    fill_following,
    fill_gaps,
    times_from_stored,
)
from tsengine.storage.tier_doubts import Doubts
from tsengine.storage.tier_format import TierTable, decode_doubts, decode_table
from tsengine.storage.tier_windows import no_windows


class TierReader:
    """A tier's part that can be read until it is closed; made by `TierReader.open`."""

    def __init__(
        self,
        directory: str,
        entry: TierEntry,
        part: PartReader,
        table: TierTable,
        doubts: Doubts,
    ) -> None:
        self._directory = directory
        self._part = part
        self._table = table
        self.entry = entry
        self.doubts = doubts
        """Windows that are not known to be those of all samples, by series."""

    @classmethod
    def open(cls, fs: FileSystem, directory: str, entry: TierEntry) -> TierReader:
        """Open the part whose files are in the folder ``directory``.

        Raises
        ------
        CorruptionError
            A checksum, a length or a number of the index is wrong, or does not fit ``entry``.
        UnsupportedFormat
            A newer version wrote the part.
        OSError
            As the file system does.

        """
        path = os.path.join(directory, part_format.INDEX_FILE)
        data = fs.read_file(path)
        _, sections = part_format.decode_index_table(data, path)
        cover = entry.cover_min, entry.cover_max
        table = decode_table(data, sections, path, width_ms=entry.width_ms, cover=cover)
        doubts = decode_doubts(data, sections, path, width_ms=entry.width_ms, cover=cover)
        part = PartReader.open(fs, directory, entry.part)
        if not np.array_equal(part.refs, np.arange(table.first[-1])):
            part.close()
            raise CorruptionError("the series are not those of the tier's table", path=path)
        return cls(directory, entry, part, table, doubts)

    def close(self) -> None:
        """Close the files; reads that are under way may fail."""
        self._part.close()

    def spill(self, scratch: Scratch) -> None:
        """Let index and table lie in scratch files, if they are large; raises OSError."""
        self._part.spill(scratch)
        self._table = with_spilled(scratch, self._table)

    @property
    def refs(self) -> U32Array:
        """Series of the part: ``u32[S]`` ascending, shared, not to be written."""
        return self._table.refs

    def read(
        self, refs: U32Array, mint: int, maxt: int, columns: Collection[Column]
    ) -> WindowBatch:
        """Windows with mint <= end <= maxt of the series ``refs`` (ascending).

        The arrays are the caller's. Raises CorruptionError.
        """
        own, rows = self._rows_of(refs)
        wanted = self._wanted(own, columns)
        virtual, place = self._virtual(own, wanted)
        pieces = self._part.pieces(virtual.astype(np.uint32), mint, maxt)
        if len(pieces.rows) == 0:
            return no_windows(len(refs), self.entry.width_ms, columns)
        layout = self._lay_out(pieces, place, len(own))
        columns_read = [need.column for need in wanted]
        table = self._decode(pieces, layout, len(wanted))
        histograms = self._number_histograms(pieces, layout, columns_read, virtual, table)
        found: dict[Column, F64Array] = dict(zip(columns_read, table, strict=True))
        for need in wanted:
            out = found[need.column]
            if len(need.follows):
                fill_following(need.column, need.follows, layout.row_offsets, found, out)
            if len(need.sparse):
                fill_gaps(need.column, need.sparse, layout.row_offsets, found, out)
        sizes = np.zeros(len(refs), np.int64)
        sizes[rows] = np.diff(layout.row_offsets)
        row_axis = np.full(len(refs), len(layout.axis_offsets) - 1)
        row_axis[rows] = layout.row_axis
        windows = WindowBatch(
            self.entry.width_ms,
            layout.end_ms,
            # Series without windows are on an empty axis behind the others.
            np.append(layout.axis_offsets, layout.axis_offsets[-1]),
            row_axis,
            offsets_of(sizes),
            found,
            histograms,
        )
        return self._finished(windows, columns)

    def count_windows(self, refs: U32Array, mint: int, maxt: int) -> int:
        """Windows that `read` gives, or a few more, from the index alone."""
        own, _ = self._rows_of(refs)
        counts = self._table.virtual(own, Column.COUNT).astype(np.uint32)
        return self._part.count_samples(counts, mint, maxt)

    def has_histograms(self, refs: U32Array) -> bool:
        """Whether a window of the series ``refs`` (ascending) has histograms."""
        own, _ = self._rows_of(refs)
        return bool(self._table.has(own, Column.H_COUNT).any())

    def verify(self) -> None:
        """Read every byte of the files and compare checksums; raises CorruptionError."""
        self._part.verify()

    def _rows_of(self, refs: U32Array) -> tuple[I64Array, I64Array]:
        """``(series of the part, row of the request)`` of the series that are here."""
        known = self._table.refs
        if len(known) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        at = np.searchsorted(known, refs)
        at[at == len(known)] = 0
        rows = np.flatnonzero(known[at] == refs)
        return at[rows], rows

    def _wanted(self, own: I64Array, columns: Collection[Column]) -> list[_Wanted]:
        """Columns to read, counts and sources of others included, sources first."""
        stored: dict[Column, npt.NDArray[np.bool_]] = {}

        def want(column: Column) -> None:
            if column in stored:
                return
            is_stored = self._table.has(own, column)
            if not is_stored.all() or self._table.has_gaps(own, column).any():
                for source in SOURCES.get(column, ()):
                    want(source)
            stored[column] = is_stored

        for column in (Column.COUNT, *sorted(columns)):
            want(column)
        return [
            _Wanted(
                column,
                np.flatnonzero(is_stored),
                np.flatnonzero(~is_stored),
                np.flatnonzero(self._table.has_gaps(own, column)),
            )
            for column, is_stored in stored.items()
        ]

    def _virtual(self, own: I64Array, wanted: list[_Wanted]) -> tuple[I64Array, I64Array]:
        """Virtual series to read, ascending, and of each ``rank of the column * rows + row``."""
        virtual = np.concatenate([self._table.virtual(own[w.stored], w.column) for w in wanted])
        place = np.concatenate([k * len(own) + w.stored for k, w in enumerate(wanted)])
        order = np.argsort(virtual)
        return virtual[order], place[order]

    def _lay_out(self, pieces: PartPieces, place: I64Array, n_rows: int) -> _Layout:
        """Axes and rows from the pieces of the counts, and where all pieces go."""
        rank, row = np.divmod(place[pieces.rows], n_rows)
        counts = np.flatnonzero(rank == 0)
        n_pieces = np.bincount(row[counts], minlength=n_rows)
        sizes = pieces.sizes[counts]
        starts = offsets_of(sizes)
        row_pieces = offsets_of(n_pieces)
        row_offsets = starts[row_pieces]
        row_axis, heads = group_equal_runs(pieces.keys[counts].reshape(-1), 3 * row_pieces)
        chosen = counts[expand_ranges(row_pieces[heads], n_pieces[heads])]
        positions = offsets_of(pieces.sizes[chosen])
        end_ms = np.empty(positions[-1], np.int64)
        pieces.copy_times(chosen, end_ms, positions[:-1])
        axis_offsets = positions[offsets_of(n_pieces[heads])]
        # Pieces of a virtual series follow each other; those of a column lie as those of COUNT.
        nth = np.arange(len(row)) - np.searchsorted(pieces.rows, pieces.rows)
        same = row_pieces[row] + nth
        fits = same < row_pieces[row + 1]
        if not fits.all() or not np.array_equal(pieces.keys, pieces.keys[counts[same]]):
            raise self._damage("a column has other windows than its counts")
        n_found = np.bincount(place[pieces.rows], minlength=int(place.max()) + 1)
        if not np.array_equal(n_found[place], n_pieces[place % n_rows]):
            raise self._damage("a column has fewer windows than its counts")
        return _Layout(rank, starts[:-1][same], row_axis, axis_offsets, end_ms, row_offsets)

    def _decode(self, pieces: PartPieces, layout: _Layout, n_columns: int) -> F64Array:
        """Values of the stored columns at their places; what is not stored is undefined."""
        n = int(layout.row_offsets[-1])
        table = np.empty((n_columns, n))
        every = np.arange(len(layout.rank))
        positions = layout.rank * n + layout.starts
        pieces.copy_values(every, table.reshape(-1).view(np.uint64), positions)
        return table

    def _number_histograms(
        self,
        pieces: PartPieces,
        layout: _Layout,
        columns: list[Column],
        virtual: I64Array,
        table: F64Array,
    ) -> Histograms | None:
        """The histograms that were found, whose handles are numbered in place."""
        is_held = np.array([column in HANDLE_COLUMNS for column in columns])[layout.rank]
        held = np.flatnonzero(is_held)
        if len(held) == 0:
            return None
        n = int(layout.row_offsets[-1])
        bits = table.reshape(-1).view(np.uint64)
        sizes = pieces.sizes[held]
        at = expand_ranges(layout.rank[held] * n + layout.starts[held], sizes)
        owner = np.repeat(virtual[pieces.rows[held]], sizes)
        t_ms = np.empty(len(at), np.int64)
        pieces.copy_times(held, t_ms, offsets_of(sizes)[:-1])
        found = np.flatnonzero(is_handle(bits[at]))
        if len(found) == 0:
            return None
        histograms = pieces.histograms_of(
            owner[found].astype(np.uint32), t_ms[found], bits[at[found]]
        )
        bits[at[found]] = handles(np.arange(len(found)))
        return histograms

    def _finished(self, windows: WindowBatch, columns: Collection[Column]) -> WindowBatch:
        finished: dict[Column, F64Array | I64Array] = {}
        for column in columns:
            finished[column] = windows.columns[column]
            if column in TIME_COLUMNS:
                times = times_from_stored(windows, finished[column].view(np.float64))
                if times is None:
                    raise self._damage("a time outside of its window")
                finished[column] = times
        return replace(windows, columns=finished)

    def _damage(self, what: str) -> CorruptionError:
        return CorruptionError(what, path=os.path.join(self._directory, part_format.INDEX_FILE))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A column to read: rows that store it, that don't, and those that store it with gaps."""

    column: Column
    stored: I64Array
    follows: I64Array
    sparse: I64Array


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the windows of a read go.

    ``rank, starts: i64[P]`` column and position of each piece; axes and rows as in `WindowBatch`.
    """

    rank: I64Array
    starts: I64Array
    row_axis: I64Array
    axis_offsets: I64Array
    end_ms: I64Array
    row_offsets: I64Array
