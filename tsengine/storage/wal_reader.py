"""Reads a log back. Changes nothing: what is torn or damaged is told, `keep_damaged` acts on it.

A segment is read up to its first torn or damaged place. Damage never hides later segments:
each record proves itself by its checksums, and to drop acknowledged records that stand whole would
be a second loss. But series made in the lost piece may be used after it; whoever applies the
records in order counts samples of series that are not there yet as lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from tsengine.codecs.records import Record, Tail, TailKind, read_record
from tsengine.errors import StorageError, UnsupportedFormat
from tsengine.storage import filenames, wal_records
from tsengine.storage.filesystem import FileSystem, ReadFile, storage_error
from tsengine.storage.wal_format import (
    END_UNKNOWN,
    SEGMENT_HEADER_SIZE,
    SegmentHeader,
    read_segment_header,
)

_WINDOW_SIZE = 4 << 20


@dataclass(frozen=True, slots=True)
class ReplayedRecord:
    """One record, with the segment and offset where it stands."""

    type: int
    seq: int
    payload: bytes
    segment: int
    offset: int


@dataclass(slots=True)
class ReplayReport:
    """What a replay met.

    Parameters
    ----------
    n_records
        Records given out.
    seq_max
        The highest sequence of them, -1 for none.
    last_segment
        The highest segment number that has a file, else ``first_segment - 1``. A new log starts
        above it.
    previous
        The last segment that counts and where its records end, for the header that the next log
        writes; the end is END_UNKNOWN when it is damaged or when there is no segment.
    torn_tails
        ``(path, offset, n_bytes)``: writes that never finished, nobody was told they had.
    damage
        ``(path, offset, reason)``: acknowledged data may be lost here.
    n_bytes
        Bytes of the records given out.
    skipped_types
        With ``read_only``: names of record types that were passed over.

    """

    n_records: int = 0
    seq_max: int = -1
    last_segment: int = 0
    previous: tuple[int, int] = (0, END_UNKNOWN)
    torn_tails: list[tuple[str, int, int]] = field(default_factory=list)
    damage: list[tuple[str, int, str]] = field(default_factory=list)
    n_bytes: int = 0
    skipped_types: set[str] = field(default_factory=set)


class Replay:
    """The records of a log in order; `report` is complete when the iteration ended.

    One thread iterates, once.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        first_segment: int,
        database_id: str,
        read_only: bool,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._first_segment = first_segment
        self._database_id = database_id
        self._read_only = read_only
        before = first_segment - 1
        self.report = ReplayReport(last_segment=before, previous=(before, END_UNKNOWN))

    def __iter__(self) -> Iterator[ReplayedRecord]:
        segments = [
            number
            for number in list_segments(self._fs, self._directory)
            if number >= self._first_segment
        ]
        headers = {number: self._header(number) for number in segments}
        ends, void = _vouched_ends(headers)
        for number in sorted(ends.keys() - headers.keys()):
            if number >= self._first_segment:
                self.report.damage.append((self._path(number), 0, "segment is missing"))
        for number in segments:
            self.report.last_segment = number
            if number in void:
                self._note_torn(number, 0)
            else:
                yield from self._segment(number, headers[number], ends.get(number))

    def _header(self, number: int) -> SegmentHeader | Tail:
        try:
            with _FileSource(self._fs, self._path(number)) as source:
                header = read_segment_header(source, source.path)
        except FileNotFoundError:
            raise  # Trimmed meanwhile: the manifest has moved on, and a reader loads it again.
        except OSError as error:
            return Tail(TailKind.DAMAGED, 0, str(storage_error(error, "unreadable")))
        if isinstance(header, Tail):
            return header
        if header.database_id != self._database_id:
            return Tail(TailKind.DAMAGED, 0, f"segment of another database, {header.database_id}")
        if header.segment != number:
            return Tail(TailKind.DAMAGED, 0, f"header of segment {header.segment}")
        return header

    def _segment(
        self, number: int, header: SegmentHeader | Tail, end: int | None
    ) -> Iterator[ReplayedRecord]:
        """Records of one segment up to ``end`` (None: up to where they stop)."""
        if isinstance(header, Tail):
            self._note(number, header, end)
            return
        offset = SEGMENT_HEADER_SIZE
        try:
            with _FileSource(self._fs, self._path(number)) as source:
                while end is None or offset < end:
                    record = read_record(source, offset)
                    if isinstance(record, Tail):
                        self._note(number, record, end)
                        return
                    offset = record.end
                    if self._is_known(record, source.path):
                        self.report.n_records += 1
                        self.report.n_bytes += record.end - record.offset
                        self.report.seq_max = max(self.report.seq_max, record.seq)
                        yield ReplayedRecord(
                            record.type, record.seq, record.payload, number, record.offset
                        )
                if source.size > offset:
                    self._note_torn(number, offset)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = str(storage_error(error, "unreadable"))
            self._note(number, Tail(TailKind.DAMAGED, offset, reason), end)
            return
        self.report.previous = (number, offset)

    def _is_known(self, record: Record, path: str) -> bool:
        try:
            wal_records.check_type(
                record.type, flags=record.flags, where=f"{path}, byte {record.offset}: "
            )
        except UnsupportedFormat:
            if not self._read_only:
                raise
            self.report.skipped_types.add(
                wal_records.TYPE_NAMES.get(record.type, f"type {record.type}")
            )
            return False
        return True

    def _note(self, number: int, tail: Tail, end: int | None) -> None:
        """Put down why a segment's records stop at ``tail``."""
        if end is not None or tail.kind is TailKind.DAMAGED:
            self.report.previous = (number, END_UNKNOWN)
        if end is not None:
            reason = tail.reason
            if tail.kind is not TailKind.DAMAGED:
                reason = f"{tail.reason}, but records up to byte {end} were acknowledged"
            self.report.damage.append((self._path(number), tail.offset, reason))
        elif tail.kind is TailKind.DAMAGED:
            self.report.damage.append((self._path(number), tail.offset, tail.reason))
        else:
            if tail.offset:
                self.report.previous = (number, tail.offset)
            if tail.kind is TailKind.TORN:
                self._note_torn(number, tail.offset)

    def _note_torn(self, number: int, offset: int) -> None:
        path = self._path(number)
        size = self._fs.size(path)
        if size > offset:
            self.report.torn_tails.append((path, offset, size - offset))

    def _path(self, number: int) -> str:
        return filenames.wal_path(self._directory, number)


