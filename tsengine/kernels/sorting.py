"""Stable order of rows by an unsigned key."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import (
    I64_IN,
    I64_OUT,
    OK,
    U32_IN,
    U32_OUT,
    U64_IN,
    U64_OUT,
    i64,
    kernel,
)

DIGIT_BITS = 11
N_DIGITS = 1 << DIGIT_BITS


@kernel(i64(U32_IN, U32_OUT, U32_OUT, I64_OUT))
def order_by_key(keys, order, spare, counts):
    """Least-significant-digit counting sort; digits that all keys share cost one pass of reading.

    ``keys: u32[N]``, ``order, spare: u32[N]``, ``counts: i64[2 ** 11]``. Fills ``order`` with the
    stable order of the keys; N is below 2**32.
    """
    n = keys.shape[0]
    differing = np.uint32(0)
    for i in range(n):
        order[i] = np.uint32(i)
        differing |= keys[i] ^ keys[0]
    source, target = order, spare
    swapped = False
    for shift in range(0, 32, 11):
        if (np.uint64(differing) >> np.uint64(shift)) & np.uint64(2047) == np.uint64(0):
            continue
        counts[:] = 0
        for i in range(n):
            counts[(np.uint64(keys[i]) >> np.uint64(shift)) & np.uint64(2047)] += 1
        position = 0
        for digit in range(2048):
            size = counts[digit]
            counts[digit] = position
            position += size
        for i in range(n):
            row = source[i]
            digit = (np.uint64(keys[row]) >> np.uint64(shift)) & np.uint64(2047)
            target[counts[digit]] = row
            counts[digit] += 1
        source, target = target, source
        swapped = not swapped
    if swapped:
        for i in range(n):
            order[i] = spare[i]
    return OK


@kernel(
    i64(U32_IN, I64_IN, U64_IN, i64, U32_OUT, U32_OUT, I64_OUT, I64_OUT, U64_OUT, I64_OUT)
)  # fmt: skip
def group_by_key(
    keys, t_ms, bits, lowest, places, out_keys, out_offsets, out_t_ms, out_bits, n_falls
):  # fmt: skip
    """Rows by ascending key, in their order inside each: one count and one move per row.

    For keys in a narrow range: ``lowest <= keys[i] < lowest + len(places)``. ``keys: u32[N]``,
    ``t_ms: i64[N]``, ``bits: u64[N]``, scratch ``places: u32[K]``. Fills ``out_t_ms, out_bits:
    [N]``, the different keys ``out_keys: u32[>= D]`` and where their rows begin, ``out_offsets:
    i64[>= D + 1]``; ``n_falls[0]`` is how many times are not later than the one before of their
    key. Returns D; N is below 2**32.
    """
    n = keys.shape[0]
    places[:] = 0
    for i in range(n):
        places[np.int64(keys[i]) - lowest] += np.uint32(1)
    n_keys = 0
    position = np.uint32(0)
    for k in range(places.shape[0]):
        size = places[k]
        if size > 0:
            out_keys[n_keys] = np.uint32(lowest + k)
            out_offsets[n_keys] = position
            n_keys += 1
        places[k] = position
        position += size
    out_offsets[n_keys] = n
    falls = 0
    for i in range(n):
        k = np.int64(keys[i]) - lowest
        place = np.int64(places[k])
        places[k] += np.uint32(1)
        out_t_ms[place] = t_ms[i]
        out_bits[place] = bits[i]
    for k in range(n_keys):
        for i in range(out_offsets[k] + 1, out_offsets[k + 1]):
            falls += out_t_ms[i] <= out_t_ms[i - 1]
    n_falls[0] = falls
    return n_keys
