"""Requests for what is stored, as our own connections read them and write their answers.

A request is plain if its head says all about it: one of a few paths, headers that come once each
and have no say in how HTTP works, a form of known and moderate size or none. The application's
handlers and middlewares answer it as any other; only HTTP around them is read and written here, in
a fraction of the time. All else is aiohttp's, so HTTP's corner cases are in one place.

Everything runs on the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

FORM_SIZE_MAX = 64 * 1024
"""Larger forms take longer to read than the way to aiohttp does."""
HEADERS_MAX = 64
"""Requests with more headers are aiohttp's, which has a limit."""
UNPLAIN = frozenset(
    {
        "transfer-encoding", "expect", "upgrade", "te", "trailer", "proxy-connection",
        "sec-websocket-key1",
    }
)  # fmt: skip
"""Headers that change how HTTP works, or that aiohttp refuses."""

_PATHS = frozenset(
    {
        "/api/v1/query", "/api/v1/query_range", "/api/v1/query_exemplars", "/api/v1/format_query",
        "/api/v1/parse_query", "/api/v1/series", "/api/v1/labels", "/api/v1/label/{name}/values",
        "/api/v1/metadata", "/api/v1/rules", "/api/v1/status/buildinfo",
    }
)  # fmt: skip
"""What dashboards ask; their handlers use no more of a request than a `PlainRequest` has."""

# No fragment in the target, and nothing that would have to be decoded to know the path.
_HEAD = re.compile(
    r"(GET|POST) (/[A-Za-z0-9_/]+)((?:\?[!-\"$-~]*)?) HTTP/1\.1\r\n"
    r"((?:[A-Za-z0-9-]+:[\x20-\x7e]*\r\n)+)"
)
_LABEL_VALUES = re.compile(r"/api/v1/label/[A-Za-z_][A-Za-z0-9_]*/values")
_FORM = "application/x-www-form-urlencoded"

_Handle: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class PlainRequest:
    """What handlers and middlewares use of an aiohttp request.

    `head_size` bytes are followed by `body_size` bytes of a form; `is_last`: the client wants no
    further answer.
    """

    method: str
    path: str
    raw_path: str
    headers: CIMultiDict[str]
    remote: str
    match_info: web.UrlMappingMatchInfo
    handle: _Handle
    head_size: int
    body_size: int
    is_last: bool
    body: bytes = b""

    async def answer(self) -> web.Response:
        """What the application answers."""
        response = await self.handle(cast(web.Request, self))
        assert isinstance(response, web.Response), "none of the paths is answered by a stream"
        return response


class PlainRoutes:
    """Finds the handlers of plain requests in an application that is complete."""

    def __init__(self, app: web.Application) -> None:
        self._routes: dict[tuple[str, str], tuple[_Handle, web.UrlMappingMatchInfo]] = {}
        for resource in app.router.resources():
            if resource.canonical not in _PATHS:
                continue
            for route in resource:
                handle: _Handle = route.handler
                for middleware in reversed(app.middlewares):
                    handle = partial(middleware, handler=handle)
                known = (handle, web.UrlMappingMatchInfo({}, route))
                self._routes[route.method, resource.canonical] = known

    def parse(self, head: bytes, remote: str) -> PlainRequest | None:
        """The request of a head, its last line end included; None if it is not plain."""
        match = _HEAD.fullmatch(head.decode("latin-1"))
        if match is None:
            return None
        method, path, query, lines = match.groups()
        canonical = path
        if _LABEL_VALUES.fullmatch(path):
            canonical = "/api/v1/label/{name}/values"
        route = self._routes.get((method, canonical))
        if route is None:
            return None
        headers: CIMultiDict[str] = CIMultiDict()
        for line in lines.split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            if name in headers or name.lower() in UNPLAIN:
                return None
            headers[name] = value.strip(" ")
        if len(headers) > HEADERS_MAX or "Host" not in headers:
            return None
        connection = headers.get("Connection", "keep-alive").lower()
        size = _form_size(method, headers)
        if size < 0 or connection not in ("keep-alive", "close"):
            return None
        handle, match_info = route
        return PlainRequest(
            method, path, path + query, headers, remote, match_info, handle,
            len(head) + 2, size, is_last=connection == "close",
        )  # fmt: skip


def _form_size(method: str, headers: CIMultiDict[str]) -> int:
    """Bytes of the body; -1 if it is no plain form."""
    text = headers.get("Content-Length", "0")
    if not text.isdecimal() or len(text) > 6 or int(text) > FORM_SIZE_MAX:
        return -1
    size = int(text)
    if size and (method == "GET" or headers.get("Content-Type", "").partition(";")[0] != _FORM):
        return -1
    return size


def head_of(response: web.Response, body_size: int, *, is_last: bool) -> bytes:
    """Status and headers of an answer, as aiohttp would write them."""
    headers = response.headers
    if response.status != 204:
        headers["Content-Length"] = str(body_size)
    headers["Date"] = rfc822_formatted_time()
    headers["Server"] = SERVER_SOFTWARE
    if is_last:
        headers["Connection"] = "close"
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8")
