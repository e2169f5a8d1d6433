"""Remote writes on their way to the log and back, as their connections see them."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import server.write_connection as connections
import server.write_lane as lane
from tests.http import wire
from tests.http.raw import GOOD, ROW, answer, post
from tsengine import errors


async def test_a_write_that_takes_too_long_is_answered_and_goes_on(running, connect, monkeypatch):
    monkeypatch.setattr(lane, "_LOOK_S", 0.02)
    limits = running.server.limits
    running.server.limits = type(limits)(write_timeout_s=0.05)
    gate = threading.Event()
    original = running.database.append_remote_write

    def slow(*args, **kwargs):
        assert gate.wait(60)
        return original(*args, **kwargs)

    running.database.append_remote_write = slow
    reader, writer = await connect(running)
    writer.write(post(GOOD))
    status, headers, text = await answer(reader)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"not durable within 0.05 s" in text
    assert running.server.executor.writes_running == 1
    gate.set()
    assert await running.server.executor.drain(60)
    assert running.server.write_budget.used == 0
    assert running.database.rows[ROW] == {1000: 1.0}
    running.server.limits = limits
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 204


async def test_errors_of_the_database_are_told_whoever_meets_them(running, connect):
    """Refused at once in the lane's thread, or later by the log."""
    reader, writer = await connect(running)

    def later(body, on_done, **kwargs):
        result = running.database.append_remote_write(body)
        loop.call_later(0.01, on_done, result, errors.Full("no space"))

    loop = asyncio.get_running_loop()
    for how in ("at once", "later"):
        if how == "at once":
            running.database.append_error = errors.Overloaded("too much")
        else:
            running.database.append_error = None
            running.database.submit_remote_write = lambda *args, **kwargs: (
                loop.call_soon_threadsafe(lambda: later(*args, **kwargs))
            )
        writer.write(post(GOOD))
        status, headers, _ = await answer(reader)
        assert (status, headers["X-Prometheus-Remote-Write-Samples-Written"]) == (503, "0")
    assert running.server.write_budget.used == 0


async def test_the_lane_outlives_what_is_no_exception(running, connect):
    class Panic(BaseException):
        """As libraries in Rust raise."""

    lane = running.site.writes.lane
    original = lane._decompress

    def panic(body):
        raise Panic

    reader, writer = await connect(running)
    lane._decompress = panic
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 500
    lane._decompress = original
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 204
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_a_failing_answer_costs_nothing_but_itself(running, connect, monkeypatch):
    original = connections.WriteConnection._send_stored
    n_left = 1

    def send(self, result):
        nonlocal n_left
        n_left -= 1
        if n_left == 0:
            raise ZeroDivisionError
        original(self, result)

    monkeypatch.setattr(connections.WriteConnection, "_send_stored", send)
    opened = [await connect(running) for _ in range(3)]
    release = []
    running.database.submit_remote_write = lambda body, on_done, **_: release.append(on_done)
    for _, writer in opened:
        writer.write(post(GOOD))
    async with asyncio.timeout(10):
        while len(release) < 3:
            await asyncio.sleep(0.001)
    result = running.database.append_remote_write(wire.message_v1([]))
    for on_done in release:
        on_done(result, None)
    for reader, _ in opened[1:]:
        assert (await answer(reader))[0] == 204
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_a_write_that_is_told_twice_counts_once(running, connect):
    """The database was told, and then failed."""

    def twice(body, on_done, **_):
        on_done(running.database.append_remote_write(bytes(body)), None)
        raise ZeroDivisionError

    running.database.submit_remote_write = twice
    reader, writer = await connect(running)
    for _ in range(3):
        writer.write(post(GOOD))
        await answer(reader)
    await asyncio.sleep(0.01)
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_writes_that_wait_go_to_the_log_together(running, connect, monkeypatch):
    database, loop = running.database, asyncio.get_running_loop()
    gate, events = threading.Event(), []

    @contextlib.contextmanager
    def together():
        events.append("begin")
        yield
        events.append("end")

    def submit(body, on_done, **_):
        gate.wait(10)
        events.append(len(body))
        # As the log does, some time later.
        loop.call_soon_threadsafe(on_done, database.append_remote_write(bytes(body)), None)

    database.submit_remote_write, database.writes_together = submit, together
    monkeypatch.setattr(lane, "_ALONE_BYTES", 2000)
    monkeypatch.setattr(lane, "_TOGETHER_MAX", 4)
    opened = [await connect(running) for _ in range(9)]
    large = wire.snappy(wire.message_v1([({"__name__": "x" * 3000}, [(1000, 1.0)])]))
    bodies = [GOOD] * 6 + [large, GOOD, GOOD]
    for n, ((_, writer), body) in enumerate(zip(opened, bodies, strict=True), 1):
        writer.write(post(body))
        async with asyncio.timeout(10):
            while running.server.executor.writes_running < n:
                await asyncio.sleep(0.001)
    gate.set()
    for reader, _ in opened:
        assert (await answer(reader))[0] == 204
    sizes = [event for event in events if isinstance(event, int)]
    small, largest = sizes[0], max(sizes)
    # At most four, and none waits for the large one.
    groups = [[small] * 4, [small] * 2, [largest, small, small]]
    assert events == [event for group in groups for event in ("begin", *group, "end")]
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_writes_end_with_a_database_that_is_not_ready_any_more(running, connect):
    """What is taken up together with others is told so too, one by one."""
    lane_of = running.site.writes.lane
    original, gate = lane_of._decompress, threading.Event()
    lane_of._decompress = lambda body: gate.wait(10) and original(body)
    opened = [await connect(running) for _ in range(4)]
    for n, (_, writer) in enumerate(opened, 1):
        writer.write(post(GOOD))
        async with asyncio.timeout(10):
            while running.server.executor.writes_running < n:
                await asyncio.sleep(0.001)
    running.server.set_not_ready("closing")
    gate.set()
    for reader, _ in opened:
        assert (await answer(reader))[0] == 503
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_too_many_samples_are_refused(real, connect, monkeypatch, now_ms):
    monkeypatch.setattr("tsengine.storage.remote_write.SAMPLES_PER_REQUEST_MAX", 2000)
    reader, writer = await connect(real)
    for n, status in ((1, 204), (2000, 204), (2001, 400), (1, 204)):
        samples = [(now_ms - i, 1.0) for i in range(n)]
        writer.write(post(wire.snappy(wire.message_v1([({"__name__": "up"}, samples)]))))
        got, headers, text = await answer(reader)
        assert got == status
        if n > 2000:
            assert b"more than 2000 samples in one request" in text
            assert headers["X-Prometheus-Remote-Write-Samples-Written"] == "0"
    writer.close()


async def test_an_answer_that_can_not_be_made_is_an_error(real, connect, now_ms):
    """In the log's thread, when the samples are stored."""
    reader, writer = await connect(real)
    original = real.database._write_result

    def fail(outcome):
        raise MemoryError

    real.database._write_result = fail
    body = wire.snappy(wire.message_v1([({"__name__": "up"}, [(now_ms, 1.0)])]))
    writer.write(post(body))
    assert (await answer(reader))[0] == 500
    real.database._write_result = original
    writer.write(post(body))
    assert (await answer(reader))[0] == 204
    assert real.server.write_budget.used == real.server.executor.writes_running == 0
    writer.close()
