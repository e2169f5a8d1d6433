"""Endpoints about scraping, alerting and configuration, which this server has none of."""

import pytest

from server.telemetry import Telemetry, family_json


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("targets", {"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}}),
        ("targets?state=active",
         {"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": None}),
        ("targets/metadata?match_target={job='x'}&metric=up&limit=3", []),
        ("scrape_pools", {"scrapePools": []}),
        ("alertmanagers", {"activeAlertmanagers": [], "droppedAlertmanagers": []}),
        ("status/walreplay", {"min": 0, "max": 0, "current": 0}),
        ("status/tsdb/blocks", {"blocks": []}),
        ("notifications", []),
    ],
)  # fmt: skip
async def test_empty_but_right(running, path, data):
    status, answer = await running.json("GET", f"/api/v1/{path}")
    assert (status, answer) == (200, {"status": "success", "data": data})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("targets/metadata?limit=x", "limit must be a number"),
        ("targets/metadata?match_target=(", 'invalid parameter "match_target": 1:1: parse error: '
         "unclosed left parenthesis"),
        ("targets/relabel_steps", "no scrapePool parameter provided"),
        ("targets/relabel_steps?scrapePool=a", "no labels parameter provided"),
        ("targets/relabel_steps?scrapePool=a&labels={}",
         'error retrieving scrape config: scrape pool "a" not found'),
        ("scrape_pools/config", "no scrapePool parameter provided"),
        ("scrape_pools/config?scrapePool=a",
         'error retrieving scrape config: scrape pool "a" not found'),
        ("status/tsdb?limit=0", "limit must be a positive number"),
        ("status/tsdb?limit=10001", "limit must not exceed 10000"),
    ],
)  # fmt: skip
async def test_refusals(running, path, error):
    status, answer = await running.json("GET", f"/api/v1/{path}")
    assert (status, answer["errorType"], answer["error"]) == (400, "bad_data", error)


async def test_no_stream_of_notifications(running):
    status, _, body = await running.call("GET", "/api/v1/notifications/live")
    assert (status, body) == (204, b"")


async def test_before_readiness(start):
    running = await start(ready=False)
    for path, status in (("notifications", 200), ("notifications/live", 204),
                         ("status/walreplay", 200), ("status/config", 503)):  # fmt: skip
        assert (await running.call("GET", f"/api/v1/{path}"))[0] == status


async def test_features(start):
    running = await start("--enable-admin-api")
    _, _, body = await running.call("GET", "/api/v1/features")
    assert b'">=":true' in body
    _, answer = await running.json("GET", "/api/v1/features")
    assert answer["data"]["api"]["admin"] is True
    assert answer["data"]["api"]["remote_write_receiver"] is True
    assert answer["data"]["api"]["lifecycle"] is False
    assert answer["data"]["promql"] == {"offset": True, "per_step_stats": False}


async def test_features_of_queries(real):
    _, answer = await real.json("GET", "/api/v1/features")
    data = answer["data"]
    assert data["promql"]["fill"] is False
    assert data["promql"]["duration_expr"] is True
    assert data["promql"]["delayed_name_removal"] is False
    assert data["promql_functions"]["rate"] is True
    assert data["promql_functions"]["mad_over_time"] is False
    assert data["promql_operators"]["sum"] is True
    assert data["promql_operators"]["limitk"] is False
    assert data["promql_operators"]["atan2"] is True


async def test_blocks(real, now_ms):
    real.database.append({"__name__": "x"}, [now_ms - 5000, now_ms], [1.0, 2.0])
    assert (await real.call("POST", "/api/v1/admin/tsdb/flush"))[0] == 204
    _, answer = await real.json("GET", "/api/v1/status/tsdb/blocks")
    (block,) = answer["data"]["blocks"]
    assert (block["minTime"], block["maxTime"]) == (now_ms - 5000, now_ms + 1)
    assert block["stats"]["numSamples"] == 2
    assert block["stats"]["numSeries"] == 1
    assert block["compaction"] == {"level": 1, "sources": [block["ulid"]]}


async def test_self_metrics(running):
    await running.call("GET", "/nothing")
    path = "/api/v1/status/self_metrics?metric_name_pattern=tsengine_http_requests.*"
    _, answer = await running.json("GET", path)
    (family,) = answer["data"]
    assert (family["name"], family["type"]) == ("tsengine_http_requests_total", "COUNTER")
    assert family["help"] == "Answered HTTP requests."
    labels = [{"name": "handler", "value": "none"}, {"name": "method", "value": "GET"},
              {"name": "code", "value": "404"}]  # fmt: skip
    assert family["metric"] == [{"label": labels, "counter": {"value": 1.0}}]
    status, answer = await running.json("GET", "/api/v1/status/self_metrics?metric_name_pattern=(")
    assert status == 400
    assert answer["error"].startswith("invalid metric_name_pattern: ")
    _, answer = await running.json("GET", "/api/v1/status/self_metrics")
    assert len(answer["data"]) > 10


def test_json_of_a_histogram():
    telemetry = Telemetry("1")
    telemetry.query_seconds.labels("range").observe(0.02)
    family = next(
        f for f in telemetry.registry.collect() if f.name == "tsengine_query_duration_seconds"
    )
    row = family_json(family)
    assert row["type"] == "HISTOGRAM"
    (metric,) = row["metric"]
    assert metric["label"] == [{"name": "kind", "value": "range"}]
    assert metric["histogram"]["sampleCount"] == "1"
    assert metric["histogram"]["sampleSum"] == 0.02
    assert metric["histogram"]["bucket"][2:4] == [
        {"cumulativeCount": "0", "upperBound": 0.01},
        {"cumulativeCount": "1", "upperBound": 0.03},
    ]
    assert metric["histogram"]["bucket"][-1]["upperBound"] == "Infinity"
