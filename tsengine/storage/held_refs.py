"""Series refs that users of the database hold, so that their series must stay in the catalog."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt


class HeldRefs:
    """Refs with their holders. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, npt.NDArray[np.uint32]] = {}
        self._for_ever: list[npt.NDArray[np.uint32]] = []
        self._next_token = 0

    def hold(self, refs: npt.NDArray[np.uint32]) -> int:
        """Keep refs until the token that is returned is released."""
        with self._lock:
            self._next_token += 1
            self._held[self._next_token] = refs
            return self._next_token

    def release(self, token: int) -> None:
        """Keep what `hold` kept no longer."""
        with self._lock:
            del self._held[token]

    def hold_for_ever(self, refs: npt.NDArray[np.uint32]) -> None:
        """Keep refs as long as the database is open; repeated ones take no room."""
        with self._lock:
            held = self._for_ever
            held.append(np.unique(refs))
            # Sizes at least halve along the list: a ref is sorted a few times, however it comes in.
            while len(held) > 1 and len(held[-2]) <= 2 * len(held[-1]):
                held[-2:] = [np.unique(np.concatenate(held[-2:]))]

    def all(self) -> npt.NDArray[np.uint32]:
        """What is held, each ref at least once: u32[N]."""
        with self._lock:
            return np.concatenate([_NONE, *self._for_ever, *self._held.values()])


_NONE = np.empty(0, np.uint32)
