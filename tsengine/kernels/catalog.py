"""Interning of symbols, label pairs and series, and the senders' memo: open-addressing tables.

A table slot is ``tag << 32 | (id + 1)``, 0 when free; the tag is 32 bits of a keyed hash and its
upper bits are the home slot, so a table grows without looking at what it indexes. Probing is
linear, entries are never removed, at most 3/4 of the slots are taken.

The interning kernels work through their items in order and stop early when a table or an array is
full; the caller makes room and calls again from where they stopped.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64
from tsengine.kernels.jit import (
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U8_OUT,
    U32_IN,
    U32_OUT,
    U64_IN,
    U64_OUT,
    boolean,
    device,
    i64,
    kernel,
)

NONE = np.uint32(0xFFFFFFFF)
"""No such symbol, pair or series."""

# Statuses of `check_labels`.
LABELS_OK = 0
EMPTY_NAME = 1
BAD_NAME = 2
BAD_VALUE = 3
DUPLICATE_NAME = 4
NO_METRIC_NAME = 5
TOO_MANY_LABELS = 6
NAME_TOO_LONG = 7
VALUE_TOO_LONG = 8
SERIES_TOO_LARGE = 9
_NAMES_METRIC = 10

N_ROW_KEYS = 256
MEMO_WINDOW = 32
"""Slots looked at from an entry's home slot in the memo."""

_HIGH_BITS = np.uint64(0x8080808080808080)


@kernel(
    i64(U8_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, I64_IN, i64, i64, i64, i64, i64,
        I64_OUT, I64_OUT, I64_OUT, I64_OUT, I64_OUT)
)  # fmt: skip
def check_labels(
    data, row_ends, labels, name_starts, name_ends, value_starts, value_ends, n_labels_max,
    name_size_max, value_size_max, series_size_max, n, label_statuses, smaller, kept, kept_ends,
    statuses,
):  # fmt: skip
    """Sort each row's labels by name, drop empty values, find what makes a row invalid.

    Row r has the labels ``labels[row_ends[r - 1]:row_ends[r]]``, of which
    ``kept[kept_ends[r - 1]:kept_ends[r]]`` are left, in bytewise order of the names; none of an
    invalid row. ``statuses[r]`` is LABELS_OK or the first broken rule.

    Shapes: row_ends, kept_ends, statuses i64[>= n], labels, kept i64[L], spans of names and values
    and scratch (label_statuses, smaller) i64[D]. Returns the number of labels kept.
    """
    for d in range(name_starts.shape[0]):
        name_size = name_ends[d] - name_starts[d]
        value_size = value_ends[d] - value_starts[d]
        status = LABELS_OK
        if name_size == 0:
            status = EMPTY_NAME
        elif name_size > name_size_max:
            status = NAME_TOO_LONG
        elif value_size > value_size_max:
            status = VALUE_TOO_LONG
        elif not _is_utf8(data, name_starts[d], name_ends[d]):
            status = BAD_NAME
        elif not _is_utf8(data, value_starts[d], value_ends[d]):
            status = BAD_VALUE
        elif value_size > 0 and _is_metric_name(data, name_starts[d], name_ends[d]):
            status = _NAMES_METRIC
        label_statuses[d] = status
        smaller[d] = -1
    out = 0
    begin = 0
    for r in range(n):
        end = row_ends[r]
        start = out
        status = LABELS_OK
        if end - begin > n_labels_max:
            # Labels without a value don't count, but a sender has no reason for so many of them.
            n_full = 0
            for k in range(begin, end):
                n_full += value_ends[labels[k]] > value_starts[labels[k]]
            if n_full > n_labels_max:
                status = TOO_MANY_LABELS
        size = np.int64(0)
        n_full = 0
        is_sorted = True
        named = False
        last = np.int64(-1)
        for k in range(begin, end):
            if status != LABELS_OK:
                break
            d = labels[k]
            size += name_ends[d] - name_starts[d] + value_ends[d] - value_starts[d]
            n_full += value_ends[d] > value_starts[d]
            if label_statuses[d] == _NAMES_METRIC:
                named = True
            else:
                status = label_statuses[d]
            if size > series_size_max and (
                status == LABELS_OK or status == BAD_NAME or status == BAD_VALUE
            ):
                status = SERIES_TOO_LARGE
            kept[out] = d
            out += 1
            # Rows repeat their neighbours, so most comparisons were made before.
            if last >= 0 and smaller[d] != last:
                if _compare(data, name_starts, name_ends, last, d) < 0:
                    smaller[d] = last
                else:
                    is_sorted = False
            last = d
        if status == LABELS_OK and not is_sorted:
            _sort_labels(data, name_starts, name_ends, kept, start, out)
            for i in range(start + 1, out):
                if _compare(data, name_starts, name_ends, kept[i - 1], kept[i]) == 0:
                    status = DUPLICATE_NAME
        if status == LABELS_OK and not named:
            status = NO_METRIC_NAME
        if status != LABELS_OK:
            out = start
        elif n_full < out - start:
            full = start
            for i in range(start, out):
                if value_ends[kept[i]] > value_starts[kept[i]]:
                    kept[full] = kept[i]
                    full += 1
            out = full
        kept_ends[r] = out
        statuses[r] = status
        begin = end
    return out


