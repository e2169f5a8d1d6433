"""Large bodies in pieces: made and compressed off the event loop, sent one at a time.

One write of a hundred megabytes would keep the event loop busy for as long as the kernel copies it,
and so would joining or compressing it in one go.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from .encode import COMPRESS_INLINE_SIZE_MAX, compressor

PIECE_SIZE = 256 * 1024
"""What is written to a connection at a time."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body, and the encoding that it is in (None: as it is)."""

    pieces: list[bytes]
    encoding: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(map(len, self.pieces))

    def content(self, timeout_s: float) -> bytes | PiecesPayload:
        """What a response takes as its body."""
        if len(self.pieces) == 1 and len(self.pieces[0]) <= PIECE_SIZE:
            return self.pieces[0]
        return PiecesPayload(self.pieces, timeout_s)


def make_body(pieces: Iterable[bytes], encoding: str | None) -> Body:
    """Collect pieces, compressed unless they are so few bytes that it can be done while sending."""
    made = iter(pieces)
    begin: list[bytes] = []
    size = 0
    for piece in made:
        begin.append(piece)
        size += len(piece)
        if size >= COMPRESS_INLINE_SIZE_MAX:
            break
    else:
        return Body([b"".join(begin)])
    if encoding is None:
        return Body([*begin, *made])
    packer = compressor(encoding)
    return Body([packed for packed in _packed(packer, begin, made) if packed], encoding)


def _packed(packer: zlib._Compress, begin: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    for piece in begin:
        yield packer.compress(piece)
    for piece in rest:
        yield packer.compress(piece)
    yield packer.flush()


def body_size(response: web.StreamResponse) -> int:
    """Bytes of a response's body; 0 for one that is streamed."""
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, payload.Payload):
        return body.size or 0
    return len(body) if isinstance(body, bytes) else 0


class PiecesPayload(payload.Payload):
    """Sends pieces and lets other work in between.

    Parameters
    ----------
    pieces
        Any sizes; large ones are cut.
    timeout_s
        Longest time a client may take to receive PIECE_SIZE bytes.

    """

    def __init__(self, pieces: list[bytes], timeout_s: float) -> None:
        super().__init__(pieces)
        self._timeout_s = timeout_s
        self._size = sum(map(len, pieces))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """What is not sent yet, as text."""
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send everything; raises ConnectionResetError when the client is too slow."""
        pieces = self._value
        for k in range(len(pieces)):
            view = memoryview(pieces[k])
            # Freeing all memory in one go, in the end, would take as long as a frame of a film.
            pieces[k] = b""
            for start in range(0, len(view), PIECE_SIZE):
                try:
                    async with asyncio.timeout(self._timeout_s):
                        await writer.write(view[start : start + PIECE_SIZE])
                except TimeoutError:
                    raise ConnectionResetError("the client takes too long to read") from None
                # A fast client would keep the writer from ever waiting.
                await asyncio.sleep(0)
