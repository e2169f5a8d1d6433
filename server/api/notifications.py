"""/api/v1/notifications: messages to those who look at Prometheus's user interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from . import encode

if TYPE_CHECKING:
    from ..state import Server


async def notifications(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/notifications: whether the last reload was refused; before readiness too."""
    found = []
    if not server.reload_succeeded:
        date = server.reload_failed_at.isoformat().replace("+00:00", "Z")
        text = "Configuration reload has failed."
        found.append({"text": text, "date": date, "active": True})
    return web.Response(body=encode.success(encode.plain(found)), content_type="application/json")


async def live(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/notifications/live: no stream.

    204 is what Prometheus answers when it has no stream to spare; browsers don't ask again then.
    """
    return web.Response(
        status=204, headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
