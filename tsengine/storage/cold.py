"""Files of old parts that are kept in an object store: stubs, range reads, a bounded local cache.

Beside a part's index, which stays, a *stub* `values.cold` says where the file `values` is, how long
it is and what its SHA-256 is (docs/format/cold.md). `ColdFileSystem` opens a file that has a stub
from the store, by range requests; everything else goes to the file system below. Opening asks the
store for nothing, so a database starts while the store is away. Reading raises StoreUnavailable:
what can't be read is not known to be damaged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

from tsengine.codecs.records import crc32c
from tsengine.errors import CorruptionError, ObjectMissing, StorageError, StoreUnavailable
from tsengine.storage import filenames
from tsengine.storage.cold_cache import BLOCK_BYTES, BlockCache
from tsengine.storage.filesystem import AppendFile, FileSystem, ReadFile

_LOG = logging.getLogger(__name__)
_VERSION = 1
HEAD_BYTES = 64
"""First bytes of a file that its stub repeats: opening looks at them."""
_REMOVALS_PAUSE_S = 60.0


class RemoteStore(Protocol):
    """What is needed of an object store; calls raise StorageError, and FileNotFoundError."""

    def create(self, key: str, data: bytes) -> bool:
        """Make an object unless there is one of this key; whether it was made."""
        ...

    def upload(self, key: str, path: str) -> None:
        """Make an object of a local file."""
        ...

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Bytes at an offset."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces."""
        ...

    def delete(self, keys: list[str]) -> None:
        """Remove objects; fine if they are gone."""
        ...


OpenStore = Callable[[str, str | None], RemoteStore]
"""Takes the URL and the endpoint's URL (None: the default one)."""


@dataclass(frozen=True, slots=True)
class Stub:
    """Where a file is: in the store of ``url`` and ``endpoint_url`` under ``key``.

    ``sha256`` is hex, ``head`` the first HEAD_BYTES as hex.
    """

    url: str
    endpoint_url: str | None
    key: str
    size: int
    sha256: str
    head: str

    def encode(self) -> bytes:
        """One line of JSON, one with its CRC-32C."""
        body = json.dumps({"version": _VERSION, **asdict(self)}).encode() + b"\n"
        return body + f"crc32c {crc32c(body):08x}\n".encode()


