"""Statistics of queries, the list of active ones, the slow-query log, the query log file."""

import asyncio
import threading
import time

import orjson
import pytest
import pytest_asyncio

from server.lifecycle import open_database
from tests.http import wire
from tests.http.conftest import make_config

START = 1_700_000_000


@pytest_asyncio.fixture
async def filled(start, tmp_path):
    """Starts servers with flags over one hour of two series."""
    databases = []

    async def make(*flags):
        flags = ("--data-dir", str(tmp_path / "data"), "--retention", "0", *flags)
        database = open_database(make_config(*flags))
        databases.append(database)
        running = await start(*flags, database=database)
        times = [(START + 15 * k) * 1000 for k in range(240)]
        series = [
            ({"__name__": "m_total", "i": i}, [(t, k) for k, t in enumerate(times)]) for i in "ab"
        ]
        body = wire.snappy(wire.message_v1(series))
        await running.call("POST", "/api/v1/write", data=body, headers=wire.HEADERS_V1)
        return running

    yield make
    for database in databases:
        database.close()


def asked(expr="rate(m_total[1m])", **more):
    return {"query": expr, "start": START + 600, "end": START + 660, "step": 15, **more}


async def test_stats_true(filled):
    running = await filled()
    _, answer = await running.json("POST", "/api/v1/query_range", data=asked(stats="true"))
    stats = answer["data"]["stats"]
    assert set(stats) == {"timings", "samples", "tsengine"}
    # Windows of four samples at five steps; each step but the first reads one new sample.
    assert stats["samples"]["totalQueryableSamples"] == 2 * 4 * 5
    assert stats["samples"]["samplesRead"] == 2 * (4 + 4)
    assert stats["samples"]["peakSamples"] > 0
    assert set(stats["timings"]) == {
        "evalTotalTime", "resultSortTime", "queryPreparationTime", "innerEvalTime",
        "execQueueTime", "execTotalTime",
    }  # fmt: skip
    assert 0 < stats["timings"]["evalTotalTime"] <= stats["timings"]["execTotalTime"]
    own = stats["tsengine"]
    assert own["plan"] == "rollup rate\n  samples of m_total{} over 60000 ms"
    assert own["tiers"] == ["raw"]
    assert 0 < own["memoryPeakBytes"] <= own["memoryEstimatedBytes"]
    assert "warnings" not in answer
    assert list(answer["data"]) == ["resultType", "result", "stats"]


@pytest.mark.parametrize("feature", [False, True])
async def test_stats_all(filled, feature):
    running = await filled(*(["--enable-feature", "promql-per-step-stats"] if feature else []))
    _, answer = await running.json("POST", "/api/v1/query_range", data=asked(stats="all"))
    samples = answer["data"]["stats"]["samples"]
    if not feature:
        assert "totalQueryableSamplesPerStep" not in samples
        return
    times = [START + 600 + 15 * k for k in range(5)]
    assert samples["totalQueryableSamplesPerStep"] == [[t, 8] for t in times]
    assert samples["samplesReadPerStep"] == [[t, 8 if t == times[0] else 2] for t in times]
    _, answer = await running.json(
        "GET", f"/api/v1/query?query=m_total[1m]&time={START + 600}&stats=all"
    )
    samples = answer["data"]["stats"]["samples"]
    assert samples["totalQueryableSamplesPerStep"] == [[START + 600, 8]]


async def test_other_values_of_stats_are_deprecated(filled):
    running = await filled()
    _, answer = await running.json("POST", "/api/v1/query_range", data=asked(stats="yes"))
    assert answer["data"]["stats"]["samples"]["samplesRead"] == 16
    assert answer["warnings"] == [
        'value "yes" for parameter "stats" is deprecated and will be rejected in the next major '
        'release, use "true" or "all"'
    ]
    _, answer = await running.json("POST", "/api/v1/query_range", data=asked())
    assert "stats" not in answer["data"]


