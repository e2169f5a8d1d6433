"""Remote write: negotiation, Snappy with caps, answers, and everything a sender can get wrong."""

import asyncio
import io
import random

import pytest

from server.errors import UnsupportedMedia
from server.protocols.remote_write import decompressed_size, describe_rejects, negotiate
from tests.http import wire
from tests.http.fake import FakeReject, FakeWriteResult
from tsengine import errors

WRITTEN = "X-Prometheus-Remote-Write-{}-Written"
GOOD = wire.message_v1([({"__name__": "up", "job": "a"}, [(1000, 1.0), (2000, 2.0)])])


def counts(headers):
    return [headers.get(WRITTEN.format(k)) for k in ("Samples", "Histograms", "Exemplars")]


async def write(running, body, headers=wire.HEADERS_V1, path="/api/v1/write"):
    status, got, text = await running.call("POST", path, data=body, headers=headers)
    return status, got, text.decode()


@pytest.mark.parametrize("path", ["/api/v1/write", "/write"])
async def test_v1(running, path):
    status, headers, text = await write(running, wire.snappy(GOOD), path=path)
    assert (status, text, counts(headers)) == (204, "", ["2", "0", "0"])
    assert running.database.rows == {(("__name__", "up"), ("job", "a")): {1000: 1.0, 2000: 2.0}}


async def test_v2(running):
    message = wire.message_v2([({"__name__": "up", "job": "a"}, [(1000, 1.0)])])
    status, headers, _ = await write(running, wire.snappy(message), wire.HEADERS_V2)
    assert (status, counts(headers)) == (204, ["1", "0", "0"])
    assert running.database.rows == {(("__name__", "up"), ("job", "a")): {1000: 1.0}}


@pytest.mark.parametrize(
    ("content_type", "encoding", "version"),
    [
        ("", "", 1),
        ("application/x-protobuf", "snappy", 1),
        ("application/x-protobuf;proto=prometheus.WriteRequest", "snappy", 1),
        ("application/x-protobuf; proto=io.prometheus.write.v2.Request", "Snappy", 2),
        ('Application/X-Protobuf;charset=x; proto="io.prometheus.write.v2.Request"', "", 2),
        ("application/x-protobuf;charset=utf-8", "", 1),
        ("application/json", "snappy", None),
        ("text/plain", "", None),
        ("application/x-protobuf;proto=io.prometheus.write.v3.Request", "snappy", None),
        ("application/x-protobuf", "gzip", None),
        ("application/x-protobuf", "identity", None),
        ("application/x-protobuf", "snappy, gzip", None),
    ],
)
def test_negotiation(content_type, encoding, version):
    if version is None:
        with pytest.raises(UnsupportedMedia, match="is not supported; send"):
            negotiate(content_type, encoding)
    else:
        assert negotiate(content_type, encoding) == version


async def test_unsupported_media(running):
    for headers in (
        {"Content-Type": "application/json"},
        {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"},
        {"Content-Type": "application/x-protobuf", "Content-Encoding": "zstd"},
    ):
        status, got, text = await write(running, wire.snappy(GOOD), headers)
        assert status == 415
        assert "is not supported; send" in text
        assert counts(got) == [None] * 3
    assert running.database.rows == {}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "no length header"),
        (b"\xff" * 20, "no length header"),
        (b"\xff\xff\xff\xff\x0f" + b"x" * 50, "claims to be 4294967295 bytes decompressed"),
        (wire.varint(64 * 1024 * 1024 + 1) + b"x", "over the limit of 67108864; send smaller"),
        (wire.varint(1_000_000) + b"x" * 100, "can't decompress"),
        (b"plain text that is not compressed", "not Snappy"),
        (wire.snappy(GOOD)[:-3], "not Snappy"),
        (wire.snappy(GOOD[:-3]), "cut message"),
    ],
)
async def test_malformed_bodies(running, body, text):
    status, headers, answer = await write(running, body)
    assert status == 400
    assert text in answer
    assert counts(headers) == ["0", "0", "0"]
    assert running.database.rows == {}
    assert running.server.write_budget.used == 0
    assert (await write(running, wire.snappy(GOOD)))[0] == 204


async def test_an_empty_message_is_fine(running):
    assert (await write(running, wire.snappy(b"")))[0] == 204


def test_size_header_is_read_before_memory_is_spent():
    from server.limits import ServerLimits

    limits = ServerLimits()
    data = bytes(random.Random(1).randbytes(100_000))
    assert decompressed_size(wire.snappy(data), limits) == 100_000
    zeros = wire.snappy(bytes(10_000_000))
    assert decompressed_size(zeros, limits) == 10_000_000


async def test_body_over_the_limit(running):
    too_long = running.server.limits.write_body_size_max + 1
    status, headers, text = await write(running, io.BytesIO(bytes(too_long)))
    assert status == 413
    assert "send smaller requests" in text
    assert counts(headers) == ["0", "0", "0"]

    async def chunks():
        for _ in range(33):
            yield bytes(1024 * 1024)

    status, _, text = await write(running, chunks())
    assert status == 413
    assert running.server.write_budget.used == 0
    assert (await write(running, wire.snappy(GOOD)))[0] == 204


