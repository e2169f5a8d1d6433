"""Arrays that are rarely looked at lie in files without a name instead of in memory.

Series that came and went, and indexes of old parts, must be found as quickly as others, but need
not take memory. Their arrays are written to a scratch file whose pages are then put in the place of
the memory, at the same addresses: whoever has such an array sees the same numbers. Pages that
nobody asks for take no memory; one that is asked for costs a page fault while the system has it
cached, else a read. The system takes them back when memory is short, without writing anything.

A scratch file has no name: no other process sees it, and it vanishes with this one. It is synced
before the memory goes, so a disk that takes no writes costs only the memory that stays. One that
can't be read back ends the process, as with memory that was swapped out. Nothing of this outlives
the process, so it does not go through `filesystem`.

Linux only; elsewhere arrays stay where they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tsengine.storage import filenames

IS_POSSIBLE = sys.platform == "linux" and sys.maxsize > 2**32
_MAP_FIXED = 0x10
SPILL_BYTES_MIN = 256 * 1024
"""Less is not worth a file."""
_FREE_BYTES_MIN = 1 << 30
"""So much of the disk is left to data that must be durable."""
_SYNC_BYTES = 4 << 20
"""Written at once, so that the log's syncs need not wait for more."""
_ALIGNMENT = 64
PAGE_BYTES = mmap.PAGESIZE

AnyArray = npt.NDArray[Any]
_Thing = TypeVar("_Thing")


class Memory(mmap.mmap):
    """Zeroed memory of its own pages.

    ``n_given_back`` bytes of it take no memory but for what was looked at.
    """

    n_given_back = 0

    def __new__(cls, size: int) -> Memory:
        """Memory of at least ``size`` bytes, which takes none before it is written.

        Raises MemoryError, as NumPy does.
        """
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            return super().__new__(cls, -1, pages_of(size) * PAGE_BYTES, flags=flags)
        except OSError as error:
            raise MemoryError(f"mapping {size} bytes: {error}") from error

    def forget(self, start: int, size: int) -> None:
        """Take no memory for whole pages: they become zero, or what their file has."""
        self.madvise(mmap.MADV_DONTNEED, start, size)


class Scratch:
    """Where a database puts such files. Any thread.

    Parameters
    ----------
    directory
        A folder on a disk; nothing in it is ever named.

    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._mapped: weakref.WeakSet[Memory] = weakref.WeakSet()

    def has_room(self, size: int) -> bool:
        """Whether the disk has so many bytes to spare."""
        if not IS_POSSIBLE:
            return False
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize >= size + _FREE_BYTES_MIN

    def new_file(self) -> ScratchFile:
        """An empty file; raises OSError."""
        return ScratchFile(self, self._directory)

    @property
    def n_bytes(self) -> int:
        """Bytes of arrays that lie in files."""
        with self._lock:
            return sum(memory.n_given_back for memory in self._mapped)

    def forget_touched(self) -> None:
        """Take no memory for what was looked at; it is there again for who looks once more."""
        with self._lock:
            for memory in self._mapped:
                memory.forget(0, memory.n_given_back)

    def note(self, memory: Memory) -> None:
        """The beginning of ``memory`` lies in a file."""
        with self._lock:
            self._mapped.add(memory)


class ScratchFile:
    """A file without a name."""

    _fd = -1  # __del__ also runs when open fails.

    def __init__(self, scratch: Scratch, directory: str) -> None:
        self._scratch = scratch
        try:
            self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # Not every file system has them.
            self._fd, path = tempfile.mkstemp(prefix=filenames.SCRATCH_PREFIX, dir=directory)
            os.unlink(path)

    def write(self, data: npt.NDArray[np.uint8], offset: int) -> None:
        """Write bytes to a place and sync them; raises OSError."""
        for start in range(0, len(data), _SYNC_BYTES):
            rest = data[start : start + _SYNC_BYTES].data
            at = offset + start
            while rest:
                n_written = os.pwrite(self._fd, rest, at)
                rest, at = rest[n_written:], at + n_written
            os.fdatasync(self._fd)

    def put_under(self, memory: Memory, start: int, end: int) -> None:
        """Let the file's bytes from ``start`` to ``end`` be those of ``memory``, at its pages.

        Both have the same content there; all before lies in the file already. Raises OSError.
        """
        assert start % PAGE_BYTES == 0, "whole pages"
        if end > start:
            # A file system that refuses must do so here: in the place of the memory the system may
            # have removed that before.
            mmap.mmap(self._fd, PAGE_BYTES, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start).close()
            _map_fixed(_address(memory) + start, end - start, self._fd, start)
            memory.n_given_back = end
            self._scratch.note(memory)

    def close(self) -> None:
        """Close; what is mapped stays. Closing twice is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


def pages_of(size: int) -> int:
    """Pages that so many bytes take."""
    return -(-size // PAGE_BYTES)


def bytes_of(memory: Memory) -> npt.NDArray[np.uint8]:
    """All of it as an array, which keeps it."""
    return np.frombuffer(memory, np.uint8)


def memory_of(array: AnyArray) -> Memory | None:
    """The memory an array lies in, if it is such memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, Memory) else None


def spilled(scratch: Scratch, arrays: Sequence[AnyArray]) -> list[AnyArray]:
    """The same arrays, mapped from a scratch file; raises OSError.

    They may be written like others, and such changes be lost.
    """
    places, size = [], 0
    for array in arrays:
        places.append(size)
        size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    memory = Memory(size)
    whole = bytes_of(memory)
    copies = []
    for place, array in zip(places, arrays, strict=True):
        copy = whole[place : place + array.nbytes].view(array.dtype)
        copy[:] = array
        copies.append(copy)
    file = scratch.new_file()
    try:
        file.write(whole, 0)
        file.put_under(memory, 0, len(whole))
    finally:
        file.close()
    return copies


def with_spilled(scratch: Scratch, thing: _Thing) -> _Thing:
    """A dataclass with its arrays spilled; itself if it has few bytes that are not.

    Raises OSError.
    """
    arrays = {field.name: getattr(thing, field.name) for field in fields(thing)}  # type: ignore[arg-type]
    arrays = {
        name: array for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.ndim == 1 and memory_of(array) is None
    }  # fmt: skip
    size = sum(array.nbytes for array in arrays.values())
    if size < SPILL_BYTES_MIN or not scratch.has_room(size):
        return thing
    names = [name for name, array in arrays.items() if len(array)]
    copies = spilled(scratch, [arrays[name] for name in names])
    return replace(thing, **dict(zip(names, copies, strict=True)))  # type: ignore[type-var]


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    return libc


def _map_fixed(address: int, size: int, fd: int, offset: int) -> None:
    """Replace pages by those of a file in one step; readers of them wait meanwhile."""
    found = _libc().mmap(
        address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED, fd, offset
    )
    if found != address:
        raise OSError(ctypes.get_errno(), "mapping a scratch file")


def _address(memory: Memory) -> int:
    return bytes_of(memory).ctypes.data
