"""Remote write over HTTP into a real server, from its socket to its fsync.

    python -m bench.ingest [--seconds 40] [--series 100000] [--connections 1,2,4,8] [--data-dir DIR]

Starts `tsengine serve` (fsync always, own metrics off) on a loopback port and a load process of its
own that sends prebuilt Snappy bodies of 2,000 samples with ten labels. The first pass makes the
series; then the same series are written over 1, 2, 4 and 8 connections, each for its share of the
seconds. A connection sends its next body when the last one was acknowledged.

Prints for each: samples per second, median, 95th and 99th percentile of the request time, the
server's CPU seconds per million samples (all its threads, background flushes included), its peak
memory, and that CPU time in units of a plain copy of the same decompressed bytes (np.copyto, same
run). DIR (default: a temporary folder) decides which disk is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cramjam
import numpy as np

from bench.bodies import SERIES_PER_BODY, T_MS, Scrapes, TimelessBody

ROOT = Path(__file__).parents[1]
N_ROUNDS = 12
"""Rounds of different values; later rounds repeat them at new times."""
SCRAPE_MS = 15_000
WARMUP_S = 0.5


class Server:
    """`tsengine serve` and what the kernel says about it."""

    def __init__(self, data_dir: str) -> None:
        command = [
            sys.executable, "-m", "tsengine_server", "serve", "--data-dir", data_dir,
            "--listen", "127.0.0.1:0", "--self-scrape", "off",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line!r}"
        self.port = int(line[line.index("http://") :].split()[0].rstrip("/").rsplit(":", 1)[1])

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_max_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        self.process.stdout.close()


class Connection(threading.Thread):
    """Sends its share of the bodies, round after round, until the time is up."""

    def __init__(
        self, port: int, rounds: list[list[TimelessBody]], first_ms: int, stop_s: float
    ) -> None:
        super().__init__()
        self._port = port
        self._rounds = rounds
        self._first_ms = first_ms
        self._stop_s = stop_s
        self.waits_s: list[float] = []
        self.n_rounds = 0
        self.failure: str | None = None

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self.failure is None and time.perf_counter() < self._stop_s:
                self.send_round(client)
                self.n_rounds += 1

    def send_round(self, client: socket.socket) -> None:
        t_ms = self._first_ms + self.n_rounds * SCRAPE_MS
        for body in self._rounds[self.n_rounds % len(self._rounds)]:
            if time.perf_counter() >= self._stop_s:
                return
            data = body.at(t_ms)
            head = (
                "POST /api/v1/write HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: snappy\r\n"
                "Content-Type: application/x-protobuf\r\n"
                f"Content-Length: {len(data)}\r\n\r\n"
            )
            started_s = time.perf_counter()
            client.sendall(head.encode() + data)
            answer = client.recv(65536)
            self.waits_s.append(time.perf_counter() - started_s)
            if not answer.startswith(b"HTTP/1.1 204") or not answer.endswith(b"\r\n\r\n"):
                self.failure = answer.decode(errors="replace")
                return


def load() -> None:
    """The load process: makes bodies, then answers one command a line with one line of JSON."""
    options = json.loads(sys.stdin.readline())
    rng = np.random.default_rng(1)
    scrapes = Scrapes(options["series"])
    values = rng.integers(0, 10**6, options["series"]).astype(float)
    rounds = []
    for _ in range(N_ROUNDS):
        rounds.append(scrapes.bodies(values))
        values += rng.integers(0, 1000, len(values))
    sent = [body.at(T_MS) for body in rounds[0]]
    messages = [np.frombuffer(cramjam.snappy.decompress_raw(body), np.uint8) for body in sent]
    target = np.empty(max(map(len, messages)), np.uint8)
    copies = []
    for _ in range(7):
        started_s = time.perf_counter()
        for message in messages:
            np.copyto(target[: len(message)], message)
        copies.append(time.perf_counter() - started_s)
    n_bytes = sum(map(len, sent))
    print(
        json.dumps({
            "copy_s_per_m": np.median(copies) / options["series"] * 1e6,
            "bytes_per_sample": n_bytes / options["series"],
        }),
        flush=True,
    )  # fmt: skip
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), rounds)), flush=True)


def _run(command: dict, rounds: list[list[TimelessBody]]) -> dict:
    n = command["connections"]
    started_s = time.perf_counter()
    if command["seconds"] is None:
        client = Connection(command["port"], rounds, command["first_ms"], np.inf)
        with socket.create_connection(("127.0.0.1", command["port"]), timeout=60) as one:
            client.send_round(one)
        clients = [client]
        client.n_rounds = 1
    else:
        stop_s = started_s + command["seconds"]
        shares = [[bodies[i::n] for bodies in rounds] for i in range(n)]
        clients = [Connection(command["port"], s, command["first_ms"], stop_s) for s in shares]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    return {
        "seconds": time.perf_counter() - started_s,
        "waits_ms": sorted(1e3 * wait for client in clients for wait in client.waits_s),
        "n_rounds": max(client.n_rounds for client in clients),
        "failures": [client.failure for client in clients if client.failure],
    }


class Load:
    """The load process seen from here."""

    def __init__(self, n_series: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.ingest", "--load"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.facts = self._ask({"series": n_series})

    def _ask(self, message: dict) -> dict:
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def run(self, server: Server, first_ms: int, connections: int, seconds: float | None) -> dict:
        return self._ask(
            {
                "port": server.port, "first_ms": first_ms, "connections": connections,
                "seconds": seconds,
            }
        )  # fmt: skip

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


def measure(args: argparse.Namespace, folder: str) -> None:
    load = Load(args.series)
    server = Server(folder)
    try:
        copy_s = load.facts["copy_s_per_m"]
        print(
            f"{args.series:,} series, {load.facts['bytes_per_sample']:.0f} bytes a sample on the "
            f"wire; a plain copy takes {copy_s:.3f} s per million samples; server pid "
            f"{server.process.pid}"
        )
        print(
            "                 M samples/s   ms p50   p95   p99  CPU s/M   x copy   peak MiB",
            flush=True,
        )
        first_ms = (int(time.time()) - 86_400) * 1000
        counts = [int(n) for n in args.connections.split(",")]
        phases = [("new series", 1, None)]
        phases += [(f"{n} connections", n, args.seconds / len(counts)) for n in counts]
        for name, n, seconds in phases:
            cpu_s = server.cpu_s()
            found = load.run(server, first_ms, n, seconds)
            cpu_s = server.cpu_s() - cpu_s
            assert not found["failures"], found["failures"][0]
            first_ms += found["n_rounds"] * SCRAPE_MS
            n_samples = len(found["waits_ms"]) * min(SERIES_PER_BODY, args.series)
            if seconds is None:
                n_samples = args.series
            p50, p95, p99 = np.percentile(found["waits_ms"], [50, 95, 99])
            print(
                f"{name:16} {n_samples / found['seconds'] / 1e6:12.2f} {p50:8.1f} {p95:5.1f}"
                f" {p99:5.1f} {cpu_s / n_samples * 1e6:8.2f}"
                f" {cpu_s / n_samples * 1e6 / copy_s:8.1f} {server.rss_max_mib():10.0f}",
                flush=True,
            )
    finally:
        load.stop()
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--connections", default="1,2,4,8")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load()
        return
    with tempfile.TemporaryDirectory(dir=args.data_dir) as folder:
        measure(args, folder)


if __name__ == "__main__":
    main()
