"""What clients are told while memory or the disk is short: 429 and 503, and the metrics."""

import asyncio
import errno

import orjson
import pytest

from server.lifecycle import open_database
from tests.http import wire
from tests.http.conftest import make_config
from tests.http.fake import FakeReject, FakeWriteResult
from tsengine.errors import Full

PATH = "/api/v1/write"


def otlp_body(name, t_s):
    point = {"timeUnixNano": str(t_s * 10**9), "asDouble": 1.5}
    metric = {"name": name, "gauge": {"dataPoints": [point]}}
    return orjson.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]})


async def write(running, series):
    body = wire.snappy(wire.message_v1(series))
    status, headers, text = await running.call("POST", PATH, data=body, headers=wire.HEADERS_V1)
    return status, headers, text.decode()


async def metrics(running):
    _, _, body = await running.call("GET", "/metrics")
    lines = [line.rpartition(" ") for line in body.decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


@pytest.fixture
async def tight(start, tmp_path, monkeypatch):
    """A real server with little memory, measured each time."""
    monkeypatch.setattr("tsengine.storage.memory._MEASURE_S", 0.0)
    config = make_config("--data-dir", str(tmp_path / "data"), "--memory", "24MiB")
    database = open_database(config)
    # What is let go from memory makes room for new series.
    database._storage.maintenance._saving._due_s = float("inf")
    running = await start(database=database)
    yield running
    database.close()


async def test_new_series_are_shed_with_429(tight, now_ms):
    known = [({"__name__": "known", "i": str(i)}, [(now_ms, 1.0)]) for i in range(10)]
    assert (await write(tight, known))[0] == 204
    shed = 0
    for round_ in range(100):
        storm = [
            ({"__name__": "build_step", "job": "ci", "i": f"{round_}-{i}"}, [(now_ms, 1.0)])
            for i in range(1000)
        ]
        status, headers, text = await write(tight, storm)
        if status != 204:
            break
    assert status == 429
    assert headers["Retry-After"] == "10"
    written = int(headers["X-Prometheus-Remote-Write-Samples-Written"])
    shed = 1000 - written
    first, second, third, *_ = text.splitlines()
    assert first.startswith(f"{shed} new series are refused: series and caches hold ")
    assert 'have job="ci", ' in first
    assert first.endswith('of these the metric "build_step"')
    assert second == f"{written} samples of the others stored; refused are:"
    assert third.endswith("there is no memory for new series")
    # A request of both: the known series' samples are stored.
    both = [
        *(({"__name__": "known", "i": str(i)}, [(now_ms + 1, 2.0)]) for i in range(10)),
        ({"__name__": "unknown"}, [(now_ms + 1, 2.0)]),
    ]
    status, headers, text = await write(tight, both)
    assert (status, headers["X-Prometheus-Remote-Write-Samples-Written"]) == (429, "10")
    assert text.startswith("1 new series are refused: ")
    assert text.splitlines()[2] == "unknown{}: there is no memory for new series"
    assert (await write(tight, both[:-1]))[0] == 204
    _, answer = await tight.json("GET", f"/api/v1/query?query=sum(known)&time={now_ms / 1000 + 1}")
    assert answer["data"]["result"][0]["value"][1] == "20"
    # OpenTelemetry's as well.
    headers = {"Content-Type": "application/json"}
    status, headers, body = await tight.call(
        "POST", "/api/v1/otlp/v1/metrics", data=otlp_body("other", now_ms // 1000), headers=headers
    )
    assert (status, headers["Retry-After"]) == (429, "10")
    assert b"new series are refused: " in body
    found = await metrics(tight)
    assert found["tsengine_shed_series_total"] >= shed + 2
    assert found['tsengine_remote_write_rejected_samples_total{protocol="1.0"}'] == shed + 1
    assert 'tsengine_remote_write_failures_total{code="429"}' not in found
    assert found["tsengine_memory_limit_bytes"] == 24 << 20
    kinds = {"head", "series", "senders", "metadata", "parts", "exemplars", "log", "queries"}
    assert {
        name.split('"')[1] for name in found if name.startswith("tsengine_memory_bytes")
    } == kinds
    assert found['tsengine_memory_bytes{kind="series"}'] > 1 << 20


async def test_a_full_disk_is_503_for_writes_and_nothing_for_queries(start, tmp_path, now_ms):
    database = open_database(make_config("--data-dir", str(tmp_path / "data")))
    running = await start("--enable-admin-api", database=database)
    sample = [({"__name__": "m"}, [(now_ms, 1.0)])]
    assert (await write(running, sample))[0] == 204
    disk = database._storage.disk
    disk._try_disk = lambda: OSError(errno.EIO, "Input/output error")
    disk.report(OSError(errno.EIO, "Input/output error"), "syncing wal/0000000001.wal")
    for _ in range(3):
        status, headers, text = await write(running, sample)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert text == (
            "the disk fails (syncing wal/0000000001.wal: Input/output error); nothing is accepted "
            "until it takes writes again, queries go on\n"
        )
        assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"
    headers = {"Content-Type": "application/json"}
    status, headers, body = await running.call(
        "POST", "/api/v1/otlp/v1/metrics", data=otlp_body("other", now_ms // 1000), headers=headers
    )
    assert (status, headers["Retry-After"]) == (503, "1")
    assert body.startswith(b"the disk fails ")
    found = await metrics(running)
    assert found['tsengine_storage_failing{reason="io_error"}'] == 1
    assert found['tsengine_storage_failing{reason="no_space"}'] == 0
    assert found['tsengine_storage_failing{reason="read_only"}'] == 0
    assert found["tsengine_storage_failures_total"] == 1
    assert found['tsengine_remote_write_failures_total{code="503"}'] == 4
    assert (await running.call("GET", "/-/ready"))[0] == 200
    _, answer = await running.json("GET", f"/api/v1/query?query=m&time={now_ms / 1000}")
    assert answer["data"]["result"][0]["value"][1] == "1"
    del disk._try_disk
    async with asyncio.timeout(60):
        while (await write(running, sample))[0] != 204:
            await asyncio.sleep(0.05)
    assert (await metrics(running))['tsengine_storage_failing{reason="io_error"}'] == 0
    database.close()


async def test_full_is_json_on_other_paths(start):
    running = await start("--enable-admin-api")

    def refuse():
        raise Full("the disk is full")

    running.database.flush = refuse
    status, answer = await running.json("POST", "/api/v1/admin/tsdb/flush")
    assert (status, answer["errorType"], answer["error"]) == (
        503,
        "unavailable",
        "the disk is full",
    )


async def test_shed_and_invalid_series_are_told_together(start):
    running = await start()
    result = FakeWriteResult(
        3, 0, 0, [FakeReject("a", "no metric name", 1), FakeReject("b", "no memory", 2)],
        shed=1, shed_reason="because",
    )  # fmt: skip
    running.database.append_remote_write = lambda *_, **__: result
    status, headers, text = await write(running, [])
    assert (status, headers["X-Prometheus-Remote-Write-Samples-Written"]) == (429, "3")
    assert text == (
        "1 new series are refused: because\n3 samples of the others stored; refused are:\n"
        "a: no metric name\nb: no memory\n"
    )
