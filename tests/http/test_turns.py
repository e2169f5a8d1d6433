"""server/turns.py: how many queries begin side by side, in which order, and who steps aside."""

from __future__ import annotations

import asyncio
import threading

import pytest

from server import turns
from server.errors import NotReady
from server.executor import Executor
from server.limits import ServerLimits
from server.turns import Turns


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def taking(pool: Turns, n: int) -> list[asyncio.Task[turns.Turn]]:
    return [asyncio.ensure_future(pool.take()) for _ in range(n)]


def n_begun(tasks: list[asyncio.Task[turns.Turn]]) -> int:
    return sum(task.done() for task in tasks)


async def test_as_many_begin_as_may_and_the_others_follow_in_order(monkeypatch):
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 60.0)
    pool = Turns(10, 2)
    assert pool.is_free
    tasks = taking(pool, 5)
    await settled()
    assert [task.done() for task in tasks] == [True, True, False, False, False]
    assert not pool.is_free
    for k in range(3):
        tasks[k].result().end()
        await settled()
        assert n_begun(tasks) == k + 3
    tasks[3].result().end()
    tasks[4].result().end()
    assert pool.is_free


async def test_long_ones_step_aside_up_to_the_limit_of_all(monkeypatch):
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 60.0)
    pool = Turns(3, 1)
    tasks = taking(pool, 2)
    await settled()
    assert n_begun(tasks) == 1
    for task in tasks:
        (await task).end()
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 0.02)
    tasks = taking(pool, 5)
    async with asyncio.timeout(60):
        while n_begun(tasks) < 3 or pool._beginners.locked():
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    assert n_begun(tasks) == 3
    tasks[0].result().end()
    await settled()
    assert n_begun(tasks) == 4
    for task in tasks[1:]:
        (await task).end()
    assert pool.is_free
    await asyncio.sleep(0.05)
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 60.0)
    again = taking(pool, 2)
    await settled()
    assert n_begun(again) == 1, "whoever stepped aside gave its place away once"
    for task in again:
        (await task).end()


@pytest.mark.parametrize("n_max", [1, 3])
async def test_who_gives_up_waiting_takes_nothing(monkeypatch, n_max):
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 60.0)
    pool = Turns(n_max, 1)
    first = await pool.take()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await pool.take()
    first.end()
    assert pool.is_free
    second = await pool.take()
    assert not pool.is_free
    second.end()
    assert pool.is_free


async def test_two_begin_side_by_side_at_least():
    pool = Turns(20)
    begun = [await pool.take(), await pool.take()]
    for turn in begun:
        turn.end()
    assert pool.is_free


async def test_who_waits_while_the_server_stops_is_refused():
    executor = Executor(ServerLimits(queries_running_max=2))
    begun = []

    def call(_remaining_s, cancel):
        begun.append(cancel)
        cancel.wait(120)
        return "given up"

    tasks = [asyncio.create_task(executor.query(call, 120.0)) for _ in range(6)]
    async with asyncio.timeout(60):
        while len(begun) < 2:
            await asyncio.sleep(0.001)
    executor.cancel_queries()
    assert await executor.drain(60.0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] == ["given up"] * 2
    assert [type(result) for result in results[2:]] == [NotReady] * 4
    assert len(begun) == 2
    executor.close()


async def test_a_turn_is_given_back_when_there_is_no_thread(monkeypatch):
    executor = Executor(ServerLimits(queries_running_max=2))

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(5):
            with pytest.raises(RuntimeError, match="new thread"):
                await executor.query(lambda *_: 1, 10.0)
    assert executor.queries_running == 0
    async with asyncio.timeout(5):
        assert [await executor.query(lambda *_: 7, 10.0) for _ in range(3)] == [7] * 3
    executor.close()
