"""Large bodies in pieces: made and compressed off the event loop, sent one at a time.

One write of a hundred megabytes would keep the event loop busy for as long as the kernel copies it,
and so would joining or compressing it in one go. And so would freeing it: what many threads
allocated with the C library's `malloc` goes back to the system in lumps of 64 MB, which takes 10 ms
each, in the moment when the last piece of a lump is sent. So large bodies are kept in slabs of
memory of their own.
"""

from __future__ import annotations

import asyncio
import mmap
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from .encode import COMPRESS_INLINE_SIZE_MAX, Piece, compressor

PIECE_SIZE = 256 * 1024
"""What is written to a connection at a time."""
SLAB_SIZE = 4 * PIECE_SIZE
"""Bodies that are larger are kept in slabs of so many bytes."""

SPARE_SLABS_MAX = 32
"""Slabs that stay for the next answers: getting fresh pages takes as long as writing to them."""
_spare_slabs: list[npt.NDArray[np.uint8]] = []
_SLAB_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
"""All pages at once: one by one they cost more than what is written into them."""


@dataclass(frozen=True, slots=True)
class Body:
    """A body, and the encoding that it is in (None: as it is)."""

    pieces: list[Piece]
    encoding: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(map(len, self.pieces))

    def content(self, timeout_s: float) -> bytes | PiecesPayload:
        """What a response takes as its body."""
        first = self.pieces[0]
        if len(self.pieces) == 1 and isinstance(first, bytes) and len(first) <= PIECE_SIZE:
            return first
        return PiecesPayload(self.pieces, timeout_s)


def make_body(pieces: Iterable[Piece], encoding: str | None) -> Body:
    """Collect pieces, compressed unless they are so few bytes that it can be done while sending.

    Pieces that are views stay where they are: they have slabs of their own.
    """
    made = iter(pieces)
    begin: list[Piece] = []
    size = 0
    for piece in made:
        begin.append(piece)
        size += len(piece)
        if size >= COMPRESS_INLINE_SIZE_MAX:
            break
    else:
        return Body([b"".join(begin)])
    made = chain(begin, made)
    if encoding is not None:
        made = _packed(compressor(encoding), made)
    return Body(_collected(made), encoding)


def _packed(packer: zlib._Compress, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _collected(pieces: Iterator[Piece]) -> list[Piece]:
    """The pieces as they are if they are few bytes, else their bytes in slabs."""
    begin: list[Piece] = []
    size = 0
    for piece in pieces:
        begin.append(piece)
        if isinstance(piece, bytes):
            size += len(piece)
        if size > SLAB_SIZE:
            return list(_in_slabs(chain(begin, pieces)))
    return begin


def _in_slabs(pieces: Iterable[Piece]) -> Iterator[memoryview]:
    """The bytes of all pieces; each slab goes back to the system when its last view has gone."""
    slab = new_slab(SLAB_SIZE)
    used = 0
    for piece in pieces:
        rest = np.frombuffer(piece, np.uint8)
        while len(rest):
            if used == SLAB_SIZE:
                yield slab.data
                slab, used = new_slab(SLAB_SIZE), 0
            n = min(len(rest), SLAB_SIZE - used)
            # NumPy copies without the interpreter's lock; new pages may take the system a while.
            np.copyto(slab[used : used + n], rest[:n])
            rest = rest[n:]
            used += n
    yield slab[:used].data


class _Lent:
    """A slab in use: with its last view it becomes a spare one, if there are not many of them."""

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        if len(_spare_slabs) < SPARE_SLABS_MAX:
            _spare_slabs.append(self._memory)


def new_slab(size_min: int) -> npt.NDArray[np.uint8]:
    """Memory of its own, of SLAB_SIZE bytes or as many as are needed. Any thread."""
    if size_min > SLAB_SIZE:
        return _fresh_memory(size_min)
    try:
        memory = _spare_slabs.pop()
    except IndexError:
        memory = _fresh_memory(SLAB_SIZE)
    return np.asarray(_Lent(memory))


def _fresh_memory(size: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, size, flags=_SLAB_FLAGS), np.uint8)


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

    def __init__(self, pieces: list[Piece], timeout_s: float) -> None:
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
