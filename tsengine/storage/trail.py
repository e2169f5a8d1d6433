"""How each series' labels looked last, by ref; see `tsengine.kernels.knownseries`.

Entries may vanish at any time. Refs go up for ever, so memory of stretches of refs in which no
series is active any more is given back.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tsengine.storage import scratch
from tsengine.storage.recent_refs import RecentRefs
from tsengine.storage.scratch import Memory

_STRETCH = max(1024, scratch.PAGE_BYTES // 4)
"""Refs whose entries come and go together: whole pages of keys and of sizes."""
_STRETCH_BITS = _STRETCH.bit_length() - 1
_OWN_PAGES_MIN = 64 * _STRETCH


class Trail:
    """Half a fingerprint and a size for each ref: ``keys: u64[R]``, ``sizes: u32[R]``, 0 unknown.

    Parameters
    ----------
    n_max
        Refs from there on have no entries.

    """

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._memory: tuple[Memory, ...] = ()
        self.keys = np.empty(0, np.uint64)
        self.sizes = np.empty(0, np.uint32)

    def grow(self, n: int) -> None:
        """Have entries for refs below n, within the bound."""
        n_before = len(self.sizes)
        n = min(n, self._n_max)
        if n <= n_before:
            return
        n = min(max(n, 2 * n_before), self._n_max)
        keys, sizes = self.keys, self.sizes
        if n < _OWN_PAGES_MIN or not scratch.IS_POSSIBLE:
            self.keys, self.sizes = np.zeros(n, np.uint64), np.zeros(n, np.uint32)
        else:
            self._memory = Memory(8 * n), Memory(4 * n)
            self.keys = scratch.bytes_of(self._memory[0])[: 8 * n].view(np.uint64)
            self.sizes = scratch.bytes_of(self._memory[1])[: 4 * n].view(np.uint32)
        for start in (_STRETCH * np.flatnonzero(_stretches_in_use(sizes))).tolist():
            end = min(start + _STRETCH, n_before)
            self.keys[start:end], self.sizes[start:end] = keys[start:end], sizes[start:end]
        self._note_free()

    def forget_idle(self, recent: RecentRefs) -> None:
        """Give the memory of stretches back in which no series is active."""
        if not self._memory:
            return
        in_use = _stretches_in_use(self.sizes)
        n = min(recent.below >> _STRETCH_BITS, len(in_use))
        is_idle = np.zeros(len(in_use), np.bool_)
        is_idle[:n] = in_use[:n]
        stretches = recent.refs >> _STRETCH_BITS
        is_idle[stretches[stretches < n]] = False
        for number in np.flatnonzero(is_idle).tolist():
            for memory, size in zip(self._memory, (8 * _STRETCH, 4 * _STRETCH), strict=True):
                memory.forget(number * size, size)
        if is_idle.any():
            self._note_free()

    def _note_free(self) -> None:
        if self._memory:
            n_used = int(np.count_nonzero(_stretches_in_use(self.sizes)))
            for memory, size in zip(self._memory, (8 * _STRETCH, 4 * _STRETCH), strict=True):
                memory.n_given_back = max(0, len(memory) - n_used * size)


def _stretches_in_use(sizes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Whether a stretch has any entry: bool[.]."""
    if not len(sizes):
        return np.zeros(0, np.bool_)
    n_whole = len(sizes) >> _STRETCH_BITS
    whole = sizes[: n_whole << _STRETCH_BITS].reshape(n_whole, _STRETCH).any(axis=1)
    return np.append(whole, sizes[n_whole << _STRETCH_BITS :].any())
