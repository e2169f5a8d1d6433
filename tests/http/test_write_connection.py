"""Connections of remote writes, byte by byte: what they answer, and when aiohttp takes over."""

from __future__ import annotations

import asyncio

import pytest

from tests.http import wire
from tests.http.raw import GOOD, ROW, answer, post


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


NAMELESS = wire.snappy(
    wire.message_v1([({"a": "b"}, [(1000, 1.0)]), ({"__name__": "up"}, [(1000, 1.0)])])
)


@pytest.mark.parametrize("path", ["/write", "/api/v1/write"])
@pytest.mark.parametrize(
    ("body", "status"),
    [(GOOD, 204), (NAMELESS, 400), (b"\x05abc", 400), (b"", 400), (b"\xff", 400)],
)
async def test_answers_are_those_of_the_other_way(
    running, connect, handed_over, path, body, status
):
    """`TE` is a header that this way knows nothing about."""
    reader, writer = await connect(running)
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
    reader, writer = await connect(running)
    for cut in [*range(head, len(request)), len(request)]:
        writer.write(request[:cut])
        await asyncio.sleep(0.002)
        writer.write(request[cut:])
        assert (await answer(reader))[0] == 204
    assert not handed_over
    assert running.server.write_budget.used == 0
    for number, cut in enumerate((1, 5, 30, head - 1), 1):
        reader, writer = await connect(running)
        writer.write(request[:cut])
        await until(lambda n=number: len(handed_over) == n)
        writer.write(request[cut:])
        assert (await answer(reader))[0] == 204
    assert len(handed_over) == 4


async def test_requests_sent_at_once_are_answered_in_order(running, connect, handed_over):
    """Many more than calls fit into one another, most of them refused without the lane."""
    reader, writer = await connect(running)
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
        post(GOOD, "Proxy-Connection: keep-alive"),
        post(GOOD, "Content-Type: application/x-protobuf", "X-A: b", "x-a: c"),
        post(GOOD, "X_Y: 1"),
        post(GOOD, "X-Y: \xe9"),
        b"POST /write HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD),
    ],
)
async def test_what_is_not_plain_is_aiohttps(running, connect, handed_over, request_bytes):
    reader, writer = await connect(running)
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
        (post(GOOD).replace(b"Host: x\r\n", b""), 400),
        (post(GOOD, *[f"X-{k}: y" for k in range(200)]), 400),
        (b"PUT /write HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
    ],
)
async def test_refusals_are_aiohttps_too(running, connect, handed_over, request_bytes, status):
    reader, writer = await connect(running)
    writer.write(request_bytes)
    assert (await answer(reader))[0] == status
    assert len(handed_over) == 1


async def test_waiting_for_100_continue(running, connect):
    reader, writer = await connect(running)
    request = post(GOOD, "Expect: 100-continue")
    writer.write(request[: -len(GOOD)])
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(GOOD)
    assert (await answer(reader))[0] == 204


async def test_a_body_that_does_not_come_is_answered(running, connect):
    running.server.limits = type(running.server.limits)(body_read_timeout_s=0.05)
    reader, writer = await connect(running)
    writer.write(post(GOOD)[:-1])
    status, headers, text = await answer(reader)
    assert (status, headers["Connection"]) == (408, "close")
    assert b"did not arrive within 0.05 s" in text
    assert await reader.read() == b""
    assert running.server.write_budget.used == 0


async def test_connections_end_with_the_server_and_after_long_silence(running, connect):
    served, writer = await connect(running)
    writer.write(post(GOOD))
    assert (await answer(served))[0] == 204
    silent, _ = await connect(running)
    site = running.site
    await until(lambda: len(site.writes.connections) == 2)
    for connection in list(site.writes.connections):
        connection.close_if_idle(60)
    assert len(site.writes.connections) == 2
    await asyncio.sleep(0.01)
    for connection in list(site.writes.connections):
        connection.close_if_idle(0.0001)
    async with asyncio.timeout(10):
        assert await served.read() == await silent.read() == b""
    assert not site.writes.connections
    silent, _ = await connect(running)
    await until(lambda: site.writes.connections)
    await site.stop()
    async with asyncio.timeout(10):
        assert await silent.read() == b""


async def test_every_write_is_counted(running, connect):
    reader, writer = await connect(running)
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


async def test_a_start_does_not_cost_connections_their_way(start, connect, handed_over):
    running = await start(ready=False)
    reader, writer = await connect(running)
    other_reader, other_writer = await connect(running)
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
