"""The local log: one thread writes what all others append.

Everything that was appended while one fdatasync ran goes out with the next one (group commit, no
delay but that of `gathering`, by whoever knows that more comes at once). An entry travels: `append`
(sequence, queue) -> one write and one fdatasync -> ``on_durable`` -> its ticket. All of that in the
order of the sequences.

One thread at a time writes, whoever has the turn: the log's own, which is always ready to, or the
one that ends a `gathering`. The latter finds its memory warm and wakes nobody up; it leaves to the
log's thread what others append meanwhile, cuts, and with ``fsync="interval"`` everything.

After a failed write or sync the segment is left as it is and never synced again: the kernel may
have dropped the very pages that failed and call the next sync a success. The group goes to a new
segment, whose header says up to which byte the old one counts. If that fails too, everything that
waits fails: entries behind a failed one may use series that were to be logged by it. Later appends
try a new segment each time, so a disk that has room again heals the log.

Files are not preallocated: measured, fallocate changes nothing, and writing zeros first saves 20 %
of an fdatasync but doubles the bytes written (bench/wal.py).

Threads: `append`, `cut`, `trim`, `close` from any thread; the callbacks run in the one that writes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tsengine.codecs.records import OVERHEAD_SIZE, PAYLOAD_SIZE_MAX, crc32c, frame
from tsengine.errors import AppendLimitExceeded, Closed, Full, Overloaded, StorageError
from tsengine.storage import filenames, wal_records
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.ingest_log import LogEntry, OnDone, Ticket
from tsengine.storage.lock import check_process
from tsengine.storage.wal_reader import list_segments
from tsengine.storage.wal_segments import SegmentWriter

GROUP_SIZE_BYTES_MAX = 8 << 20
"""Bytes written between two syncs; a larger entry makes a group of its own."""
SYNC_INTERVAL_S = 1.0
"""Time between syncs with ``fsync="interval"``."""


@dataclass(frozen=True, slots=True)
class WalStats:
    """Counters since the log was opened, and what it holds now."""

    n_entries: int
    n_groups: int
    n_bytes: int
    n_failed_entries: int
    n_failures: int
    write_s: float
    sync_s: float
    queue_size_bytes: int
    segment: int
    size_since_cut_bytes: int


@dataclass(slots=True)
class _Pending:
    """An entry on its way; ``crcs`` are those of its payloads."""

    entry: LogEntry
    ticket: Ticket
    size: int
    crcs: tuple[int, ...]


@dataclass(slots=True)
class _Cut:
    on_cut: Callable[[int], None]
    ticket: Ticket


class Wal:
    """An `IngestLog` in the folder ``wal`` of a database.

    Parameters
    ----------
    directory
        The database's folder.
    database_id
        Hex, 16 bytes; written into every segment.
    next_segment, next_seq
        First numbers to use: above all that exist (`ReplayReport.last_segment`) and above all
        sequences ever used (the manifest's next_seq, `ReplayReport.seq_max`).
    previous
        `ReplayReport.previous`: what the first new segment vouches for; None for nothing.
    fsync
        ``always``: entries are handed on and acknowledged after the fdatasync. ``interval``: after
        the write; the fdatasync follows within a second, a crash of the machine may lose that much.
    queue_size_bytes_max
        Sum of ``n_bytes`` that may wait; an entry larger than that is accepted when nothing waits.
    on_durable
        Gets the entries of a group in order. Returns what went wrong with which of them, by
        sequence (None for nothing), which reaches their tickets; an exception reaches all.
    on_failed
        Gets all entries of a failure, before their tickets fail; until it returns, `append` raises
        Full. A caller that decides under a lock what an entry must carry (series not yet logged),
        appends under that lock and takes it in ``on_failed``, never appends on a wrong footing.

    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        database_id: str,
        next_segment: int,
        next_seq: int,
        fsync: Literal["always", "interval"],
        queue_size_bytes_max: int,
        on_durable: Callable[[list[LogEntry]], Mapping[int, Exception] | None],
        on_failed: Callable[[list[LogEntry]], None] | None = None,
        previous: tuple[int, int] | None = None,
    ) -> None:
        assert previous is None or next_segment > previous[0], "segments only count upwards"
        self._fs = fs
        self._directory = directory
        self._syncs_always = fsync == "always"
        self._queue_size_bytes_max = queue_size_bytes_max
        self._on_durable = on_durable
        self._on_failed = on_failed
        self._pid = os.getpid()
        # Shared, under _wakeup's lock.
        self._wakeup = threading.Condition()
        self._queue: deque[_Pending | _Cut] = deque()
        self._queue_size = 0
        self._next_seq = next_seq
        self._failure: str | None = None
        self._is_closing = False
        self._n_gathering = 0
        self._is_urgent = False
        # Of whoever has the turn; taken before the lock above.
        self._turn = threading.Lock()
        self._segments = SegmentWriter(fs, directory, database_id, next_segment, previous)
        self._sync_due_s: float | None = None
        self._counts = dict.fromkeys(("entries", "groups", "bytes", "failed", "failures", "cut"), 0)
        self._write_s = 0.0
        self._sync_s = 0.0
        self._thread = threading.Thread(target=self._run, name="tsengine-wal", daemon=True)
        self._thread.start()

    @property
    def next_seq(self) -> int:
        """The sequence that the next entry gets."""
        return self._next_seq

    @property
    def stats(self) -> WalStats:
        """Counters; not of one instant."""
        counts = self._counts
        return WalStats(
            n_entries=counts["entries"],
            n_groups=counts["groups"],
            n_bytes=counts["bytes"],
            n_failed_entries=counts["failed"],
            n_failures=counts["failures"],
            write_s=self._write_s,
            sync_s=self._sync_s,
            queue_size_bytes=self._queue_size,
            segment=self._segments.next_segment,
            size_since_cut_bytes=counts["bytes"] - counts["cut"],
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of all segments on the disk, those of earlier runs included."""
        total = 0
        for segment in list_segments(self._fs, self._directory):
            with contextlib.suppress(OSError):  # Trimmed meanwhile.
                total += self._fs.size(filenames.wal_path(self._directory, segment))
        return total

    def append(self, entry: LogEntry, on_done: OnDone | None = None) -> Ticket:
        """Queue an entry; it gets the next sequence. ``on_done`` is that of the ticket.

        Raises
        ------
        Overloaded
            The queue is full.
        Full
            A failure is being handled.
        AppendLimitExceeded
            A payload is larger than a record can be.
        UnsupportedFormat
            A record's type is not one that this version writes.
        Closed
            The log is closed, or this process was forked from the one that opened it.

        """
        # Before any lock is taken: in a forked child a thread that is not there may hold it.
        check_process(self._pid)
        size = 0
        for record_type, payload in entry.records:
            wal_records.check_type(record_type)
            if len(payload) > PAYLOAD_SIZE_MAX:
                raise AppendLimitExceeded(
                    f"a record of {len(payload)} bytes; the log takes up to {PAYLOAD_SIZE_MAX}"
                )
            size += OVERHEAD_SIZE + len(payload)
        # Here and not in the writer thread: appenders have several cores, the writer has one.
        crcs = tuple(crc32c(payload) for _, payload in entry.records)
        pending = _Pending(entry, Ticket(on_done), size, crcs)
        with self._wakeup:
            self._check_not_closing()
            if self._failure is not None:
                raise Full(self._failure)
            queued = self._queue_size
            if queued and queued + entry.n_bytes > self._queue_size_bytes_max:
                raise Overloaded(
                    f"{queued} bytes wait for the log, the limit is {self._queue_size_bytes_max}"
                )
            entry.seq = self._next_seq
            self._next_seq += 1
            self._queue_size += entry.n_bytes
            self._queue.append(pending)
            self._is_urgent |= 2 * self._queue_size > self._queue_size_bytes_max
            if self._is_group_due():
                self._wakeup.notify()
        return pending.ticket

    def skip(self) -> int:
        """A sequence that no entry gets, above those of all entries so far."""
        check_process(self._pid)
        with self._wakeup:
            self._check_not_closing()
            self._next_seq += 1
            return self._next_seq - 1

    @contextlib.contextmanager
    def gathering(self) -> Iterator[None]:
        """See `IngestLog.gathering`."""
        check_process(self._pid)
        with self._wakeup:
            self._n_gathering += 1
        try:
            yield
        finally:
            with self._wakeup:
                self._n_gathering -= 1
                is_due, end_seq = self._is_group_due(), self._next_seq
            try:
                if is_due and self._may_write_here():
                    self._write_here(end_seq)
            finally:
                with self._wakeup:
                    if self._is_group_due():
                        self._wakeup.notify()

    def hurry(self) -> None:
        """See `IngestLog.hurry`."""
        check_process(self._pid)
        with self._wakeup:
            self._is_urgent = True
            self._wakeup.notify()

    def cut(self, on_cut: Callable[[int], None]) -> Ticket:
        """See `IngestLog.cut`. The new segment's file is made by the first entry in it."""
        # Before any lock is taken: in a forked child a thread that is not there may hold it.
        check_process(self._pid)
        cut = _Cut(on_cut, Ticket())
        with self._wakeup:
            self._check_not_closing()
            self._queue.append(cut)
            self._is_urgent = True
            self._wakeup.notify()
        return cut.ticket

    def trim(self, first_kept_segment: int) -> None:
        """Remove segments below ``first_kept_segment``; the manifest must not name them any more.

        The one being written stays whatever its number. Raises StorageError when a file can't be
        removed; the others are removed then, and trimming again is fine.
        """
        failed: OSError | None = None
        for segment in list_segments(self._fs, self._directory):
            if segment < min(first_kept_segment, self._segments.first_in_use):
                try:
                    self._fs.unlink(filenames.wal_path(self._directory, segment))
                except OSError as error:
                    failed = error
        if failed is not None:
            raise storage_error(failed, "trimming the log") from failed

    def close(self) -> None:
        """Write what is queued, sync, stop the thread. Closing twice is fine."""
        if os.getpid() != self._pid:
            return  # The thread and the files are the parent's.
        with self._wakeup:
            self._is_closing = True
            self._wakeup.notify()
        self._thread.join()

    def _check_not_closing(self) -> None:
        if self._is_closing:
            raise Closed("the database is closed")

    # Whoever writes.

    def _may_write_here(self) -> bool:
        """Whether others than the log's thread may write; not the one that signals interrupt."""
        is_main = threading.current_thread() is threading.main_thread()
        return self._syncs_always and not is_main

    def _write_here(self, end_seq: int) -> None:
        """Write what is due in this thread, up to a cut, if nobody else does.

        Nothing that begins at ``end_seq`` or later: others may append as fast as this one writes.
        """
        if not self._turn.acquire(blocking=False):
            return
        try:
            while True:
                with self._wakeup:
                    if not self._is_group_due():
                        return
                    first = self._queue[0]
                    if isinstance(first, _Cut) or first.entry.seq >= end_seq:
                        return
                    group = self._take_group()
                self._write_group(group)
        finally:
            self._turn.release()

    # The log's thread.

    def _run(self) -> None:
        while self._wait_for_work():
            with self._turn:
                work = self._next_work()
                if isinstance(work, _Cut):
                    self._cut(work)
                elif work:
                    self._write_group(work)
                self._sync_if_due()
        with self._turn:
            self._sync_if_due(at_once=True)
            self._segments.close()

    def _is_group_due(self) -> bool:
        """Whether the writer is to take up what is queued. Under the lock."""
        is_awaited = self._is_urgent or self._is_closing or not self._n_gathering
        return bool(self._queue) and is_awaited

    def _wait_for_work(self) -> bool:
        """Return when something is queued or a sync is due; False to stop."""
        with self._wakeup:
            while not self._is_group_due():
                if self._is_closing:
                    return False
                if self._sync_due_s is None:
                    self._wakeup.wait()
                    continue
                left_s = self._sync_due_s - time.monotonic()
                if left_s <= 0:
                    break
                self._wakeup.wait(left_s)
            return True

    def _next_work(self) -> list[_Pending] | _Cut | None:
        """A group, a cut, or None: a sync is due, or another thread was quicker."""
        with self._wakeup:
            if not self._is_group_due():
                return None
            first = self._queue[0]
            if not isinstance(first, _Cut):
                return self._take_group()
            self._queue.popleft()
            self._is_urgent &= bool(self._queue)
            return first

    def _take_group(self) -> list[_Pending]:
        """What is written together, up to a cut. Under the lock."""
        group: list[_Pending] = []
        size = 0
        while self._queue:
            pending = self._queue[0]
            if isinstance(pending, _Cut) or (group and size + pending.size > GROUP_SIZE_BYTES_MAX):
                break
            self._queue.popleft()
            group.append(pending)
            size += pending.size
        self._is_urgent &= bool(self._queue)
        return group

    def _write_group(self, group: list[_Pending]) -> None:
        try:
            data = _framed(group)
            if data:
                self._write(data)
        except OSError as error:
            self._fail(group, storage_error(error, "writing the log"))
            return
        except Exception as error:  # No memory for the group, say: the thread must live on.
            self._fail(group, StorageError(f"writing the log: {error!r}"))
            return
        self._counts["entries"] += len(group)
        self._counts["groups"] += 1
        self._counts["bytes"] += len(data)
        self._hand_on(group)

    def _write(self, data: bytes) -> None:
        """Make ``data`` durable in the open segment, or else in a new one."""
        had_segment = self._segments.is_open
        try:
            self._write_once(data)
        except Exception:
            self._counts["failures"] += 1
            self._segments.abandon()
            if not had_segment:
                raise
            try:
                self._write_once(data)
            except Exception:
                self._segments.abandon()
                raise

    def _write_once(self, data: bytes) -> None:
        started_s = time.monotonic()
        self._segments.write(data)
        written_s = time.monotonic()
        self._write_s += written_s - started_s
        if self._syncs_always:
            self._segments.sync()
            self._sync_s += time.monotonic() - written_s
        elif self._sync_due_s is None:
            self._sync_due_s = written_s + SYNC_INTERVAL_S
        self._segments.acknowledge()

    def _hand_on(self, group: list[_Pending]) -> None:
        failures: Mapping[int, Exception] | None
        try:
            failures = self._on_durable([pending.entry for pending in group])
        except Exception as error:  # Ours or the caller's bug: the log must live on.
            failures = {pending.entry.seq: error for pending in group}
        with self._wakeup:
            self._queue_size -= sum(pending.entry.n_bytes for pending in group)
        for pending in group:
            failure = failures.get(pending.entry.seq) if failures else None
            if failure is None:
                pending.ticket.complete()
            else:
                told = StorageError(f"logged, but not stored: {failure!r}")
                told.__cause__ = failure
                pending.ticket.complete(told)

    def _fail(self, group: list[_Pending], error: StorageError) -> None:
        """Fail a group and all that waits behind it; cuts stay in the queue."""
        with self._wakeup:
            self._failure = str(error)
            cuts = [work for work in self._queue if isinstance(work, _Cut)]
            failed = group + [work for work in self._queue if isinstance(work, _Pending)]
            self._queue = deque(cuts)
        self._counts["failed"] += len(failed)
        told = str(error)
        try:
            if self._on_failed is not None:
                self._on_failed([pending.entry for pending in failed])
        except Exception as broken:
            told = f"{told} (and the failure could not be handled: {broken!r})"
        finally:
            with self._wakeup:
                self._failure = None
                self._queue_size -= sum(pending.entry.n_bytes for pending in failed)
            for pending in failed:
                pending.ticket.complete(type(error)(told))

    def _cut(self, cut: _Cut) -> None:
        # With fsync="interval" a failing sync is no reason to stop: the entries were handed on,
        # and the flush that the cut is for makes them durable in a part.
        self._sync_if_due(at_once=True)
        new_segment = self._segments.roll()
        self._counts["cut"] = self._counts["bytes"]
        try:
            cut.on_cut(new_segment)
        except Exception as error:
            told = StorageError(f"cutting the log: {error!r}")
            told.__cause__ = error
            cut.ticket.complete(told)
            return
        cut.ticket.complete()

    def _sync_if_due(self, *, at_once: bool = False) -> None:
        if self._sync_due_s is None or (not at_once and time.monotonic() < self._sync_due_s):
            return
        self._sync_due_s = None
        started_s = time.monotonic()
        try:
            self._segments.sync()
        except OSError:
            self._counts["failures"] += 1
            self._segments.abandon()
        self._sync_s += time.monotonic() - started_s


def _framed(group: list[_Pending]) -> bytes:
    pieces: list[bytes] = []
    for pending in group:
        entry = pending.entry
        for (record_type, payload), crc in zip(entry.records, pending.crcs, strict=True):
            pieces.extend(frame(record_type, payload, seq=entry.seq, payload_crc=crc))
    return b"".join(pieces)
