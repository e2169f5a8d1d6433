"""/api/v1/admin/tsdb/*: calls that change the database, only with ``--enable-admin-api``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from ..errors import BadParameter, Unavailable
from .params import read_params

if TYPE_CHECKING:
    from ..state import Server


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


async def not_in_this_version(server: Server, request: web.Request) -> web.Response:
    """Prometheus's other admin calls."""
    _check_enabled(server)
    call = request.path.rpartition("/")[2]
    raise Unavailable(f"{call} is not in this version of tsengine; it comes with a later one")


def _check_enabled(server: Server) -> None:
    if not server.config.enable_admin_api:
        raise Unavailable("admin APIs disabled; start the server with --enable-admin-api")
