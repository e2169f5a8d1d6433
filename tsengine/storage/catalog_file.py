"""Catalog segments: files that hold one series payload each (docs/format/catalog.md).

Written once, never changed; the manifest names those that are live.
"""

from __future__ import annotations

from tsengine.storage.filesystem import FileSystem
from tsengine.storage.sealed_file import read_sealed, write_sealed

MAGIC = b"TSECATLG"
VERSION = 1


def write_catalog_segment(fs: FileSystem, path: str, payload: bytes) -> None:
    """Write and fsync a segment; the caller syncs the folder and names it in the manifest."""
    write_sealed(fs, path, payload, magic=MAGIC, version=VERSION)


def read_catalog_segment(fs: FileSystem, path: str) -> bytes:
    """The payload of a segment, checksums verified; raises as `read_sealed` does."""
    return read_sealed(fs, path, magic=MAGIC, version=VERSION, what="a catalog segment")
