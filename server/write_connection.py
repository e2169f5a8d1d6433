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
import re
import time
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from .api.queries import HeldResponse
from .errors import (
    BodyTimeout,
    NotReady,
    RequestError,
    TooBusy,
    UnsupportedMedia,
    not_ready_response,
)
from .limits import ByteBudget
from .logs import LOGGER
from .plain_requests import PlainRequest, PlainRoutes, head_of
from .protocols import remote_write
from .write_lane import Write, WriteLane

if TYPE_CHECKING:
    from .state import Server

_HEAD_SIZE_MAX = 8192
_READ_SIZE = 256 * 1024
_IDLE_S = 75.0
_LOOK_S = 15.0
_FORM_S = 5.0
"""Forms that take longer to come are aiohttp's."""
_PATHS = {b"POST /api/v1/write HTTP/1.1": "/api/v1/write", b"POST /write HTTP/1.1": "/write"}
_VARY = {"/api/v1/write": "Vary: Accept-Encoding, Origin\r\n", "/write": ""}
_HEADERS = re.compile(rb"(?:[A-Za-z0-9-]+:[\x20-\x7e]*\r\n)+")
_UNPLAIN = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"origin", b"te", b"trailer"))
_END = b"\r\n\r\n"
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
)


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
        self.lane = WriteLane(server, remote_write.Decompressor())
        self.read_buffer = bytearray(_READ_SIZE)
        self.read_view = memoryview(self.read_buffer)
        self.connections: set[WriteConnection] = set()
        self.is_stopping = False
        self._is_full = False
        self._versions: dict[tuple[bytes, bytes], Literal[1, 2]] = {}
        self._loop = asyncio.get_running_loop()
        self._looking = self._loop.call_later(_LOOK_S, self._look)

    def version(self, content_type: bytes, content_encoding: bytes) -> Literal[1, 2] | None:
        """As `remote_write.negotiate`, of headers as they came; None for a refusal."""
        known = self._versions.get((content_type, content_encoding))
        if known is None:
            try:
                known = remote_write.negotiate(content_type.decode(), content_encoding.decode())
            except UnsupportedMedia:
                return None
            if len(self._versions) < 100:
                self._versions[content_type, content_encoding] = known
        return known

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


