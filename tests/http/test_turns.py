"""server/turns.py: how many queries begin side by side, in which order, and who steps aside."""

from __future__ import annotations

import asyncio

import pytest

from server import turns
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
    monkeypatch.setattr(turns, "STEP_ASIDE_S", 0.02)
    pool = Turns(3, 1)
    tasks = taking(pool, 5)
    await settled()
    assert n_begun(tasks) == 1
    await asyncio.sleep(0.2)
    assert n_begun(tasks) == 3
    tasks[0].result().end()
    await settled()
    assert n_begun(tasks) == 4
    for k in range(1, 5):
        tasks[k].result().end()
        await asyncio.sleep(0.03)
    assert pool.is_free
    await asyncio.sleep(0.05)
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
