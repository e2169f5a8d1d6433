"""Background work of a database put together: the flusher, the worker and its list of chores.

Two threads: a flush must never wait for a long merge. Callers of `flush`, `compact_all` and the
like do the work in their own thread, under the same locks.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from tsengine.errors import StorageError
from tsengine.storage.catalog_shrink import CatalogShrink
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.chores import Chore
from tsengine.storage.cold_moves import ColdMoves
from tsengine.storage.compaction_chores import (
    LIVE_PARTS_MAX,
    Compaction,
    FullMerge,
    UrgentCompaction,
)
from tsengine.storage.deleting import Erasing
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.flusher import Flusher
from tsengine.storage.memory_saving import MemorySaving
from tsengine.storage.retention_chores import Expiry, RetentionRewriting
from tsengine.storage.tiering import TierBuilding, TierMerging, TierPlanner
from tsengine.storage.worker import Worker

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_MERGING = frozenset({UrgentCompaction.name, Compaction.name, FullMerge.name})
_SLOW_APPEND_S_MAX = 1.0
_WAITING = (
    "merges, tiers and the erasing of deleted samples wait until they are restored, or put aside "
    "by `tsengine check --quarantine`"
)
"""Else a part that comes back would overlap merges that jumped over it, and miss its tombstones."""
_LOG = logging.getLogger(__name__)


def chores_of(
    database: StorageDatabase, urgent: UrgentCompaction, planner: TierPlanner
) -> list[Chore]:
    """All chores, what goes first first."""
    return [
        Expiry(database),
        urgent,
        Compaction(),
        Erasing(database),
        TierBuilding(planner),
        TierMerging(planner),
        RetentionRewriting(database),
        CatalogShrink(database),
        ColdMoves(database),
    ]


class Maintenance:
    """Background work of one writable database."""

    def __init__(
        self, database: StorageDatabase, checkpointer: Checkpointer, fs: FileSystem
    ) -> None:
        self._database = database
        self._urgent = UrgentCompaction()
        self._planner = TierPlanner(database)
        chores = chores_of(database, self._urgent, self._planner)
        if database.options.background == "merges":
            chores = [chore for chore in chores if chore.name in _MERGING]
        if database.recovery.has_lost_parts:
            _LOG.error("there are damaged parts: %s", _WAITING)
            chores = [chore for chore in chores if chore.name == Expiry.name]
        self._worker = Worker(database, checkpointer, fs, chores)
        self._saving = MemorySaving(database)
        self._flusher = Flusher(database, checkpointer, self._worker.wake, self._saving)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        self._flusher.start()
        self._worker.start()

    def stop(self) -> None:
        """Stop the threads; returns when no flush and no job runs in any thread."""
        self._stopping.set()
        self._flusher.stop()
        self._worker.stop()

    def request_flush(self) -> None:
        """Ask the flusher to run soon."""
        self._flusher.request()

    def retry_flush(self) -> None:
        """Try again now what failed before. See `Flusher.retry`."""
        self._flusher.retry()

    def flush(self, *, force: bool = False) -> None:
        """Flush what the head holds now; returns when it is committed. See `Flusher.flush`."""
        self._flusher.flush(force=force)

    def save_memory(self) -> None:
        """Let what is idle leave memory now, as the thread does every now and then."""
        self._saving.run()

    def compact_all(self) -> None:
        """Make one part of every day; returns when it is done."""
        seq_max = max((part.entry.seq_max for part in self._database.state.parts), default=-1)
        self.run(FullMerge(seq_max))

    def build_tiers(self) -> None:
        """Build the windows of all days that have ended; returns when it is done."""
        self.flush()
        self.run(TierBuilding(self._planner, eager=True))
        self.run(TierMerging(self._planner))

    def run(self, chore: Chore) -> None:
        """Run all jobs of a chore in this thread. See `Worker.run_all`.

        Raises StorageError while damaged parts are left out.
        """
        if self._database.recovery.has_lost_parts:
            raise StorageError(f"there are damaged parts: {_WAITING}")
        self._worker.run_all(chore)

    def pause(self) -> None:
        """Do nothing in the background but flushes; returns when no job runs there."""
        self._worker.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._worker.resume()

    def hold_append_back(self, waited_s: float = 0.0) -> None:
        """Sleep a little while there are far too many parts for merges to keep up.

        What an append has waited already, for others that were held back, counts.
        """
        n_above = self._urgent.n_excess - LIVE_PARTS_MAX
        if n_above >= 0:
            pause_s = min(_SLOW_APPEND_S_MAX, (n_above + 1) / LIVE_PARTS_MAX) - waited_s
            if pause_s > 0:
                self._stopping.wait(pause_s)

    def counters(self) -> dict[str, int]:
        """Numbers for stats; those of chores end with ``:`` and the name of the chore."""
        numbers = self._flusher.counters()
        numbers["spilled_bytes"] = self._saving.n_spilled_bytes
        statuses = self._worker.statuses
        numbers["merges"] = sum(statuses[name].n_done for name in _MERGING & statuses.keys())
        numbers["merge_failures"] = sum(
            statuses[name].n_failures for name in _MERGING & statuses.keys()
        )
        numbers["background_paused"] = int(self._worker.is_paused)
        for name, status in list(statuses.items()):
            numbers[f"background_jobs:{name}"] = status.n_jobs
            numbers[f"background_bytes:{name}"] = status.n_bytes
            numbers[f"background_done:{name}"] = status.n_done
            numbers[f"background_failures:{name}"] = status.n_failures
            numbers[f"background_failing:{name}"] = status.n_failing
            numbers[f"background_blocked:{name}"] = status.n_blocked
        return numbers
