"""Chunks as Prometheus's TSDB writes them, for clients of remote read.

Bits are filled from the most significant one on. Source: Prometheus ``tsdb/docs/format/chunks.md``.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import f64_bits, leading_zeros, put_varint, trailing_zeros
from tsengine.kernels.jit import (
    F64_IN,
    I32_IN,
    I64_IN,
    I64_OUT,
    U8_IN,
    U8_OUT,
    U64_IN,
    device,
    i64,
    kernel,
    polished_device,
)

CHUNK_SIZE_MAX = 2 + 10 + 8
"""Bytes of a chunk of one sample; each further one takes at most SAMPLE_SIZE_MAX."""
SAMPLE_SIZE_MAX = 20
HISTOGRAM_CHUNK_SIZE_MAX = 32
"""Bytes of a chunk of histograms without samples, buckets and bounds."""
HISTOGRAM_SAMPLE_SIZE_MAX = 40
LAYOUT_SIZE_MAX = 16
"""Bytes of one more bucket in a chunk's layout."""
CELL_SIZE_MAX = 10
"""Bytes of a bucket's count in a sample, or of a custom bound."""

RESET_FLAG, GAUGE_FLAG = 0x80, 0xC0
"""What a chunk's header says about its first histogram; 0 says nothing."""

_HINT_RESET, _HINT_GAUGE = 1, 3
_KEY_BIAS = 1 << 20
_CUSTOM_SCHEMA = -53
_BOUND_MAX = 33554430
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_VARBIT_WIDTHS = np.array([3, 6, 9, 12, 18, 25, 56])
_NO_WINDOW = 255
_LEADING_MAX = 31


@polished_device
def _put_bits(out, bit, value, width):
    """Write the low `width` bits of a uint64 behind `bit` bits; the rest of `out` is zeros."""
    while width > 0:
        free = 8 - (bit & 7)
        n = min(free, width)
        part = (value >> np.uint64(width - n)) & ((_ONE << np.uint64(n)) - _ONE)
        out[bit >> 3] |= np.uint8(part << np.uint64(free - n))
        bit += n
        width -= n
    return bit


@polished_device
def _put_xor(out, bit, x, leading, width):
    """Write the difference `x` of a float; returns the bits written and the window from now on.

    The window is the bits that the last difference needed: `leading` zeros before, `width` wide.
    """
    if x == _ZERO:
        return bit + 1, leading, width
    zeros = min(np.int64(_LEADING_MAX), leading_zeros(x))
    tail = trailing_zeros(x)
    if leading != _NO_WINDOW and zeros >= leading and tail >= 64 - leading - width:
        bit = _put_bits(out, bit, np.uint64(2), 2)
    else:
        leading, width = zeros, 64 - zeros - tail
        head = (np.uint64(3) << np.uint64(11)) | (np.uint64(leading) << np.uint64(6))
        bit = _put_bits(out, bit, head | np.uint64(width & 63), 13)
    return _put_bits(out, bit, x >> np.uint64(64 - leading - width), width), leading, width


@polished_device
def _put_change(out, bit, change):
    """Write a second difference of timestamps."""
    if change == 0:
        return bit + 1
    if -8191 <= change <= 8192:
        return _put_bits(out, _put_bits(out, bit, np.uint64(2), 2), np.uint64(change), 14)
    if -65535 <= change <= 65536:
        return _put_bits(out, _put_bits(out, bit, np.uint64(6), 3), np.uint64(change), 17)
    if -524287 <= change <= 524288:
        return _put_bits(out, _put_bits(out, bit, np.uint64(14), 4), np.uint64(change), 20)
    return _put_bits(out, _put_bits(out, bit, np.uint64(15), 4), np.uint64(change), 64)


@polished_device
def _encode_floats(t_ms, words, start, end, out, at):
    """One chunk of samples ``start:end``; returns where it ends."""
    out[at], out[at + 1] = (end - start) >> 8, (end - start) & 255
    first = t_ms[start]
    at = put_varint(out, at + 2, np.uint64((first << 1) ^ (first >> 63)))
    bit = _put_bits(out, at * 8, words[start], 64)
    before = np.int64(0)
    leading, width = np.int64(_NO_WINDOW), np.int64(0)
    for i in range(start + 1, end):
        delta = t_ms[i] - t_ms[i - 1]
        if i == start + 1:
            bit = put_varint(out, bit >> 3, np.uint64(delta)) << 3
        else:
            bit = _put_change(out, bit, delta - before)
        before = delta
        bit, leading, width = _put_xor(out, bit, words[i] ^ words[i - 1], leading, width)
    return (bit + 7) >> 3


