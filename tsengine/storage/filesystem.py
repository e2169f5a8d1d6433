"""The seam between storage and the operating system: everything storage does to files.

`LocalFileSystem` is the real one; tests wrap it to fail, tear and crash (tests/faults). Calls raise
OSError as the system does; `storage_error` makes our own error of it at the border. Any thread may
call anything; a handle is used by one thread at a time, except `ReadFile.pread`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from typing import Protocol

from tsengine.errors import Full, StorageError

_ALLOCATE_PIECE = 1 << 20
NO_SPACE, READ_ONLY, IO_ERROR = "no_space", "read_only", "io_error"
DISK_FAILURES = (NO_SPACE, READ_ONLY, IO_ERROR)
"""Why a disk takes no writes."""
_FAILURE_OF_ERRNO = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: NO_SPACE,
    errno.EFBIG: NO_SPACE,
    errno.EROFS: READ_ONLY,
    errno.EIO: IO_ERROR,
}


class AppendFile(Protocol):
    """A file that only grows."""

    size: int
    """Bytes in the file, those of a failed write included as far as they are known."""

    def write(self, data: bytes) -> None:
        """Append all of ``data``; after an OSError any prefix of it may be there."""
        ...

    def datasync(self) -> None:
        """Return when data and size are durable; the name is durable after `sync_dir`."""
        ...

    def close(self) -> None:
        """Close without syncing; closing twice is fine."""
        ...


class ReadFile(Protocol):
    """A file that is read at any place, by any thread."""

    size: int
    """Bytes at the time of opening."""

    @property
    def fileno(self) -> int | None:
        """Descriptor by which it may be read too, until it is closed; None if by `pread` alone."""
        ...

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes at ``offset``; fewer than ``size`` only at the end of the file."""
        ...

    def close(self) -> None:
        """Close; closing twice is fine."""
        ...


class FileSystem(Protocol):
    """Operations on paths. Listings are sorted names without folder."""

    def open_append(self, path: str) -> AppendFile:
        """Open for appending; the file is made if it is not there."""
        ...

    def open_read(self, path: str) -> ReadFile:
        """Open for reading at offsets."""
        ...

    def map_file(self, path: str) -> memoryview:
        """The file's bytes, read-only, mapped; released when the last view is gone."""
        ...

    def read_file(self, path: str) -> bytes:
        """The whole file."""
        ...

    def write_file(self, path: str, data: bytes) -> None:
        """Make or replace a file's content and fsync it; not atomic, the name is not synced."""
        ...

    def allocate(self, path: str, size: int) -> None:
        """Make or replace a file of so many bytes that has its place on the disk; not synced."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Move a file or folder atomically, replacing a file; durable after `sync_dir`."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; durable after `sync_dir`."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a file's name."""
        ...

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        ...

    def mkdir(self, path: str) -> None:
        """Make a folder and its missing parents; fine if it is there."""
        ...

    def listdir(self, path: str) -> list[str]:
        """Names in a folder, sorted."""
        ...

    def sync_dir(self, path: str) -> None:
        """Return when names made, moved or removed in the folder are durable."""
        ...

    def exists(self, path: str) -> bool:
        """Whether something has this path."""
        ...

    def size(self, path: str) -> int:
        """Bytes in a file."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes an unprivileged process can still write on the device of ``path``."""
        ...


def disk_failure(error: OSError) -> str | None:
    """One of `DISK_FAILURES`; None for an error that is not the disk's."""
    return None if error.errno is None else _FAILURE_OF_ERRNO.get(error.errno)


def storage_error(error: OSError, doing: str) -> StorageError:
    """Our error for one of the system: Full for a full or failing disk, else StorageError."""
    text = f"{doing}: {error.strerror or error}"
    if disk_failure(error) is not None:
        return Full(text)
    return StorageError(text)


def remove_tree(fs: FileSystem, path: str) -> None:
    """Remove a file, or a folder with all that is in it."""
    try:
        fs.unlink(path)
        return
    except (IsADirectoryError, PermissionError):
        pass  # Linux says EISDIR for a folder, other systems EPERM.
    for name in fs.listdir(path):
        remove_tree(fs, os.path.join(path, name))
    fs.rmdir(path)


class _LocalAppendFile:
    _fd = -1  # __del__ also runs when open fails.

    def __init__(self, path: str) -> None:
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        self.size = os.fstat(self._fd).st_size

    def write(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        self.size += written
        if written < len(data):
            # A signal or a disk that just became full; going on tells which.
            rest = memoryview(data)[written:]
            while rest:
                written = os.write(self._fd, rest)
                self.size += written
                rest = rest[written:]

    def datasync(self) -> None:
        _datasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


class _LocalReadFile:
    _fd = -1  # __del__ also runs when open fails.

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    @property
    def fileno(self) -> int | None:
        return self._fd

    def pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) == size or not data:
            return data
        # One call reads at most 2 GiB, and may read less for other reasons.
        pieces = [data]
        n_read = len(data)
        while n_read < size:
            data = os.pread(self._fd, size - n_read, offset + n_read)
            if not data:
                break
            pieces.append(data)
            n_read += len(data)
        return b"".join(pieces)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()


class LocalFileSystem:
    """Files of this machine."""

    def open_append(self, path: str) -> AppendFile:
        """See `FileSystem.open_append`."""
        return _LocalAppendFile(path)

    def open_read(self, path: str) -> ReadFile:
        """See `FileSystem.open_read`."""
        return _LocalReadFile(path)

    def map_file(self, path: str) -> memoryview:
        """See `FileSystem.map_file`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size == 0:
                return memoryview(b"")  # An empty file can't be mapped.
            return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        finally:
            os.close(fd)

    def read_file(self, path: str) -> bytes:
        """See `FileSystem.read_file`."""
        with open(path, "rb") as file:
            return file.read()

    def write_file(self, path: str, data: bytes) -> None:
        """See `FileSystem.write_file`."""
        with open(path, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    def allocate(self, path: str, size: int) -> None:
        """See `FileSystem.allocate`."""
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, size)
                return
            piece = memoryview(bytes(min(size, _ALLOCATE_PIECE)))
            while size > 0:
                size -= os.write(fd, piece[:size])
        finally:
            os.close(fd)

    def rename(self, source: str, target: str) -> None:
        """See `FileSystem.rename`."""
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        """See `FileSystem.link`."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        """See `FileSystem.rmdir`."""
        os.rmdir(path)

    def mkdir(self, path: str) -> None:
        """See `FileSystem.mkdir`."""
        os.makedirs(path, exist_ok=True)

    def listdir(self, path: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return sorted(os.listdir(path))

    def sync_dir(self, path: str) -> None:
        """See `FileSystem.sync_dir`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """See `FileSystem.exists`."""
        return os.path.lexists(path)

    def size(self, path: str) -> int:
        """See `FileSystem.size`."""
        return os.stat(path).st_size

    def free_bytes(self, path: str) -> int:
        """See `FileSystem.free_bytes`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def _datasync(fd: int) -> None:
    # Not every system has fdatasync (macOS lacks it in Python); fsync does more and is right.
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)
