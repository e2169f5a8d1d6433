"""VictoriaMetrics's vmagent writes to our server; its vmalert evaluates rules on it."""

import contextlib
import json
import re
import time

import pytest

from tests.real.peers import MissingPeerError, find_victoria_metrics
from tests.real.processes import Child, ServerChild, api, get, stopped_afterwards

RULES = """\
groups:
  - name: own
    interval: 1s
    rules:
      - record: job:up:count
        expr: count by (job) (up)
        labels: {made_by: vmalert}
      - alert: EverythingIsUp
        expr: up == 1
        labels: {severity: "none"}
        annotations: {summary: "{{ $labels.instance }} is up: {{ $value }}"}
"""


def program(name):
    try:
        return find_victoria_metrics(name)
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))


def wait_for(ask, timeout_s=60):
    """The first answer that is not empty."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = ask()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("nothing came in time")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """URL of a server that vmagent fills with the server's own metrics, once a second."""
    agent = program("vmagent")
    directory = tmp_path_factory.mktemp("vmagent")
    children = []
    with stopped_afterwards(children):
        server = ServerChild(directory / "data", directory / "log")
        children.append(server)
        (directory / "scrape.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            "scrape_configs:\n"
            "  - job_name: tsengine\n"
            f'    static_configs: [{{targets: ["{server.url.removeprefix("http://")}"]}}]\n'
        )
        children.append(
            Child(
                [agent, f"-promscrape.config={directory / 'scrape.yml'}",
                 f"-remoteWrite.url={server.url}/api/v1/write", "-remoteWrite.flushInterval=1s",
                 f"-remoteWrite.tmpDataPath={directory / 'queue'}",
                 "-httpListenAddr=127.0.0.1:0"],
                directory / "vmagent.log",
            )
        )  # fmt: skip
        wait_for(lambda: api(server.url, "query", query="count_over_time(up[1m]) > 3")["result"])
        yield server.url


def test_vmagent_writes_what_the_server_shows(scraped):
    (up,) = api(scraped, "query", query="up")["result"]
    assert up["metric"] == {
        "__name__": "up", "job": "tsengine", "instance": scraped.removeprefix("http://"),
    }  # fmt: skip
    assert up["value"][1] == "1"
    names = set(json.loads(get(f"{scraped}/api/v1/label/__name__/values"))["data"])
    page = get(f"{scraped}/metrics").decode()
    shown = set(re.findall(r"^(tsengine_[a-z0-9_]+)[ {]", page, re.MULTILINE))
    assert len(shown) > 30
    assert shown - names == set()
    started = re.search(r"^process_start_time_seconds (\S+)$", page, re.MULTILINE)[1]
    (row,) = api(scraped, "query", query="process_start_time_seconds")["result"]
    # vmagent reads decimals a unit in the last place off now and then.
    assert float(row["value"][1]) == pytest.approx(float(started), rel=1e-15)


def test_vmalert_evaluates_rules_and_writes_their_results(scraped, tmp_path):
    (tmp_path / "rules.yml").write_text(RULES)
    alert = Child(
        [program("vmalert"), f"-rule={tmp_path / 'rules.yml'}", f"-datasource.url={scraped}",
         f"-remoteWrite.url={scraped}", f"-remoteRead.url={scraped}",
         "-remoteWrite.flushInterval=500ms", "-notifier.blackhole", "-rule.evalDelay=0s",
         "-httpListenAddr=127.0.0.1:0"],
        tmp_path / "log",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(alert.stop)
        (recorded,) = wait_for(
            lambda: api(scraped, "query", query="job:up:count", lookback_delta="1m")["result"]
        )
        assert recorded["metric"] == {
            "__name__": "job:up:count", "job": "tsengine", "made_by": "vmalert",
        }  # fmt: skip
        assert recorded["value"][1] == "1"
        (firing,) = wait_for(lambda: api(scraped, "query", query="ALERTS")["result"])
        assert firing["metric"]["alertname"] == "EverythingIsUp"
        assert firing["metric"]["alertstate"] == "firing"
        assert firing["metric"]["severity"] == "none"
        assert firing["value"][1] == "1"
