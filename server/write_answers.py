"""Answers to remote writes, as our own connections send them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from .errors import NotReady, not_ready_response
from .plain_requests import head_of
from .protocols import remote_write

if TYPE_CHECKING:
    import tsengine

    from .state import Server

_VARY = {"/api/v1/write": "Accept-Encoding, Origin", "/write": ""}


def stored(route: str, result: tsengine.WriteResult) -> bytes:
    """The answer to a write of which everything is stored; it never ends a connection."""
    vary = f"Vary: {_VARY[route]}\r\n" if _VARY[route] else ""
    return (
        "HTTP/1.1 204 No Content\r\n"
        f"X-Prometheus-Remote-Write-Samples-Written: {result.samples}\r\n"
        f"X-Prometheus-Remote-Write-Histograms-Written: {result.histograms}\r\n"
        f"X-Prometheus-Remote-Write-Exemplars-Written: {result.exemplars}\r\n"
        f"{vary}"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    ).encode("latin-1")


def failed(server: Server, error: BaseException) -> web.Response:
    """The answer to a write that failed, which is counted."""
    remote_write.count_failure(server, error)
    if isinstance(error, NotReady):
        return not_ready_response(error, server.limits.retry_after_s)
    return remote_write.answer(server, None, error)


def text_of(route: str, response: web.Response, body: bytes, *, is_last: bool) -> bytes:
    """What is sent for a response, whose body is small."""
    if _VARY[route]:
        response.headers["Vary"] = _VARY[route]
    return head_of(response, len(body), is_last=is_last) + body
