"""A real server process, asked over HTTP while its old parts move to an S3 API on loopback."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

import tsengine
from tests.backup.cold_case import keys, local
from tests.crash.serving import ServerProcess

DAY_MS = 86_400_000
STEP_MS = 60_000
N_DAYS = 4


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A directory with four old days and today's last hour; the time at which it was made."""
    path = tmp_path_factory.mktemp("filled") / "db"
    now_ms = int(time.time() * 1000)
    today = now_ms // DAY_MS * DAY_MS
    rng = np.random.default_rng(3)
    with tsengine.open(path, tsengine.Options(tiers=())) as db:
        db.pause_background()
        spans = [(today - k * DAY_MS, today - (k - 1) * DAY_MS) for k in range(N_DAYS + 1, 1, -1)]
        for first, last in [*spans, (now_ms - 3_600_000, now_ms)]:
            t_ms = np.arange(first + STEP_MS, last, STEP_MS)
            for job in ("a", "b"):
                for host in range(3):
                    labels = {"job": job, "host": str(host)}
                    counts = np.cumsum(rng.integers(0, 9, len(t_ms))).astype(float)
                    db.append({"__name__": "requests_total", **labels}, t_ms, counts)
                    db.append({"__name__": "load", **labels}, t_ms, rng.normal(size=len(t_ms)))
            db.flush()
        db.compact()
    return path, now_ms


