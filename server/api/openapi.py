"""/api/v1/openapi.yaml: the description of everything that is served, a file of this package."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from ..state import Server


async def openapi(server: Server, request: web.Request) -> web.Response:
    """GET /api/v1/openapi.yaml: OpenAPI 3.1, whatever version is asked for."""
    return web.Response(
        body=document(), headers={"Content-Type": "application/yaml; charset=utf-8"}
    )


@cache
def document() -> bytes:
    """The text of the description."""
    package = __package__.rpartition(".")[0]
    return resources.files(package).joinpath("openapi.yaml").read_bytes()
