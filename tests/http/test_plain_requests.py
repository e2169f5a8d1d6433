"""Requests that our own connections read: the answers are aiohttp's, and so is all that is odd."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
import pytest_asyncio

from server import plain_exchange
from server.api import pieces
from tests.http import wire
from tests.http.raw import FORM, get, post, raw_answer, slow_client

WRITE = post(
    wire.snappy(wire.message_v1([({"__name__": "up", "job": "a<b"}, [(1000, 1.0)])])),
)


def ask(path: str, form: str, *headers: str) -> bytes:
    return post(form.encode(), FORM, *headers, path=path)


PLAIN = [
    get("/api/v1/query?query=up&time=1"),
    get("/api/v1/query?query=1%2B1&time=1", "Connection: Keep-Alive"),
    get("/api/v1/query?query=1&time=1", "X-Empty:", "Accept: text/csv;q=0.1,application/json"),
    ask("/api/v1/query", "query=up&time=1"),
    ask("/api/v1/query?query=ignored", "query=up&time=1"),
    post(b"", path="/api/v1/query?query=up&time=1"),
    ask("/api/v1/query_range", "query=up&start=0&end=60&step=15"),
    ask("/api/v1/query_range", "query=up&start=60&end=0&step=15"),
    ask("/api/v1/query_range", "query=%zz"),
    get("/api/v1/query?query=(&time=1", "Origin: http://page.example"),
    get("/api/v1/query?query=bug&time=1"),
    get("/api/v1/query?query=many&time=1"),
    get("/api/v1/query"),
    get("/api/v1/labels"),
    ask("/api/v1/labels", "match[]=up"),
    get("/api/v1/label/job/values?match[]=up"),
    get("/api/v1/label/U__job/values"),
    get("/api/v1/series"),
    ask("/api/v1/series", "match[]=up&match[]=%7B%7D"),
    get("/api/v1/metadata?limit=1"),
    get("/api/v1/query_exemplars?query=up"),
    get("/api/v1/query_exemplars?query=1"),
    get("/api/v1/format_query?query=up"),
    get("/api/v1/parse_query?query=up"),
    get("/api/v1/rules"),
    get("/api/v1/status/buildinfo", "Accept-Encoding: gzip"),
]


@pytest.mark.parametrize("is_ready", [True, False])
async def test_answers_are_aiohttps(start, connect, handed_over, is_ready):
    """`TE` is a header that this way knows nothing about."""
    running = await start(ready=False)
    if is_ready:
        running.server.set_ready(running.database)
    reader, writer = await connect(running)
    other_reader, other_writer = await connect(running)
    if is_ready:
        writer.write(WRITE)
        await raw_answer(reader)
    for request in PLAIN:
        writer.write(request)
        ours = await raw_answer(reader)
        other_writer.write(request.replace(b"Host: x\r\n", b"Host: x\r\nTE: trailers\r\n"))
        theirs = await raw_answer(other_reader)
        ours_headers, theirs_headers = (
            [pair for pair in got[1] if pair[0] != "Date"] for got in (ours, theirs)
        )
        assert len(ours_headers) == len(ours[1]) - 1
        assert (ours[0], ours_headers, ours[2]) == (theirs[0], theirs_headers, theirs[2]), request
    assert len(handed_over) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/api/v1/query?query=1", method="HEAD"),
        get("/api/v1/query?query=1", method="OPTIONS"),
        get("/api/v1/query?query=1", version="1.0"),
        get("/api/v1/query?query=1#x"),
        get("/api/v1/query?query=\xe9"),
        get("/api/v1/quer%79?query=1"),
        get("http://x/api/v1/query?query=1"),
        get("/api/v1/query?query=1", "Accept: a", "accept: b"),
        get("/api/v1/query?query=1", "Accept: \xe9"),
        get("/api/v1/query?query=1", "X_Y: 1"),
        get("/api/v1/query?query=1", "Connection: upgrade", "Upgrade: x"),
        get("/api/v1/query?query=1", "Content-Length: x"),
        get("/api/v1/query?query=1").replace(b"Host: x\r\n", b"X: y\r\n"),
        get("/api/v1/query?query=1", "Proxy-Connection: close"),
        get("/api/v1/query?query=1", "Sec-WebSocket-Key1: x"),
        get("/api/v1/query?query=1", *[f"X-{k}: y" for k in range(200)]),
        get("/api/v1/query?query=1", "Content-Length: 1") + b"x",
        post(b"query=1", "Content-Type: text/plain", path="/api/v1/query"),
        post(b"query=1", FORM, "Expect: 100-continue", path="/api/v1/query"),
        post(b"query=" + b"1" * (1 << 16), FORM, path="/api/v1/query"),
        get("/api/v1/label/a%2Fb/values"),
        get("/api/v1/label/job/values", method="POST"),
        get("/api/v1/nothing"),
        get("/api/v1/status/flags"),
        get("/-/healthy"),
    ],
)
async def test_what_is_not_plain_is_aiohttps(running, connect, handed_over, request_bytes):
    reader, writer = await connect(running)
    writer.write(request_bytes)
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.")
    assert handed_over == [request_bytes]


async def test_the_bytes_may_come_in_any_pieces(running, connect, handed_over):
    request = ask("/api/v1/query", "query=1&time=1")
    head = request.index(b"\r\n\r\n") + 4
    reader, writer = await connect(running)
    for cut in range(head, len(request) + 1):
        writer.write(request[:cut])
        await asyncio.sleep(0.002)
        writer.write(request[cut:])
        assert (await raw_answer(reader))[0] == "HTTP/1.1 200 OK"
    for k in range(head, len(request)):
        writer.write(request[:head] if k == head else b"")
        writer.write(request[k : k + 1])
        await asyncio.sleep(0.001)
    assert (await raw_answer(reader))[0] == "HTTP/1.1 200 OK"
    assert not handed_over


async def test_requests_sent_at_once_are_answered_in_order(running, connect, handed_over):
    reader, writer = await connect(running)
    n = 200
    for k in range(n):
        writer.write(WRITE if k % 20 == 0 else ask("/api/v1/query", f"query={k}&time=1"))
    writer.write(ask("/api/v1/query", "query=7&time=1")[:-3])
    for k in range(n):
        status, _, body = await raw_answer(reader)
        if k % 20:
            assert json.loads(body)["data"]["result"] == [1, str(float(k))]
        else:
            assert status == "HTTP/1.1 204 No Content"
    writer.write(ask("/api/v1/query", "query=7&time=1")[-3:] + get("/-/healthy"))
    assert b'"7.0"' in (await raw_answer(reader))[2]
    assert (await raw_answer(reader))[2] == b"tsengine is healthy.\n"
    assert len(handed_over) == 1


async def test_the_last_request_of_a_connection(running, connect, handed_over):
    reader, writer = await connect(running)
    writer.write(get("/api/v1/query?query=1", "Connection: close") + get("/api/v1/labels"))
    status, headers, _ = await raw_answer(reader)
    assert (status, headers[-1]) == ("HTTP/1.1 200 OK", ("Connection", "close"))
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    assert not handed_over


async def test_a_client_that_leaves_ends_its_query(running, connect, handed_over):
    _, writer = await connect(running)
    writer.write(ask("/api/v1/query", "query=hang"))
    async with asyncio.timeout(10):
        while not running.server.active_queries.listed():
            await asyncio.sleep(0.005)
        writer.close()
        while ("canceled", "hang") not in running.database.calls:
            await asyncio.sleep(0.005)
        while running.site.writes.connections or running.server.active_queries.listed():
            await asyncio.sleep(0.005)
    assert not handed_over


class Panic(BaseException):
    """As libraries in Rust raise."""


@pytest.mark.parametrize("error", [Panic, asyncio.CancelledError])
async def test_what_is_no_exception_ends_its_connection(running, connect, error):
    """Nobody would wait for ever for an answer that can't come."""

    def fail(*args, **kwargs):
        raise error

    running.database.label_names = fail
    reader, writer = await connect(running)
    writer.write(get("/api/v1/labels"))
    async with asyncio.timeout(5):
        assert await reader.read() == b""
        while running.site.writes.connections:
            await asyncio.sleep(0.001)