@kernel(
    i64(U8_IN, I64_IN, I64_IN, U64_IN, i64, i64, boolean, U64_OUT, U8_OUT, I64_OUT, I64_OUT,
        U32_OUT)
)  # fmt: skip
def intern_symbols(
    data, starts, ends, hashes, begin, n, insert, table, text, offsets, state, ids
):  # fmt: skip
    """Ids of the texts ``data[starts[i]:ends[i]]`` for begin <= i < n; NONE if not inserted.

    Symbol s is ``text[offsets[s]:offsets[s + 1]]``; ``state[0]`` is the number of symbols.
    Shapes: hashes u64[2n] (the first of each two counts), table u64[2^k], text u8[capacity],
    offsets i64[capacity + 1], ids u32[n]. Returns the position reached.
    """
    n_symbols = state[0]
    shift = _home_shift(table)
    mask = np.int64(table.shape[0] - 1)
    for i in range(begin, n):
        tag = (hashes[2 * i] >> np.uint64(29)) & np.uint64(0xFFFFFFFF)
        size = ends[i] - starts[i]
        slot = np.int64(tag >> shift)
        found = NONE
        while table[slot] != np.uint64(0):
            entry = table[slot]
            if entry >> np.uint64(32) == tag:
                symbol = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
                place = offsets[symbol]
                if offsets[symbol + 1] - place == size and _equal(
                    text, place, data, starts[i], size
                ):
                    found = np.uint32(symbol)
                    break
            slot = (slot + 1) & mask
        if found == NONE and insert:
            if (
                (n_symbols + 1) * 4 > table.shape[0] * 3
                or n_symbols + 1 >= offsets.shape[0]
                or offsets[n_symbols] + size > text.shape[0]
            ):
                state[0] = n_symbols
                return i
            place = offsets[n_symbols]
            for k in range(size):
                text[place + k] = data[starts[i] + k]
            offsets[n_symbols + 1] = place + size
            found = np.uint32(n_symbols)
            n_symbols += 1
            table[slot] = (tag << np.uint64(32)) | np.uint64(n_symbols)
        ids[i] = found
    state[0] = n_symbols
    return n


@kernel(i64(U32_IN, U32_IN, U64_IN, i64, i64, boolean, U64_OUT, U32_OUT, U32_OUT, I64_OUT, U32_OUT))
def intern_pairs(names, values, keys, begin, n, insert, table, pair_names, pair_values, state, ids):
    """Ids of the pairs (names[i], values[i]) for begin <= i < n; NONE if not inserted.

    ``state[0]`` is the number of pairs. A NONE in a pair makes the pair NONE.
    Shapes: names, values, ids u32[n], keys u64[>= 3], table u64[2^k], pairs u32[capacity].
    Returns the position reached.
    """
    n_pairs = state[0]
    shift = _home_shift(table)
    mask = np.int64(table.shape[0] - 1)
    for i in range(begin, n):
        name = names[i]
        value = values[i]
        if name == NONE or value == NONE:
            ids[i] = NONE
            continue
        tag = (keys[0] + keys[1] * np.uint64(name) + keys[2] * np.uint64(value)) >> np.uint64(32)
        slot = np.int64(tag >> shift)
        found = NONE
        while table[slot] != np.uint64(0):
            entry = table[slot]
            if entry >> np.uint64(32) == tag:
                pair = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
                if pair_names[pair] == name and pair_values[pair] == value:
                    found = np.uint32(pair)
                    break
            slot = (slot + 1) & mask
        if found == NONE and insert:
            if (n_pairs + 1) * 4 > table.shape[0] * 3 or n_pairs >= pair_names.shape[0]:
                state[0] = n_pairs
                return i
            pair_names[n_pairs] = name
            pair_values[n_pairs] = value
            found = np.uint32(n_pairs)
            n_pairs += 1
            table[slot] = (tag << np.uint64(32)) | np.uint64(n_pairs)
        ids[i] = found
    state[0] = n_pairs
    return n


