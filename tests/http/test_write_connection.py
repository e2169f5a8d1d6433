"""Connections of remote writes, byte by byte: what they answer, and when aiohttp takes over."""

from __future__ import annotations

import asyncio
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
    before = len(site.writes.connections)
    for connection in list(site.writes.connections):
        connection.close_if_idle(0.0001)
    async with asyncio.timeout(10):
        assert await served.read() == b""
    assert before - len(site.writes.connections) <= 1
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
