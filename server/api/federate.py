"""/federate: the newest samples of chosen series, for another server's scrape."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from .params import read_params

if TYPE_CHECKING:
    from ..state import Server


@dataclass(frozen=True, slots=True)
class Format:
    """What the Accept header asks for."""

    openmetrics: bool = False
    utf8: bool = False

    @property
    def content_type(self) -> str:
        """The header of the answer."""
        escaping = "allow-utf-8" if self.utf8 else "underscores"
        if self.openmetrics:
            media = "application/openmetrics-text; version=1.0.0"
        else:
            media = f"text/plain; version={'1.0.0' if self.utf8 else '0.0.4'}"
        return f"{media}; charset=utf-8; escaping={escaping}"


def negotiate(accept: str) -> Format:
    """OpenMetrics or Prometheus's text, whichever is preferred; text when neither is named."""
    best, best_quality = Format(), 0.0
    for item in accept.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        if media not in ("text/plain", "application/openmetrics-text"):
            continue
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        try:
            quality = float(values.get("q", 1))
        except ValueError:
            continue
        if quality > best_quality:
            utf8 = values.get("escaping") == "allow-utf-8"
            best, best_quality = Format(media != "text/plain", utf8), quality
    return best


async def federate(server: Server, request: web.Request) -> web.Response:
    """GET /federate: an empty text without ``match[]``."""
    params = await read_params(request, server.limits)
    selectors = params.all("match[]")
    wanted = negotiate(request.headers.get("Accept", ""))
    database = server.database

    def call(timeout_s: float, cancel: threading.Event) -> bytes:
        # Imported late: pyarrow would make each start of the server wait for it.
        from tsengine.interop.exposition import exposition

        table = database.newest(selectors)
        return exposition(table, openmetrics=wanted.openmetrics, utf8=wanted.utf8)

    body = await server.executor.query(call, server.limits.query_timeout_s)
    return web.Response(body=body, headers={"Content-Type": wanted.content_type})
