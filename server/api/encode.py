"""Bodies of answers: the success envelope, lists of strings, compression."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

Piece: TypeAlias = bytes | memoryview

_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)

COMPRESS_SIZE_MIN = 1024
"""Smaller bodies gain nothing from compression."""

COMPRESS_INLINE_SIZE_MAX = 32 * 1024
"""Up to here compression takes less than 1 ms and may run on the event loop."""

_COMPRESS_LEVEL = 1
"""Answers are compressed once and read once: the fastest level costs least in total."""


def escape_html(body: bytes) -> bytes:
    """Escape what Go's encoder escapes. These characters occur only inside JSON strings."""
    for plain, escaped in _ESCAPES:
        if plain in body:
            body = body.replace(plain, escaped)
    return body


def success(
    data: bytes,
    warnings: Sequence[str] = (),
    infos: Sequence[str] = (),
    *,
    notes_max: int = 10,
) -> bytes:
    """The envelope around encoded `data`, with warnings and infos when there are any.

    Of each, `notes_max` are listed; one more line says how many were left out.
    """
    return b"".join(success_pieces((data,), warnings, infos, notes_max=notes_max))


def success_pieces(
    data: Iterable[Piece],
    warnings: Sequence[str] = (),
    infos: Sequence[str] = (),
    *,
    notes_max: int = 10,
) -> Iterator[Piece]:
    """`success` around data in pieces."""
    yield b'{"status":"success","data":'
    yield from data
    for key, notes, noun in ((b"warnings", warnings, "warning"), (b"infos", infos, "info")):
        if notes:
            listed = list(notes[:notes_max])
            if len(notes) > notes_max:
                listed.append(f"{len(notes) - notes_max} more {noun} annotations omitted")
            yield b',"' + key + b'":' + escape_html(orjson.dumps(listed))
    yield b"}"


def plain(value: Any) -> bytes:
    """JSON of a plain value; keys keep their order; `< > &` are escaped."""
    return escape_html(orjson.dumps(value))


def with_stats(data: Iterable[Piece], stats: dict[str, Any]) -> Iterator[Piece]:
    """Query data in pieces with a ``stats`` key behind the result."""
    last: Piece = b""
    for piece in data:
        yield last
        last = piece
    yield bytes(last[:-1]) + b',"stats":' + orjson.dumps(stats) + b"}"


def accepted(header: str) -> dict[str, float]:
    """Names of an Accept or Accept-Encoding header in lower case, with their quality."""
    allowed: dict[str, float] = {}
    for item in header.split(","):
        name, *parameters = item.split(";")
        quality = 1.0
        for parameter in parameters:
            key, _, text = parameter.strip().partition("=")
            if key == "q":
                try:
                    quality = float(text)
                except ValueError:
                    quality = 0.0
        allowed[name.strip().lower()] = quality
    return allowed


@lru_cache(maxsize=64)
def choose_encoding(accept_encoding: str) -> str | None:
    """``gzip``, ``deflate`` or None, by the Accept-Encoding header (RFC 9110, 12.5.3)."""
    allowed = accepted(accept_encoding)
    anything = allowed.get("*", 0.0)
    best = max(("gzip", "deflate"), key=lambda name: allowed.get(name, anything))
    return best if allowed.get(best, anything) > 0 else None


def compress(body: bytes, encoding: str) -> bytes:
    """`body` as gzip or deflate (the zlib format of RFC 1950). Releases the GIL."""
    packer = compressor(encoding)
    return packer.compress(body) + packer.flush()


def compressor(encoding: str) -> zlib._Compress:
    """Makes gzip or deflate of a body in pieces."""
    wbits = 31 if encoding == "gzip" else 15
    return zlib.compressobj(_COMPRESS_LEVEL, zlib.DEFLATED, wbits)
