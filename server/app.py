"""Routes and middleware, nothing else."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from . import errors
from .api import (
    admin,
    encode,
    expressions,
    federate,
    health,
    labels,
    notifications,
    openapi,
    queries,
    search,
    status,
    targets,
)
from .api.params import is_api_path
from .api.pieces import Body, body_size
from .logs import LOGGER
from .protocols import otlp, remote_read, remote_write
from .state import Server

Endpoint: TypeAlias = Callable[[Server, web.Request], Awaitable[web.StreamResponse]]

_GET = ("GET",)
_GET_HEAD = ("GET", "HEAD")
_GET_POST = ("GET", "POST")
_POST = ("POST",)
_POST_PUT = ("POST", "PUT")

ROUTES: tuple[tuple[str, tuple[str, ...], Endpoint], ...] = (
    ("/", _GET_HEAD, health.index),
    ("/-/healthy", _GET_HEAD, health.healthy),
    ("/-/ready", _GET_HEAD, health.ready),
    ("/-/reload", _POST_PUT, health.reload),
    ("/-/quit", _POST_PUT, health.quit_server),
    ("/metrics", _GET_HEAD, health.metrics),
    ("/version", _GET, status.version),
    ("/federate", _GET, federate.federate),
    ("/write", _POST, remote_write.handle),
    ("/api/v1/read", _POST, remote_read.handle),
    ("/api/v1/write", _POST, remote_write.handle),
    ("/api/v1/otlp/v1/metrics", _POST, otlp.handle),
    ("/api/v1/query", _GET_POST, queries.query),
    ("/api/v1/query_range", _GET_POST, queries.query_range),
    ("/api/v1/query_exemplars", _GET_POST, queries.query_exemplars),
    ("/api/v1/format_query", _GET_POST, expressions.format_query),
    ("/api/v1/parse_query", _GET_POST, expressions.parse_query),
    ("/api/v1/series", _GET_POST, labels.series),
    ("/api/v1/labels", _GET_POST, labels.label_names),
    ("/api/v1/label/{name}/values", _GET, labels.label_values),
    ("/api/v1/metadata", _GET, labels.metadata),
    ("/api/v1/search/metric_names", _GET_POST, search.metric_names),
    ("/api/v1/search/label_names", _GET_POST, search.label_names),
    ("/api/v1/search/label_values", _GET_POST, search.label_values),
    ("/api/v1/rules", _GET, status.rules),
    ("/api/v1/alerts", _GET, status.alerts),
    ("/api/v1/targets", _GET, targets.targets),
    ("/api/v1/targets/metadata", _GET, targets.targets_metadata),
    ("/api/v1/targets/relabel_steps", _GET, targets.relabel_steps),
    ("/api/v1/scrape_pools", _GET, targets.scrape_pools),
    ("/api/v1/scrape_pools/config", _GET, targets.scrape_pool_config),
    ("/api/v1/alertmanagers", _GET, targets.alertmanagers),
    ("/api/v1/features", _GET, status.features),
    ("/api/v1/openapi.yaml", _GET, openapi.openapi),
    ("/api/v1/notifications", _GET, notifications.notifications),
    ("/api/v1/notifications/live", _GET, notifications.live),
    ("/api/v1/status/config", _GET, status.config),
    ("/api/v1/status/walreplay", _GET, status.walreplay),
    ("/api/v1/status/self_metrics", _GET, status.self_metrics),
    ("/api/v1/status/tsdb/blocks", _GET, status.tsdb_blocks),
    ("/api/v1/status/buildinfo", _GET, status.buildinfo),
    ("/api/v1/status/runtimeinfo", _GET, status.runtimeinfo),
    ("/api/v1/status/flags", _GET, status.flags),
    ("/api/v1/status/tsdb", _GET, status.tsdb),
    ("/api/v1/status/active_queries", _GET, status.active_queries),
    ("/api/v1/admin/tsdb/flush", _POST_PUT, admin.flush),
    ("/api/v1/admin/tsdb/pause", _POST_PUT, admin.pause),
    ("/api/v1/admin/tsdb/resume", _POST_PUT, admin.resume),
    ("/api/v1/admin/tsdb/delete_series", _POST_PUT, admin.delete_series),
    ("/api/v1/admin/tsdb/clean_tombstones", _POST_PUT, admin.clean_tombstones),
    ("/api/v1/admin/tsdb/snapshot", _POST_PUT, admin.snapshot),
)

_ALWAYS_SERVED = (
    "/-/", "/metrics", "/version", "/api/v1/notifications", "/api/v1/status/walreplay",
    "/api/v1/openapi.yaml",
)  # fmt: skip
"""Paths that answer before the start is complete; so does ``/`` itself."""


def make_app(server: Server) -> web.Application:
    """The application of one server."""
    app = web.Application(
        middlewares=[
            _observing(server), _cross_origin(server), _compressing(server),
            _catching(server), _refusing_until_ready(server),
        ],
    )  # fmt: skip
    for path, methods, endpoint in ROUTES:
        # What answers GET answers HEAD: the same without the body.
        answered = {*methods, "HEAD"} if "GET" in methods else {*methods}
        for method in sorted(answered):
            app.router.add_route(method, path, _bound(server, endpoint))
    return app


def _bound(server: Server, endpoint: Endpoint) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await endpoint(server, request)

    return handler


def _handler_name(request: web.Request) -> str:
    """The route, not the path: its number of values is bounded."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def _observing(server: Server) -> Middleware:
    """Count every answer, also the ones to clients that left."""
    telemetry = server.telemetry
    # Looking up a metric's child takes longer than counting.
    requests = functools.cache(telemetry.http_requests.labels)
    durations = functools.cache(telemetry.http_seconds.labels)
    sent = functools.cache(telemetry.http_sent_bytes.labels)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        name = _handler_name(request)
        # Methods are the client's words: only known ones become label values.
        method = request.method if request.method in hdrs.METH_ALL else "other"
        code = "499"
        try:
            response = await handler(request)
            code = str(response.status)
            sent(name).inc(body_size(response))
            return response
        finally:
            seconds = time.perf_counter() - started
            requests(name, method, code).inc()
            durations(name).observe(seconds)
            LOGGER.debug("%s %s %s %.6fs", request.method, request.path, code, seconds)

    return middleware


