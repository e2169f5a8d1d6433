"""Small logs for tests: open one, fill it, read it back."""

import threading
from collections.abc import Iterable

from tsengine.storage import filenames, wal_records
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry, Ticket
from tsengine.storage.wal import Wal
from tsengine.storage.wal_reader import ReplayedRecord, ReplayReport, replay

DATABASE_ID = "00112233445566778899aabbccddeeff"


class Log:
    """A `Wal` that remembers what it was told; ``gate`` holds its thread in on_durable."""

    def __init__(
        self,
        directory,
        *,
        fs=None,
        next_segment=1,
        next_seq=0,
        fsync="always",
        queue_size_bytes_max=1 << 20,
        previous=None,
        on_durable=None,
        on_failed=None,
    ):
        self.fs = LocalFileSystem() if fs is None else fs
        self.directory = str(directory)
        self.durable: list[LogEntry] = []
        self.failed: list[LogEntry] = []
        self.gate = threading.Event()
        self.gate.set()
        self.in_durable = threading.Event()
        self._hooks = (on_durable, on_failed)
        LocalFileSystem().mkdir(filenames.wal_dir(self.directory))
        self.wal = Wal(
            self.fs,
            self.directory,
            database_id=DATABASE_ID,
            next_segment=next_segment,
            next_seq=next_seq,
            fsync=fsync,
            queue_size_bytes_max=queue_size_bytes_max,
            on_durable=self._on_durable,
            on_failed=self._on_failed,
            previous=previous,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.wal.close()

    def append(self, *payloads: bytes, n_bytes=None, item=None) -> Ticket:
        records = tuple((wal_records.SERIES, payload) for payload in payloads)
        if n_bytes is None:
            n_bytes = sum(map(len, payloads))
        return self.wal.append(LogEntry(records, n_bytes, item))

    def hold(self) -> Ticket:
        """Stop the writer thread in on_durable, after one entry; `gate.set()` lets it go on."""
        self.gate.clear()
        self.in_durable.clear()
        ticket = self.append(b"held", n_bytes=0)
        assert self.in_durable.wait(10)
        return ticket

    def _on_durable(self, entries):
        self.durable.extend(entries)
        self.in_durable.set()
        assert self.gate.wait(30), "the test forgot the gate"
        if self._hooks[0] is not None:
            self._hooks[0](entries)

    def _on_failed(self, entries):
        self.failed.extend(entries)
        if self._hooks[1] is not None:
            self._hooks[1](entries)


def read(
    directory, *, first_segment=1, fs=None, **options
) -> tuple[list[ReplayedRecord], ReplayReport]:
    """All records of a log, and the report."""
    found = replay(
        LocalFileSystem() if fs is None else fs,
        str(directory),
        first_segment=first_segment,
        database_id=DATABASE_ID,
        **options,
    )
    return list(found), found.report


def payloads(records: Iterable[ReplayedRecord]) -> list[bytes]:
    return [record.payload for record in records]


def reopen(directory, **options) -> Log:
    """A log that goes on where the one on the disk ends."""
    _, report = read(directory)
    return Log(
        directory,
        next_segment=report.last_segment + 1,
        next_seq=report.seq_max + 1,
        previous=report.previous,
        **options,
    )
