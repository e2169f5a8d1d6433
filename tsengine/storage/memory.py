"""The memory budget: what holds how many bytes, and what that leaves to whom.

One budget covers recent samples, series, open parts, caches and queries. Its quarters:

- recent samples may take one: heads are flushed at a third of it, since two more may wait for their
  flush, and then appends wait (`head_samples_max`);
- queries always have one, and whatever the others leave of theirs (`left_for_queries`);
- series, parts, metadata, exemplars and caches may take the rest, a half. Above it new series are
  refused (`series_max`), while samples of known ones are taken.

Bytes are those of what is there, counted; measured again at most ten times a second.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tsengine.model.machine import machine_memory
from tsengine.storage.array_bytes import array_bytes

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

KINDS = ("head", "series", "senders", "parts", "metadata", "exemplars", "log")
"""What `StorageMemory.by_kind` tells apart; queries are counted where they run."""
ROW_BYTES = 20
"""A sample in the head: ref, time, value."""

_SHARES = 4
_HEADS = 3
_HEAD_SAMPLES_MIN = 64 * 1024
_FLUSH_SAMPLES_MIN = 256 * 1024
_AXES_SHARE = 64
_AXES_BYTES_MAX = 32 << 20
_MEASURE_S = 0.1
_SERIES_BYTES_MIN = 512
"""What a new series is expected to take at least; its tables grow by doubling."""


class StorageMemory:
    """The budget of one database. Any thread may ask.

    Parameters
    ----------
    database
        Whose bytes are counted.

    """

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._machine = machine_memory()
        self._lock = threading.Lock()
        self._measured_s = -_MEASURE_S
        self._found: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._part_bytes: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.queries: Callable[[], int] = lambda: 0
        """Bytes that queries hold; set by whoever runs them."""

    @property
    def budget(self) -> int:
        """Bytes in all."""
        return self._database.options.memory or self._machine // 2

    def by_kind(self) -> dict[str, int]:
        """Bytes by what holds them."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._measured_s >= _MEASURE_S:
                self._found = self._measure()
                self._measured_s = time.monotonic()
            return self._found

    def left_for_queries(self, enough: int) -> int:
        """Bytes that queries may hold together, or fewer if these are ``enough``."""
        share = self.budget // _SHARES
        if enough <= share:
            # It is theirs, so nobody need measure what the others hold.
            return share
        return max(self.budget - sum(self.by_kind().values()), share)

    def head_samples_max(self) -> int:
        """Samples at which a head is flushed."""
        share = self.budget // _SHARES // _HEADS // ROW_BYTES
        return min(self._database.options.head_samples_max, max(share, _HEAD_SAMPLES_MIN))

    def wants_flush(self, n_samples: int) -> bool:
        """Whether a head of so many samples should be flushed for the memory that it holds."""
        if n_samples >= self.head_samples_max():
            return True
        if n_samples < _FLUSH_SAMPLES_MIN:
            return False
        used = sum(self.by_kind().values()) + self.queries()
        return used > self.budget // 8 * 7

    def series_limit(self) -> int:
        """Bytes above which no new series are taken."""
        return self.budget // _SHARES * 2

    def series_bytes(self) -> int:
        """Bytes that count against `series_limit`."""
        return sum(n for kind, n in self.by_kind().items() if kind != "head")

    def series_max(self, n_series: int) -> int:
        """How many series there may be, while there are ``n_series``."""
        left = self.series_limit() - self.series_bytes()
        if left <= 0:
            return n_series
        each = _SERIES_BYTES_MIN
        if n_series:
            each = max(each, 2 * self.by_kind()["series"] // max(n_series, 1000))
        return n_series + left // each

    def axes_max(self) -> int:
        """Bytes that decoded axes of parts may take; they count as parts."""
        return min(self.budget // _AXES_SHARE, _AXES_BYTES_MAX)

    def forget(self, part: Any) -> None:
        """Count a part anew: other arrays of it are in memory."""
        with self._lock:
            self._part_bytes.pop(part, None)

    def _measure(self) -> dict[str, int]:
        database = self._database
        state = database.state
        heads = [state.head, *(frozen.head for frozen in state.frozen)]
        return {
            "head": sum(head.n_bytes for head in heads),
            "series": database.catalog.series_bytes(),
            "senders": database.catalog.sender_bytes(),
            "parts": sum(self._of_part(part) for part in (*state.parts, *state.tiers))
            + database.axis_cache.n_bytes,
            "metadata": database.metadata.n_bytes + database.catalog.metadata_seen_bytes(),
            "exemplars": database.exemplars.n_bytes,
            "log": database.log_queue_bytes,
        }

    def _of_part(self, part: Any) -> int:
        """A part's index, counted once; statistics that are loaded later are small beside it."""
        known = self._part_bytes.get(part)
        if known is None:
            known = self._part_bytes[part] = array_bytes(part)
        return known
