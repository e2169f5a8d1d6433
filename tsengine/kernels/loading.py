"""Runs machine code that numba made, without numba.

An object file is linked into the process by LLVM, and the wrapper in it that takes Python's objects
apart becomes a function. The wrapper itself looks at the arrays it is given (`making`), so numba's
dispatcher is not needed either. What compiled code calls at run time are a few C functions of
numba's, whose modules are loaded by their files: to import the packages that they are in would load
the whole compiler.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from tsengine.kernels.jit import MachineCode, import_all_kernels, package_folder

ARRAY_TYPE = "tsengine_array_type"
"""Symbol of NumPy's type of arrays."""

_LOCK = threading.RLock()
_DONTNEED = 4
_VECTOR_MATH = {"linux": "libsvml.so", "darwin": "libsvml.dylib"}


@cache
def cpu_key() -> str:
    """A name of this machine's CPU: code for it runs on others only if they have the same."""
    text = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def entry_point(py_func: Callable[..., Any], code: MachineCode) -> Callable[..., Any]:
    """The function that runs a compiled kernel; stays loaded as long as the process runs."""
    with _LOCK:
        dynfunc = _c_module("numba._dynfunc")
        environment = dynfunc.Environment(py_func.__globals__)
        engine = _engine()
        engine.add_object_file(llvm.ObjectFileRef.from_data(code.object_file))
        engine.finalize_object()
        address = engine.get_function_address(code.wrapper)
        assert address, "the object file has the wrapper"
        for name in code.environments:
            place = engine.get_global_value_address(name)
            ctypes.c_void_p.from_address(place).value = id(environment)
    made: Callable[..., Any] = dynfunc.make_function(
        sys.modules[py_func.__module__], py_func.__name__, py_func.__doc__ or "", address,
        environment, (environment,),
    )  # fmt: skip
    return made


def load_kernels() -> None:
    """Make all kernels ready now, so that no caller waits for one: a tenth of a second.

    What the cache lacks is compiled here, one by one: `compiler.warmup` is better at that. Raises
    OSError if some could not be stored; all are ready then all the same.
    """
    failure: OSError | None = None
    for made in import_all_kernels():
        try:
            made.compile()
        except OSError as error:
            failure = failure or error
    _forget_linker()
    if failure is not None:
        raise failure


def _forget_linker() -> None:
    """Let the pages of LLVM's code go, some 30 MiB: with all kernels loaded nobody runs it.

    Should somebody do so after all, the system reads them from the file again. Linux only.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as mappings:
        for mapping in mappings:
            span, access, *rest = mapping.split(maxsplit=5)
            # Not what can be written: that has been linked, and differs from the file.
            if access.startswith("r-x") and rest[-1].rstrip().endswith("libllvmlite.so"):
                start, end = (int(number, 16) for number in span.split("-"))
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)


@cache
def _engine() -> llvm.ExecutionEngine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    add_symbols()
    triple = llvm.get_process_triple()
    module = llvm.parse_assembly("")
    module.triple = triple
    machine = llvm.Target.from_triple(triple).create_target_machine()
    return llvm.create_mcjit_compiler(module, machine)


def add_symbols() -> None:
    """Tell LLVM's linker where the C functions and objects are that kernels refer to."""
    with _LOCK:
        _add_symbols()


@cache
def _add_symbols() -> None:
    llvm.add_symbol(ARRAY_TYPE, id(np.ndarray))
    llvm.add_symbol("_Py_NoneStruct", id(None))
    for kind in vars(builtins).values():
        if isinstance(kind, type) and issubclass(kind, BaseException):
            llvm.add_symbol(f"PyExc_{kind.__name__}", id(kind))
    helpers = _c_module("numba._helperlib").c_helpers
    for name, address in (*helpers.items(), *_c_module("numba._dynfunc").c_helpers.items()):
        llvm.add_symbol(f"numba_{name}", address)
        # Functions of C's mathematics bear their own names.
        if not llvm.address_of_symbol(name):
            llvm.add_symbol(name, address)
    runtime = _c_module("numba.core.runtime._nrt_python")
    runtime.memsys_use_cpython_allocator()
    for name, address in runtime.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
    library = _VECTOR_MATH.get(sys.platform)
    if library is not None:
        # Numba's code calls it where it is installed.
        with contextlib.suppress(RuntimeError):
            llvm.load_library_permanently(library)


@cache
def _c_module(name: str) -> ModuleType:
    """One of numba's modules in C, without the packages it is in."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    package, *folders, stem = name.split(".")
    folder = package_folder(package).joinpath(*folders)
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path.exists():
            loader = importlib.machinery.ExtensionFileLoader(name, str(path))
            spec = importlib.util.spec_from_file_location(name, path, loader=loader)
            assert spec is not None, "a loader was given"
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            # A part of a package that is not imported would confuse who imports it.
            sys.modules.pop(name, None)
            return module
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
