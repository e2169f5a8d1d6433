"""Memory of the runs of heads, used again when nobody sees it any more.

A head takes and gives back tens of megabytes with every flush. The C library returns them to the
system, and each page that comes anew costs a fault and is zeroed: more time than the samples' way
into it takes. So as much stays as the head before had: a database that is written to all the time
takes no new memory, one that rests holds next to none.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

RUN_ROWS_MAX = 256 * 1024
OPEN_BYTES = (4 + 8 + 8) * RUN_ROWS_MAX
"""The columns of an open run."""
SORTED_BYTES = (8 + 8) * RUN_ROWS_MAX
"""Those of a sorted one, at most."""
N_OPEN_KEPT = 2
N_SORTED_KEPT_FIRST = 8
N_SORTED_KEPT_MAX = 32


class RunMemory:
    """Free blocks of one database. Any thread."""

    def __init__(self) -> None:
        self._free: dict[int, deque[npt.NDArray[np.uint8]]] = {
            SORTED_BYTES: deque(),
            OPEN_BYTES: deque(),
        }
        self._n_kept = {SORTED_BYTES: N_SORTED_KEPT_FIRST, OPEN_BYTES: N_OPEN_KEPT}

    @property
    def n_free_bytes(self) -> int:
        """Memory held for runs to come."""
        return sum(size * len(free) for size, free in self._free.items())

    def expect(self, n_runs: int) -> None:
        """From now on keep memory for so many sorted runs, within a limit."""
        self._n_kept[SORTED_BYTES] = min(n_runs, N_SORTED_KEPT_MAX)
        free = self._free[SORTED_BYTES]
        with contextlib.suppress(IndexError):  # Another thread takes one.
            while len(free) > self._n_kept[SORTED_BYTES]:
                free.popleft()

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory of a size, not zeroed; it is free again when all views of it are gone."""
        for block_size in self._free:
            if block_size // 2 <= size <= block_size:
                break
        else:
            return np.empty(size, np.uint8)
        try:
            block = self._free[block_size].pop()
        except IndexError:
            block = np.empty(block_size, np.uint8)
        # Views refer to the array that owns the memory, or, as here, to the one made of a buffer.
        handed = np.frombuffer(block.data, np.uint8)
        weakref.finalize(handed, self._take_back, block).atexit = False
        return handed[:size]

    def _take_back(self, block: npt.NDArray[np.uint8]) -> None:
        free = self._free[len(block)]
        if len(free) < self._n_kept[len(block)]:
            free.append(block)
