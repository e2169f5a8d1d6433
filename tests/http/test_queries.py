"""/query, /query_range and /query_exemplars: parameters, envelope, limits, cancellation."""

import asyncio
import gzip
import json
import zlib

import pytest

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def rows():
    return {
        (("__name__", "up"), ("job", "<a>")): {1000: 1.0, 2000: 2.0, 3000: 3.0},
        (("__name__", "up"), ("job", "b")): {1000: 4.0, 3000: 5.0},
        (("__name__", "noted"),): {1000: 6.0},
    }


@pytest.fixture
async def filled(running, rows):
    running.database.rows.update(rows)
    return running


async def test_instant_vector(filled):
    status, headers, body = await filled.call("GET", "/api/v1/query?query=up&time=1")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Vary"] == "Accept, Accept-Encoding, Origin"
    # The order of keys matters to Grafana, and label objects are not escaped.
    assert body == (
        b'{"status":"success","data":{"resultType":"vector","result":['
        b'{"metric":{"__name__":"up","job":"<a>"},"value":[1.0,"1.0"]},'
        b'{"metric":{"__name__":"up","job":"b"},"value":[1.0,"4.0"]}]}}'
    )


async def test_body_wins_over_url_and_url_alone_is_enough(filled):
    for url, body in (
        ("/api/v1/query?query=other&time=9", "query=up&time=1"),
        ("/api/v1/query?query=up&time=1", ""),
        ("/api/v1/query?time=1", "query=up"),
    ):
        status, answer = await filled.json("POST", url, data=body, headers=FORM)
        assert status == 200
        assert len(answer["data"]["result"]) == 2


async def test_parameters_reach_the_engine(filled):
    await filled.json(
        "GET", "/api/v1/query?query=up&time=2023-11-14T22:13:20Z&timeout=5s&lookback_delta=1m"
    )
    await filled.json("GET", "/api/v1/query_range?query=up&start=1&end=3&step=500ms&timeout=1h")
    instant, ranged = filled.database.calls
    assert instant[:3] == ("query", "up", 1_700_000_000_000)
    assert 4.5 < instant[3] <= 5
    assert instant[4] == 60
    assert ranged[:5] == ("query_range", "up", 1000, 3000, 0.5)
    assert 119 < ranged[5] <= 120  # The flag is the upper end.
    assert ranged[6] is None


async def test_range(filled):
    status, answer = await filled.json(
        "POST", "/api/v1/query_range", data="query=up&start=1&end=3&step=1", headers=FORM
    )
    assert status == 200
    assert answer["data"]["resultType"] == "matrix"
    assert answer["data"]["result"][1]["values"] == [[1.0, "4.0"], [3.0, "5.0"]]


async def test_limit_truncates_and_says_so(filled):
    _, answer = await filled.json("GET", "/api/v1/query?query=up&time=1&limit=1")
    assert len(answer["data"]["result"]) == 1
    assert answer["warnings"] == ["results truncated due to limit"]
    for limit in (0, 2):
        _, answer = await filled.json("GET", f"/api/v1/query?query=up&time=1&limit={limit}")
        assert len(answer["data"]["result"]) == 2
        assert "warnings" not in answer


async def test_notes_are_cut_after_ten(filled):
    _, answer = await filled.json("GET", "/api/v1/query?query=noted&time=1")
    assert answer["warnings"][:2] == ["PromQL warning: 0", "PromQL warning: 1"]
    assert answer["warnings"][10:] == ["2 more warning annotations omitted"]
    assert "infos" not in answer


async def test_stats_only_when_asked(filled):
    _, answer = await filled.json("GET", "/api/v1/query?query=1&stats=all")
    stats = answer["data"]["stats"]
    assert stats["samples"] == {"totalQueryableSamples": 5, "samplesRead": 5, "peakSamples": 3}
    assert stats["timings"]["evalTotalTime"] == 0.875
    assert 0 < stats["timings"]["execQueueTime"] < 1
    assert list(answer["data"]) == ["resultType", "result", "stats"]
    _, answer = await filled.json("GET", "/api/v1/query?query=1")
    assert "stats" not in answer["data"]


