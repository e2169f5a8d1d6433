"""Connections of remote writes, byte by byte: what they answer, and when aiohttp takes over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest
import pytest_asyncio

import server.write_connection as connections
import server.write_lane as lane
from tests.http import wire
from tsengine import errors

GOOD = wire.snappy(wire.message_v1([({"__name__": "up"}, [(1000, 1.0)])]))
NAMELESS = wire.snappy(
    wire.message_v1([({"a": "b"}, [(1000, 1.0)]), ({"__name__": "up"}, [(1000, 1.0)])])
)
ROW = (("__name__", "up"),)


@pytest_asyncio.fixture
async def connect(running):
    """Connections to the server, closed at the end."""
    writers = []

    async def opened():
        port = int(running.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield opened
    for writer in writers:
        writer.close()


def post(body: bytes, *headers: str, path: str = "/api/v1/write", version: str = "1.1") -> bytes:
    first = f"POST {path} HTTP/{version}"
    lines = [first, "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def answer(reader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        return (
            int(lines[0].split()[1]),
            headers,
            await reader.readexactly(int(headers.get("Content-Length", 0))),
        )


@pytest.fixture
def handed_over(monkeypatch):
    """Connections that went to aiohttp: their first bytes."""
    seen: list[bytes] = []
    original = connections.WriteConnection._hand_over

    def hand_over(self, data):
        seen.append(data)
        original(self, data)

    monkeypatch.setattr(connections.WriteConnection, "_hand_over", hand_over)
    return seen


@pytest.mark.parametrize("path", ["/write", "/api/v1/write"])
@pytest.mark.parametrize(
    ("body", "status"),
    [(GOOD, 204), (NAMELESS, 400), (b"\x05abc", 400), (b"", 400), (b"\xff", 400)],
)
async def test_answers_are_those_of_the_other_way(
    running, connect, handed_over, path, body, status
):
    """`TE` is a header that this way knows nothing about."""
    reader, writer = await connect()
    writer.write(post(body, path=path))
    ours = await answer(reader)
    assert not handed_over
    writer.write(post(body, "TE: trailers", path=path))
    theirs = await answer(reader)
    assert len(handed_over) == 1
    for got in (ours, theirs):
        got[1].pop("Date")
    assert ours[0] == status
    assert ours == theirs


async def test_the_bytes_may_come_in_any_pieces(running, connect, handed_over):
    request = post(GOOD, "Content-Encoding: snappy")
    head = request.index(b"\r\n\r\n") + 4
    reader, writer = await connect()
    for cut in [*range(head, len(request)), len(request)]:
        writer.write(request[:cut])
        await asyncio.sleep(0.002)
        writer.write(request[cut:])
        assert (await answer(reader))[0] == 204
    assert not handed_over
    assert running.server.write_budget.used == 0
    for cut in (1, 5, 30, head - 1):
        reader, writer = await connect()
        writer.write(request[:cut])
        await asyncio.sleep(0.01)
        writer.write(request[cut:])
        assert (await answer(reader))[0] == 204
    assert len(handed_over) == 4


async def test_requests_sent_at_once_are_answered_in_order(running, connect, handed_over):
    """Many more than calls fit into one another, most of them refused without the lane."""
    reader, writer = await connect()
    bodies = [GOOD if i % 50 == 0 else b"\xff" for i in range(3000)]
    writer.write(b"".join(map(post, bodies)))
    for body in bodies:
        assert (await answer(reader))[0] == (204 if body is GOOD else 400)
    writer.write(post(GOOD)[:-3])
    await asyncio.sleep(0.01)
    writer.write(post(GOOD)[-3:] + post(NAMELESS) + b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [(await answer(reader))[0] for _ in range(3)] == [204, 400, 200]
    assert len(handed_over) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(GOOD, "Connection: close"),
        post(GOOD, version="1.0"),
        post(GOOD, "Origin: http://x"),
        post(GOOD, "Content-Type: application/x-protobuf", "X-A: b", "x-a: c"),
        post(GOOD, "X_Y: 1"),
        post(GOOD, "X-Y: \xe9"),
        b"POST /write HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD),
    ],
)
async def test_what_is_not_plain_is_aiohttps(running, connect, handed_over, request_bytes):
    reader, writer = await connect()
    writer.write(request_bytes)
    assert (await answer(reader))[0] == 204
    assert handed_over == [request_bytes]
    assert running.database.rows[ROW] == {1000: 1.0}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (post(GOOD, "Content-Type: text/plain"), 415),
        (b"PUT /write HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ],
)
async def test_refusals_are_aiohttps_too(running, connect, handed_over, request_bytes, status):
    reader, writer = await connect()
    writer.write(request_bytes)
    assert (await answer(reader))[0] == status
    assert len(handed_over) == 1


async def test_waiting_for_100_continue(running, connect):
    reader, writer = await connect()
    request = post(GOOD, "Expect: 100-continue")
    writer.write(request[: -len(GOOD)])
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(GOOD)
    assert (await answer(reader))[0] == 204


async def test_a_write_that_takes_too_long_is_answered_and_goes_on(running, connect, monkeypatch):
    monkeypatch.setattr(lane, "_LOOK_S", 0.02)
    running.server.limits = type(running.server.limits)(write_timeout_s=0.05)
    gate = threading.Event()
    original = running.database.append_remote_write

    def slow(*args, **kwargs):
        assert gate.wait(20)
        return original(*args, **kwargs)

    running.database.append_remote_write = slow
    reader, writer = await connect()
    writer.write(post(GOOD))
    status, headers, text = await answer(reader)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"not durable within 0.05 s" in text
    assert running.server.executor.writes_running == 1
    gate.set()
    assert await running.server.executor.drain(10)
    assert running.server.write_budget.used == 0
    assert running.database.rows[ROW] == {1000: 1.0}
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 204


async def test_a_body_that_does_not_come_is_answered(running, connect):
    running.server.limits = type(running.server.limits)(body_read_timeout_s=0.05)
    reader, writer = await connect()
    writer.write(post(GOOD)[:-1])
    status, headers, text = await answer(reader)
    assert (status, headers["Connection"]) == (408, "close")
    assert b"did not arrive within 0.05 s" in text
    assert await reader.read() == b""
    assert running.server.write_budget.used == 0


async def test_connections_end_with_the_server_and_after_long_silence(running, connect):
    served, writer = await connect()
    writer.write(post(GOOD))
    assert (await answer(served))[0] == 204
    silent, _ = await connect()
    site = running.site
    for connection in list(site.writes.connections):
        connection.close_if_idle(60)
    assert len(site.writes.connections) == 2
    await asyncio.sleep(0.01)
    for connection in list(site.writes.connections):
        connection.close_if_idle(0.0001)
    async with asyncio.timeout(10):
        assert await served.read() == await silent.read() == b""
    assert not site.writes.connections
    silent, _ = await connect()
    await site.stop()
    async with asyncio.timeout(10):
        assert await silent.read() == b""


async def test_errors_of_the_database_are_told_whoever_meets_them(running, connect):
    """Refused at once in the lane's thread, or later by the log."""
    reader, writer = await connect()

    def later(body, on_done, **kwargs):
        result = running.database.append_remote_write(body)
        loop.call_later(0.01, on_done, result, errors.Full("no space"))

    loop = asyncio.get_running_loop()
    for how in ("at once", "later"):
        if how == "at once":
            running.database.append_error = errors.Overloaded("too much")
        else:
            running.database.append_error = None
            running.database.submit_remote_write = lambda *args, **kwargs: (
                loop.call_soon_threadsafe(lambda: later(*args, **kwargs))
            )
        writer.write(post(GOOD))
        status, headers, _ = await answer(reader)
        assert (status, headers["X-Prometheus-Remote-Write-Samples-Written"]) == (503, "0")
    assert running.server.write_budget.used == 0


