"""Where the log's bytes go: the open segment, and how one follows another.

What a segment's header vouches for (docs/format/wal.md) is decided here. Nothing is retried here.
Used by the log's writer thread; `first_in_use` may be read by any.
"""

from __future__ import annotations

import contextlib

from tsengine.storage import filenames
from tsengine.storage.filesystem import AppendFile, FileSystem
from tsengine.storage.wal_format import (
    END_UNKNOWN,
    SEGMENT_SIZE_BYTES_MAX,
    SegmentHeader,
    encode_segment_header,
)


class SegmentWriter:
    """The open segment and its successors. Used by the writer thread only."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        database_id: str,
        next_segment: int,
        previous: tuple[int, int] | None,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._database_id = database_id
        self.next_segment = next_segment
        """The number of the next file."""
        self._file: AppendFile | None = None
        self._number = 0
        # What the next header vouches for: the last segment with acknowledged bytes, their end.
        if previous is None:
            previous = next_segment - 1, END_UNKNOWN
        self._previous = self._made_durable(previous)

    @property
    def is_open(self) -> bool:
        """Whether a segment takes writes."""
        return self._file is not None

    @property
    def first_in_use(self) -> int:
        """No segment from here on may be removed."""
        return self._number if self._file is not None else self.next_segment

    def write(self, data: bytes) -> None:
        """Append to the open segment; a full one is followed by a new one."""
        if self._file is not None and self._file.size >= SEGMENT_SIZE_BYTES_MAX:
            self._file.datasync()
            self.roll()
        if self._file is None:
            self._open_next()
        assert self._file is not None, "a segment was opened"
        self._file.write(data)

    def sync(self) -> None:
        """Make what was written durable."""
        if self._file is not None:
            self._file.datasync()

    def acknowledge(self) -> None:
        """Vouch for everything written so far."""
        assert self._file is not None, "something was written"
        self._previous = (self._number, self._file.size)

    def roll(self) -> int:
        """Finish the open segment (everything in it is acknowledged); the next one's number."""
        self.close()
        return self.next_segment

    def abandon(self) -> None:
        """Leave a segment that failed; what was not acknowledged in it is void."""
        if self._file is None:
            return
        self.close()
        if self._previous[0] != self._number:
            # Nothing in it counts. On a full disk such files would pile up, one per attempt.
            self._remove(self._number)

    def close(self) -> None:
        """Close the open segment, if there is one."""
        if self._file is not None:
            file, self._file = self._file, None
            # What counts was synced before; a file that never was counts for nothing.
            with contextlib.suppress(OSError):
                file.close()

    def _open_next(self) -> None:
        number = self.next_segment
        path = filenames.wal_path(self._directory, number)
        previous, previous_end = self._previous
        header = SegmentHeader(self._database_id, number, previous, previous_end)
        try:
            file = self._fs.open_append(path)
            assert file.size == 0, f"{path} is there already"
            self._file, self._number = file, number
            file.write(encode_segment_header(header))
            self._fs.sync_dir(filenames.wal_dir(self._directory))
        finally:
            # Also after a failure: a number that may have a file is not used again.
            self.next_segment = number + 1

    def _made_durable(self, previous: tuple[int, int]) -> tuple[int, int]:
        """Sync what a killed process wrote: it was replayed, so it counts from now on.

        The segment's name is durable already: no record is written before that.
        """
        segment, end = previous
        if end == END_UNKNOWN:
            return previous
        try:
            file = self._fs.open_append(filenames.wal_path(self._directory, segment))
            try:
                file.datasync()
            finally:
                file.close()
        except OSError:
            return segment, END_UNKNOWN
        return previous

    def _remove(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(filenames.wal_path(self._directory, number))
