"""The seam to where backups are kept: objects with keys, written whole, never changed.

`open_store` picks the implementation. Keys have slashes between folders. An object is there whole
or not at all, whatever happens while it is written. Implementations are thread-safe. Calls
raise StorageError, and FileNotFoundError for an object that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tsengine.errors import StorageError
from tsengine.storage.filesystem import FileSystem, LocalFileSystem

S3_SCHEME = "s3://"
_COLD_TIMEOUT_S = 20.0
_COLD_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it; the time is that of the store's clock."""

    key: str
    size: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How an object store is reached.

    Parameters
    ----------
    endpoint_url
        Of an S3-compatible service other than Amazon's.
    timeout_s
        Of one request.
    retries_max, retry_timeout_s
        How often, and how long in all, a request that failed is sent again, with growing pauses.

    """

    endpoint_url: str | None = None
    timeout_s: float = 30.0
    retries_max: int = 8
    retry_timeout_s: float = 120.0


class ObjectStore(Protocol):
    """Objects under one prefix."""

    url: str
    n_parallel: int
    """How many calls at once are worth it."""

    def create(self, key: str, data: bytes) -> bool:
        """Make an object if there is none of this key; whether it was made by this call."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Make an object, or put another content in its place."""
        ...

    def upload(self, key: str, path: str) -> None:
        """Make or replace an object whose content is a local file."""
        ...

    def read(self, key: str) -> bytes:
        """The whole object."""
        ...

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """Bytes at ``offset``; fewer than ``size`` only at the end of the object."""
        ...

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces of some MiB."""
        ...

    def list(self, prefix: str) -> list[StoredObject]:
        """Objects whose keys begin with ``prefix`` and a slash, by key."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; fine if they are gone."""
        ...

    def remove_unfinished(self, before_ms: int) -> None:
        """Remove what is no object yet and was last written before a time of the store's clock."""
        ...


def open_store(
    url: str | os.PathLike[str],
    options: StoreOptions | None = None,
    fs: FileSystem | None = None,
) -> ObjectStore:
    """The store at ``s3://bucket/prefix``, or in a directory, which is made when it is written to.

    Raises
    ------
    StorageError
        The URL has another scheme or no bucket, or the package for it is not installed.

    """
    text = os.fspath(url)
    if text.startswith(S3_SCHEME):
        from tsengine.backup.s3_store import S3Objects

        bucket, _, prefix = text.removeprefix(S3_SCHEME).partition("/")
        if not bucket:
            raise StorageError(f"{text} names no bucket; write s3://bucket/prefix")
        return S3Objects(bucket, prefix.strip("/"), options or StoreOptions())
    if "://" in text:
        raise StorageError(f"{text}: the place must be a directory or s3://bucket/prefix")
    from tsengine.backup.local_store import LocalObjects

    return LocalObjects(os.path.abspath(text), fs or LocalFileSystem())


def open_cold_store(url: str, endpoint_url: str | None) -> ObjectStore:
    """A store that queries read from: it gives up sooner than a backup would."""
    options = StoreOptions(
        endpoint_url, timeout_s=_COLD_TIMEOUT_S, retries_max=5, retry_timeout_s=_COLD_PATIENCE_S
    )
    return open_store(url, options)
