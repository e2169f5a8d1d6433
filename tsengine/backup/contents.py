"""Checksums of contents, and doing many of them at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tsengine.backup.store import ObjectStore
from tsengine.storage.filesystem import FileSystem

PIECE_BYTES = 4 << 20
_AHEAD = 2

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def sha256_of_file(fs: FileSystem, path: str) -> str:
    """Of a local file's content, as hex."""
    digest = hashlib.sha256()
    file = fs.open_read(path)
    try:
        for offset in range(0, file.size, PIECE_BYTES):
            digest.update(file.pread(offset, PIECE_BYTES))
    finally:
        file.close()
    return digest.hexdigest()


def content_problem(store: ObjectStore, key: str, size: int, sha256: str) -> str | None:
    """What is wrong with a stored content, by reading all of it; None if nothing is."""
    digest = hashlib.sha256()
    n_bytes = 0
    try:
        for piece in store.stream(key):
            digest.update(piece)
            n_bytes += len(piece)
    except FileNotFoundError:
        return "is missing"
    if n_bytes != size:
        return f"has {n_bytes} bytes instead of {size}"
    return None if digest.hexdigest() == sha256 else "has another checksum"


def in_parallel(
    store: ObjectStore, call: Callable[[_Item], _Answer], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Answer]]:
    """Items with their answers, in order; as many calls at once as the store likes.

    The first error ends it.
    """
    if store.n_parallel == 1:
        for item in items:
            yield item, call(item)
        return
    with ThreadPoolExecutor(store.n_parallel, "tsengine-backup") as pool:
        waiting: list[tuple[_Item, Future[_Answer]]] = []
        try:
            for item in items:
                waiting.append((item, pool.submit(call, item)))
                if len(waiting) >= _AHEAD * store.n_parallel:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            while waiting:
                first, future = waiting.pop(0)
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
