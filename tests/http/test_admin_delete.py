"""delete_series and clean_tombstones over HTTP, on the real engine."""

from __future__ import annotations

from urllib.parse import quote

import pytest

DELETE = "/api/v1/admin/tsdb/delete_series"
CLEAN = "/api/v1/admin/tsdb/clean_tombstones"


@pytest.fixture
async def filled(real, now_ms):
    start = now_ms - 100_000
    times = [start + 1000 * k for k in range(100)]
    for name in ("a", "b", "c"):
        real.database.append({"__name__": "m", "s": name}, times, [float(k) for k in range(100)])
    real.start_ms = start
    return real


async def samples(running, selector="m"):
    path = f"/api/v1/query?query={quote(selector + '[1h]')}"
    _, answer = await running.json("GET", path)
    return {
        row["metric"]["s"]: [float(value) for _, value in row["values"]]
        for row in answer["data"]["result"]
    }


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_whole_series_go(filled, method):
    selectors = [quote(f"m{{s='{name}'}}") for name in "ab"]
    path = f"{DELETE}?match[]={selectors[0]}&match[]={selectors[1]}"
    assert (await filled.call(method, path))[::2] == (204, b"")
    assert list(await samples(filled)) == ["c"]
    _, answer = await filled.json("GET", "/api/v1/label/s/values")
    assert answer["data"] == ["c"]
    _, answer = await filled.json("GET", "/api/v1/series?match[]=m")
    assert answer["data"] == [{"__name__": "m", "s": "c"}]


async def test_a_range_goes_and_both_ends_with_it(filled):
    start, end = filled.start_ms + 10_000, filled.start_ms + 20_000
    form = {"match[]": 'm{s="a"}', "start": str(start / 1000), "end": str(end / 1000)}
    assert (await filled.call("POST", DELETE, data=form))[0] == 204
    found = await samples(filled)
    assert found["a"] == [float(k) for k in range(100) if not 10 <= k <= 20]
    assert len(found["b"]) == 100


async def test_clean_tombstones_rewrites_what_is_on_disk(filled):
    await filled.call("POST", "/api/v1/admin/tsdb/flush")
    await filled.call("POST", DELETE, data={"match[]": 'm{s=~"a|b"}'})
    for method in ("POST", "PUT"):
        assert (await filled.call(method, CLEAN))[::2] == (204, b"")
    _, answer = await filled.json("GET", "/api/v1/status/tsdb/blocks")
    assert [block["stats"]["numSamples"] for block in answer["data"]["blocks"]] == [100]
    assert list(await samples(filled)) == ["c"]
    # What is written afterwards is there.
    filled.database.append({"__name__": "m", "s": "a"}, [filled.start_ms], [7.0])
    assert (await samples(filled))["a"] == [7.0]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", "no match[] parameter provided"),
        ("?match[]=", 'invalid parameter "match[]"'),
        ("?match[]={}", "at least one non-empty matcher"),
        ("?match[]={s=~%22.*%22}", "at least one non-empty matcher"),
        ("?match[]=m{", 'invalid parameter "match[]"'),
        ("?match[]=m&start=x", 'invalid parameter "start": cannot parse "x"'),
        ("?match[]=m&end=x", 'invalid parameter "end": cannot parse "x"'),
        ("?match[]=m&start=2&end=1", 'invalid parameter "end"'),
        ("?match[]=m&match[]=m{", 'invalid parameter "match[]"'),
    ],
)
async def test_bad_requests_delete_nothing(filled, query, error):
    status, answer = await filled.json("POST", DELETE + query)
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert error in answer["error"]
    assert {name: len(row) for name, row in (await samples(filled)).items()} == {
        "a": 100, "b": 100, "c": 100,
    }  # fmt: skip


@pytest.mark.parametrize("path", [DELETE + "?match[]=m", CLEAN])
async def test_only_where_admin_calls_are_enabled(running, path):
    for method in ("POST", "PUT"):
        status, answer = await running.json(method, path)
        assert (status, answer["errorType"]) == (500, "unavailable")
        assert "--enable-admin-api" in answer["error"]
    assert (await running.call("GET", path))[0] == 405