async def test_a_form_that_does_not_come_is_left_to_aiohttp(
    running, connect, handed_over, monkeypatch
):
    monkeypatch.setattr(plain_exchange, "_FORM_S", 0.02)
    running.server.limits = type(running.server.limits)(body_read_timeout_s=0.05)
    reader, writer = await connect(running)
    request = ask("/api/v1/query", "query=1")
    writer.write(request[:-1])
    status, _, body = await raw_answer(reader)
    assert status == "HTTP/1.1 408 Request Timeout"
    assert b"did not arrive within 0.05 s" in body
    assert handed_over == [request[:-1]]


async def test_connections_end_with_the_server(running, connect):
    reader, writer = await connect(running)
    waiting_reader, waiting_writer = await connect(running)
    writer.write(ask("/api/v1/query", "query=hang"))
    waiting_writer.write(ask("/api/v1/query", "query=1")[:-1])
    async with asyncio.timeout(10):
        while not running.server.active_queries.listed() or not any(
            one._plain.is_reading for one in running.site.writes.connections
        ):
            await asyncio.sleep(0.005)
        await running.site.stop()
        running.server.executor.cancel_queries()
        _, headers, _ = await raw_answer(reader)
        assert headers[-1] == ("Connection", "close")
        assert await reader.read() == b""
        waiting_writer.write(b"1")
        assert dict((await raw_answer(waiting_reader))[1])["Connection"] == "close"


