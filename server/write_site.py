"""Where connections come in: each of them begins as a `WriteConnection`.

Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from aiohttp import web

from .logs import LOGGER
from .plain_requests import PlainRoutes
from .protocols import remote_write
from .write_connection import WriteConnection
from .write_head import WriteHeads
from .write_lane import WriteLane

if TYPE_CHECKING:
    from .state import Server

_READ_SIZE = 256 * 1024
_IDLE_S = 75.0
_LOOK_S = 15.0


class WriteSite(web.TCPSite):
    """Listens as aiohttp's sites do; connections begin as `WriteConnection`."""

    def __init__(
        self, server: Server, runner: web.AppRunner, host: str, port: int, *, backlog: int = 1024
    ) -> None:
        super().__init__(runner, host, port, backlog=backlog)
        self.writes = Writes(server, runner)

    async def start(self) -> None:
        """Listen."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: WriteConnection(self.writes), self._host, self._port, backlog=self._backlog
        )

    async def stop(self) -> None:
        """Accept no more, and close connections as soon as they have no request."""
        await super().stop()
        self.writes.stop()


class Writes:
    """What the connections of one server share."""

    def __init__(self, server: Server, runner: web.AppRunner) -> None:
        self.server = server
        self.handlers = cast(web.Server, runner.server)
        self.routes = PlainRoutes(runner.app)
        self.heads = WriteHeads()
        self.lane = WriteLane(server, remote_write.Decompressor())
        self.read_buffer = bytearray(_READ_SIZE)
        self.read_view = memoryview(self.read_buffer)
        self.connections: set[WriteConnection] = set()
        self.is_stopping = False
        self._is_full = False
        self._loop = asyncio.get_running_loop()
        self._looking = self._loop.call_later(_LOOK_S, self._look)

    def admit(self, connection: WriteConnection) -> bool:
        """Count a new connection; False if there are too many, aiohttp's included."""
        limit = self.server.limits.connections_max
        is_full = len(self.connections) + len(self.handlers.connections) >= limit
        if is_full and not self._is_full:
            LOGGER.warning("connections over the limit of %d are refused", limit)
        self._is_full = is_full
        if not is_full:
            self.connections.add(connection)
        return not is_full

    def stop(self) -> None:
        """Close connections without a request now, the others after their answer."""
        self.is_stopping = True
        self._looking.cancel()
        for connection in list(self.connections):
            connection.close_if_idle(0.0)
        self.lane.close()

    def _look(self) -> None:
        self._looking = self._loop.call_later(_LOOK_S, self._look)
        for connection in list(self.connections):
            connection.close_if_idle(_IDLE_S)