async def test_rejected_series_are_named_and_the_others_kept(running):
    message = wire.message_v1(
        [({"job": "x"}, [(1000, 1.0)]), ({"__name__": "up"}, [(1000, 1.0), (2000, 1.0)])]
    )
    status, headers, text = await write(running, wire.snappy(message))
    assert status == 400
    assert counts(headers) == ["2", "0", "0"]
    assert text == (
        "1 series refused, 2 samples of the others stored:\n{'job': 'x'}: no metric name\n"
    )
    assert list(running.database.rows) == [(("__name__", "up"),)]
    _, _, body = await running.call("GET", "/metrics")
    assert b'tsengine_remote_write_rejected_series_total{protocol="1.0"} 1.0' in body
    assert b'tsengine_remote_write_samples_total{protocol="1.0"} 2.0' in body


def test_reject_texts_are_cut():
    rejects = [FakeReject("x" * 1_000_000, "r" * 1_000_000, 1)] * 100_000
    text = describe_rejects(FakeWriteResult(rejected=rejects), 4096)
    assert text.startswith("100000 series refused")
    assert text.endswith("... and 99990 more\n")
    assert len(text) <= 4097
    text = describe_rejects(FakeWriteResult(rejected=[FakeReject("\udcff", "r", 1)]), 4096)
    assert "?: r" in text


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (errors.Overloaded("queue is full"), 503, True),
        (errors.Full("disk full"), 503, True),
        (errors.Closed("closed"), 503, True),
        (errors.AppendLimitExceeded("too many new series"), 429, True),
        (errors.TooOldSample("too old"), 400, False),
        (errors.CorruptionError("checksum"), 500, False),
        (ZeroDivisionError("inside"), 500, False),
    ],
)
async def test_failures(running, error, status, retry):
    running.database.append_error = error
    got, headers, text = await write(running, wire.snappy(GOOD))
    assert got == status
    assert counts(headers) == ["0", "0", "0"]
    assert headers.get("Retry-After") == ("1" if retry else None)
    assert "inside" not in text
    running.database.append_error = None
    assert (await write(running, wire.snappy(GOOD)))[0] == 204


async def test_too_many_bytes_in_flight(running):
    budget = running.server.write_budget
    assert budget.take(budget.size_max - 10)
    status, headers, text = await write(running, wire.snappy(GOOD))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert "requests in flight" in text
    budget.give_back(budget.size_max - 10)
    assert (await write(running, wire.snappy(GOOD)))[0] == 204
    assert budget.used == 0


async def test_a_sender_that_stops_in_the_middle(running):
    port = int(running.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    await writer.drain()
    async with asyncio.timeout(5):
        while not running.server.write_budget.used:
            await asyncio.sleep(0.005)
    writer.close()
    async with asyncio.timeout(5):
        while running.server.write_budget.used:
            await asyncio.sleep(0.005)
    assert (await write(running, wire.snappy(GOOD)))[0] == 204


async def test_a_write_goes_on_when_its_sender_left(running):
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    original = running.database.append_remote_write

    def slow(*args, **kwargs):
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return original(*args, **kwargs)

    running.database.append_remote_write = slow
    call = asyncio.create_task(write(running, wire.snappy(GOOD)))
    while not running.server.executor.writes_running:
        await asyncio.sleep(0.005)
    call.cancel()
    await asyncio.sleep(0.05)
    assert running.server.executor.writes_running == 1
    gate.set()
    assert await running.server.executor.drain(5)
    assert len(running.database.rows) == 1


async def test_random_bytes_never_break_the_server(running):
    rng = random.Random(7)
    good = wire.snappy(GOOD)
    for i in range(300):
        if i % 2:
            body = rng.randbytes(rng.randrange(200))
        else:
            body = bytearray(good)
            for _ in range(rng.randrange(1, 4)):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
            body = bytes(body[: rng.randrange(len(body) + 1)])
        headers = wire.HEADERS_V2 if i % 3 else wire.HEADERS_V1
        status, _, _ = await write(running, body, headers)
        assert status in (204, 400)
    assert (await write(running, good))[0] == 204


async def test_announced_bodies_that_never_come_hold_no_room(running):
    host, port = running.url.removeprefix("http://").split(":")
    size = running.server.limits.write_body_size_max
    n = running.server.limits.writes_in_flight_size_max // size
    head = f"POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\nabc"
    idle = [await asyncio.open_connection(host, port) for _ in range(n)]
    for _, writer in idle:
        writer.write(head.encode())
    while running.server.write_budget.used < 3 * n:
        await asyncio.sleep(0.01)
    status, _, text = await write(running, wire.snappy(GOOD))
    assert (status, text) == (204, "")
    for _, writer in idle:
        writer.close()
    while running.server.write_budget.used:
        await asyncio.sleep(0.01)