@kernel(i64(I64_IN, U32_IN, U64_IN, i64, i64, boolean, U64_OUT, I64_OUT, U32_OUT, I64_OUT, U32_OUT))
def intern_series(
    row_ends, pairs, keys, begin, n, insert, table, row_offsets, row_pairs, state, refs
):
    """Refs of the rows ``pairs[row_ends[i - 1]:row_ends[i]]`` for begin <= i < n.

    Rows are compared exactly. An empty row and one with a NONE are NONE, as is an unknown one if
    not inserted. Stored row s is ``row_pairs[row_offsets[s]:row_offsets[s + 1]]``; ``state[0]`` is
    the number of series.
    Shapes: row_ends i64[n], pairs u32[.], keys u64[N_ROW_KEYS], table u64[2^k], row_offsets
    i64[capacity + 1], row_pairs u32[capacity], refs u32[n]. Returns the position reached.
    """
    n_series = state[0]
    shift = _home_shift(table)
    mask = np.int64(table.shape[0] - 1)
    for i in range(begin, n):
        start = row_ends[i - 1] if i > 0 else np.int64(0)
        size = row_ends[i] - start
        complete = size > 0
        total = keys[0] * np.uint64(size)
        for k in range(size):
            pair = pairs[start + k]
            complete &= pair != NONE
            total += keys[1 + k % (N_ROW_KEYS - 1)] * (np.uint64(pair) + np.uint64(1))
        if not complete:
            refs[i] = NONE
            continue
        tag = total >> np.uint64(32)
        slot = np.int64(tag >> shift)
        found = NONE
        while table[slot] != np.uint64(0):
            entry = table[slot]
            if entry >> np.uint64(32) == tag:
                ref = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
                place = row_offsets[ref]
                same = row_offsets[ref + 1] - place == size
                k = 0
                while same and k < size:
                    same = row_pairs[place + k] == pairs[start + k]
                    k += 1
                if same:
                    found = np.uint32(ref)
                    break
            slot = (slot + 1) & mask
        if found == NONE and insert:
            if (
                (n_series + 1) * 4 > table.shape[0] * 3
                or n_series + 1 >= row_offsets.shape[0]
                or row_offsets[n_series] + size > row_pairs.shape[0]
            ):
                state[0] = n_series
                return i
            place = row_offsets[n_series]
            for k in range(size):
                row_pairs[place + k] = pairs[start + k]
            row_offsets[n_series + 1] = place + size
            found = np.uint32(n_series)
            n_series += 1
            table[slot] = (tag << np.uint64(32)) | np.uint64(n_series)
        refs[i] = found
    state[0] = n_series
    return n


@kernel(i64(U64_IN, U64_OUT))
def grow_table(old, new):
    """Enter all slots of an open-addressing table into an empty, larger one. Shapes: u64[2^k]."""
    shift = _home_shift(new)
    mask = np.int64(new.shape[0] - 1)
    for i in range(old.shape[0]):
        entry = old[i]
        if entry != np.uint64(0):
            slot = np.int64((entry >> np.uint64(32)) >> shift)
            while new[slot] != np.uint64(0):
                slot = (slot + 1) & mask
            new[slot] = entry
    return OK


@kernel(i64(U64_IN, i64, U64_IN, U32_IN, U32_OUT, I64_OUT))
def memo_find(hashes, n, memo_keys, memo_refs, refs, misses):
    """Look up n fingerprints; positions of those not in the memo go to misses, in order.

    Shapes: hashes u64[2n], memo_keys u64[2C], memo_refs u32[C] (0 free, else ref + 1), C = 2^k,
    refs u32[n] (NONE where missed), misses i64[n]. Returns the number of misses.
    """
    mask = np.int64(memo_refs.shape[0] - 1)
    n_misses = 0
    for i in range(n):
        first = hashes[2 * i]
        second = hashes[2 * i + 1]
        home = np.int64(first >> np.uint64(16))
        found = NONE
        for step in range(MEMO_WINDOW):
            slot = (home + step) & mask
            if memo_keys[2 * slot] == first and memo_keys[2 * slot + 1] == second:
                # The reserved entry 0 of a free slot makes NONE here.
                found = np.uint32(memo_refs[slot] - np.uint32(1))
                break
            if memo_refs[slot] == np.uint32(0):
                break
        refs[i] = found
        if found == NONE:
            misses[n_misses] = i
            n_misses += 1
    return n_misses


