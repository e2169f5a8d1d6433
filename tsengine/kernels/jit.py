"""How kernels are declared, found in the cache and called.

`kernel(signature)` is the only decorator a kernel wears, `device` the only one its helpers wear.
A kernel is made ready on its first call (or in `warmup`), not on import, so that importing a
module costs nothing and a process loads only the kernels it uses.

Nothing here imports numba: `loading` runs machine code from the cache without it, in a fraction of
the time and memory, and only what is missing there is made by `making`, numba's side of this
module (docs/decisions/0019-kernels-without-the-compiler.md).

Machine code is cached next to the package, else in the user's cache folder, else in a temporary
folder. The cache key holds a hash of the kernel's module and of all modules of this package that it
imports, so that no old code runs after a helper elsewhere was edited.
The host program's numba settings are neither read for the place of the cache nor changed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import stat
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class Scalar(NamedTuple):
    """A number, by numba's name; calling it with types of arguments gives a signature."""

    name: str

    def __call__(self, *arguments: Any) -> Signature:
        """The signature of a kernel that returns this."""
        return Signature(self, arguments)


class Array(NamedTuple):
    """A C-contiguous array; a read-only one accepts writable arrays too."""

    dtype: Scalar
    ndim: int
    is_readonly: bool


class Record(NamedTuple):
    """A named tuple of arrays: the class, and a type for each field."""

    made_of: type
    fields: tuple[Array, ...]


class Signature(NamedTuple):
    """What a kernel returns and takes."""

    returns: Scalar
    arguments: tuple[Any, ...]


# Types for signatures. *_IN accept read-only arrays (mmap, frombuffer) and writable ones.
i64 = Scalar("int64")
i32 = Scalar("int32")
u64 = Scalar("uint64")
u32 = Scalar("uint32")
u16 = Scalar("uint16")
u8 = Scalar("uint8")
f64 = Scalar("float64")
boolean = Scalar("boolean")

U8_IN, U8_OUT = Array(u8, 1, True), Array(u8, 1, False)
U16_IN = Array(u16, 1, True)
U32_IN, U32_OUT = Array(u32, 1, True), Array(u32, 1, False)
I32_IN, I32_OUT = Array(i32, 1, True), Array(i32, 1, False)
U64_IN, U64_OUT = Array(u64, 1, True), Array(u64, 1, False)
I64_IN, I64_OUT = Array(i64, 1, True), Array(i64, 1, False)
F64_IN, F64_OUT = Array(f64, 1, True), Array(f64, 1, False)
BOOL_IN, BOOL_OUT = Array(boolean, 1, True), Array(boolean, 1, False)
F64_2D_IN, F64_2D_OUT = Array(f64, 2, True), Array(f64, 2, False)
I64_2D_OUT = Array(i64, 2, False)
BOOL_2D_IN, BOOL_2D_OUT = Array(boolean, 2, True), Array(boolean, 2, False)

# Status codes. A kernel returns a count (>= 0) or one of these; the layer above makes errors of it.
OK = 0
ERR_TRUNCATED = -1
ERR_CORRUPT = -2
ERR_CAPACITY = -3

_PACKAGE = Path(__file__).parent
GENERIC_MARK = "cpu-generic"
_SUFFIX = ".code"


_MACHINERY = ("intrinsics", "jit", "making")
"""Modules that all machine code depends on; none of them has kernels."""


def package_folder(name: str) -> Path:
    """Folder of an installed package, which is not imported for that."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return Path(spec.submodule_search_locations[0])


def _checks_bounds() -> bool:
    """Whether numba would compile checks of all indices: by its variable, or its loaded settings.

    To import numba only to know this would cost what all this saves.
    """
    loaded = sys.modules.get("numba.core.config")
    if loaded is not None:
        return bool(loaded.BOUNDSCHECK)
    return os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")


def _environment_hash() -> str:
    """What all machine code depends on: the machinery, the compiler's version and settings."""
    digest = hashlib.blake2b(digest_size=12)
    for name in _MACHINERY:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    for package in ("numba", "llvmlite"):
        digest.update((package_folder(package) / "_version.py").read_bytes())
    digest.update(f"{np.__version__} {sys.version} {int(_checks_bounds())}".encode())
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
    """Hash of a kernel module and of what it imports from this package, directly or not.

    Without this module, which is in `ENVIRONMENT_HASH`.
    """
    seen: set[str] = set()
    todo = {name}
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= _imported_modules(module) - seen - {"jit"}
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
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{folder} is not this user's alone: whoever can write there could have any code run"
        )
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


