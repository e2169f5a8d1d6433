"""The plain request of a connection: its form, as long as that comes, and then its answer.

Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from .api.queries import HeldResponse
from .logs import LOGGER
from .plain_requests import PlainRequest, head_of

_FORM_S = 5.0
"""Forms that take longer to come are aiohttp's."""


class Carrier(Protocol):
    """The connection of an exchange."""

    is_unread: bool
    """The client does not read what was sent."""

    @property
    def is_stopping(self) -> bool:
        """Whether this answer is to be the last one."""
        ...

    def send(self, data: bytes | memoryview) -> None:
        """Send bytes; raises ConnectionResetError if the client has left."""
        ...

    def hand_over(self, data: bytes) -> None:
        """Let aiohttp have the connection, with all bytes of the request that came."""
        ...

    def go_on(self) -> None:
        """The request is answered: take up the next one."""
        ...

    def close(self) -> None:
        """Close when all that was written is sent."""
        ...

    def abort(self) -> None:
        """Close now."""
        ...


class PlainExchange:
    """One request at a time, from its head to the end of its answer."""

    __slots__ = ("_answering", "_asked", "_carrier", "_deadline", "_drained")

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        # A request whose form is still coming, with what came of it.
        self._asked: tuple[PlainRequest, bytes] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def is_reading(self) -> bool:
        """Whether a form is still coming."""
        return self._asked is not None

    def begin(self, request: PlainRequest, data: bytes | bytearray, at: int, size: int) -> int:
        """Take up the request at the start of ``data[at:size]``.

        Returns the position behind it; -1 if its form is not there yet. Then all of it is kept.
        """
        start = at + request.head_size
        end = start + request.body_size
        if end > size:
            self._asked = (request, bytes(data[at:size]))
            if self._deadline is None:
                loop = asyncio.get_running_loop()
                self._deadline = loop.call_later(_FORM_S, self._form_is_late)
            return -1
        self._forget_form()
        request.body = bytes(data[start:end])
        self._answering = asyncio.get_running_loop().create_task(self._respond(request))
        return end

    def with_more(self, piece: memoryview) -> tuple[PlainRequest, bytes]:
        """The request whose form is coming, and all that came of it by now: for `begin`."""
        assert self._asked is not None, "a form is coming"
        request, begin = self._asked
        return request, begin + piece

    def cancel(self) -> None:
        """The client has left."""
        self._forget_form()
        if self._answering is not None:
            self._answering.cancel()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def write(self, piece: bytes | memoryview) -> None:
        """Send a piece of a large answer; returns when the client is ready for the next."""
        self._carrier.send(piece)
        if self._carrier.is_unread:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _form_is_late(self) -> None:
        assert self._asked is not None, "the deadline is cancelled with the form's end"
        data = self._asked[1]
        self._forget_form()
        self._carrier.hand_over(data)

    def _forget_form(self) -> None:
        self._asked = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    async def _respond(self, request: PlainRequest) -> None:
        """Send what the application answers; a client that leaves cancels it."""
        try:
            response = await request.answer()
            try:
                await self._send(response, is_last=request.is_last)
            finally:
                if isinstance(response, HeldResponse):
                    response.release()
        except ConnectionError:
            LOGGER.debug("the client of %s left", request.path)
            self._carrier.abort()
        except asyncio.CancelledError:
            self._carrier.abort()
            raise
        # A request border: nobody is to wait for ever. A library that is not written in Python may
        # raise what is no Exception.
        except BaseException:
            LOGGER.exception("the answer to %s could not be sent", request.path)
            self._carrier.abort()
        self._answering = None
        self._carrier.go_on()

    async def _send(self, response: web.Response, *, is_last: bool) -> None:
        is_last = is_last or self._carrier.is_stopping
        body = response.body
        if isinstance(body, payload.Payload):
            self._carrier.send(head_of(response, body.size or 0, is_last=is_last))
            await body.write(cast(AbstractStreamWriter, self))
        else:
            body = body or b""
            self._carrier.send(head_of(response, len(body), is_last=is_last) + body)
        if is_last:
            self._carrier.close()
