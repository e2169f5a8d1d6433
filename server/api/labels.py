"""/api/v1/series, /labels, /label/{name}/values, /metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from aiohttp import web

from tsengine import errors

from ..errors import BadParameter, BadRequest
from . import encode
from .params import Params, read_params, unescape_label_name

if TYPE_CHECKING:
    from ..state import Server

Check = Callable[[], None]
_TRUNCATED = ("results truncated due to limit",)


async def series(server: Server, request: web.Request) -> web.Response:
    """Label sets of the series that match one of the selectors."""
    params = await read_params(request, server.limits)
    selectors = params.all("match[]")
    if not selectors:
        raise BadRequest("no match[] parameter provided")
    start, end = params.range_ms()
    limit = params.limit()

    def call(check: Check) -> bytes:
        pieces, is_truncated = server.database.series_json(
            selectors, start, end, limit, check=check
        )
        return b"".join(encode.success_pieces(pieces, _TRUNCATED if is_truncated else ()))

    return await answer_search(server, params, call)


async def label_names(server: Server, request: web.Request) -> web.Response:
    """Sorted label names of the matching series, or of all."""
    params = await read_params(request, server.limits)
    selectors = params.all("match[]")
    start, end = params.range_ms()
    limit = params.limit()

    def call(check: Check) -> bytes:
        return _list(*server.database.label_names(selectors, start, end, limit, check=check))

    return await answer_search(server, params, call)


async def label_values(server: Server, request: web.Request) -> web.Response:
    """Sorted values of one label among the matching series, or among all."""
    name = _label_name(request)
    params = await read_params(request, server.limits)
    selectors = params.all("match[]")
    start, end = params.range_ms()
    limit = params.limit()

    def call(check: Check) -> bytes:
        found = server.database.label_values(name, selectors, start, end, limit, check=check)
        return _list(*found)

    return await answer_search(server, params, call)


def _label_name(request: web.Request) -> str:
    """The name between ``/label/`` and ``/values``, by the bytes of the path."""
    raw = request.raw_path.partition("?")[0].split("/")[-2]
    try:
        return unescape_label_name(unquote_to_bytes(raw).decode())
    except UnicodeDecodeError:
        raise BadRequest(f'invalid label name: "{raw}" is not valid UTF-8') from None


def _list(texts: Sequence[str], is_truncated: bool) -> bytes:
    return encode.success(encode.plain(texts), _TRUNCATED if is_truncated else ())


async def answer_search(
    server: Server, params: Params, call: Callable[[Check], bytes]
) -> web.Response:
    """Run a search within the ``timeout`` of the request, shortened to that of the server."""
    timeout_s = server.limits.query_timeout_s
    if params.get("timeout"):
        timeout_s = min(timeout_s, params.duration_ms("timeout") / 1000)
    try:
        body = await server.executor.search(call, timeout_s)
    except (errors.QueryLimitExceeded, errors.QueryTimeout, errors.QueryCanceled):
        raise
    except errors.QueryError as error:  # A selector's syntax, regex or lack of a matcher.
        raise BadParameter("match[]", str(error)) from None
    return web.Response(body=body, content_type="application/json")


async def metadata(server: Server, request: web.Request) -> web.Response:
    """Types, help texts and units by metric name."""
    params = await read_params(request, server.limits)
    metric = params.get("metric") or None
    # Prometheus reads 0 as "none at all" here; absent or negative means no limit.
    limit = params.limit(signed=True)
    limit_per_metric = params.limit("limit_per_metric", signed=True)

    def call(check: Check) -> bytes:
        if limit == 0:
            return encode.success(b"{}")
        found = server.database.metadata(metric, max(limit, 0), max(limit_per_metric, 0))
        return encode.success(encode.plain(found))

    return await answer_search(server, params, call)
