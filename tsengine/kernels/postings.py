"""Postings from rows of pair ids, and set work on series refs."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import (
    BOOL_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U32_IN,
    U32_OUT,
    boolean,
    i64,
    kernel,
)

DIGIT_BITS = 11
DIGIT_BUCKETS = 1 << DIGIT_BITS

# Modes of `match_texts`.
PREFIX = 0
SUFFIX = 1
CONTAINS = 2


@kernel(i64(I64_IN, U32_IN, i64, i64, U32_OUT, U32_OUT, U32_OUT, U32_OUT, I64_OUT))
def sort_postings(row_offsets, row_pairs, first, last, keys, refs, keys_2, refs_2, counts):
    """Entries (pair, ref) of rows first <= ref < last, sorted by pair, then by ref.

    A stable radix sort of 11 bits at a time, as many rounds as the largest pair id needs.
    Shapes: row_offsets i64[> last], row_pairs u32[.], keys, refs, keys_2, refs_2 u32[E] with E the
    entries of these rows, counts i64[DIGIT_BUCKETS]. Returns 0 if the result is in keys and refs,
    1 if it is in keys_2 and refs_2.
    """
    base = row_offsets[first]
    n = row_offsets[last] - base
    largest = np.uint32(0)
    for ref in range(first, last):
        for k in range(row_offsets[ref] - base, row_offsets[ref + 1] - base):
            keys[k] = row_pairs[base + k]
            refs[k] = np.uint32(ref)
            largest = max(largest, keys[k])
    shift = np.uint32(0)
    where = 0
    while shift < np.uint32(32) and (largest >> shift) > np.uint32(0):
        from_keys, from_refs, to_keys, to_refs = keys, refs, keys_2, refs_2
        if where == 1:
            from_keys, from_refs, to_keys, to_refs = keys_2, refs_2, keys, refs
        counts[:] = 0
        for k in range(n):
            counts[(from_keys[k] >> shift) & np.uint32(DIGIT_BUCKETS - 1)] += 1
        total = np.int64(0)
        for d in range(DIGIT_BUCKETS):
            count = counts[d]
            counts[d] = total
            total += count
        for k in range(n):
            digit = (from_keys[k] >> shift) & np.uint32(DIGIT_BUCKETS - 1)
            place = counts[digit]
            counts[digit] = place + 1
            to_keys[place] = from_keys[k]
            to_refs[place] = from_refs[k]
        where = 1 - where
        shift = np.uint32(shift + np.uint32(DIGIT_BITS))
    return where


@kernel(i64(I64_IN, U32_IN, i64, i64, I64_OUT, U32_OUT))
def bucket_postings(row_offsets, row_pairs, first, last, ends, refs):
    """As `sort_postings`, with a counter for each pair: two walks, whatever the pairs are.

    ``refs[ends[p - 1]:ends[p]]`` become the refs of pair p, ascending. Shapes: row_offsets
    i64[> last], row_pairs u32[.] below K, ends i64[K], zero, refs u32[E].
    """
    for k in range(row_offsets[first], row_offsets[last]):
        ends[row_pairs[k]] += 1
    total = np.int64(0)
    for p in range(ends.shape[0]):
        count = ends[p]
        ends[p] = total
        total += count
    for ref in range(first, last):
        for k in range(row_offsets[ref], row_offsets[ref + 1]):
            pair = row_pairs[k]
            refs[ends[pair]] = np.uint32(ref)
            ends[pair] += 1
    return OK


@kernel(i64(U32_IN, I64_IN, U32_IN, I64_OUT, U32_OUT))
def gather_rows(refs, row_offsets, row_pairs, out_offsets, out):
    """Rows of the given refs as a CSR of their own. The caller sizes out by the rows' lengths.

    Shapes: refs u32[S], row_offsets i64[.], row_pairs u32[.], out_offsets i64[S + 1], out u32[.].
    """
    place = np.int64(0)
    out_offsets[0] = place
    for s in range(refs.shape[0]):
        ref = np.int64(refs[s])
        for k in range(row_offsets[ref], row_offsets[ref + 1]):
            out[place] = row_pairs[k]
            place += 1
        out_offsets[s + 1] = place
    return OK


@kernel(i64(U32_IN, I64_IN, U32_IN, U32_IN, i64, I64_OUT))
def find_in_rows(refs, row_offsets, row_pairs, pair_names, name, out):
    """Pair id whose name is the symbol ``name`` in each ref's row, -1 where there is none.

    Shapes: refs u32[S], row_offsets i64[.], row_pairs u32[.], pair_names u32[P], out i64[S].
    """
    for s in range(refs.shape[0]):
        ref = np.int64(refs[s])
        out[s] = -1
        for k in range(row_offsets[ref], row_offsets[ref + 1]):
            if np.int64(pair_names[row_pairs[k]]) == name:
                out[s] = np.int64(row_pairs[k])
                break
    return OK


@kernel(i64(U32_IN, I64_IN, I64_IN, boolean, BOOL_OUT))
def mark_runs(refs, starts, ends, value, marks):
    """Set ``marks[refs[k]]`` for all runs starts[i] <= k < ends[i]; refs beyond marks are left out.

    Shapes: refs u32[.], starts, ends i64[K], marks bool[S]. Returns the number of refs set.
    """
    n = np.int64(marks.shape[0])
    count = 0
    for i in range(starts.shape[0]):
        for k in range(starts[i], ends[i]):
            ref = np.int64(refs[k])
            if ref < n:
                marks[ref] = value
                count += 1
    return count


@kernel(i64(U8_IN, I64_IN, U32_IN, U8_IN, i64, BOOL_OUT))
def match_texts(text, offsets, symbols, needle, mode, out):
    """Whether each symbol's text starts with, ends with or contains the needle.

    Shapes: text u8[.], offsets i64[.], symbols u32[K], needle u8[m], out bool[K].
    """
    m = np.int64(needle.shape[0])
    for i in range(symbols.shape[0]):
        start = offsets[symbols[i]]
        last = offsets[np.int64(symbols[i]) + 1] - m
        if mode == PREFIX:
            last = min(last, start)
        elif mode == SUFFIX:
            start = max(last, start)
        found = False
        while start <= last and not found:
            k = 0
            while k < m and text[start + k] == needle[k]:
                k += 1
            found = k == m
            start += 1
        out[i] = found
    return OK
