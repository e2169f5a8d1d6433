"""Appends: scanned, limited by time and room, and queued for the log in the order of the lane.

Any thread may append; each call returns after the fsync. What is durable then becomes visible in
`StorageDatabase`, on the log's own thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt

from tsengine.errors import Overloaded
from tsengine.model.batch import SampleBatch
from tsengine.model.exemplars import ExemplarBatch
from tsengine.model.histograms import Histograms, is_handle
from tsengine.model.metadata import MetadataEntry
from tsengine.storage import wal_records
from tsengine.storage.append_group import AppendGroup, Member, Told, joined, tell, teller
from tsengine.storage.append_limits import TimeLimits, split_by_time, split_exemplars
from tsengine.storage.append_outcome import AppendOutcome, OnAppended
from tsengine.storage.append_records import checked_batch, sample_records
from tsengine.storage.catalog import Reject, ScanResult, scan_of_known
from tsengine.storage.exemplar_records import encode_exemplars
from tsengine.storage.ingest_log import LogEntry, OnDone, Ticket
from tsengine.storage.series_lane import SeriesLane
from tsengine.storage.state import AppendItem

_BATCH_ROWS_MAX = 64 * 1024
_BATCHES_QUEUED_MAX = 2
"""Pieces of one bulk append that wait for the log: others' appends queue behind them."""
_BATCH_HISTOGRAMS_MAX = 8 * 1024
_ROW_SIZE_BYTES = 20
_BACKPRESSURE_S = 5.0
_UNLOGGED_SIZE_MAX = 4 << 20
"""Characters of metadata kept while the log takes none; of more the oldest wait for a restart."""
_NO_SAMPLES = SampleBatch(np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.uint64))


