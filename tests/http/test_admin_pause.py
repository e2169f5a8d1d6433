"""POST /api/v1/admin/tsdb/pause and resume, and what /metrics says of background work."""

from __future__ import annotations

import pytest

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