def is_generic() -> bool:
    """Whether the folder holds code for any CPU of the architecture: `warmup --cpu generic`."""
    return (cache_dir() / GENERIC_MARK).exists()


def _cpu_key() -> str:
    """For which CPU this process takes code: others may share the folder."""
    key: str = "generic" if is_generic() else _machinery("loading").cpu_key()
    return key


class MachineCode(NamedTuple):
    """A compiled kernel: an object file, and the symbols in it that matter.

    Python calls ``wrapper``; ``environments`` are pointers that must be set before.
    """

    wrapper: str
    environments: tuple[str, ...]
    object_file: bytes


def _read_code(path: Path) -> MachineCode | None:
    """What `_write_code` wrote; None if it is not there or is damaged."""
    try:
        checksum, _, rest = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != _checksum(rest):
        return None
    # A symbol that is not there would be a jump to nowhere, so names are under the checksum too.
    names, _, object_file = rest.partition(b"\n")
    wrapper, environments = json.loads(names)
    return MachineCode(wrapper, tuple(environments), object_file)


def _write_code(path: Path, code: MachineCode) -> None:
    names = json.dumps([code.wrapper, code.environments]).encode()
    rest = names + b"\n" + code.object_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(_checksum(rest) + b"\n" + rest)
            file.flush()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _checksum(data: bytes) -> bytes:
    return b"%08x" % zlib.crc32(data)


def _machinery(name: str) -> ModuleType:
    """A module that is loaded only where it is needed."""
    return importlib.import_module(f"tsengine.kernels.{name}")


class Kernel:
    """A compiled-on-first-call function. Thread-safe; releases the GIL while it runs."""

    __slots__ = ("_call", "_lock", "py_func", "signature")

    def __init__(self, py_func: Callable[..., Any], signature: Signature) -> None:
        self.py_func = py_func
        self.signature = signature
        self._lock = threading.Lock()
        self._call: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """``module.function``."""
        return f"{self._module}.{self.py_func.__name__}"

    @property
    def code_path(self) -> Path:
        """Where its machine code for this CPU is cached; it may not be there."""
        return module_cache_dir(self._module) / f"{self.name}-{_cpu_key()}{_SUFFIX}"

    @property
    def _module(self) -> str:
        return self.py_func.__module__.rsplit(".", 1)[-1]

    def compile(self) -> bool:
        """Load the machine code, or make it. Returns True if it came from the cache.

        Raises OSError if it could not be stored; it can be called then all the same.
        """
        with self._lock:
            if self._call is not None:
                return True
            loading = _machinery("loading")
            path = self.code_path
            code = _read_code(path)
            hit = code is not None
            if code is None:
                code = _machinery("making").machine_code(self.py_func, self.signature)
            self._call = loading.entry_point(self.py_func, code)
            # Code for this process's own CPU must not pass for code that runs on any.
            if not hit and (not is_generic() or _machinery("making").is_for_any_cpu()):
                _write_code(path, code)
            return hit

    def __call__(self, *args: Any) -> Any:
        """Run the kernel; the first call compiles it."""
        call = self._call
        if call is None:
            try:
                self.compile()
            except OSError:
                if self._call is None:
                    raise
            call = self._call
            assert call is not None, "compile() sets the entry point"
        return call(*args)


_kernels: list[Kernel] = []


