"""Other people's clients against our server: promtool, prometheus-api-client, federation."""

import contextlib
import re
import subprocess
import time
from datetime import UTC, datetime

import pytest

from tests.http import wire
from tests.real.peers import MissingPeerError, find_prometheus, find_promtool
from tests.real.processes import Child, ServerChild, api, get, stopped_afterwards

N_SAMPLES = 61


def peer(find):
    try:
        return find()
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(URL, time of the newest sample): three series, a sample per second for a minute."""
    import urllib.request

    directory = tmp_path_factory.mktemp("served")
    children = []
    with stopped_afterwards(children):
        server = ServerChild(directory / "data", directory / "log")
        children.append(server)
        newest = int(time.time())
        rows = [
            ({"__name__": "requests_total", "job": f"j{i // 2}", "path": f'/"{i}"\n'},
             [((newest - 60 + k) * 1000, 10.5 * k * (i + 1)) for k in range(N_SAMPLES)])
            for i in range(3)
        ]  # fmt: skip
        body = wire.snappy(wire.message_v1(rows, [(1, "requests_total", "Requests.", "")]))
        request = urllib.request.Request(f"{server.url}/api/v1/write", body, wire.HEADERS_V1)
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 204
        yield server.url, newest


def run(binary, *arguments):
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_promtool(served):
    url, newest = served
    tool = peer(find_promtool)
    lines = run(
        tool,
        "query",
        "instant",
        f"--time={newest}",
        url,
        "sum by (job) (rate(requests_total[30s]))",
    )
    assert lines == [f'{{job="j0"}} => 31.5 @[{newest}]', f'{{job="j1"}} => 31.5 @[{newest}]']
    lines = run(
        tool, "query", "range", f"--start={newest - 20}", f"--end={newest}", "--step=10s", url,
        "count(requests_total)",
    )  # fmt: skip
    assert lines == ["{} =>", *(f"3 @[{newest - back}]" for back in (20, 10, 0))]
    lines = run(
        tool, "query", "series", "--match=requests_total{job='j1'}", f"--start={newest - 60}",
        f"--end={newest}", url,
    )  # fmt: skip
    assert lines == ['{__name__="requests_total", job="j1", path="/\\"2\\"\\n"}']
    assert run(tool, "query", "labels", url, "job") == ["j0", "j1"]


def test_prometheus_api_client(served):
    client_module = pytest.importorskip("prometheus_api_client")
    url, newest = served
    client = client_module.PrometheusConnect(url=url, disable_ssl=True)
    assert client.check_prometheus_connection()
    assert client.all_metrics() == ["requests_total"]
    assert client.get_label_names() == ["__name__", "job", "path"]
    assert client.get_label_values("job") == ["j0", "j1"]
    rows = client.custom_query("sum(requests_total)", params={"time": newest})
    assert rows == [{"metric": {}, "value": [newest, "3780"]}]
    start, end = (datetime.fromtimestamp(t, UTC) for t in (newest - 20, newest))
    rows = client.custom_query_range("count(requests_total)", start, end, "10")
    assert rows == [{"metric": {}, "values": [[newest - back, "3"] for back in (20, 10, 0)]}]
    rows = client.get_current_metric_value("requests_total", {"job": "j1"}, {"time": newest})
    assert rows[0]["value"] == [newest, "1890"]
    rows = client.get_metric_range_data(
        "requests_total", {"job": "j1"}, start_time=start, end_time=end
    )
    assert len(rows[0]["values"]) == 20
    assert client.get_metric_metadata("requests_total")[0]["type"] == "counter"
    assert client.get_targets() == {
        "activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}
    }  # fmt: skip
    assert client.get_scrape_pools() == []
    client.close()


def test_federation(served, tmp_path):
    url, newest = served
    config = f"""\
scrape_configs:
  - job_name: federate
    scrape_interval: 1s
    honor_labels: true
    metrics_path: /federate
    params: {{"match[]": ['{{__name__=~"requests.*"}}']}}
    static_configs: [{{targets: ["{url.removeprefix("http://")}"]}}]
"""
    with prometheus(tmp_path, config) as other:
        deadline = time.monotonic() + 60
        theirs = []
        while not theirs and time.monotonic() < deadline:
            time.sleep(0.3)
            theirs = by_path(api(other, "query", query="requests_total"))
        assert theirs == by_path(api(url, "query", query="requests_total"))
        assert len(theirs) == 3
        stamps = api(other, "query", query="timestamp(requests_total)")["result"]
        assert {row["value"][1] for row in stamps} == {str(newest)}


def test_remote_read(served, tmp_path):
    url, newest = served
    config = f'remote_read: [{{url: "{url}/api/v1/read", read_recent: true}}]\n'
    with prometheus(tmp_path, config) as other:
        span = {"start": newest - 40, "end": newest, "step": 7}
        for query in ("requests_total", 'sum by (job) (rate(requests_total{path=~".+"}[20s]))',
                      'requests_total{job!="j0"} offset 3s'):  # fmt: skip
            theirs, ours = (api(at, "query_range", query=query, **span) for at in (other, url))
            assert theirs["result"], query
            assert theirs == ours
        theirs, ours = (
            api(at, "query", query="requests_total[1m]", time=newest) for at in (other, url)
        )
        assert len(theirs["result"][0]["values"]) == 60
        assert theirs == ours
        # It accepts both types of answers and prefers chunks.
        kinds = re.findall(r"queries_total{code=\"200\".*response_type=\"(\w+)\"",
                           get(f"{other}/metrics").decode())  # fmt: skip
        assert kinds == ["chunked"]


@contextlib.contextmanager
def prometheus(directory, config):
    """URL of a running Prometheus."""
    binary = peer(find_prometheus)
    (directory / "prometheus.yml").write_text(config)
    children = []
    with stopped_afterwards(children):
        child = Child(
            [binary, f"--config.file={directory / 'prometheus.yml'}",
             "--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={directory / 'data'}"],
            directory / "log",
        )  # fmt: skip
        children.append(child)
        address = child.wait_for(r'msg="?Listening on"? .*address=(127\.0\.0\.1:\d+)', 60)[1]
        child.wait_for(r"Server is ready to receive web requests", 60)
        yield f"http://{address}"


def by_path(data):
    return sorted((row["metric"]["path"], row["metric"], row["value"][1]) for row in data["result"])