def replay(
    fs: FileSystem,
    directory: str,
    *,
    first_segment: int,
    database_id: str,
    read_only: bool = False,
) -> Replay:
    """Iterate over the records from segment ``first_segment`` on; ``.report`` tells the rest.

    Parameters
    ----------
    fs
        Where the log is.
    directory
        The database's folder.
    first_segment
        The manifest's wal_floor; older segments are not opened.
    database_id
        Hex; a segment of another database is damage.
    read_only
        Pass over records of types that this version does not know, instead of raising.

    Raises
    ------
    UnsupportedFormat
        While iterating: a record or segment of a newer version.
    FileNotFoundError
        While iterating: a segment was trimmed meanwhile (only beside a running writer).
    StorageError
        The folder can't be listed.

    """
    return Replay(
        fs, directory, first_segment=first_segment, database_id=database_id, read_only=read_only
    )


def list_segments(fs: FileSystem, directory: str) -> list[int]:
    """Numbers of the segments that have a file, ascending."""
    try:
        names = fs.listdir(filenames.wal_dir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(error, "listing the log") from error
    numbers = (filenames.parse_wal_name(name) for name in names)
    return sorted(number for number in numbers if number is not None)


def keep_damaged(fs: FileSystem, path: str) -> None:
    """Give a damaged file a second name, `*.damaged`, that no trim and no clean-up removes.

    The file also stays where it is: its records before the damage are replayed again at the next
    start, until a flush has made them durable elsewhere and the log is trimmed. Does nothing for
    a file that is missing altogether.
    """
    kept = filenames.damaged_path(path)
    try:
        if not fs.exists(path):
            return
        if not fs.exists(kept):
            try:
                fs.link(path, kept)
            except OSError:
                # Some file systems have no hard links; the copy is not atomic, a rename is.
                temporary = kept + filenames.TMP_SUFFIX
                fs.write_file(temporary, fs.read_file(path))
                fs.rename(temporary, kept)
        fs.sync_dir(os.path.dirname(path))
    except OSError as error:
        raise storage_error(error, f"keeping {path}") from error


def _vouched_ends(
    headers: dict[int, SegmentHeader | Tail],
) -> tuple[dict[int, int], set[int]]:
    """Acknowledged ends by segment, and segments that never held anything acknowledged.

    The latter are numbers between a segment and its successor: files whose creation failed.
    """
    ends: dict[int, int] = {}
    void: set[int] = set()
    for number, header in headers.items():
        if isinstance(header, SegmentHeader):
            if header.previous_end != END_UNKNOWN:
                ends[header.previous] = header.previous_end
            void.update(other for other in headers if header.previous < other < number)
    return ends, void


class _FileSource:
    """A `Source` over a file, read in windows."""

    def __init__(self, fs: FileSystem, path: str) -> None:
        self.path = path
        self._file: ReadFile = fs.open_read(path)
        self.size = self._file.size
        self._window = b""
        self._window_offset = 0

    def __enter__(self) -> _FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """See `Source.read`."""
        start = offset - self._window_offset
        if start < 0 or start + size > len(self._window):
            self._window = self._file.pread(offset, max(size, _WINDOW_SIZE))
            self._window_offset = offset
            start = 0
        data = self._window[start : start + size]
        if len(data) != size:
            raise StorageError(f"{self.path}: shrank while it was read")
        return data

    def is_zero_from(self, offset: int) -> bool:
        """See `Source.is_zero_from`."""
        while offset < self.size:
            data = self._file.pread(offset, _WINDOW_SIZE)
            if not data:
                break
            if data.count(0) != len(data):
                return False
            offset += len(data)
        return True
