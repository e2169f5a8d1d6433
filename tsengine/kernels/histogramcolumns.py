"""Native histograms from rows of buckets to a column per bucket, and back.

A **component** is one number of the histograms of a group (histograms of one series and layout) as
a column: a bucket's count, or one of the numbers that every histogram has. It spans the group's
rows from the first to the last where it is not zero, zeros between included.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import (
    ERR_CORRUPT,
    I32_IN,
    I32_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U64_IN,
    U64_OUT,
    device,
    i64,
    kernel,
)

FIRST_SPECIAL = -(1 << 22)
"""Keys from here on, below all keys of buckets, stand for numbers that are no bucket."""
N_NUMBERS = 4
"""The first special keys: numbers that a histogram has one each of."""


@device
def _lower_bound(column, low, high, bound):
    """Position of the first item >= bound of ascending column[low:high], else high."""
    while low < high:
        mid = (low + high) >> 1
        if column[mid] < bound:
            low = mid + 1
        else:
            high = mid
    return low


@kernel(i64(I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_OUT))
def match_times(starts, sizes, t_ms, other_starts, other_ends, other_t, out):
    """Where the times of runs stand in other runs.

    Run k is ``t_ms[starts[k]:][:sizes[k]]``, the other ``other_t[other_starts[k]:other_ends[k]]``,
    both strictly ascending. Writes for every time of a run its position in ``other_t``, -1 where it
    is not there, to the same place of ``out``. Returns how many were found.
    """
    n_found = 0
    for run in range(starts.shape[0]):
        start = starts[run]
        end = start + sizes[run]
        if start == end:
            continue
        other_end = other_ends[run]
        other = _lower_bound(other_t, other_starts[run], other_end, t_ms[start])
        for i in range(start, end):
            while other < other_end and other_t[other] < t_ms[i]:
                other += 1
            if other < other_end and other_t[other] == t_ms[i]:
                out[i] = other
                n_found += 1
            else:
                out[i] = -1
    return n_found


@kernel(i64(I64_IN, I64_IN, I32_IN, I32_OUT, I64_OUT, I64_OUT, I64_OUT))
def list_buckets(group_offsets, offsets, keys, out_keys, out_first, out_last, out_offsets):
    """List the buckets of groups of histograms, ascending in each group, and the rows they span.

    Group g has histograms ``group_offsets[g]:group_offsets[g + 1]``, histogram i the ascending
    ``keys[offsets[i]:offsets[i + 1]]``. Fills ``out_offsets: i64[G + 1]`` and per bucket its key
    and the first and the last histogram that has it. Capacity: the number of keys. Returns the
    number of buckets.
    """
    n = 0
    out_offsets[0] = 0
    for group in range(group_offsets.shape[0] - 1):
        base = n
        for i in range(group_offsets[group], group_offsets[group + 1]):
            bucket = base
            n_new = 0
            for entry in range(offsets[i], offsets[i + 1]):
                # Mostly the next one is it; a search keeps few buckets among many cheap.
                if bucket < n and out_keys[bucket] < keys[entry]:
                    bucket += 1
                    if bucket < n and out_keys[bucket] < keys[entry]:
                        bucket = _lower_bound(out_keys, bucket, n, keys[entry])
                if bucket < n and out_keys[bucket] == keys[entry]:
                    out_last[bucket] = i
                else:
                    n_new += 1
            if n_new == 0:
                continue
            # New ones are merged in from behind, so that nothing is overwritten before it moved.
            bucket = n - 1
            n += n_new
            to = n - 1
            entry = offsets[i + 1] - 1
            while to > bucket:
                key = keys[entry]
                if bucket >= base and out_keys[bucket] >= key:
                    out_keys[to] = out_keys[bucket]
                    out_first[to] = out_first[bucket]
                    out_last[to] = out_last[bucket]
                    entry -= out_keys[bucket] == key
                    bucket -= 1
                else:
                    out_keys[to] = key
                    out_first[to] = i
                    out_last[to] = i
                    entry -= 1
                to -= 1
        out_offsets[group + 1] = n
    return n


@kernel(
    i64(I64_IN, I64_IN, I32_IN, U64_IN, I64_IN, I32_IN, I64_IN, I64_IN, i64, i64, U64_OUT)
)  # fmt: skip
def fill_buckets(
    group_offsets, offsets, keys, counts, bucket_offsets, bucket_keys, bucket_first, positions,
    lo, hi, out,
):  # fmt: skip
    """Write the counts of buckets lo to hi (half-open) of `list_buckets` as columns.

    ``counts: u64[M]`` beside ``keys``; bucket b goes to ``out[positions[b - lo]:]``, one place a
    histogram from ``bucket_first[b]`` on. ``out`` was filled with zeros.
    """
    for group in range(group_offsets.shape[0] - 1):
        first = max(lo, bucket_offsets[group])
        end = min(hi, bucket_offsets[group + 1])
        if first >= end:
            continue
        for i in range(group_offsets[group], group_offsets[group + 1]):
            entry = _lower_bound(keys, offsets[i], offsets[i + 1], bucket_keys[first])
            bucket = first
            while entry < offsets[i + 1]:
                if bucket < end and bucket_keys[bucket] < keys[entry]:
                    bucket += 1
                    if bucket < end and bucket_keys[bucket] < keys[entry]:
                        bucket = _lower_bound(bucket_keys, bucket, end, keys[entry])
                if bucket == end:
                    break
                out[positions[bucket - lo] + i - bucket_first[bucket]] = counts[entry]
                entry += 1
    return OK


@kernel(
    i64(
        I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, U64_IN,
        I64_OUT, I64_OUT,
    )
)  # fmt: skip
def place_components(
    group_offsets, group_t, slots, groups, keys, first_t, last_t, sizes, positions, bits,
    out_rows, out_sizes,
):  # fmt: skip
    """Find where pieces of components stand in their groups, and count the buckets in use.

    Group g has the times ``group_t[group_offsets[g]:group_offsets[g + 1]]``, ascending, and
    ``slots`` beside them: the histogram that is wanted from a row, or -1. Per piece the group, the
    key, the first and the last time, and its values ``bits[positions[p]:][:sizes[p]]``. Fills
    ``out_rows[p]``, the row of its first value, and adds to ``out_sizes`` one per wanted histogram
    and count that is not zero. Returns OK, or ERR_CORRUPT if a piece does not lie on its group's
    rows.
    """
    for piece in range(groups.shape[0]):
        start = group_offsets[groups[piece]]
        end = group_offsets[groups[piece] + 1]
        row = _lower_bound(group_t, start, end, first_t[piece])
        size = sizes[piece]
        if size < 1 or row > end - size:
            return ERR_CORRUPT
        if group_t[row] != first_t[piece] or group_t[row + size - 1] != last_t[piece]:
            return ERR_CORRUPT
        out_rows[piece] = row
        if keys[piece] < FIRST_SPECIAL + N_NUMBERS:
            continue
        at = positions[piece]
        for i in range(size):
            if bits[at + i] != np.uint64(0) and slots[row + i] >= 0:
                out_sizes[slots[row + i]] += 1
    return OK


@kernel(
    i64(I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, U64_IN, i64, I64_OUT, U64_OUT, I32_OUT, U64_OUT)
)  # fmt: skip
def gather_components(
    slots, rows, keys, sizes, positions, bits, n_histograms,
    cursors, out_numbers, out_keys, out_counts,
):  # fmt: skip
    """Make histograms of the pieces that `place_components` found, pieces by ascending key.

    ``cursors: i64[R]`` start as the offsets of the histograms' buckets. ``out_numbers: u64[4 R]``,
    filled with zeros before, gets the numbers of the first special keys one after the other.
    """
    for piece in range(rows.shape[0]):
        row = rows[piece]
        at = positions[piece]
        key = keys[piece]
        if key < FIRST_SPECIAL + N_NUMBERS:
            base = (key - FIRST_SPECIAL) * n_histograms
            for i in range(sizes[piece]):
                if slots[row + i] >= 0:
                    out_numbers[base + slots[row + i]] = bits[at + i]
            continue
        for i in range(sizes[piece]):
            slot = slots[row + i]
            if slot >= 0 and bits[at + i] != np.uint64(0):
                out_keys[cursors[slot]] = key
                out_counts[cursors[slot]] = bits[at + i]
                cursors[slot] += 1
    return OK
