"""An object store in a folder, whose calls are fault points of a `FaultyFileSystem`.

Objects are whole and durable when a call returns. A call that fails may have had its effect. An
error is StoreUnavailable, as of a real store; a crash is a Crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from tests.faults.filesystem import Crash, FaultyFileSystem
from tsengine.errors import StoreUnavailable

CALLS = frozenset({"put object", "get object", "drop object"})
T = TypeVar("T")


class FaultyObjects:
    """A `RemoteStore` in the folder ``root``."""

    def __init__(self, fs: FaultyFileSystem, root: str) -> None:
        self._fs, self._root = fs, root

    def create(self, key: str, data: bytes) -> bool:
        return self._call("put object", key, lambda path: _create(path, data))

    def upload(self, key: str, path: str) -> None:
        raise AssertionError("small files are sent at once")

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        return self._call("get object", key, lambda path: _read(path)[offset : offset + size])

    def stream(self, key: str) -> Iterator[bytes]:
        yield self._call("get object", key, _read)

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self._call("drop object", key, os.unlink)

    def _call(self, kind: str, key: str, act: Callable[[str], T]) -> T:
        path = os.path.join(self._root, *key.split("/"))
        # Points are told by the name alone: the rest of a key is random.
        told = os.path.join(self._root, os.path.basename(key))
        try:
            return self._fs._call(kind, told, lambda: act(path))
        except (Crash, FileNotFoundError):
            raise
        except OSError as error:
            raise StoreUnavailable(f"{kind}: {error}") from error


def _create(path: str, data: bytes) -> bool:
    if os.path.exists(path):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return True


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
