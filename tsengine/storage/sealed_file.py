"""Files that hold one payload, compressed and checksummed; written once and never changed.

Catalog segments and exemplar files are such (docs/format/catalog.md has the bytes).
"""

from __future__ import annotations

import struct

import google_crc32c
import zstandard

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.storage.filesystem import FileSystem

_HEADER = struct.Struct("<8sIIQQ")
_CRC = struct.Struct("<I")
_ZSTD_LEVEL = 3
PAYLOAD_SIZE_MAX = 1 << 36


def write_sealed(fs: FileSystem, path: str, payload: bytes, *, magic: bytes, version: int) -> int:
    """Write and fsync a file; returns its size. The caller syncs the folder.

    ``magic`` has 8 bytes.
    """
    body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(payload)
    head = _HEADER.pack(magic, version, google_crc32c.value(body), len(body), len(payload))
    data = head + _CRC.pack(google_crc32c.value(head)) + body
    fs.write_file(path, data)
    return len(data)


def read_sealed(
    fs: FileSystem, path: str, *, magic: bytes, version: int, what: str, oldest: int | None = None
) -> bytes:
    """The payload, checksums verified; ``what`` names the kind of file in errors.

    Versions from ``oldest`` (None: ``version`` alone) up to ``version`` are accepted.

    Raises
    ------
    CorruptionError
        With path and offset.
    UnsupportedFormat
        Written by a newer version.

    """
    data = fs.read_file(path)
    size = _HEADER.size + _CRC.size
    if len(data) < size or data[: len(magic)] != magic:
        raise CorruptionError(f"not {what}", path=path, offset=0)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if google_crc32c.value(data[: _HEADER.size]) != crc:
        raise CorruptionError("the header's checksum is wrong", path=path, offset=_HEADER.size)
    _, found_version, body_crc, body_size, payload_size = _HEADER.unpack_from(data)
    if not (version if oldest is None else oldest) <= found_version <= version:
        raise UnsupportedFormat(f"{path}: version {found_version} of {what} is not known")
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
