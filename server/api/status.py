"""/api/v1/status/*, /rules, /alerts, /version: what Grafana and Prometheus's tools ask about."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import re2
from aiohttp import web

from .. import feature_switches
from ..config import Config, as_flags, as_yaml
from ..config_values import SIZE_OR_NONE
from ..errors import BadParameter, BadRequest
from ..times import duration_text
from . import encode, fuzzy
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
    info = {
        "startTime": _rfc3339(server.started_at),
        "CWD": os.getcwd(),
        "hostname": socket.gethostname(),
        "serverTime": _rfc3339(datetime.now(UTC)),
        "reloadConfigSuccess": server.reload_succeeded,
        "lastConfigTime": _rfc3339(datetime.fromtimestamp(server.configured_at_s, UTC)),
        "timeSeriesCount": stats["headStats"]["numSeries"],
        "corruptionCount": 0,
        "goroutineCount": len(asyncio.all_tasks()),
        "GOMAXPROCS": os.cpu_count() or 1,
        "GOMEMLIMIT": 0,
        "GOGC": "",
        "GODEBUG": "",
        "storageRetention": _retention_text(server.config),
    }
    return _success(info)


def _retention_text(config: Config) -> str:
    """As Prometheus writes it: ``15d or 50GiB``."""
    limits = []
    if config.retention_s is not None:
        limits.append(duration_text(config.retention_s))
    if config.retention_size is not None:
        limits.append(SIZE_OR_NONE.show(config.retention_size))
    return " or ".join(limits)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def flags(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/flags: every flag with its value, as texts."""
    return _success(as_flags(server.config))


async def active_queries(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/active_queries: queries that wait or run, the oldest first."""
    return _success({"queries": server.active_queries.listed()})


async def tsdb(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/tsdb: counts of series, label pairs and blocks."""
    params = await read_params(request, server.limits)
    limit = params.limit("limit", signed=True) if params.get("limit") else 10
    if limit < 1:
        raise BadRequest("limit must be a positive number")
    if limit > _TSDB_LIMIT_MAX:
        raise BadRequest(f"limit must not exceed {_TSDB_LIMIT_MAX}")
    return _success(await server.executor.metadata(server.database.tsdb_status, limit))


async def tsdb_blocks(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/tsdb/blocks: the parts, named as Prometheus names blocks."""
    return _success({"blocks": await server.executor.metadata(server.database.tsdb_blocks)})


async def config(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/config: every setting that a file can have, as it is in effect."""
    return _success({"yaml": as_yaml(server.config)})


async def walreplay(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/walreplay, before readiness too; segments are not counted."""
    return _success({"min": 0, "max": 0, "current": 0})


async def self_metrics(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/status/self_metrics: the server's own metrics as JSON."""
    params = await read_params(request, server.limits)
    pattern = params.get("metric_name_pattern")
    try:
        # RE2, because a client's pattern must not take exponential time.
        is_wanted = re2.compile(pattern).fullmatch if pattern else None
    except re2.error as error:
        raise BadRequest(f"invalid metric_name_pattern: {error}") from None
    families = await server.executor.background(server.telemetry.families)
    return _success([row for row in families if is_wanted is None or is_wanted(row["name"])])


async def features(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/features: what can be relied on, as category to feature to whether it is on."""
    found = {
        "api": {
            "admin": server.config.enable_admin_api,
            "exclude_alerts": True,
            "label_values_match": True,
            "lifecycle": server.config.enable_lifecycle,
            "openapi_3.1": True,
            "openapi_3.2": False,
            "otlp_write_receiver": server.config.enable_otlp,
            "query_stats": True,
            "query_warnings": True,
            "remote_write_receiver": True,
            "search": feature_switches.SEARCH_API in server.config.features,
            **{f"search_fuzz_alg_{name}": True for name in fuzzy.ALGORITHMS},
            "time_range_labels": True,
            "time_range_series": True,
        },
        "otlp_receiver": {
            "delta_conversion": False,
            "native_delta_ingestion": feature_switches.NATIVE_DELTA in server.config.features,
        },
        "prometheus": {"agent_mode": False, "auto_reload_config": False, "server_mode": True},
        "tsdb": {"exemplar_storage": True, "native_histograms": True, "st_storage": True},
        **server.database.promql_features(),
    }
    has_steps = feature_switches.PER_STEP_STATS in server.config.features
    found["promql"]["per_step_stats"] = has_steps
    # Operators such as >= are not escaped here, as in Prometheus.
    body = encode.success(orjson.dumps(found, option=orjson.OPT_SORT_KEYS))
    return web.Response(body=body, content_type="application/json")


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


def _success(data: Any) -> web.Response:
    body = encode.success(encode.plain(data))
    return web.Response(body=body, content_type="application/json")