class WriteConnection(asyncio.BufferedProtocol):
    """One connection until it is closed, or handed over to aiohttp."""

    __slots__ = (
        "_answering", "_asked", "_body", "_deadline", "_drained", "_ending", "_filled", "_held",
        "_is_busy", "_is_paused", "_is_unread", "_n_unwanted", "_pending", "_pending_at",
        "_refusal", "_route", "_sender", "_shared", "_started_s", "_transport", "_version",
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
        # A request whose form is still coming, with what came of it, and one that is answered.
        self._asked: tuple[PlainRequest, bytes] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        # A request is with the lane or the application, or answers are not read; what came behind
        # it waits here.
        self._is_busy = False
        self._is_unread = False
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
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a body that is not complete. A write that the lane has goes on."""
        self._transport = None
        self._asked = None
        if self._answering is not None:
            self._answering.cancel()
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
        self._is_unread = True
        self._end_later()

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_unread = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
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
        return self._shared.read_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that came."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._body is not None:
            self._more_body(nbytes)
        elif self._n_unwanted:
            self._less_unwanted(nbytes)
        elif self._asked is not None:
            request, begin = self._asked
            data = begin + self._shared.read_view[:nbytes]
            self._begin_plain(request, data, 0, len(data))
        elif self._is_busy or self._is_unread or self._pending:
            # One read, and then the client waits.
            self._transport.pause_reading()
            self._is_paused = True
            self._pending = self._pending[self._pending_at :] + self._shared.read_view[:nbytes]
            self._pending_at = 0
        else:
            self._begin(self._shared.read_buffer, 0, nbytes)

    def close_if_idle(self, idle_s: float) -> None:
        """Close if no request began for so long; at once if that is 0."""
        is_reading = self._body is not None or self._n_unwanted or self._asked is not None
        if self._is_busy or is_reading or self._transport is None:
            return
        if not idle_s or time.perf_counter() - self._started_s >= idle_s:
            self._close()

    def _begin(self, data: bytes | bytearray, at: int, size: int) -> None:
        """Begin with the request at the start of ``data[at:size]``."""
        self._started_s = time.perf_counter()
        head_end = data.find(_END, at, min(size, at + _HEAD_SIZE_MAX))
        head = b"" if head_end < 0 else bytes(data[at : head_end + 2])
        body_size = self._read_head(head)
        if body_size < 0:
            request = self._shared.routes.parse(head, self._sender)
            if request is None:
                self._hand_over(bytes(data[at:size]))
            else:
                self._begin_plain(request, data, at, size)
            return
        start = head_end + len(_END)
        end = min(start + body_size, size)
        n_there = end - start
        refusal = self._hold(n_there)
        if end < size:
            self._keep(data, end, size)
        else:
            self._pending = b""
        if n_there == body_size:
            if refusal is None:
                self._store(bytes(data[start:end]))
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
        start = at + request.head_size
        end = start + request.body_size
        if end > size:
            self._asked, self._pending = (request, bytes(data[at:size])), b""
            if self._deadline is None:
                loop = asyncio.get_running_loop()
                self._deadline = loop.call_later(_FORM_S, self._form_is_late)
            self._read_on()
            return
        self._asked = None
        self._cancel_deadline()
        request.body = bytes(data[start:end])
        if end < size:
            self._keep(data, end, size)
        else:
            self._pending = b""
        self._is_busy = True
        self._answering = asyncio.get_running_loop().create_task(self._respond(request))

    def _form_is_late(self) -> None:
        assert self._asked is not None, "the deadline is cancelled with the form's end"
        self._deadline = None
        self._hand_over(self._asked[1])

    async def _respond(self, request: PlainRequest) -> None:
        """Send what the application answers; a client that leaves cancels it."""
        try:
            response = await request.answer()
            try:
                await self._send_response(response, is_last=request.is_last)
            finally:
                if isinstance(response, HeldResponse):
                    response.release()
        except ConnectionError:
            LOGGER.debug("the client of %s left", request.path)
            self._abort()
        except Exception:
            LOGGER.exception("the answer to %s could not be sent", request.path)
            self._abort()
        self._is_busy, self._answering = False, None
        self._started_s = time.perf_counter()
        self._go_on_soon()

    async def _send_response(self, response: web.Response, *, is_last: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        is_last = is_last or self._shared.is_stopping
        body = response.body
        if isinstance(body, payload.Payload):
            transport.write(head_of(response, body.size or 0, is_last=is_last))
            await body.write(cast(AbstractStreamWriter, self))
        else:
            body = body or b""
            transport.write(head_of(response, len(body), is_last=is_last) + body)
        if is_last:
            self._close()

    async def write(self, piece: bytes | memoryview) -> None:
        """Send a piece of a large answer; returns when the client is ready for the next."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._transport.write(piece)
        if self._is_unread:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def _hold(self, n_bytes: int) -> RequestError | None:
        """Take so much of the budget for a body, or say why there is no use in reading it."""
        server = self._shared.server
        if server.not_ready_reason:
            return NotReady(server.not_ready_reason)
        if not server.write_budget.take(n_bytes):
            return _busy(server.write_budget)
        self._held += n_bytes
        return None

    def _keep(self, data: bytes | bytearray, at: int, size: int) -> None:
        """Let ``data[at:size]`` wait; without a copy if it does so already."""
        if data is self._pending:
            self._pending_at = at
        else:
            self._pending, self._pending_at = bytes(data[at:size]), 0

    def _read_head(self, head: bytes) -> int:
        """Bytes of the body of a plain remote write; -1 for everything else."""
        server = self._shared.server
        line_end = head.find(b"\r\n")
        route = _PATHS.get(head[:line_end])
        if route is None:
            return -1
        if not _HEADERS.fullmatch(head, line_end + 2):
            return -1
        found: dict[bytes, bytes] = {}
        for line in head[line_end + 2 : -2].split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in found or name in _UNPLAIN:
                return -1
            found[name] = value.strip()
        if found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return -1
        size = found.get(b"content-length", b"")
        version = self._shared.version(
            found.get(b"content-type", b""), found.get(b"content-encoding", b"")
        )
        if version is None or not size.isdigit() or len(size) > 12:
            return -1
        if int(size) > server.limits.write_body_size_max:
            return -1
        self._route, self._version = route, version
        return int(size)

    def _hand_over(self, data: bytes) -> None:
        """Let aiohttp have the connection, and all that came since its last answer."""
        transport = self._transport
        if transport is None:
            return
        self._shared.connections.discard(self)
        self._transport = self._asked = None
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
        self._send_failure(error, is_last=is_last)
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
                raise _busy(server.write_budget)
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
            self._send_failure(error, is_last=False)
        else:
            shared.server.telemetry.count_write(
                protocol=f"{write.version}.0", message_size=write.message_size, result=result
            )
            if result.shed or result.rejected:
                self._send(remote_write.answer(shared.server, result, None), is_last=False)
            else:
                self._send_plain(result)
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        """Not now: a client may have sent a thousand requests at once."""
        if self._is_paused or self._pending:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Take up what the client sent behind its last request."""
        is_reading = self._body is not None or self._n_unwanted or self._asked is not None
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_busy or self._is_unread or is_reading:
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

    def _send_plain(self, result: Any) -> None:
        self._observe(204, 0)
        if self._transport is None:
            return
        self._transport.write(
            (
                "HTTP/1.1 204 No Content\r\n"
                f"X-Prometheus-Remote-Write-Samples-Written: {result.samples}\r\n"
                f"X-Prometheus-Remote-Write-Histograms-Written: {result.histograms}\r\n"
                f"X-Prometheus-Remote-Write-Exemplars-Written: {result.exemplars}\r\n"
                f"{_VARY[self._route]}"
                f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
            ).encode("latin-1")
        )
        if self._shared.is_stopping:
            self._close()

    def _send_failure(self, error: BaseException, *, is_last: bool) -> None:
        server = self._shared.server
        remote_write.count_failure(server, error)
        if isinstance(error, NotReady):
            response = not_ready_response(error, server.limits.retry_after_s)
        else:
            response = remote_write.answer(server, None, error)
        self._send(response, is_last=is_last)

    def _send(self, response: web.Response, *, is_last: bool) -> None:
        is_last = is_last or self._shared.is_stopping
        body = response.body if isinstance(response.body, bytes) else b""
        self._observe(response.status, len(body))
        if self._transport is None:
            return
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        if _VARY[self._route]:
            response.headers["Vary"] = "Accept-Encoding, Origin"
        if response.status != 204:
            response.headers["Content-Length"] = str(len(body))
        response.headers["Date"] = rfc822_formatted_time()
        response.headers["Server"] = SERVER_SOFTWARE
        if is_last:
            response.headers["Connection"] = "close"
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        head = "\r\n".join([*lines, "", ""])
        self._transport.write(head.encode("utf-8") + body)
        if is_last:
            self._close()

    def _close(self) -> None:
        """Close when all answers are sent, or when the client has not read them for too long."""
        if self._transport is not None:
            self._transport.close()
            self._end_later()

    def _abort(self) -> None:
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


def _busy(budget: ByteBudget) -> TooBusy:
    return TooBusy(
        f"requests in flight already hold {budget.used} of {budget.size_max} bytes; try again"
    )
