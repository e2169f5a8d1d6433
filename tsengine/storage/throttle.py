"""Slows down the writes of background work, so that the log's fsyncs find the disk free.

A token bucket at the seam of the file system: who writes waits before the call until its bytes fit
the rate. Reads, renames and syncs pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tsengine.errors import Closed
from tsengine.storage.compaction import Cancel
from tsengine.storage.filesystem import AppendFile, FileSystem, ReadFile

_BURST_S = 0.25
_NAP_S = 0.1
_NAP_S_MIN = 0.001


class RateLimit:
    """A token bucket whose rate may change at any time. Thread-safe.

    Parameters
    ----------
    rate
        Bytes a second; 0 for no limit.
    cancel
        When it is set no more is written: background work is given up.
    now_s, sleep
        A clock that only goes forward, and how to wait; replaced in tests.

    """

    def __init__(
        self,
        rate: Callable[[], float],
        cancel: Cancel,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._cancel = cancel
        self._now_s = now_s
        self._sleep = sleep
        self._lock = threading.Lock()
        self._tokens = 0.0
        self._filled_s = now_s()

    def take(self, size: int) -> None:
        """Wait until ``size`` bytes may be written; raises Closed when it is canceled."""
        with self._lock:
            self._fill()
            self._tokens -= size
        while True:
            if self._cancel.is_set():
                raise Closed("background work was given up, the database closes or pauses it")
            with self._lock:
                rate = self._fill()
                if rate <= 0 or self._tokens >= 0:
                    return
                wait_s = -self._tokens / rate
            self._sleep(max(_NAP_S_MIN, min(wait_s, _NAP_S)))

    def _fill(self) -> float:
        rate = self._rate()
        now = self._now_s()
        if rate <= 0:
            self._tokens = 0.0
        else:
            self._tokens = min(self._tokens + (now - self._filled_s) * rate, rate * _BURST_S)
        self._filled_s = now
        return rate


class ThrottledFileSystem:
    """A file system whose writes wait for a rate limit."""

    def __init__(self, inner: FileSystem, limit: RateLimit) -> None:
        self._inner = inner
        self._limit = limit

    def open_append(self, path: str) -> AppendFile:
        """See `FileSystem.open_append`."""
        return _ThrottledFile(self._inner.open_append(path), self._limit)

    def write_file(self, path: str, data: bytes) -> None:
        """See `FileSystem.write_file`."""
        self._limit.take(len(data))
        self._inner.write_file(path, data)

    def allocate(self, path: str, size: int) -> None:
        """See `FileSystem.allocate`."""
        self._inner.allocate(path, size)

    def open_read(self, path: str) -> ReadFile:
        """See `FileSystem.open_read`."""
        return self._inner.open_read(path)

    def map_file(self, path: str) -> memoryview:
        """See `FileSystem.map_file`."""
        return self._inner.map_file(path)

    def read_file(self, path: str) -> bytes:
        """See `FileSystem.read_file`."""
        return self._inner.read_file(path)

    def rename(self, source: str, target: str) -> None:
        """See `FileSystem.rename`."""
        self._inner.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """See `FileSystem.link`."""
        self._inner.link(source, target)

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self._inner.unlink(path)

    def rmdir(self, path: str) -> None:
        """See `FileSystem.rmdir`."""
        self._inner.rmdir(path)

    def mkdir(self, path: str) -> None:
        """See `FileSystem.mkdir`."""
        self._inner.mkdir(path)

    def listdir(self, path: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return self._inner.listdir(path)

    def sync_dir(self, path: str) -> None:
        """See `FileSystem.sync_dir`."""
        self._inner.sync_dir(path)

    def exists(self, path: str) -> bool:
        """See `FileSystem.exists`."""
        return self._inner.exists(path)

    def size(self, path: str) -> int:
        """See `FileSystem.size`."""
        return self._inner.size(path)

    def free_bytes(self, path: str) -> int:
        """See `FileSystem.free_bytes`."""
        return self._inner.free_bytes(path)


class _ThrottledFile:
    def __init__(self, inner: AppendFile, limit: RateLimit) -> None:
        self._inner = inner
        self._limit = limit

    @property
    def size(self) -> int:
        return self._inner.size

    @size.setter
    def size(self, size: int) -> None:
        self._inner.size = size

    def write(self, data: bytes) -> None:
        self._limit.take(len(data))
        self._inner.write(data)

    def datasync(self) -> None:
        self._inner.datasync()

    def close(self) -> None:
        self._inner.close()
