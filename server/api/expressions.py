"""/api/v1/format_query and /parse_query: about the text of a query, not about data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from tsengine import errors

from ..errors import BadParameter
from . import encode
from .params import read_params

if TYPE_CHECKING:
    from ..state import Server


async def format_query(server: Server, request: web.Request) -> web.Response:
    """The query in Prometheus's layout."""
    database = server.database
    return await _answer(server, request, lambda text: encode.plain(database.format_query(text)))


async def parse_query(server: Server, request: web.Request) -> web.Response:
    """The query's syntax tree."""
    database = server.database

    def call(text: str) -> bytes:
        tree = orjson.dumps(database.parse_query(text), option=orjson.OPT_SORT_KEYS)
        return encode.escape_html(tree)

    return await _answer(server, request, call)


async def _answer(
    server: Server, request: web.Request, call: Callable[[str], bytes]
) -> web.Response:
    params = await read_params(request, server.limits)
    try:
        data = await server.executor.metadata(call, params.get("query"))
    except errors.ParseError as error:
        raise BadParameter("query", str(error)) from None
    return web.Response(body=encode.success(data), content_type="application/json")
