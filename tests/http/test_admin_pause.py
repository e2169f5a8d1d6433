"""POST /api/v1/admin/tsdb/pause and resume, and what /metrics says of background work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.http.fake import FakeDatabase

PAUSE = "/api/v1/admin/tsdb/pause"
RESUME = "/api/v1/admin/tsdb/resume"


async def metrics_of(running):
    status, _, body = await running.call("GET", "/metrics")
    assert status == 200
    lines = body.decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_work_is_paused_and_resumed(real, method):
    assert (await metrics_of(real))["tsengine_background_paused"] == "0.0"
    assert (await real.call(method, PAUSE))[0] == 204
    assert (await metrics_of(real))["tsengine_background_paused"] == "1.0"
    assert (await real.call("POST", "/api/v1/admin/tsdb/flush?merge=1"))[0] == 204
    assert (await real.call(method, PAUSE))[0] == 204
    assert (await real.call(method, RESUME))[0] == 204
    assert (await metrics_of(real))["tsengine_background_paused"] == "0.0"


async def test_the_backlog_is_shown_by_chore(real):
    found = await metrics_of(real)
    for name in ("jobs", "bytes", "failing_jobs", "blocked_jobs", "jobs_done_total"):
        for chore in ("expiry", "compaction", "tier_building", "tier_merging"):
            assert found[f'tsengine_background_{name}{{chore="{chore}"}}'] == "0.0"
    assert found["tsengine_tier_parts"] == "0.0"


@pytest.mark.parametrize("path", [PAUSE, RESUME])
async def test_only_where_admin_calls_are_enabled(running, path):
    status, answer = await running.json("POST", path)
    assert status == 500
    assert "--enable-admin-api" in answer["error"]


async def test_a_long_merge_holds_up_neither_pause_nor_resume(start):
    class Merging(FakeDatabase):
        def __init__(self):
            super().__init__()
            self.begun, self.may_end = threading.Event(), threading.Event()

        def compact(self):
            self.begun.set()
            assert self.may_end.wait(30)

        def pause_background(self):
            self.calls.append(("pause",))

        def resume_background(self):
            self.calls.append(("resume",))

    database = Merging()
    running = await start("--enable-admin-api", database=database)
    merge = asyncio.create_task(running.call("POST", "/api/v1/admin/tsdb/flush?merge=1"))
    try:
        await asyncio.to_thread(database.begun.wait, 30)
        async with asyncio.timeout(10):
            for path in (PAUSE, RESUME, PAUSE):
                assert (await running.call("POST", path))[0] == 204
        assert database.calls[-3:] == [("pause",), ("resume",), ("pause",)]
        assert not merge.done()
    finally:
        database.may_end.set()
    assert (await merge)[0] == 204


async def test_a_pause_that_waits_for_a_job_does_not_hold_up_resume(start):
    class Working(FakeDatabase):
        def __init__(self):
            super().__init__()
            self.begun, self.may_end = threading.Event(), threading.Event()

        def pause_background(self):
            self.begun.set()
            assert self.may_end.wait(30)

        def resume_background(self):
            self.may_end.set()

    database = Working()
    running = await start("--enable-admin-api", database=database)
    pauses = [asyncio.create_task(running.call("POST", PAUSE)) for _ in range(5)]
    try:
        await asyncio.to_thread(database.begun.wait, 30)
        async with asyncio.timeout(10):
            assert (await running.call("POST", RESUME))[0] == 204
    finally:
        database.may_end.set()
    assert [(await pause)[0] for pause in pauses] == [204] * 5
