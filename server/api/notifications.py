"""/api/v1/notifications: messages to those who look at Prometheus's user interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from . import encode

if TYPE_CHECKING:
    from ..state import Server


async def notifications(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/notifications: none; before readiness too."""
    return web.Response(body=encode.success(b"[]"), content_type="application/json")


async def live(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/notifications/live: no stream.

    204 is what Prometheus answers when it has no stream to spare; browsers don't ask again then.
    """
    return web.Response(
        status=204, headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    )