@kernel(i64(U64_IN, U32_IN, i64, U64_OUT, U32_OUT))
def memo_insert(hashes, refs, n, memo_keys, memo_refs):
    """Enter n fingerprints; one without a free slot in its window displaces another.

    Entries are never removed, only overwritten, so a free slot ends every search.
    Shapes: hashes u64[2n], refs u32[n] (NONE is left out), memo_keys u64[2C], memo_refs u32[C].
    Returns how many slots were taken that had been free.
    """
    mask = np.int64(memo_refs.shape[0] - 1)
    taken = 0
    for i in range(n):
        if refs[i] == NONE:
            continue
        first = hashes[2 * i]
        second = hashes[2 * i + 1]
        home = np.int64(first >> np.uint64(16))
        place = (home + np.int64(second & np.uint64(MEMO_WINDOW - 1))) & mask
        for step in range(MEMO_WINDOW):
            slot = (home + step) & mask
            free = memo_refs[slot] == np.uint32(0)
            if free or (memo_keys[2 * slot] == first and memo_keys[2 * slot + 1] == second):
                place = slot
                taken += free
                break
        memo_keys[2 * place] = first
        memo_keys[2 * place + 1] = second
        memo_refs[place] = np.uint32(refs[i] + np.uint32(1))
    return taken


@device
def _home_shift(table):
    """How far a 32-bit tag goes right to become a slot of the table."""
    bits = 0
    while (np.int64(1) << bits) < table.shape[0]:
        bits += 1
    return np.uint64(32 - bits)


@device
def _equal(a, a_start, b, b_start, size):
    """Whether two spans of equal size have the same bytes."""
    k = 0
    while k + 8 <= size:
        if load_u64(a, a_start + k) != load_u64(b, b_start + k):
            return False
        k += 8
    while k < size:
        if a[a_start + k] != b[b_start + k]:
            return False
        k += 1
    return True


@device
def _compare(data, starts, ends, i, j):
    """Bytewise order of spans i and j: negative, 0 or positive."""
    size_i = ends[i] - starts[i]
    size_j = ends[j] - starts[j]
    for k in range(min(size_i, size_j)):
        difference = np.int64(data[starts[i] + k]) - np.int64(data[starts[j] + k])
        if difference != 0:
            return difference
    return size_i - size_j


@device
def _sort_labels(data, starts, ends, order, begin, end):
    """Heapsort ``order[begin:end]`` by the spans' bytes: no bad case for a sender to find."""
    n = end - begin
    for root in range(n // 2 - 1, -1, -1):
        _sift(data, starts, ends, order, begin, root, n)
    for last in range(n - 1, 0, -1):
        top = order[begin]
        order[begin] = order[begin + last]
        order[begin + last] = top
        _sift(data, starts, ends, order, begin, 0, last)
    return OK


@device
def _sift(data, starts, ends, order, begin, root, n):
    """Move a heap's element down until no child is greater."""
    while 2 * root + 1 < n:
        child = 2 * root + 1
        if (
            child + 1 < n
            and _compare(data, starts, ends, order[begin + child], order[begin + child + 1]) < 0
        ):
            child += 1
        if _compare(data, starts, ends, order[begin + root], order[begin + child]) >= 0:
            break
        held = order[begin + root]
        order[begin + root] = order[begin + child]
        order[begin + child] = held
        root = child
    return OK


@device
def _is_metric_name(data, start, end):
    """Whether the span is ``__name__``."""
    return end - start == 8 and load_u64(data, start) == np.uint64(0x5F5F656D616E5F5F)


@device
def _is_utf8(data, start, end):
    """Whether a span is UTF-8 (RFC 3629: shortest forms, no surrogates, up to U+10FFFF)."""
    pos = start
    while pos < end:
        if pos + 8 <= end and load_u64(data, pos) & _HIGH_BITS == np.uint64(0):
            pos += 8
            continue
        byte = data[pos]
        pos += 1
        if byte < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= byte <= 0xDF:
            more = 1
        elif 0xE0 <= byte <= 0xEF:
            more = 2
            if byte == 0xE0:
                low = 0xA0
            elif byte == 0xED:
                high = 0x9F
        elif 0xF0 <= byte <= 0xF4:
            more = 3
            if byte == 0xF0:
                low = 0x90
            elif byte == 0xF4:
                high = 0x8F
        else:
            return False
        if end - pos < more:
            return False
        for k in range(more):
            if data[pos + k] < low or data[pos + k] > high:
                return False
            low = 0x80
            high = 0xBF
        pos += more
    return True