@kernel(i64(I64_IN, U64_IN, I64_IN, I64_IN, U8_OUT, I64_OUT))
def encode_xor_chunks(t_ms, words, starts, ends, out, bounds):
    """Write XOR chunks of float samples behind each other; returns the bytes written.

    Shapes: ``t_ms: i64[N]``, ``words: u64[N]`` (floats' bits); chunk c takes the samples
    ``starts[c]:ends[c]``, one to 65535, times ascending. ``out: u8[...]`` are zeros with room for
    CHUNK_SIZE_MAX a chunk and SAMPLE_SIZE_MAX a sample. ``bounds: i64[C + 1]`` gets where each
    chunk begins and the last one ends.
    """
    at = np.int64(0)
    bounds[0] = 0
    for c in range(starts.shape[0]):
        at = _encode_floats(t_ms, words, starts[c], ends[c], out, at)
        bounds[c + 1] = at
    return at


@polished_device
def _put_varbit(out, bit, value, is_signed):
    """Write a number behind ones that say how wide it is."""
    if value == 0:
        return bit + 1
    for k in range(_VARBIT_WIDTHS.shape[0]):
        width = _VARBIT_WIDTHS[k]
        half = np.int64(1) << (width - 1)
        fits = -half < value <= half if is_signed else 0 < value < 2 * half
        if fits:
            prefix = (np.uint64(2) << np.uint64(k + 1)) - np.uint64(2)
            bit = _put_bits(out, bit, prefix, k + 2)
            return _put_bits(out, bit, np.uint64(value), width)
    bit = _put_bits(out, bit, np.uint64(255), 8)
    return _put_bits(out, bit, np.uint64(value), 64)


@device
def _index(key):
    return key - _KEY_BIAS if key > 0 else -key - _KEY_BIAS


@device
def _same_bounds(a, b, bounds_offsets, bounds):
    if a == b:
        return True
    if a < 0 or b < 0:
        return False
    start, other = bounds_offsets[a], bounds_offsets[b]
    n = bounds_offsets[a + 1] - start
    if bounds_offsets[b + 1] - other != n:
        return False
    for k in range(n):
        if bounds[start + k] != bounds[other + k]:
            return False
    return True


@device
def _has_fallen(before, row, count, zero_count, offsets, keys, counts):
    """Whether some count is lower than in the histogram before, of the same layout."""
    if count[row] < count[before] or zero_count[row] < zero_count[before]:
        return True
    b, end = offsets[row], offsets[row + 1]
    for a in range(offsets[before], offsets[before + 1]):
        while b < end and keys[b] < keys[a]:
            b += 1
        if b == end or keys[b] != keys[a]:
            if counts[a] > 0:
                return True
        elif counts[b] < counts[a]:
            return True
    return False


@kernel(
    i64(I64_IN, I64_IN, I64_IN, i64, I64_IN, U8_IN, F64_IN, F64_IN, F64_IN,
        I64_IN, I32_IN, F64_IN, I32_IN, I64_IN, F64_IN, I64_OUT, I64_OUT, U8_OUT)
)  # fmt: skip
def cut_histogram_chunks(
    starts, ends, rows, n_max, schema, hint, count, zero_threshold, zero_count,
    offsets, keys, counts, bounds_id, bounds_offsets, bounds, chunk_starts, chunk_ends, flags,
):  # fmt: skip
    """Cut runs of histogram samples into chunks; returns their number.

    Histograms of a chunk have one schema, zero threshold and bounds, are all gauges or none, and no
    counter falls inside it. Shapes: run k is the samples ``starts[k]:ends[k]``, sample i has the
    histogram ``rows[i]`` of the table in the arrays that follow (`model.histograms.Histograms`;
    ``schema: i64``). A chunk takes `n_max` samples at most. ``chunk_starts, chunk_ends: i64[N]``
    and ``flags: u8[N]`` have room for a chunk per sample.
    """
    n_chunks = 0
    for k in range(starts.shape[0]):
        for i in range(starts[k], ends[k]):
            row = rows[i]
            is_gauge = hint[row] == _HINT_GAUGE
            flag = GAUGE_FLAG if is_gauge else RESET_FLAG if hint[row] == _HINT_RESET else 0
            if i > starts[k]:
                before = rows[i - 1]
                is_alike = (
                    schema[row] == schema[before]
                    and zero_threshold[row] == zero_threshold[before]
                    and is_gauge == (hint[before] == _HINT_GAUGE)
                    and _same_bounds(bounds_id[row], bounds_id[before], bounds_offsets, bounds)
                )
                if is_alike and flag == 0:
                    if _has_fallen(before, row, count, zero_count, offsets, keys, counts):
                        flag = RESET_FLAG
                n = i - chunk_starts[n_chunks - 1]
                if is_alike and flag != RESET_FLAG and n < n_max:
                    chunk_ends[n_chunks - 1] = i + 1
                    continue
            chunk_starts[n_chunks] = i
            chunk_ends[n_chunks] = i + 1
            flags[n_chunks] = flag
            n_chunks += 1
    return n_chunks


