"""Pipes and other odd files where a file should be: nothing waits for whoever reads or writes."""

from __future__ import annotations

import asyncio
import fcntl
import os

import pytest

from tests.http.test_reload import reloadable  # noqa: F401 - a fixture

RELOAD = "/-/reload"


async def answered(running, *request):
    async with asyncio.timeout(10):
        return await running.call(*request)


async def test_a_query_log_that_is_a_pipe_without_a_reader_is_refused(reloadable, tmp_path):  # noqa: F811
    running, write = reloadable
    os.mkfifo(tmp_path / "pipe")
    write(f"query: {{log_file: {tmp_path / 'pipe'}}}\n")
    status, _, body = await answered(running, "POST", RELOAD)
    assert status == 500
    assert b"failed to reload config" in body
    assert (await answered(running, "GET", "/-/healthy"))[0] == 200


async def test_a_pipe_that_nobody_empties_holds_up_no_query(reloadable, tmp_path, caplog):  # noqa: F811
    running, write = reloadable
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(reader, 1031, 4096)  # F_SETPIPE_SZ
        write(f"query: {{log_file: {path}}}\n")
        assert (await answered(running, "POST", RELOAD))[0] == 200
        for number in range(40):
            assert (await answered(running, "GET", f"/api/v1/query?query={number}"))[0] == 200
        said = [record for record in caplog.records if "query log" in record.getMessage()]
        assert len(said) == 1
        first = os.read(reader, 1 << 20).splitlines()
        assert 2 < len(first) < 40
        assert (await answered(running, "GET", "/api/v1/query?query=99"))[0] == 200
        assert b'"query":"99"' in os.read(reader, 1 << 20)
    finally:
        os.close(reader)


async def test_a_configuration_that_became_a_pipe_is_refused(reloadable, tmp_path):  # noqa: F811
    running, _ = reloadable
    (tmp_path / "tsengine.yml").unlink()
    os.mkfifo(tmp_path / "tsengine.yml")
    status, _, body = await answered(running, "POST", RELOAD)
    assert (status, b"not a file" in body) == (500, True)


@pytest.mark.parametrize("name", ["a\\0b", "x" * 300])
async def test_a_name_that_no_file_can_have(reloadable, name):  # noqa: F811
    running, write = reloadable
    write(f'query: {{log_file: "{name}"}}\n')
    status, _, body = await answered(running, "POST", RELOAD)
    assert (status, b"failed to reload config" in body) == (500, True)
