"""Memory of queries: how much there is, who holds it, and how sizes are written.

A query reserves what it is estimated to need before it reads a sample, and takes more while it
runs if the estimate was too low. Only those that hold nothing yet wait for others, so nobody waits
for somebody who waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from tsengine.model.machine import machine_memory

__all__ = ["MemoryPool", "machine_memory", "memory_shares", "size_text"]

_MIB = 1024 * 1024
_POOL_SHARE = 2
_QUERY_SHARE = 4
_QUERY_SIZE_MIN = 64 * _MIB
_WAIT_S = 0.05
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class MemoryPool:
    """Bytes that all queries of one engine hold together. Thread-safe.

    Parameters
    ----------
    size_max
        Bytes there are at most.
    left
        Says how many bytes others leave at this moment, or fewer if these are as many as the number
        that it is given; None if there are no others.

    """

    def __init__(self, size_max: int, left: Callable[[int], int] | None = None) -> None:
        self.size_max = size_max
        self._left = left
        self._used = 0
        self._changed = threading.Condition()

    @property
    def size(self) -> int:
        """Bytes there are now, those that are held included."""
        return self._size(self.size_max)

    def _size(self, enough: int) -> int:
        if self._left is None:
            return self.size_max
        return min(self.size_max, self._left(enough))

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def try_take(self, n_bytes: int) -> bool:
        """Take bytes if they are there; False, and nothing taken, if not."""
        with self._changed:
            return self._take(n_bytes)

    def take(self, n_bytes: int, check: Callable[[], None]) -> None:
        """Take bytes, waiting until others have given theirs back.

        `check` is called every now and then and may raise to give up.
        """
        with self._changed:
            while not self._take(n_bytes):
                self._changed.wait(_WAIT_S)
                check()

    def give_back(self, n_bytes: int) -> None:
        """Return bytes that were taken."""
        with self._changed:
            assert 0 <= n_bytes <= self._used, "more bytes returned than taken"
            self._used -= n_bytes
            self._changed.notify_all()

    def _take(self, n_bytes: int) -> bool:
        needed = self._used + n_bytes
        if needed > self._size(needed):
            return False
        self._used = needed
        return True


def memory_shares(query_memory: int, query_memory_total: int, budget: int = 0) -> tuple[int, int]:
    """Bytes of one query and of all at most, where 0 means a share of the budget.

    The budget is that of the whole database, by default half of the machine's memory. All queries
    may hold what recent samples and series leave of it, one of them a quarter of the whole: a few
    large ones go side by side, and small ones find room beside them.
    """
    budget = budget or machine_memory() // _POOL_SHARE
    total = query_memory_total or max(budget, query_memory)
    if query_memory:
        return min(query_memory, total), total
    return min(max(total // _QUERY_SHARE, _QUERY_SIZE_MIN), total), total


def size_text(n_bytes: int) -> str:
    """A size as people read it: ``512 MiB``, ``5.2 GiB``."""
    size = float(n_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    text = f"{size:.1f}" if size < 100 and unit != "bytes" else f"{size:.0f}"
    return f"{text.removesuffix('.0')} {unit}"
