"""Texts of label sets: their order, and their pairs as JSON.

Arrays of a dictionary: symbol s is ``text[text_offsets[s]:text_offsets[s + 1]]``, UTF-8; pair p has
the symbols ``pair_names[p]`` and ``pair_values[p]``. Different symbols have different texts.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import load_u64, trailing_zeros, unowned
from tsengine.kernels.jit import (
    I64_IN,
    I64_OUT,
    OK,
    U8_IN,
    U8_OUT,
    U32_IN,
    device,
    i64,
    kernel,
)

NOT_PLAIN = -4
"""A text has characters that JSON escapes."""
AROUND_TEXTS = 5
"""Bytes of four quotes and a colon."""

_QUOTE, _COLON, _BACKSLASH, _SPACE = 34, 58, 92, 32


@device
def _is_less(text, a, a_end, b, b_end):
    """Whether the bytes ``text[a:a_end]`` come before ``text[b:b_end]``."""
    n = min(a_end - a, b_end - b)
    i = 0
    while i + 8 <= n:
        differing = load_u64(text, a + i) ^ load_u64(text, b + i)
        if differing != np.uint64(0):
            i += trailing_zeros(differing) >> 3
            return text[a + i] < text[b + i]
        i += 8
    while i < n:
        if text[a + i] != text[b + i]:
            return text[a + i] < text[b + i]
        i += 1
    return a_end - a < b_end - b


@device
def _comes_before(text, text_offsets, pair_names, pair_values, offsets, pairs, row, other):
    """Whether a row comes before another one: name then value, label by label, a prefix first."""
    i = offsets[row]
    j = offsets[other]
    while i < offsets[row + 1] and j < offsets[other + 1]:
        pair = np.int64(pairs[i])
        rival = np.int64(pairs[j])
        if pair != rival:
            one = np.int64(pair_names[pair])
            two = np.int64(pair_names[rival])
            if one == two:
                one = np.int64(pair_values[pair])
                two = np.int64(pair_values[rival])
            return _is_less(
                text, text_offsets[one], text_offsets[one + 1],
                text_offsets[two], text_offsets[two + 1],
            )  # fmt: skip
        i += 1
        j += 1
    return i == offsets[row + 1] and j < offsets[other + 1]


@device
def _copy_plain(text, start, end, out, at):
    """Copy bytes; whether none of them is one that JSON escapes."""
    n_escaped = 0
    source = text[start:end]
    target = out[at : at + end - start]
    for i in range(source.shape[0]):
        byte = source[i]
        target[i] = byte
        n_escaped += (byte < _SPACE) | (byte == _QUOTE) | (byte == _BACKSLASH)
    return n_escaped == 0


@kernel(i64(U8_IN, I64_IN, U32_IN, U32_IN, I64_IN, U32_IN, I64_OUT, I64_OUT))
def order_rows(text, text_offsets, pair_names, pair_values, offsets, pairs, order, spare):
    """Rows by their labels: name then value, label by label, bytewise; a prefix comes first.

    ``offsets: i64[S + 1]``, ``pairs: u32[...]``, all of them pairs of the dictionary. Fills
    ``order: i64[S]``; equal rows keep their order. ``spare: i64[S]`` is scratch.
    """
    text, text_offsets = unowned(text), unowned(text_offsets)
    pair_names, pair_values = unowned(pair_names), unowned(pair_values)
    offsets, pairs = unowned(offsets), unowned(pairs)
    n = order.shape[0]
    for row in range(n):
        order[row] = row
    source, target = unowned(order), unowned(spare)
    is_spare = False
    width = 1
    while width < n:
        for start in range(0, n, 2 * width):
            middle = min(start + width, n)
            end = min(middle + width, n)
            a = start
            b = middle
            at = start
            # Runs that follow each other are common: series are made in the order of their texts.
            if middle == end or not _comes_before(
                text, text_offsets, pair_names, pair_values, offsets, pairs,
                source[middle], source[middle - 1],
            ):  # fmt: skip
                b = end
            while a < middle and b < end:
                if _comes_before(
                    text, text_offsets, pair_names, pair_values, offsets, pairs,
                    source[b], source[a],
                ):  # fmt: skip
                    target[at] = source[b]
                    b += 1
                else:
                    target[at] = source[a]
                    a += 1
                at += 1
            while a < middle:
                target[at] = source[a]
                a += 1
                at += 1
            # What is left of the second run stands where it belongs.
            while at < end:
                target[at] = source[at]
                at += 1
        source, target = target, source
        is_spare = not is_spare
        width *= 2
    if is_spare:
        for k in range(n):
            order[k] = spare[k]
    return OK


@kernel(i64(U8_IN, I64_IN, U32_IN, U32_IN, U32_IN, U8_OUT, I64_OUT))
def write_pairs(text, text_offsets, pair_names, pair_values, pairs, out, offsets):
    """Write ``"name":"value"`` of pairs one after the other; returns the bytes that all take.

    ``pairs: u32[K]``; pair k begins at ``offsets[k]``: i64[K + 1]. If all take more than there is
    room for, `out` means nothing. NOT_PLAIN if a text has characters that JSON escapes.
    """
    text, out = unowned(text), unowned(out)
    at = 0
    is_plain = True
    for k in range(pairs.shape[0]):
        offsets[k] = at
        name = np.int64(pair_names[pairs[k]])
        value = np.int64(pair_values[pairs[k]])
        name_size = text_offsets[name + 1] - text_offsets[name]
        size = name_size + text_offsets[value + 1] - text_offsets[value] + AROUND_TEXTS
        if at + size <= out.shape[0]:
            out[at] = _QUOTE
            is_plain &= _copy_plain(text, text_offsets[name], text_offsets[name + 1], out, at + 1)
            middle = at + 1 + name_size
            out[middle], out[middle + 1], out[middle + 2] = _QUOTE, _COLON, _QUOTE
            is_plain &= _copy_plain(
                text, text_offsets[value], text_offsets[value + 1], out, middle + 3
            )
            out[at + size - 1] = _QUOTE
        at += size
    offsets[pairs.shape[0]] = at
    return at if is_plain else NOT_PLAIN
