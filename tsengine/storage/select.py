"""Reading samples: pieces of parts and heads made into frames or columns.

Most series take the direct way: their pieces follow each other in time, so values are decoded to
their final place and series whose pieces are the same share one axis. Series whose sources overlap
in time, or that hold staleness markers which are to be dropped, are settled sample by sample and
get an axis of their own; equal axes are then found again by content.

Stateless; any thread. Sources are pinned by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.storage.head_read import HeadPieces, HeadView, copy_plain
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import (
    I64Array,
    Pieces,
    U32Array,
    U64Array,
    expand_ranges,
    group_equal_runs,
    offsets_of,
    settle,
)

BoolArray = npt.NDArray[np.bool_]


def read_frames(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    *,
    drop_stale: bool,
) -> FrameBatch:
    """Samples with mint <= t <= maxt of the series ``refs`` (u32[S], ascending) as frames.

    ``parts`` and ``heads`` come in ascending sequence, all heads after all parts: of samples of one
    series with equal times the one of the later source is taken. With ``drop_stale`` staleness
    markers are left out (after they have replaced what they replace). The arrays are the caller's.
    Raises CorruptionError if a payload that is needed is damaged.
    """
    refs = np.ascontiguousarray(refs, np.uint32)
    found = _find(parts, heads, refs, mint, maxt)
    is_merged = found.overlapping_rows(len(refs))
    direct = _decode_direct(found, ~is_merged)
    if drop_stale and found.may_be_stale.any():
        # Blocks only say that they hold a marker somewhere; most reads don't meet it.
        is_merged |= direct.marked_rows()
    if not is_merged.any():
        return _direct_frames(found, direct)
    return _mixed_frames(found, direct, is_merged, drop_stale=drop_stale)


def read_columns(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
) -> SeriesColumns:
    """Samples with mint <= t <= maxt of the series ``refs``, those without any left out.

    Sources and order as in `read_frames`; staleness markers stay. Raises CorruptionError.
    """
    refs = np.ascontiguousarray(refs, np.uint32)
    found = _find(parts, heads, refs, mint, maxt)
    every = np.ones(len(refs), np.bool_)
    offsets, t_ms, bits = _merge(found, _decode_direct(found, ~every), every, drop_stale=False)
    kept = np.flatnonzero(np.diff(offsets))
    # Rows without samples take no room, so the others keep their offsets.
    return SeriesColumns(refs[kept], np.append(offsets[kept], offsets[-1]), t_ms, bits)


def count_samples(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
) -> int:
    """Samples that `read_frames` would return at most: duplicates of sources count each time."""
    n_samples = sum(part.count_samples(refs, mint, maxt) for part in parts)
    return n_samples + sum(head.count_samples(refs, mint, maxt) for head in heads)


class _Found:
    """The pieces of all sources as one table, in the order of sources (later ones win).

    Columns of length P: ``rows, sizes, first_t, last_t: i64``, ``may_be_stale: bool``,
    ``source: i64`` and ``local: i64``, the piece's number in its source.
    """

    __slots__ = (
        "_order", "first_t", "last_t", "local", "may_be_stale", "rows", "sizes", "source", "sources"
    )  # fmt: skip

    def __init__(self, sources: Sequence[Pieces]) -> None:
        self.sources = sources
        self.rows = _concatenate([s.rows for s in sources])
        self.sizes = _concatenate([s.sizes for s in sources])
        self.first_t = _concatenate([s.first_t for s in sources])
        self.last_t = _concatenate([s.last_t for s in sources])
        counts = np.array([len(s.rows) for s in sources], np.int64)
        self.source = np.repeat(np.arange(len(sources)), counts)
        self.local = expand_ranges(np.zeros(len(sources), np.int64), counts)
        self.may_be_stale = _concatenate([s.may_be_stale for s in sources]).astype(np.bool_)
        self._order: I64Array | None = None

    @property
    def by_time(self) -> I64Array:
        """Pieces ordered by (row, time)."""
        if self._order is None:
            if len(self.sources) == 1:
                self._order = np.arange(len(self.rows))
            else:
                self._order = np.lexsort((self.first_t, self.rows))
        return self._order

    def by_source(self, is_wanted: BoolArray) -> I64Array:
        """Pieces of wanted rows ordered by (row, source, time)."""
        pieces = np.flatnonzero(is_wanted[self.rows])
        return pieces[np.argsort(self.rows[pieces], kind="stable")]

    def overlapping_rows(self, n_rows: int) -> BoolArray:
        """Which rows have pieces that do not follow each other in time."""
        overlapping = np.zeros(n_rows, np.bool_)
        if len(self.sources) > 1:
            order = self.by_time
            rows = self.rows[order]
            meets = (rows[1:] == rows[:-1]) & (self.last_t[order][:-1] >= self.first_t[order][1:])
            overlapping[rows[1:][meets]] = True
        return overlapping

    def copy_times(self, which: I64Array, out: I64Array, positions: I64Array) -> None:
        """Write the times of pieces to their places."""
        for number, source in enumerate(self.sources):
            mine = self._of_source(which, number)
            if len(mine):
                source.copy_times(self.local[which[mine]], out, positions[mine])

    def times_in_place(self, which: I64Array) -> I64Array | None:
        """The times of pieces if they are all of one source and lie one after the other."""
        if len(self.sources) != 1:
            return None
        return self.sources[0].times_in_place(self.local[which])

    def copy_values(self, which: I64Array, out: U64Array, positions: I64Array) -> None:
        """Write the value bits of pieces to their places."""
        for number, source in enumerate(self.sources):
            mine = self._of_source(which, number)
            if len(mine):
                source.copy_values(self.local[which[mine]], out, positions[mine])

    def keys(self, which: I64Array) -> I64Array:
        """``i64[4 * len(which)]``: four words per piece, equal for pieces with the same times."""
        keys = np.empty((len(which), 4), np.int64)
        keys[:, 0] = self.source[which]
        for number, source in enumerate(self.sources):
            mine = self._of_source(which, number)
            keys[mine, 1:] = source.keys[self.local[which[mine]]]
        return keys.reshape(-1)

    def _of_source(self, which: I64Array, number: int) -> I64Array:
        if len(self.sources) == 1:
            return np.arange(len(which))
        return np.flatnonzero(self.source[which] == number)


def _find(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
) -> _Found:
    assert (refs[1:] > refs[:-1]).all(), "refs ascend; rows are found by binary search"
    sources: list[Pieces] = []
    for part in parts:
        if part.entry.mint <= maxt and part.entry.maxt >= mint:
            pieces = part.pieces(refs, mint, maxt)
            if len(pieces.rows):
                sources.append(pieces)
    for head in heads:
        if head.mint <= maxt and head.maxt >= mint:
            recent = HeadPieces(head, refs, mint, maxt)
            if len(recent.rows):
                sources.append(recent)
    return _Found(sources)


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Rows whose pieces follow each other in time, values decoded; other rows are empty.

    ``order``: their pieces by (row, time); ``row_pieces: i64[S + 1]`` positions in it;
    ``row_offsets: i64[S + 1]`` and ``piece_starts: i64[P]`` (of all pieces; those of other rows
    mean nothing) positions in ``values: u64[N]``.
    """

    order: I64Array
    row_pieces: I64Array
    row_offsets: I64Array
    piece_starts: I64Array
    values: U64Array

    def marked_rows(self) -> BoolArray:
        """Which rows hold a staleness marker."""
        marked = np.zeros(len(self.row_offsets) - 1, np.bool_)
        at = np.flatnonzero(self.values == STALE_BITS)
        marked[np.searchsorted(self.row_offsets, at, side="right") - 1] = True
        return marked