@pytest.mark.parametrize(
    ("path", "status", "kind", "text"),
    [
        ("query?query=", 400, "bad_data", 'invalid parameter "query": 1:1: parse error: '),
        ("query?query=a%28", 400, "bad_data", 'invalid parameter "query": 1:3: parse error: '),
        ("query?query=1&time=x", 400, "bad_data",
         'invalid parameter "time": cannot parse "x" to a valid timestamp'),
        ("query?query=1&timeout=x", 400, "bad_data",
         'invalid parameter "timeout": cannot parse "x" to a valid duration'),
        ("query?query=1&limit=-1", 400, "bad_data",
         'invalid parameter "limit": limit must be non-negative'),
        ("query?query=1&limit=x", 400, "bad_data", 'invalid parameter "limit": '),
        ("query?query=1&lookback_delta=x", 400, "bad_data", "error parsing lookback delta"),
        ("query?query=1&time=%zz", 400, "bad_data", "error parsing form values: "),
        ("query?query=%ff", 400, "bad_data", "error parsing form values: "),
        ("query_range?query=1&end=1&step=1", 400, "bad_data",
         'invalid parameter "start": cannot parse "" to a valid timestamp'),
        ("query_range?query=1&start=1&end=1", 400, "bad_data",
         'invalid parameter "step": cannot parse "" to a valid duration'),
        ("query_range?query=1&start=2&end=1&step=1", 400, "bad_data",
         'invalid parameter "end": end timestamp must not be before start time'),
        ("query_range?query=1&start=1&end=2&step=0", 400, "bad_data",
         'invalid parameter "step": zero or negative query resolution step widths are not '
         "accepted. Try a positive integer"),
        ("query_range?query=1&start=1&end=2&step=-1", 400, "bad_data", 'invalid parameter "step"'),
        ("query_range?query=1&start=0&end=11001&step=1", 400, "bad_data",
         "exceeded maximum resolution of 11,000 points per timeseries. "
         "Try decreasing the query resolution (?step=XX)"),
        ("query_range?query=1&start=0&end=1000000000&step=1", 400, "bad_data",
         "exceeded maximum resolution"),
        ("query_range?query=ranged&start=1&end=2&step=1", 400, "bad_data",
         'invalid parameter "query": invalid expression type "matrix" for range query'),
        ("query?query=many", 422, "execution", "query processing would load too many samples"),
        ("query?query=matchless+%3C%26%3E", 422, "execution", "many-to-many <&>"),
        ("query?query=damaged", 500, "internal", "part-1: checksum at byte 7"),
        ("query?query=bug", 500, "internal", "internal error (ZeroDivisionError)"),
        ("query?query=hang&timeout=20ms", 503, "timeout", "query timed out"),
    ],
)  # fmt: skip
async def test_refusals(running, path, status, kind, text):
    got, answer = await running.json("GET", "/api/v1/" + path)
    assert got == status
    assert answer["status"] == "error"
    assert answer["errorType"] == kind
    assert answer["error"].startswith(text)
    assert list(answer) == ["status", "errorType", "error"]
    assert (await running.call("GET", "/-/ready"))[0] == 200


async def test_error_texts_escape_what_go_escapes(running):
    _, _, body = await running.call("GET", "/api/v1/query?query=matchless+%3C%26%3E")
    assert b"many-to-many \\u003c\\u0026\\u003e" in body


async def test_eleven_thousand_steps_are_allowed(running):
    for end, step in ((11_000, "1"), (10, "1h"), (0, "1")):
        path = f"/api/v1/query_range?query=1&start=0&end={end}&step={step}"
        assert (await running.call("GET", path))[0] == 200


async def test_steps_flag(start):
    running = await start("--query.max-steps", "5")
    path = "/api/v1/query_range?query=1&start=0&step=1&end="
    assert (await running.call("GET", path + "5"))[0] == 200
    status, answer = await running.json("GET", path + "6")
    assert status == 400
    assert "maximum resolution of 5 points" in answer["error"]


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress),
                                                  ("deflate", zlib.decompress)])  # fmt: skip
