"""Who may write a directory: one process, and only the process that opened it.

The lock is the kernel's (flock), not the file's existence, so a killed process holds nothing. The
file says who holds it, for the message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import weakref

from tsengine.errors import Closed, Locked
from tsengine.storage import filenames
from tsengine.storage.filesystem import FileSystem, storage_error


def check_process(pid: int) -> None:
    """Raise Closed if this process is not ``pid`` but was forked from it."""
    if os.getpid() != pid:
        raise Closed(f"process {pid} opened the database; a process forked from it can't use it")


class DirectoryLock:
    """Makes this object the one writer of a directory until `release`.

    Two objects exclude each other also inside one process. Any thread may call.

    Raises
    ------
    Locked
        Somebody else holds it; the message names process and host.
    StorageError
        The lock file can't be made.

    """

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self.pid = os.getpid()
        self.path = filenames.lock_path(directory)
        try:
            fs.mkdir(directory)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(error, f"opening {self.path}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(self._fd)
            os.close(self._fd)
            self._fd = -1
            if isinstance(error, BlockingIOError):
                raise Locked(f"{directory} is opened for writing by {holder}") from None
            raise storage_error(error, f"locking {self.path}") from error
        with contextlib.suppress(OSError):  # A full disk is no reason to stay out.
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {self.pid} on {socket.gethostname()}\n".encode(), 0)
        _held.add(self)

    def check(self) -> None:
        """Raise Closed after `release` and in a forked child."""
        check_process(self.pid)
        if self._fd < 0:
            raise Closed("the database is closed")

    def release(self) -> None:
        """Let others in. Releasing twice is fine; in a forked child it does nothing to the parent.

        The file stays: removing it would let two processes lock two files of one name.
        """
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # Closing, not LOCK_UN: a lock is shared with forked children, and only the last
            # descriptor to close gives it back. `_forget_in_child` closes theirs.
            os.close(fd)
        _held.discard(self)


def _holder(fd: int) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return os.pread(fd, 256, 0).decode().strip() or "another process"
    return "another process"


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    """Close inherited locks, so that a child that outlives its parent does not keep them."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
