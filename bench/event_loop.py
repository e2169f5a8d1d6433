"""Whether large answers freeze the server: the lag of its event loop while it sends them.

    python -m bench.event_loop [--series 100000] [--rows 500] [--steps 11000] [--seconds 20]

A server with that data on loopback is asked over and over, by two clients at once: for all series
at one time, for all rows at all steps (with and without gzip), and for a stream of chunks;
meanwhile a third client asks for /-/healthy. Printed per kind of answer: its size and time, the
latency of /-/healthy, and the lag of a 2 ms timer inside the server's event loop. The part of a lag
that the loop's thread spent waiting for a processor, with other threads and programs before it, is
not the server's fault: the column "own lag" is without it. Must-show: no own lag over 20 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import numpy as np

import tsengine
from tests.http import wire
from tests.interop.test_remote_read import request as read_request
from tests.real.processes import Child, stopped_afterwards

STEP_MS = 15_000
T0 = int(time.time()) // 15 * 15_000 - 11_001 * STEP_MS
TICK_S = 0.002
_BUFFER_SIZE = 1 << 20


# --- the server's side --------------------------------------------------------------------------


class LagMonitor:
    """Measures the event loop it runs on."""

    def __init__(self):
        self.lags_ms = []
        self.own_ms = []

    async def run(self):
        stat = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        wanted = time.perf_counter()
        waited_ns = self._waited_ns(stat)
        while True:
            await asyncio.sleep(TICK_S)
            now, now_waited_ns = time.perf_counter(), self._waited_ns(stat)
            lag_ms = (now - wanted - TICK_S) * 1e3
            self.lags_ms.append(lag_ms)
            self.own_ms.append(max(lag_ms - (now_waited_ns - waited_ns) / 1e6, 0.0))
            wanted, waited_ns = time.perf_counter(), now_waited_ns

    @staticmethod
    def _waited_ns(stat):
        try:
            return int(stat.read_text().split()[1])
        except OSError:
            return 0

    async def report(self, request):
        """GET /lag: what was measured since the last call."""
        from aiohttp import web

        lags_ms, self.lags_ms, own_ms, self.own_ms = self.lags_ms, [], self.own_ms, []
        return web.json_response({"lag": lags_ms, "own": own_ms})


def serve(directory):
    """Run a server with a monitor on its loop until it is told to stop."""
    from server import config as server_config
    from server import lifecycle

    make_runner = lifecycle.make_runner
    monitor = LagMonitor()

    def with_monitor(server):
        runner = make_runner(server)
        runner.app.router.add_get("/lag", monitor.report)

        async def start(app):
            app["monitor"] = asyncio.create_task(monitor.run())

        runner.app.on_startup.append(start)
        return runner

    lifecycle.make_runner = with_monitor
    parser = argparse.ArgumentParser()
    server_config.add_flags(parser)
    flags = ["--data-dir", directory, "--listen", "127.0.0.1:0", "--self-scrape", "off"]
    return lifecycle.serve(server_config.load(parser.parse_args(flags), {}))


# --- the clients' side --------------------------------------------------------------------------


def fill(directory, n_series, n_rows, n_steps):
    """``many``: series of one sample; ``long``: rows with a value at every step, a tenth absent."""
    rng = np.random.default_rng(1)
    with tsengine.open(directory) as db:
        labels = [
            {"__name__": "many", "instance": f"host-{s}:9100", "job": f"job-{s % 50}", "zone": "a"}
            for s in range(n_series)
        ]
        refs = db.series_refs(labels)
        db.append_columns(refs, np.full(n_series, T0), rng.normal(size=n_series))
        refs = db.series_refs([{"__name__": "long", "row": str(s)} for s in range(n_rows)])
        for start in range(0, n_steps, 500):
            steps = np.arange(start, min(start + 500, n_steps))
            t_ms = np.repeat(T0 + steps * STEP_MS, n_rows)
            chosen = np.tile(refs, len(steps))
            kept = rng.random(len(t_ms)) > 0.1
            values = rng.normal(size=len(t_ms)) * 100
            db.append_columns(chosen[kept], t_ms[kept], values[kept])
        db.flush()


class Client:
    """A kept-alive connection that reads answers without keeping them."""

    def __init__(self, address):
        host, port = address.split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=120)
        self._buffer = bytearray(_BUFFER_SIZE)

    def ask(self, method, path, body=None, headers=None):
        """(bytes of the body, seconds)."""
        begin = time.perf_counter()
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        assert response.status == 200, response.read()[:500]
        size = 0
        while n := response.readinto(self._buffer):
            size += n
        assert size > 0, "an empty answer"
        return size, time.perf_counter() - begin

    def json(self, path):
        self._connection.request("GET", path)
        return json.load(self._connection.getresponse())

    def close(self):
        self._connection.close()


def requests_of(n_steps):
    """Kinds of answers: (name, method, path, body, headers)."""
    end = T0 + (n_steps - 1) * STEP_MS
    at = urllib.parse.urlencode({"query": "many", "time": T0 / 1000})
    span = urllib.parse.urlencode(
        {"query": "long", "start": T0 / 1000, "end": end / 1000, "step": STEP_MS / 1000,
         "lookback_delta": "1s"}
    )  # fmt: skip
    message = wire.snappy(read_request((T0, end, [(0, "__name__", "long")]), accepted=[1]))
    return [
        ("instant", "GET", f"/api/v1/query?{at}", None, {}),
        ("range", "GET", f"/api/v1/query_range?{span}", None, {}),
        ("range, gzip", "GET", f"/api/v1/query_range?{span}", None, {"Accept-Encoding": "gzip"}),
        ("chunks", "POST", "/api/v1/read", message, {}),
    ]


def measure(address, one, seconds, n_clients):
    """Ask for `seconds`, at least once each; what was seen as a dict."""
    name, method, path, body, headers = one
    until = time.monotonic() + seconds
    done = threading.Event()
    answers, latencies_ms, problems = [], [], []

    def keep_asking():
        client = Client(address)
        try:
            while not answers or time.monotonic() < until:
                answers.append(client.ask(method, path, body, headers))
        except Exception as error:  # A thread's border: shown below.
            problems.append(error)
        client.close()

    def probe():
        client = Client(address)
        while not done.is_set():
            latencies_ms.append(client.ask("GET", "/-/healthy")[1] * 1e3)
            time.sleep(0.005)
        client.close()

    reader = Client(address)
    reader.json("/lag")
    prober = threading.Thread(target=probe)
    prober.start()
    askers = [threading.Thread(target=keep_asking) for _ in range(n_clients)]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join()
    done.set()
    prober.join()
    lags = reader.json("/lag")
    reader.close()
    if problems:
        raise problems[0]
    return {
        "name": name, "n": len(answers), "size": answers[0][0],
        "seconds": sorted(s for _, s in answers)[len(answers) // 2],
        "latency": latencies_ms, "lag": lags["lag"], "own": lags["own"],
    }  # fmt: skip


def run(directory, *, n_series, n_rows, n_steps, seconds, n_clients=2, say=print):
    """Measure all kinds of answers; a dict of each."""
    data = Path(directory) / "data"
    fill(str(data), n_series, n_rows, n_steps)
    results = []
    with stopped_afterwards([]) as children:
        command = [sys.executable, "-m", "bench.event_loop", "--serve", str(data)]
        child = Child(command, Path(directory) / "log")
        children.append(child)
        address = child.wait_for(r"tsengine is ready: http://(\S+)\n")[1]
        for one in requests_of(n_steps):
            result = measure(address, one, seconds, n_clients)
            results.append(result)
            say(line_of(result))
    return results


def line_of(result):
    """One row of the table; milliseconds as p50 / p99 / max."""
    columns = [
        " / ".join(f"{np.percentile(result[key], q):6.1f}" for q in (50, 99, 100))
        for key in ("latency", "lag", "own")
    ]
    return (
        f"{result['name']:12} {result['size'] / 1e6:7.1f} MB {result['seconds']:6.2f} s "
        f"x{result['n']:<3} " + "   ".join(columns)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--steps", type=int, default=11_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.serve)
    print(f"{'answer':12} {'size':>10} {'median':>8}      "
          "/-/healthy ms (p50/p99/max)   lag ms                     own lag ms")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        run(directory, n_series=args.series, n_rows=args.rows, n_steps=args.steps,
            seconds=args.seconds)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
