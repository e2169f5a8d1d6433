"""Objects as files of a directory.

A content is written to a file in `tmp/`, synced, and gets its name by a link, which fails where the
name is taken; so an object is whole, and made once. File systems without links get a rename.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence

from tsengine.backup.store import StoredObject
from tsengine.errors import StorageError
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.snapshot import NO_LINKS, copy_file

_PIECE_BYTES = 4 << 20
_TMP = "tmp"


class LocalObjects:
    """See `ObjectStore`."""

    n_parallel = 1

    def __init__(self, directory: str, fs: FileSystem) -> None:
        self.url = directory
        self._fs = fs

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        return self._put(key, lambda path: self._fs.write_file(path, data), replace=False)

    def replace(self, key: str, data: bytes) -> None:
        """See `ObjectStore.replace`."""
        self._put(key, lambda path: self._fs.write_file(path, data), replace=True)

    def upload(self, key: str, path: str) -> None:
        """See `ObjectStore.upload`."""
        self._put(key, lambda target: copy_file(self._fs, path, target), replace=True)

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self._errors(f"reading {key}"):
            return self._fs.read_file(self._path(key))

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """See `ObjectStore.read_range`."""
        with self._errors(f"reading {key}"):
            file = self._fs.open_read(self._path(key))
            try:
                return file.pread(offset, size)
            finally:
                file.close()

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStore.stream`."""
        with self._errors(f"reading {key}"):
            file = self._fs.open_read(self._path(key))
            try:
                for offset in range(0, file.size, _PIECE_BYTES):
                    yield file.pread(offset, _PIECE_BYTES)
            finally:
                file.close()

    def list(self, prefix: str) -> list[StoredObject]:
        """See `ObjectStore.list`."""
        with self._errors(f"listing {prefix}"):
            return sorted(self._list(prefix), key=lambda found: found.key)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        with self._errors("removing files"):
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.unlink(self._path(key))
            for folder in {os.path.dirname(self._path(key)) for key in keys}:
                if self._fs.exists(folder):
                    self._fs.sync_dir(folder)

    def remove_unfinished(self, before_ms: int) -> None:
        """See `ObjectStore.remove_unfinished`."""
        folder = os.path.join(self.url, _TMP)
        with self._errors(f"clearing {_TMP}"):
            for name in self._fs.listdir(folder) if self._fs.exists(folder) else ():
                path = os.path.join(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    if os.stat(path).st_mtime_ns // 1_000_000 < before_ms:
                        self._fs.unlink(path)

    def _path(self, key: str) -> str:
        return os.path.join(self.url, *key.split("/"))

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        try:
            names = self._fs.listdir(self._path(prefix))
        except FileNotFoundError:
            return
        for name in names:
            key = f"{prefix}/{name}"
            path = self._path(key)
            if os.path.isdir(path):
                yield from self._list(key)
            else:
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield StoredObject(key, status.st_size, status.st_mtime_ns // 1_000_000)

    def _put(self, key: str, write: Callable[[str], None], *, replace: bool) -> bool:
        with self._errors(f"writing {key}"):
            target = self._path(key)
            temporary = os.path.join(self.url, _TMP, secrets.token_hex(8))
            self._fs.mkdir(os.path.dirname(temporary))
            self._make_folder(os.path.dirname(target))
            try:
                write(temporary)
                try:
                    if replace:
                        self._fs.rename(temporary, target)
                    elif not self._move(temporary, target):
                        return False
                except FileNotFoundError as error:
                    raise StorageError(
                        f"{self.url}: {key} was taken for a leftover while it was written"
                    ) from error
            finally:
                with contextlib.suppress(OSError):
                    self._fs.unlink(temporary)
            self._fs.sync_dir(os.path.dirname(target))
            return True

    def _move(self, temporary: str, target: str) -> bool:
        """Give a file its name unless that is taken; the temporary one may stay."""
        try:
            self._fs.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # Not atomic, but names of contents and of backups are never made twice.
            if self._fs.exists(target):
                return False
            self._fs.rename(temporary, target)
        return True

    def _make_folder(self, path: str) -> None:
        """Make a folder and its parents, their names durable."""
        if self._fs.exists(path):
            return
        parent = os.path.dirname(path)
        self._make_folder(parent)
        self._fs.mkdir(path)
        self._fs.sync_dir(parent)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(error, f"{self.url}: {doing}") from error
