"""Requests that nobody sent, so that the first ones that somebody sends are not slow.

They are answered by an application of their own out of a database of their own, while the real one
is being opened: nothing is counted, logged or kept. Only Python, which has learned what they do by
then, and the caches of the processor know of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import urlencode

import tsengine

from .app import make_app
from .config import Config
from .plain_exchange import PlainExchange
from .plain_requests import PlainRoutes
from .state import Server

_TIMES = 4
"""Python looks at what a function does after eight calls; most are common to all requests."""
_SELECTOR = 'rehearsal{job="a"}'
_RATES = "sum by (job) (rate(rehearsal[1m]))"


class _Nobody:
    """The connection of somebody who reads whatever comes."""

    is_unread = False
    is_stopping = False

    def __init__(self) -> None:
        self.answered = asyncio.Event()

    def send(self, data: bytes | memoryview) -> None:
        pass

    def hand_over(self, data: bytes) -> None:
        raise AssertionError("all of it came at once")

    def go_on(self) -> None:
        self.answered.set()

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


async def rehearse(config: Config) -> None:
    """Answer some requests a few times, with the settings of a server."""
    server = Server(replace(config, query_log_file=None, query_slow_s=None))
    with tsengine.RehearsalDatabase() as database:
        server.set_ready(database)
        try:
            routes = PlainRoutes(make_app(server))
            for _ in range(_TIMES):
                for request in _REQUESTS:
                    await _ask(routes, request)
        finally:
            server.executor.close()


async def _ask(routes: PlainRoutes, data: bytes) -> None:
    request = routes.parse(data[: data.index(b"\r\n\r\n") + 2], "127.0.0.1")
    assert request is not None, "it is a plain one"
    nobody = _Nobody()
    PlainExchange(nobody).begin(request, data, 0, len(data))
    await nobody.answered.wait()


def _post(path: str, **form: str | float) -> bytes:
    body = urlencode(form).encode()
    return (
        f"POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: identity\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    ).encode() + body


_GRID = {"start": 150, "end": 300, "step": 15}
_REQUESTS = (
    _post("query", query=_SELECTOR, time=300),
    _post("query_range", query=_SELECTOR, **_GRID),
    _post("query", query=_RATES, time=300),
    _post("query_range", query=_RATES, **_GRID),
    _post("labels", start=150, end=300),
)
