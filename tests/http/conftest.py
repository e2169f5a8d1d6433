"""A server on a port of the system's choice, over the fake database."""

from __future__ import annotations

import argparse
import asyncio

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from server import config as server_config
from server.lifecycle import make_runner, open_database
from server.state import Server
from server.write_connection import WriteConnection
from server.write_site import WriteSite
from tests.http.fake import FakeDatabase


def make_config(*flags):
    parser = argparse.ArgumentParser()
    server_config.add_flags(parser)
    return server_config.load(parser.parse_args(["--self-scrape", "off", *flags]), {})


class Running:
    """A started server and a client that knows its address."""

    def __init__(self, server, database, session, url, site):
        self.server = server
        self.database = database
        self.session = session
        self.url = url
        self.site = site

    async def call(self, method, path, **kwargs):
        """(status, headers, body bytes) of one request."""
        async with self.session.request(
            method, URL(self.url + path, encoded=True), **kwargs
        ) as response:
            return response.status, response.headers, await response.read()

    async def json(self, method, path, **kwargs):
        async with self.session.request(
            method, URL(self.url + path, encoded=True), **kwargs
        ) as response:
            return response.status, await response.json()


@pytest_asyncio.fixture
async def start():
    """Starts servers: `await start("--flag", ready=True)`."""
    cleanups = []

    async def make(*flags, ready=True, database=None):
        server = Server(make_config(*flags))
        if database is None:
            database = FakeDatabase()
        if ready:
            server.set_ready(database)
        runner = make_runner(server)
        await runner.setup()
        site = WriteSite(server, runner, "127.0.0.1", 0)
        await site.start()
        session = aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=("Accept-Encoding",)
        )
        cleanups.append((server, runner, session))
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return Running(server, database, session, url, site)

    yield make
    for server, runner, session in cleanups:
        await session.close()
        server.executor.cancel_queries()
        await runner.cleanup()
        server.executor.close()
        server.query_log.close()


@pytest_asyncio.fixture
async def running(start):
    return await start()


@pytest_asyncio.fixture
async def real(start, tmp_path):
    """A server over the real engine."""
    database = open_database(make_config("--data-dir", str(tmp_path / "data")))
    yield await start("--enable-admin-api", database=database)
    database.close()


@pytest.fixture
def now_ms():
    import time

    return int(time.time() * 1000)


@pytest_asyncio.fixture
async def connect():
    """Connections to a server, closed at the end: `await connect(running)`."""
    writers = []

    async def opened(running):
        port = int(running.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield opened
    for writer in writers:
        writer.close()


@pytest.fixture
def handed_over(monkeypatch):
    """Connections that went to aiohttp: their first bytes."""
    seen: list[bytes] = []
    original = WriteConnection.hand_over

    def hand_over(self, data):
        seen.append(data)
        original(self, data)

    monkeypatch.setattr(WriteConnection, "hand_over", hand_over)
    return seen
