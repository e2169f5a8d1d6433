"""Writing a part of a tier: windows of series in, fsynced files and their description out.

Which columns need no place is decided here, for each series of a part: those that `tier_reader`
would make of others to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels.windowtiers import GAP_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.windows import HISTOGRAM_COLUMNS, Column, WindowBatch
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.head_read import copy_plain
from tsengine.storage.manifest import TierEntry
from tsengine.storage.part_writer import Progress, Targets, write_part
from tsengine.storage.pieces import I64Array, U32Array, offsets_of
from tsengine.storage.tier_columns import SPARSE_COLUMNS, F64Array, fill_following, to_stored
from tsengine.storage.tier_doubts import Doubts
from tsengine.storage.tier_format import LADDER_MS, MaskArray, encode_sections

SPARSE_RATIO = 8
"""A column is stored with gaps if at most one window of so many does not follow from others."""


def write_tier_part(
    fs: FileSystem,
    directory: str,
    name: str,
    chunks: Iterable[tuple[U32Array, WindowBatch]],
    *,
    width_ms: int,
    cover: tuple[int, int],
    targets: Targets,
    seq_max: int,
    level: int,
    progress: Progress | None = None,
    doubts: Callable[[], Doubts] = Doubts.none,
) -> TierEntry:
    """Write the tier's part ``name`` into the folder of tiers and fsync it.

    ``directory`` exists; the part is a folder in it. ``chunks`` are series and their windows, all
    columns of `Column` (see `tier_format.STORED_COLUMNS`); refs ascend over all chunks, series
    without windows are allowed. ``cover`` is the closed range (whole windows) that the part sums
    up, ``seq_max`` the highest sequence that is in: that of all parts which were there when the
    windows were read, as nothing newer touched the range. ``targets`` is as in `write_part`;
    ``progress`` is told the values written so far. ``doubts`` gives the windows in doubt, by
    series, when all chunks were taken.

    The entry's ``mint > maxt`` if there are no windows at all; there is a folder nevertheless.
    Raises OSError as the file system does; the folder then holds rubbish that nobody reads.
    """
    writing = _Writing(targets)
    part = write_part(
        fs,
        directory,
        name,
        writing.virtual_series(chunks),
        targets=writing.targets,
        seq_min=0,
        seq_max=seq_max,
        level=level,
        progress=progress,
        ladder_ms=LADDER_MS,
        sections=lambda: encode_sections(width_ms, cover, *writing.table(), doubts().settled()),
    )
    assert part is not None, "a part with sections of its own is always written"
    return TierEntry(
        name=name,
        width_ms=width_ms,
        cover_min=cover[0],
        cover_max=cover[1],
        level=level,
        mint=part.mint,
        maxt=part.maxt,
        n_samples=part.n_samples,
        n_series=part.n_series,
        seq_min=0,
        seq_max=seq_max,
        size_bytes=part.size_bytes,
    )


class _Writing:
    """A tier's part under way: its virtual series are numbered here."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._owners = np.empty(0, np.int64)
        self._n_virtual = 0
        self._refs: list[U32Array] = []
        self._masks: list[MaskArray] = []
        self._sparse: list[MaskArray] = []

    def virtual_series(
        self, chunks: Iterable[tuple[U32Array, WindowBatch]]
    ) -> Iterator[SeriesColumns]:
        """Stored columns of the chunks as series of their own."""
        for refs, windows in chunks:
            rows = np.flatnonzero(np.diff(windows.row_offsets))
            if len(rows) == 0:
                continue
            stored = _stored_columns(windows, rows)
            mask, sparse = np.zeros((2, len(rows)), np.uint32)
            for column, own in stored.items():
                mask |= own.is_stored.astype(np.uint32) << np.uint32(column)
                sparse |= own.is_sparse.astype(np.uint32) << np.uint32(column)
            n_columns = np.bitwise_count(mask)
            owners = self._targets(refs[rows])
            self._owners = np.repeat(owners, n_columns)
            first = self._n_virtual
            self._n_virtual += int(n_columns.sum())
            self._refs.append(refs[rows])
            self._masks.append(mask)
            self._sparse.append(sparse)
            numbers = np.arange(first, self._n_virtual, dtype=np.uint32)
            yield _as_series(windows, rows, stored, numbers)

    def targets(self, virtual: U32Array) -> I64Array:
        """Target of each virtual series of the chunk made last."""
        assert len(virtual) == len(self._owners), "one chunk after the other"
        return self._owners

    def table(self) -> tuple[U32Array, MaskArray, MaskArray]:
        """``(refs, masks, sparse)`` of all chunks."""
        none = np.empty(0, np.uint32)
        refs, masks, sparse = (
            np.concatenate([none, *columns]) for columns in (self._refs, self._masks, self._sparse)
        )
        return refs, masks, sparse


