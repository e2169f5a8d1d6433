"""Stable order of rows by an unsigned key."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import I64_OUT, OK, U32_IN, U32_OUT, i64, kernel

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
