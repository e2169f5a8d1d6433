"""Which axes a chunk of series needs and which blocks its series make on them. Pure, no I/O.

Series with identical timestamps share an axis. Series of one target whose timestamps differ share
the union of theirs while that is at most 1.25 times the longest of them (a scrape's union *is* its
longest run, so series that come, go or have gaps cost nothing but a pattern); otherwise every
distinct run is an axis. Axes are cut at the ladder's borders, and blocks with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsengine.kernels.axes import cut_axes, place_series
from tsengine.model.batch import SeriesColumns
from tsengine.storage.head_read import copy_plain
from tsengine.storage.part_format import BLOCK_ROWS_MAX
from tsengine.storage.pieces import I64Array, expand_ranges, group_equal_runs, offsets_of, settle


@dataclass(frozen=True, slots=True)
class Layout:
    """Axes and blocks of a chunk.

    ``axis_t: i64[M]``, ``axis_offsets: i64[A + 1]`` the distinct axes in use, each inside one
    bucket of the ladder and at most 8192 rows. Blocks in the order of series and time:
    ``series_blocks: i64[S]`` how many each series has; ``axes, first_rows, starts: i64[B]``
    axis, first row on it and first sample of each block. ``patterns: i64[B]`` 0 or 1 + index of
    a pattern, whose runs are ``pattern_offsets: i64[Q + 1]`` into ``run_first, run_length``.
    """

    axis_t: I64Array
    axis_offsets: I64Array
    series_blocks: I64Array
    axes: I64Array
    first_rows: I64Array
    starts: I64Array
    patterns: I64Array
    pattern_offsets: I64Array
    run_first: I64Array
    run_length: I64Array


def lay_out(chunk: SeriesColumns, targets: I64Array, ladder_ms: tuple[int, ...]) -> Layout:
    """Choose axes for a chunk and cut its series into blocks.

    ``targets: i64[S]`` is the scrape target of each series, -1 where there is none.
    """
    runs_t, run_offsets, series_run = _choose_axes(chunk, targets)
    piece_offsets = np.empty(len(run_offsets), np.int64)
    piece_starts = np.empty(len(runs_t) + 1, np.int64)
    n_pieces = cut_axes(
        runs_t,
        run_offsets,
        np.array(sorted(ladder_ms, reverse=True), np.int64),
        BLOCK_ROWS_MAX,
        piece_offsets,
        piece_starts,
    )
    piece_starts = piece_starts[: n_pieces + 1]
    piece_starts[n_pieces] = len(runs_t)
    return _place(chunk, runs_t, piece_offsets, piece_starts, series_run)


def _choose_axes(chunk: SeriesColumns, targets: I64Array) -> tuple[I64Array, I64Array, I64Array]:
    """``(t_ms of all axes, their offsets, axis of each series)``; axes are whole, not yet cut."""
    groups, heads = group_equal_runs(chunk.t_ms, chunk.offsets)
    n_rows = np.diff(chunk.offsets)[heads]
    union_t, union_offsets, series_union = _unions(chunk, targets, groups, heads)
    # Groups that no series needs on their own any more are left out.
    is_needed = np.zeros(len(heads), np.bool_)
    is_needed[groups[series_union < 0]] = True
    kept = np.flatnonzero(is_needed)
    n_unions = len(union_offsets) - 1
    offsets = offsets_of(np.concatenate([np.diff(union_offsets), n_rows[kept]]))
    axis_t = np.empty(offsets[-1], np.int64)
    axis_t[: len(union_t)] = union_t
    copy_plain(chunk.t_ms, chunk.offsets[heads[kept]], n_rows[kept], offsets[n_unions:-1], axis_t)
    axis_of_group = np.cumsum(is_needed) - 1 + n_unions
    return axis_t, offsets, np.where(series_union >= 0, series_union, axis_of_group[groups])


def _unions(
    chunk: SeriesColumns, targets: I64Array, groups: I64Array, heads: I64Array
) -> tuple[I64Array, I64Array, I64Array]:
    """Unions for targets with several runs: ``(t_ms, offsets, union of each series or -1)``."""
    series_union = np.full(len(chunk), -1, np.int64)
    has_target = np.flatnonzero(targets >= 0)
    # Dense numbers first: target ids may use all bits, and pairs are packed into one integer.
    series_owner = np.unique(targets[has_target], return_inverse=True)[1]
    pairs = np.unique(series_owner * len(heads) + groups[has_target])
    owner, group = np.divmod(pairs, len(heads))
    owners, first_pair, n_pairs = np.unique(owner, return_index=True, return_counts=True)
    is_several = n_pairs > 1
    if not is_several.any():
        return np.empty(0, np.int64), np.zeros(1, np.int64), series_union
    owners, first_pair, n_pairs = owners[is_several], first_pair[is_several], n_pairs[is_several]
    group = group[expand_ranges(first_pair, n_pairs)]
    n_rows = np.diff(chunk.offsets)[heads[group]]
    offsets = offsets_of(n_rows)
    t_ms = np.empty(offsets[-1], np.int64)
    copy_plain(chunk.t_ms, chunk.offsets[heads[group]], n_rows, offsets[:-1], t_ms)
    first_group = offsets_of(n_pairs)
    union_offsets, t_ms, _ = settle(
        offsets[first_group], t_ms, np.empty(len(t_ms), np.uint64), drop_stale=False
    )
    longest = np.maximum.reduceat(n_rows, first_group[:-1])
    sizes = np.diff(union_offsets)
    accepted = np.flatnonzero(4 * sizes <= 5 * longest)
    out_offsets = offsets_of(sizes[accepted])
    out = np.empty(out_offsets[-1], np.int64)
    copy_plain(t_ms, union_offsets[accepted], sizes[accepted], out_offsets[:-1], out)
    union_of_owner = np.full(owner[-1] + 1, -1, np.int64)
    union_of_owner[owners[accepted]] = np.arange(len(accepted))
    series_union[has_target] = union_of_owner[series_owner]
    return out, out_offsets, series_union


def _place(
    chunk: SeriesColumns,
    runs_t: I64Array,
    piece_offsets: I64Array,
    piece_starts: I64Array,
    series_run: I64Array,
) -> Layout:
    """Blocks of the series on the pieces of their axes; equal pieces and patterns are one."""
    n_samples = len(chunk.t_ms)
    capacity = min(n_samples, int(np.diff(piece_offsets)[series_run].sum()))
    series_blocks = np.empty(len(chunk), np.int64)
    block_piece = np.empty(capacity, np.int64)
    first_rows = np.empty(capacity, np.int64)
    starts = np.empty(capacity, np.int64)
    run_offsets = np.empty(capacity + 1, np.int64)
    run_first = np.empty(n_samples, np.int64)
    run_length = np.empty(n_samples, np.int64)
    n_blocks = place_series(
        chunk.t_ms, chunk.offsets, series_run, runs_t, piece_offsets, piece_starts,
        series_blocks, block_piece, first_rows, starts, run_offsets, run_first, run_length,
    )  # fmt: skip
    assert n_blocks >= 0, "every series is a subset of the axis chosen for it"
    block_piece = block_piece[:n_blocks]
    run_offsets = run_offsets[: n_blocks + 1]

    groups, heads = group_equal_runs(runs_t, piece_starts)
    is_used = np.zeros(len(heads), np.bool_)
    is_used[groups[block_piece]] = True
    used = heads[is_used]
    sizes = piece_starts[used + 1] - piece_starts[used]
    axis_offsets = offsets_of(sizes)
    axis_t = np.empty(axis_offsets[-1], np.int64)
    copy_plain(runs_t, piece_starts[used], sizes, axis_offsets[:-1], axis_t)

    n_runs = run_offsets[-1]
    pairs = np.stack([run_first[:n_runs], run_length[:n_runs]], axis=1).reshape(-1)
    pattern, pattern_heads = group_equal_runs(pairs, 2 * run_offsets)
    # Contiguous blocks have no runs; theirs is pattern 0, whatever number the group got.
    has_runs = np.diff(run_offsets)[pattern_heads] > 0
    number = np.where(has_runs, np.cumsum(has_runs), 0)
    distinct = pattern_heads[has_runs]
    counts = run_offsets[distinct + 1] - run_offsets[distinct]
    rows = expand_ranges(run_offsets[distinct], counts)
    return Layout(
        axis_t=axis_t,
        axis_offsets=axis_offsets,
        series_blocks=series_blocks,
        axes=(np.cumsum(is_used) - 1)[groups[block_piece]],
        first_rows=first_rows[:n_blocks],
        starts=starts[:n_blocks],
        patterns=number[pattern],
        pattern_offsets=offsets_of(counts),
        run_first=run_first[rows],
        run_length=run_length[rows],
    )
