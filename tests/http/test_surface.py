"""Paths, methods, CORS, readiness, status pages, admin calls."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.app import ROUTES


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1/nothing", "/api/v1/query/", "/api/v1/label/x", "/api/v1/"]
)
async def test_unknown_paths(running, path):
    status, headers, body = await running.call("GET", path)
    assert (status, body) == (404, b"404 page not found\n")
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/label/job/values"),
        ("POST", "/api/v1/metadata"),
        ("POST", "/api/v1/rules"),
        ("POST", "/api/v1/status/buildinfo"),
        ("DELETE", "/api/v1/query"),
        ("HEAD", "/api/v1/write"),
        ("GET", "/api/v1/write"),
        ("GET", "/api/v1/admin/tsdb/flush"),
        ("POST", "/-/ready"),
    ],
)
async def test_wrong_methods(running, method, path):
    status, headers, body = await running.call(method, path)
    assert status == 405
    assert headers["Allow"]
    assert body == (b"" if method == "HEAD" else b"Method Not Allowed\n")


async def test_cors(running):
    origin = {"Origin": "http://page.example"}
    status, headers, body = await running.call("OPTIONS", "/api/v1/any/thing", headers=origin)
    assert (status, body) == (204, b"")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
    assert headers["Access-Control-Allow-Headers"] == "Accept, Authorization, Content-Type, Origin"
    assert headers["Access-Control-Expose-Headers"] == "Date"
    _, headers, _ = await running.call("GET", "/api/v1/query?query=1", headers=origin)
    assert headers["Access-Control-Allow-Origin"] == "*"
    _, headers, _ = await running.call("GET", "/api/v1/query?query=(", headers=origin)
    assert headers["Access-Control-Allow-Origin"] == "*"
    _, headers, _ = await running.call("GET", "/api/v1/query?query=1")
    assert "Access-Control-Allow-Origin" not in headers


async def test_cors_pattern(start):
    running = await start("--web.cors.origin", r"https?://(a|b)\.example")
    for origin, allowed in (("http://a.example", "http://a.example"), ("http://c.example", None),
                            ("http://a.example.evil", None)):  # fmt: skip
        _, headers, _ = await running.call(
            "GET", "/api/v1/query?query=1", headers={"Origin": origin}
        )
        assert headers.get("Access-Control-Allow-Origin") == allowed


async def test_before_readiness(start):
    running = await start(ready=False)
    running.server.set_not_ready("compiling kernels: 3 of 9")
    status, _, body = await running.call("GET", "/-/ready")
    assert (status, body) == (503, b"not ready: compiling kernels: 3 of 9\n")
    for method, path in (("GET", "/api/v1/query?query=1"), ("POST", "/api/v1/write"),
                         ("POST", "/write"), ("GET", "/api/v1/status/buildinfo")):  # fmt: skip
        status, headers, body = await running.call(method, path)
        assert status == 503
        assert headers["Content-Type"].startswith("text/plain")
        assert headers["Retry-After"] == "1"
        assert body == b"Service Unavailable: compiling kernels: 3 of 9\n"
    assert (await running.call("GET", "/-/healthy"))[0] == 200
    assert (await running.call("GET", "/metrics"))[0] == 200
    assert (await running.call("GET", "/nothing"))[0] == 404
    running.server.set_ready(running.database)
    assert (await running.call("HEAD", "/-/ready"))[0] == 200
    assert (await running.call("GET", "/api/v1/query?query=1"))[0] == 200


async def test_status_pages(running):
    _, answer = await running.json("GET", "/api/v1/status/buildinfo")
    assert answer["data"]["version"] == "3.14.0"
    assert "features" not in answer["data"]
    assert all(isinstance(value, str) for value in answer["data"].values())
    assert (await running.json("GET", "/version"))[1] == answer["data"]
    _, answer = await running.json("GET", "/api/v1/rules?type=alert")
    assert answer["data"] == {"groups": []}
    assert (await running.call("GET", "/api/v1/rules?type=x"))[0] == 400
    assert (await running.json("GET", "/api/v1/alerts"))[1]["data"] == {"alerts": []}
    _, answer = await running.json("GET", "/api/v1/status/flags")
    assert answer["data"]["query-steps-max"] == "11000"
    _, answer = await running.json("GET", "/api/v1/status/runtimeinfo")
    assert answer["data"]["timeSeriesCount"] == 0
    assert answer["data"]["storageRetention"] == "15d"


async def test_tsdb_status(running):
    assert (await running.json("GET", "/api/v1/status/tsdb"))[1]["data"]["limit"] == 10
    assert (await running.json("GET", "/api/v1/status/tsdb?limit=7"))[1]["data"]["limit"] == 7
    for limit in ("0", "-1", "10001", "x"):
        assert (await running.call("GET", f"/api/v1/status/tsdb?limit={limit}"))[0] == 400


async def test_flush(start):
    running = await start("--enable-admin-api")
    for method in ("POST", "PUT"):
        assert (await running.call(method, "/api/v1/admin/tsdb/flush"))[::2] == (204, b"")
    assert running.database.calls == [("flush",), ("flush",)]
    assert (await running.call("POST", "/api/v1/admin/tsdb/flush?merge=1"))[0] == 204
    assert running.database.calls[2:] == [("flush",), ("compact",)]
    assert (await running.call("POST", "/api/v1/admin/tsdb/flush?merge=x"))[0] == 400


async def test_flush_is_off_by_default(running):
    status, answer = await running.json("POST", "/api/v1/admin/tsdb/flush")
    assert (status, answer["errorType"]) == (500, "unavailable")
    assert "--enable-admin-api" in answer["error"]
    assert running.database.calls == []


async def test_lifecycle_calls(start):
    running = await start()
    assert (await running.call("POST", "/-/quit"))[0] == 403
    assert (await running.call("PUT", "/-/reload"))[0] == 403
    running = await start("--web.enable-lifecycle")
    assert (await running.call("POST", "/-/reload"))[0] == 200
    assert (await running.call("POST", "/-/quit"))[0] == 200
    async with asyncio.timeout(1):
        await running.server.wait_for_stop()


async def test_index_names_what_is_useful(running):
    status, headers, body = await running.call("GET", "/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    for text in (b"/api/v1/query", b"/metrics", b"remote_write", running.url.encode()):
        assert text in body


async def test_metrics(running):
    await running.call("GET", "/api/v1/query?query=1")
    await running.call("GET", "/nothing")
    _, headers, body = await running.call("GET", "/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    key = (("code", "200"), ("handler", "/api/v1/query"), ("method", "GET"))
    assert samples["tsengine_http_requests_total", key] == 1
    key = (("code", "404"), ("handler", "none"), ("method", "GET"))
    assert samples["tsengine_http_requests_total", key] == 1
    assert samples["tsengine_ready", ()] == 1
    assert samples["tsengine_query_duration_seconds_count", (("kind", "instant"),)] == 1
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    _, headers, body = await running.call("GET", "/metrics", headers=accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


async def test_unknown_methods_are_one_label_value(running):
    for method in ("PROPFIND", "MKCOL"):
        assert (await running.call(method, "/metrics"))[0] == 405
    _, _, body = await running.call("GET", "/metrics")
    assert b'method="other"' in body
    assert b"MKCOL" not in body


def test_every_route_has_a_unique_method():
    seen = [(path, method) for path, methods, _ in ROUTES for method in methods]
    assert len(seen) == len(set(seen))
