"""One thread for all remote writes: it decompresses bodies and stores them.

Bodies go to it in the order in which they came. Those that are waiting in the queue, and those that
come while these are prepared, become durable together, and the event loop is woken once for all of
them: a sync takes as long as some writes of usual size, and so do the wake-ups of threads and
clients. Usually the lane's thread writes the log itself; while the log's own thread is at it, that
one goes on, and tells when they are durable.

`submit` and what it leads to run on the event loop; `_run` is the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from .errors import NotReady, TooBusy
from .logs import LOGGER

if TYPE_CHECKING:
    import tsengine

    from .state import Server

Decompress = Callable[[Any], memoryview]
_LOOK_S = 1.0
_ALONE_BYTES = 4 << 20
"""A body that holds more takes so long that none waits for it."""
_TOGETHER_MAX = 16
"""Of more writes the first waits too long for the last."""


@dataclass(slots=True, eq=False)
class Write:
    """A body on its way: what is to be stored, and then what became of it.

    ``on_answer`` is called on the event loop once, with ``result`` or ``error`` set.
    """

    body: Any
    held: int
    version: Literal[1, 2]
    sender: str
    on_answer: Callable[[Write], None]
    started_s: float
    queued_s: float = 0.0
    message_size: int = 0
    result: tsengine.WriteResult | None = None
    error: BaseException | None = None
    is_answered: bool = field(default=False, init=False)
    is_finished: bool = field(default=False, init=False)


class WriteLane:
    """The thread and what is under way.

    Parameters
    ----------
    decompress
        Makes the message of a body; it is read before the next one is made.

    """

    def __init__(self, server: Server, decompress: Decompress) -> None:
        self._server = server
        self._decompress = decompress
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._finished: deque[Write] = deque()
        self._under_way: deque[Write] = deque()
        self._is_woken = False
        self._looking: asyncio.TimerHandle | None = None
        self._thread = Thread(target=self._run, name="write-lane", daemon=True)
        self._thread.start()

    def submit(self, write: Write) -> None:
        """Store a body; its bytes in the budget and its place among the running writes are ours."""
        self._server.executor.writes_running += 1
        write.queued_s = time.perf_counter()
        self._under_way.append(write)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look)
        self._queue.put(write)

    def close(self) -> None:
        """Let the thread end when it has handed on what it was given."""
        self._queue.put(None)
        if self._looking is not None:
            self._looking.cancel()

    # The event loop.

    def _look(self) -> None:
        """Answer writes that take too long. They go on, and sending them again is harmless."""
        self._looking = None
        limit_s = self._server.limits.write_timeout_s
        while self._under_way and self._under_way[0].is_answered:
            self._under_way.popleft()
        now_s = time.perf_counter()
        for write in self._under_way:
            if now_s - write.queued_s < limit_s:
                break
            if not write.is_answered:
                late = Write(b"", 0, write.version, write.sender, write.on_answer, write.started_s)
                late.error = TooBusy(f"the write was not durable within {limit_s:g} s; try again")
                write.is_answered = True
                _tell(late)
        if self._under_way:
            self._looking = self._loop.call_later(_LOOK_S, self._look)

    def _answer_finished(self) -> None:
        self._is_woken = False
        server = self._server
        finished = self._finished
        while finished:
            write = finished.popleft()
            if write.is_finished:
                continue  # It was queued, and then its call failed.
            write.is_finished = True
            server.executor.writes_running -= 1
            server.write_budget.give_back(write.held)
            if not write.is_answered:
                write.is_answered = True
                _tell(write)
        while self._under_way and self._under_way[0].is_answered:
            self._under_way.popleft()

    # The lane's thread, and the log's.

    def _run(self) -> None:
        write = self._queue.get()
        while write is not None:
            write = self._take_up(write)

    def _take_up(self, write: Write) -> Write | None:
        """Store a write and some that wait behind it; returns the next one, or None at the end."""
        taken: list[Write] = [write]
        left: list[Write | None] = []
        try:
            with self._gathering():
                self._store_together(taken, left)
        # A task border: there is no memory for the end of it, say.
        except BaseException as error:
            for write in taken:
                if write.result is None and write.error is None:
                    write.error = error
                    self._finish(write)
        return left[0] if left else self._queue.get()

    def _store_together(self, taken: list[Write], left: list[Write | None]) -> None:
        """Store what is taken, and take and store what waits; ``left`` gets what is not stored."""
        self._try_to_store(taken[0])
        while len(taken) < _TOGETHER_MAX and not self._queue.empty():
            write = self._queue.get()
            if write is None or write.held > _ALONE_BYTES:
                left.append(write)
                return
            taken.append(write)
            self._try_to_store(write)

    def _gathering(self) -> contextlib.AbstractContextManager[None]:
        # Whoever stores a write is told why there is no database.
        with contextlib.suppress(NotReady):
            return self._server.database.writes_together()
        return contextlib.nullcontext()

    def _try_to_store(self, write: Write) -> None:
        try:
            self._store(write)
        # A request border: it is answered, and the lane goes on. A library that is not
        # written in Python may raise what is no Exception.
        except BaseException as error:
            # Kept until the next write, the body would be memory that nobody counts.
            write.body, write.error = None, error
            self._finish(write)

    def _store(self, write: Write) -> None:
        message = self._decompress(write.body)
        write.body = None
        write.message_size = len(message)

        def on_done(result: tsengine.WriteResult, error: BaseException | None) -> None:
            write.result, write.error = result, error
            self._finish(write)

        self._server.database.submit_remote_write(
            message,
            on_done,
            version=write.version,
            sender=write.sender,
            waited=time.perf_counter() - write.queued_s,
        )

    def _finish(self, write: Write) -> None:
        self._finished.append(write)
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                self._loop.call_soon_threadsafe(self._answer_finished)


def _tell(write: Write) -> None:
    """Call ``on_answer``; if it fails, the others are still told."""
    try:
        write.on_answer(write)
    except Exception:
        LOGGER.exception("the answer to a write failed")
