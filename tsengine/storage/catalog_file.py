"""Catalog segments: files that hold one series payload each (docs/format/catalog.md).

Written once, never changed; the manifest names those that are live.
"""

from __future__ import annotations

import struct

import google_crc32c
import zstandard

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.storage.filesystem import FileSystem

MAGIC = b"TSECATLG"
VERSION = 1
_HEADER = struct.Struct("<8sIIQQ")
_CRC = struct.Struct("<I")
_ZSTD_LEVEL = 3
PAYLOAD_SIZE_MAX = 1 << 36


def write_catalog_segment(fs: FileSystem, path: str, payload: bytes) -> None:
    """Write and fsync a segment; the caller syncs the folder and names it in the manifest."""
    body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(payload)
    head = _HEADER.pack(MAGIC, VERSION, google_crc32c.value(body), len(body), len(payload))
    fs.write_file(path, head + _CRC.pack(google_crc32c.value(head)) + body)


def read_catalog_segment(fs: FileSystem, path: str) -> bytes:
    """The payload of a segment, checksums verified.

    Raises
    ------
    CorruptionError
        With path and offset.
    UnsupportedFormat
        Written by a newer version.

    """
    data = fs.read_file(path)
    size = _HEADER.size + _CRC.size
    if len(data) < size or data[: len(MAGIC)] != MAGIC:
        raise CorruptionError("not a catalog segment", path=path, offset=0)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if google_crc32c.value(data[: _HEADER.size]) != crc:
        raise CorruptionError("the header's checksum is wrong", path=path, offset=_HEADER.size)
    _, version, body_crc, body_size, payload_size = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UnsupportedFormat(f"{path}: catalog segment version {version} is not known")
    body = data[size:]
    if len(body) != body_size or google_crc32c.value(body) != body_crc:
        raise CorruptionError("the content's checksum is wrong", path=path, offset=size)
    if payload_size > PAYLOAD_SIZE_MAX:
        raise CorruptionError(f"a payload of {payload_size} bytes", path=path, offset=size)
    try:
        payload = zstandard.ZstdDecompressor().decompress(body, max_output_size=payload_size)
    except zstandard.ZstdError as error:
        raise CorruptionError(
            f"the content does not unpack: {error}", path=path, offset=size
        ) from None
    if len(payload) != payload_size:
        raise CorruptionError("the content has another size", path=path, offset=size)
    return payload
