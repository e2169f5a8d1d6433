"""How kernels are declared, compiled and cached.

`kernel(signature)` is the only decorator a kernel wears, `device` the only one its helpers wear.
A kernel compiles on its first call (or in `warmup`), not on import, so that importing a
module costs nothing and a process loads only the kernels it uses.

Compiled code is cached next to the package, else in the user's cache folder, else in a temporary
folder. The cache key holds a hash of the kernel's module and of all modules of this package that it
imports, because numba on its own looks only at the kernel's own file and would go on running old
code after a helper elsewhere was edited.
The host program's numba settings are neither read for the place of the cache nor changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pkgutil
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import NativeLowering

# Types for signatures. *_IN accept read-only arrays (mmap, frombuffer) and writable ones.
i64 = types.int64
i32 = types.int32
u64 = types.uint64
u32 = types.uint32
u8 = types.uint8
f64 = types.float64
boolean = types.boolean


def _array(dtype: Any, readonly: bool) -> Any:
    return types.Array(dtype, 1, "C", readonly=readonly)


U8_IN, U8_OUT = _array(u8, True), _array(u8, False)
U32_IN, U32_OUT = _array(u32, True), _array(u32, False)
I32_IN, I32_OUT = _array(i32, True), _array(i32, False)
U64_IN, U64_OUT = _array(u64, True), _array(u64, False)
I64_IN, I64_OUT = _array(i64, True), _array(i64, False)
F64_IN, F64_OUT = _array(f64, True), _array(f64, False)
BOOL_IN, BOOL_OUT = _array(boolean, True), _array(boolean, False)
F64_2D_IN = types.Array(f64, 2, "C", readonly=True)
F64_2D_OUT = types.Array(f64, 2, "C", readonly=False)
I64_2D_OUT = types.Array(i64, 2, "C", readonly=False)
BOOL_2D_IN = types.Array(boolean, 2, "C", readonly=True)
BOOL_2D_OUT = types.Array(boolean, 2, "C", readonly=False)

# Status codes. A kernel returns a count (>= 0) or one of these; the layer above makes errors of it.
OK = 0
ERR_TRUNCATED = -1
ERR_CORRUPT = -2
ERR_CAPACITY = -3

_PACKAGE = Path(__file__).parent
GENERIC_MARK = "cpu-generic"


def _environment_hash() -> str:
    """What all machine code depends on: this module, the compiler's version and its settings."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(Path(__file__).read_bytes())
    digest.update(f"{numba.__version__} {np.__version__} {int(bool(config.BOUNDSCHECK))}".encode())
    return digest.hexdigest()


ENVIRONMENT_HASH = _environment_hash()


# Parsing the modules would take ten times as long, at every start.
_IMPORT_OF_MODULES = re.compile(r"^from tsengine\.kernels import (?:\(([^)]*)\)|(.*))$", re.M)
_IMPORT_FROM_MODULE = re.compile(r"^from tsengine\.kernels\.(\w+) import", re.M)


@cache
def _source(path: Path) -> bytes:
    """A module's source as it was when this was asked first, which is when it is imported.

    A file that was edited or upgraded since is not what this process compiles: its code, stored
    under the new file's hash, would be run by every later process.
    """
    return path.read_bytes()


def _note_source(py_func: Callable[..., Any]) -> None:
    path = Path(py_func.__code__.co_filename)
    if path.parent == _PACKAGE:
        _source(path)


def _imported_modules(name: str) -> set[str]:
    """Modules of this package that a module of it imports, at its top level."""
    text = _source(_PACKAGE / f"{name}.py").decode()
    found = set(_IMPORT_FROM_MODULE.findall(text))
    for in_brackets, in_line in _IMPORT_OF_MODULES.findall(text):
        for item in (in_brackets or in_line).split(","):
            if item.strip():
                found.add(item.split()[0])
    return found


@cache
def sources_hash(name: str) -> str:
    """Hash of a kernel module and of what it imports from this package, directly or not."""
    seen: set[str] = set()
    todo = {name}
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= _imported_modules(module) - seen
    digest = hashlib.blake2b(digest_size=12)
    for module in sorted(seen):
        digest.update(module.encode())
        digest.update(_source(_PACKAGE / f"{module}.py"))
    return digest.hexdigest()


def _writable(path: Path) -> bool:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return True
    except OSError:
        return False


def _choose_cache_dir() -> Path:
    package_cache = _PACKAGE / "__pycache__" / "machine-code"
    # An image's code is complete: it serves also users who can't write to the package folder.
    if (package_cache / ENVIRONMENT_HASH / GENERIC_MARK).exists() or _writable(package_cache):
        return package_cache
    user_cache = Path.home() / ".cache" / "tsengine" / "machine-code"
    if _writable(user_cache):
        return user_cache
    folder = Path(tempfile.gettempdir()) / f"tsengine-machine-code-{os.getuid()}"
    warnings.warn(
        f"kernels are compiled into {folder}: neither the package folder nor {user_cache} "
        "can be written",
        stacklevel=2,
    )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


_cache_root: Path | None = None


def cache_dir() -> Path:
    """Folder of this environment's machine code; made when it is asked for first."""
    global _cache_root
    if _cache_root is None:
        _cache_root = _choose_cache_dir() / ENVIRONMENT_HASH
        _cache_root.mkdir(exist_ok=True)
    return _cache_root