def kernel(signature: Signature) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel with its one explicit signature: ``@kernel(i64(F64_IN, F64_OUT))``."""

    def declare(py_func: Callable[..., Any]) -> Kernel:
        _note_source(py_func)
        made = Kernel(py_func, signature)
        _kernels.append(made)
        return made

    return declare


class Helper:
    """What kernels call: compiled into them, no function of Python.

    ``py_func`` is the undecorated function.
    """

    def __init__(
        self, py_func: Callable[..., Any], *, is_polished: bool = False, is_inlined: bool = False
    ) -> None:
        self.py_func = py_func
        self.is_polished = is_polished
        self.is_inlined = is_inlined

    def __call__(self, *args: Any) -> Any:
        """Refused: it exists inside of kernels alone."""
        raise TypeError(f"{self.py_func.__name__} is for kernels; call its py_func")

    @functools.cached_property
    def _numba_type_(self) -> Any:
        return _machinery("making").helper_type(self)


class Intrinsic:
    """A function of `intrinsics` that kernels call, by its name there."""

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def _numba_type_(self) -> Any:
        return _machinery("making").intrinsic_type(self.name)


class External:
    """A C function of the process that kernels call."""

    def __init__(self, symbol: str, signature: Signature) -> None:
        self.symbol = symbol
        self.signature = signature

    @functools.cached_property
    def _numba_type_(self) -> Any:
        return _machinery("making").external_type(self.symbol, self.signature)


def device(py_func: Callable[..., Any]) -> Any:
    """Declare a helper for kernels: of the same file, or lent by another module.

    Lenders are `bits`, `decimals`, `packing`, `protowire`, `histogram_buckets` and
    `histogram_adding`; borrowers import from no other, so that a change recompiles few modules.
    A helper can't be called from Python; its undecorated function is ``py_func``.
    """
    _note_source(py_func)
    return Helper(py_func)


def polished_device(py_func: Callable[..., Any]) -> Any:
    """As `device`, optimised before it is linked: for helpers of chains that a bench finds slower.

    It takes compile time, so it needs a bench.
    """
    _note_source(py_func)
    return Helper(py_func, is_polished=True)


def inlined_device(py_func: Callable[..., Any]) -> Any:
    """As `device`, always inlined: for long helpers with many arrays and one or two callers.

    At a call that is not inlined seven words of each array are handed over.
    """
    _note_source(py_func)
    return Helper(py_func, is_inlined=True)


def intrinsic(name: str) -> Any:
    """Lend a function of `intrinsics` to kernels."""
    return Intrinsic(name)


def external(symbol: str, signature: Signature) -> Any:
    """Lend a function of C's library to kernels: its symbol, and what it returns and takes."""
    return External(symbol, signature)


def import_all_kernels() -> list[Kernel]:
    """Import every module of this package and return all kernels in a fixed order."""
    for module in pkgutil.iter_modules([str(_PACKAGE)]):
        # Without kernels, and importing some of them loads the compiler.
        if module.name in (*_MACHINERY, "loading"):
            continue
        importlib.import_module(f"tsengine.kernels.{module.name}")
    return sorted(_kernels, key=lambda made: made.name)


def missing_kernels() -> Iterator[Kernel]:
    """Kernels whose machine code is not in the cache (a guess by file name, no compilation)."""
    for made in import_all_kernels():
        if not made.code_path.exists():
            yield made


_COMPLETE = "complete-"


def _completeness_mark() -> Path:
    """A file that lists all kernels' code for this CPU, as their sources are now."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(_PACKAGE.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(_source(path))
    return cache_dir() / f"{_COMPLETE}{_cpu_key()}-{digest.hexdigest()}"


def is_complete() -> bool:
    """Whether `mark_complete` was called for these sources and no file has gone since.

    Answers without importing a kernel.
    """
    try:
        files = _completeness_mark().read_text().splitlines()
    except OSError:
        return False
    return all((cache_dir() / file).exists() for file in files)


def mark_complete() -> None:
    """Note that no kernel is missing, for `is_complete` at the next start."""
    mark = _completeness_mark()
    files = [made.code_path for made in import_all_kernels()]
    # A folder that can't be written is an image's: its code was marked when it was made.
    with contextlib.suppress(OSError):
        for old in cache_dir().glob(f"{_COMPLETE}{_cpu_key()}-*"):
            old.unlink()
        mark.write_text("".join(f"{file.relative_to(cache_dir())}\n" for file in files))
