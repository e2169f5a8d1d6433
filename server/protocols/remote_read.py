"""Remote read of raw samples (``prometheus.ReadRequest``), as whole messages.

The stream of chunks is not served: a client that accepts both types gets samples.
"""

from __future__ import annotations

import threading
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


async def handle(server: Server, request: web.Request) -> web.Response:
    """POST /api/v1/read."""
    try:
        body = await _read(server, request)
    except Exception as error:  # A request border: refusals are plain text here.
        if not is_foreseen(error):
            LOGGER.exception("a remote read failed")
        return text_response(error, server.limits.retry_after_s)
    return web.Response(
        body=body,
        headers={"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"},
    )


async def _read(server: Server, request: web.Request) -> bytes:
    limits = server.limits
    packed = await read_body(request, limits.form_size_max, limits)
    decompressed_size(packed, limits)
    database = server.database

    def call(timeout_s: float, cancel: threading.Event) -> bytes:
        try:
            response = database.remote_read(bytes(decompress(packed)), limits.read_samples_max)
        except errors.QueryLimitExceeded as error:
            raise BadRequest(str(error)) from None
        return bytes(cramjam.snappy.compress_raw(response))

    async with server.reads:
        return await server.executor.query(call, limits.query_timeout_s)
