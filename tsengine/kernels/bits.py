"""Bit tricks that kernels of several files share."""

from __future__ import annotations

import numpy as np

from tsengine.kernels.jit import device, intrinsic

STALE_BITS = np.uint64(0x7FF0000000000002)
"""Bits of Prometheus's staleness marker."""

load_u64 = intrinsic("load_u64")
store_u64 = intrinsic("store_u64")
f64_bits = intrinsic("f64_bits")
bits_f64 = intrinsic("bits_f64")
leading_zeros = intrinsic("leading_zeros")
trailing_zeros = intrinsic("trailing_zeros")
mul_high = intrinsic("mul_high")
unowned = intrinsic("unowned")


@device
def bit_length(x):
    """Bits needed to write the uint64 x; 0 for 0."""
    return np.int64(64) - leading_zeros(np.uint64(x))


@device
def is_stale(x):
    """Whether a float64 is the staleness marker, by its bits."""
    return f64_bits(x) == STALE_BITS


@device
def add_compensated(sum_, compensation, x):
    """One step of Neumaier's summation: the new sum and compensation; their sum is the result.

    An infinite sum loses its compensation, which would be NaN.
    Source: Neumaier 1974; Prometheus `util/kahansum`.
    """
    total = sum_ + x
    if abs(total) == np.inf:
        return total, 0.0
    if abs(sum_) >= abs(x):
        return total, compensation + ((sum_ - total) + x)
    return total, compensation + ((x - total) + sum_)


@device
def window_bounds(t_ms, start, end, ends_ms, range_ms, lo, hi):
    """Samples of one axis in (end - range, end] for every end, as half-open positions.

    ``t_ms[start:end]`` ascending is the axis; ``ends_ms: i64[T]`` ascending; ``lo, hi: i64[T]``
    count from `start`. `range_ms` is at least 1.
    """
    n = end - start
    a = 0
    b = 0
    stride = 0
    for k in range(ends_ms.shape[0]):
        upto = ends_ms[k]
        after = upto - range_ms
        # Steps of a regular axis are the same number of samples apart: try that first.
        guess = b + stride
        before = b
        if 0 < guess < n and t_ms[start + guess - 1] <= upto and t_ms[start + guess] > upto:
            b = guess
        else:
            while b < n and t_ms[start + b] <= upto:
                b += 1
        guess = a + stride
        if 0 < guess < n and t_ms[start + guess - 1] <= after and t_ms[start + guess] > after:
            a = guess
        else:
            while a < n and t_ms[start + a] <= after:
                a += 1
        stride = b - before
        lo[k] = a
        hi[k] = b


@device
def put_varint(out, at, number):
    """Write a uint64 as a varint at `at`; returns where it ends."""
    while number >= np.uint64(128):
        out[at] = np.uint8((number & np.uint64(127)) | np.uint64(128))
        number >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(number)
    return at + 1
