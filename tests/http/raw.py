"""Requests and answers byte by byte, for tests of connections."""

from __future__ import annotations

import asyncio
import socket

from tests.http import wire

GOOD = wire.snappy(wire.message_v1([({"__name__": "up"}, [(1000, 1.0)])]))
"""A write of one sample."""
ROW = (("__name__", "up"),)
"""Where the fake database has it."""
FORM = "Content-Type: application/x-www-form-urlencoded"


def post(body: bytes, *headers: str, path: str = "/api/v1/write", version: str = "1.1") -> bytes:
    first = f"POST {path} HTTP/{version}"
    lines = [first, "Host: x", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def get(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


async def raw_answer(reader) -> tuple[str, list[tuple[str, str]], bytes]:
    """First line, headers in their order, body."""
    async with asyncio.timeout(20):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines[1:-2]]
        size = int(dict(headers).get("Content-Length", 0))
        return lines[0], headers, await reader.readexactly(size)


async def answer(reader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""
    line, headers, body = await raw_answer(reader)
    return int(line.split()[1]), dict(headers), body


async def slow_client(running) -> socket.socket:
    """A client between short buffers of the kernel; nobody else is connected."""
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
    return client