@device
def _unite(united, n, keys, start, end, scratch):
    """Make ``united[:n]`` hold ``keys[start:end]`` too, ascending; returns its new length."""
    a = 0
    n_new = 0
    for b in range(start, end):
        while a < n and united[a] < keys[b]:
            a += 1
        if a == n or united[a] != keys[b]:
            n_new += 1
    if n_new == 0:
        return n
    a, b, size = 0, start, 0
    while a < n or b < end:
        if b == end or (a < n and united[a] <= keys[b]):
            if b < end and united[a] == keys[b]:
                b += 1
            scratch[size] = united[a]
            a += 1
        else:
            scratch[size] = keys[b]
            b += 1
        size += 1
    for k in range(size):
        united[k] = scratch[k]
    return size


@device
def _put_spans(out, bit, united, first, last, step):
    """Layout of the buckets from `first` on, `step` apart, until `last` (not included)."""
    n_spans = 0
    b = first
    while b != last:
        if b == first or _index(united[b]) != _index(united[b - step]) + 1:
            n_spans += 1
        b += step
    bit = _put_varbit(out, bit, np.int64(n_spans), False)
    b = first
    after = np.int64(0)
    while b != last:
        start = b
        n = np.int64(0)
        while b != last and _index(united[b]) == _index(united[start]) + n:
            n += 1
            b += step
        bit = _put_varbit(out, bit, n, False)
        bit = _put_varbit(out, bit, np.int64(_index(united[start]) - after), True)
        after = _index(united[start]) + n
    return bit


@device
def _put_zero_threshold(out, bit, threshold):
    bits = f64_bits(threshold)
    exponent = np.int64(bits >> np.uint64(52)) - 1022
    if bits == _ZERO:
        return bit + 8
    if bits << np.uint64(12) != _ZERO or exponent < -242 or exponent > 11:
        return _put_bits(out, _put_bits(out, bit, np.uint64(255), 8), bits, 64)
    return _put_bits(out, bit, np.uint64(exponent + 243), 8)


@device
def _put_bound(out, bit, bound):
    scaled = bound * 1000
    if 0 <= scaled <= _BOUND_MAX and np.rint(scaled) / 1000 == bound:
        return _put_varbit(out, bit, np.int64(np.rint(scaled)) + 1, False)
    return _put_bits(out, bit + 1, f64_bits(bound), 64)


@polished_device
def _put_word(out, bit, word, slot, is_first, words, leading, width):
    """Write one number of a histogram; ``words, leading, width`` are what was written before."""
    if is_first:
        bit = _put_bits(out, bit, word, 64)
        leading[slot] = _NO_WINDOW
        width[slot] = 0
    else:
        x = word ^ np.uint64(words[slot])
        bit, leading[slot], width[slot] = _put_xor(out, bit, x, leading[slot], width[slot])
    words[slot] = np.int64(word)
    return bit


