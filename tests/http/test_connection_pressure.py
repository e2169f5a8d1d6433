"""Connections of clients that do not read, of too many, and of writes that there is no room for."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

import server.write_connection as connections
from tests.http.raw import FORM, GOOD, answer, post, slow_client


@pytest_asyncio.fixture
async def unread(running):
    """A connection between short buffers of the kernel, whose client does not read yet.

    The client's two ends, and the server's connection.
    """
    client = await slow_client(running)
    yield client, next(iter(running.site.writes.connections))
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
    async with asyncio.timeout(200):
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
    async with asyncio.timeout(60):
        while running.site.writes.connections:
            await asyncio.sleep(0.01)
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_closed_connection_ends_though_its_client_does_not_read(running, unread):
    """Fewer answers wait than would stop us from writing more."""
    running.server.limits = type(running.server.limits)(answer_write_timeout_s=0.1)
    client, connection = unread
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        await loop.sock_sendall(client, post(b"\xff") * 150)
        while not connection._transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert 0 < connection._transport.get_write_buffer_size() < 1 << 16
        connection.close_if_idle(0.0)
        while connection._transport is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_handed_over", [False, True])
async def test_connections_over_the_limit_are_refused(start, connect, is_handed_over):
    running = await start("--web.max-connections", "2")
    opened = []
    for _ in range(2):
        reader, writer = await connect(running)
        writer.write(post(GOOD, *["Origin: http://x"] * is_handed_over))
        assert (await answer(reader))[0] == 204
        opened.append(writer)
    reader, writer = await connect(running)
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


@pytest.mark.parametrize(
    ("cut", "n_free"),
    [(0, 0), (5, 4), (5, 5), (len(GOOD), len(GOOD) - 1), (len(GOOD), len(GOOD))],
)
async def test_a_full_server_does_not_cost_connections_their_way(
    running, connect, handed_over, cut, n_free
):
    """Whether the budget is full before a body, within it, or where it is to be decompressed."""
    budget = running.server.write_budget
    reader, writer = await connect(running)
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
    running.server.limits = type(running.server.limits)(body_read_timeout_s=1.0)
    budget = running.server.write_budget
    reader, writer = await connect(running)
    large = post(bytes(1_000_000))
    assert budget.take(budget.size_max)
    writer.write(large[:300_000])
    async with asyncio.timeout(60):
        while not any(one._n_unwanted for one in running.site.writes.connections):
            await asyncio.sleep(0.001)
    budget.give_back(budget.size_max)
    writer.write(large[300_000:] + post(GOOD) + large[:300])
    assert [(await answer(reader))[0] for _ in range(2)] == [503, 204]
    assert not handed_over
    assert (await answer(reader))[0] == 408
    assert await reader.read() == b""
    assert budget.used == 0


async def test_a_body_behind_other_requests_is_read_on(running, connect, handed_over):
    """Reading was paused for them, and what came of the body is longer than a head may be."""
    reader, writer = await connect(running)
    writer.write(post(GOOD) + post(bytes(3_000_000)) + post(GOOD))
    assert [(await answer(reader))[0] for _ in range(3)] == [204, 400, 204]
    assert not handed_over


async def test_little_is_read_behind_a_request_without_an_answer(running, connect):
    reader, writer = await connect(running)
    writer.write(post(b"query=hang", FORM, path="/api/v1/query"))
    async with asyncio.timeout(60):
        while not running.server.active_queries.listed():
            await asyncio.sleep(0.001)
        (connection,) = running.site.writes.connections
        writer.write(bytes(4 << 20))
        while not connection._is_paused:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert 0 < len(connection._pending) <= 64 << 10
        running.server.executor.cancel_queries()
        assert (await answer(reader))[0] == 499
