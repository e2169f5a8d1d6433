"""Time axes: finding equal runs, cutting them, placing series on them, reading ranges of them.

A *pattern* is the presence of a series on the rows of its block: runs ``(first row, length)``
counted from the block's first row, ascending and apart. Pattern 0 has no runs and means that
every row is present.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import unowned
from tsengine.kernels.jit import (
    BOOL_IN,
    ERR_CAPACITY,
    ERR_CORRUPT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U16_IN,
    U32_IN,
    U64_OUT,
    device,
    i64,
    kernel,
)

# Columns of `find_pieces`: index of the series in the request, block, position of the block's first
# row, first value and number of values in the range, first and last time, flags of the block.
ROW, BLOCK, START, LOW, SIZE, FIRST_T, LAST_T, FLAGS, N_COLUMNS = range(9)
UNKNOWN_AXIS = -1


@device
def _hash_run(data, start, end):
    """A 64-bit hash of data[start:end]: four independent multiply-xorshift lanes."""
    k = np.uint64(0x9E3779B97F4A7C15)
    shift = np.uint64(32)
    a = np.uint64(end - start) * k
    b = a ^ np.uint64(0xC2B2AE3D27D4EB4F)
    c = a ^ np.uint64(0x165667B19E3779F9)
    d = a ^ np.uint64(0x27D4EB2F165667C5)
    i = start
    while i + 4 <= end:
        a = (a ^ np.uint64(data[i])) * k
        b = (b ^ np.uint64(data[i + 1])) * k
        c = (c ^ np.uint64(data[i + 2])) * k
        d = (d ^ np.uint64(data[i + 3])) * k
        a ^= a >> shift
        b ^= b >> shift
        c ^= c >> shift
        d ^= d >> shift
        i += 4
    while i < end:
        a = (a ^ np.uint64(data[i])) * k
        a ^= a >> shift
        i += 1
    h = (a ^ (b * np.uint64(0x94D049BB133111EB))) * k
    h = (h ^ (h >> shift) ^ c) * k
    h = (h ^ (h >> shift) ^ (d * np.uint64(0xBF58476D1CE4E5B9))) * k
    return h ^ (h >> shift)


@kernel(i64(I64_IN, I64_IN, I64_OUT, U64_OUT, I64_OUT, I64_OUT))
def group_runs(data, offsets, table, hashes, heads, groups):
    """Number runs of equal content alike, in the order of first appearance.

    ``data: i64[N]``, ``offsets: i64[R + 1]``. ``table`` has a power of two of slots, at least 2 R,
    all -1. Fills ``groups: i64[R]``, and of each group its first run in ``heads: i64[R]`` and its
    hash in ``hashes: u64[R]``. Equal hashes are compared in full. Returns the number of groups.
    """
    mask = np.uint64(table.shape[0] - 1)
    n_groups = 0
    for run in range(offsets.shape[0] - 1):
        start = offsets[run]
        size = offsets[run + 1] - start
        h = _hash_run(data, start, start + size)
        slot = h & mask
        while True:
            group = table[slot]
            if group < 0:
                table[slot] = n_groups
                hashes[n_groups] = h
                heads[n_groups] = run
                groups[run] = n_groups
                n_groups += 1
                break
            if hashes[group] == h:
                head = offsets[heads[group]]
                if offsets[heads[group] + 1] - head == size:
                    i = 0
                    while i < size and data[head + i] == data[start + i]:
                        i += 1
                    if i == size:
                        groups[run] = group
                        break
            slot = (slot + np.uint64(1)) & mask
    return n_groups


@device
def _lower_bound(t_ms, low, high, bound):
    """Position of the first time >= bound in t_ms[low:high], else high."""
    while low < high:
        mid = (low + high) >> 1
        if t_ms[mid] < bound:
            low = mid + 1
        else:
            high = mid
    return low


@device
def _bucket_end(t_ms, start, end, width):
    """End of the rows that share the left-open, right-closed bucket of row start."""
    last = ((t_ms[start] - 1) // width + 1) * width
    if t_ms[end - 1] <= last:
        return end
    return max(start + 1, _lower_bound(t_ms, start, end, last + 1))


@kernel(i64(I64_IN, I64_IN, I64_IN, i64, I64_OUT, I64_OUT))
def cut_axes(t_ms, offsets, widths, n_rows_max, piece_offsets, piece_starts):
    """Cut axes at the borders of the widest rung whose buckets hold at most n_rows_max rows.

    ``t_ms: i64[M]`` ascending inside ``offsets: i64[A + 1]``; ``widths: i64[W]`` descending, ms.
    On the narrowest rung fuller buckets are cut by count. Fills ``piece_offsets: i64[A + 1]``
    and ``piece_starts`` (capacity M), positions in ``t_ms``. Returns the number of pieces.
    """
    n_pieces = 0
    piece_offsets[0] = 0
    for axis in range(offsets.shape[0] - 1):
        first = offsets[axis]
        end = offsets[axis + 1]
        rung = 0
        start = first
        while start < end and rung < widths.shape[0] - 1:
            stop = _bucket_end(t_ms, start, end, widths[rung])
            if stop - start > n_rows_max:
                rung += 1
                start = first
            else:
                start = stop
        start = first
        while start < end:
            stop = min(_bucket_end(t_ms, start, end, widths[rung]), start + n_rows_max)
            piece_starts[n_pieces] = start
            n_pieces += 1
            start = stop
        piece_offsets[axis + 1] = n_pieces
    return n_pieces


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN,
        I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT,
    )
)  # fmt: skip
def place_series(
    t_ms, offsets, series_axis, axis_t, piece_offsets, piece_starts,
    series_blocks, block_piece, block_first, block_start, pattern_offsets, run_first, run_length,
):  # fmt: skip
    """Cut series into blocks on the pieces of their axes, with patterns where rows are missing.

    ``t_ms: i64[N]``, ``offsets: i64[S + 1]``; each series is a subset of axis ``series_axis[s]``,
    whose pieces ``piece_offsets[a]:piece_offsets[a + 1]`` start at ``piece_starts: i64[P + 1]``
    in ``axis_t``. Fills per series the number of blocks; per block the piece, the first row in
    it, the first sample, and the runs of its pattern (none where it is contiguous). Capacity for
    blocks is that of ``block_piece``, for runs at least N. Returns the number of blocks;
    ERR_CORRUPT if a series is not on its axis.
    """
    n_blocks = 0
    n_runs = 0
    pattern_offsets[0] = 0
    for series in range(offsets.shape[0] - 1):
        i = offsets[series]
        end = offsets[series + 1]
        n_before = n_blocks
        piece = piece_offsets[series_axis[series]]
        pieces_end = piece_offsets[series_axis[series] + 1]
        is_whole = end - i == piece_starts[pieces_end] - piece_starts[piece]
        while i < end:
            while piece < pieces_end and axis_t[piece_starts[piece + 1] - 1] < t_ms[i]:
                piece += 1
            if piece == pieces_end:
                return ERR_CORRUPT
            if n_blocks == block_piece.shape[0]:
                return ERR_CAPACITY
            block_piece[n_blocks] = piece
            block_start[n_blocks] = i
            row = piece_starts[piece]
            rows_end = piece_starts[piece + 1]
            block_first[n_blocks] = 0
            first_run = n_runs
            if is_whole:
                i += rows_end - row
            else:
                row = _lower_bound(axis_t, row, rows_end, t_ms[i])
                first_row = row
                block_first[n_blocks] = row - piece_starts[piece]
                run_first[n_runs] = 0
                run_length[n_runs] = 0
                n_runs += 1
                while i < end and t_ms[i] <= axis_t[rows_end - 1]:
                    if axis_t[row] != t_ms[i]:
                        while axis_t[row] < t_ms[i]:
                            row += 1
                        if axis_t[row] != t_ms[i]:
                            return ERR_CORRUPT
                        run_first[n_runs] = row - first_row
                        run_length[n_runs] = 0
                        n_runs += 1
                    run_length[n_runs - 1] += 1
                    row += 1
                    i += 1
                if n_runs == first_run + 1:
                    n_runs = first_run
            n_blocks += 1
            pattern_offsets[n_blocks] = n_runs
            piece += 1
        series_blocks[series] = n_blocks - n_before
    return n_blocks


@device
def _rank(run_first, run_length, start, end, row):
    """Present rows before `row` of a pattern whose runs are start:end."""
    before = 0
    for run in range(start, end):
        if row <= run_first[run]:
            break
        before += min(row - run_first[run], run_length[run])
    return before


@device
def _row_of(run_first, run_length, start, end, idx):
    """Row of the idx-th present row of a pattern whose runs are start:end."""
    for run in range(start, end):
        if idx < run_length[run]:
            return run_first[run] + idx
        idx -= run_length[run]
    return idx


@device
def _clip(axis_t, start, size, runs, runs_end, run_first, run_length, mint, maxt):
    """Values [low, high) of a block in a closed time range, and their first and last time."""
    n_rows = size
    if runs_end > runs:
        n_rows = run_first[runs_end - 1] + run_length[runs_end - 1]
    row_lo = start
    row_hi = start + n_rows
    if n_rows > 0 and axis_t[start] < mint:
        row_lo = _lower_bound(axis_t, start, row_hi, mint)
    if n_rows > 0 and axis_t[row_hi - 1] > maxt:
        row_hi = _lower_bound(axis_t, row_lo, row_hi, maxt + 1)
    low = row_lo - start
    high = max(row_hi - start, low)
    first_row = low
    last_row = high - 1
    if runs_end > runs:
        low = _rank(run_first, run_length, runs, runs_end, low)
        high = _rank(run_first, run_length, runs, runs_end, high)
        if high > low:
            first_row = _row_of(run_first, run_length, runs, runs_end, low)
            last_row = _row_of(run_first, run_length, runs, runs_end, high - 1)
    if high <= low:
        return low, high, np.int64(0), np.int64(0)
    return low, high, axis_t[start + first_row], axis_t[start + last_row]


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, i64, i64,
        I64_OUT, I64_OUT, I64_OUT, I64_OUT,
    )
)  # fmt: skip
def clip_blocks(
    axis_t, starts, sizes, patterns, pattern_offsets, run_first, run_length, mint, maxt,
    lo, hi, first_t, last_t,
):  # fmt: skip
    """Which values [lo, hi) of each block lie in a closed time range, their first and last time.

    ``starts: i64[B]`` position of the block's first row in ``axis_t``; ``sizes: i64[B]`` its
    samples; ``patterns: i64[B]``, runs of pattern p at ``pattern_offsets[p]:pattern_offsets[p+1]``.
    The wrapper proves that all rows lie in ``axis_t``. Blocks without samples in the range get
    lo == hi. Returns the number of samples.
    """
    axis_t = unowned(axis_t)
    run_first = unowned(run_first)
    run_length = unowned(run_length)
    total = 0
    for block in range(starts.shape[0]):
        runs = pattern_offsets[patterns[block]]
        runs_end = pattern_offsets[patterns[block] + 1]
        lo[block], hi[block], first_t[block], last_t[block] = _clip(
            axis_t, starts[block], sizes[block], runs, runs_end, run_first, run_length, mint, maxt
        )
        total += hi[block] - lo[block]
    return total


@kernel(
    i64(
        U32_IN, I64_IN, U32_IN, U16_IN, U16_IN, U32_IN, U8_IN, I64_IN, I64_IN, I64_IN, I64_IN,
        I64_IN, BOOL_IN, I64_IN, I64_IN, U32_IN, i64, i64, I64_2D_OUT, I64_2D_OUT,
    )
)  # fmt: skip
def find_pieces(
    part_refs, series_blocks, block_axis, block_first, block_size, block_pattern, block_flags,
    axis_mint, axis_maxt, pattern_offsets, run_first, run_length, is_known, axis_starts, axis_t,
    refs, mint, maxt, pieces, keys,
):  # fmt: skip
    """What of the blocks of wanted series lies in a closed time range, by row and time.

    ``part_refs: u32[K]`` and ``refs: u32[S]`` strictly ascending; series k of the part has the
    blocks ``series_blocks[k]:series_blocks[k + 1]``; axes, sizes, flags and patterns of blocks as
    in a part's index. Rows of axis a are at ``axis_starts[a]`` in ``axis_t`` if ``is_known[a]``.

    Fills ``pieces: i64[N_COLUMNS, capacity]``, and ``keys: i64[capacity, 3]``, equal for pieces
    with the same rows of the same axis, as far as there is room. Returns how many there are;
    UNKNOWN_AXIS if one is met whose times are not there.
    """
    axis_t = unowned(axis_t)
    run_first = unowned(run_first)
    run_length = unowned(run_length)
    n_part = part_refs.shape[0]
    n_found = 0
    at = 0
    for row in range(refs.shape[0]):
        ref = refs[row]
        # Gallop from the last hit: near for dense requests, logarithmic for sparse ones.
        step = 1
        while at + step < n_part and part_refs[at + step] < ref:
            step <<= 1
        low = at + (step >> 1)
        high = min(at + step, n_part)
        while low < high:
            mid = (low + high) >> 1
            if part_refs[mid] < ref:
                low = mid + 1
            else:
                high = mid
        at = low
        if at == n_part:
            break
        if part_refs[at] != ref:
            continue
        for block in range(series_blocks[at], series_blocks[at + 1]):
            axis = np.int64(block_axis[block])
            if axis_mint[axis] > maxt or axis_maxt[axis] < mint:
                continue
            if not is_known[axis]:
                return UNKNOWN_AXIS
            pattern = np.int64(block_pattern[block])
            first = np.int64(block_first[block])
            start = axis_starts[axis] + first
            lo, hi, first_t, last_t = _clip(
                axis_t, start, np.int64(block_size[block]), pattern_offsets[pattern],
                pattern_offsets[pattern + 1], run_first, run_length, mint, maxt,
            )  # fmt: skip
            if hi <= lo:
                continue
            if n_found < keys.shape[0]:
                pieces[ROW, n_found] = row
                pieces[BLOCK, n_found] = block
                pieces[START, n_found] = start
                pieces[LOW, n_found] = lo
                pieces[SIZE, n_found] = hi - lo
                pieces[FIRST_T, n_found] = first_t
                pieces[LAST_T, n_found] = last_t
                pieces[FLAGS, n_found] = np.int64(block_flags[block])
                keys[n_found, 0] = axis
                keys[n_found, 1] = (pattern << 16) | first
                keys[n_found, 2] = (lo << 16) | (hi - lo)
            n_found += 1
    return n_found


@device
def _copy(source, start, out, at, n):
    """Copy a few items or many: a slice that is assigned takes 50 ns before the first."""
    target = out[at : at + n]
    items = source[start : start + n]
    for i in range(target.shape[0]):
        target[i] = items[i]


@kernel(
    i64(I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_OUT)
)  # fmt: skip
def copy_rows(
    source, starts, lo, sizes, patterns, pattern_offsets, run_first, run_length, positions, out
):
    """Copy the present rows [lo, lo + size) of blocks to their places.

    ``source: i64[M]``; per block ``starts`` its first row in ``source``, ``lo`` and ``sizes`` in
    present rows, ``patterns`` as in `clip_blocks`, ``positions`` in ``out``. Bounds are proved by
    the wrapper.
    """
    source = unowned(source)
    out = unowned(out)
    for block in range(starts.shape[0]):
        start = starts[block]
        skip = lo[block]
        left = sizes[block]
        at = positions[block]
        runs = pattern_offsets[patterns[block]]
        runs_end = pattern_offsets[patterns[block] + 1]
        if runs == runs_end:
            _copy(source, start + skip, out, at, left)
            continue
        for run in range(runs, runs_end):
            if left == 0:
                break
            if skip >= run_length[run]:
                skip -= run_length[run]
                continue
            n = min(run_length[run] - skip, left)
            first = start + run_first[run] + skip
            _copy(source, first, out, at, n)
            at += n
            left -= n
            skip = 0
    return OK
