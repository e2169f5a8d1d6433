"""One Prometheus that scrapes node_exporter and itself and writes to two of our servers.

One gets remote write 1.0, the other 2.0; afterwards all three must answer alike.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from tests.real.compare import count_points, difference
from tests.real.peers import find_node_exporter, find_prometheus
from tests.real.processes import Child, ServerChild, api, get, stopped_afterwards
from tests.real.queries import QUERIES

PAST_S = 30
"""Queries ask about times at least this long ago, so that every write has arrived."""

_CONFIG = """\
global:
  scrape_interval: {interval_s}s
  scrape_timeout: {interval_s}s
scrape_configs:
  - job_name: node
    static_configs: [{{targets: ["{node}"]}}]
  - job_name: prometheus
    static_configs: [{{targets: ["{prometheus}"]}}]
remote_write:
  - url: {v1}/api/v1/write
    protobuf_message: prometheus.WriteRequest
    queue_config: {{batch_send_deadline: 1s}}
    metadata_config: {{send_interval: 5s}}
  - url: {v2}/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
    queue_config: {{batch_send_deadline: 1s}}
"""


@dataclass
class Outcome:
    """What a session found."""

    n_samples: dict[str, int] = field(default_factory=dict)
    n_points: int = 0
    n_answers: int = 0
    problems: list[str] = field(default_factory=list)
    metadata: dict[str, dict] = field(default_factory=dict)


def run_session(directory, *, collect_s, interval_s, window_s, step_s, say=lambda text: None):
    """Collect for `collect_s` seconds, then compare; raises MissingPeerError without programs."""
    prometheus_binary, node_binary = find_prometheus(), find_node_exporter()
    children = []
    with stopped_afterwards(children):
        servers = {}
        for version in ("1.0", "2.0"):
            child = ServerChild(directory / f"data-{version}", directory / f"server-{version}.log")
            children.append(child)
            servers[version] = child
            say(f"server for {version} ready after {child.start_s:.1f} s at {child.url}")
        node = Child(
            [node_binary, "--web.listen-address=127.0.0.1:0"], directory / "node_exporter.log"
        )
        children.append(node)
        pattern = r'msg="?Listening on"? address=(127\.0\.0\.1:\d+)'
        node_address = node.wait_for(pattern)[1]
        prometheus, address = _start_prometheus(
            prometheus_binary, directory, node_address, servers, interval_s
        )
        children.append(prometheus)
        say(f"Prometheus at {address} scrapes {node_address} every {interval_s} s")
        started = time.time()
        _wait(started + collect_s, servers, say)
        end = int(time.time()) - PAST_S
        start = int(started) + window_s + 2 * interval_s + 2
        assert end > start, "collect for longer"
        outcome = _compare(f"http://{address}", servers, start, end, step_s, window_s)
        _count_sent(outcome, get(f"http://{address}/metrics").decode(), servers)
        for version, server in servers.items():
            code = server.stop()
            if code != 0:
                outcome.problems.append(f"server {version} ended with {code}: {server.text()}")
        return outcome


def _start_prometheus(binary, directory, node_address, servers, interval_s):
    """Prometheus can only scrape itself on a port that its configuration names beforehand."""
    config = directory / "prometheus.yml"
    for attempt in range(3):
        port = _free_port()
        address = f"127.0.0.1:{port}"
        config.write_text(
            _CONFIG.format(
                interval_s=interval_s, node=node_address, prometheus=address,
                v1=servers["1.0"].url, v2=servers["2.0"].url,
            )
        )  # fmt: skip
        child = Child(
            [
                binary, f"--config.file={config}", f"--web.listen-address={address}",
                # Without it protocol 2.0 carries no types and help texts.
                "--enable-feature=metadata-wal-records",
                f"--storage.tsdb.path={directory / f'prometheus-data-{attempt}'}",
            ],
            directory / f"prometheus-{attempt}.log",
        )  # fmt: skip
        try:
            child.wait_for(r"Server is ready to receive web requests", 120)
        except AssertionError:
            child.stop()
            if attempt == 2 or "address already in use" not in child.text():
                raise
            continue
        return child, address
    raise AssertionError("unreachable: the last attempt raises")


def _free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(until, servers, say):
    while (left := until - time.time()) > 0:
        time.sleep(min(left, 30))
        for version, server in servers.items():
            assert server.process.poll() is None, f"server {version} died: {server.text()}"
            up = api(server.url, "query", query="count({__name__!=''})")["result"]
            say(f"{max(until - time.time(), 0):.0f} s left; {version} has "
                f"{up[0]['value'][1] if up else 'no'} series")  # fmt: skip


def _compare(prometheus_url, servers, start, end, step_s, window_s):
    outcome = Outcome()
    for text in QUERIES:
        query = text.replace("$w", f"{window_s}s")
        calls = (
            ("query", {"query": query, "time": end}),
            ("query_range", {"query": query, "start": start, "end": end, "step": step_s}),
        )
        for call, parameters in calls:
            expected = api(prometheus_url, call, **parameters)
            if not expected["result"]:
                outcome.problems.append(f"{call} {query}: Prometheus has no answer")
            for version, server in servers.items():
                actual = api(server.url, call, **parameters)
                outcome.n_answers += 1
                outcome.n_points += count_points(actual)
                if problem := difference(expected, actual):
                    outcome.problems.append(f"{version} {call} {query}: {problem}")
    for version, server in servers.items():
        outcome.metadata[version] = api_get(server.url, "metadata")
    return outcome


def api_get(url, call):
    """The data of a GET-only API call."""
    import json

    return json.loads(get(f"{url}/api/v1/{call}"))["data"]


def _count_sent(outcome, metrics, servers):
    """What Prometheus says about each remote: samples sent, and none failed or dropped."""
    for version, server in servers.items():
        for name in ("samples_total", "samples_failed_total", "samples_dropped_total"):
            pattern = rf'prometheus_remote_storage_{name}{{[^}}]*url="{server.url}/[^}}]*}} (\S+)'
            found = re.findall(pattern, metrics)
            n = int(sum(float(value) for value in found))
            if name == "samples_total":
                outcome.n_samples[version] = n
            elif n:
                outcome.problems.append(f"{version}: {name} is {n}")