@kernel(
    i64(I64_IN, I64_IN, I64_IN, I64_IN, U8_IN, I64_IN, F64_IN, F64_IN, F64_IN, F64_IN,
        I64_IN, I32_IN, F64_IN, I32_IN, I64_IN, F64_IN, i64, U8_OUT, I64_OUT)
)  # fmt: skip
def encode_histogram_chunks(
    t_ms, rows, starts, ends, flags, schema, count, sum_, zero_threshold, zero_count,
    offsets, keys, counts, bounds_id, bounds_offsets, bounds, n_buckets_max, out, chunk_bounds,
):  # fmt: skip
    """Write chunks of float histograms behind each other, as many as fit; returns their number.

    Shapes: chunk c takes the samples ``starts[c]:ends[c]`` (of one layout, see
    `cut_histogram_chunks`) of ``t_ms, rows: i64[N]``; then the table of histograms.
    ``out: u8[...]`` are zeros; a chunk fits if there is room for the sizes of this module.
    `n_buckets_max` is no less than the different buckets of any chunk. ``chunk_bounds: i64[C + 1]``
    gets where each chunk begins and the last one ends.
    """
    united = np.empty(n_buckets_max, np.int32)
    scratch = np.empty(n_buckets_max, np.int32)
    words = np.empty(n_buckets_max + 3, np.int64)
    leading = np.empty(n_buckets_max + 3, np.int64)
    width = np.empty(n_buckets_max + 3, np.int64)
    at = np.int64(0)
    chunk_bounds[0] = 0
    for c in range(starts.shape[0]):
        start, end = starts[c], ends[c]
        n = 0
        for i in range(start, end):
            n = _unite(united, n, keys, offsets[rows[i]], offsets[rows[i] + 1], scratch)
        middle = 0
        while middle < n and united[middle] < 0:
            middle += 1
        first = rows[start]
        room = HISTOGRAM_CHUNK_SIZE_MAX + LAYOUT_SIZE_MAX * n
        room += (end - start) * (HISTOGRAM_SAMPLE_SIZE_MAX + CELL_SIZE_MAX * n)
        if schema[first] == _CUSTOM_SCHEMA:
            low, high = bounds_offsets[bounds_id[first]], bounds_offsets[bounds_id[first] + 1]
            room += CELL_SIZE_MAX * (high - low)
        if at + room > out.shape[0]:
            return c
        out[at], out[at + 1], out[at + 2] = (end - start) >> 8, (end - start) & 255, flags[c]
        bit = _put_zero_threshold(out, (at + 3) * 8, zero_threshold[first])
        bit = _put_varbit(out, bit, schema[first], True)
        bit = _put_spans(out, bit, united, middle, n, 1)
        bit = _put_spans(out, bit, united, middle - 1, -1, -1)
        if schema[first] == _CUSTOM_SCHEMA:
            low, high = bounds_offsets[bounds_id[first]], bounds_offsets[bounds_id[first] + 1]
            bit = _put_varbit(out, bit, high - low, False)
            for b in range(low, high):
                bit = _put_bound(out, bit, bounds[b])
        before = np.int64(0)
        for i in range(start, end):
            row = rows[i]
            is_first = i == start
            if is_first:
                bit = _put_varbit(out, bit, t_ms[i], True)
            else:
                delta = t_ms[i] - t_ms[i - 1]
                bit = _put_varbit(out, bit, delta - before, True)
                before = delta
            word = f64_bits(count[row])
            bit = _put_word(out, bit, word, n, is_first, words, leading, width)
            word = f64_bits(zero_count[row])
            bit = _put_word(out, bit, word, n + 1, is_first, words, leading, width)
            word = f64_bits(sum_[row])
            bit = _put_word(out, bit, word, n + 2, is_first, words, leading, width)
            own = offsets[row]
            own_end = offsets[row + 1]
            while own < own_end and keys[own] < 0:
                own += 1
            own_middle = own
            for slot in range(middle, n):
                word = _ZERO
                if own < own_end and keys[own] == united[slot]:
                    word = f64_bits(counts[own])
                    own += 1
                bit = _put_word(out, bit, word, slot, is_first, words, leading, width)
            own = own_middle - 1
            for back in range(middle):
                slot = middle - 1 - back
                word = _ZERO
                if own >= offsets[row] and keys[own] == united[slot]:
                    word = f64_bits(counts[own])
                    own -= 1
                bit = _put_word(out, bit, word, slot, is_first, words, leading, width)
        at = (bit + 7) >> 3
        chunk_bounds[c + 1] = at
    return starts.shape[0]
