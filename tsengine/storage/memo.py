"""The senders' memo: fingerprints of label bytes as they came over the wire, to series refs.

Separate from identity: an entry may vanish at any time, and several may lead to one series (other
label orders, other protocol versions). Senders repeat their series, so nearly all samples are
resolved here without a look at a single label. Writer lane only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels import catalog as kernels
from tsengine.kernels.knownseries import scan_known_v1
from tsengine.storage.recent_refs import RecentRefs
from tsengine.storage.trail import Trail

_SLOT_BYTES = 20
_N_SLOTS_MIN = 1024
_SLOTS_PER_ENTRY = 3
"""Of a table made anew; it grows at two."""
_IDLE_SHARE = 4
"""Idle entries are dropped when they are at least such a part of all."""
_TRAIL_PER_SLOT = 8


@dataclass(frozen=True, slots=True, eq=False)
class MemoEntries:
    """Fingerprints u64[2n] and their refs u32[n]."""

    hashes: npt.NDArray[np.uint64]
    refs: npt.NDArray[np.uint32]

    def take(self, kept: npt.NDArray[np.bool_]) -> MemoEntries:
        """Some of the entries: bool[n]."""
        return MemoEntries(self.hashes.reshape(-1, 2)[kept].ravel(), self.refs[kept])


class SenderMemo:
    """An open-addressing table that grows to a bound, then displaces entries.

    Before it grows it drops entries of series that are idle, if it was told which are.

    Parameters
    ----------
    size_bytes_max
        Bound of the table's memory.

    """

    def __init__(self, size_bytes_max: int) -> None:
        self._n_slots_max = max(_N_SLOTS_MIN, 1 << (size_bytes_max // _SLOT_BYTES).bit_length() - 1)
        self._n_taken = 0
        self._allocate(_N_SLOTS_MIN)
        self._misses = np.empty(_N_SLOTS_MIN, np.int64)
        self._trail = Trail(_TRAIL_PER_SLOT * self._n_slots_max)
        self._recent: RecentRefs | None = None

    @property
    def n_slots(self) -> int:
        """Entries there is room for at present."""
        return len(self._refs)

    def find(
        self, hashes: npt.NDArray[np.uint64], n: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """Refs of n fingerprints (NONE where missed) and the positions missed, ascending.

        ``hashes: u64[>= 2n]``; returns u32[n], owned by the caller, and i64[M], valid until the
        next call.
        """
        if n > len(self._misses):
            self._misses = np.empty(2 * n, np.int64)
        refs = np.empty(n, np.uint32)
        n_misses = kernels.memo_find(hashes, n, self._keys, self._refs, refs, self._misses)
        return refs, self._misses[:n_misses]

    def scan_known(
        self,
        data: npt.NDArray[np.uint8],
        key: npt.NDArray[np.uint64],
        refs: npt.NDArray[np.uint32],
        t_ms: npt.NDArray[np.int64],
        bits: npt.NDArray[np.uint64],
        *,
        next_ref: int,
    ) -> int:
        """See `tsengine.kernels.knownseries.scan_known_v1`; all refs are below ``next_ref``."""
        trail = self._trail
        trail.grow(next_ref)
        found: int = scan_known_v1(
            data, key, self._keys, self._refs, trail.keys, trail.sizes, refs, t_ms, bits
        )
        return found

    def insert(self, hashes: npt.NDArray[np.uint64], refs: npt.NDArray[np.uint32]) -> None:
        """Enter fingerprints; those with ref NONE are left out. Shapes: u64[2n], u32[n]."""
        n = len(refs)
        if 2 * (self._n_taken + n) > self.n_slots:
            self._drop_idle(n)
        while 2 * (self._n_taken + n) > self.n_slots and self.n_slots < self._n_slots_max:
            self._rebuild(2 * self.n_slots, self._refs)
        self._n_taken += kernels.memo_insert(hashes, refs, n, self._keys, self._refs)

    def note_recent(self, recent: RecentRefs) -> None:
        """Entries of series that are not among these may be forgotten."""
        self._recent = recent
        self._trail.forget_idle(recent)

    def entries(self) -> MemoEntries:
        """A copy of everything that is known."""
        kept = self._refs != 0
        found = MemoEntries(self._keys, self._refs).take(kept)
        return MemoEntries(found.hashes, found.refs - np.uint32(1))

    def _allocate(self, n_slots: int) -> None:
        self._keys = np.zeros(2 * n_slots, np.uint64)
        self._refs = np.zeros(n_slots, np.uint32)

    def _drop_idle(self, n_more: int) -> None:
        """Forget idle series if they are many; with room for some entries more."""
        recent, self._recent = self._recent, None
        if recent is None:
            return
        is_idle = recent.is_idle(self._refs - np.uint32(1))
        n_idle = int(np.count_nonzero(is_idle))
        if _IDLE_SHARE * n_idle < self._n_taken:
            return
        n_wanted = _SLOTS_PER_ENTRY * (self._n_taken - n_idle + n_more)
        n_slots = min(max(_N_SLOTS_MIN, 1 << n_wanted.bit_length()), self.n_slots)
        self._rebuild(n_slots, np.where(is_idle, np.uint32(0), self._refs))

    def _rebuild(self, n_slots: int, refs: npt.NDArray[np.uint32]) -> None:
        """Another table of the present fingerprints, with their slots' refs (0 is left out)."""
        keys = self._keys
        self._allocate(n_slots)
        # Ref 0 becomes NONE, which is left out.
        entered = refs - np.uint32(1)
        self._n_taken = kernels.memo_insert(keys, entered, len(refs), self._keys, self._refs)