async def test_compression(running, encoding, unpack):
    running.database.rows.update({(("__name__", "up"), ("i", str(i))): {0: 1.0} for i in range(99)})
    path = "/api/v1/query?query=up&time=0"
    _, headers, plain = await running.call("GET", path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in headers
    status, headers, body = await running.call("GET", path, headers={"Accept-Encoding": encoding})
    assert status == 200
    assert headers["Content-Encoding"] == encoding
    assert len(body) < len(plain) // 5
    assert unpack(body) == plain


async def test_large_bodies_are_compressed_too(running):
    rows = {(("__name__", "up"), ("i", str(i))): {0: 1.0} for i in range(2000)}
    running.database.rows.update(rows)
    _, _, body = await running.call(
        "GET", "/api/v1/query?query=up&time=0", headers={"Accept-Encoding": "gzip;q=0.5, br"}
    )
    assert len(json.loads(gzip.decompress(body))["data"]["result"]) == 2000


async def test_refused_encodings_are_not_used(running):
    running.database.rows.update({(("__name__", "up"), ("i", str(i))): {0: 1.0} for i in range(99)})
    for accept in ("gzip;q=0", "br", "*;q=0", "identity"):
        _, headers, _ = await running.call(
            "GET", "/api/v1/query?query=up&time=0", headers={"Accept-Encoding": accept}
        )
        assert "Content-Encoding" not in headers


async def test_a_client_that_leaves_cancels_its_query(running):
    call = asyncio.create_task(running.call("GET", "/api/v1/query?query=hang"))
    while not running.server.executor.queries_running:
        await asyncio.sleep(0.005)
    call.cancel()
    async with asyncio.timeout(60):
        while running.server.executor.queries_running:
            await asyncio.sleep(0.005)
    assert ("canceled", "hang") in running.database.calls


async def test_further_queries_wait_for_their_turn(start):
    running = await start("--query.max-concurrency", "2")
    executor = running.server.executor
    hanging = [
        asyncio.create_task(running.call("GET", f"/api/v1/query?query=hang&timeout={t}"))
        for t in ("2s", "60s")
    ]
    while executor.queries_running < 2:
        await asyncio.sleep(0.005)
    third = asyncio.create_task(running.call("GET", "/api/v1/query?query=1"))
    status, answer = await running.json("GET", "/api/v1/query?query=1&timeout=20ms")
    assert (status, answer["errorType"]) == (503, "timeout")
    assert not third.done()
    assert executor.queries_waiting == 1
    assert (await hanging[0])[0] == 503
    assert (await third)[0] == 200
    executor.cancel_queries()
    status, _, body = await hanging[1]
    assert status == 499
    assert json.loads(body)["errorType"] == "canceled"


async def test_a_long_line_is_refused_not_remembered(start):
    running = await start("--query.max-concurrency", "1")
    limits = running.server.limits
    running.server.executor.queries_waiting = limits.queries_waiting_max
    status, answer = await running.json("GET", "/api/v1/query?query=1")
    assert (status, answer["errorType"]) == (503, "unavailable")
    running.server.executor.queries_waiting = 0


async def test_exemplars(running):
    for method in ("GET", "POST"):
        # Grafana probes with times in milliseconds.
        path = "/api/v1/query_exemplars?query=test&start=1700000000000&end=1700000001000"
        assert await running.json(method, path) == (200, {"status": "success", "data": []})
    assert (await running.call("GET", "/api/v1/query_exemplars?query=1"))[::2] == (204, b"")
    status, answer = await running.json("GET", "/api/v1/query_exemplars?query=test%28")
    assert status == 400
    assert answer["error"].startswith('invalid parameter "query": ')
    status, answer = await running.json("GET", "/api/v1/query_exemplars?query=a&start=2&end=1")
    assert status == 400
