"""Aggregation of rows into groups, step by step: one pass over ``values: f64[S, T]`` row by row.

Row r belongs to group ``groups[r]``; a cell counts if ``valid[r, t]``, or always if `all_valid`
(then `valid` is an array of shape (1, 0)). The state of a group is a row of T cells in arrays
``[G, T]`` that the caller owns, so a kernel may be called again with more rows. Inner loops are
written as selects instead of branches, for the compiler to use vector instructions.

The caller proves ``0 <= groups[r] < G`` and equal shapes.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64, unowned
from tsengine.kernels.jit import (
    BOOL_2D_IN,
    BOOL_2D_OUT,
    F64_2D_IN,
    F64_2D_OUT,
    F64_OUT,
    I64_2D_OUT,
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U8_OUT,
    U64_OUT,
    boolean,
    device,
    i64,
    kernel,
)

SCALE = 2.0**-64
"""Sums whose unscaled form would overflow are kept times this (exact but for subnormals)."""

BLOCK = 8
"""Steps that kernels which walk down columns take at once: a cache line of values."""


@device
def _scaled_row(row, ok, all_valid, total, comp, scaled):
    """`add_sum` for one row with cells whose sum is, or now becomes, scaled."""
    for t in range(row.shape[0]):
        if not (all_valid or ok[t]):
            continue
        v = row[t]
        s = total[t]
        c = comp[t]
        if not scaled[t] and np.isinf(s + v) and not np.isinf(s) and not np.isinf(v):
            s *= SCALE
            c *= SCALE
            scaled[t] = True
        if scaled[t]:
            v *= SCALE
        x = s + v
        if abs(s) >= abs(v):
            c += (s - x) + v
        else:
            c += (v - x) + s
        total[t] = x
        comp[t] = 0.0 if np.isinf(x) else c


@device
def fold_sum(row, ok, all_valid, may_scale, sums, comps, marks):
    """`add_sum` of one row into its group's cells; returns whether any of them is scaled."""
    n_steps = row.shape[0]
    if may_scale:
        n_special = 0
        for t in range(n_steps):
            n_special += np.int64(np.isinf(sums[t] + row[t])) + np.int64(marks[t])
        if n_special > 0:
            _scaled_row(row, ok, all_valid, sums, comps, marks)
            return 1
    if all_valid:
        for t in range(n_steps):
            v = row[t]
            s = sums[t]
            x = s + v
            big = s if abs(s) >= abs(v) else v
            small = v if abs(s) >= abs(v) else s
            c = comps[t] + ((big - x) + small)
            sums[t] = x
            comps[t] = 0.0 if np.isinf(x) else c
    else:
        for t in range(n_steps):
            v = row[t]
            s = sums[t]
            x = s + v
            big = s if abs(s) >= abs(v) else v
            small = v if abs(s) >= abs(v) else s
            c = comps[t] + ((big - x) + small)
            c = 0.0 if np.isinf(x) else c
            sums[t] = x if ok[t] else s
            comps[t] = c if ok[t] else comps[t]
    return 0


@kernel(i64(F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, boolean, F64_2D_OUT, F64_2D_OUT, BOOL_2D_OUT))
def add_sum(values, valid, all_valid, groups, may_scale, total, comp, scaled):
    """Kahan-Neumaier sums; where one becomes infinite its compensation becomes 0.

    With `may_scale` a sum of finite numbers never overflows: it goes on as ``sum * SCALE``, marked
    in ``scaled: bool[G, T]`` (unused otherwise). Returns 1 if any cell is scaled, else 0.
    """
    values, valid = unowned(values), unowned(valid)
    total, comp, scaled = unowned(total), unowned(comp), unowned(scaled)
    any_scaled = 0
    for r in range(values.shape[0]):
        g = groups[r]
        ok = valid[0 if all_valid else r]
        any_scaled |= fold_sum(values[r], ok, all_valid, may_scale, total[g], comp[g], scaled[g])
    return any_scaled


