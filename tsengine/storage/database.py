"""Wires log, catalog, heads, parts and manifest into one database. No algorithm lives here.

Threads. *Lane*: appends, one at a time under `_lane` (scan, look-ups, inserts, log entry in
order). *Log writer*: the log's own thread; after each fsync it appends to the head and publishes.
*Maintenance*: flush and compaction. *Readers*: any thread; they take one immutable `State`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.clock import Clock, system_clock
from tsengine.errors import Closed, Overloaded, ReadOnly, TooFarInFuture, TooOldSample
from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.histograms import Histograms, is_handle
from tsengine.model.labels import format_series, label_dicts
from tsengine.model.metadata import MetadataEntry
from tsengine.options import Options
from tsengine.storage import wal_records
from tsengine.storage.append_limits import TimeLimits, split_by_time, split_exemplars
from tsengine.storage.append_records import checked_batch, sample_records
from tsengine.storage.catalog import Reject
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.exemplar_records import encode_exemplars
from tsengine.storage.filesystem import FileSystem, LocalFileSystem
from tsengine.storage.ingest_log import LogEntry, Ticket
from tsengine.storage.lock import DirectoryLock
from tsengine.storage.maintenance import Maintenance
from tsengine.storage.recovery import RecoveryReport, recover
from tsengine.storage.state import AppendItem, FrozenHead, State
from tsengine.storage.view import DatabaseView
from tsengine.storage.wal import Wal

_LOG = logging.getLogger(__name__)
_BATCH_ROWS_MAX = 256 * 1024
_BATCH_HISTOGRAMS_MAX = 8 * 1024
_BACKPRESSURE_S = 5.0
_FLUSH_ON_CLOSE_SAMPLES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """What became of one append: floats, histograms and exemplars stored, things refused."""

    n_samples: int
    n_histograms: int
    n_exemplars: int
    rejected: tuple[Reject, ...]
    too_old: tuple[Reject, ...] = ()
    too_new: tuple[Reject, ...] = ()

    def raise_rejects(self) -> None:
        """Raise TooOldSample or TooFarInFuture if samples were refused by their time."""
        for refused, error in ((self.too_old, TooOldSample), (self.too_new, TooFarInFuture)):
            if refused:
                first = refused[0]
                n_samples = sum(reject.n_samples for reject in refused)
                more = f" (and {n_samples - 1} more samples)" if n_samples > 1 else ""
                raise error(f"{first.series}: {first.reason}{more}; the others are stored")


class StorageDatabase:
    """One open database directory.

    Use `open_database`. Appends and reads may come from any thread; every method raises Closed
    after `close` or in a forked child.
    """

    def __init__(
        self,
        directory: str,
        options: Options,
        *,
        read_only: bool = False,
        clock: Clock = system_clock,
        fs: FileSystem | None = None,
    ) -> None:
        options.validate()
        self.directory = directory
        self.options = options
        self.read_only = read_only
        self._clock = clock
        self._fs = LocalFileSystem() if fs is None else fs
        self._pid = os.getpid()
        self._closed = False
        self._lane = threading.Lock()
        self._log_order = threading.Lock()
        self._state_lock = threading.Lock()
        self._room = threading.Condition()
        self._lock = None if read_only else DirectoryLock(self._fs, directory)
        try:
            recovered = recover(self._fs, directory, options, read_only=read_only)
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        self.recovery: RecoveryReport = recovered.report
        self.catalog = recovered.catalog
        self.metadata = recovered.metadata
        self.exemplars = recovered.exemplars
        self._state = recovered.state
        self._logged_ref = self._durable_ref = recovered.catalog.next_ref
        self._lane_catalog = recovered.state.catalog
        self._log: Wal | None = None
        self._maintenance: Maintenance | None = None
        if not read_only:
            self._log = Wal(
                self._fs,
                directory,
                database_id=recovered.manifest.database_id,
                next_segment=recovered.replay.last_segment + 1,
                next_seq=recovered.next_seq,
                fsync=options.fsync,
                queue_size_bytes_max=options.queue_size_bytes_max,
                on_durable=self._on_durable,
                on_failed=self._on_failed,
                previous=recovered.replay.previous,
            )
            self._checkpointer = Checkpointer(self, self._fs, recovered.manifest)
            self._maintenance = Maintenance(self, self._checkpointer, self._fs)
            self._maintenance.start()
            if self.recovery.is_lossy:
                # New series may get refs that samples of lost series in the damaged log carry;
                # that log must never be replayed again. Its damaged file is kept aside.
                self._maintenance.flush(force=True)

    # --- append ---------------------------------------------------------------------------------

    def append_remote_write(
        self, body: bytes | memoryview, *, version: int, sender: str = ""
    ) -> AppendOutcome:
        """Store a decompressed remote-write body; returns after the fsync.

        Raises
        ------
        MalformedRequest, Overloaded, Full, Closed, ReadOnly

        """
        self._wait_for_room()
        with self._lane:
            self._check_writable()
            scan = self.catalog.scan_remote_write(body, version=version, sender=sender)
            limits = self._time_limits()
            split = split_by_time(scan.batch, limits, self._describe_in_lane)
            exemplars, late = split_exemplars(scan.exemplars, limits, self._describe_in_lane)
            n_bytes = len(body)
            if split.accepted.histograms is not None:
                n_bytes += split.accepted.histograms.n_bytes
            ticket = self._log_batch(
                split.accepted, scan.metadata, exemplars=exemplars, n_bytes=n_bytes
            )
        if ticket is not None:
            ticket.wait()
        n_floats = scan.n_floats
        if split.kept is not None:
            n_floats = int(np.searchsorted(split.kept, n_floats))
        return AppendOutcome(
            n_floats,
            len(split.accepted) - n_floats,
            0 if exemplars is None else len(exemplars),
            (*scan.rejected, *split.too_old, *split.too_new, *late),
        )

    def append_columns(
        self,
        refs: npt.NDArray[np.uint32],
        t_ms: npt.NDArray[np.int64],
        bits: npt.NDArray[np.uint64],
        *,
        histograms: Histograms | None = None,
        start_ms: npt.NDArray[np.int64] | None = None,
    ) -> AppendOutcome:
        """Store samples of known series; returns after the fsync.

        Parameters
        ----------
        refs, t_ms, bits
            u32[N], i64[N], u64[N]: floats and, with ``histograms``, handles of that table.
        start_ms
            Start timestamps: i64[N], 0 where unknown.

        Raises
        ------
        ValueError
            A ref was not given out by `series_refs` of this database, or the table is not in
            normal form.

        """
        if len(refs) and int(refs.max()) >= self.catalog.next_ref:
            raise ValueError(f"series ref {int(refs.max())} was not given out by this database")
        whole = checked_batch(SampleBatch(refs, t_ms, bits, histograms, start_ms))
        n_rows = _BATCH_ROWS_MAX if whole.histograms is None else _BATCH_HISTOGRAMS_MAX
        too_old: list[Reject] = []
        too_new: list[Reject] = []
        tickets: list[Ticket] = []
        n_stored = n_histograms = 0
        for start in range(0, len(whole), n_rows):
            batch = whole.take(slice(start, start + n_rows))
            self._wait_for_room()
            with self._lane:
                self._check_writable()
                split = split_by_time(batch, self._time_limits(), self._describe_in_lane)
                ticket = self._log_patiently(split.accepted, tickets)
            if ticket is not None:
                tickets.append(ticket)
            n_stored += len(split.accepted)
            if split.accepted.histograms is not None:
                n_histograms += int(is_handle(split.accepted.bits).sum())
            too_old += split.too_old
            too_new += split.too_new
        for ticket in tickets:
            ticket.wait()
        n_floats = n_stored - n_histograms
        return AppendOutcome(n_floats, n_histograms, 0, (), tuple(too_old), tuple(too_new))

    def append_metadata(self, entries: Sequence[MetadataEntry]) -> None:
        """Store types, helps and units; returns after the fsync."""
        with self._lane:
            self._check_writable()
            ticket = self._log_batch(_NO_SAMPLES, tuple(entries), n_bytes=64 * len(entries))
        if ticket is not None:
            ticket.wait()

    def series_refs(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """Refs of label sets, made if need be: u32[S]. New ones become durable with their samples.

        Raises
        ------
        InvalidLabels, AppendLimitExceeded

        """
        with self._lane:
            self._check_writable()
            return self.catalog.series_refs(label_sets)[0]

    def _log_batch(
        self,
        batch: SampleBatch,
        metadata: tuple[MetadataEntry, ...],
        *,
        exemplars: ExemplarBatch | None = None,
        n_bytes: int,
    ) -> Ticket | None:
        """Queue a batch for the log, with the series that the log lacks. Lane only."""
        assert self._log is not None, "checked by _check_writable"
        records: list[tuple[int, bytes]] = []
        if metadata:
            texts = [(entry.metric, entry.type, entry.help, entry.unit) for entry in metadata]
            records.append((wal_records.METADATA, wal_records.encode_metadata(texts)))
        records += sample_records(batch)
        if exemplars is not None:
            records.append((wal_records.EXEMPLARS, encode_exemplars(exemplars)))
        next_ref = self.catalog.next_ref
        # A failing log resets `_logged_ref`. Reading it, encoding by it and queueing must be one
        # step, or an entry could go to the log without the series it needs.
        with self._log_order:
            if next_ref > self._logged_ref:
                n_new = next_ref - self._logged_ref
                payload = self.catalog.encode_series(self._logged_ref, n_new)
                records.insert(0, (wal_records.SERIES, payload))
                self._publish_lane_catalog()
            if not records:
                return None
            item = AppendItem(batch, exemplars, metadata, self._lane_catalog, next_ref)
            ticket = self._log.append(LogEntry(tuple(records), n_bytes, item))
            self._logged_ref = next_ref
        return ticket

    def _log_patiently(self, batch: SampleBatch, tickets: list[Ticket]) -> Ticket | None:
        """Like `_log_batch`, but a bulk append waits for its own earlier pieces. Lane only."""
        n_bytes = 20 * len(batch)
        if batch.histograms is not None:
            n_bytes += batch.histograms.n_bytes
        try:
            return self._log_batch(batch, (), n_bytes=n_bytes)
        except Overloaded:
            if not tickets:
                raise
        tickets[-1].wait()
        return self._log_batch(batch, (), n_bytes=n_bytes)

    def _publish_lane_catalog(self) -> None:
        self.catalog.publish()
        self._lane_catalog = self.catalog.view()

    def _describe_in_lane(self, refs: npt.NDArray[np.uint32]) -> list[str]:
        self._publish_lane_catalog()
        catalog = self._lane_catalog
        return [format_series(labels) for labels in label_dicts(catalog, catalog.labels(refs))]

    def _time_limits(self) -> TimeLimits:
        maxt = None
        if self.options.future_limit is not None:
            maxt = self._clock() + int(self.options.future_limit * 1000)
        return TimeLimits(self.retention_floor(), maxt)

    def exemplar_floor(self) -> int | None:
        """Exemplars before it are past their retention or that of samples; None keeps all."""
        floor = self.retention_floor()
        if self.options.exemplar_retention is None:
            return floor
        own = self._clock() - int(self.options.exemplar_retention * 1000)
        return own if floor is None else max(own, floor)

    def retention_floor(self) -> int | None:
        """Samples before it are past the retention; None keeps all."""
        if self.options.retention is None:
            return None
        return self._clock() - int(self.options.retention * 1000)

    def _wait_for_room(self) -> None:
        """Hold an append back while the flush can't keep up; at most some seconds."""
        if self._has_room():
            return
        with self._room:
            if not self._room.wait_for(self._has_room, _BACKPRESSURE_S):
                raise Overloaded("the head is full and its flush can't keep up; try again later")

    def _has_room(self) -> bool:
        state = self._state
        waiting = sum(frozen.head.load_samples for frozen in state.frozen)
        return waiting + state.head.load_samples < 3 * self.options.head_samples_max

    # --- log writer -----------------------------------------------------------------------------

    def _on_durable(self, entries: list[LogEntry]) -> None:
        """Make fsynced entries visible. Log writer thread, in the order of the log."""
        state = self._state
        catalog = state.catalog
        for entry in entries:
            item = entry.item
            assert isinstance(item, AppendItem), "the lane makes no other items"
            if len(item.batch):
                state.head.append(item.batch, entry.seq)
            if item.exemplars is not None:
                self.exemplars.add(item.exemplars)
            if item.metadata:
                self.metadata.update(item.metadata)
            if item.next_ref >= self._durable_ref:
                self._durable_ref = item.next_ref
                catalog = item.catalog
        if catalog is not state.catalog:
            with self._state_lock:
                self._state = replace(self._state, catalog=catalog)
        if self._maintenance is not None and self._is_head_full():
            self._maintenance.request_flush()

    def _on_failed(self, entries: list[LogEntry]) -> None:
        """Entries will never be durable, so their series are not logged. Log writer thread."""
        with self._log_order:
            self._logged_ref = min(self._logged_ref, self._durable_ref)

    def _is_head_full(self) -> bool:
        head = self._state.head
        return head.load_samples >= self.options.head_samples_max or (
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
        frozen = FrozenHead(
            head, new_segment, self._durable_ref, self._log.next_seq, self.exemplars.mark()
        )
        with self._state_lock:
            self._state = self._state.with_frozen(frozen)

    # --- maintenance ----------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The present state; immutable."""
        return self._state

    def change_state(self, change: Callable[[State], State]) -> None:
        """Replace the state; readers that pinned the old one keep it."""
        with self._state_lock:
            self._state = change(self._state)
        with self._room:
            self._room.notify_all()

    def encode_series(self, first_ref: int, n: int) -> bytes:
        """Payload of series for a catalog segment."""
        with self._lane:
            return self.catalog.encode_series(first_ref, n)

    def trim_log(self, first_kept_segment: int) -> None:
        """Remove log segments whose content is in parts."""
        assert self._log is not None, "maintenance runs on writable databases only"
        self._log.trim(first_kept_segment)

    @property
    def durable_ref(self) -> int:
        """Series below it are in the log or in catalog segments."""
        return self._durable_ref

    @property
    def log_size_bytes(self) -> int:
        """Bytes written to the log since its last cut."""
        return 0 if self._log is None else self._log.stats.size_since_cut_bytes

    def now_ms(self) -> int:
        """The database's clock."""
        return self._clock()

    def flush(self) -> None:
        """Make the head a part; returns when it is committed."""
        self._check_writable()
        assert self._maintenance is not None, "only a read-only database has none"
        self._maintenance.flush()

    def compact(self) -> None:
        """Merge all parts; returns when it is done."""
        self._check_writable()
        assert self._maintenance is not None, "only a read-only database has none"
        self._maintenance.compact_all()

    # --- read -----------------------------------------------------------------------------------

    def view(self) -> DatabaseView:
        """Pin the present state for reading."""
        self._check_open()
        state = self._state
        heads = [frozen.head.view() for frozen in state.frozen]
        heads.append(state.head.view())
        return DatabaseView(state.catalog, state.parts, heads, self.retention_floor())

    def stats(self) -> dict[str, int | float]:
        """Counts and sizes as plain numbers; keys are stable."""
        state = self._state
        frozen = sum(waiting.head.n_samples for waiting in state.frozen)
        parts = [part.entry for part in state.parts]
        numbers: dict[str, int | float] = {
            "head_samples": state.head.n_samples + frozen,
            "head_bytes": state.head.n_bytes + sum(f.head.n_bytes for f in state.frozen),
            "parts": len(parts),
            "part_samples": sum(entry.n_samples for entry in parts),
            "part_bytes": sum(entry.size_bytes for entry in parts),
            "series": state.catalog.n_series,
            "exemplars": self.exemplars.n_exemplars,
            "log_bytes": self.log_size_bytes,
            "damaged_files": len(self.recovery.damage),
        }
        if self._maintenance is not None:
            numbers |= self._maintenance.counters()
        return numbers

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
        # Not closed: who reads a pinned view right now may end. The last reader closes the files.
        with self._state_lock:
            self._state = replace(self._state, parts=())
        if self._lock is not None:
            self._lock.release()

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise Closed("the database was opened by another process; open it again after a fork")
        if self._closed:
            raise Closed("the database is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise ReadOnly("the database was opened with read_only=True")


_NO_SAMPLES = SampleBatch(np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.uint64))
