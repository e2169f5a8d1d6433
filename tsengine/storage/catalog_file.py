"""Catalog segments: files that hold one series payload each (docs/format/catalog.md).

Written once, never changed; the manifest names those that are live. The version of a segment is
that of its payload.
"""

from __future__ import annotations

from tsengine.storage.catalog_payload import DENSE_VERSION, SPARSE_VERSION
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.sealed_file import read_sealed, write_sealed

MAGIC = b"TSECATLG"
VERSION = SPARSE_VERSION


def write_catalog_segment(fs: FileSystem, path: str, payload: bytes) -> None:
    """Write and fsync a segment; the caller syncs the folder and names it in the manifest."""
    write_sealed(fs, path, payload, magic=MAGIC, version=payload[0])


def read_catalog_segment(fs: FileSystem, path: str) -> bytes:
    """The payload of a segment, checksums verified; raises as `read_sealed` does."""
    return read_sealed(
        fs, path, magic=MAGIC, version=VERSION, oldest=DENSE_VERSION, what="a catalog segment"
    )
