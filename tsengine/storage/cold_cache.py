"""Blocks of files of an object store, kept in local files; the least recently used go first.

Nothing here is data: losing all of it costs requests only. So files are not synced, errors of the
disk are passed over, and several processes may share the folder, each keeping to its own account.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

from tsengine.codecs.records import crc32c

BLOCK_BYTES = 256 * 1024
_CRC_BYTES = 4
_TMP = ".tmp"


class BlockCache:
    """A folder of blocks. Thread-safe.

    Parameters
    ----------
    size_max
        How many bytes may be kept; asked each time. With 0 what is there is not used either.

    """

    def __init__(self, directory: str, size_max: Callable[[], int]) -> None:
        self._directory = directory
        self._size_max = size_max
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] | None = None
        self._n_bytes = 0
        self.n_hits = 0
        self.n_misses = 0

    @property
    def n_bytes(self) -> int:
        """Bytes kept."""
        return self._n_bytes

    def get(self, name: str, block: int) -> bytes | None:
        """A block that was put, None if it is not there any more or damaged."""
        if self._size_max() <= 0:
            return None
        file = f"{name}-{block}"
        data = None
        with contextlib.suppress(OSError), open(os.path.join(self._directory, file), "rb") as found:
            data = found.read()
        with self._lock:
            sizes = self._known()
            if data is not None and _is_whole(data):
                self.n_hits += 1
                if file in sizes:
                    sizes.move_to_end(file)
                return data[:-_CRC_BYTES]
            self.n_misses += 1
            self._n_bytes -= sizes.pop(file, 0)
            return None

    def put(self, name: str, block: int, data: bytes) -> None:
        """Keep a block; others go if it does not fit."""
        size_max = self._size_max()
        size = len(data) + _CRC_BYTES
        if size > size_max:
            return
        file = f"{name}-{block}"
        path = os.path.join(self._directory, file)
        temporary = f"{path}.{os.getpid()}.{threading.get_ident()}{_TMP}"
        try:
            os.makedirs(self._directory, exist_ok=True)
            with open(temporary, "wb") as writing:
                writing.write(data + crc32c(data).to_bytes(_CRC_BYTES, "little"))
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return
        with self._lock:
            sizes = self._known()
            self._n_bytes += size - sizes.pop(file, 0)
            sizes[file] = size
            gone = []
            while self._n_bytes > size_max:
                oldest, freed = sizes.popitem(last=False)
                self._n_bytes -= freed
                gone.append(oldest)
        for oldest in gone:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, oldest))

    def forget(self, name: str) -> None:
        """Drop all blocks of a file."""
        with self._lock:
            sizes = self._known()
            gone = [file for file in sizes if file.rpartition("-")[0] == name]
            for file in gone:
                self._n_bytes -= sizes.pop(file)
        for file in gone:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, file))

    def drop(self, name: str, block: int) -> None:
        """Drop one block."""
        file = f"{name}-{block}"
        with self._lock:
            self._n_bytes -= self._known().pop(file, 0)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, file))

    def _known(self) -> OrderedDict[str, int]:
        """Sizes by file, least recently used first; what a former process left comes first."""
        if self._sizes is None:
            found: list[tuple[float, str, int]] = []
            with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.name.endswith(_TMP):
                            os.unlink(entry.path)
                        else:
                            status = entry.stat()
                            found.append((status.st_atime, entry.name, status.st_size))
            self._sizes = OrderedDict((name, size) for _, name, size in sorted(found))
            self._n_bytes = sum(self._sizes.values())
        return self._sizes


def _is_whole(data: bytes) -> bool:
    return crc32c(data[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "little") == data[-_CRC_BYTES:]
