"""Random requests to connections that begin as ours, and to aiohttp alone: equal answers."""

from __future__ import annotations

import asyncio
import random
import re

import pytest
import pytest_asyncio
from aiohttp import web

from server import plain_exchange
from tests.http import wire
from tests.http.raw import FORM, GOOD, get

TARGETS = (
    "/api/v1/query?query=up&time=1", "/api/v1/query?query=%zz&time=1", "/api/v1/query?&&=&time=1",
    '/api/v1/query?time=1&query="{}|\\^`<>', "/api/v1/query?query=%00&time=1", "/api/v1/query?",
    "/api/v1/query?query=up&time=1&time=2", f"/api/v1/query?query={'1' * 7000}&time=1",
    f"/api/v1/query?query={'1' * 9000}&time=1", "/api/v1/query_range?query=up&start=0&end=9&step=3",
    "/api/v1/labels", "/api/v1/labels/", "//api/v1/labels", "/api/v1/labels?match[]=up#x", "*",
    "/api/v1/label/job/values", "/api/v1/label//values", "/api/v1/label/%6Aob/values",
    "/api/v1/series?match[]=up", "/api/v1/status/buildinfo", "http://x/api/v1/labels",
    "/api/v1/write", "/write", "/-/healthy", "/api/v1/nothing",
)  # fmt: skip
METHODS = (*["GET"] * 5, *["POST"] * 8, "HEAD", "OPTIONS", "PUT", "get", "G\0T")
HEADERS = (
    "Accept: text/csv", "Accept-Encoding: gzip", "Connection: close", "Connection: keep-alive",
    "Connection: keep-alive, Upgrade", "Connection:", "Upgrade: h2c", "Expect: 100-continue",
    "TE: trailers", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Origin: null",
    "Content-Encoding: gzip", "Content-Encoding: snappy", "X-Tab:\tx", "X-Spaces:   a b   ",
    "X-Empty:", "Sec-WebSocket-Key1: x", "Proxy-Connection: close", "Content-Type: text/plain",
    "Content-Type: APPLICATION/x-www-form-urlencoded", f"{FORM}; charset=latin-1", f"{FORM} ;a",
    "Content-Type: application/x-protobuf", "Content-Length: 0", "Content-Length: 03",
    "Content-Length: +3", "Content-Length: -1", "Content-Length: 3, 3", "Content-Length: 0x3",
    "Content-Length: 9999999", "Content-Length : 3", " Folded: x", "X_Y: 1", "X-Nul: a\0b",
    "X-High: \xe9", ": nothing", "Host: y", "Host:", f"X-Long: {'y' * 5000}", "Range: bytes=0-1",
    "X-Prometheus-Remote-Write-Version: 2.0.0",
)  # fmt: skip
BODIES = (b"query=up&time=1", b"q=%zz", b"\xff\xfe", GOOD, b"match[]=up", b"=&=&", b"query=1\0")
LAST = get("/-/healthy", "Connection: close")


def make(rnd: random.Random) -> tuple[bytes, list[int]]:
    """A request, another one that ends the connection, and where to cut what is sent."""
    method = rnd.choice(METHODS)
    lines = [f"{method} {rnd.choice(TARGETS)} HTTP/{rnd.choice(['1.1'] * 15 + ['1.0', '2.0'])}"]
    lines += ["Host: x"] * (rnd.random() < 0.95) + rnd.sample(HEADERS, rnd.choice((0, 0, 1, 1, 2)))
    body = rnd.choice(BODIES) if method == "POST" and rnd.random() < 0.7 else b""
    if body:
        lines += [f"Content-Length: {len(body)}"] * (rnd.random() < 0.95)
        lines += [FORM] * (rnd.random() < 0.8)
    if rnd.random() < 0.05:
        lines += [f"X-{k}: 1" for k in range(rnd.choice((60, 65, 150)))]
    data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    if rnd.random() < 0.05:
        at = rnd.randrange(len(data))
        data = (
            data[:at] + bytes([rnd.choice(b"\0\t\n\r :\x7f\xff")]) + data[at + rnd.choice((0, 1)) :]
        )
    cuts = sorted(rnd.randrange(len(data)) for _ in range(rnd.choice((0, 0, 1, 2))))
    return data, [0, *cuts, len(data)]


async def talk(port: int, data: bytes, cuts: list[int]) -> bytes:
    """All that the server sends, but for the time of day.

    The second request is sent when the first is answered: aiohttp drops answers when it has read
    something bad behind their requests.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()

    async def read():
        while piece := await reader.read(1 << 16):
            received.extend(piece)

    reading = asyncio.create_task(read())
    try:
        for start, end in zip(cuts, cuts[1:], strict=False):
            writer.write(data[start:end])
            await asyncio.sleep(0.005)
        async with asyncio.timeout(5):
            while not received and not reading.done():
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        writer.write(LAST)
        await asyncio.wait_for(reading, 5)
    except (ConnectionError, TimeoutError):
        pass
    writer.close()
    return re.sub(rb"\r\nDate: [^\r]*", b"", bytes(received))


@pytest_asyncio.fixture
async def ports(running, monkeypatch):
    """Of a server's own site, and of aiohttp's over the same application."""
    monkeypatch.setattr(plain_exchange, "_FORM_S", 0.1)
    running.server.limits = type(running.server.limits)(body_read_timeout_s=0.2)
    running.database.append_remote_write(
        wire.message_v1([({"__name__": "up", "job": "a<b"}, [(1000, 1.0)])])
    )
    runner = running.site._runner
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return [address[1] for address in runner.addresses]


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_answer_alike(running, ports, seed):
    rnd = random.Random(seed)
    cases = [make(rnd) for _ in range(40)]
    ours, theirs = [
        await asyncio.gather(*[talk(port, data, cuts) for data, cuts in cases]) for port in ports
    ]
    for (data, cuts), mine, other in zip(cases, ours, theirs, strict=True):
        for _ in range(2):
            if mine != other:  # The machine may have stood still for longer than a timeout.
                mine, other = [await talk(port, data, cuts) for port in ports]
        assert mine == other, data
    assert sum(b"200 OK" in mine for mine in ours) > 10
    assert running.server.write_budget.used == 0