def module_cache_dir(name: str) -> Path:
    """Folder of the machine code of a kernel module as its sources are now; it may not exist."""
    return cache_dir() / f"{name}-{sources_hash(name)}"


def _cpu_name() -> str:
    return "generic" if (cache_dir() / GENERIC_MARK).exists() else "host"


class _Locator(_CacheLocator):
    """Puts the kernels of one version of a module into one folder."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._name = Path(py_file).stem

    def get_cache_path(self) -> str:
        return str(module_cache_dir(self._name))

    def get_source_stamp(self) -> str:
        return sources_hash(self._name)

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012


class _KernelCache(FunctionCache):
    _impl_class = _CacheImpl

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Code made by `warmup --cpu generic` runs on every CPU of the architecture, so its key
        # must not name the CPU that made it.
        if _cpu_name() == "generic":
            return (sig, "generic")
        return super()._index_key(sig, codegen)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store machine code, unless it would pass for code that runs on any CPU."""
        if _cpu_name() == "generic" and config.CPU_NAME != "generic":
            return  # this process makes code for its own CPU; it must not pass for generic code
        super().save_overload(sig, data)


class Kernel:
    """A compiled-on-first-call function. Thread-safe; releases the GIL while it runs."""

    __slots__ = ("_call", "_dispatcher", "_lock", "py_func", "signature")

    def __init__(self, py_func: Callable[..., Any], signature: Any) -> None:
        self.py_func = py_func
        self.signature = signature
        self._lock = threading.Lock()
        self._dispatcher: CPUDispatcher | None = None
        self._call: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """``module.function``."""
        return f"{self.py_func.__module__.rsplit('.', 1)[-1]}.{self.py_func.__name__}"

    def compile(self) -> bool:
        """Load the machine code, or make it. Returns True if it came from the cache."""
        with self._lock:
            if self._call is not None:
                return True
            dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(
                self.py_func
            )
            dispatcher._cache = _KernelCache(self.py_func)
            dispatcher.compile(self.signature)
            dispatcher.disable_compile()
            hit = bool(dispatcher.stats.cache_hits)
            self._dispatcher = dispatcher
            self._call = dispatcher
            return hit

    def __call__(self, *args: Any) -> Any:
        """Run the kernel; the first call compiles it."""
        call = self._call
        if call is None:
            self.compile()
            call = self._call
            assert call is not None, "compile() sets the entry point"
        return call(*args)


_kernels: list[Kernel] = []


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its one explicit signature: ``@kernel(i64(F64_IN, F64_OUT))``."""

    def declare(py_func: Callable[..., Any]) -> Kernel:
        _note_source(py_func)
        made = Kernel(py_func, signature)
        _kernels.append(made)
        return made

    return declare


def device(py_func: Callable[..., Any]) -> Any:
    """Declare a helper for kernels: of the same file, or lent by another module.

    Lenders are `bits`, `decimals`, `packing`, `protowire`, `histogram_buckets` and
    `histogram_adding`; borrowers import from no other, so that a change recompiles few modules.
    A helper can't be called from Python; its undecorated function is ``py_func``.
    """
    return _declare_device(py_func, _DeviceCompiler)


def polished_device(py_func: Callable[..., Any]) -> Any:
    """As `device`, optimised before it is linked: for helpers of chains that a bench finds slower.

    It takes compile time, so it needs a bench.
    """
    return _declare_device(py_func, _PolishedDeviceCompiler)


def _declare_device(py_func: Callable[..., Any], pipeline: type[CompilerBase]) -> Any:
    _note_source(py_func)
    return numba.njit(
        nogil=True, error_model="numpy", inline="never",
        no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=pipeline,
    )(py_func)  # fmt: skip


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


def import_all_kernels() -> list[Kernel]:
    """Import every module of this package and return all kernels in a fixed order."""
    for module in pkgutil.iter_modules([str(_PACKAGE)]):
        importlib.import_module(f"tsengine.kernels.{module.name}")
    return sorted(_kernels, key=lambda made: made.name)


def missing_kernels() -> Iterator[Kernel]:
    """Kernels whose machine code is not in the cache (a guess by file name, no compilation)."""
    for made in import_all_kernels():
        if not any(_code_files(made)):
            yield made


def _code_files(made: Kernel) -> Iterator[Path]:
    module, function = made.name.split(".")
    return module_cache_dir(module).glob(f"{module}.{function}-*.nbi")


_COMPLETE = "complete-"


def _completeness_mark() -> Path:
    """A file that lists the machine code of all kernels as their sources are now."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(_PACKAGE.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(_source(path))
    return cache_dir() / f"{_COMPLETE}{digest.hexdigest()}"


def is_complete() -> bool:
    """Whether `mark_complete` was called for these sources and no file has gone since.

    Answers in a few milliseconds, without importing a kernel.
    """
    try:
        files = _completeness_mark().read_text().splitlines()
    except OSError:
        return False
    return all((cache_dir() / file).exists() for file in files)


def mark_complete() -> None:
    """Note that no kernel is missing, for `is_complete` at the next start."""
    mark = _completeness_mark()
    files = [file for made in import_all_kernels() for file in _code_files(made)]
    # A folder that can't be written is an image's: its code was marked when it was made.
    with contextlib.suppress(OSError):
        for old in cache_dir().glob(f"{_COMPLETE}*"):
            old.unlink()
        mark.write_text("".join(f"{file.relative_to(cache_dir())}\n" for file in files))
