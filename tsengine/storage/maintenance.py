"""When flush, compaction and retention run, and in which threads.

Two threads: the flusher must never wait for a long merge. Callers of `flush` and `compact_all` do
the work in their own thread, under the same locks.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from tsengine.errors import Closed, CorruptionError, TsengineError
from tsengine.storage import filenames
from tsengine.storage.checkpoint import Checkpointer, check_space, targets_of
from tsengine.storage.compaction import merge_parts
from tsengine.storage.compaction_plan import Merge, plan_compaction, plan_full_merge
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.manifest import PartEntry
from tsengine.storage.part_reader import PartReader
from tsengine.storage.retention import expired_parts

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_LOG = logging.getLogger(__name__)
_TICK_S = 1.0
_RETENTION_EVERY_S = 60.0
_GRACE_S = 60.0
"""How long replaced files stay for readers of other processes."""
_RETRY_S = 10.0
_MERGE_SPARE_BYTES = 256 * 1024 * 1024


class Maintenance:
    """Background work of one writable database."""

    def __init__(
        self, database: StorageDatabase, checkpointer: Checkpointer, fs: FileSystem
    ) -> None:
        self._database = database
        self._checkpointer = checkpointer
        self._fs = fs
        self._flush_lock = threading.Lock()
        self._merge_lock = threading.Lock()
        self._stopping = threading.Event()
        self._flush_wanted = threading.Event()
        self._merge_wanted = threading.Event()
        self._removals: list[tuple[float, str]] = []
        self._removals_lock = threading.Lock()
        self._damaged_merges: set[tuple[PartEntry, ...]] = set()
        self._last_flush = time.monotonic()
        self._n = {"flushes": 0, "flush_failures": 0, "merges": 0, "merge_failures": 0}
        self._threads = [
            threading.Thread(target=self._flush_loop, name="tsengine-flush", daemon=True),
            threading.Thread(target=self._merge_loop, name="tsengine-merge", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._merge_wanted.set()

    def stop(self) -> None:
        """Stop the threads; a merge under way is given up, its files are orphans.

        Returns when no flush or merge runs in any thread: one that committed after the directory's
        lock was released would undo what the next owner committed.
        """
        self._stopping.set()
        self._flush_wanted.set()
        self._merge_wanted.set()
        for thread in self._threads:
            thread.join()
        with self._flush_lock, self._merge_lock:
            self._remove_replaced(everything=True)

    def counters(self) -> dict[str, int]:
        """Numbers for stats: what was done and what failed."""
        return dict(self._n)

    def request_flush(self) -> None:
        """Ask the flusher to run soon."""
        self._flush_wanted.set()

    def flush(self, *, force: bool = False) -> None:
        """Flush what the head holds now; returns when it is committed.

        With `force` also if there is nothing new: the log is cut and trimmed in any case.
        """
        with self._flush_lock:
            self._check_running()
            database = self._database
            for waiting in database.state.frozen:
                self._checkpointer.flush(waiting)
            if force or self._has_unsaved():
                database.freeze()
                for waiting in database.state.frozen:
                    self._checkpointer.flush(waiting)
                self._n["flushes"] += 1
            self._last_flush = time.monotonic()
        self._merge_wanted.set()

    def compact_all(self) -> None:
        """Merge all parts; returns when it is done."""
        with self._merge_lock:
            self._check_running()
            for merge in plan_full_merge(self._live_parts()):
                self._merge(merge)

    def _check_running(self) -> None:
        if self._stopping.is_set():
            raise Closed("the database is closed")

    def _has_unsaved(self) -> bool:
        database = self._database
        return (
            database.state.head.n_samples > 0
            or database.metadata.is_dirty
            or database.exemplars.has_unsaved
            or database.durable_ref > self._checkpointer.saved_ref
        )

    # --- flusher --------------------------------------------------------------------------------

    def _flush_loop(self) -> None:
        while not self._stopping.is_set():
            self._flush_wanted.wait(_TICK_S)
            if self._stopping.is_set():
                return
            due = self._flush_wanted.is_set() or self._is_flush_due()
            self._flush_wanted.clear()
            if not due:
                continue
            try:
                self.flush()
            except TsengineError as error:
                if self._stopping.is_set():
                    return
                self._n["flush_failures"] += 1
                _LOG.error("flush failed, it is tried again: %s", error)
                self._stopping.wait(_RETRY_S)
                self._flush_wanted.set()
            except Exception:
                self._n["flush_failures"] += 1
                _LOG.exception("flush failed by a fault of ours; it is tried again")
                self._stopping.wait(_RETRY_S)
                self._flush_wanted.set()

    def _is_flush_due(self) -> bool:
        database = self._database
        old = time.monotonic() - self._last_flush > database.options.head_age_s_max
        large = database.log_size_bytes > database.options.wal_size_bytes_max
        return (old or large) and self._has_unsaved()

    # --- merger ---------------------------------------------------------------------------------

    def _merge_loop(self) -> None:
        next_retention = 0.0
        while not self._stopping.is_set():
            self._merge_wanted.wait(_TICK_S)
            if self._stopping.is_set():
                return
            try:
                self._remove_replaced()
                if time.monotonic() >= next_retention:
                    next_retention = time.monotonic() + _RETENTION_EVERY_S
                    self._expire()
                if self._merge_wanted.is_set():
                    self._merge_wanted.clear()
                    self._compact_due()
            except TsengineError as error:
                if self._stopping.is_set():
                    return
                self._n["merge_failures"] += 1
                _LOG.error("compaction failed, it is tried again after the next flush: %s", error)
            except Exception:
                self._n["merge_failures"] += 1
                _LOG.exception("compaction failed by a fault of ours")

    def _live_parts(self) -> list[PartEntry]:
        """Parts that merges and retention may replace; hold the merge lock.

        Those of the state, not of the manifest: between a flush's commit and its publication the
        manifest names a part that no merge can read yet, and would be dropped as if it were merged.
        """
        return [part.entry for part in self._database.state.parts]

    def _compact_due(self) -> None:
        while not self._stopping.is_set():
            with self._merge_lock:
                merges = [
                    merge
                    for merge in plan_compaction(self._live_parts())
                    if merge.inputs not in self._damaged_merges
                ]
                if not merges:
                    return
                try:
                    self._merge(merges[0])
                except CorruptionError as error:
                    # One damaged part must not hold up the merges of all others.
                    self._damaged_merges.add(merges[0].inputs)
                    self._n["merge_failures"] += 1
                    _LOG.error("a merge is given up until the next start: %s", error)

    def _merge(self, merge: Merge) -> None:
        database = self._database
        names = {entry.name for entry in merge.inputs}
        readers = [part for part in database.state.parts if part.entry.name in names]
        needed = sum(entry.size_bytes for entry in merge.inputs) * 21 // 20 + _MERGE_SPARE_BYTES
        try:
            check_space(self._fs, database.directory, needed)
            catalog = database.state.catalog
            added = merge_parts(
                self._fs,
                readers,
                os.path.join(database.directory, filenames.PARTS_DIR),
                lambda: filenames.part_name(self._checkpointer.new_file_number()),
                targets=lambda refs: targets_of(catalog, refs),
                cut_before_ms=database.retention_floor(),
                level=merge.level,
                cancel=self._stopping,
            )
        except OSError as error:
            raise storage_error(error, "merging parts") from error
        paths = [filenames.part_dir(database.directory, entry.name) for entry in added]
        try:
            opened = tuple(
                PartReader.open(self._fs, path, entry)
                for path, entry in zip(paths, added, strict=True)
            )
        except BaseException:
            self._checkpointer.discard(paths)
            raise
        self._replace(frozenset(names), opened)
        self._n["merges"] += 1

    def _expire(self) -> None:
        floor = self._database.retention_floor()
        if floor is None:
            return
        with self._merge_lock:
            gone = expired_parts(self._live_parts(), floor)
            if gone:
                self._replace(frozenset(entry.name for entry in gone), ())

    def _replace(self, removed: frozenset[str], added: tuple[PartReader, ...]) -> None:
        entries = tuple(part.entry for part in added)
        self._checkpointer.commit(
            lambda current: current.with_changes(
                parts=tuple(e for e in current.parts if e.name not in removed) + entries
            ),
            [filenames.part_dir(self._database.directory, entry.name) for entry in entries],
        )
        self._database.change_state(lambda state: state.with_merged(removed, added))
        at = time.monotonic() + _GRACE_S
        paths = [filenames.part_dir(self._database.directory, name) for name in removed]
        with self._removals_lock:
            self._removals += [(at, path) for path in paths]

    def _remove_replaced(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        with self._removals_lock:
            due = [path for at, path in self._removals if everything or at <= now]
            self._removals = [(at, path) for at, path in self._removals if path not in due]
        for path in due:
            try:
                remove_tree(self._fs, path)
            except OSError as error:
                _LOG.warning("could not remove %s: %s", path, error)
