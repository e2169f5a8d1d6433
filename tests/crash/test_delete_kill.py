"""SIGKILL right after a delete was acknowledged: what it hides stays hidden, the rest is there."""

from __future__ import annotations

import random
import time
import urllib.parse
import urllib.request

from tests.crash.serving import ServerProcess
from tests.http.wire import HEADERS_V1, message_v1, snappy

ROUNDS = 4
SERIES = 6
N = 40


def post(url, path, body=b"", headers=None):
    request = urllib.request.Request(f"{url}{path}", body, headers or {}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 204


def write(url, rows):
    """Samples ``(series, t)`` whose value is their time in seconds."""
    by_series = {}
    for series, t in rows:
        by_series.setdefault(series, []).append((t, t / 1000))
    message = message_v1(
        [
            ({"__name__": "m", "s": str(series)}, sorted(samples))
            for series, samples in by_series.items()
        ]
    )
    post(url, "/api/v1/write", snappy(message), HEADERS_V1)


def delete(url, series, start_ms, end_ms):
    form = urllib.parse.urlencode(
        {
            "match[]": f'm{{s=~"{"|".join(map(str, series))}"}}',
            "start": start_ms / 1000,
            "end": end_ms / 1000,
        }
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    post(url, "/api/v1/admin/tsdb/delete_series", form.encode(), headers)


def counts(server, at_ms):
    found = server.query("count_over_time(m[1d])", at_ms)
    sums = server.query("sum_over_time(m[1d])", at_ms)
    return {int(dict(labels)["s"]): (int(n), round(sums[labels], 3)) for labels, n in found.items()}


def test_deletes_survive_sigkill(tmp_path):
    rng = random.Random(4)
    base = int(time.time() // 1000) * 1_000_000 - 3_600_000
    model = set()
    for turn in range(ROUNDS + 1):
        server = ServerProcess(tmp_path / "data", "--enable-admin-api", log=tmp_path / "log")
        try:
            expected = {}
            for series in {series for series, _ in model}:
                own = [t for s, t in model if s == series]
                expected[series] = (len(own), round(sum(t / 1000 for t in own), 3))
            assert counts(server, base + 3_600_000) == expected, turn
            if turn == ROUNDS:
                break
            rows = {(s, base + 1000 * rng.randrange(600)) for s in range(SERIES) for _ in range(N)}
            write(server.url, rows)
            model |= rows
            if turn % 2:
                post(server.url, "/api/v1/admin/tsdb/flush?merge=1")
            for _ in range(rng.randint(1, 3)):
                chosen = rng.sample(range(SERIES), 3)
                start = base + 1000 * rng.randrange(600)
                end = start + 1000 * rng.randrange(300)
                delete(server.url, chosen, start, end)
                model = {(s, t) for s, t in model if s not in chosen or not start <= t <= end}
                late = {(rng.randrange(SERIES), base + 1000 * rng.randrange(600))}
                write(server.url, late)
                model |= late
        finally:
            server.kill()
