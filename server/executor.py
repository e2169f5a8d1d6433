"""Threads for everything that may take longer than 1 ms; the event loop only moves bytes.

Pools of their own, so that none waits for another: writes (they sleep in fsync), queries (bounded,
further ones wait in line, see `turns`), metadata calls, admin calls (one at a time, they may take
minutes), pauses (they wait for a job to end, and must not wait for admin calls), and background
work (own metrics, large compressions).
All methods are called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from tsengine import errors

from .errors import NotReady, TooBusy, TooManyQueries
from .limits import ServerLimits
from .threads import ThreadPool
from .turns import Turn, Turns

P = ParamSpec("P")
T = TypeVar("T")

METADATA_THREADS = 4
PAUSE_THREADS = 4
BACKGROUND_THREADS = 3
_STOPPING = "the server is shutting down"


class Executor:
    """The pools of one server."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._writes = ThreadPoolExecutor(limits.write_threads, "write")
        self._queries = ThreadPool(limits.queries_running_max, "query")
        self._metadata = ThreadPool(METADATA_THREADS, "metadata")
        self._admin = ThreadPoolExecutor(1, "admin")
        self._pauses = ThreadPoolExecutor(PAUSE_THREADS, "pause")
        self._background = ThreadPoolExecutor(BACKGROUND_THREADS, "background")
        self._turns = Turns(limits.queries_running_max)
        self._cancels: set[threading.Event] = set()
        self._is_stopping = False
        self.queries_waiting = 0
        self.queries_running = 0
        self.writes_running = 0

    async def write(self, call: Callable[[], T], on_end: Callable[[], None]) -> T:
        """Run a write to its end, also when its client went away: it may be in the log already.

        `on_end` is called when it has ended, which may be after this returned. Raises TooBusy when
        it takes longer than the limit; its outcome is unknown then, and sending it again is
        harmless.
        """
        self.writes_running += 1
        future = self._submit(self._writes, call)
        future.add_done_callback(functools.partial(self._write_done, on_end))
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            raise TooBusy(
                f"the write was not durable within {self._limits.write_timeout_s:g} s; try again"
            ) from None

    def _write_done(self, on_end: Callable[[], None], future: asyncio.Future[T]) -> None:
        self.writes_running -= 1
        on_end()
        if not future.cancelled():
            future.exception()  # Seen, so that an abandoned write's error is not reported twice.

    async def query(self, call: Callable[[float, threading.Event], T], timeout_s: float) -> T:
        """Run ``call(remaining_s, cancel)`` when its turn comes.

        `cancel` is set when the client goes away, when the server stops and when the time is up;
        waiting for the turn counts.
        """
        if self._is_stopping:
            raise NotReady(_STOPPING)
        if self.queries_waiting >= self._limits.queries_waiting_max:
            raise TooManyQueries(
                f"{self.queries_waiting} queries are waiting already; try again later"
            )
        deadline = time.monotonic() + timeout_s
        if self._turns.is_free:
            turn = await self._turns.take()
        else:
            turn = await self._wait_for_turn(timeout_s)
            if self._is_stopping:
                turn.end()
                raise NotReady(_STOPPING)
        cancel = threading.Event()
        self._cancels.add(cancel)
        self.queries_running += 1

        def run() -> T:
            return call(deadline - time.monotonic(), cancel)

        # The turn ends with the thread, not with the client: a query that was given up still
        # holds its thread until it notices.
        on_end = functools.partial(self._query_done, turn, cancel)
        try:
            answer = self._queries.submit(run, on_end)
        except BaseException:
            on_end()
            raise
        try:
            return await answer
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def _wait_for_turn(self, timeout_s: float) -> Turn:
        self.queries_waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await self._turns.take()
        except TimeoutError:
            raise errors.QueryTimeout("query timed out while waiting for its turn") from None
        finally:
            self.queries_waiting -= 1

    def _query_done(self, turn: Turn, cancel: threading.Event) -> None:
        self._cancels.discard(cancel)
        self.queries_running -= 1
        turn.end()

    async def metadata(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that reads labels, not samples."""
        return await self._metadata.submit(functools.partial(call, *args, **kwargs))

    async def search(self, call: Callable[[Callable[[], None]], T], timeout_s: float) -> T:
        """Run ``call(check)``, a call that reads labels and may take long.

        `check` raises when the time is up (waiting for a thread counts), when the client goes away
        and when the server stops.
        """
        cancel = threading.Event()
        if self._is_stopping:
            cancel.set()
        deadline = time.monotonic() + timeout_s

        def check() -> None:
            if cancel.is_set():
                raise errors.QueryCanceled("the search for series was canceled")
            if time.monotonic() > deadline:
                raise errors.QueryTimeout("the search for series timed out")

        def run() -> T:
            check()
            return call(check)

        self._cancels.add(cancel)
        on_end = functools.partial(self._cancels.discard, cancel)
        try:
            answer = self._metadata.submit(run, on_end)
        except BaseException:
            on_end()
            raise
        try:
            return await answer
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def admin(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that changes the whole database, after those that came before."""
        return await self._submit(self._admin, call, *args, **kwargs)

    async def pause(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call that stops background work, beside admin calls that run."""
        return await self._submit(self._pauses, call, *args, **kwargs)

    async def background(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run anything else."""
        return await self._submit(self._background, call, *args, **kwargs)

    def _submit(
        self, pool: ThreadPoolExecutor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(pool, functools.partial(call, *args, **kwargs))

    def cancel_queries(self) -> None:
        """Tell all queries to stop and refuse new ones."""
        self._is_stopping = True
        for cancel in self._cancels:
            cancel.set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no query, search or write runs; False when the time is up before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._is_busy():
                    await asyncio.sleep(0.01)
        return not self._is_busy()

    def _is_busy(self) -> bool:
        return bool(self.queries_running or self.writes_running or self._metadata.n_running)

    def close(self) -> None:
        """Let the threads end; running calls are not waited for."""
        self._queries.close()
        self._metadata.close()
        for pool in (self._writes, self._admin, self._pauses, self._background):
            pool.shutdown(wait=False, cancel_futures=True)
