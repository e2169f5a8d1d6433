"""What nobody foresees ends no thread and keeps nothing for ever."""

from __future__ import annotations

import contextlib
import threading

import pytest

from server.executor import Executor
from server.limits import ServerLimits
from tests.http.raw import GOOD, answer, post


async def test_the_lane_outlives_the_end_of_writes_together_that_fails(running, connect):
    """No memory for it, say."""
    n_left = 2

    @contextlib.contextmanager
    def together():
        nonlocal n_left
        yield
        n_left -= 1
        if n_left >= 0:
            raise MemoryError

    told = []
    original = running.database.submit_remote_write
    running.database.submit_remote_write = lambda body, on_done, **_: told.append(on_done)
    running.database.writes_together = together
    reader, writer = await connect(running)
    for _ in range(2):
        writer.write(post(GOOD))
        assert (await answer(reader))[0] == 500
    running.database.submit_remote_write = original
    writer.write(post(GOOD))
    assert (await answer(reader))[0] == 204
    assert len(told) == 2
    assert running.server.write_budget.used == running.server.executor.writes_running == 0


async def test_a_search_without_a_thread_leaves_nothing(monkeypatch):
    executor = Executor(ServerLimits())

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await executor.search(lambda check: 1, 10.0)
    assert not executor._cancels
    assert await executor.search(lambda check: 7, 10.0) == 7
    executor.close()
