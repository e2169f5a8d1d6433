"""SIGKILL at random moments during concurrent writes: every acknowledged sample is there.

Rounds on one data directory, so that replays, flushes and merges of earlier rounds take part. The
longer soak is `python -m tests.crash.test_server_kill --rounds 200`.
"""

from __future__ import annotations

import argparse
import http.client
import random
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import cramjam
import numpy as np

import tsengine
from tests.crash.serving import ServerProcess
from tests.http.wire import HEADERS_V1, message_v1

N_WRITERS = 4
SERIES_PER_WRITER = 5
START_LIMIT_S = 25.0
"""Five times the target of 5 s: the machines that run tests are small and busy."""


class Flusher(threading.Thread):
    """Flushes and merges all the time, so that the kill also meets those half done."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self._address = urlsplit(url)

    def run(self):
        for turn in range(10_000):
            connection = http.client.HTTPConnection(
                self._address.hostname, self._address.port, timeout=30
            )
            try:
                path = "/api/v1/admin/tsdb/flush" + ("?merge=1" if turn % 3 == 2 else "")
                connection.request("POST", path)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                return
            finally:
                connection.close()
            time.sleep(0.05)


class Writer(threading.Thread):
    """Sends rising sample numbers until the connection breaks; remembers what was acknowledged."""

    def __init__(self, url, number, base_ms, first, round_number):
        super().__init__(daemon=True)
        self._address = urlsplit(url)
        self._number = number
        self._base_ms = base_ms
        self._round = round_number
        self.next = first
        self.acknowledged = first
        self.n_answers = 0
        self.refused = []

    def run(self):
        connection = http.client.HTTPConnection(
            self._address.hostname, self._address.port, timeout=30
        )
        try:
            while True:
                n = random.randrange(1, 20)
                body = self._body(self.next, self.next + n)
                self.next += n
                connection.request("POST", "/api/v1/write", body, HEADERS_V1)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 204:
                    self.refused.append((answer.status, text))
                    return
                self.acknowledged = self.next
                self.n_answers += 1
        except OSError:
            return  # the server was killed
        except http.client.HTTPException:
            return
        finally:
            connection.close()

    def _body(self, first, end):
        rows = []
        for s in range(SERIES_PER_WRITER):
            labels = {"__name__": "crash", "s": str(s), "w": str(self._number)}
            rows.append((labels, [(self._base_ms + k, float(k)) for k in range(first, end)]))
        # A new series each time: its record must be as durable as its sample.
        fresh = {"__name__": "fresh", "k": f"{self._number}-{first}", "round": str(self._round)}
        rows.append((fresh, [(self._base_ms + first, 1.0)]))
        return bytes(cramjam.snappy.compress_raw(message_v1(rows)))


def run_rounds(directory, n_rounds, seed, log=None, say=print):
    """Kill and restart `n_rounds` times; returns the start times in seconds."""
    rng = random.Random(seed)
    base_ms = int(time.time() * 1000) - 86_400_000
    written = [0] * N_WRITERS
    starts = []
    n_answers = 0
    for round_number in range(n_rounds):
        server = ServerProcess(directory, "--enable-admin-api", log=log)
        starts.append(server.start_s)
        try:
            _verify(server, written, n_answers, base_ms)
            writers = [
                Writer(server.url, number, base_ms, written[number], round_number)
                for number in range(N_WRITERS)
            ]
            for thread in (*writers, Flusher(server.url)):
                thread.start()
            time.sleep(rng.uniform(0.05, 0.8))
        finally:
            server.kill()
        for writer in writers:
            writer.join(timeout=60)
            assert writer.refused == []
        written = [writer.acknowledged for writer in writers]
        n_answers += sum(writer.n_answers for writer in writers)
        say(
            f"round {round_number}: start {server.start_s:.2f} s, "
            f"{sum(written) * SERIES_PER_WRITER} samples acknowledged"
        )
    _verify_everything(directory, written, base_ms)
    return starts


def _verify(server, written, n_answers, base_ms):
    """Each series holds at least what was acknowledged; each answered request made one series."""
    at = base_ms + max(written) + 1_000_000
    fresh = server.query("count(last_over_time(fresh[30d]))", at)
    assert fresh.get(frozenset(), 0) >= n_answers
    counts = server.query("count_over_time(crash[30d])", at)
    for number, n in enumerate(written):
        for s in range(SERIES_PER_WRITER):
            key = frozenset({("s", str(s)), ("w", str(number))})
            assert counts.get(key, 0) >= n, f"writer {number} series {s} lost acknowledged samples"


def _verify_everything(directory, written, base_ms):
    """Every acknowledged sample, with its value, read from the directory itself."""
    with tsengine.open(directory) as db:
        found = {}
        for batch in db.select("crash"):
            times = batch.column("timestamp").cast("int64").to_numpy()
            values = batch.column("value").to_numpy()
            rows = batch.column("labels").to_pylist()
            starts = [0, *[i for i in range(1, len(rows)) if rows[i] != rows[i - 1]], len(rows)]
            for begin, end in zip(starts[:-1], starts[1:], strict=True):
                labels = dict(rows[begin])
                key = (int(labels["w"]), int(labels["s"]))
                found.setdefault(key, []).append((times[begin:end], values[begin:end]))
        for number, n in enumerate(written):
            for s in range(SERIES_PER_WRITER):
                times = np.concatenate([t for t, _ in found[number, s]])
                values = np.concatenate([v for _, v in found[number, s]])
                assert len(times) >= n
                np.testing.assert_array_equal(times - base_ms, np.arange(len(times)))
                np.testing.assert_array_equal(values, np.arange(len(times), dtype=float))
    report = tsengine.check(directory)
    assert report.problems == []


def test_no_acknowledged_sample_is_lost(tmp_path):
    directory = tmp_path / "db"
    directory.mkdir()
    starts = run_rounds(directory, 30, seed=1, log=tmp_path / "log")
    print(f"starts: median {np.median(starts):.2f} s, longest {max(starts):.2f} s")
    assert max(starts) < START_LIMIT_S


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = run_rounds(Path(folder), given.rounds, given.seed)
        print(
            f"{given.rounds} rounds, nothing acknowledged was lost; starts: median "
            f"{np.median(times):.2f} s, longest {max(times):.2f} s"
        )