@kernel(i64(F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, boolean, F64_2D_OUT))
def add_extreme(values, valid, all_valid, groups, want_max, best):
    """Largest or smallest value; NaN only while all are NaN. `best` starts as NaN."""
    n_steps = values.shape[1]
    for r in range(values.shape[0]):
        row = values[r]
        bests = best[groups[r]]
        ok = valid[0 if all_valid else r]
        if want_max and all_valid:
            for t in range(n_steps):
                b = bests[t]
                bests[t] = row[t] if (row[t] > b) | (b != b) else b
        elif want_max:
            for t in range(n_steps):
                b = bests[t]
                bests[t] = row[t] if ((row[t] > b) | (b != b)) & ok[t] else b
        elif all_valid:
            for t in range(n_steps):
                b = bests[t]
                bests[t] = row[t] if (row[t] < b) | (b != b) else b
        else:
            for t in range(n_steps):
                b = bests[t]
                bests[t] = row[t] if ((row[t] < b) | (b != b)) & ok[t] else b
    return OK


@kernel(i64(F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, F64_2D_OUT, F64_2D_OUT, F64_2D_OUT))
def add_moments(values, valid, all_valid, groups, count, mean, m2):
    """Welford's count, mean and sum of squared differences from the mean (all start as 0)."""
    n_steps = values.shape[1]
    for r in range(values.shape[0]):
        row = values[r]
        ns = count[groups[r]]
        means = mean[groups[r]]
        m2s = m2[groups[r]]
        if all_valid:
            for t in range(n_steps):
                n = ns[t] + 1.0
                delta = row[t] - means[t]
                m = means[t] + delta / n
                m2s[t] += delta * (row[t] - m)
                means[t] = m
                ns[t] = n
        else:
            ok = valid[r]
            for t in range(n_steps):
                n = ns[t] + 1.0
                delta = row[t] - means[t]
                m = means[t] + delta / n
                m2s[t] = m2s[t] + delta * (row[t] - m) if ok[t] else m2s[t]
                means[t] = m if ok[t] else means[t]
                ns[t] = n if ok[t] else ns[t]
    return OK


@kernel(i64(BOOL_2D_IN, I64_IN, F64_2D_OUT))
def count_valid(valid, groups, count):
    """Add the number of present cells per group and step."""
    for r in range(valid.shape[0]):
        ok = valid[r]
        counts = count[groups[r]]
        for t in range(valid.shape[1]):
            counts[t] += 1.0 if ok[t] else 0.0
    return OK


@kernel(i64(BOOL_2D_IN, boolean, I64_IN, I64_IN, I64_2D_OUT, BOOL_2D_OUT))
def take_first(valid, all_valid, groups, k, taken, out):
    """Mark the first ``k[t]`` present rows of each group: ``k: i64[T]``, ``out: bool[S, T]``.

    ``taken: i64[G, T]`` starts as 0 and counts what was marked.
    """
    for r in range(out.shape[0]):
        ok = valid[0 if all_valid else r]
        counts = taken[groups[r]]
        for t in range(out.shape[1]):
            mark = (all_valid or ok[t]) and counts[t] < k[t]
            out[r, t] = mark
            counts[t] += 1 if mark else 0
    return OK


@device
def _is_worse(x, x_row, y, y_row, want_max):
    """Whether x gives way to y: NaN to any number, then by value, then the later row."""
    if x != x:
        return y == y or x_row > y_row
    if y != y:
        return False
    if x == y:
        return x_row > y_row
    return (x < y) == want_max


