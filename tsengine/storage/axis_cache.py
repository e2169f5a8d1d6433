"""Times of axes that reads have decoded, kept for the next ones: series of a target share them.

An entry is the times of all axes of a part, one behind the other, of which those that were asked
for are decoded. The parts that were read last stay, up to a number of bytes. Any thread: two that
miss the same axis write the same times to the same place.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tsengine.storage.part_index import PartIndex
from tsengine.storage.pieces import I64Array, offsets_of

_SHARE_OF_ONE = 2
"""A part may take this part of the room; of larger ones only what a read needs is decoded."""

Decode = Callable[[I64Array, I64Array, I64Array], None]
"""``(axes, t_ms, positions)``: write the times of some axes, ascending, to their places."""


class AxisOwner(Protocol):
    """Who has axes; forgotten when nothing else knows it."""

    @property
    def index(self) -> PartIndex:
        """Says how long they are."""
        ...


class _Times:
    """``t_ms: i64[M]`` of all axes; of those that are ``known`` they are decoded."""

    __slots__ = ("known", "offsets", "t_ms", "view")

    def __init__(self, offsets: I64Array) -> None:
        self.offsets = offsets
        self.t_ms = np.empty(offsets[-1], np.int64)
        self.known = np.zeros(len(offsets) - 1, np.bool_)
        self.view = self.t_ms[:]
        self.view.flags.writeable = False


class AxisCache:
    """Decoded axes of one database's parts.

    Parameters
    ----------
    size_max
        Bytes that they may take now.

    """

    def __init__(self, size_max: Callable[[], int]) -> None:
        self._size_max = size_max
        self._lock = threading.Lock()
        self._kept: weakref.WeakKeyDictionary[Any, _Times] = weakref.WeakKeyDictionary()

    @property
    def n_bytes(self) -> int:
        """Memory of the times."""
        with self._lock:
            return sum(times.t_ms.nbytes for times in self._kept.values())

    def times(
        self, owner: AxisOwner, axis: npt.NDArray[np.uint32], decode: Decode
    ) -> tuple[I64Array, I64Array]:
        """``(position of each axis's first row, t_ms: i64[M])``; the times are not to be written.

        Raises what ``decode`` raises; nothing is kept then.
        """
        kept = self._entry(owner)
        if kept is None:
            return decode_used(owner.index, axis, decode)
        missing = axis[~kept.known[axis]]
        if len(missing):
            wanted = number_used(missing, len(kept.known))[0]
            decode(wanted, kept.t_ms, kept.offsets[wanted])
            kept.known[wanted] = True
        return kept.offsets[axis], kept.view

    def known(self, owner: AxisOwner) -> tuple[npt.NDArray[np.bool_], I64Array, I64Array] | None:
        """Which axes are decoded, where each begins, and the times; none are to be written.

        None where the owner's are not kept.
        """
        kept = self._entry(owner)
        # A copy: an axis that another thread marks from now on may not be all there for this one.
        return None if kept is None else (kept.known.copy(), kept.offsets, kept.view)

    def _entry(self, owner: AxisOwner) -> _Times | None:
        with self._lock:
            kept = self._kept.pop(owner, None)
            if kept is not None:
                self._kept[owner] = kept  # The last in the order is the last one used.
                return kept
            room = self._size_max()
            n_rows = int(owner.index.axis_rows.sum(dtype=np.int64))
            if 8 * n_rows > room // _SHARE_OF_ONE:
                return None
            left = room - 8 * n_rows
            held = sum(times.t_ms.nbytes for times in self._kept.values())
            for old in list(self._kept):
                if held <= left:
                    break
                dropped = self._kept.pop(old, None)
                held -= 0 if dropped is None else dropped.t_ms.nbytes
            offsets = offsets_of(owner.index.axis_rows.astype(np.int64))
            kept = self._kept[owner] = _Times(offsets)
            return kept


def decode_used(
    index: PartIndex, axis: npt.NDArray[np.uint32], decode: Decode
) -> tuple[I64Array, I64Array]:
    """As `AxisCache.times`, keeping nothing: the times are the caller's."""
    used, where = number_used(axis, len(index.axis_rows))
    offsets = offsets_of(index.axis_rows[used].astype(np.int64))
    t_ms = np.empty(offsets[-1], np.int64)
    decode(used, t_ms, offsets[:-1])
    return offsets[where], t_ms


def number_used(ids: npt.NDArray[np.uint32], n_ids: int) -> tuple[I64Array, I64Array]:
    """``(different ids ascending, position of each id among them)``, as np.unique without sort."""
    if len(ids) * 64 < n_ids:
        few, where = np.unique(ids, return_inverse=True)
        return few.astype(np.int64), where.astype(np.int64)
    is_used = np.zeros(n_ids, np.bool_)
    is_used[ids] = True
    used = np.flatnonzero(is_used)
    return used, (np.cumsum(is_used) - 1)[ids]
