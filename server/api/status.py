"""/api/v1/status/*, /rules, /alerts, /version: what Grafana and Prometheus's tools ask about."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..config import as_flags
from ..errors import BadParameter
from ..times import duration_text
from . import encode
from .params import read_params

if TYPE_CHECKING:
    from ..state import Server

API_VERSION = "3.14.0"
"""The Prometheus version whose API and PromQL are spoken; Grafana compares it."""

_TSDB_LIMIT_MAX = 10_000


def build_info(server: Server) -> dict[str, str]:
    """Version facts, all strings. No ``features``: Grafana takes a server with it for Mimir."""
    return {
        "version": API_VERSION,
        "revision": f"tsengine-{server.version}",
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": f"python{platform.python_version()}",
    }


async def buildinfo(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/buildinfo."""
    return _success(build_info(server))


async def version(server: Server, request: web.Request) -> web.Response:
    """GET /version: the same facts without the envelope."""
    return web.Response(body=encode.plain(build_info(server)), content_type="application/json")


async def runtimeinfo(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/runtimeinfo. Go's own settings are empty."""
    stats = await server.executor.metadata(server.database.tsdb_status, 1)
    retention_s = server.config.retention_s
    info = {
        "startTime": _rfc3339(server.started_at),
        "CWD": os.getcwd(),
        "hostname": socket.gethostname(),
        "serverTime": _rfc3339(datetime.now(UTC)),
        "reloadConfigSuccess": True,
        "lastConfigTime": _rfc3339(server.started_at),
        "timeSeriesCount": stats["headStats"]["numSeries"],
        "corruptionCount": 0,
        "goroutineCount": len(asyncio.all_tasks()),
        "GOMAXPROCS": os.cpu_count() or 1,
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": "" if retention_s is None else duration_text(retention_s),
    }
    return _success(info)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def flags(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/flags: every flag with its value, as texts."""
    return _success(as_flags(server.config))


async def tsdb(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/tsdb: counts of series, label pairs and blocks."""
    params = await read_params(request, server.limits)
    limit = params.limit("limit", signed=True) if params.get("limit") else 10
    if not 1 <= limit <= _TSDB_LIMIT_MAX:
        raise BadParameter("limit", f"limit must be between 1 and {_TSDB_LIMIT_MAX}")
    return _success(await server.executor.metadata(server.database.tsdb_status, limit))


async def rules(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/rules: there are no rules. Grafana logs an error without this answer."""
    params = await read_params(request, server.limits)
    kind = params.get("type")
    if kind not in ("", "alert", "record"):
        raise BadParameter("type", f'not supported value "{kind}"')
    return _success({"groups": []})


async def alerts(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/alerts: there are no alerts."""
    return _success({"alerts": []})


def _success(data: dict[str, Any]) -> web.Response:
    body = encode.success(encode.plain(data))
    return web.Response(body=body, content_type="application/json")
