"""Numba's side of `jit`: makes the machine code of kernels.

Imported only by a process that compiles. The wrapper through which Python calls a kernel is numba's
own but for arrays: numba leaves it to its dispatcher to refuse arrays of another type or layout,
and we run kernels without one (`loading`), so the wrapper itself looks at each array.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import boxing, cgutils, config, pythonapi, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.typed_passes import NativeLowering
from numba.core.types.containers import NamedTuple

from tsengine.kernels import intrinsics
from tsengine.kernels.jit import Array, Helper, MachineCode, Record, Scalar, Signature
from tsengine.kernels.loading import ARRAY_TYPE, add_symbols

_ENVIRONMENT_PREFIX = "_ZN08NumbaEnv"


def machine_code(py_func: Callable[..., Any], signature: Signature) -> MachineCode:
    """Compile a kernel."""
    (made,) = compiled(py_func, signature).overloads.values()
    library = made.library
    environments = tuple(
        variable.name
        for variable in library._final_module.global_variables
        if variable.name.startswith(_ENVIRONMENT_PREFIX)
    )
    return MachineCode(
        made.fndesc.llvm_cpython_wrapper_name, environments, library._get_compiled_object()
    )


def compiled(py_func: Callable[..., Any], signature: Signature) -> CPUDispatcher:
    """Numba's dispatcher of a kernel, with its one signature compiled."""
    add_symbols()
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(py_func)
    with global_compiler_lock, _checked_arrays():
        dispatcher.compile(_numba_signature(signature))
    return dispatcher


def is_for_any_cpu() -> bool:
    """Whether this process makes code that runs on any CPU of its architecture."""
    return bool(config.CPU_NAME == "generic")


def helper_type(helper: Helper) -> Any:
    """Numba's type of a helper, which it is known by to the functions that call it."""
    pipeline = _PolishedDeviceCompiler if helper.is_polished else _DeviceCompiler
    dispatcher = numba.njit(
        nogil=True, error_model="numpy", inline="never", forceinline=helper.is_inlined,
        no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=pipeline,
    )(helper.py_func)  # fmt: skip
    # Its type refers to it weakly.
    _dispatchers.append(dispatcher)
    return dispatcher._numba_type_


_dispatchers: list[CPUDispatcher] = []


def intrinsic_type(name: str) -> Any:
    """Numba's type of a function of `intrinsics`."""
    context = cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(getattr(intrinsics, name))


def external_type(symbol: str, signature: Signature) -> Any:
    """Numba's type of a C function."""
    return types.ExternalFunction(symbol, _numba_signature(signature))


def _numba_signature(signature: Signature) -> Any:
    return _numba_type(signature.returns)(*map(_numba_type, signature.arguments))


def _numba_type(declared: Any) -> Any:
    if isinstance(declared, Scalar):
        return getattr(types, declared.name)
    if isinstance(declared, Record):
        return NamedTuple(map(_numba_type, declared.fields), declared.made_of)
    assert isinstance(declared, Array), declared
    dtype = _numba_type(declared.dtype)
    return types.Array(dtype, declared.ndim, "C", readonly=declared.is_readonly)


# --- arrays as arguments ------------------------------------------------------------------------

_HEADER_SIZE = object.__basicsize__
_TYPE_AT = _HEADER_SIZE - 8
_NDIM_AT = _HEADER_SIZE + 8
_DTYPE_AT = _HEADER_SIZE + 40
_FLAGS_AT = _HEADER_SIZE + 48
_NUMBER_AT = _HEADER_SIZE + 12
_ORDER_AT = _HEADER_SIZE + 10
"""Bytes at which NumPy's C headers place what is looked at in arrays and in their dtypes."""
_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400


def _check_places() -> None:
    """Make sure that arrays are laid out as is believed here."""
    array = np.zeros((2, 3), ">i4")
    array.flags.writeable = False
    dtype = _word(id(array) + _DTYPE_AT)
    found = (
        _word(id(array) + _TYPE_AT), ctypes.c_int.from_address(id(array) + _NDIM_AT).value, dtype,
        ctypes.c_int.from_address(id(array) + _FLAGS_AT).value & 0x7FF,
        ctypes.c_int.from_address(dtype + _NUMBER_AT).value,
        ctypes.c_char.from_address(dtype + _ORDER_AT).value,
    )  # fmt: skip
    wanted = (id(np.ndarray), 2, id(array.dtype), array.flags.num & 0x7FF, array.dtype.num, b">")
    assert found == wanted, "NumPy's arrays are laid out in another way"


def _word(address: int) -> int:
    return ctypes.c_ssize_t.from_address(address).value


@contextmanager
def _checked_arrays() -> Iterator[None]:
    """While this lasts, wrappers that numba makes look at arrays themselves."""
    _check_places()
    unboxers = pythonapi._unboxers.functions
    plain = unboxers[types.Array]
    unboxers[types.Array] = _unbox_checked
    try:
        yield
    finally:
        unboxers[types.Array] = plain


