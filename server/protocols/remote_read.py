"""Remote read (``prometheus.ReadRequest``): whole messages of samples, or a stream of chunks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cramjam
from aiohttp import web

from tsengine import errors

from ..api.params import read_body
from ..errors import BadRequest, is_foreseen, text_response
from ..logs import LOGGER
from .remote_write import decompress, decompressed_size

if TYPE_CHECKING:
    from ..state import Server

STREAM_TYPE = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"


async def handle(server: Server, request: web.Request) -> web.StreamResponse:
    """POST /api/v1/read."""
    try:
        packed = await read_body(request, server.limits.form_size_max, server.limits)
        decompressed_size(packed, server.limits)
        async with server.reads:
            answer = await _read(server, packed)
            if isinstance(answer, bytes):
                headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
                return web.Response(body=answer, headers=headers)
            first = await _next_piece(server, answer)
            response = web.StreamResponse(headers={"Content-Type": STREAM_TYPE})
            await response.prepare(request)
            await _send(server, request, response, first, answer)
            return response
    except Exception as error:  # A request border: refusals are plain text here.
        if not is_foreseen(error):
            LOGGER.exception("a remote read failed")
        return text_response(error, server.limits.retry_after_s)


async def _read(server: Server, packed: bytes) -> bytes | Iterator[bytes]:
    """A whole answer, compressed, or the pieces of a stream, none of which is read yet."""
    limits = server.limits
    database = server.database

    def call(timeout_s: float, cancel: threading.Event) -> bytes | Iterator[bytes]:
        message = bytes(decompress(packed))
        stream = database.remote_read_stream(message)
        if stream is not None:
            return stream
        try:
            response = database.remote_read(message, limits.read_samples_max)
        except errors.QueryLimitExceeded as error:
            raise BadRequest(str(error)) from None
        return bytes(cramjam.snappy.compress_raw(response))

    return await server.executor.query(call, limits.query_timeout_s)


async def _next_piece(server: Server, stream: Iterator[bytes]) -> bytes | None:
    def call(timeout_s: float, cancel: threading.Event) -> bytes | None:
        return next(stream, None)

    return await server.executor.query(call, server.limits.query_timeout_s)


async def _send(
    server: Server,
    request: web.Request,
    response: web.StreamResponse,
    piece: bytes | None,
    stream: Iterator[bytes],
) -> None:
    """Send all pieces; a failure cuts the connection, since the status is sent already."""
    try:
        while piece is not None:
            async with asyncio.timeout(server.limits.answer_write_timeout_s):
                await response.write(piece)
            piece = await _next_piece(server, stream)
        await response.write_eof()
    except (TimeoutError, ConnectionError):
        _cut(request)
    except Exception:  # A request border: the client can only be told by a cut.
        LOGGER.exception("a remote read failed midway")
        _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
