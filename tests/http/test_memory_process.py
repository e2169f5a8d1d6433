"""The memory of a real server process while many large queries arrive at once."""

import concurrent.futures
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.http import wire
from tests.real.processes import ServerChild

pytestmark = pytest.mark.timeout(300)
START = 1_700_000_000
MIB = 1024 * 1024


def memory_mib(process):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024


def test_large_answers_stay_inside_the_limit(tmp_path):
    """A dozen answers of a million samples each: one after the other, not 64 MB times twelve."""
    child = ServerChild(
        tmp_path / "data", tmp_path / "log", "--retention", "0",
        "--query.max-memory", "128MiB", "--query.max-total-memory", "128MiB",
    )  # fmt: skip
    try:
        samples = [((START + 15 * k) * 1000, 1.37 * k) for k in range(100)]
        for first in range(0, 10_000, 2000):
            series = [
                ({"__name__": "m_total", "i": str(i)}, samples) for i in range(first, first + 2000)
            ]
            body = wire.snappy(wire.message_v1(series))
            write = urllib.request.Request(child.url + "/api/v1/write", body, wire.HEADERS_V1)
            urllib.request.urlopen(write, timeout=60).close()

        def ask(step):
            asked = {
                "query": "rate(m_total[2m])",
                "start": START,
                "end": START + 1485,
                "step": step,
            }
            data = urllib.parse.urlencode(asked).encode()
            try:
                url = child.url + "/api/v1/query_range"
                with urllib.request.urlopen(url, data, timeout=120) as answer:
                    size = 0
                    while piece := answer.read(MIB):
                        size += len(piece)
                    return answer.status, size
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())["error"]

        before, peak, done = memory_mib(child.process), 0, threading.Event()

        def watch():
            nonlocal peak
            while not done.is_set():
                peak = max(peak, memory_mib(child.process))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with concurrent.futures.ThreadPoolExecutor(14) as pool:
            answers = list(pool.map(ask, [15] * 12 + [1, 1]))
        done.set()
        watcher.join()
    finally:
        child.stop()
    assert [status for status, _ in answers] == [200] * 12 + [422] * 2
    assert all(size > 20 * MIB for _, size in answers[:12])
    assert all("over the limit of 128 MiB" in text for _, text in answers[12:])
    assert peak - before < 200, f"{before} MiB before, {peak} MiB at the peak"
