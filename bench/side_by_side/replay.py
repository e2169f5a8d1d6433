"""Sends the bodies of a load over some connections: a process of its own, one command a line.

    {"port": 8428, "path": "/api/v1/write", "first": 0, "last": 100, "connections": 4}

answers with one line: seconds, request times, what failed. A connection sends its next body when
the last one was acknowledged; bodies are dealt out so that a series stays on its connection. None
gets more than half an hour of samples ahead of the slowest: scrapers keep pace with the clock, and
Prometheus refuses samples that are an hour older than its newest.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.side_by_side.bodies import Load, read
from bench.side_by_side.systems import ROOT, System

_RETRY_S = 0.2
_RETRIES = 300
_AHEAD_ROUNDS_MAX = 120
_AHEAD_PAUSE_S = 0.001
_CLOSED = 0
"""In the place of a status: the server ended the connection. VictoriaMetrics does so after two
minutes."""


class _Connection(threading.Thread):
    """Sends ``(round, body)`` in order; `at_rounds` says where each connection is, this one too."""

    def __init__(
        self,
        number: int,
        command: dict[str, Any],
        bodies: list[tuple[int, bytes]],
        at_rounds: list[float],
    ) -> None:
        super().__init__()
        self._number = number
        self._command = command
        self._bodies = bodies
        self._at_rounds = at_rounds
        self.waits_s: list[float] = []
        self.n_acknowledged = 0
        self.n_retries = 0
        self.failure = ""
        self._client: socket.socket | None = None

    def run(self) -> None:
        try:
            self._client = self._connect()
            for at_round, body in self._bodies:
                self._keep_pace(at_round)
                self._send(body)
        except (OSError, RuntimeError) as error:
            self.failure = str(error)
        finally:
            self._at_rounds[self._number] = math.inf
            if self._client is not None:
                self._client.close()

    def _connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._command["port"]), 120)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def _keep_pace(self, at_round: int) -> None:
        self._at_rounds[self._number] = at_round
        while at_round > min(self._at_rounds) + _AHEAD_ROUNDS_MAX:
            time.sleep(_AHEAD_PAUSE_S)

    def _send(self, body: bytes) -> None:
        head = (
            f"POST {self._command['path']} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n"
            f"X-Prometheus-Remote-Write-Version: 0.1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        for _ in range(_RETRIES):
            started_s = time.perf_counter()
            status = self._ask(head + body)
            if status // 100 == 2:
                self.waits_s.append(time.perf_counter() - started_s)
                self.n_acknowledged += 1
                return
            if status not in (_CLOSED, 429, 503):
                raise RuntimeError(f"answered {status}")
            # Overloaded, or closed by the server for its age: what real senders do.
            self.n_retries += 1
            if status != _CLOSED:
                time.sleep(_RETRY_S)
        raise RuntimeError("overloaded for a minute")

    def _ask(self, request: bytes) -> int:
        """The status of the answer; `_CLOSED` if there is a new connection instead."""
        assert self._client is not None, "connected"
        try:
            self._client.sendall(request)
            return _status_of(self._client)
        except ConnectionError:
            self._client.close()
            self._client = self._connect()
            return _CLOSED


def _status_of(client: socket.socket) -> int:
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = client.recv(65536)
        if not piece:
            raise ConnectionResetError("the connection was closed")
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    size = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            size = int(value)
    while len(body) < size:
        body += client.recv(65536)
    return int(answer.split(b" ", 2)[1])


def run(command: dict[str, Any], load: Load) -> dict[str, Any]:
    """Send the bodies that a command names; returns its answer."""
    first, last, n = command["first"], command["last"], command["connections"]
    bodies = list(read(load, first, last))
    per_round = int((load.rounds == load.rounds[0]).sum())
    shares: list[list[tuple[int, bytes]]] = [[] for _ in range(n)]
    for k, body in enumerate(bodies, first):
        shares[k % per_round % n].append((int(load.rounds[k]), body))
    at_rounds = [float(load.rounds[first])] * n
    connections = [
        _Connection(number, command, share, at_rounds) for number, share in enumerate(shares)
    ]
    started_s = time.perf_counter()
    for connection in connections:
        connection.start()
    for connection in connections:
        connection.join()
    return {
        "seconds": time.perf_counter() - started_s,
        "waits_ms": [round(1e3 * wait, 3) for c in connections for wait in c.waits_s],
        "retries": sum(c.n_retries for c in connections),
        "failures": [c.failure for c in connections if c.failure],
    }


def main() -> None:
    """The process."""
    facts = json.loads(sys.stdin.readline())
    load = Load(
        Path(facts["file"]),
        *(np.array(facts[name]) for name in ("offsets", "rounds", "samples")),
        start_ms=0,
        end_ms=0,
        n_series=0,
    )
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), load)), flush=True)


class Replayer:
    """The process seen from here."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.side_by_side.replay"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._tell(
            {
                "file": str(load.path),
                "offsets": load.offsets.tolist(),
                "rounds": load.rounds.tolist(),
                "samples": load.samples.tolist(),
            }
        )

    def send(self, system: System, rounds: range, connections: int) -> dict[str, Any]:
        """Send whole rounds; adds ``samples`` and the server's ``cpu_s`` to what was measured."""
        first = int(np.searchsorted(self.load.rounds, rounds.start))
        last = int(np.searchsorted(self.load.rounds, rounds.stop))
        cpu_s = system.cpu_s()
        self._tell(
            {
                "port": system.port,
                "path": system.write_path,
                "first": first,
                "last": last,
                "connections": connections,
            }
        )
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        if found["failures"]:
            raise RuntimeError(f"{system.name}: {found['failures'][0]}")
        found["samples"] = int(self.load.samples[first:last].sum())
        found["cpu_s"] = system.cpu_s() - cpu_s
        return found

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


if __name__ == "__main__":
    main()