async def test_active_queries(start):
    running = await start("--query.max-concurrency", "1")
    _, answer = await running.json("GET", "/api/v1/status/active_queries")
    assert answer == {"status": "success", "data": {"queries": []}}

    async def ask(expr):
        url = f"{running.url}/api/v1/query?query={expr}&timeout=60"
        async with running.session.get(url) as response:
            return response.status, await response.text()

    tasks = [asyncio.ensure_future(ask(expr)) for expr in ("hang_a", "hang_b")]
    deadline = time.monotonic() + 60
    queries = []
    while [row["state"] for row in queries] != ["running", "waiting"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
        _, answer = await running.json("GET", "/api/v1/status/active_queries")
        queries = answer["data"]["queries"]
    first = queries[0]
    assert {row["query"] for row in queries} == {"hang_a", "hang_b"}
    assert (first["id"], first["kind"], first["step"]) == (1, "instant", 0)
    assert first["client"] == "127.0.0.1"
    assert 0 <= first["ageSeconds"] < 60
    assert (first["samplesRead"], first["memoryBytes"]) == (0, 0)
    assert abs(first["start"] - time.time()) < 70
    running.server.executor.cancel_queries()
    answers = dict(await asyncio.gather(*tasks))
    # The one that waited never runs: who stops the server has no time for it.
    assert answers[503] == "Service Unavailable: the server is shutting down\n"
    assert "canceled" in answers[499]
    _, answer = await running.json("GET", "/api/v1/status/active_queries")
    assert answer["data"]["queries"] == []


async def test_slow_queries_are_logged(filled, caplog):
    running = await filled("--query.slow-threshold", "1ms")
    with caplog.at_level("WARNING", "tsengine"):
        await running.json("POST", "/api/v1/query_range", data=asked("sum_over_time(m_total[30m])"))
    (record,) = [row for row in caplog.records if row.getMessage() == "slow query"]
    fields = record.tsengine_fields
    assert fields["query"] == "sum_over_time(m_total[30m])"
    assert fields["duration"].endswith("s")
    assert float(fields["duration"][:-1]) >= 0.001
    assert fields["samples"] > 0
    assert (fields["start"], fields["end"]) == (
        "2023-11-14T22:23:20.000Z", "2023-11-14T22:24:20.000Z"
    )  # fmt: skip
    assert fields["step"] == "15s"


async def test_quick_queries_are_not(filled, caplog):
    running = await filled("--query.slow-threshold", "off")
    with caplog.at_level("WARNING", "tsengine"):
        await running.json("POST", "/api/v1/query_range", data=asked())
    assert "slow query" not in caplog.text


async def test_the_query_log_file(filled, tmp_path):
    path = tmp_path / "queries.log"
    running = await filled("--query.log-file", str(path))
    await running.json("POST", "/api/v1/query_range", data=asked())
    await running.json("GET", f"/api/v1/query?query=m_total&time={START}.5")
    await running.json("GET", "/api/v1/query?query=m_total/on()m_total&time=" + str(START))
    await running.json("GET", "/api/v1/query?query=sum(")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert len(lines) == 4
    ranged, instant, failed, malformed = lines
    assert ranged["params"] == {
        "query": "rate(m_total[1m])", "step": 15,
        "start": "2023-11-14T22:23:20.000Z", "end": "2023-11-14T22:24:20.000Z",
    }  # fmt: skip
    assert ranged["stats"]["samples"]["totalQueryableSamples"] == 40
    assert ranged["stats"]["timings"]["evalTotalTime"] > 0
    assert ranged["httpRequest"] == {
        "clientIP": "127.0.0.1", "method": "POST", "path": "/api/v1/query_range"
    }  # fmt: skip
    assert "error" not in ranged
    assert instant["params"]["start"] == instant["params"]["end"] == "2023-11-14T22:13:20.500Z"
    assert "many-to-many" in failed["error"]
    assert failed["stats"]["timings"]["execTotalTime"] > 0
    assert "parse error" in malformed["error"]


@pytest.mark.parametrize("call", ["series", "labels", "label/i/values"])
async def test_searches_end_in_time(filled, call):
    running = await filled()
    selectors = "&".join(f'match[]={{i=~"[ab]{k}?"}}' for k in range(500))
    path = f"/api/v1/{call}?{selectors}".replace("{", "%7B").replace("}", "%7D")
    path = path.replace('"', "%22")
    status, answer = await running.json("GET", path)
    assert (status, len(answer["data"])) == (200, 2)
    started = time.monotonic()
    status, answer = await running.json("GET", path + "&timeout=1ms")
    assert (status, answer["errorType"]) == (503, "timeout")
    assert answer["error"] == "the search for series timed out"
    assert time.monotonic() - started < 2


async def test_searches_end_with_their_client(start):
    running = await start()
    begun, seen = threading.Event(), []

    def series_json(selectors, start, end, limit, *, check):
        begun.set()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                check()
            except Exception as error:
                seen.append(str(error))
                raise
            time.sleep(0.01)

    running.database.series_json = series_json
    task = asyncio.ensure_future(running.call("GET", "/api/v1/series?match[]=up"))
    assert await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert seen == ["the search for series was canceled"]