@dataclass(frozen=True, slots=True)
class _Stored:
    """A column of R series: ``is_stored, is_sparse: bool[R]``; ``values: f64[N]`` of all windows.

    Values are in the form of files, with gaps where they are sparse.
    """

    is_stored: npt.NDArray[np.bool_]
    is_sparse: npt.NDArray[np.bool_]
    values: F64Array


def _stored_columns(windows: WindowBatch, rows: I64Array) -> dict[Column, _Stored]:
    """What must be stored of the series ``rows``, each of which has windows."""
    columns = {column: to_stored(windows, column) for column in sorted(windows.columns)}
    every, none = np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    stored = {Column.COUNT: _Stored(every, none, columns[Column.COUNT])}
    starts = windows.row_offsets[rows]
    sizes = np.diff(windows.row_offsets)[rows]
    follows = np.empty(windows.n_windows)
    for column, values in columns.items():
        if column == Column.COUNT:
            continue
        fill_following(column, rows, windows.row_offsets, columns, follows)
        bits = values.view(np.uint64)
        differs = bits != follows.view(np.uint64)
        n_differing = np.add.reduceat(differs.view(np.int8), starts, dtype=np.int64)
        if not n_differing.any():
            continue
        is_sparse = none
        if column in SPARSE_COLUMNS:
            # What has the bits of a gap could not be told from one.
            is_clear = ~np.logical_or.reduceat(differs & (bits == GAP_BITS), starts)
            is_sparse = (n_differing > 0) & (SPARSE_RATIO * n_differing <= sizes) & is_clear
            has_gap = np.repeat(is_sparse, sizes) & ~differs
            values = np.where(has_gap, np.nan, values)
        stored[column] = _Stored(n_differing > 0, is_sparse, values)
    return stored


def _as_series(
    windows: WindowBatch, rows: I64Array, stored: dict[Column, _Stored], numbers: U32Array
) -> SeriesColumns:
    """The stored columns in the order of (series, column)."""
    own = [np.flatnonzero(column.is_stored) for column in stored.values()]
    row = np.concatenate(own)
    rank = np.repeat(np.arange(len(own)), [len(of_column) for of_column in own])
    order = np.lexsort((rank, row))
    row, rank = rows[row[order]], rank[order]
    sizes = np.diff(windows.row_offsets)[row]
    offsets = offsets_of(sizes)
    t_ms = np.empty(offsets[-1], np.int64)
    copy_plain(
        windows.end_ms, windows.axis_offsets[windows.row_axis[row]], sizes, offsets[:-1], t_ms
    )
    bits = np.empty(offsets[-1], np.int64)
    has_histograms = False
    for k, (column, made) in enumerate(stored.items()):
        mine = np.flatnonzero(rank == k)
        copy_plain(
            made.values.view(np.int64), windows.row_offsets[row[mine]], sizes[mine],
            offsets[mine], bits,
        )  # fmt: skip
        has_histograms |= column in HISTOGRAM_COLUMNS
    histograms = windows.histograms if has_histograms else None
    return SeriesColumns(numbers, offsets, t_ms, bits.view(np.uint64), histograms)
