"""What numba lacks, as instructions of LLVM: kernels get them from `bits` and `packing`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


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


@intrinsic
def hold(typingctx: Any, array: Any) -> Any:
    """Keep an array of the kernel's own alive up to here.

    Numba frees an array behind the last use of its variable, whoever else has its memory: one that
    was handed out as `unowned` is held by nothing else.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(array), generate