async def test_requests_are_counted(running, connect):
    reader, writer = await connect(running)
    for target in ("/api/v1/query?query=1", "/api/v1/query?query=(", "/api/v1/label/a/values"):
        writer.write(get(target))
        await raw_answer(reader)
    text = (await running.call("GET", "/metrics"))[2].decode()
    for labels in (
        'code="200",handler="/api/v1/query"',
        'code="400",handler="/api/v1/query"',
        'code="200",handler="/api/v1/label/{name}/values"',
    ):
        assert f'tsengine_http_requests_total{{{labels},method="GET"}} 1.0' in text


@pytest_asyncio.fixture
async def large(real, now_ms, monkeypatch):
    """A database whose answers are many pieces; a request for one of them."""
    monkeypatch.setattr(pieces, "PIECE_SIZE", 10_000)
    for k in range(3000):
        real.database.append({"__name__": "x", "row": f"{k:04}"}, [now_ms], [k + 0.5])
    return real, ask("/api/v1/query", f"query=x&time={now_ms / 1000}")


async def test_large_answers_arrive_whole(large, connect, handed_over):
    running, request = large
    reader, writer = await connect(running)
    writer.write(request)
    _, headers, body = await raw_answer(reader)
    rows = json.loads(body)["data"]["result"]
    assert sorted(float(row["value"][1]) for row in rows) == [k + 0.5 for k in range(3000)]
    writer.write(request.replace(b"Host: x", b"Host: x\r\nAccept-Encoding: gzip"))
    _, headers, packed = await raw_answer(reader)
    assert dict(headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == body
    assert not handed_over
    assert running.database.stats()["query_memory_bytes"] == 0


async def test_a_slow_client_gets_a_large_answer_and_the_next(large, handed_over):
    running, request = large
    client = await slow_client(running)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, request + get("/api/v1/query?query=1"))
    connection = next(iter(running.site.writes.connections))
    received = bytearray()
    async with asyncio.timeout(20):
        while not connection.is_unread:
            await asyncio.sleep(0.001)
        assert running.database.stats()["query_memory_bytes"] > 0
        while received.count(b"HTTP/1.1 200 OK") < 2 or not received.endswith(b"}}"):
            received += await loop.sock_recv(client, 1 << 16)
    assert received.count(b'"row"') == 3000
    assert running.database.stats()["query_memory_bytes"] == 0
    assert not handed_over
    client.close()


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_does_not_read_a_large_answer(large, leaves):
    running, request = large
    running.server.limits = type(running.server.limits)(answer_write_timeout_s=0.1)
    client = await slow_client(running)
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, request)
    async with asyncio.timeout(20):
        while not running.server.active_queries.listed():
            await asyncio.sleep(0.001)
        if leaves:
            client.close()
        while running.site.writes.connections:
            await asyncio.sleep(0.005)
        while running.database.stats()["query_memory_bytes"]:
            await asyncio.sleep(0.005)
    client.close()
