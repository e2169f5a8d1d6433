"""/api/v1/targets, /scrape_pools, /alertmanagers: nothing is scraped and nobody is alerted here.

The answers are those of a Prometheus without a configuration; refusals of parameters included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from tsengine import errors

from ..errors import BadParameter, BadRequest
from . import encode
from .params import read_params

if TYPE_CHECKING:
    from ..state import Server


async def targets(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/targets: no targets, of whatever state."""
    params = await read_params(request, server.limits)
    shows_dropped = params.get("state").lower() in ("", "any", "dropped")
    counts: dict[str, int] | None = {} if shows_dropped else None
    return _success({"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": counts})


async def targets_metadata(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/targets/metadata: no targets, so no metadata of any."""
    params = await read_params(request, server.limits)
    if params.get("limit"):
        try:
            int(params.get("limit"))
        except ValueError:
            raise BadRequest("limit must be a number") from None
    if selector := params.get("match_target"):
        try:
            await server.executor.metadata(server.database.has_selectors, selector)
        except errors.ParseError as error:
            raise BadParameter("match_target", str(error)) from None
    return _success([])


async def relabel_steps(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/targets/relabel_steps: there is no scrape pool to ask about."""
    params = await read_params(request, server.limits)
    pool = _required(params.get("scrapePool"), "scrapePool")
    _required(params.get("labels"), "labels")
    raise BadRequest(_no_pool(pool))


async def scrape_pools(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/scrape_pools."""
    return _success({"scrapePools": []})


async def scrape_pool_config(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/scrape_pools/config: there is no scrape pool to ask about."""
    params = await read_params(request, server.limits)
    raise BadRequest(_no_pool(_required(params.get("scrapePool"), "scrapePool")))


async def alertmanagers(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/alertmanagers."""
    return _success({"activeAlertmanagers": [], "droppedAlertmanagers": []})


def _required(text: str, name: str) -> str:
    if not text:
        raise BadRequest(f"no {name} parameter provided")
    return text


def _no_pool(pool: str) -> str:
    return f'error retrieving scrape config: scrape pool "{pool}" not found'


def _success(data: Any) -> web.Response:
    body = encode.success(encode.plain(data))
    return web.Response(body=body, content_type="application/json")