def n_recent_days(now_ms):
    """Days that the last hour touches."""
    return len({t_ms // DAY_MS for t_ms in (now_ms - 3_600_000 + STEP_MS, now_ms - 1)})


@pytest.fixture
def data(filled, tmp_path):
    path, now_ms = filled
    shutil.copytree(path, tmp_path / "db")
    return tmp_path / "db", now_ms


@pytest.fixture
def serve(s3, tmp_path):
    """Starts servers on a directory, with `s3` as the place of old parts; they end afterwards."""
    started = []

    def start(path, *flags):
        server = ServerProcess(
            path, "--tiers", "off", "--cold.url", s3.url, "--cold.endpoint-url", s3.endpoint,
            *flags, log=tmp_path / "server.log",
        )  # fmt: skip
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill() if server.process.poll() is None else None


MOVING = ("--cold.after", "24h")


def answers(server, now_ms):
    """What a dashboard, an explorer and a scrape of samples ask for."""
    end = now_ms / 1000
    start = end - (N_DAYS + 1) * 86_400
    found = {}
    for expr in (
        "load", 'requests_total{job="a"}', "sum by (job) (rate(requests_total[10m]))",
        "quantile_over_time(0.9, load[1h])", "max(load) - min(load)",
        "topk(2, increase(requests_total[6h]))", 'count_over_time(load{host="1"}[1d])',
    ):  # fmt: skip
        found[expr] = server.get("query_range", query=expr, start=start, end=end, step=1800)
    for expr in (
        "load[2d] offset 2d", "sum(increase(requests_total[4d]))", "stddev_over_time(load[4d])",
        "last_over_time(load[1h] offset 3d)",
    ):  # fmt: skip
        found[expr] = server.get("query", query=expr, time=end)
    found["series"] = server.get("series", **{"match[]": "load", "start": start, "end": end})
    found["labels"] = server.get("labels", start=start, end=end)
    return found


def metric(server, name):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


def wait_until_moved(server, n_parts=N_DAYS):
    deadline = time.monotonic() + 120
    while metric(server, "tsengine_cold_parts") < n_parts:
        assert time.monotonic() < deadline, "nothing moved"
        time.sleep(0.2)


@pytest.fixture
def moved(data, serve):
    """A directory whose old days have moved, what it answered before, and when."""
    path, now_ms = data
    server = serve(path)
    truth = answers(server, now_ms)
    assert server.stop() == 0
    server = serve(path, *MOVING)
    wait_until_moved(server)
    assert server.stop() == 0
    return path, now_ms, truth


def test_answers_are_the_same_while_parts_move_and_afterwards(data, serve, s3):
    path, now_ms = data
    server = serve(path)
    truth = answers(server, now_ms)
    assert sum(len(row["values"]) for row in truth["load"]["result"]) > 6 * N_DAYS * 35
    assert server.stop() == 0
    s3.fail("PUT", times=1000, delay_s=0.1)
    server = serve(path, *MOVING)
    n_rounds, deadline = 0, time.monotonic() + 120
    while metric(server, "tsengine_cold_parts") < N_DAYS or n_rounds < 2:
        assert answers(server, now_ms) == truth
        n_rounds += 1
        assert time.monotonic() < deadline, "nothing moved"
    assert metric(server, "tsengine_cold_bytes") > 0
    assert answers(server, now_ms) == truth
    assert server.stop() == 0
    stubs = local(path, ".cold")
    assert len(stubs) == len(keys(s3)) == 2 * N_DAYS
    assert len(local(path, "/values")) == n_recent_days(now_ms)
    # Without the flags too: stubs know where they are.
    shutil.rmtree(path / "cold-cache")
    server = serve(path)
    assert answers(server, now_ms) == truth
    n_requests = len(s3.requests)
    assert answers(server, now_ms) == truth
    assert len(s3.requests) == n_requests, "from the cache"


def test_slow_answers_and_some_failures_change_no_answer(moved, serve, s3):
    path, now_ms, truth = moved
    for trouble in (
        {"delay_s": 0.4, "times": 4}, {"status": 503, "code": "SlowDown", "times": 3},
        {"reset": True, "times": 2}, {"cut": True, "times": 2},
    ):  # fmt: skip
        shutil.rmtree(path / "cold-cache", ignore_errors=True)
        server = serve(path, *MOVING)
        n_requests = len(s3.requests)
        s3.fail("GET", **trouble)
        assert answers(server, now_ms) == truth
        assert len(s3.requests) - n_requests >= trouble["times"]
        assert s3.orders.pop().times == 0, "all of it was met"
        assert server.stop() == 0


def test_a_store_that_is_away(moved, serve, s3):
    """It starts, knows its series and answers for today; old days are 503 until it is back."""
    path, now_ms, truth = moved
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    s3.fail("GET", times=100_000, status=503, code="SlowDown")
    server = serve(path, *MOVING)
    end = now_ms / 1000
    assert server.get("series", **{"match[]": "load", "start": 0, "end": end}) == truth["series"]
    assert len(server.get("query", query="sum(load)", time=end)["result"]) == 1
    began = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.get("query", query="last_over_time(load[1h] offset 3d)", time=end)
    assert time.monotonic() - began < 45
    assert refused.value.code == 503
    assert refused.value.headers["Retry-After"]
    told = json.load(refused.value)
    assert told["errorType"] == "unavailable"
    assert s3.url in told["error"]
    with urllib.request.urlopen(f"{server.url}/-/ready", timeout=10) as ready:
        assert ready.status == 200
    s3.orders.clear()
    assert answers(server, now_ms) == truth


def test_killed_while_parts_move(data, serve, s3):
    path, now_ms = data
    server = serve(path)
    truth = answers(server, now_ms)
    server.stop()
    s3.fail("PUT", times=100_000, delay_s=0.15)
    for n_put in (1, 3, 6):
        n_before = len(s3.requests)
        server = serve(path, *MOVING)
        deadline = time.monotonic() + 60
        while sum(method == "PUT" for method, _, _ in s3.requests[n_before:]) < n_put:
            if metric(server, "tsengine_cold_parts") == N_DAYS:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        server.kill()
    s3.orders.clear()
    server = serve(path, *MOVING)
    wait_until_moved(server)
    assert answers(server, now_ms) == truth
    assert server.stop() == 0
    assert tsengine.check(path).problems == []
    assert len(local(path, "/values")) == n_recent_days(now_ms)


def test_a_long_query_outlives_a_delete_that_rewrites_what_it_reads(moved, serve, s3):
    path, now_ms, truth = moved
    shutil.rmtree(path / "cold-cache", ignore_errors=True)
    before = set(keys(s3))
    server = serve(path, *MOVING, "--enable-admin-api")
    s3.fail("GET", times=100_000, delay_s=0.7)
    end, found = now_ms / 1000, {}
    expr = "stddev_over_time(load[4d])"

    def ask():
        found.update(server.get("query", query=expr, time=end))

    thread = threading.Thread(target=ask)
    n_before = len(s3.requests)
    thread.start()
    while len(s3.requests) == n_before:
        time.sleep(0.01)
    for what in ("delete_series", "clean_tombstones"):
        request = urllib.request.Request(
            f"{server.url}/api/v1/admin/tsdb/{what}",
            b"match[]=load{host=\"2\"}", method="POST",
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=120).close()
    thread.join()
    assert found == truth[expr]
    s3.orders.clear()
    assert len(server.get("query", query=expr, time=end)["result"]) == 4
    assert server.stop() == 0
    assert before - set(keys(s3)), "what was replaced has left the store"
    assert tsengine.check(path).problems == []
