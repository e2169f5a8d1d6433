"""Bit tricks that kernels of several files share."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tsengine.kernels.jit import device

STALE_BITS = np.uint64(0x7FF0000000000002)
"""Bits of Prometheus's staleness marker."""


@intrinsic
def load_u64(typingctx: Any, array: Any, idx: Any) -> Any:
    """Read 8 bytes of a u8 array at any position, little endian; the caller proves the bounds."""
    signature = types.uint64(array, types.intp)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        loaded = builder.load(place)
        loaded.align = 1
        return loaded

    return signature, generate


@intrinsic
def store_u64(typingctx: Any, array: Any, idx: Any, value: Any) -> Any:
    """Write 8 bytes into a u8 array at any position; the caller proves the bounds."""
    signature = types.void(array, types.intp, types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        stored = builder.store(args[2], place)
        stored.align = 1
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def f64_bits(typingctx: Any, value: Any) -> Any:
    """Reinterpret a float64 as uint64; keeps NaN payloads."""
    signature = types.uint64(types.float64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return signature, generate


@intrinsic
def bits_f64(typingctx: Any, value: Any) -> Any:
    """Reinterpret a uint64 as float64; keeps NaN payloads."""
    signature = types.float64(types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return signature, generate


@intrinsic
def leading_zeros(typingctx: Any, value: Any) -> Any:
    """Number of leading zero bits of a uint64; 64 for 0."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return signature, generate


@intrinsic
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """Number of trailing zero bits of a uint64; 64 for 0."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return signature, generate


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


@intrinsic
def mul_high(typingctx: Any, x: Any, y: Any) -> Any:
    """Upper 64 bits of the 128-bit product of two uint64 (``x * y`` has the lower ones)."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, generate


@intrinsic
def unowned(typingctx: Any, array: Any) -> Any:
    """The same array without its reference count, for a kernel that hands arrays to many helpers.

    Helpers that are not inlined count references of their arguments with atomic instructions, which
    costs as much as decoding a hundred values and makes threads fight for a cache line. The caller
    of the kernel keeps the array alive; the result must not leave the kernel.
    """
    signature = array(array)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        made = context.make_array(sig.args[0])(context, builder, args[0])
        made.meminfo = ir.Constant(made.meminfo.type, None)
        made.parent = ir.Constant(made.parent.type, None)
        return made._getvalue()

    return signature, generate


@device
def put_varint(out, at, number):
    """Write a uint64 as a varint at `at`; returns where it ends."""
    while number >= np.uint64(128):
        out[at] = np.uint8((number & np.uint64(127)) | np.uint64(128))
        number >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(number)
    return at + 1
