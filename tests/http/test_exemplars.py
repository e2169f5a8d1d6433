"""Exemplars by remote write and back by /query_exemplars."""

import struct
import time

import pytest

from tests.http import wire
from tests.http.wire import field, varint

# The server refuses what is older than its retention.
T0 = 1000 * (int(time.time()) - 60)


def exemplar_v1(t_ms, value, labels):
    inner = b"".join(field(1, field(1, n.encode()) + field(2, v.encode())) for n, v in labels)
    return inner + b"\x11" + struct.pack("<d", value) + b"\x18" + varint(t_ms)


def body_v1(*series):
    """Series (labels, samples, exemplars)."""
    out = b""
    for labels, samples, exemplars in series:
        message = wire.message_v1([(labels, samples)])
        (inner,) = (content for number, content in wire.fields(message) if number == 1)
        out += field(1, inner + b"".join(field(3, exemplar_v1(*e)) for e in exemplars))
    return wire.snappy(out)


async def write(real, body):
    return await real.call("POST", "/api/v1/write", data=body, headers=wire.HEADERS_V1)


REQUESTS = {"__name__": "requests_total", "job": "api"}
LATENCY = {"__name__": "latency_bucket", "le": "1"}


async def test_exemplars_come_back_by_series_and_time(real):
    body = body_v1(
        (REQUESTS, [(T0, 1.0)], [(T0 + 5, 0.25, [("trace_id", "b")])]),
        (REQUESTS, [], [(T0, float("inf"), [("trace_id", "a"), ("span_id", 'x"')])]),
        (LATENCY, [(T0, 2.0)], [(T0 + 1, 0.5, [])]),
    )
    status, headers, _ = await write(real, body)
    assert status == 204
    assert headers["X-Prometheus-Remote-Write-Exemplars-Written"] == "3"
    path = f"/api/v1/query_exemplars?start={T0 // 1000}&end={T0 // 1000 + 1}&query="
    expected = {
        "seriesLabels": REQUESTS,
        "exemplars": [
            {
                "labels": {"trace_id": "a", "span_id": 'x"'},
                "value": "+Inf",
                "timestamp": T0 / 1000,
            },
            {"labels": {"trace_id": "b"}, "value": "0.25", "timestamp": (T0 + 5) / 1000},
        ],
    }
    for query in ("requests_total", "rate(requests_total[5m])%20%2B%20absent"):
        status, answer = await real.json("GET", path + query)
        assert (status, answer) == (200, {"status": "success", "data": [expected]})
    status, answer = await real.json("GET", path + "sum(latency_bucket)/requests_total")
    assert [row["seriesLabels"] for row in answer["data"]] == [REQUESTS, LATENCY]
    status, answer = await real.json("GET", path + "latency_bucket&start=1&end=2")
    assert answer["data"][0]["exemplars"][0]["value"] == "0.5"
    status, answer = await real.json(
        "POST", "/api/v1/query_exemplars",
        data={"query": "requests_total", "start": T0 / 1000 + 0.001, "end": T0 / 1000 + 1},
    )  # fmt: skip
    assert [e["value"] for e in answer["data"][0]["exemplars"]] == ["0.25"]


async def test_a_query_without_series_is_204_and_a_bad_one_400(real):
    status, _, body = await real.call("GET", "/api/v1/query_exemplars?query=1%2B1")
    assert (status, body) == (204, b"")
    status, answer = await real.json("GET", "/api/v1/query_exemplars?query=up%7B")
    assert status == 400
    assert answer["errorType"] == "bad_data"
    status, answer = await real.json("GET", "/api/v1/query_exemplars?query=up")
    assert (status, answer["data"]) == (200, [])


@pytest.mark.parametrize("length", [128, 129])
async def test_bad_exemplars_never_fail_a_request(real, length):
    long = [("trace_id", "x" * (length - len("trace_id")))]
    body = body_v1((REQUESTS, [(T0, 1.0)], [(T0, 1.0, long), (T0 + 1, 2.0, [])]))
    status, headers, _ = await write(real, body)
    n_stored = 2 if length == 128 else 1
    assert status == 204
    assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "1"
    assert headers["X-Prometheus-Remote-Write-Exemplars-Written"] == str(n_stored)
    found = real.database.query_exemplars("requests_total")
    assert len(found[0]["exemplars"]) == n_stored


async def test_exemplars_survive_flush_and_restart(tmp_path):
    import tsengine

    body = body_v1((REQUESTS, [(T0, 1.0)], [(T0, 0.5, [("trace_id", "a")])]))
    import cramjam

    message = bytes(cramjam.snappy.decompress_raw(body))
    later = body_v1((REQUESTS, [], [(T0 + 9, 0.75, [])]))
    for _ in range(2):
        with tsengine.open(tmp_path / "data") as database:
            assert database.append_remote_write(message).exemplars == 1
            database.flush()
            message = bytes(cramjam.snappy.decompress_raw(later))
    with tsengine.open(tmp_path / "data", read_only=True) as database:
        (found,) = database.query_exemplars("requests_total")
        assert [e["value"] for e in found["exemplars"]] == ["0.5", "0.75"]
    assert tsengine.check(tmp_path / "data").problems == []
