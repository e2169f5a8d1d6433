"""What numba lacks, as instructions of LLVM: kernels get them from `bits` and `packing`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
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


# --- instructions that not every CPU has --------------------------------------------------------


def _has(context: Any, *features: str) -> bool:
    """Whether the code that is being made may use instructions, by LLVM's names of x86's sets."""
    found = context.codegen()._get_host_cpu_features().split(",")
    return all(f"+{feature}" in found for feature in features)


def _has_crc32c(context: Any) -> bool:
    return _has(context, "64bit", "crc32")


def _has_byte_shuffle(context: Any) -> bool:
    return _has(context, "64bit", "avx512bw", "avx512vbmi")


def _constant(is_true: Any) -> Any:
    """An intrinsic that is true or false for the CPU: of a branch by it, one side is left out."""

    def declare(typingctx: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return ir.Constant(ir.IntType(1), int(is_true(context)))

        return types.boolean(), generate

    return intrinsic(declare)


has_crc32c = _constant(_has_crc32c)
has_byte_shuffle = _constant(_has_byte_shuffle)


@intrinsic
def crc32c_u64(typingctx: Any, crc: Any, word: Any) -> Any:
    """CRC-32C register after 8 more bytes, in one instruction.

    Only where `has_crc32c` is true; else the register stays as it is.
    """
    signature = types.uint64(types.uint64, types.uint64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not _has_crc32c(context):
            return args[0]
        word_type = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(word_type, [word_type] * 2),
            "llvm.x86.sse42.crc32.64.64",
        )  # fmt: skip
        return builder.call(function, args)

    return signature, generate


@intrinsic
def unpack_eight(
    typingctx: Any, data: Any, pos: Any, width: Any, mask: Any, base: Any, out: Any, at: Any
) -> Any:
    """Set ``out[at:at + 8]`` (u64) to base + the 8 packed values at byte `pos` of u8 data.

    Value k has the bits from ``k * width`` on that `mask` leaves; width is 1 to 57. The caller
    proves that there are 64 bytes. Only where `has_byte_shuffle` is true; else it does nothing.
    """
    word = types.uint64
    signature = types.void(data, types.intp, types.int64, word, word, out, types.intp)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not _has_byte_shuffle(context):
            return context.get_dummy_value()
        lanes, octets = ir.VectorType(ir.IntType(64), 8), ir.VectorType(ir.IntType(8), 64)

        def everywhere(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(lanes, ir.Undefined), value, _number(0))
            places = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
            return builder.shuffle_vector(one, ir.Constant(lanes, ir.Undefined), places)

        def constant(values: list[int]) -> Any:
            return ir.Constant(lanes, values)

        packed = context.make_array(sig.args[0])(context, builder, args[0]).data
        target = context.make_array(sig.args[5])(context, builder, args[5]).data
        bits = builder.mul(everywhere(args[2]), constant(list(range(8))))
        # Of each value the number of its first byte, and then those of the seven behind it.
        first = builder.lshr(bits, constant([3] * 8))
        numbers = builder.mul(first, constant([0x0101010101010101] * 8))
        numbers = builder.add(numbers, constant([0x0706050403020100] * 8))
        place = builder.bitcast(builder.gep(packed, [args[1]]), octets.as_pointer())
        loaded = builder.load(place)
        loaded.align = 1
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(octets, [octets] * 2), "llvm.x86.avx512.permvar.qi.512"
        )
        words = builder.call(shuffle, [loaded, builder.bitcast(numbers, octets)])
        values = builder.lshr(builder.bitcast(words, lanes), builder.and_(bits, constant([7] * 8)))
        values = builder.add(builder.and_(values, everywhere(args[3])), everywhere(args[4]))
        place = builder.bitcast(builder.gep(target, [args[6]]), lanes.as_pointer())
        builder.store(values, place).align = 8
        return context.get_dummy_value()

    return signature, generate


def _number(value: int) -> Any:
    return ir.Constant(ir.IntType(32), value)
