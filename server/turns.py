"""Whose turn it is to be evaluated: a few queries side by side, and long ones step aside.

Queries compete for cores and for the interpreter. With twenty under way each of them takes half as
much CPU time again as with two, for they hand the interpreter to and fro, and writes get next to
nothing of it. So as many as there are cores begin side by side, in the order in which they came.
One that takes longer than a moment is a long one, for which nobody shall have to wait: it goes on,
and the next one begins beside it. So there may be more, up to the limit of queries at once.

Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os

STEP_ASIDE_S = 0.25
"""So long a query runs before the next one may begin beside it."""
_SIDE_BY_SIDE_MIN = 2


class Turns:
    """Turns of one server's queries.

    Parameters
    ----------
    n_max
        Queries that run at once.
    n_beginners
        How many of them may have begun a moment ago; None for as many as there are cores.

    """

    def __init__(self, n_max: int, n_beginners: int | None = None) -> None:
        if n_beginners is None:
            n_beginners = max(_SIDE_BY_SIDE_MIN, _n_cores())
        self._running = asyncio.Semaphore(n_max)
        self._beginners = asyncio.Semaphore(n_beginners)

    @property
    def is_free(self) -> bool:
        """Whether a query would get its turn now."""
        return not self._running.locked() and not self._beginners.locked()

    async def take(self) -> Turn:
        """Wait for a turn, which begins now; who has it ends it."""
        await self._running.acquire()
        try:
            await self._beginners.acquire()
        except BaseException:
            self._running.release()
            raise
        return Turn(self._running, self._beginners)


class Turn:
    """The time from a query's beginning to its end."""

    __slots__ = ("_beginners", "_running", "_stepping_aside")

    def __init__(self, running: asyncio.Semaphore, beginners: asyncio.Semaphore) -> None:
        self._running = running
        self._beginners = beginners
        loop = asyncio.get_running_loop()
        self._stepping_aside: asyncio.TimerHandle | None = loop.call_later(
            STEP_ASIDE_S, self._step_aside
        )

    def _step_aside(self) -> None:
        self._stepping_aside = None
        self._beginners.release()

    def end(self) -> None:
        """Let the next one begin. Once."""
        if self._stepping_aside is not None:
            self._stepping_aside.cancel()
            self._step_aside()
        self._running.release()


def _n_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
