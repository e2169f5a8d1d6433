"""Gorilla (VLDB 2015): the published codec that ours is compared with. No file contains it.

A block of one series is two byte strings, timestamps and values, each a bit stream followed by the
CRC-32C (u32, little endian) of the count (u64) and the stream. The streams are described in
`kernels/gorilla.py`. Thread-safe: no state.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError
from tsengine.kernels import gorilla

CHECKSUM_BYTES = 4
MAX_COUNT = 1 << 24
"""A block is small; more would only hide a count that lies."""


def encode_times(t_ms: npt.NDArray[np.int64]) -> bytes:
    """Encode ``t_ms: i64[N]``, any order, at least one."""
    return _encode(np.ascontiguousarray(t_ms, dtype=np.int64).view(np.uint64), gorilla.TIMES)


def encode_values(bits: npt.NDArray[np.uint64]) -> bytes:
    """Encode ``bits: u64[N]``, float64 bits, at least one."""
    return _encode(np.ascontiguousarray(bits, dtype=np.uint64), gorilla.VALUES)


def decode_times(
    data: bytes, count: int, *, path: str | None = None, offset: int = 0
) -> npt.NDArray[np.int64]:
    """Return i64[count]; `path` and `offset` say in errors where `data` lies.

    Raises
    ------
    CorruptionError
        `data` is not what `encode_times` made of `count` timestamps.

    """
    return _decode(data, count, gorilla.TIMES, path, offset).view(np.int64)


def decode_values(
    data: bytes, count: int, *, path: str | None = None, offset: int = 0
) -> npt.NDArray[np.uint64]:
    """Return u64[count], float64 bits; otherwise as `decode_times`."""
    return _decode(data, count, gorilla.VALUES, path, offset)


def _encode(words: npt.NDArray[np.uint64], kind: int) -> bytes:
    if not 1 <= len(words) <= MAX_COUNT:
        raise ValueError(f"a block has 1 to {MAX_COUNT} samples")
    out = np.zeros(gorilla.WORD_BYTES_MAX * len(words) + 16, dtype=np.uint8)
    size = gorilla.encode_gorilla(words, kind, out)
    stream = out[:size].tobytes()
    return stream + _checksum(stream, len(words))


def _decode(
    data: bytes, count: int, kind: int, path: str | None, offset: int
) -> npt.NDArray[np.uint64]:
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"a block has 1 to {MAX_COUNT} samples")
    stream, stored = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if stored != _checksum(stream, count):
        raise CorruptionError("Gorilla block breaks its checksum", path=path, offset=offset)
    out = np.empty(count, dtype=np.uint64)
    if gorilla.decode_gorilla(np.frombuffer(stream, dtype=np.uint8), kind, out) < 0:
        raise CorruptionError("Gorilla block breaks its form", path=path, offset=offset)
    return out


def _checksum(stream: bytes, count: int) -> bytes:
    crc = google_crc32c.value(count.to_bytes(8, "little") + stream)
    return int(crc).to_bytes(CHECKSUM_BYTES, "little")
