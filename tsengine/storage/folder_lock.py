"""Says that somebody works in a folder which a process that finds it would take for a leftover.

The lock is the kernel's (flock on the folder itself), so it goes with its process, needs no file
and survives renaming. File systems that have none for folders let everybody pass.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator

from tsengine.errors import StorageError
from tsengine.storage.filesystem import FileSystem, remove_tree

_TRIES = 10


class FolderLock:
    """The lock of one folder, free at first."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def take(self, fs: FileSystem) -> None:
        """Make the folder, with its parents, and hold it. Raises StorageError, OSError."""
        for _ in range(_TRIES):
            fs.mkdir(self._path)
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # somebody took it for a leftover just then
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError:
                os.close(fd)
                return
            if _is_folder_of(fd, self._path):
                self._fd = fd
                _held.add(self)
                return
            os.close(fd)
        raise StorageError(f"{self._path} is removed again and again by another process")

    def release(self) -> None:
        """Give it back; fine if it is not held."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
        _held.discard(self)


def is_held(path: str) -> bool:
    """Whether somebody holds the folder; False where nobody can know. Raises FileNotFoundError."""
    with _held_briefly(path) as is_free:
        return is_free is False


def remove_unless_held(fs: FileSystem, path: str, *, if_unknown: bool) -> bool:
    """Remove a folder that nobody holds; whether it was.

    ``if_unknown`` is done where there are no locks. Raises OSError.
    """
    with _held_briefly(path) as is_free:
        goes = if_unknown if is_free is None else is_free
        if goes:
            remove_tree(fs, path)
        return goes


@contextlib.contextmanager
def _held_briefly(path: str) -> Iterator[bool | None]:
    """Hold a folder; False if somebody else does, None where there are no locks."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        yield None
        return
    try:
        is_free: bool | None = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        except OSError:
            is_free = None
        yield is_free
    finally:
        os.close(fd)


def _is_folder_of(fd: int, path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close inherited locks, so that a child that outlives its parent does not keep them."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
