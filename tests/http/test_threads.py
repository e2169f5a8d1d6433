"""server/threads.py: results, errors, order, and what becomes of calls nobody waits for."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from server.threads import ThreadPool


@pytest.fixture
async def pool():
    pool = ThreadPool(2, "test")
    yield pool
    pool.close()


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_results_and_errors_arrive(pool):
    assert await pool.submit(lambda: 7) == 7

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await pool.submit(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.submit(lambda: next(iter(())))
    assert pool.n_running == 0


async def test_calls_in_turn_have_the_same_thread(pool):
    found = [await pool.submit(threading.get_ident) for _ in range(20)]
    assert len(set(found)) == 1
    assert found[0] != threading.get_ident()


async def test_no_more_than_so_many_run_and_the_others_wait_in_line(pool):
    gate, started, order = threading.Event(), [], []

    def call(number):
        started.append(number)
        gate.wait(60)
        order.append(number)
        return number

    futures = [pool.submit(lambda n=n: call(n)) for n in range(5)]
    await until(lambda: len(started) == 2)
    await asyncio.sleep(0.02)
    assert (pool.n_running, sorted(started)) == (2, [0, 1])
    gate.set()
    assert await asyncio.gather(*futures) == [0, 1, 2, 3, 4]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert pool.n_running == 0


async def test_a_call_that_is_given_up_still_ends(pool):
    gate, ended = threading.Event(), []
    future = pool.submit(lambda: gate.wait(5), lambda: ended.append(1))
    await until(lambda: pool.n_running == 1)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    assert not ended
    gate.set()
    await until(lambda: ended == [1])
    assert await pool.submit(lambda: 1) == 1


async def test_nothing_of_a_call_is_kept(pool):
    class Thing:
        pass

    thing = Thing()
    known = weakref.ref(thing)
    assert await pool.submit(lambda kept=thing: kept) is thing

    def fail(kept):
        raise ValueError

    with pytest.raises(ValueError):
        await pool.submit(lambda kept=thing: fail(kept))
    del thing

    def is_gone():
        gc.collect()
        return known() is None

    await until(is_gone)


async def test_threads_end_and_waiting_calls_are_cancelled():
    pool = ThreadPool(1, "ending")
    gate = threading.Event()
    first, second = pool.submit(lambda: gate.wait(5)), pool.submit(lambda: 2)
    await until(lambda: pool.n_running == 1)
    pool.close()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    assert await first is True
    await until(lambda: not any(t.name.startswith("ending") for t in threading.enumerate()))
    with pytest.raises(RuntimeError, match="ended"):
        pool.submit(lambda: 1)


def test_a_thread_survives_the_end_of_its_loop():
    gate, pools = threading.Event(), []

    async def leave():
        pools.append(ThreadPool(1, "left"))
        future = pools[0].submit(lambda: gate.wait(5))
        await until(lambda: pools[0].n_running == 1)
        future.cancel()

    asyncio.run(leave())
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("left"):
            thread.join(60)
            assert not thread.is_alive()
