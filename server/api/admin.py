"""/api/v1/admin/tsdb/*: calls that change the database, only with ``--enable-admin-api``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from tsengine import errors

from ..errors import BadParameter, BadRequest, Unavailable
from . import encode
from .params import read_params

if TYPE_CHECKING:
    from ..state import Server

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


async def flush(server: Server, request: web.Request) -> web.Response:
    """Make the head a part; with ``merge=1`` also merge all parts before answering."""
    _check_enabled(server)
    params = await read_params(request, server.limits)
    merge = params.get("merge")
    if merge not in ("", "0", "1", "true", "false"):
        raise BadParameter("merge", f'cannot parse "{merge}" to 0 or 1')
    database = server.database
    await server.executor.admin(database.flush)
    if merge in ("1", "true"):
        await server.executor.admin(database.compact)
    return web.Response(status=204)


async def snapshot(server: Server, request: web.Request) -> web.Response:
    """Copy the database into its folder of snapshots; with ``skip_head=true`` only its parts."""
    _check_enabled(server)
    params = await read_params(request, server.limits)
    skip_head = params.get("skip_head")
    if skip_head not in ("", *_FALSE, *_TRUE):
        problem = f'strconv.ParseBool: parsing "{skip_head}": invalid syntax'
        raise BadParameter("skip_head", f"unable to parse boolean 'skip_head' argument: {problem}")
    path = await server.executor.admin(server.database.snapshot, skip_head=skip_head in _TRUE)
    body = encode.success(orjson.dumps({"name": os.path.basename(path)}))
    return web.Response(body=body, content_type="application/json")


async def delete_series(server: Server, request: web.Request) -> web.Response:
    """Delete what series that match one of the selectors have in a closed range."""
    _check_enabled(server)
    params = await read_params(request, server.limits)
    selectors = params.all("match[]")
    if not selectors:
        raise BadRequest("no match[] parameter provided")
    start, end = params.range_ms()
    try:
        await server.executor.admin(server.database.delete_series, selectors, start, end)
    except errors.QueryError as error:  # A selector's syntax, regex or lack of a matcher.
        raise BadParameter("match[]", str(error)) from None
    return web.Response(status=204)


async def clean_tombstones(server: Server, request: web.Request) -> web.Response:
    """Rewrite the parts that hold deleted samples before answering."""
    _check_enabled(server)
    await server.executor.admin(server.database.clean_tombstones)
    return web.Response(status=204)


async def pause(server: Server, request: web.Request) -> web.Response:
    """Stop merging, tiering and the like until `resume`; answers when nothing runs any more.

    It waits for no other admin call: those go on, as they do while work is paused.
    """
    _check_enabled(server)
    await server.executor.pause(server.database.pause_background)
    return web.Response(status=204)


async def resume(server: Server, request: web.Request) -> web.Response:
    """Go on after `pause`."""
    _check_enabled(server)
    await server.executor.background(server.database.resume_background)
    return web.Response(status=204)


def _check_enabled(server: Server) -> None:
    if not server.config.enable_admin_api:
        raise Unavailable("admin APIs disabled; start the server with --enable-admin-api")
