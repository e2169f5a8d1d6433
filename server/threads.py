"""Threads for short calls: one hand-over to a thread and one back, the warmest thread first.

A pool of the standard library wakes its threads in turn, which finds a cold one each time, and
wraps each call in two futures. Here the thread that ended last is asked next.

Everything runs on the event loop except the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """A call, who waits for its result, and what is done when it has ended."""

    call: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    on_end: Callable[[], None] | None


class ThreadPool:
    """At most `n_max` threads, each started when it is first needed.

    Parameters
    ----------
    n_max
        Calls that run at once; further ones wait in line.
    name
        Of the threads.

    """

    def __init__(self, n_max: int, name: str) -> None:
        self._n_max = n_max
        self._name = name
        self._n_started = 0
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job] = deque()
        self._is_closed = False
        self.n_running = 0

    def submit(
        self, call: Callable[[], T], on_end: Callable[[], None] | None = None
    ) -> asyncio.Future[T]:
        """Run `call` in a thread; the future has its result or what it raised.

        A future that is cancelled leaves the call running; `on_end` is called when it has ended.
        Raises RuntimeError if there can be no thread; `on_end` is not called then.
        """
        if self._is_closed:
            raise RuntimeError("the threads have ended")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        job = _Job(call, future, loop, on_end)
        if self._idle:
            self._start(self._idle.pop(), job)
        elif self._n_started < self._n_max:
            worker = _Worker(f"{self._name}_{self._n_started + 1}", self._ended)
            worker.start()
            self._n_started += 1
            self._start(worker, job)
        else:
            self._waiting.append(job)
        return future

    def _start(self, worker: _Worker, job: _Job) -> None:
        self.n_running += 1
        worker.hand_over(job)

    def _ended(self, worker: _Worker, job: _Job, result: Any, error: BaseException | None) -> None:
        """Take what a thread brought; the thread goes on with the next call or rests."""
        self.n_running -= 1
        if self._waiting:
            self._start(worker, self._waiting.popleft())
        elif self._is_closed:
            worker.hand_over(None)
        else:
            self._idle.append(worker)
        if job.on_end is not None:
            job.on_end()
        if job.future.done():
            return  # Given up.
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)

    def close(self) -> None:
        """Let the threads end; running calls are not waited for, waiting ones are cancelled."""
        self._is_closed = True
        for job in self._waiting:
            job.future.cancel()
        self._waiting.clear()
        for worker in self._idle:
            worker.hand_over(None)
        self._idle.clear()


class _Worker(threading.Thread):
    """A thread that sleeps until it is handed a call; None ends it."""

    def __init__(
        self, name: str, ended: Callable[[_Worker, _Job, Any, BaseException | None], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._ended = ended
        self._handed_over = threading.Lock()
        self._handed_over.acquire()
        self._job: _Job | None = None

    def hand_over(self, job: _Job | None) -> None:
        """Wake the thread."""
        self._job = job
        self._handed_over.release()

    def run(self) -> None:
        """Run one call after the other; nothing of a call is kept while the thread sleeps."""
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        self._handed_over.acquire()
        job, self._job = self._job, None
        if job is None:
            return False
        result: Any = None
        error: BaseException | None = None
        try:
            result = job.call()
        except StopIteration as stop:
            # A future refuses it.
            error = RuntimeError("the call raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:  # A thread's border: whoever waits gets it.
            error = raised
        try:
            job.loop.call_soon_threadsafe(self._ended, self, job, result, error)
        except RuntimeError:
            return False  # The loop is closed: the process ends.
        finally:
            # Else an error and this frame would keep each other.
            del job, result, error
        return True