@device
def _sift_down(heap, rows, base, size, want_max):
    """Restore the heap (worst on top) after its top at `base` was replaced."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            return
        at = base + child
        if child + 1 < size and _is_worse(heap[at + 1], rows[at + 1], heap[at], rows[at], want_max):
            child += 1
            at += 1
        top = base + parent
        if not _is_worse(heap[at], rows[at], heap[top], rows[top], want_max):
            return
        heap[at], heap[top] = heap[top], heap[at]
        rows[at], rows[top] = rows[top], rows[at]
        parent = child


@device
def _sift_up(heap, rows, base, place, want_max):
    """Restore the heap after an element was appended at `place`."""
    while place > 0:
        parent = (place - 1) // 2
        at = base + place
        top = base + parent
        if not _is_worse(heap[at], rows[at], heap[top], rows[top], want_max):
            return
        heap[at], heap[top] = heap[top], heap[at]
        rows[at], rows[top] = rows[top], rows[at]
        place = parent


@kernel(
    i64(
        F64_2D_IN, BOOL_2D_IN, boolean, I64_IN, I64_IN, I64_IN, boolean,
        F64_OUT, I64_OUT, I64_OUT, BOOL_2D_OUT,
    )
)  # fmt: skip
def select_extreme(values, valid, all_valid, order, offsets, k, want_max, heap, rows, sizes, out):
    """Mark the ``k[t]`` best rows of each group; of equal values the earlier rows.

    ``order: i64[S]`` holds the rows group after group, ``offsets: i64[G + 1]`` their bounds,
    ``k: i64[T]``. ``out: bool[S, T]`` starts as False. Scratch: ``heap, rows: [BLOCK * K]`` and
    ``sizes: i64[BLOCK]``, with K at least ``min(max(k), largest group)``.
    """
    n_steps = values.shape[1]
    room = heap.shape[0] // BLOCK
    for g in range(offsets.shape[0] - 1):
        for t0 in range(0, n_steps, BLOCK):
            width = min(BLOCK, n_steps - t0)
            for b in range(width):
                sizes[b] = 0
            for i in range(offsets[g], offsets[g + 1]):
                r = order[i]
                for b in range(width):
                    t = t0 + b
                    if k[t] < 1 or not (all_valid or valid[r, t]):
                        continue
                    base = b * room
                    size = sizes[b]
                    v = values[r, t]
                    if size < min(k[t], room):
                        heap[base + size] = v
                        rows[base + size] = r
                        sizes[b] = size + 1
                        _sift_up(heap, rows, base, size, want_max)
                    elif _is_worse(heap[base], rows[base], v, r, want_max):
                        heap[base] = v
                        rows[base] = r
                        _sift_down(heap, rows, base, size, want_max)
            for b in range(width):
                for place in range(b * room, b * room + sizes[b]):
                    out[rows[place], t0 + b] = True
    return OK


_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)


@device
def _rotate(x, n):
    return (x << np.uint64(n)) | (x >> np.uint64(64 - n))


@device
def _round(acc, lane):
    return _rotate(acc + lane * _P2, 31) * _P1


@device
def _merge_round(acc, lane):
    return (acc ^ _round(np.uint64(0), lane)) * _P1 + _P4


@device
def _xxh64(data, n):
    """XXH64 with seed 0 of ``data[:n]``. Source: the xxHash specification, section XXH64."""
    pos = 0
    if n >= 32:
        v1 = _P1 + _P2
        v2 = _P2
        v3 = np.uint64(0)
        v4 = np.uint64(0) - _P1
        while pos + 32 <= n:
            v1 = _round(v1, load_u64(data, pos))
            v2 = _round(v2, load_u64(data, pos + 8))
            v3 = _round(v3, load_u64(data, pos + 16))
            v4 = _round(v4, load_u64(data, pos + 24))
            pos += 32
        acc = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
        acc = _merge_round(acc, v1)
        acc = _merge_round(acc, v2)
        acc = _merge_round(acc, v3)
        acc = _merge_round(acc, v4)
    else:
        acc = _P5
    acc += np.uint64(n)
    while pos + 8 <= n:
        acc = _rotate(acc ^ _round(np.uint64(0), load_u64(data, pos)), 27) * _P1 + _P4
        pos += 8
    if pos + 4 <= n:
        word = np.uint64(0)
        for i in range(4):
            word |= np.uint64(data[pos + i]) << np.uint64(8 * i)
        acc = _rotate(acc ^ (word * _P1), 23) * _P2 + _P3
        pos += 4
    while pos < n:
        acc = _rotate(acc ^ (np.uint64(data[pos]) * _P5), 11) * _P1
        pos += 1
    acc = (acc ^ (acc >> np.uint64(33))) * _P2
    acc = (acc ^ (acc >> np.uint64(29))) * _P3
    return acc ^ (acc >> np.uint64(32))


@kernel(i64(U8_IN, I64_IN, I64_IN, I64_IN, U8_OUT, U64_OUT))
def hash_label_rows(texts, text_offsets, row_offsets, codes, scratch, out):
    """XXH64 of each row's pieces put together.

    ``texts: u8[...]``, ``text_offsets: i64[C + 1]`` cut it into pieces; row s is made of the pieces
    ``codes[row_offsets[s]:row_offsets[s + 1]]``; `scratch` holds the longest row; ``out: u64[S]``.
    """
    for s in range(row_offsets.shape[0] - 1):
        n = 0
        for i in range(row_offsets[s], row_offsets[s + 1]):
            for at in range(text_offsets[codes[i]], text_offsets[codes[i] + 1]):
                scratch[n] = texts[at]
                n += 1
        out[s] = _xxh64(scratch, n)
    return OK
