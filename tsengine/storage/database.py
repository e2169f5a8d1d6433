"""Wires log, catalog, heads, parts and manifest into one database. No algorithm lives here.

Appends are in `append_lane`, series in `series_lane`, reads in `database_reads`.

Threads. *Lane*: appends, one at a time under `_lane` (scan, look-ups, inserts, log entry in
order). *Log writer*: one at a time, the log's own thread or one that submitted writes together;
after each fsync it appends to the head and publishes. *Maintenance*: flush and compaction.
*Readers*: any thread; they take one immutable `State`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.clock import Clock, system_clock
from tsengine.options import Options
from tsengine.storage import filenames, manifest, wal_records
from tsengine.storage.append_lane import AppendLane
from tsengine.storage.aside import settle_marks
from tsengine.storage.axis_cache import AxisCache
from tsengine.storage.catalog_shrink import CatalogShrink
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.cold import ColdFileSystem, OpenStore
from tsengine.storage.cold_cache import BlockCache
from tsengine.storage.database_reads import DatabaseReads
from tsengine.storage.deleting import Erasing
from tsengine.storage.disk_watch import DiskFailure, DiskWatch, WatchedFileSystem
from tsengine.storage.filesystem import NO_SPACE, FileSystem, LocalFileSystem
from tsengine.storage.held_refs import HeldRefs
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage.lock import DirectoryLock
from tsengine.storage.maintenance import Maintenance
from tsengine.storage.memory import StorageMemory
from tsengine.storage.recovery import Recovered, recover
from tsengine.storage.retention_policy import RetentionPolicy
from tsengine.storage.retention_rules import SelectorParser
from tsengine.storage.retention_upgrade import marks_of_left
from tsengine.storage.snapshot import make_snapshot
from tsengine.storage.state import AppendItem, DeleteItem, FrozenHead
from tsengine.storage.tombstones import Tombstone, encode_tombstone
from tsengine.storage.wal import Wal

_LOG = logging.getLogger(__name__)
_FLUSH_ON_CLOSE_SAMPLES = 64 * 1024
_FROZEN_MAX = 4
"""Heads that deletes may leave to the flusher."""


class StorageDatabase(AppendLane, DatabaseReads):
    """One open database directory.

    Appends and reads may come from any thread; every method raises Closed after `close` or in a
    forked child.
    """

    def __init__(
        self,
        directory: str,
        options: Options,
        *,
        read_only: bool = False,
        clock: Clock = system_clock,
        fs: FileSystem | None = None,
        parse_selector: SelectorParser | None = None,
        open_store: OpenStore | None = None,
    ) -> None:
        options.validate()
        self.directory = directory
        self.options = options
        self.read_only = read_only
        self._clock = clock
        self.retention = RetentionPolicy(lambda: self.options, clock, parse_selector)
        inner = LocalFileSystem() if fs is None else fs
        self.disk = DiskWatch(
            inner,
            directory,
            ballast_size=options.ballast,
            on_failing=self._on_disk_failing,
            on_recovered=self._on_disk_recovered,
        )
        self._fs = WatchedFileSystem(inner, directory, self.disk)
        self.cold = None
        if open_store is not None:
            cache = BlockCache(filenames.cold_cache_dir(directory), lambda: self.options.cold_cache)
            self._fs = self.cold = ColdFileSystem(self._fs, cache, open_store, self._endpoint_of)
        self._pid = os.getpid()
        self._closed = False
        self._lane = threading.Lock()
        self._log_order = threading.Lock()
        self._groups = {}
        self._state_lock = threading.Lock()
        self._room = threading.Condition()
        self._options_lock = threading.Lock()
        self.held_refs = HeldRefs()
        self._log = None
        self._maintenance = None
        self._lock = None
        # What a step that fails finds made is closed again, the last first.
        with contextlib.ExitStack() as made:
            if not read_only:
                self._lock = DirectoryLock(self._fs, directory)
                made.callback(self._lock.release)
            recovered = recover(self._fs, directory, options, read_only=read_only)
            recovered = self._with_marks(recovered)
            self._take_over(recovered)
            if not read_only:
                self._start(recovered, made)
            made.pop_all()

    def _with_marks(self, recovered: Recovered) -> Recovered:
        """With marks of what a version without any erased; a writer commits them.

        Unless it does not know the rules. While a part is left out, nothing tells.
        """
        state = recovered.state
        if recovered.report.has_lost_parts:
            return recovered
        erased = marks_of_left(state, self.retention.moment())
        current = recovered.manifest
        is_committed = not self.read_only and self.options.background == "all"
        if is_committed:
            settle_marks(self._fs, self.directory, current.erased, erased)
        if not erased:
            return recovered
        if is_committed:
            current = current.with_changes(erased=erased)
            manifest.swap(self._fs, self.directory, current)
        return replace(recovered, manifest=current, state=state.with_erased(erased, state.holes))

    def _take_over(self, recovered: Recovered) -> None:
        self.recovery = recovered.report
        self.catalog = recovered.catalog
        self.metadata = recovered.metadata
        self.exemplars = recovered.exemplars
        self._state = recovered.state
        self._logged_ref = self._durable_ref = recovered.catalog.next_ref
        self._lane_catalog = recovered.state.catalog
        self._n_shed = 0
        self._unlogged = {}
        self.memory = StorageMemory(self)
        self.axis_cache = AxisCache(self.memory.axes_max)

    def _start(self, recovered: Recovered, made: contextlib.ExitStack) -> None:
        """Start log, maintenance and the watch of the disk; ``made`` can stop them."""
        self._log = Wal(
            self._fs,
            self.directory,
            database_id=recovered.manifest.database_id,
            next_segment=recovered.replay.last_segment + 1,
            next_seq=recovered.next_seq,
            fsync=self.options.fsync,
            queue_size_bytes_max=self.options.queue_size_bytes_max,
            on_durable=self._on_durable,
            on_failed=self._on_failed,
            previous=recovered.replay.previous,
        )
        made.callback(self._log.close)
        self._checkpointer = Checkpointer(self, self._fs, recovered.manifest)
        self._maintenance = Maintenance(self, self._checkpointer, self._fs)
        made.callback(self._maintenance.stop)
        self._maintenance.start()
        if self.recovery.is_lossy:
            # New series may get refs that samples of lost series in the damaged log carry;
            # that log must never be replayed again. Its damaged file is kept aside.
            self._maintenance.flush(force=True)
        made.callback(self.disk.stop)
        self.disk.start()

    def _endpoint_of(self, url: str) -> str | None:
        """The endpoint that the options give for an object store."""
        return self.options.cold_endpoint_url if url == self.options.cold_url else None

    def reconfigure(self, changes: Mapping[str, Any]) -> Options:
        """Go on with other options: all of them, or none if one can't be.

        Whoever needs an option reads `options` again each time. Raises OptionsError.
        """
        self._check_open()
        with self._options_lock:
            changed = self.options.reconfigured(changes)
            self.retention.check(changed)
            self.options = changed
            self.exemplars.n_recent_max = self.options.exemplars_kept
            self.metadata.size_max = self.options.metadata_kept
        return self.options

    # --- log writer -----------------------------------------------------------------------------

    def _on_durable(self, entries: list[LogEntry]) -> dict[int, Exception]:
        """Make fsynced entries visible. Log writer thread, in the order of the log.

        Returns why entries are not, by sequence: they are in the log, but nothing of them may be
        acknowledged. Their series count as logged, whatever becomes of their samples: later entries
        rely on it.
        """
        failures: dict[int, Exception] = {}
        items = [entry.item for entry in entries if isinstance(entry.item, AppendItem)]
        if items:
            self._durable_ref = max(self._durable_ref, items[-1].next_ref)
        for entry in entries:
            try:
                self._apply(entry)
            except Exception as error:  # No memory, say. The others' samples don't need this one.
                _LOG.exception("an entry of the log could not be applied")
                failures[entry.seq] = error
        if items and items[-1].catalog is not self._state.catalog:
            with self._state_lock:
                self._state = replace(self._state, catalog=items[-1].catalog)
        self._flush_if_full()
        return failures

    def _apply(self, entry: LogEntry) -> None:
        item = entry.item
        if isinstance(item, DeleteItem):
            self._hide(Tombstone(entry.seq, item.mint, item.maxt, item.refs))
            return
        assert isinstance(item, AppendItem), "the lane makes no other items"
        if len(item.batch):
            self._state.head.append(item.batch, entry.seq)
        if item.exemplars is not None:
            self.exemplars.add(item.exemplars)
        if item.metadata:
            self.metadata.update(item.metadata)

    def _flush_if_full(self) -> None:
        """Ask for a flush. That it can't be asked for now is no failure of what was appended."""
        try:
            if self._maintenance is not None and self._is_head_full():
                self._maintenance.request_flush()
        except Exception:
            _LOG.exception("a flush could not be asked for")

    def _hide(self, tombstone: Tombstone) -> None:
        """What a durable delete hides is invisible from now on."""
        self.exemplars.delete(tombstone)
        with self._state_lock:
            self._state = self._state.with_tombstones([tombstone])

    def _on_failed(self, entries: list[LogEntry]) -> None:
        """Entries will never be durable: their series and metadata are not logged. Log's thread."""
        with self._log_order:
            self._logged_ref = min(self._logged_ref, self._durable_ref)
            for entry in entries:
                if isinstance(entry.item, AppendItem):
                    self._keep_unlogged(entry.item.metadata)

    def _is_head_full(self) -> bool:
        head = self._state.head
        return self.memory.wants_flush(head.load_samples) or (
            self.catalog.next_ref - self._checkpointer.saved_ref >= self.options.head_series_max
        )

    def freeze(self) -> None:
        """Close the active head at a boundary of the log; returns when it is frozen."""
        assert self._log is not None, "maintenance runs on writable databases only"
        self._log.cut(self._on_cut).wait()

    def _on_cut(self, new_segment: int) -> None:
        """The log goes on in `new_segment`. Log writer thread."""
        assert self._log is not None, "cuts come from the log"
        head = self._state.head
        head.freeze()
        tombstones = self._state.tombstones
        frozen = FrozenHead(
            head,
            new_segment,
            self._durable_ref,
            self._log.next_seq,
            self.exemplars.mark(),
            tombstones[-1].seq if tombstones else -1,
        )
        with self._state_lock:
            self._state = self._state.with_frozen(frozen)

    # --- delete ---------------------------------------------------------------------------------

    def delete(self, refs: npt.NDArray[np.uint32], mint: int, maxt: int) -> None:
        """Hide the samples that the series ``refs`` (ascending) have in a closed range.

        Returns after the fsync; samples appended later are visible. Raises Overloaded, Full, Closed
        and ReadOnly.
        """
        self._check_writable()
        self.disk.check()
        assert self._log is not None, "checked by _check_writable"
        if len(refs) == 0 or mint > maxt:
            return
        if len(self._state.frozen) >= _FROZEN_MAX:
            self.flush()
        record = (wal_records.TOMBSTONE, encode_tombstone(mint, maxt, refs))
        # No append may come between the two: the tombstone's sequence parts the frozen head from
        # the next one.
        with self._lane:
            self._check_writable()
            cut = self._log.cut(self._on_cut_by_delete)
            ticket = self._log.append(
                LogEntry((record,), len(record[1]), DeleteItem(refs, mint, maxt))
            )
        cut.wait()
        ticket.wait()
        self.maintenance.request_flush()

    def clean_tombstones(self) -> None:
        """Rewrite the parts that hold deleted samples; returns when it is done."""
        self.flush()
        self.maintenance.run(Erasing(self, at_once=True))

    def _on_cut_by_delete(self, new_segment: int) -> None:
        """As `_on_cut`; a head without samples has nothing that could be hidden."""
        if self._state.head.n_samples:
            self._on_cut(new_segment)

    def _on_disk_failing(self, failure: DiskFailure) -> None:
        """Make room if that is what the disk lacks: a part is smaller than its log.

        Without a ballast there is no room to write it either.
        """
        is_possible = failure.reason == NO_SPACE and self.options.ballast > 0
        if is_possible and self._maintenance is not None:
            self._maintenance.request_flush()

    def _on_disk_recovered(self) -> None:
        if self._maintenance is not None:
            self._maintenance.retry_flush()

    # --- maintenance ----------------------------------------------------------------------------

    def trim_log(self, first_kept_segment: int) -> None:
        """Remove log segments whose content is in parts."""
        assert self._log is not None, "maintenance runs on writable databases only"
        self._log.trim(first_kept_segment)

    def new_sequence(self) -> int:
        """A sequence above all so far, which no entry of the log gets."""
        assert self._log is not None, "maintenance runs on writable databases only"
        return self._log.skip()

    @property
    def durable_ref(self) -> int:
        """Series below it are in the log or in catalog segments."""
        return self._durable_ref

    def flush(self) -> None:
        """Make the head a part; returns when it is committed."""
        self._check_writable()
        assert self._maintenance is not None, "only a read-only database has none"
        self._maintenance.flush()

    def compact(self) -> None:
        """Merge all parts; returns when it is done."""
        self.maintenance.compact_all()

    def build_tiers(self) -> None:
        """Build the tiers of all days that have ended; returns when it is done."""
        self.maintenance.build_tiers()

    def shrink_catalog(self) -> int:
        """Let all series without data leave the catalog; returns how many went."""
        n_before = self.catalog.n_series
        self.maintenance.run(CatalogShrink(self, n_dead_min=1, share_min=0.0, look_every_s=0.0))
        return n_before - self.catalog.n_series

    @property
    def maintenance(self) -> Maintenance:
        """Background work; raises ReadOnly or Closed where there can be none."""
        self._check_writable()
        assert self._maintenance is not None, "only a read-only database has none"
        return self._maintenance

    def snapshot(self, dest: str, *, skip_head: bool = False) -> None:
        """Make the new directory `dest` a copy of this database, of hard links where it can be.

        It holds all that was acknowledged before the call; with `skip_head` only what is in parts.
        """
        self._check_open()
        # A copy of parts alone would bring back what deletes hide that only the log has.
        needs_log = not skip_head or any(t.entry is None for t in self._state.tombstones)
        if not self.read_only and needs_log:
            self.flush()
        with_log = self.read_only and needs_log
        stop = None if self.read_only else self._stopped
        make_snapshot(self._fs, self.directory, dest, with_log=with_log, stop=stop)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        """Nothing is appended, deleted or committed meanwhile; who wants to waits."""
        with self._lane, self._checkpointer.stopped():
            yield

    # --- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop; what was acknowledged is on disk. A large head is flushed first."""
        if self._closed or os.getpid() != self._pid:
            self._closed = True
            return
        if self._maintenance is not None:
            if self._state.head.load_samples >= _FLUSH_ON_CLOSE_SAMPLES:
                try:
                    self._maintenance.flush()
                except Exception:
                    _LOG.exception("flush on close failed; the log still holds the samples")
            self._maintenance.stop()
        self._closed = True
        if self._log is not None:
            self._log.close()
        self.disk.stop()
        # Not closed: who reads a pinned view right now may end. The last reader closes the files.
        with self._state_lock:
            self._state = replace(self._state, parts=(), tiers=())
        if self._lock is not None:
            self._lock.release()