async def test_every_write_is_counted(running, connect):
    reader, writer = await connect()
    for body in (GOOD, GOOD, NAMELESS, b"\xff"):
        writer.write(post(body))
        await answer(reader)
    text = (await running.call("GET", "/metrics"))[2].decode()
    for line in (
        'tsengine_remote_write_samples_total{protocol="1.0"} 3.0',
        'tsengine_remote_write_rejected_series_total{protocol="1.0"} 1.0',
        'tsengine_remote_write_failures_total{code="400"} 1.0',
    ):
        assert line in text
    counted = [
        line for line in text.splitlines()
        if 'handler="/api/v1/write"' in line and "requests_total" in line
    ]  # fmt: skip
    assert sorted(line.split()[-1] for line in counted) == ["2.0", "2.0"]


@pytest_asyncio.fixture
async def unread(running, connect):
    """A connection between short buffers of the kernel, whose client does not read yet.

    The client's two ends, and the server's connection.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", int(running.url.rpartition(":")[2])))
    async with asyncio.timeout(10):
        while not (ours := list(running.site.writes.connections)):
            await asyncio.sleep(0.001)
    end = ours[0]._transport.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield client, ours[0]
    client.close()


async def test_answers_do_not_pile_up_for_a_client_that_does_not_read(
    running, unread, handed_over, monkeypatch
):
    """All of them come when it reads again; what it sent meanwhile waits in the kernel."""
    client, connection = unread
    n_pending_max = 0
    pieces = []
    original = connections.WriteConnection._begin

    def begin(self, data, *where):
        nonlocal n_pending_max
        n_pending_max = max(n_pending_max, len(self._pending))
        if all(data is not piece for piece in pieces):
            pieces.append(data)
        original(self, data, *where)

    monkeypatch.setattr(connections.WriteConnection, "_begin", begin)
    loop = asyncio.get_running_loop()
    n = 10_000
    requests = post(b"\xff") * n + post(b"\xff", "Connection: close")
    sending = asyncio.create_task(loop.sock_sendall(client, requests))
    received = bytearray()
    async with asyncio.timeout(20):
        while connection._transport.get_write_buffer_size() < 1 << 16:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert connection._transport.get_write_buffer_size() < 1 << 17
        while data := await loop.sock_recv(client, 1 << 20):
            received += data
        await sending
    assert received.count(b"HTTP/1.1 400 Bad Request") == n + 1
    assert len(handed_over) == 1
    assert n_pending_max <= (256 + 8) << 10
    assert len(pieces) < n / 50


async def test_a_client_that_never_reads_is_left(running, unread):
    running.server.limits = type(running.server.limits)(answer_write_timeout_s=0.1)
    client, _ = unread
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(client, post(b"\xff") * 5000))
    async with asyncio.timeout(10):
        while running.site.writes.connections:
            await asyncio.sleep(0.01)
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_closed_connection_ends_though_its_client_does_not_read(running, unread):
    """Fewer answers wait than would stop us from writing more."""
    running.server.limits = type(running.server.limits)(answer_write_timeout_s=0.1)
    client, connection = unread
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        await loop.sock_sendall(client, post(b"\xff") * 150)
        while not connection._transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert 0 < connection._transport.get_write_buffer_size() < 1 << 16
        connection.close_if_idle(0.0)
        while connection._transport is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_connections_over_the_limit_are_refused(start, is_handed_over):
    running = await start("--web.max-connections", "2")
    port = int(running.url.rpartition(":")[2])
    opened = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(GOOD, *["Origin: http://x"] * is_handed_over))
        assert (await answer(reader))[0] == 204
        opened.append(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, headers, _ = await answer(reader)
    assert (status, headers["Connection"]) == (503, "close")
    assert await reader.read() == b""
    writer.close()
    for other in opened:
        other.close()
        await other.wait_closed()
    async with asyncio.timeout(10):
        while running.site.writes.connections or running.site.writes.handlers.connections:
            await asyncio.sleep(0.01)
    assert (await running.call("GET", "/-/healthy"))[0] == 200


async def test_a_start_does_not_cost_connections_their_way(start, handed_over):
    running = await start(ready=False)
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(GOOD) + post(GOOD)[:-5])
    ours = await answer(reader)
    other_writer.write(post(GOOD, "TE: trailers"))
    theirs = await answer(other_reader)
    for got in (ours, theirs):
        got[1].pop("Date")
    assert ours == theirs
    assert (ours[0], ours[2]) == (503, b"Service Unavailable: starting\n")
    running.server.set_ready(running.database)
    writer.write(post(GOOD)[-5:] + post(GOOD))
    assert [(await answer(reader))[0] for _ in range(2)] == [503, 204]
    assert len(handed_over) == 1
    writer.close()
    other_writer.close()


@pytest.mark.parametrize(
    ("cut", "n_free"),
    [(0, 0), (5, 4), (5, 5), (len(GOOD), len(GOOD) - 1), (len(GOOD), len(GOOD))],
)
async def test_a_full_server_does_not_cost_connections_their_way(
    running, connect, handed_over, cut, n_free
):
    """Whether the budget is full before a body, within it, or where it is to be decompressed."""
    budget = running.server.write_budget
    reader, writer = await connect()
    request = post(GOOD)
    first = len(request) - len(GOOD) + cut
    assert budget.take(budget.size_max - n_free)
    writer.write(request[:first])
    await asyncio.sleep(0.02)
    writer.write(request[first:])
    status, headers, text = await answer(reader)
    assert (status, headers.get("Connection"), headers["Retry-After"]) == (503, None, "1")
    assert b"requests in flight" in text
    budget.give_back(budget.size_max - n_free)
    assert budget.used == 0
    writer.write(request)
    assert (await answer(reader))[0] == 204
    assert not handed_over


async def test_a_refused_body_is_read_to_its_end(running, connect, handed_over):
    """The request behind it may come in the same piece; a body that stops is answered."""
    running.server.limits = type(running.server.limits)(body_read_timeout_s=0.2)
    budget = running.server.write_budget
    reader, writer = await connect()
    large = post(bytes(1_000_000))
    assert budget.take(budget.size_max)
    writer.write(large[:300_000])
    await asyncio.sleep(0.02)
    budget.give_back(budget.size_max)
    writer.write(large[300_000:] + post(GOOD) + large[:300])
    assert [(await answer(reader))[0] for _ in range(2)] == [503, 204]
    assert not handed_over
    assert (await answer(reader))[0] == 408
    assert await reader.read() == b""
    assert budget.used == 0


async def test_a_body_behind_other_requests_is_read_on(running, connect, handed_over):
    """Reading was paused for them, and what came of the body is longer than a head may be."""
    reader, writer = await connect()
    writer.write(post(GOOD) + post(bytes(3_000_000)) + post(GOOD))
    assert [(await answer(reader))[0] for _ in range(3)] == [204, 400, 204]
    assert not handed_over


async def test_the_lane_outlives_what_is_no_exception(running, connect):
    class Panic(BaseException):
        """As libraries in Rust raise."""

    lane = running.site.writes.lane
    original = lane._decompress

    def panic(body):
        raise Panic

    reader, writer = await connect()
    lane._decompress = panic
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 500
    lane._decompress = original
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 204
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_a_failing_answer_costs_nothing_but_itself(running, connect, monkeypatch):
    original = connections.WriteConnection._send_plain
    n_left = 1

    def send(self, result):
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            raise ZeroDivisionError
        original(self, result)

    monkeypatch.setattr(connections.WriteConnection, "_send_plain", send)
    opened = [await connect() for _ in range(3)]
    release = []
    running.database.submit_remote_write = lambda body, on_done, **_: release.append(on_done)
    for _, writer in opened:
        writer.write(post(GOOD))
    async with asyncio.timeout(10):
        while len(release) < 3:
            await asyncio.sleep(0.001)
    result = running.database.append_remote_write(wire.message_v1([]))
    for on_done in release:
        on_done(result, None)
    for reader, _ in opened[1:]:
        assert (await answer(reader))[0] == 204
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_a_write_that_is_told_twice_counts_once(running, connect):
    """The database was told, and then failed."""

    def twice(body, on_done, **_):
        on_done(running.database.append_remote_write(bytes(body)), None)
        raise ZeroDivisionError

    running.database.submit_remote_write = twice
    reader, writer = await connect()
    for _ in range(3):
        writer.write(post(GOOD))
        await answer(reader)
    await asyncio.sleep(0.01)
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_half_of_the_writes_that_wait_go_to_the_log_together(running, connect, monkeypatch):
    database, loop = running.database, asyncio.get_running_loop()
    gate, events = threading.Event(), []

    @contextlib.contextmanager
    def together():
        events.append("begin")
        yield
        events.append("end")

    def submit(body, on_done, **_):
        gate.wait(10)
        events.append(len(body))
        # As the log does, some time later.
        loop.call_soon_threadsafe(on_done, database.append_remote_write(bytes(body)), None)

    database.submit_remote_write, database.writes_together = submit, together
    monkeypatch.setattr(lane, "_ALONE_BYTES", 2000)
    opened = [await connect() for _ in range(9)]
    large = wire.snappy(wire.message_v1([({"__name__": "x" * 3000}, [(1000, 1.0)])]))
    bodies = [GOOD] * 6 + [large, GOOD, GOOD]
    for n, ((_, writer), body) in enumerate(zip(opened, bodies, strict=True), 1):
        writer.write(post(body))
        async with asyncio.timeout(10):
            while running.server.executor.writes_running < n:
                await asyncio.sleep(0.001)
    gate.set()
    for reader, _ in opened:
        assert (await answer(reader))[0] == 204
    sizes = [event for event in events if isinstance(event, int)]
    small, largest = sizes[0], max(sizes)
    # The first came alone, and none waits for the large one.
    assert sizes == [small] * 6 + [largest] + [small] * 2
    assert events[:7] == [small, "begin", *[small] * 4, "end"]
    before = events[: events.index(largest)]
    assert before.count("end") == before.count("begin") - (before[-1] == "begin")
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_writes_end_with_a_database_that_is_not_ready_any_more(running, connect):
    """What is taken up together with others is told so too, one by one."""
    lane_of = running.site.writes.lane
    original, gate = lane_of._decompress, threading.Event()
    lane_of._decompress = lambda body: gate.wait(10) and original(body)
    opened = [await connect() for _ in range(4)]
    for n, (_, writer) in enumerate(opened, 1):
        writer.write(post(GOOD))
        async with asyncio.timeout(10):
            while running.server.executor.writes_running < n:
                await asyncio.sleep(0.001)
    running.server.set_not_ready("closing")
    gate.set()
    for reader, _ in opened:
        assert (await answer(reader))[0] == 503
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_too_many_samples_are_refused(real, monkeypatch, now_ms):
    monkeypatch.setattr("tsengine.storage.remote_write.SAMPLES_PER_REQUEST_MAX", 2000)
    port = int(real.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n, status in ((1, 204), (2000, 204), (2001, 400), (1, 204)):
        samples = [(now_ms - i, 1.0) for i in range(n)]
        writer.write(post(wire.snappy(wire.message_v1([({"__name__": "up"}, samples)]))))
        got, headers, text = await answer(reader)
        assert got == status
        if n > 2000:
            assert b"more than 2000 samples in one request" in text
            assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"
    writer.close()


async def test_an_answer_that_can_not_be_made_is_an_error(real, now_ms):
    """In the log's thread, when the samples are stored."""
    port = int(real.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    original = real.database._write_result

    def fail(outcome):
        raise MemoryError

    real.database._write_result = fail
    body = wire.snappy(wire.message_v1([({"__name__": "up"}, [(now_ms, 1.0)])]))
    writer.write(post(body))
    assert (await answer(reader))[0] == 500
    real.database._write_result = original
    writer.write(post(body))
    assert (await answer(reader))[0] == 204
    assert real.server.write_budget.used == real.server.executor.writes_running == 0
    writer.close()