def decode_stub(data: bytes, path: str) -> Stub:
    """A stub from its bytes; raises CorruptionError."""
    body, _, last = data.rpartition(b"crc32c ")
    if last != f"{crc32c(body):08x}\n".encode():
        raise CorruptionError("wrong checksum", path=path)
    try:
        fields = json.loads(body)
        if fields.pop("version") != _VERSION:
            raise ValueError("its version is not known")
        return Stub(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptionError(f"malformed: {error}", path=path) from error


def read_stub(fs: FileSystem, path: str) -> Stub | None:
    """The stub of the file ``path``, None if it has none. Raises CorruptionError, OSError."""
    stub_path = filenames.stub_path(path)
    try:
        return decode_stub(fs.read_file(stub_path), stub_path)
    except FileNotFoundError:
        return None


def logical_sizes(fs: FileSystem, folder: str, paths: Iterable[str]) -> dict[str, int]:
    """Bytes of a part's files by path, those in the store by the paths they would have.

    ``paths`` are all files that are there, relative to ``folder``. Raises CorruptionError, OSError.
    """
    sizes: dict[str, int] = {}
    for path in paths:
        if filenames.is_stub(path):
            own = path.removesuffix(filenames.STUB_SUFFIX)
            stub = read_stub(fs, os.path.join(folder, own))
            if stub is not None:
                sizes[own] = stub.size
        else:
            sizes.setdefault(path, fs.size(os.path.join(folder, path)))
    return sizes


class ColdFile:
    """A `ReadFile` whose bytes come from a store, in blocks through the cache."""

    def __init__(self, stub: Stub, store: Callable[[], RemoteStore], cache: BlockCache) -> None:
        self.size = stub.size
        self._stub = stub
        self._store = store
        self._cache = cache
        self._head = bytes.fromhex(stub.head)
        self.is_closed = False

    @property
    def fileno(self) -> int | None:
        """See `ReadFile.fileno`."""
        return None

    def pread(self, offset: int, size: int) -> bytes:
        """See `ReadFile.pread`.

        Raises
        ------
        ObjectMissing, StoreUnavailable
            The store has no such object, or does not answer as it should.

        """
        end = min(offset + size, self.size)
        if end <= len(self._head):
            return self._head[offset:end]
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        blocks = {n: self._cache.get(self._stub.sha256, n) for n in range(first, last + 1)}
        for start, stop in _runs([n for n, data in blocks.items() if data is None]):
            blocks |= self._fetch(start, stop)
        data = b"".join(data for _, data in sorted(blocks.items()) if data is not None)
        return data[offset - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def close(self) -> None:
        """Nobody reads it any more."""
        self.is_closed = True

    def forget(self, offset: int, size: int) -> None:
        """Drop what the cache has of some bytes: they are asked for once more."""
        for number in range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)):
            self._cache.drop(self._stub.sha256, number)

    def _fetch(self, start: int, stop: int) -> dict[int, bytes | None]:
        """Blocks start..stop, without the last, by one request."""
        begin = start * BLOCK_BYTES
        wanted = min(stop * BLOCK_BYTES, self.size) - begin
        where = f"{self._stub.url}/{self._stub.key}"
        try:
            data = self._store().read_range(self._stub.key, begin, wanted)
        except FileNotFoundError:
            raise ObjectMissing(
                f"{where}: the store has no such object, or no such bucket", path=where
            ) from None
        except StorageError as error:
            raise StoreUnavailable(str(error), path=where) from error
        if len(data) != wanted:
            raise StoreUnavailable(
                f"{where}: {len(data)} bytes instead of {wanted} at byte {begin}", path=where
            )
        found: dict[int, bytes | None] = {}
        for number in range(start, stop):
            at = (number - start) * BLOCK_BYTES
            found[number] = data[at : at + BLOCK_BYTES]
            self._cache.put(self._stub.sha256, number, data[at : at + BLOCK_BYTES])
        return found


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as half-open ranges."""
    start = previous = None
    for number in numbers:
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None and previous is not None:
            yield start, previous + 1
        start = previous = number
    if start is not None and previous is not None:
        yield start, previous + 1


class ColdFileSystem:
    """A file system in which a file that has a stub is read from the stub's store.

    Removing a stub removes the object too, unless a snapshot shares the stub (by a hard link).

    Parameters
    ----------
    open_store
        Called once for each store that is needed.
    endpoint_of
        The endpoint that is configured for a store's URL, None if none is; it goes before the
        one in the stub.

    """

    def __init__(
        self,
        inner: FileSystem,
        cache: BlockCache,
        open_store: OpenStore,
        endpoint_of: Callable[[str], str | None],
    ) -> None:
        self.inner = inner
        self.cache = cache
        self._open_store = open_store
        self._endpoint_of = endpoint_of
        self._stores: dict[tuple[str, str | None], RemoteStore] = {}
        self._opened: weakref.WeakKeyDictionary[ColdFile, str] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._no_removals_before_s = 0.0

    def store(self, url: str, endpoint_url: str | None) -> RemoteStore:
        """The store of a URL; raises StorageError if it can't be opened."""
        where = url, self._endpoint_of(url) or endpoint_url
        with self._lock:
            if where not in self._stores:
                self._stores[where] = self._open_store(*where)
            return self._stores[where]

    def open_read(self, path: str) -> ReadFile:
        """See `FileSystem.open_read`."""
        stub = read_stub(self.inner, path)
        if stub is None:
            return self.inner.open_read(path)
        file = ColdFile(stub, lambda: self.store(stub.url, stub.endpoint_url), self.cache)
        with self._lock:
            self._opened[file] = path
        return file

    def is_read(self, folder: str) -> bool:
        """Whether somebody has a file below a folder open whose bytes are in a store.

        Local files may be removed under their readers, objects may not.
        """
        prefix = os.path.join(folder, "")
        with self._lock:
            return any(
                path.startswith(prefix) and not file.is_closed
                for file, path in self._opened.items()
            )

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        stub = None
        if filenames.is_stub(path):
            with contextlib.suppress(CorruptionError, OSError):
                is_shared = os.stat(path).st_nlink > 1
                stub = None if is_shared else decode_stub(self.inner.read_file(path), path)
        self.inner.unlink(path)
        if stub is not None:
            self._remove_object(stub)

    def _remove_object(self, stub: Stub) -> None:
        """Best effort: what is left is an object that nothing needs."""
        where = f"{stub.url}/{stub.key}"
        if time.monotonic() < self._no_removals_before_s:
            _LOG.warning("%s is no longer needed, but not removed", where)
            return
        try:
            self.store(stub.url, stub.endpoint_url).delete([stub.key])
        except StorageError as error:
            self._no_removals_before_s = time.monotonic() + _REMOVALS_PAUSE_S
            _LOG.warning("%s is no longer needed, but not removed: %s", where, error)

    def open_append(self, path: str) -> AppendFile:
        """See `FileSystem.open_append`."""
        return self.inner.open_append(path)

    def map_file(self, path: str) -> memoryview:
        """See `FileSystem.map_file`."""
        return self.inner.map_file(path)

    def read_file(self, path: str) -> bytes:
        """See `FileSystem.read_file`."""
        return self.inner.read_file(path)

    def write_file(self, path: str, data: bytes) -> None:
        """See `FileSystem.write_file`."""
        self.inner.write_file(path, data)

    def allocate(self, path: str, size: int) -> None:
        """See `FileSystem.allocate`."""
        self.inner.allocate(path, size)

    def rename(self, source: str, target: str) -> None:
        """See `FileSystem.rename`."""
        self.inner.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """See `FileSystem.link`."""
        self.inner.link(source, target)

    def rmdir(self, path: str) -> None:
        """See `FileSystem.rmdir`."""
        self.inner.rmdir(path)

    def mkdir(self, path: str) -> None:
        """See `FileSystem.mkdir`."""
        self.inner.mkdir(path)

    def listdir(self, path: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return self.inner.listdir(path)

    def sync_dir(self, path: str) -> None:
        """See `FileSystem.sync_dir`."""
        self.inner.sync_dir(path)

    def exists(self, path: str) -> bool:
        """See `FileSystem.exists`."""
        return self.inner.exists(path)

    def size(self, path: str) -> int:
        """See `FileSystem.size`."""
        return self.inner.size(path)

    def free_bytes(self, path: str) -> int:
        """See `FileSystem.free_bytes`."""
        return self.inner.free_bytes(path)
