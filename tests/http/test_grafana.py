"""What Grafana's Prometheus data source sends, replayed, with the answers it needs."""

import time

import pytest

STEP = 15
T = int(time.time()) // STEP * STEP - 60

HEADERS = {
    "Accept": "application/json, text/plain, */*", "Accept-Encoding": "gzip",
    "User-Agent": "Grafana/12.1.0", "X-Dashboard-Uid": "abc", "X-Panel-Id": "2",
    "X-Grafana-Org-Id": "1", "X-Datasource-Uid": "ds", "X-Query-Group-Id": "1",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}  # fmt: skip


@pytest.fixture
async def grafana(real):
    """Calls of the data source; three series of two jobs, a sample each 15 s for 5 minutes."""
    for i in range(3):
        labels = {"__name__": "http_requests_total", "job": f"j{i // 2}", "instance": f"i{i}"}
        times = [(T + k * STEP) * 1000 for k in range(-20, 1)]
        real.database.append(labels, times, [float((k + 20) * 15 * (i + 1)) for k in range(-20, 1)])
    real.database.append_metadata("http_requests_total", "counter", "Requests <served>.", "")

    async def call(method, path, form=None):
        headers = {**HEADERS, "Accept-Encoding": "identity"}
        status, answer = await real.json(method, "/api/v1/" + path, data=form, headers=headers)
        assert (status, answer["status"]) == (200, "success"), answer
        return answer["data"]

    call.raw = real.call
    return call


async def test_save_and_test(grafana):
    health = await grafana("POST", "query", {"query": "1+1", "time": "4"})
    assert health == {"resultType": "scalar", "result": [4, "2"]}
    info = await grafana("GET", "status/buildinfo")
    assert info["version"] == "3.14.0"
    assert "features" not in info
    exemplars = await grafana(
        "POST", "query_exemplars",
        {"query": "test", "start": str((T - 1000) * 1000), "end": str(T * 1000)},
    )  # fmt: skip
    assert exemplars == []
    assert await grafana("GET", "rules") == {"groups": []}
    metadata = await grafana("GET", "metadata?limit=40000")
    assert metadata == {
        "http_requests_total": [{"type": "counter", "help": "Requests <served>.", "unit": ""}]
    }


async def test_time_panel(grafana):
    form = {
        "query": "sum by(job) (rate(http_requests_total[1m0s]))", "step": "15",
        "start": str(T - 60), "end": str(T), "timeout": "30",
    }  # fmt: skip
    data = await grafana("POST", "query_range?custom=1", form)
    assert data["resultType"] == "matrix"
    assert [row["metric"] for row in data["result"]] == [{"job": "j0"}, {"job": "j1"}]
    for row in data["result"]:
        assert [t for t, _ in row["values"]] == [T - 60, T - 45, T - 30, T - 15, T]
        assert [float(text) for _, text in row["values"]] == pytest.approx([3.0] * 5)


async def test_fractions_of_seconds_in_start_and_step(grafana):
    form = {"query": "vector(time())", "start": f"{T}.5", "end": f"{T + 1}.5", "step": "0.5"}
    data = await grafana("POST", "query_range", form)
    assert data["result"][0]["values"] == [
        [T + 0.5, f"{T}.5"], [T + 1, str(T + 1)], [T + 1.5, f"{T + 1}.5"]
    ]  # fmt: skip


async def test_instant_panel_and_variable(grafana):
    form = {"query": "topk(1, http_requests_total)", "time": str(T)}
    data = await grafana("POST", "query", form)
    assert data["result"] == [
        {"metric": {"__name__": "http_requests_total", "instance": "i2", "job": "j1"},
         "value": [T, "900"]}
    ]  # fmt: skip
    data = await grafana("GET", f"query?query=count(http_requests_total)&time={T}")
    assert data["result"] == [{"metric": {}, "value": [T, "3"]}]


async def test_label_browser(grafana):
    window = {"start": str(T - 300), "end": str(T)}
    names = await grafana("POST", "labels", window)
    assert names == ["__name__", "instance", "job"]
    names = await grafana(
        "POST", "labels",
        [("match[]", "http_requests_total"), ("match[]", '{job="j1"}'), *window.items(),
         ("limit", "40000")],
    )  # fmt: skip
    assert names == ["__name__", "instance", "job"]
    series = await grafana(
        "POST", "series", {"match[]": '{__name__!=""}', "limit": "40000", **window}
    )
    assert [row["instance"] for row in series] == ["i0", "i1", "i2"]
    path = f"label/__name__/values?start={T - 300}&end={T}&limit=40000"
    assert await grafana("GET", path) == ["http_requests_total"]
    path = "label/instance/values?match[]=http_requests_total%7Bjob%3D%22j0%22%7D"
    assert await grafana("GET", path) == ["i0", "i1"]
    assert await grafana("GET", "label/U__service_2e_name/values") == []


async def test_an_error_is_shown_with_type_and_text(grafana):
    status, _, body = await grafana.raw(
        "POST", "/api/v1/query", data={"query": "rate(x)"}, headers=HEADERS
    )
    assert status == 400
    assert body == (
        b'{"status":"error","errorType":"bad_data","error":"invalid parameter \\"query\\": '
        b'1:6: parse error: expected type range vector in call to function \\"rate\\", '
        b'got instant vector"}'
    )


async def test_calls_that_are_only_get_refuse_post(grafana):
    for path in ("label/job/values", "metadata", "rules", "status/buildinfo", "notifications"):
        status, headers, _ = await grafana.raw("POST", f"/api/v1/{path}")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
