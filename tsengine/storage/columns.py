"""Growing arrays of the catalog, whose older part may lie in a scratch file.

Content below the count in use never changes, so readers need no lock: what they hold is the same
before, while and after it is spilled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.storage import scratch as spilling
from tsengine.storage.scratch import Memory, Scratch, ScratchFile

_OWN_PAGES_BYTES_MIN = 1 << 20
"""Smaller arrays stay where NumPy puts them."""
_SPILL_BYTES_MAX = 8 << 20
"""Put under an array at a time: who holds the lane for it is done in a millisecond or two."""


class GrowingColumn:
    """An array that only grows. One writer at a time.

    ``array`` has room for more than is used; it is another one when it has grown.
    """

    __slots__ = ("_file", "_memory", "_n_spilled_bytes", "array")

    def __init__(self, dtype: npt.DTypeLike, n: int) -> None:
        self.array: npt.NDArray[Any] = np.zeros(n, dtype)
        self._memory: Memory | None = None
        self._file: ScratchFile | None = None
        self._n_spilled_bytes = 0

    def grow(self, n_used: int, n_needed: int) -> None:
        """Have room for so many; what is used is kept. Readers of the old array keep it."""
        if n_needed <= len(self.array):
            return
        old, n = self.array, max(n_needed, 2 * len(self.array))
        size = n * old.itemsize
        if not spilling.IS_POSSIBLE or size < _OWN_PAGES_BYTES_MIN:
            self.array = np.empty(n, old.dtype)
            self.array[:n_used] = old[:n_used]
            return
        memory = Memory(size)
        if not self._put_file_under(memory):
            # Other memory: of this some may be gone.
            memory, self._file, self._n_spilled_bytes = Memory(size), None, 0
        whole = spilling.bytes_of(memory)
        first, last = self._n_spilled_bytes, n_used * old.itemsize
        whole[first:last] = old.view(np.uint8)[first:last]
        self._memory, self.array = memory, whole[:size].view(old.dtype)

    def _put_file_under(self, memory: Memory) -> bool:
        try:
            if self._file is not None:
                self._file.put_under(memory, 0, self._n_spilled_bytes)
        except OSError:
            return False
        return True

    def part_to_spill(self, n_used: int) -> ColumnPart | None:
        """What could go to a file now; None if it is little. By the writer."""
        if self._memory is None:
            return None
        first = self._n_spilled_bytes
        last = min(n_used * self.array.itemsize, first + _SPILL_BYTES_MAX)
        last -= last % spilling.PAGE_BYTES
        if last - first < spilling.SPILL_BYTES_MIN:
            return None
        return ColumnPart(self, self.array.view(np.uint8)[first:last], first)

    def write(self, scratch: Scratch, part: ColumnPart) -> None:
        """Write a part to the file, and sync it; raises OSError. One thread at a time, any."""
        if self._file is None:
            self._file = scratch.new_file()
        self._file.write(part.content, part.first)

    def place(self, part: ColumnPart) -> None:
        """Let the file have what was written. By the writer; raises OSError."""
        assert self._memory is not None, "it had a part to spill"
        if self._file is None or part.first != self._n_spilled_bytes:
            return  # It has all been copied meanwhile.
        end = part.first + len(part.content)
        self._file.put_under(self._memory, part.first, end)
        self._n_spilled_bytes = end


@dataclass(frozen=True, slots=True, eq=False)
class ColumnPart:
    """Bytes of a column, u8[N], whole pages from byte ``first`` on; they never change."""

    column: GrowingColumn
    content: npt.NDArray[np.uint8]
    first: int
