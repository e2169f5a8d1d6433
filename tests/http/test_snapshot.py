"""/api/v1/admin/tsdb/snapshot."""

import os
import re

import pytest

import tsengine


async def test_a_snapshot_is_a_database(real, now_ms):
    real.database.append({"__name__": "x"}, [now_ms], [1.0])
    names = []
    for method in ("POST", "PUT"):
        status, answer = await real.json(method, "/api/v1/admin/tsdb/snapshot")
        assert (status, answer["status"]) == (200, "success")
        assert list(answer["data"]) == ["name"]
        names.append(answer["data"]["name"])
        assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{16}", names[-1])
    folder = os.path.join(real.database.path, "snapshots")
    assert sorted(os.listdir(folder)) == sorted(names)
    with tsengine.open(os.path.join(folder, names[0])) as copy:
        assert copy.query("x", now_ms).to_numpy().tolist() == [[1.0]]


async def test_without_the_head(real, now_ms):
    real.database.append({"__name__": "x"}, [now_ms], [1.0])
    _, answer = await real.json("POST", "/api/v1/admin/tsdb/snapshot?skip_head=true")
    path = os.path.join(real.database.path, "snapshots", answer["data"]["name"])
    assert tsengine.check(path).n_samples == 0
    assert real.database.stats()["head_samples"] == 1
    _, answer = await real.json("POST", "/api/v1/admin/tsdb/snapshot", data={"skip_head": "0"})
    path = os.path.join(real.database.path, "snapshots", answer["data"]["name"])
    assert tsengine.check(path).n_samples == 1


async def test_a_parameter_that_is_no_boolean(real):
    status, answer = await real.json("POST", "/api/v1/admin/tsdb/snapshot?skip_head=maybe")
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert 'strconv.ParseBool: parsing "maybe": invalid syntax' in answer["error"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_only_where_it_is_allowed(start, method):
    running = await start()
    status, answer = await running.json(method, "/api/v1/admin/tsdb/snapshot")
    assert (status, answer["errorType"]) == (500, "unavailable")
    assert "--enable-admin-api" in answer["error"]
