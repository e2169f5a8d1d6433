"""Gorilla's two bit streams: timestamps by second differences, values by XOR.

The reference codec that ours is held against; nothing stored is written with it. Source: Pelkonen
et al., "Gorilla: A Fast, Scalable, In-Memory Time Series Database", VLDB 2015, sections 4.1.1 and
4.1.2. Three things differ: the first timestamp takes 64 bits (the paper aligns blocks to two
hours), the widest second difference takes 64 instead of 32 (so any int64 fits), and bits are filled
from the least significant one on.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import leading_zeros, trailing_zeros
from tsengine.kernels.jit import (
    ERR_TRUNCATED,
    OK,
    U8_IN,
    U8_OUT,
    U64_IN,
    U64_OUT,
    device,
    i64,
    kernel,
)
from tsengine.kernels.packing import get_bits, put_bits

TIMES = 1
VALUES = 2
WORD_BYTES_MAX = 10
"""Bytes that one more word takes at most (a value: 2 + 5 + 6 + 64 bits)."""

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LEADING_MAX = 31
_FIRST_BITS = 64
# Second differences d by prefix: "10", "110", "1110" with d + BIAS in WIDTH bits, else "1111".
_BUCKETS = 3
_WIDTHS = np.array([7, 9, 12])
_BIASES = np.array([63, 255, 2047], dtype=np.uint64)


@device
def put_times(words, out):
    """Write timestamps behind the first one; return the bits used."""
    bit = np.int64(_FIRST_BITS)
    before = _ZERO
    for i in range(1, words.shape[0]):
        delta = words[i] - words[i - 1]
        change = delta - before
        before = delta
        if change == _ZERO:
            bit += 1
            continue
        bucket = 0
        while bucket < _BUCKETS and (change + _BIASES[bucket]) >> np.uint64(_WIDTHS[bucket]):
            bucket += 1
        # Ones, one more each bucket, and a zero that only the last bucket does without.
        put_bits(out, bit, (np.uint64(2) << np.uint64(bucket)) - _ONE, bucket + 1)
        if bucket < _BUCKETS:
            put_bits(out, bit + bucket + 2, change + _BIASES[bucket], _WIDTHS[bucket])
            bit += bucket + 2 + _WIDTHS[bucket]
        else:
            put_bits(out, bit + bucket + 1, change, 64)
            bit += bucket + 1 + 64
    return bit


@device
def put_values(words, out):
    """Write values behind the first one; return the bits used."""
    bit = np.int64(_FIRST_BITS)
    leading = np.int64(64)
    width = np.int64(0)
    for i in range(1, words.shape[0]):
        x = words[i] ^ words[i - 1]
        if x == _ZERO:
            bit += 1
            continue
        zeros = min(np.int64(_LEADING_MAX), leading_zeros(x))
        tail = trailing_zeros(x)
        if zeros >= leading and tail >= 64 - leading - width:
            put_bits(out, bit, _ONE, 2)
            bit += 2
            tail = 64 - leading - width
        else:
            leading = zeros
            width = 64 - zeros - tail
            put_bits(out, bit, np.uint64(3 | (zeros << 2) | ((width & 63) << 7)), 13)
            bit += 13
        put_bits(out, bit, x >> np.uint64(tail), width)
        bit += width
    return bit


@kernel(i64(U64_IN, i64, U8_OUT))
def encode_gorilla(words, kind, out):
    """Write a block of timestamps (TIMES) or float64 bits (VALUES); return the bytes used.

    Shapes: words: u64[N], N >= 1; out: u8[C], zeros, C >= WORD_BYTES_MAX * N + 16.
    """
    put_bits(out, 0, words[0], 64)
    bits = put_times(words, out) if kind == TIMES else put_values(words, out)
    return (bits + 7) >> 3


@device
def get_times(data, end, out):
    """Read timestamps behind the first one; return the bits used or an error."""
    limit = data.shape[0]
    bit = np.int64(_FIRST_BITS)
    delta = _ZERO
    for i in range(1, out.shape[0]):
        prefix = get_bits(data, bit, 4, limit)
        bucket = min(np.int64(_BUCKETS), trailing_zeros(~prefix) - 1)
        if bucket < 0:
            bit += 1
        elif bucket < _BUCKETS:
            width = _WIDTHS[bucket]
            delta += get_bits(data, bit + bucket + 2, width, limit) - _BIASES[bucket]
            bit += bucket + 2 + width
        else:
            delta += get_bits(data, bit + _BUCKETS + 1, 64, limit)
            bit += _BUCKETS + 1 + 64
        if bit > end:
            return np.int64(ERR_TRUNCATED)
        out[i] = out[i - 1] + delta
    return bit


@device
def get_values(data, end, out):
    """Read values behind the first one; return the bits used or an error."""
    limit = data.shape[0]
    bit = np.int64(_FIRST_BITS)
    width = np.int64(0)
    tail = np.int64(0)
    for i in range(1, out.shape[0]):
        head = np.int64(get_bits(data, bit, 13, limit))
        x = _ZERO
        if head & 1 == 0:
            bit += 1
        else:
            bit += 2
            if head & 2:
                width = ((head >> 7) - 1 & 63) + 1
                tail = 64 - (head >> 2 & 31) - width
                bit += 11
            if tail < 0 or width == 0:
                return np.int64(ERR_TRUNCATED)
            x = get_bits(data, bit, width, limit) << np.uint64(tail)
            bit += width
        if bit > end:
            return np.int64(ERR_TRUNCATED)
        out[i] = out[i - 1] ^ x
    return bit


@kernel(i64(U8_IN, i64, U64_OUT))
def decode_gorilla(data, kind, out):
    """Fill `out` from what `encode_gorilla` wrote; OK, or ERR_TRUNCATED where the bits don't fit.

    Shapes: data: u8[P], the bytes of the block and no others; out: u64[N], N >= 1.
    """
    end = 8 * data.shape[0]
    if end < _FIRST_BITS:
        return ERR_TRUNCATED
    out[0] = get_bits(data, 0, 64, data.shape[0])
    bits = get_times(data, end, out) if kind == TIMES else get_values(data, end, out)
    if bits < 0 or (bits + 7) >> 3 != data.shape[0]:
        return ERR_TRUNCATED
    return OK
