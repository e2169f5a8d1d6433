"""POST /api/v1/read."""

import aiohttp
import cramjam
import pytest

from tests.http import wire
from tests.interop.test_read_stream import decoded
from tests.interop.test_remote_read import request, response


async def test_read(real, now_ms):
    real.database.append({"__name__": "x", "job": "<&>"}, [now_ms - 1000, now_ms], [1, 2])
    message = request((now_ms - 500, now_ms, [(0, "__name__", "x")]), accepted=[0, 1])
    status, headers, body = await real.call(
        "POST", "/api/v1/read", data=wire.snappy(message), headers=wire.HEADERS_V1
    )
    assert status == 200
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["Content-Encoding"] == "snappy"
    (found,) = response(bytes(cramjam.snappy.decompress_raw(body)))
    assert found == {(("__name__", "x"), ("job", "<&>")): [(now_ms, 0x4000000000000000)]}


async def test_a_large_answer_is_not_compressed_twice(real, now_ms):
    times = [now_ms - 1000 * k for k in range(5000)]
    real.database.append({"__name__": "x"}, times, [k % 7 * 1.37 for k in range(5000)])
    message = request((0, now_ms, [(0, "__name__", "x")]))
    _, headers, body = await real.call(
        "POST", "/api/v1/read", data=wire.snappy(message), headers={"Accept-Encoding": "gzip"}
    )
    assert headers["Content-Encoding"] == "snappy"
    (found,) = response(bytes(cramjam.snappy.decompress_raw(body)))
    assert len(found[("__name__", "x"),]) == 5000


async def test_refusals(real):
    for body, text in ((b"\xff" * 9, b"no length header"), (wire.snappy(b"\x0a\x63"), b"cut"),
                       (wire.snappy(request(accepted=[7])), b"accept SAMPLES (0)")):  # fmt: skip
        status, headers, answer = await real.call("POST", "/api/v1/read", data=body)
        assert status == 400
        assert headers["Content-Type"].startswith("text/plain")
        assert text in answer
    assert (await real.call("GET", "/api/v1/read"))[0] == 405


async def test_a_stream(real, now_ms):
    times = [now_ms - 1000 * k for k in range(300)]
    real.database.append({"__name__": "x", "job": "b"}, times, [k * 1.5 for k in range(300)])
    real.database.append({"__name__": "x", "job": "a"}, [now_ms], [7.0])
    message = request((0, now_ms, [(0, "__name__", "x")]), (0, 1, []), accepted=[9, 1, 0])
    status, headers, body = await real.call(
        "POST", "/api/v1/read", data=wire.snappy(message), headers={"Accept-Encoding": "gzip"}
    )
    assert status == 200
    assert headers["Content-Type"] == (
        "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
    )
    assert "Content-Encoding" not in headers
    (_, first, samples), (query, second, others) = decoded(body)
    assert (query, first, samples) == (0, {"__name__": "x", "job": "a"}, [(now_ms, 7.0)])
    assert second == {"__name__": "x", "job": "b"}
    assert others == [(t, k * 1.5) for k, t in reversed(list(enumerate(times)))]


async def test_an_empty_stream(real):
    message = request((0, 1, [(0, "__name__", "none")]), accepted=[1])
    status, headers, body = await real.call("POST", "/api/v1/read", data=wire.snappy(message))
    assert (status, body) == (200, b"")
    assert headers["Content-Type"].startswith("application/x-streamed-protobuf")


async def test_a_stream_that_fails_midway_is_cut(real, now_ms, monkeypatch):
    real.database.append({"__name__": "x"}, [now_ms], [7.0])

    def stream(body):
        yield b"first"
        raise ZeroDivisionError

    monkeypatch.setattr(real.database, "remote_read_stream", stream)
    with pytest.raises(aiohttp.ClientPayloadError):
        await real.call("POST", "/api/v1/read", data=wire.snappy(request(accepted=[1])))
