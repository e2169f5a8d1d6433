"""Remote write 1.0 bodies of series that the senders' memo knows, in one pass.

Senders repeat their series in the order in which they first sent them, which is the order of the
refs. So behind series r usually comes series r + 1, and beside the memo there is a trail: for each
ref half the fingerprint of its labels as they came last, and how many bytes they take. A row that
is on the trail needs no look at the structure of its labels: they are bytes that were taken apart
before. A row that is not is walked and looked up in the memo by the whole fingerprint.

Half of it is enough here because there is one candidate: a row of other bytes passes for it with a
probability of at most 2^-58 up to 1 KiB, 2^-52 up to 64 KiB (`hashing`).

Anything else (an unknown series, metadata, histograms, exemplars, labels behind samples, broken
bytes, an order of its own) ends the pass, and the caller takes the general way from the start: this
one is only fast.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.bits import unowned
from tsengine.kernels.catalog import MEMO_WINDOW
from tsengine.kernels.hashing import hash_half, hash_span
from tsengine.kernels.jit import (
    ERR_CAPACITY,
    ERR_CORRUPT,
    I64_OUT,
    U8_IN,
    U32_IN,
    U32_OUT,
    U64_IN,
    U64_OUT,
    device,
    i64,
    kernel,
)
from tsengine.kernels.protowire import is_sample_broken, read_sample, varint

_LABEL = np.uint8(0x0A)
_SAMPLE = np.uint8(0x12)
_PATIENCE = np.int64(256)
"""A row that is not next in the order takes an eighth of it, one that is gives 1 back."""


@kernel(
    i64(U8_IN, U64_IN, U64_IN, U32_IN, U64_OUT, U32_OUT, U32_OUT, I64_OUT, U64_OUT)
)  # fmt: skip
def scan_known_v1(
    data, key, memo_keys, memo_refs, trail_keys, trail_sizes, refs, t_ms, bits
):  # fmt: skip
    """Samples of a body whose series are all in the memo, in the body's order.

    Shapes: data u8[.], key u64[KEY_WORDS], memo_keys u64[2C], memo_refs u32[C] (as `memo_find` has
    them); trail_keys u64[R], trail_sizes u32[R] (0 where nothing is known), by ref; refs, t_ms,
    bits [capacity], one of each for a sample.
    Returns the number of samples, ERR_CAPACITY (more samples than room) or ERR_CORRUPT: the body
    is another one.
    """
    data = unowned(data)
    key = unowned(key)
    memo_keys = unowned(memo_keys)
    memo_refs = unowned(memo_refs)
    end = np.int64(data.shape[0])
    pos = np.int64(0)
    expected = np.int64(-1)
    n_trail = np.int64(trail_sizes.shape[0])
    n_samples = 0
    patience = _PATIENCE
    while pos < end:
        if data[pos] != _LABEL:
            return ERR_CORRUPT
        size, pos = varint(data, pos + 1, end)
        if pos < 0 or size <= 0 or size > end - pos:
            return ERR_CORRUPT
        stop = pos + size
        ref = np.int64(-1)
        n_bytes = np.int64(0)
        if 0 <= expected < n_trail:
            n_bytes = np.int64(trail_sizes[expected])
            if 0 < n_bytes < size and data[pos + n_bytes] == _SAMPLE:
                if hash_half(data, pos, pos + n_bytes, key) == trail_keys[expected]:
                    ref = expected
                    patience = min(patience + 1, _PATIENCE)
        if ref < 0:
            n_bytes = _labels_size(data, pos, stop)
            if n_bytes <= 0:
                return ERR_CORRUPT
            first, second = hash_span(data, pos, pos + n_bytes, key)
            ref = _find(first, second, memo_keys, memo_refs)
            if ref < 0:
                return ERR_CORRUPT
            if ref != expected:
                # Look-ups one by one, each waiting for memory: the general way has many on the way.
                patience -= _PATIENCE // 8
                if patience < 0:
                    return ERR_CORRUPT
            if ref < n_trail:
                trail_keys[ref] = first
                trail_sizes[ref] = n_bytes
        expected = ref + 1
        pos += n_bytes
        if pos >= stop:
            return ERR_CORRUPT
        while pos < stop:
            if n_samples == t_ms.shape[0]:
                return ERR_CAPACITY
            if data[pos] != _SAMPLE:
                return ERR_CORRUPT
            size, pos = varint(data, pos + 1, stop)
            if pos < 0 or size < 0 or size > stop - pos:
                return ERR_CORRUPT
            t, value, found = read_sample(data, pos, pos + size)
            if is_sample_broken(found):
                return ERR_CORRUPT
            refs[n_samples] = np.uint32(ref)
            t_ms[n_samples] = t
            bits[n_samples] = value
            n_samples += 1
            pos += size
    return n_samples


@device
def _labels_size(data, pos, end):
    """Bytes of the fields 1 at the start of a message; -1 where they are broken."""
    start = pos
    while pos < end and data[pos] == _LABEL:
        size, pos = varint(data, pos + 1, end)
        if pos < 0 or size < 0 or size > end - pos:
            return np.int64(-1)
        pos += size
    return pos - start


@device
def _find(first, second, memo_keys, memo_refs):
    """Ref of a fingerprint in the memo, -1 if it is not there."""
    mask = np.int64(memo_refs.shape[0] - 1)
    home = np.int64(first >> np.uint64(16))
    for step in range(MEMO_WINDOW):
        slot = (home + step) & mask
        if memo_refs[slot] == np.uint32(0):
            break
        if memo_keys[2 * slot] == first and memo_keys[2 * slot + 1] == second:
            return np.int64(memo_refs[slot]) - 1
    return np.int64(-1)
