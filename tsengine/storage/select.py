"""Reading samples: pieces of parts and heads made into frames or columns.

Most series take the direct way: their pieces follow each other in time, so values are decoded to
their final place and series whose pieces are the same share one axis. Series whose sources overlap
in time, or that hold staleness markers which are to be dropped, are settled sample by sample and
get an axis of their own; equal axes are then found again by content.

Stateless; any thread. Sources are pinned by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import is_handle
from tsengine.storage.found import BoolArray, Found, find
from tsengine.storage.head_read import (
    HeadPieces,
    HeadView,
    copy_plain,
    is_among,
    sorted_unique,
)
from tsengine.storage.mask import Hidden, Mask
from tsengine.storage.part_reader import PartReader
from tsengine.storage.pieces import (
    I64Array,
    U32Array,
    U64Array,
    expand_ranges,
    group_equal_runs,
    offsets_of,
    settle,
)
from tsengine.storage.spans import Span


def read_frames(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    *,
    drop_stale: bool,
    with_values: bool = True,
    mask: Mask | None = None,
) -> FrameBatch:
    """Samples with mint <= t <= maxt of the series ``refs`` (u32[S], ascending) as frames.

    ``parts`` and ``heads`` come in ascending sequence, all heads after all parts: of samples of one
    series with equal times the one of the later source is taken. With ``drop_stale`` staleness
    markers are left out (after they have replaced what they replace). What ``mask`` hides is as if
    it had never been stored. The arrays are the caller's. Without ``with_values`` only staleness
    markers and histograms can be relied on, any other value may be 0 instead.
    Raises CorruptionError if a payload that is needed is damaged.
    """
    refs = np.ascontiguousarray(refs, np.uint32)
    found = find(parts, heads, refs, mint, maxt, mask)
    is_merged = found.overlapping_rows(len(refs))
    direct = _decode_direct(found, ~is_merged, with_values=with_values)
    if drop_stale and found.may_be_stale.any():
        # Blocks only say that they hold a marker somewhere; most reads don't meet it.
        is_merged |= direct.marked_rows()
    if not is_merged.any():
        frames = _direct_frames(found, direct)
    else:
        frames = _mixed_frames(found, direct, is_merged, drop_stale=drop_stale)
    return _with_histograms(found, frames) if found.has_histogram.any() else frames


def read_columns(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    *,
    with_start: bool = False,
    mask: Mask | None = None,
) -> SeriesColumns:
    """Samples with mint <= t <= maxt of the series ``refs``, those without any left out.

    Sources and order as in `read_frames`; staleness markers stay. Start timestamps come only with
    ``with_start``: that of the sample that is taken, known or not. Raises CorruptionError.
    """
    refs = np.ascontiguousarray(refs, np.uint32)
    found = find(parts, heads, refs, mint, maxt, mask)
    every = np.ones(len(refs), np.bool_)
    start_ms = None
    if with_start and found.has_starts:
        pieces, row_offsets, positions, t_ms = _arrivals(found)
        bits = np.empty(len(t_ms), np.uint64)
        found.copy_values(pieces, bits, positions)
        start_ms = found.starts(pieces, t_ms, positions)
        arrival = np.arange(len(t_ms), dtype=np.uint64)
        offsets, t_ms, arrival = settle(row_offsets, t_ms, arrival, drop_stale=False)
        bits, start_ms = bits[arrival], start_ms[arrival]
    else:
        offsets, t_ms, bits = _merge(found, _decode_direct(found, ~every), every, drop_stale=False)
    kept = np.flatnonzero(np.diff(offsets))
    histograms = None
    if found.has_histogram.any():
        at = np.flatnonzero(is_handle(bits))
        rows = np.searchsorted(offsets, at, side="right") - 1
        histograms = found.resolve(bits, rows, at, t_ms[at])
    # Rows without samples take no room, so the others keep their offsets.
    offsets = np.append(offsets[kept], offsets[-1])
    return SeriesColumns(refs[kept], offsets, t_ms, bits, histograms, start_ms)


def read_start_times(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    *,
    mask: Mask | None = None,
) -> SeriesColumns:
    """Start timestamps of the samples that `read_columns` gives and that have one.

    ``bits`` are those of the i64 ms; samples and series without any are left out. Reads no values.
    Raises CorruptionError.
    """
    refs = np.ascontiguousarray(refs, np.uint32)
    known = [part.start_times(refs, mint, maxt) for part in parts]
    known += [head.start_times(refs, mint, maxt) for head in heads]
    having = [columns.refs for columns in known if columns is not None]
    if not having:
        none = np.empty(0, np.int64)
        return SeriesColumns(refs[:0], np.zeros(1, np.int64), none, none.view(np.uint64))
    refs = sorted_unique(np.concatenate(having))
    found = find(parts, heads, refs, mint, maxt, mask)
    pieces, row_offsets, positions, t_ms = _arrivals(found)
    start_ms = found.starts(pieces, t_ms, positions)
    offsets, t_ms, bits = settle(row_offsets, t_ms, start_ms.view(np.uint64), drop_stale=False)
    is_known = bits != 0
    sizes = np.diff(offsets_of(is_known)[offsets])
    kept = np.flatnonzero(sizes)
    return SeriesColumns(refs[kept], offsets_of(sizes[kept]), t_ms[is_known], bits[is_known])


def visible_rows(
    parts: Sequence[PartReader],
    heads: Sequence[HeadView],
    refs: U32Array,
    mint: int,
    maxt: int,
    hidden: Hidden,
) -> I64Array:
    """Which of the series ``refs`` (ascending) have samples in the range that are not hidden.

    Ascending rows. Parts are judged by their headers: some rows may be too many, none is missing.
    """
    is_visible = np.zeros(len(refs), np.bool_)
    for part in parts:
        windows = hidden.windows(part.entry.seq_max)
        if windows is None:
            windows = [Span(np.arange(len(refs)), mint, maxt)]
        for rows, lo, hi in (w for w in windows if w.touches(part.entry.mint, part.entry.maxt)):
            is_visible[rows[part.rows_near(refs[rows], lo, hi)]] = True
    for head in heads:
        spans = hidden.spans(head.seq_max)
        if spans is None:
            is_visible |= is_among(refs, head.refs())
        else:
            is_visible[HeadPieces(head, refs, mint, maxt, spans).rows] = True
    return np.flatnonzero(is_visible)


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


def _decode_direct(found: Found, is_wanted: BoolArray, *, with_values: bool = True) -> _Decoded:
    """Decode the values of wanted rows to where a batch of only these rows has them.

    Without ``with_values`` only those of pieces in which there may be more than plain floats.
    """
    order = found.by_time
    if not is_wanted.all():
        order = order[is_wanted[found.rows[order]]]
    row_pieces = offsets_of(np.bincount(found.rows[order], minlength=len(is_wanted)))
    positions = offsets_of(found.sizes[order])
    if with_values:
        values = np.empty(positions[-1], np.uint64)
        found.copy_values(order, values, positions[:-1])
    else:
        values = np.zeros(positions[-1], np.uint64)
        special = np.flatnonzero(found.may_be_stale[order] | found.has_histogram[order])
        if len(special):
            found.copy_values(order[special], values, positions[special])
    piece_starts = np.zeros(len(found.rows), np.int64)
    piece_starts[order] = positions[:-1]
    return _Decoded(order, row_pieces, positions[row_pieces], piece_starts, values)


def _direct_frames(found: Found, direct: _Decoded) -> FrameBatch:
    """Frames where every row was decoded directly."""
    row_axis, heads = group_equal_runs(found.keys(direct.order), 4 * direct.row_pieces)
    axis_offsets, t_ms = _times_of_rows(found, direct.order, direct.row_pieces, heads)
    values = direct.values.view(np.float64)
    return FrameBatch(t_ms, axis_offsets, row_axis, values, direct.row_offsets)


def _times_of_rows(
    found: Found, order: I64Array, row_pieces: I64Array, rows: I64Array
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
    found: Found, direct: _Decoded, is_merged: BoolArray, *, drop_stale: bool
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


def _arrivals(found: Found) -> tuple[I64Array, I64Array, I64Array, I64Array]:
    """``(pieces, offsets of the rows, positions of the pieces, times)``, by (row, source, time)."""
    every = np.ones(len(found.refs), np.bool_)
    pieces = found.by_source(every)
    positions = offsets_of(found.sizes[pieces])
    t_ms = np.empty(positions[-1], np.int64)
    found.copy_times(pieces, t_ms, positions[:-1])
    row_pieces = offsets_of(np.bincount(found.rows[pieces], minlength=len(every)))
    return pieces, positions[row_pieces], positions[:-1], t_ms


def _with_histograms(found: Found, frames: FrameBatch) -> FrameBatch:
    """The frames with the table of their handles, which are numbered in place."""
    bits = frames.values.view(np.uint64)
    at = np.flatnonzero(is_handle(bits))
    rows = np.searchsorted(frames.row_offsets, at, side="right") - 1
    places = at - frames.row_offsets[rows] + frames.axis_offsets[frames.row_axis[rows]]
    return replace(frames, histograms=found.resolve(bits, rows, at, frames.t_ms[places]))


def _merge(
    found: Found, direct: _Decoded, is_wanted: BoolArray, *, drop_stale: bool
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
