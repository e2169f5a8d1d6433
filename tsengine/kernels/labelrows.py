"""Label sets in CSR form: rows of pair ids, equal sets being equal runs of ids."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import I64_IN, I64_OUT, U32_IN, U32_OUT, boolean, device, i64, kernel

FIRST_OWN_PAIR = 1 << 31
"""Ids of pairs from here on are those of a query's own, numbered from 0."""


@device
def _hash_run(pairs, start, end):
    """A 64-bit hash of a run of ids. Equality is always checked on the run itself."""
    h = np.uint64(0x9E3779B97F4A7C15)
    for i in range(start, end):
        h = (h ^ np.uint64(pairs[i])) * np.uint64(0xFF51AFD7ED558CCD)
        h ^= h >> np.uint64(32)
    h = (h ^ np.uint64(end - start)) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(29))


@kernel(i64(I64_IN, U32_IN, I64_OUT, I64_OUT, I64_OUT))
def group_rows(offsets, pairs, table, group_of_row, first_row):
    """Number equal rows alike, groups in order of first appearance; returns the number of groups.

    ``offsets: i64[S + 1]``, ``pairs: u32[...]``, ``table: i64[2^k]`` scratch, at least 2 S long and
    filled with -1, ``group_of_row, first_row: i64[S]`` (the first G of `first_row` are set).
    """
    mask = np.uint64(table.shape[0] - 1)
    n_groups = 0
    for s in range(offsets.shape[0] - 1):
        start = offsets[s]
        end = offsets[s + 1]
        slot = np.int64(_hash_run(pairs, start, end) & mask)
        while True:
            group = table[slot]
            if group < 0:
                table[slot] = n_groups
                first_row[n_groups] = s
                group_of_row[s] = n_groups
                n_groups += 1
                break
            other = offsets[first_row[group]]
            same = offsets[first_row[group] + 1] - other == end - start
            if same:
                for i in range(end - start):
                    if pairs[start + i] != pairs[other + i]:
                        same = False
                        break
            if same:
                group_of_row[s] = group
                break
            slot = np.int64(np.uint64(slot + 1) & mask)
    return n_groups


@kernel(i64(I64_IN, U32_IN, U32_IN, U32_IN, U32_IN, boolean, I64_OUT, U32_OUT))
def filter_rows(offsets, pairs, names, own_names, wanted, keep, out_offsets, out):
    """Rows with only the pairs of some names, or without these; returns the number of pairs left.

    ``offsets: i64[S + 1]``, ``pairs: u32[...]``; ``names, own_names: u32[.]`` are the names of all
    pairs, those of own ones apart, ``wanted: u32[K]`` some names. Fills ``out_offsets: i64[S + 1]``
    and ``out: u32[...]``, where there is room for all that can be left.
    """
    n = 0
    out_offsets[0] = 0
    for s in range(offsets.shape[0] - 1):
        for i in range(offsets[s], offsets[s + 1]):
            pair = np.int64(pairs[i])
            if pair < FIRST_OWN_PAIR:
                name = names[pair]
            else:
                name = own_names[pair - FIRST_OWN_PAIR]
            is_wanted = False
            for k in range(wanted.shape[0]):
                is_wanted |= wanted[k] == name
            if is_wanted == keep:
                out[n] = pairs[i]
                n += 1
        out_offsets[s + 1] = n
    return n