def _unbox_checked(array_type: Any, obj: Any, c: Any) -> Any:
    """Numba's unboxing of an array that has the type, the layout and the dimensions declared."""
    builder = c.builder
    made = cgutils.alloca_once(builder, c.context.get_value_type(array_type), zfill=True)
    failed = cgutils.alloca_once_value(builder, cgutils.true_bit)
    with builder.if_then(_is_array(builder, obj)):
        with builder.if_then(_is_of_type(builder, obj, array_type)):
            native = boxing.unbox_array(array_type, obj, c)
            builder.store(native.value, made)
            builder.store(native.is_error, failed)
    with builder.if_then(builder.load(failed), likely=False):
        c.pyapi.err_set_string("PyExc_TypeError", f"an argument is no {array_type}")
    return pythonapi.NativeValue(builder.load(made), is_error=builder.load(failed))


def _is_array(builder: Any, obj: Any) -> Any:
    kind = _load(builder, obj, _TYPE_AT, cgutils.voidptr_t)
    module = builder.module
    try:
        array_kind = module.get_global(ARRAY_TYPE)
    except KeyError:
        array_kind = ir.GlobalVariable(module, ir.IntType(8), ARRAY_TYPE)
    function_type = ir.FunctionType(ir.IntType(32), [cgutils.voidptr_t, cgutils.voidptr_t])
    is_subtype = cgutils.get_or_insert_function(module, function_type, "PyType_IsSubtype")
    return cgutils.is_not_null(builder, builder.call(is_subtype, [kind, array_kind]))


def _is_of_type(builder: Any, obj: Any, array_type: Any) -> Any:
    """Whether an array's dimensions, flags and dtype are those of a type."""
    number_type = ir.IntType(32)
    wanted = _CONTIGUOUS | _ALIGNED | (_WRITEABLE if array_type.mutable else 0)
    flags = builder.and_(_load(builder, obj, _FLAGS_AT, number_type), number_type(wanted))
    ndim = _load(builder, obj, _NDIM_AT, number_type)
    dtype = _load(builder, obj, _DTYPE_AT, cgutils.voidptr_t)
    number = _load(builder, dtype, _NUMBER_AT, number_type)
    order = _load(builder, dtype, _ORDER_AT, ir.IntType(8))
    is_known = cgutils.false_bit
    for each in _dtype_numbers(array_type.dtype):
        is_known = builder.or_(is_known, builder.icmp_signed("==", number, number_type(each)))
    for holds in (
        builder.icmp_signed("==", flags, number_type(wanted)),
        builder.icmp_signed("==", ndim, number_type(array_type.ndim)),
        builder.icmp_signed("!=", order, ir.IntType(8)(ord(_FOREIGN_ORDER))),
    ):
        is_known = builder.and_(is_known, holds)
    return is_known


_FOREIGN_ORDER = np.dtype("i4").newbyteorder("S").byteorder


def _dtype_numbers(dtype: Any) -> list[int]:
    """Numbers of NumPy's types that are this one: C has several names for some."""
    wanted = np.dtype("bool" if dtype == types.boolean else dtype.name)
    found = {np.dtype(letter).num for letter in np.typecodes["All"] if np.dtype(letter) == wanted}
    return sorted({wanted.num, *found})


def _load(builder: Any, base: Any, offset: int, what: Any) -> Any:
    place = cgutils.pointer_add(builder, base, offset, return_type=what.as_pointer())
    return builder.load(place)


# --- helpers ------------------------------------------------------------------------------------


class _DeviceLibrary(JITCodeLibrary):
    """LLVM code of a helper that waits to be linked into kernels.

    It is neither optimised nor made machine code by itself: both happen in each kernel that links
    it, and doing it here too took half of all compile time.
    """

    is_polished = False

    def _optimize_final_module(self) -> None:
        if self.is_polished:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _DeviceLowering(NativeLowering):
    """Numba's lowering, into a `_DeviceLibrary`."""

    _name = "device_lowering"
    is_polished = False

    def run_pass(self, state: Any) -> bool:
        """Lower one helper and make it known to its callers."""
        state.library = _DeviceLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.is_polished = self.is_polished
        state.library.enable_object_caching()
        state.flags.no_compile = True
        super().run_pass(state)
        state.library.finalize()
        # Numba finds a compiled function by its entry point, a builtin of C. There is none, so this
        # is one of its own that does nothing but differ from all others.
        entry_point = object().__format__
        lowered = state["cr"]
        state.targetctx.insert_user_function(entry_point, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry_point)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PolishedDeviceLowering(_DeviceLowering):
    _name = "polished_device_lowering"
    is_polished = True


class _DeviceCompiler(CompilerBase):
    """Numba's pipeline with the lowering of helpers."""

    lowering: type[_DeviceLowering] = _DeviceLowering

    def define_pipelines(self) -> list[Any]:
        """The one pipeline."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (self.lowering if made is NativeLowering else made, text)
            for made, text in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]


class _PolishedDeviceCompiler(_DeviceCompiler):
    lowering = _PolishedDeviceLowering
