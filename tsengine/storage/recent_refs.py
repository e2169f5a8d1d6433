"""Which series had samples in the last hours, as flushes of heads tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MINUTE_MS = 60_000
_RECENT_MINUTES = 120
_SPAN_PER_REF_MAX = 64
"""With refs that are spread further a mark for each number would be too many."""

U32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class RecentRefs:
    """Of the refs below ``below`` only ``refs`` (u32[A], ascending) had samples of late."""

    refs: U32Array
    below: int

    def is_idle(self, refs: U32Array) -> npt.NDArray[np.bool_]:
        """Which of some refs had no samples of late: bool[N]; False for those that are newer."""
        idle: npt.NDArray[np.bool_] = refs < self.below
        if not len(self.refs):
            return idle
        low = int(self.refs[0])
        span = int(self.refs[-1]) - low + 1
        if span <= _SPAN_PER_REF_MAX * (len(self.refs) + len(refs)):
            marks = np.zeros(span + 1, np.bool_)
            marks[self.refs - np.uint32(low)] = True
            # What lies below wraps around to above.
            places = np.minimum(refs - np.uint32(low), np.uint32(span))
            idle &= ~marks[places]
            return idle
        places = np.searchsorted(self.refs, refs)
        places[places == len(self.refs)] = 0
        idle &= self.refs[places] != refs
        return idle


class RecentSeries:
    """Collects refs and when they were seen. One thread at a time."""

    def __init__(self) -> None:
        self._refs = np.empty(0, np.uint32)
        self._minutes = np.empty(0, np.int32)
        self._below = 0

    def note(self, refs: U32Array, below: int, now_ms: int) -> None:
        """Series ``refs`` (ascending) had samples up to now; all of them lie below ``below``."""
        minute = np.int32(now_ms // _MINUTE_MS)
        self._below = max(self._below, below)
        is_known = np.zeros(len(refs), np.bool_)
        if len(self._refs):
            places = np.searchsorted(self._refs, refs)
            places[places == len(self._refs)] = 0
            is_known = self._refs[places] == refs
            self._minutes[places[is_known]] = minute
        fresh = refs[~is_known]
        if len(fresh):
            every = np.concatenate((self._refs, fresh))
            order = np.argsort(every, kind="stable")
            minutes = np.concatenate((self._minutes, np.full(len(fresh), minute)))
            self._refs, self._minutes = every[order], minutes[order]

    def recent(self, now_ms: int) -> RecentRefs:
        """What was seen in the last two hours; the rest is forgotten."""
        kept = self._minutes >= now_ms // _MINUTE_MS - _RECENT_MINUTES
        if not kept.all():
            self._refs, self._minutes = self._refs[kept], self._minutes[kept]
        return RecentRefs(self._refs, self._below)

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return self._refs.nbytes + self._minutes.nbytes