class AppendLane(SeriesLane):
    """Appends of a database."""

    _groups: dict[int, AppendGroup]
    """Of threads that are inside `writes_together`."""
    _log_order: threading.Lock
    _logged_ref: int
    _unlogged: dict[str, MetadataEntry]

    def append_remote_write(
        self, body: bytes | memoryview, *, version: int, sender: str = ""
    ) -> AppendOutcome:
        """Store a decompressed remote-write body; returns after the fsync.

        Raises
        ------
        MalformedRequest, Overloaded, Full, Closed, ReadOnly

        """
        outcome, ticket = self._begin_remote_write(body, version, sender, 0.0, None)
        if ticket is not None:
            ticket.wait()
        return outcome

    def submit_remote_write(
        self,
        body: bytes | memoryview,
        *,
        version: int,
        sender: str,
        waited_s: float,
        on_done: OnAppended,
    ) -> None:
        """As `append_remote_write`, but it returns when the entry waits for the log.

        Parameters
        ----------
        waited_s
            How long the body has waited already; it waits so much less for room.
        on_done
            Called when it is durable, or with the error: in the thread that wrote the log, or in
            this one before this returns if there was nothing to store. Must be short and must not
            raise.

        """
        group = self._groups.get(threading.get_ident())
        if group is not None:
            if version == 1 and self._scan_into(group, body, waited_s, on_done):
                return
            self._end_group(group)
        outcome, ticket = self._begin_remote_write(body, version, sender, waited_s, on_done)
        if ticket is None:
            on_done(outcome, None)

    @contextmanager
    def writes_together(self) -> Iterator[None]:
        """Let what is submitted inside become durable together; see `IngestLog.gathering`.

        Bodies of known series become one entry of the log, and one batch of the head. Not those of
        the main thread, which a signal may interrupt while it has the lane.
        """
        thread = threading.get_ident()
        if self._log is None or thread in self._groups:
            yield  # Whoever submits is told.
            return
        with self._log.gathering():
            if threading.current_thread() is threading.main_thread():
                yield
                return
            group = self._groups[thread] = AppendGroup()
            try:
                yield
            finally:
                del self._groups[thread]
                self._end_group(group)

    def _begin_remote_write(
        self,
        body: bytes | memoryview,
        version: int,
        sender: str,
        waited_s: float,
        on_done: OnAppended | None,
    ) -> tuple[AppendOutcome, Ticket | None]:
        self._admit(waited_s)
        with self._lane:
            self._check_writable()
            scan = self.catalog.scan_remote_write(
                body, version=version, sender=sender, on_unknown=self._note_memory
            )
            self._n_shed += scan.n_shed
            return self._log_scanned(scan, len(body), on_done)

    def _log_scanned(
        self, scan: ScanResult, body_size: int, on_done: OnAppended | None
    ) -> tuple[AppendOutcome, Ticket | None]:
        """Queue what a body brought for the log, but for what its time refuses. Lane only."""
        limits = self._time_limits()
        split = split_by_time(scan.batch, limits, self._describe_in_lane)
        exemplars, late = split_exemplars(scan.exemplars, limits, self._describe_in_lane)
        n_floats = scan.n_floats
        if split.kept is not None:
            n_floats = int(np.searchsorted(split.kept, n_floats))
        outcome = AppendOutcome(
            n_floats,
            len(split.accepted) - n_floats,
            0 if exemplars is None else len(exemplars),
            (*scan.rejected, *split.too_old, *split.too_new, *late),
            n_shed=scan.n_shed,
        )
        n_bytes = _queue_size(body_size, len(split.accepted))
        if split.accepted.histograms is not None:
            n_bytes += split.accepted.histograms.n_bytes
        ticket = self._log_batch(
            split.accepted,
            scan.metadata,
            exemplars=exemplars,
            n_bytes=n_bytes,
            on_done=None if on_done is None else partial(on_done, outcome),
        )
        return outcome, ticket

    # --- groups ---------------------------------------------------------------------------------

    def _scan_into(
        self, group: AppendGroup, body: bytes | memoryview, waited_s: float, on_done: OnAppended
    ) -> bool:
        """Add a body to a group, which has the lane from the first on; False if it is not plain."""
        if not group.has_lane:
            self._admit(waited_s)
            self._lane.acquire()
            group.has_lane = True
        try:
            self._check_writable()
            batch = self.catalog.scan_known(body)
        except BaseException:
            self._end_group(group)
            raise
        if batch is None:
            return False
        group.add(Member(batch, _queue_size(len(body), len(batch)), on_done))
        if group.n_rows >= _BATCH_ROWS_MAX:
            self._end_group(group)
        return True

    def _end_group(self, group: AppendGroup) -> None:
        """Queue a group for the log and let the lane go; tell whoever is refused."""
        if not group.has_lane:
            return
        try:
            refused = self._log_group(group)
        finally:
            group.has_lane = False
            self._lane.release()
        for told in refused:
            tell(told)

    def _log_group(self, group: AppendGroup) -> list[Told]:
        """Queue a group as one entry, or body by body; whom nobody else tells. Lane only."""
        members = group.take()
        if len(members) > 1:
            # Whatever fails, each of them hears of its own.
            with contextlib.suppress(Exception):
                batch = joined(members)
                if split_by_time(batch, self._time_limits(), self._describe_in_lane).kept is None:
                    n_bytes = sum(member.n_bytes for member in members)
                    self._log_batch(batch, (), n_bytes=n_bytes, on_done=teller(members))
                    return []
        told: list[Told] = []
        for member in members:
            try:
                scan = scan_of_known(member.batch, self.catalog.next_ref)
                outcome, ticket = self._log_scanned(scan, member.n_bytes, member.on_done)
                if ticket is None:
                    told.append((member.on_done, outcome, None))
            except Exception as error:
                told.append((member.on_done, AppendOutcome(0, 0, 0, ()), error))
        return told

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
        whole = checked_batch(SampleBatch(refs, t_ms, bits, histograms, start_ms))
        n_rows = _BATCH_ROWS_MAX if whole.histograms is None else _BATCH_HISTOGRAMS_MAX
        too_old: list[Reject] = []
        too_new: list[Reject] = []
        tickets: list[Ticket] = []
        n_stored = n_histograms = 0
        for start in range(0, len(whole), n_rows):
            batch = whole.take(slice(start, start + n_rows))
            if len(tickets) >= _BATCHES_QUEUED_MAX:
                tickets[-_BATCHES_QUEUED_MAX].wait()
            self._admit()
            with self._lane:
                self._check_writable()
                self._use_refs(batch.refs)
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
        self._admit()
        with self._lane:
            self._check_writable()
            ticket = self._log_batch(_NO_SAMPLES, tuple(entries), n_bytes=64 * len(entries))
        if ticket is not None:
            ticket.wait()

    def pass_log(self) -> None:
        """Return when all that was appended before, and the lane's catalog, is visible."""
        assert self._log is not None, "maintenance runs on writable databases only"
        with self._lane, self._log_order:
            item = AppendItem(_NO_SAMPLES, None, (), self._lane_catalog, self._logged_ref)
            ticket = self._log.append(LogEntry((), 0, item))
        ticket.wait()

    def _admit(self, waited_s: float = 0.0) -> None:
        """Let an append begin, or raise why it can't: the disk takes no writes, or is too slow."""
        self._check_writable()
        self.disk.check()
        self._wait_for_room(waited_s)

    def _wait_for_room(self, waited_s: float) -> None:
        """Hold an append back while flush or merges can't keep up; at most some seconds."""
        if self._maintenance is not None:
            self._maintenance.hold_append_back(waited_s)
        if self._has_room():
            return
        assert self._log is not None, "checked by _check_writable"
        # What was submitted together with this one must not wait for the room that it waits for.
        self._log.hurry()
        with self._room:
            if not self._room.wait_for(self._has_room, max(0.0, _BACKPRESSURE_S - waited_s)):
                raise Overloaded("the head is full and its flush can't keep up; try again later")

    def _has_room(self) -> bool:
        state = self._state
        waiting = sum(frozen.head.load_samples for frozen in state.frozen)
        return waiting + state.head.load_samples < 3 * self.memory.head_samples_max()

    def _time_limits(self) -> TimeLimits:
        maxt = None
        if self.options.future_limit is not None:
            maxt = self._clock() + int(self.options.future_limit * 1000)
        moment = self.retention.moment()
        if not moment.has_rules:
            return TimeLimits(moment.highest_ms, maxt)

        def floors_of(refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
            self._publish_lane_catalog()
            return moment.sample_floors(self._lane_catalog).of_refs(refs)

        return TimeLimits(moment.highest_ms, maxt, floors_of)

    def _log_batch(
        self,
        batch: SampleBatch,
        metadata: tuple[MetadataEntry, ...],
        *,
        exemplars: ExemplarBatch | None = None,
        n_bytes: int,
        on_done: OnDone | None = None,
    ) -> Ticket | None:
        """Queue a batch for the log, with the series that the log lacks. Lane only."""
        assert self._log is not None, "checked by _check_writable"
        records = sample_records(batch)
        if exemplars is not None:
            records.append((wal_records.EXEMPLARS, encode_exemplars(exemplars)))
        next_ref = self.catalog.next_ref
        # A failing log resets `_logged_ref`. Reading it, encoding by it and queueing must be one
        # step, or an entry could go to the log without the series it needs.
        with self._log_order:
            if self._unlogged:
                said = {entry.metric for entry in metadata}
                kept = (entry for entry in self._unlogged.values() if entry.metric not in said)
                metadata = (*kept, *metadata)
            if metadata:
                texts = [(entry.metric, entry.type, entry.help, entry.unit) for entry in metadata]
                records.insert(0, (wal_records.METADATA, wal_records.encode_metadata(texts)))
            if next_ref > self._logged_ref:
                n_new = next_ref - self._logged_ref
                payload = self.catalog.encode_series(self._logged_ref, n_new)
                records.insert(0, (wal_records.SERIES, payload))
                self._publish_lane_catalog()
            if not records:
                return None
            item = AppendItem(batch, exemplars, metadata, self._lane_catalog, next_ref)
            try:
                ticket = self._log.append(LogEntry(tuple(records), n_bytes, item), on_done)
            except BaseException:
                self._keep_unlogged(metadata)
                raise
            self._logged_ref = next_ref
            self._unlogged = {}
        return ticket

    def _keep_unlogged(self, metadata: Iterable[MetadataEntry]) -> None:
        """Metadata of what was refused go to the log with what comes next. Under `_log_order`.

        The catalog knows them, as it does new series: sent again they are no news.
        """
        for entry in metadata:
            self._unlogged.pop(entry.metric, None)
            self._unlogged[entry.metric] = entry
        size = sum(_text_size(entry) for entry in self._unlogged.values())
        while size > _UNLOGGED_SIZE_MAX:
            oldest = next(iter(self._unlogged))
            size -= _text_size(self._unlogged.pop(oldest))

    def _log_patiently(self, batch: SampleBatch, tickets: list[Ticket]) -> Ticket | None:
        """Like `_log_batch`, but a bulk append waits for its own earlier pieces. Lane only."""
        n_bytes = _ROW_SIZE_BYTES * len(batch)
        if batch.histograms is not None:
            n_bytes += batch.histograms.n_bytes
        try:
            return self._log_batch(batch, (), n_bytes=n_bytes)
        except Overloaded:
            if not tickets:
                raise
        assert self._log is not None, "checked by _check_writable"
        # Who gathers may wait for the lane.
        self._log.hurry()
        tickets[-1].wait()
        return self._log_batch(batch, (), n_bytes=n_bytes)


def _queue_size(body_size: int, n_samples: int) -> int:
    """What a body weighs in the queue: a sample may take two bytes of it."""
    return max(body_size, _ROW_SIZE_BYTES * n_samples)


def _text_size(entry: MetadataEntry) -> int:
    return len(entry.metric) + len(entry.help) + len(entry.unit)