def _cross_origin(
    server: Server,
) -> Middleware:
    """CORS headers for web pages whose origin matches, and OPTIONS on any API path."""
    pattern = re.compile(server.config.cors_origin)
    everyone = server.config.cors_origin == ".*"

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_api_path(request.path):
            return await handler(request)
        if request.method == "OPTIONS":
            response: web.StreamResponse = web.Response(status=204)
        else:
            response = await handler(request)
        own = [response.headers["Vary"]] if "Vary" in response.headers else []
        response.headers["Vary"] = ", ".join([*own, "Accept-Encoding, Origin"])
        origin = request.headers.get("Origin")
        if origin is not None and (everyone or pattern.fullmatch(origin)):
            response.headers["Access-Control-Allow-Origin"] = "*" if everyone else origin
            response.headers["Access-Control-Allow-Headers"] = (
                "Accept, Authorization, Content-Type, Origin"
            )
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
            response.headers["Access-Control-Expose-Headers"] = "Date"
        return response

    return middleware


def _compressing(
    server: Server,
) -> Middleware:
    """Gzip or deflate, as the client accepts; large bodies off the event loop and in pieces."""
    timeout_s = server.limits.answer_write_timeout_s

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(body, bytes) or len(body) < encode.COMPRESS_SIZE_MIN:
            return response
        assert isinstance(response, web.Response), "only these have a body"
        encoding = None
        if "Content-Encoding" not in response.headers:
            encoding = encode.choose_encoding(request.headers.get("Accept-Encoding", ""))
        if encoding is not None:
            if len(body) < encode.COMPRESS_INLINE_SIZE_MAX:
                body = encode.compress(body, encoding)
            else:
                body = await server.executor.background(encode.compress, body, encoding)
            response.headers["Content-Encoding"] = encoding
        response.body = Body([body]).content(timeout_s)
        return response

    return middleware


def _catching(server: Server) -> Middleware:
    """Every exception becomes an answer here."""
    retry_after_s = server.limits.retry_after_s

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found\n")
        except web.HTTPMethodNotAllowed as error:
            allow = ", ".join(sorted(error.allowed_methods))
            return web.Response(status=405, text="Method Not Allowed\n", headers={"Allow": allow})
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n")
        except errors.NotReady as error:
            return errors.not_ready_response(error, retry_after_s)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # A request border: logged, and answered.
            if not errors.is_foreseen(error):
                LOGGER.exception("%s %s failed", request.method, request.path)
            elif errors.classify(error).error_type == "internal":
                LOGGER.error("%s %s: %s", request.method, request.path, error)
            answer = errors.json_response if is_api_path(request.path) else errors.text_response
            return answer(error, retry_after_s)

    return middleware


def _refusing_until_ready(
    server: Server,
) -> Middleware:
    """Before the start is complete only health, metrics and unknown paths are answered."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_known = request.match_info.http_exception is None
        if (
            server.not_ready_reason
            and is_known
            and request.path != "/"
            and not request.path.startswith(_ALWAYS_SERVED)
        ):
            raise errors.NotReady(server.not_ready_reason)
        return await handler(request)

    return middleware
