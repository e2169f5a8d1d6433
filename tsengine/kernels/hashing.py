"""Keyed 122-bit fingerprints of byte spans and of rows of symbols, with a proven bound.

Two independent halves of 61 bits. Each half: NH over blocks of 128 words of 64 bits (Black,
Halevi, Krawczyk, Krovetz, Rogaway: "UMAC: Fast and Secure Message Authentication", CRYPTO '99;
the second half takes the key shifted by two words, their Toeplitz construction), then the 128-bit
block sums, cut in three pieces, and last the length are the coefficients of a polynomial over
GF(2^61 - 1), evaluated at a secret point (Carter-Wegman).

Two different inputs agree in one half with a probability over the key of at most
2^-64 + (3 * blocks + 1) / 2^61, so in both halves: under 2^-116 up to 1 KiB, 2^-105 up to 64 KiB.
For rows of symbols add the bound for two different symbols having the same half.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64, mul_high
from tsengine.kernels.jit import I64_IN, OK, U8_IN, U32_IN, U64_IN, U64_OUT, device, i64, kernel

BLOCK_WORDS = 128
POINT_1 = BLOCK_WORDS + 2
POINT_2 = BLOCK_WORDS + 3
KEY_WORDS = BLOCK_WORDS + 4
"""Words of a key: NH words, two more for the shifted half, two polynomial points below 2^61 - 1."""

PRIME = np.uint64((1 << 61) - 1)
_MASK_48 = np.uint64((1 << 48) - 1)
_ROW_MARK = np.int64(1) << np.int64(40)


@kernel(i64(U8_IN, I64_IN, I64_IN, i64, U64_IN, U64_OUT))
def hash_spans(data, starts, ends, n, key, out):
    """Fingerprints of ``data[starts[i]:ends[i]]`` for i < n: ``out[2i], out[2i + 1]``.

    Shapes: data u8[.], starts i64[>= n], ends i64[>= n], key u64[KEY_WORDS], out u64[>= 2n].
    """
    for i in range(n):
        first, second = hash_span(data, starts[i], ends[i], key)
        out[2 * i] = first
        out[2 * i + 1] = second
    return OK


@kernel(i64(I64_IN, U32_IN, I64_IN, i64, U64_IN, U64_IN, U64_OUT))
def hash_rows(row_ends, symbols, tags, n, symbol_hashes, key, out):
    """Fingerprints of rows of symbols by the symbols' own fingerprints, and of a small tag.

    Row i is ``symbols[row_ends[i - 1]:row_ends[i]]``; a row of odd length leaves its last symbol
    out. Different domain than `hash_spans`. Shapes: row_ends i64[>= n], symbols u32[.] below K,
    tags i64[>= n] in [0, 255], symbol_hashes u64[2K], key u64[KEY_WORDS], out u64[>= 2n].
    """
    zero = np.uint64(0)
    pos = np.int64(0)
    for i in range(n):
        end = row_ends[i]
        length = (end - pos) | (tags[i] << np.int64(32)) | _ROW_MARK
        first = zero
        second = zero
        while True:
            stop = min(pos + BLOCK_WORDS, end)
            lo_1 = zero
            hi_1 = zero
            lo_2 = zero
            hi_2 = zero
            k = 0
            while pos + 1 < stop:
                x = 2 * np.int64(symbols[pos])
                y = 2 * np.int64(symbols[pos + 1])
                lo_1, hi_1 = _add_product(
                    lo_1, hi_1, symbol_hashes[x] + key[k], symbol_hashes[y] + key[k + 1]
                )
                lo_2, hi_2 = _add_product(
                    lo_2, hi_2, symbol_hashes[x + 1] + key[k + 2], symbol_hashes[y + 1] + key[k + 3]
                )
                pos += 2
                k += 2
            first = _absorb(first, lo_1, hi_1, key[POINT_1])
            second = _absorb(second, lo_2, hi_2, key[POINT_2])
            if pos + 1 >= end:
                break
        pos = end
        out[2 * i] = _step(first, key[POINT_1], np.uint64(length))
        out[2 * i + 1] = _step(second, key[POINT_2], np.uint64(length))
    return OK


@device
def hash_span(data, start, end, key):
    """Both halves for one span; reads stay inside [start, end) or are masked inside data."""
    zero = np.uint64(0)
    first = zero
    second = zero
    pos = start
    while True:
        stop = min(pos + 8 * BLOCK_WORDS, end)
        lo_1 = zero
        hi_1 = zero
        lo_2 = zero
        hi_2 = zero
        k = 0
        while pos + 16 <= stop:
            x = load_u64(data, pos)
            y = load_u64(data, pos + 8)
            lo_1, hi_1 = _add_product(lo_1, hi_1, x + key[k], y + key[k + 1])
            lo_2, hi_2 = _add_product(lo_2, hi_2, x + key[k + 2], y + key[k + 3])
            pos += 16
            k += 2
        if pos < stop:
            x = _load_part(data, pos, stop - pos)
            y = _load_part(data, pos + 8, stop - pos - 8)
            lo_1, hi_1 = _add_product(lo_1, hi_1, x + key[k], y + key[k + 1])
            lo_2, hi_2 = _add_product(lo_2, hi_2, x + key[k + 2], y + key[k + 3])
            pos = stop
        first = _absorb(first, lo_1, hi_1, key[POINT_1])
        second = _absorb(second, lo_2, hi_2, key[POINT_2])
        if pos >= end:
            break
    length = np.uint64(end - start)
    return _step(first, key[POINT_1], length), _step(second, key[POINT_2], length)


@device
def hash_half(data, start, end, key):
    """The first half of `hash_span` alone: for one candidate, not for one among millions."""
    zero = np.uint64(0)
    first = zero
    pos = start
    while True:
        stop = min(pos + 8 * BLOCK_WORDS, end)
        lo = zero
        hi = zero
        k = 0
        while pos + 16 <= stop:
            x = load_u64(data, pos) + key[k]
            lo, hi = _add_product(lo, hi, x, load_u64(data, pos + 8) + key[k + 1])
            pos += 16
            k += 2
        if pos < stop:
            x = _load_part(data, pos, stop - pos) + key[k]
            lo, hi = _add_product(lo, hi, x, _load_part(data, pos + 8, stop - pos - 8) + key[k + 1])
            pos = stop
        first = _absorb(first, lo, hi, key[POINT_1])
        if pos >= end:
            break
    return _step(first, key[POINT_1], np.uint64(end - start))


@device
def _add_product(lo, hi, x, y):
    """128-bit sum (lo, hi) plus x * y, modulo 2^128."""
    product = x * y
    total = lo + product
    return total, hi + mul_high(x, y) + np.uint64(total < product)


@device
def _absorb(state, lo, hi, point):
    """Three more coefficients: a 128-bit block sum in pieces of 48, 48 and 32 bits."""
    state = _step(state, point, lo & _MASK_48)
    state = _step(state, point, ((lo >> np.uint64(48)) | (hi << np.uint64(16))) & _MASK_48)
    return _step(state, point, hi >> np.uint64(32))


@device
def _step(state, point, coefficient):
    """``state * point + coefficient`` modulo 2^61 - 1; all three below the prime."""
    lo = state * point
    hi = mul_high(state, point)
    total = (lo & PRIME) + ((lo >> np.uint64(61)) | (hi << np.uint64(3)))
    total = (total & PRIME) + (total >> np.uint64(61)) + coefficient
    if total >= PRIME:
        total -= PRIME
    return total


@device
def _load_part(data, pos, n):
    """The first n bytes at pos as a word, zero above; nothing for n <= 0; all 8 for n >= 8."""
    word = np.uint64(0)
    if n <= 0:
        return word
    if pos + 8 <= data.shape[0]:
        word = load_u64(data, pos)
        if n < 8:
            word &= (np.uint64(1) << np.uint64(8 * n)) - np.uint64(1)
        return word
    for i in range(min(n, 8)):
        word |= np.uint64(data[pos + i]) << np.uint64(8 * i)
    return word
