"""A file system that fails on order, dies in the middle of a call and forgets what was not synced.

    fs = FaultyFileSystem()
    fs.fail("datasync", nth=3)                      # the third datasync from now raises EIO
    fs.fail("write", error=errno.ENOSPC, torn=10, times=None)   # each write stops after 10 bytes
    fs.fail("rename", crash=True)                   # and from then on every call raises Crash
    fs.lose_unsynced(random.Random(1))              # what a power cut may leave on the disk

Kinds are the names of the FileSystem's methods, and `write`, `datasync`, `pread` of its files.
`calls` counts them. A crash in `write`, `write_file` happens after ``torn`` bytes, in the others
before (``after=False``) or after the real call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tsengine.storage.filesystem import AppendFile, LocalFileSystem, ReadFile


class Crash(OSError):
    """The machine is gone: nothing reaches the disk any more."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the machine crashed")


@dataclass
class Fault:
    kind: str
    countdown: int
    error: int
    times: int | None
    torn: int
    crash: bool
    after: bool
    path_contains: str


class FaultyFileSystem:
    """`LocalFileSystem` with faults. Thread-safe."""

    def __init__(self) -> None:
        self._inner = LocalFileSystem()
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self.is_crashed = False
        self.calls: Counter[str] = Counter()
        # For lose_unsynced: bytes of each file that are durable, and how to take back what was
        # done to names since the folder was synced.
        self._synced_size: dict[str, int] = {}
        self._undo: dict[str, list[Callable[[], None]]] = {}
        self._shadow: str | None = None
        self._n_shadows = 0

    # --- orders ---------------------------------------------------------------------------------

    def fail(
        self,
        kind: str,
        *,
        nth: int = 1,
        error: int = errno.EIO,
        times: int | None = 1,
        torn: int = 0,
        crash: bool = False,
        after: bool = False,
        path_contains: str = "",
    ) -> None:
        """Let the ``nth`` call of a kind from now on fail, ``times`` in all (None: for ever)."""
        self._faults.append(Fault(kind, nth, error, times, torn, crash, after, path_contains))

    def heal(self) -> None:
        """Forget all faults that were ordered."""
        self._faults.clear()

    def revive(self) -> None:
        """Only the process had died: the next one finds everything that was written."""
        self.is_crashed = False
        self.heal()

    def lose_unsynced(self, rng: random.Random) -> None:
        """Bring the disk to a state that a power cut may leave; the file system works again.

        Of data written after a file's last sync, a random part is there, cut or followed by zeros.
        Of what was done to names after the folder's last sync, a random number of first steps is.
        """
        with self._lock:
            self.is_crashed = False
            self.heal()
            for path, synced in list(self._synced_size.items()):
                if os.path.exists(path):
                    _lose_data(path, synced, rng)
            # A folder whose removal is taken back must be there before its files can come back.
            for _, steps in sorted(self._undo.items(), key=lambda item: item[0].count("/")):
                n_kept = rng.randint(0, len(steps))
                for undo in reversed(steps[n_kept:]):
                    undo()
            self._synced_size.clear()
            self._undo.clear()

    # --- FileSystem -----------------------------------------------------------------------------

    def open_append(self, path: str) -> AppendFile:
        def act() -> AppendFile:
            existed = os.path.exists(path)
            inner = self._inner.open_append(path)
            if not existed:
                self._synced_size[path] = 0
                self._done_to_names(path, lambda: os.path.exists(path) and os.unlink(path))
            return _FaultyAppendFile(self, inner, path)

        return self._call("open_append", path, act)

    def open_read(self, path: str) -> ReadFile:
        return self._call(
            "open_read", path, lambda: _FaultyReadFile(self, self._inner.open_read(path), path)
        )

    def map_file(self, path: str) -> memoryview:
        return self._call("map_file", path, lambda: self._inner.map_file(path))

    def read_file(self, path: str) -> bytes:
        return self._call("read_file", path, lambda: self._inner.read_file(path))

    def write_file(self, path: str, data: bytes) -> None:
        def act(data: bytes = data) -> None:
            if not os.path.exists(path):
                self._done_to_names(path, lambda: os.path.exists(path) and os.unlink(path))
            self._inner.write_file(path, data)
            self._synced_size[path] = len(data)

        self._call("write_file", path, act, torn=lambda size: act(data[:size]))

    def allocate(self, path: str, size: int) -> None:
        def act() -> None:
            if not os.path.exists(path):
                self._done_to_names(path, lambda: os.path.exists(path) and os.unlink(path))
            self._inner.allocate(path, size)
            self._synced_size.pop(path, None)

        self._call("allocate", path, act)

    def rename(self, source: str, target: str) -> None:
        def act() -> None:
            replaced = self._keep(target) if os.path.isfile(target) else None
            self._inner.rename(source, target)
            if source in self._synced_size:
                self._synced_size[target] = self._synced_size.pop(source)

            def undo() -> None:
                if not os.path.lexists(target):
                    return  # its folder was taken back before it
                os.replace(target, source)
                if replaced is not None:
                    os.link(replaced, target)

            self._done_to_names(target, undo)

        self._call("rename", target, act)

    def link(self, source: str, target: str) -> None:
        def act() -> None:
            self._inner.link(source, target)
            # Its folder may have been taken back before it.
            self._done_to_names(target, lambda: os.path.lexists(target) and os.unlink(target))

        self._call("link", target, act)

    def unlink(self, path: str) -> None:
        def act() -> None:
            kept = self._keep(path) if os.path.isfile(path) else None
            self._inner.unlink(path)
            synced = self._synced_size.pop(path, None)

            def undo() -> None:
                assert kept is not None, "only files are unlinked"
                if not os.path.isdir(os.path.dirname(path)):
                    return  # the folder's removal reached the disk
                if synced is not None:
                    os.truncate(kept, min(synced, os.path.getsize(kept)))
                os.link(kept, path)

            self._done_to_names(path, undo)

        self._call("unlink", path, act)

    def rmdir(self, path: str) -> None:
        def act() -> None:
            self._inner.rmdir(path)
            # The removal of the folder it was in may have reached the disk.
            parent = os.path.dirname(path)
            self._done_to_names(path, lambda: os.path.isdir(parent) and os.mkdir(path))

        self._call("rmdir", path, act)

    def mkdir(self, path: str) -> None:
        def act() -> None:
            existed = os.path.isdir(path)
            self._inner.mkdir(path)
            if not existed:
                self._done_to_names(path, lambda: shutil.rmtree(path, ignore_errors=True))

        self._call("mkdir", path, act)

    def listdir(self, path: str) -> list[str]:
        return self._call("listdir", path, lambda: self._inner.listdir(path))

    def sync_dir(self, path: str) -> None:
        def act() -> None:
            self._inner.sync_dir(path)
            self._undo.pop(os.path.abspath(path), None)

        self._call("sync_dir", path, act)

    def exists(self, path: str) -> bool:
        return self._call("exists", path, lambda: self._inner.exists(path))

    def size(self, path: str) -> int:
        return self._call("size", path, lambda: self._inner.size(path))

    def free_bytes(self, path: str) -> int:
        return self._call("free_bytes", path, lambda: self._inner.free_bytes(path))

    # --- inside ---------------------------------------------------------------------------------

    def _call(self, kind, path, act, torn=None):
        with self._lock:
            if self.is_crashed:
                raise Crash
            self.calls[kind] += 1
            fault = self._due(kind, path)
            if fault is None:
                return act()
            if torn is not None and fault.torn:
                torn(fault.torn)
            elif fault.after:
                with contextlib.suppress(OSError):  # it might have failed anyway
                    act()
            if fault.crash:
                self.is_crashed = True
                raise Crash
            raise OSError(fault.error, os.strerror(fault.error), path)

    def _due(self, kind: str, path: str) -> Fault | None:
        due = None
        for fault in list(self._faults):
            if fault.kind != kind or fault.path_contains not in path:
                continue
            fault.countdown -= 1
            if fault.countdown <= 0 and due is None:
                due = fault
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
        return due

    def _done_to_names(self, path: str, undo: Callable[[], object]) -> None:
        self._undo.setdefault(os.path.dirname(os.path.abspath(path)), []).append(undo)

    def _keep(self, path: str) -> str:
        if self._shadow is None:
            # Beside the data, since a hard link can't cross devices.
            parent = os.path.dirname(os.path.dirname(os.path.abspath(path)))
            self._shadow = tempfile.mkdtemp(dir=parent, prefix=".shadow-")
            weakref.finalize(self, shutil.rmtree, self._shadow, ignore_errors=True)
        self._n_shadows += 1
        kept = os.path.join(self._shadow, str(self._n_shadows))
        os.link(path, kept)
        return kept


