"""Heads of remote writes, as our own connections read them.

A write is plain if its head says all about it: headers that come once each and have no say in how
HTTP works, a body of known size that is not too large. All else is aiohttp's.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from .errors import UnsupportedMedia
from .plain_requests import HEADERS_MAX, UNPLAIN
from .protocols import remote_write

_PATHS = {b"POST /api/v1/write HTTP/1.1": "/api/v1/write", b"POST /write HTTP/1.1": "/write"}
_HEADERS = re.compile(rb"(?:[A-Za-z0-9-]+:[\x20-\x7e]*\r\n)+")
_UNPLAIN = frozenset((*(name.encode() for name in UNPLAIN), b"origin"))
_SIZE_HEADER = b"\r\ncontent-length:"
_VERSIONS_MAX = 100
_HEADS_MAX = 100


class WriteHead(NamedTuple):
    """A plain remote write: its path, its protocol's version and the bytes of its body."""

    route: str
    version: Literal[1, 2]
    body_size: int


class WriteHeads:
    """Reads heads, and remembers what versions their headers ask for.

    A sender's heads differ by the size of their bodies alone: around that, they are known.
    """

    def __init__(self) -> None:
        self._versions: dict[tuple[bytes, bytes], Literal[1, 2]] = {}
        self._known: dict[tuple[bytes, bytes], tuple[str, Literal[1, 2]]] = {}

    def parse(self, head: bytes, body_size_max: int) -> WriteHead | None:
        """The write of a head, its last line end included; None if it is no plain one."""
        size_at = head.lower().find(_SIZE_HEADER) + len(_SIZE_HEADER)
        size_end = head.find(b"\r\n", size_at)
        around = head[:size_at], head[size_end:]
        known = self._known.get(around)
        if known is not None:
            size = head[size_at:size_end].strip(b" ")
            return WriteHead(*known, int(size)) if _is_size(size, body_size_max) else None
        write = self._parse(head, body_size_max)
        if write is not None and len(self._known) < _HEADS_MAX:
            self._known[around] = write.route, write.version
        return write

    def _parse(self, head: bytes, body_size_max: int) -> WriteHead | None:
        """As `parse`, whatever is known."""
        line_end = head.find(b"\r\n")
        route = _PATHS.get(head[:line_end])
        if route is None or not _HEADERS.fullmatch(head, line_end + 2):
            return None
        found: dict[bytes, bytes] = {}
        for line in head[line_end + 2 : -2].split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in found or name in _UNPLAIN:
                return None
            found[name] = value.strip()
        if len(found) > HEADERS_MAX or b"host" not in found:
            return None
        if found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        size = found.get(b"content-length", b"")
        version = self._version(
            found.get(b"content-type", b""), found.get(b"content-encoding", b"")
        )
        if version is None or not _is_size(size, body_size_max):
            return None
        return WriteHead(route, version, int(size))

    def _version(self, content_type: bytes, content_encoding: bytes) -> Literal[1, 2] | None:
        """As `remote_write.negotiate`, of headers as they came; None for a refusal."""
        known = self._versions.get((content_type, content_encoding))
        if known is None:
            try:
                known = remote_write.negotiate(content_type.decode(), content_encoding.decode())
            except UnsupportedMedia:
                return None
            if len(self._versions) < _VERSIONS_MAX:
                self._versions[content_type, content_encoding] = known
        return known


def _is_size(text: bytes, size_max: int) -> bool:
    """Whether this is a number of bytes, and not too large."""
    return text.isdigit() and len(text) <= 12 and int(text) <= size_max
