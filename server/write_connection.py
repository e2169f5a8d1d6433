"""Connections on which requests come in, without a web framework's work for each of them.

Every connection begins here. What is plainly a remote write is read straight into its own memory
and handed to `write_lane`; what is plainly a request of `plain_requests` is answered by the
application. At the first request that is anything else (another path, chunks, a header that changes
how HTTP works, a refusal that needs no body) the connection is aiohttp's for the rest of its life,
with all bytes of that request. So there is one place for HTTP's corner cases, and answers here are
those of `protocols.remote_write` and of the application. Refusals that pass (too busy, not ready)
are answered here: they must not cost a connection its way.

A client that does not read its answers is not read from, and gets no further answers.

Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from aiohttp import web

from . import write_answers
from .errors import BodyTimeout, NotReady, RequestError, TooBusy
from .logs import LOGGER
from .plain_exchange import PlainExchange
from .plain_requests import PlainRequest
from .protocols import remote_write
from .write_head import WriteHead
from .write_lane import Write

if TYPE_CHECKING:
    from .write_site import Writes

_HEAD_SIZE_MAX = 8192
_WAITING_SIZE = 64 * 1024
"""What is read behind a request that has no answer yet: memory that no budget knows of."""
_END = b"\r\n\r\n"
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
)


class WriteConnection(asyncio.BufferedProtocol):
    """One connection until it is closed, or handed over to aiohttp."""

    __slots__ = (
        "_body", "_deadline", "_ending", "_filled", "_held", "_is_busy", "_is_paused",
        "_n_unwanted", "_pending", "_pending_at", "_plain", "_refusal", "_route", "_sender",
        "_shared", "_started_s", "_transport", "_version", "is_unread",
    )  # fmt: skip

    def __init__(self, writes: Writes) -> None:
        self._shared = writes
        self._transport: asyncio.Transport | None = None
        self._sender = ""
        self._started_s = time.perf_counter()
        self._route = ""
        self._version: Literal[1, 2] = 1
        # Of a request whose body is still coming.
        self._body: memoryview | None = None
        self._filled = 0
        self._held = 0
        self._deadline: asyncio.TimerHandle | None = None
        # Of a body that is refused: bytes that are still to come, and why.
        self._n_unwanted = 0
        self._refusal: RequestError | None = None
        self._plain = PlainExchange(self)
        # A request is with the lane or the application, or answers are not read; what came behind
        # it waits here.
        self._is_busy = False
        self.is_unread = False
        self._is_paused = False
        self._pending = b""
        self._pending_at = 0
        # Runs while the client has to read before we go on.
        self._ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; refuse the connection if too many are open."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._sender = str(peer[0]) if isinstance(peer, tuple) else str(peer or "")
        if not self._shared.admit(self):
            self._transport.write(_TOO_MANY)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a body that is not complete. A write that the lane has goes on."""
        self._transport = None
        self._plain.cancel()
        self._shared.connections.discard(self)
        self._cancel_ending()
        self._cancel_deadline()
        self._drop_body()
        self._pending = b""

    def eof_received(self) -> None:
        """Let the transport close; its end must not wait for the client for ever."""
        self._end_later()

    def pause_writing(self) -> None:
        """The client does not read its answers: take up nothing more of it."""
        self.is_unread = True
        self._end_later()

    def resume_writing(self) -> None:
        """It reads again."""
        self.is_unread = False
        self._plain.resume_writing()
        if self._transport is None or self._transport.is_closing():
            return
        self._cancel_ending()
        self._go_on_soon()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: the rest of a body, or what all connections share."""
        if self._body is not None:
            return self._body[self._filled :]
        if self._n_unwanted:
            return self._shared.read_view[: self._n_unwanted]
        if self._is_busy or self.is_unread:
            return self._shared.read_view[:_WAITING_SIZE]
        return self._shared.read_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that came."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._body is not None:
            self._more_body(nbytes)
        elif self._n_unwanted:
            self._less_unwanted(nbytes)
        elif self._plain.is_reading:
            request, data = self._plain.with_more(self._shared.read_view[:nbytes])
            self._begin_plain(request, data, 0, len(data))
        elif self._is_busy or self.is_unread or self._pending:
            # One read, and then the client waits.
            self._transport.pause_reading()
            self._is_paused = True
            self._pending = self._pending[self._pending_at :] + self._shared.read_view[:nbytes]
            self._pending_at = 0
        else:
            self._begin(self._shared.read_buffer, 0, nbytes)

    def close_if_idle(self, idle_s: float) -> None:
        """Close if no request began for so long; at once if that is 0."""
        is_reading = self._body is not None or self._n_unwanted or self._plain.is_reading
        if self._is_busy or is_reading or self._transport is None:
            return
        if not idle_s or time.perf_counter() - self._started_s >= idle_s:
            self.close()

    def _begin(self, data: bytes | bytearray, at: int, size: int) -> None:
        """Begin with the request at the start of ``data[at:size]``."""
        self._started_s = time.perf_counter()
        head_end = data.find(_END, at, min(size, at + _HEAD_SIZE_MAX))
        head = b"" if head_end < 0 else bytes(data[at : head_end + 2])
        write = self._shared.heads.parse(head, self._shared.server.limits.write_body_size_max)
        if write is not None:
            self._begin_write(write, data, head_end + len(_END), size)
            return
        request = self._shared.routes.parse(head, self._sender)
        if request is None:
            self.hand_over(bytes(data[at:size]))
        else:
            self._begin_plain(request, data, at, size)

    def _begin_write(
        self, write: WriteHead, data: bytes | bytearray, start: int, size: int
    ) -> None:
        """Begin with a body, of which ``data[start:size]`` is there, or more than it."""
        self._route, self._version, body_size = write
        end = min(start + body_size, size)
        n_there = end - start
        refusal = self._hold(n_there)
        self._keep(data, end, size)
        if n_there == body_size:
            if refusal is None:
                self._store(bytes(memoryview(data)[start:end]))
            else:
                self._refuse(refusal, is_last=False)
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(
            self._shared.server.limits.body_read_timeout_s, self._body_is_late
        )
        self._read_on()
        if refusal is not None:
            self._refusal, self._n_unwanted = refusal, body_size - n_there
            return
        # Not a bytearray: its zeros would take the memory that the client only announced.
        self._body = np.empty(body_size, np.uint8).data
        self._body[:n_there] = data[start:end]
        self._filled = n_there

    def _begin_plain(
        self, request: PlainRequest, data: bytes | bytearray, at: int, size: int
    ) -> None:
        """Let the request at the start of ``data[at:size]`` be answered when its form is there."""
        end = self._plain.begin(request, data, at, size)
        if end < 0:
            self._pending = b""
            self._read_on()
            return
        self._keep(data, end, size)
        self._is_busy = True

    def go_on(self) -> None:
        """Take up what came behind a request that is answered."""
        self._is_busy = False
        self._started_s = time.perf_counter()
        self._go_on_soon()

    @property
    def is_stopping(self) -> bool:
        """Whether every answer is to be the last one of its connection."""
        return self._shared.is_stopping

    def send(self, data: bytes | memoryview) -> None:
        """Send a part of an answer; raises ConnectionResetError if the client has left."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._transport.write(data)

    def _hold(self, n_bytes: int) -> RequestError | None:
        """Take so much of the budget for a body, or say why there is no use in reading it."""
        server = self._shared.server
        if server.not_ready_reason:
            return NotReady(server.not_ready_reason)
        if not server.write_budget.take(n_bytes):
            return TooBusy.of(server.write_budget)
        self._held += n_bytes
        return None

    def _keep(self, data: bytes | bytearray, at: int, size: int) -> None:
        """Let ``data[at:size]`` wait; without a copy if it does so already."""
        if at == size:
            self._pending = b""
        elif data is self._pending:
            self._pending_at = at
        else:
            self._pending, self._pending_at = bytes(data[at:size]), 0

    def hand_over(self, data: bytes) -> None:
        """Let aiohttp have the connection, and all that came since its last answer."""
        transport = self._transport
        if transport is None:
            return
        self._shared.connections.discard(self)
        self._transport = None
        self._pending = b""
        handler = self._shared.handlers()
        # Both kinds of protocols read in their own way; a pause lets the transport change.
        transport.pause_reading()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        transport.resume_reading()
        handler.data_received(data)

    def _more_body(self, n_bytes: int) -> None:
        assert self._body is not None, "asked for"
        self._filled += n_bytes
        refusal = self._hold(n_bytes)
        n_left = len(self._body) - self._filled
        if refusal is not None:
            self._drop_body()
            self._refusal, self._n_unwanted = refusal, n_left
            self._less_unwanted(0)
        elif not n_left:
            body, self._body = self._body, None
            self._cancel_deadline()
            self._store(body)

    def _less_unwanted(self, n_bytes: int) -> None:
        """Some of a refused body came. It is answered when all came, so that it is answered."""
        assert self._refusal is not None, "it is refused"
        self._n_unwanted -= n_bytes
        if not self._n_unwanted:
            self._cancel_deadline()
            self._refuse(self._refusal, is_last=False)

    def _body_is_late(self) -> None:
        limit_s = self._shared.server.limits.body_read_timeout_s
        error = BodyTimeout(f"the request body did not arrive within {limit_s:g} s")
        self._deadline = None
        # The connection ends, as the rest of the body may still come.
        self._refuse(error, is_last=True)

    def _refuse(self, error: RequestError, *, is_last: bool) -> None:
        """Answer a request whose body is not stored."""
        self._cancel_deadline()
        self._drop_body()
        self._send(write_answers.failed(self._shared.server, error), is_last=is_last)
        self._go_on_soon()

    def _store(self, body: bytes | memoryview) -> None:
        """Hand a complete body to the lane."""
        server = self._shared.server
        held, self._held = self._held, 0
        self._is_busy = True
        write = Write(body, held, self._version, self._sender, self._answer, self._started_s)
        try:
            if self._shared.is_stopping:
                raise NotReady(server.not_ready_reason)
            size = remote_write.claimed_size(bytes(body[:5]), len(body), server.limits)
            if not server.write_budget.take(size):
                raise TooBusy.of(server.write_budget)
        except RequestError as error:
            server.write_budget.give_back(held)
            write.error = error
            self._answer(write)
            return
        write.held += size
        server.telemetry.write_body_bytes.inc(len(body))
        self._shared.lane.submit(write)

    def _answer(self, write: Write) -> None:
        """Tell the client what became of its write, then go on with what it sent meanwhile."""
        shared = self._shared
        self._is_busy = False
        result, error = write.result, write.error
        if error is not None or result is None:
            assert error is not None, "one of the two"
            self._send(write_answers.failed(shared.server, error), is_last=False)
        else:
            shared.server.telemetry.count_write(
                protocol=f"{write.version}.0", message_size=write.message_size, result=result
            )
            if result.shed or result.rejected:
                self._send(remote_write.answer(shared.server, result, None), is_last=False)
            else:
                self._send_stored(result)
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        """Not now: a client may have sent a thousand requests at once."""
        if self._is_paused or self._pending:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what the client sent behind its last request."""
        is_reading = self._body is not None or self._n_unwanted or self._plain.is_reading
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_busy or self.is_unread or is_reading:
            return
        n_pending = len(self._pending) - self._pending_at
        if n_pending < _HEAD_SIZE_MAX:
            self._read_on()
        if self._pending:
            self._begin(self._pending, self._pending_at, len(self._pending))

    def _read_on(self) -> None:
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()

    def _send_stored(self, result: Any) -> None:
        self._observe(204, 0)
        if self._transport is None:
            return
        self._transport.write(write_answers.stored(self._route, result))
        if self._shared.is_stopping:
            self.close()

    def _send(self, response: web.Response, *, is_last: bool) -> None:
        is_last = is_last or self._shared.is_stopping
        body = response.body if isinstance(response.body, bytes) else b""
        self._observe(response.status, len(body))
        if self._transport is None:
            return
        text = write_answers.text_of(self._route, response, body, is_last=is_last)
        self._transport.write(text)
        if is_last:
            self.close()

    def close(self) -> None:
        """Close when all answers are sent, or when the client has not read them for too long."""
        if self._transport is not None:
            self._transport.close()
            self._end_later()

    def abort(self) -> None:
        """Close now; nothing more is sent."""
        if self._transport is not None:
            self._transport.abort()

    def _end_later(self) -> None:
        """End the connection, unless its client reads in time."""
        transport = self._transport
        if transport is not None and self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(
                self._shared.server.limits.answer_write_timeout_s, transport.abort
            )

    def _cancel_ending(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _observe(self, status: int, n_sent: int) -> None:
        seconds = time.perf_counter() - self._started_s
        self._shared.server.telemetry.observe_request(self._route, status, seconds, n_sent)
        LOGGER.debug("POST %s %d %.6fs", self._route, status, seconds)

    def _drop_body(self) -> None:
        self._body = None
        self._filled = self._n_unwanted = 0
        self._refusal = None
        if self._held:
            self._shared.server.write_budget.give_back(self._held)
            self._held = 0

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