def _decode_direct(found: _Found, is_wanted: BoolArray) -> _Decoded:
    """Decode the values of wanted rows to where a batch of only these rows has them."""
    order = found.by_time
    if not is_wanted.all():
        order = order[is_wanted[found.rows[order]]]
    row_pieces = offsets_of(np.bincount(found.rows[order], minlength=len(is_wanted)))
    positions = offsets_of(found.sizes[order])
    values = np.empty(positions[-1], np.uint64)
    found.copy_values(order, values, positions[:-1])
    piece_starts = np.zeros(len(found.rows), np.int64)
    piece_starts[order] = positions[:-1]
    return _Decoded(order, row_pieces, positions[row_pieces], piece_starts, values)


def _direct_frames(found: _Found, direct: _Decoded) -> FrameBatch:
    """Frames where every row was decoded directly."""
    row_axis, heads = group_equal_runs(found.keys(direct.order), 4 * direct.row_pieces)
    axis_offsets, t_ms = _times_of_rows(found, direct.order, direct.row_pieces, heads)
    values = direct.values.view(np.float64)
    return FrameBatch(t_ms, axis_offsets, row_axis, values, direct.row_offsets)


def _times_of_rows(
    found: _Found, order: I64Array, row_pieces: I64Array, rows: I64Array
) -> tuple[I64Array, I64Array]:
    """Times of some rows, one after the other: ``(offsets: i64[len(rows) + 1], t_ms)``."""
    counts = row_pieces[rows + 1] - row_pieces[rows]
    pieces = order[expand_ranges(row_pieces[rows], counts)]
    positions = offsets_of(found.sizes[pieces])
    t_ms = found.times_in_place(pieces)
    if t_ms is None:
        t_ms = np.empty(positions[-1], np.int64)
        found.copy_times(pieces, t_ms, positions[:-1])
    return positions[offsets_of(counts)], t_ms


