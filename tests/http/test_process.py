"""`tsengine serve` as a process: start, signals, restarts, refusals to start."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from tests.http import wire
from tests.real.processes import ROOT, ServerChild, api, get

# The first start on a machine compiles kernels.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def serve(tmp_path):
    """Starts servers on one directory; what is left is stopped at the end."""
    children = []

    def make(*flags, self_scrape="off", name="data"):
        log = tmp_path / f"{len(children)}.log"
        children.append(ServerChild(tmp_path / name, log, *flags, self_scrape=self_scrape))
        return children[-1]

    yield make
    for child in children:
        child.stop()


def post(url, body, headers=wire.HEADERS_V1):
    request = urllib.request.Request(url + "/api/v1/write", wire.snappy(body), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.status


def message(name, t_ms, n=10):
    return wire.message_v1([({"__name__": name, "i": str(i)}, [(t_ms, i)]) for i in range(n)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_flushes_and_the_next_start_has_everything(serve, number):
    now_ms = int(time.time() * 1000)
    first = serve()
    assert post(first.url, message("kept", now_ms)) == 204
    started = time.monotonic()
    first.process.send_signal(number)
    assert first.process.wait(60) == 0
    assert time.monotonic() - started < 30
    second = serve()
    answer = api(second.url, "query", query="sum(kept)", time=now_ms / 1000)
    assert answer["result"][0]["value"][1] == "45"
    assert second.stop() == 0


def test_one_line_when_ready(serve):
    server = serve()
    lines = [line for line in server.text().splitlines() if not line.startswith("ts=")]
    assert lines == [f"tsengine is ready: {server.url}"]


def test_hints(serve):
    server = serve("--hints", self_scrape="15s")
    server.wait_for("Ctrl-C")
    text = server.text()
    assert f"- url: {server.url}/api/v1/write" in text
    assert "data source of type Prometheus" in text
    (command,) = [line.strip() for line in text.splitlines() if line.strip().startswith("curl ")]
    assert get(command.removeprefix("curl ").strip("'")).startswith(b'{"status":"success"')


def test_own_metrics_are_there_soon(serve):
    server = serve(self_scrape="1s")
    instance = server.url.removeprefix("http://")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = api(server.url, "query", query='up{job="tsengine"}')["result"]
        if (
            found
            and api(server.url, "query", query="rate(process_cpu_seconds_total[1m])")["result"]
        ):
            break
        time.sleep(0.1)
    assert found[0]["metric"]["instance"] == instance
    assert found[0]["value"][1] == "1"
    metadata = get(server.url + "/api/v1/metadata?metric=tsengine_http_requests_total")
    assert b'"type":"counter"' in metadata
    assert b"Answered HTTP requests." in metadata


def test_stop_with_writes_and_queries_in_flight(serve):
    """Every write that was answered with 204 is there after the restart."""
    now_ms = int(time.time() * 1000)
    server = serve()
    acknowledged = []
    is_stopping = threading.Event()

    def write_on(worker):
        n = 0
        while not is_stopping.is_set():
            name = f"w{worker}_{n}"
            try:
                if post(server.url, message(name, now_ms, 3)) == 204:
                    acknowledged.append(name)
            except (OSError, urllib.error.URLError):
                if is_stopping.is_set():
                    return
            n += 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(write_on, worker) for worker in range(4)]
        time.sleep(1.5)
        while len(acknowledged) <= 10 and server.process.poll() is None:
            time.sleep(0.01)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        is_stopping.set()
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 30
        for job in jobs:
            job.result()
    assert len(acknowledged) > 10
    again = serve()
    answer = api(again.url, "query", query='count by (__name__) ({__name__=~"w.*"})')
    found = {row["metric"]["__name__"]: row["value"][1] for row in answer["result"]}
    assert {name: found.get(name) for name in acknowledged} == dict.fromkeys(acknowledged, "3")


def test_signals_that_come_again_change_nothing(serve):
    server = serve()
    assert post(server.url, message("again", int(time.time() * 1000))) == 204
    deadline = time.monotonic() + 60
    # Until the process is gone, the end of the interpreter included.
    while server.process.poll() is None and time.monotonic() < deadline:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert server.process.wait(10) == 0


def test_stop_while_a_client_is_silent(serve):
    """A connection without a request must not hold the process."""
    import socket

    server = serve()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        time.sleep(0.2)
        started = time.monotonic()
        assert server.stop(60) == 0
        assert time.monotonic() - started < 30


def run_serve(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "server", "serve", "--self-scrape", "off", *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip


def test_a_directory_in_use(serve, tmp_path):
    serve()
    done = run_serve("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert done.returncode == 2
    assert "can't open the database" in done.stderr
    assert done.stdout == ""


def test_an_address_in_use(serve, tmp_path):
    first = serve()
    address = first.url.removeprefix("http://")
    done = run_serve("--data-dir", str(tmp_path / "other"), "--listen", address)
    assert done.returncode == 2
    assert "can't listen" in done.stderr


def test_a_path_that_can_be_no_directory(tmp_path):
    (tmp_path / "file").write_text("x")
    done = run_serve("--data-dir", str(tmp_path / "file"), "--listen", "127.0.0.1:0")
    assert done.returncode in (1, 2)
    assert "can't open the database" in done.stderr


def test_a_newer_format_is_refused(serve, tmp_path):
    serve().stop()
    manifests = [path for path in (tmp_path / "data").glob("manifest*") if path.is_file()]
    for path in manifests:
        path.write_bytes(b"\xff" * 64)
    done = run_serve("--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert "manifest" in done.stderr


def test_sigkill_loses_nothing_acknowledged(serve):
    now_ms = int(time.time() * 1000)
    server = serve()
    assert post(server.url, message("kept", now_ms)) == 204
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    again = serve()
    answer = api(again.url, "query", query="count(kept)", time=now_ms / 1000)
    assert answer["result"][0]["value"][1] == "10"


def test_reads_beside_a_running_server(serve, tmp_path):
    now_ms = int(time.time() * 1000)
    server = serve()
    post(server.url, message("shared", now_ms))
    command = [sys.executable, "-m", "server", "query", "count(shared)", "--format", "csv"]
    for source in (["--data-dir", str(tmp_path / "data")], ["--url", server.url]):
        done = subprocess.run(
            [*command, "--time", str(now_ms / 1000), *source],
            capture_output=True, text=True, timeout=120, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "timestamp,value"
        assert done.stdout.splitlines()[1].endswith(",10")
