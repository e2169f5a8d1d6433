"""Memory of the runs of heads, used again when nobody sees it any more.

A head takes and gives back tens of megabytes with every flush. The C library returns them to the
system, and each page that comes anew costs a fault and is zeroed: more time than the samples' way
into it takes.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import numpy.typing as npt

BLOCK_SIZE_BYTES = 20 * 256 * 1024
"""The columns of an open run; those of a sorted one take a little less."""
N_FREE_MAX = 8


class RunMemory:
    """Free blocks of one database. Any thread."""

    def __init__(self) -> None:
        self._free: deque[npt.NDArray[np.uint8]] = deque(maxlen=N_FREE_MAX)

    @property
    def n_free_bytes(self) -> int:
        """Memory held for runs to come."""
        return len(self._free) * BLOCK_SIZE_BYTES

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory of a size, not zeroed; it is free again when all views of it are gone."""
        if not BLOCK_SIZE_BYTES // 2 <= size <= BLOCK_SIZE_BYTES:
            return np.empty(size, np.uint8)
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(BLOCK_SIZE_BYTES, np.uint8)
        # Views refer to the array that owns the memory, or, as here, to the one made of a buffer.
        handed = np.frombuffer(block.data, np.uint8)
        weakref.finalize(handed, self._free.append, block).atexit = False
        return handed[:size]