class _FaultyAppendFile:
    def __init__(self, fs: FaultyFileSystem, inner: AppendFile, path: str) -> None:
        self._fs, self._inner, self._path = fs, inner, path

    @property
    def size(self) -> int:
        return self._inner.size

    def write(self, data: bytes) -> None:
        self._fs._call(
            "write",
            self._path,
            lambda: self._inner.write(data),
            torn=lambda size: self._inner.write(data[:size]),
        )

    def datasync(self) -> None:
        def act() -> None:
            self._inner.datasync()
            if self._path in self._fs._synced_size:
                self._fs._synced_size[self._path] = self._inner.size

        self._fs._call("datasync", self._path, act)

    def close(self) -> None:
        self._inner.close()


class _FaultyReadFile:
    def __init__(self, fs: FaultyFileSystem, inner: ReadFile, path: str) -> None:
        self._fs, self._inner, self._path = fs, inner, path
        self.size = inner.size
        self.fileno = None

    def pread(self, offset: int, size: int) -> bytes:
        return self._fs._call("pread", self._path, lambda: self._inner.pread(offset, size))

    def close(self) -> None:
        self._inner.close()


def _lose_data(path: str, synced: int, rng: random.Random) -> None:
    size = os.path.getsize(path)
    if size <= synced:
        return
    kept = rng.randint(synced, size)
    with open(path, "r+b") as file:
        file.truncate(kept)
        if rng.random() < 0.5:
            # The length reached the disk before the data did.
            file.truncate(rng.randint(kept, size))
