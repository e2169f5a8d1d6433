"""What need not be in memory leaves it, some seconds after flushes and merges.

Older parts of the catalog's arrays, postings, and indexes of parts go to scratch files (`scratch`);
what is known of bytes of senders is forgotten for series without samples in the last two hours.
Answers are the same, bit by bit: docs/decisions/0023-what-is-idle-needs-no-memory.md.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from tsengine.storage.head import HeadView
from tsengine.storage.part_reader import PartReader
from tsengine.storage.recent_refs import RecentSeries
from tsengine.storage.scratch import Scratch
from tsengine.storage.tier_reader import TierReader

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_LOG = logging.getLogger(__name__)
_EVERY_S = 20.0
_RETRY_S = 300.0
_SHIFT_S = 1.0
"""A flush, or the end, waits so long at most, and for the piece that is being written."""
_FORGET_EVERY_S = 300.0
"""Dashboards that look at the same all the time need not fetch it each time."""
_PART_AGE_S = 15.0
"""Many a part is merged before that."""


class MemorySaving:
    """Saves memory of one writable database; `run_if_due` by one thread, `note` by any."""

    def __init__(self, database: StorageDatabase) -> None:
        self._database = database
        self._scratch = Scratch(database.directory)
        self._lock = threading.Lock()
        self._recent = RecentSeries()
        self._has_news = False
        self._opened_s: weakref.WeakKeyDictionary[PartReader | TierReader, float] = (
            weakref.WeakKeyDictionary()
        )
        self._due_s = 0.0
        self._forgotten_s = 0.0

    @property
    def n_spilled_bytes(self) -> int:
        """Bytes of arrays that lie in scratch files."""
        return self._scratch.n_bytes

    def note(self, flushed: HeadView, next_ref: int) -> None:
        """A head is durable; series below ``next_ref`` without samples in it had none meanwhile."""
        with self._lock:
            self._recent.note(flushed.refs(), next_ref, self._database.now_ms())
            self._has_news = True

    def run_if_due(self, is_hurried: Callable[[], bool]) -> None:
        """Do what there is to do, every now and then. What fails is tried again later.

        Ends after a second, to go on at the next call, when the thread is wanted elsewhere.
        """
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _EVERY_S

        def is_over() -> bool:
            return is_hurried() and time.monotonic() - now_s >= _SHIFT_S

        try:
            if not self._save(is_over):
                self._due_s = now_s
                return
            if now_s >= self._forgotten_s + _FORGET_EVERY_S:
                self._forget_touched()
        except OSError as error:
            _LOG.warning("memory of idle series is kept: %s", error)
            self._due_s = now_s + _RETRY_S
        except Exception:  # A task border: flushes must go on. No memory, say.
            _LOG.exception("memory of idle series is kept")
            self._due_s = now_s + _RETRY_S

    def run(self) -> None:
        """Do it now; raises OSError."""
        self._save(lambda: False)
        self._forget_touched()

    def _save(self, is_over: Callable[[], bool]) -> bool:
        """Whether all is done."""
        self._forget_senders()
        return self._spill_catalog(is_over) and self._spill_parts(is_over)

    def _forget_touched(self) -> None:
        self._scratch.forget_touched()
        self._forgotten_s = time.monotonic()

    def _forget_senders(self) -> None:
        with self._lock:
            if not self._has_news:
                return
            self._has_news = False
            recent = self._recent.recent(self._database.now_ms())
        with self._database.lane:
            self._database.catalog.note_recent(recent)

    def _spill_catalog(self, is_over: Callable[[], bool]) -> bool:
        database, scratch = self._database, self._scratch
        while True:
            with database.lane:
                parts = database.catalog.parts_to_spill()
            if not parts or not scratch.has_room(sum(len(part.content) for part in parts)):
                break
            for part in parts:
                part.column.write(scratch, part)
            with database.lane:
                for part in parts:
                    part.column.place(part)
            if is_over():
                return False
        return database.catalog.spill_postings(scratch, is_over)

    def _spill_parts(self, is_over: Callable[[], bool]) -> bool:
        """Spill indexes of parts that have been there for a while."""
        state, now_s = self._database.state, time.monotonic()
        parts: list[PartReader | TierReader] = [*state.parts, *state.tiers]
        for part in parts:
            if is_over():
                return False
            if now_s - self._opened_s.setdefault(part, now_s) >= _PART_AGE_S:
                part.spill(self._scratch)
                self._database.memory.forget(part)
        return True