def _mixed_frames(
    found: _Found, direct: _Decoded, is_merged: BoolArray, *, drop_stale: bool
) -> FrameBatch:
    """Frames some rows of which must be merged, or rid of markers, sample by sample."""
    n_rows = len(is_merged)
    merged, kept = np.flatnonzero(is_merged), np.flatnonzero(~is_merged)
    merged_offsets, merged_t, merged_bits = _merge(found, direct, is_merged, drop_stale=drop_stale)
    lengths = np.where(is_merged, np.diff(merged_offsets), np.diff(direct.row_offsets))
    row_offsets = offsets_of(lengths)
    values = np.empty(row_offsets[-1], np.uint64)
    for rows, source, offsets in (
        (kept, direct.values, direct.row_offsets),
        (merged, merged_bits, merged_offsets),
    ):
        copy_plain(
            source.view(np.int64), offsets[rows], lengths[rows], row_offsets[rows],
            values.view(np.int64),
        )  # fmt: skip

    counts = np.diff(direct.row_pieces)[kept]
    pieces = direct.order[expand_ranges(direct.row_pieces[kept], counts)]
    groups, heads = group_equal_runs(found.keys(pieces), 4 * offsets_of(counts))
    kept_offsets, kept_t = _times_of_rows(found, direct.order, direct.row_pieces, kept[heads])
    # Rows that were merged and rows that were not may well have the same times in the end.
    t_ms = np.concatenate([kept_t, merged_t])
    own_offsets = merged_offsets[np.append(merged, n_rows)] + len(kept_t)
    axis_offsets = np.concatenate([kept_offsets, own_offsets[1:]])
    row_axis = np.empty(n_rows, np.int64)
    row_axis[kept] = groups
    row_axis[merged] = len(heads) + np.arange(len(merged))
    shared, first = group_equal_runs(t_ms, axis_offsets)
    if len(first) < len(shared):
        sizes = axis_offsets[first + 1] - axis_offsets[first]
        offsets = offsets_of(sizes)
        distinct = np.empty(offsets[-1], np.int64)
        copy_plain(t_ms, axis_offsets[first], sizes, offsets[:-1], distinct)
        t_ms, axis_offsets, row_axis = distinct, offsets, shared[row_axis]
    return FrameBatch(t_ms, axis_offsets, row_axis, values.view(np.float64), row_offsets)


def _merge(
    found: _Found, direct: _Decoded, is_wanted: BoolArray, *, drop_stale: bool
) -> tuple[I64Array, I64Array, U64Array]:
    """Wanted rows as ``(offsets: i64[S + 1], t_ms, bits)``, the later source winning.

    Values that were decoded already are copied.
    """
    pieces = found.by_source(is_wanted)
    positions = offsets_of(found.sizes[pieces])
    t_ms = np.empty(positions[-1], np.int64)
    bits = np.empty(positions[-1], np.uint64)
    found.copy_times(pieces, t_ms, positions[:-1])
    is_decoded = (np.diff(direct.row_pieces) > 0)[found.rows[pieces]]
    old, new = np.flatnonzero(is_decoded), np.flatnonzero(~is_decoded)
    found.copy_values(pieces[new], bits, positions[new])
    copy_plain(
        direct.values.view(np.int64), direct.piece_starts[pieces[old]], found.sizes[pieces[old]],
        positions[old], bits.view(np.int64),
    )  # fmt: skip
    row_pieces = offsets_of(np.bincount(found.rows[pieces], minlength=len(is_wanted)))
    return settle(positions[row_pieces], t_ms, bits, drop_stale=drop_stale)


def _concatenate(columns: list[I64Array] | list[BoolArray]) -> I64Array:
    return np.concatenate(columns) if columns else np.empty(0, np.int64)
