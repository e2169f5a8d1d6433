"""Type, help and unit of metrics: small, whole in memory, saved with each flush.

Their memory has a limit: above it what is new is dropped and counted, and a metric that is known
may only change its texts in place. Written by the log writer only; reads may come from any thread.
The file is one record of type METADATA, framed as in the log (docs/format/wal.md).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence

from tsengine.codecs.records import Record, frame, read_record
from tsengine.errors import CorruptionError
from tsengine.model.metadata import MetadataEntry
from tsengine.storage import wal_records
from tsengine.storage.filesystem import FileSystem

_LOG = logging.getLogger(__name__)

N_VARIANTS_MAX = 8
"""Different texts kept for one metric: targets of different versions may disagree."""
_METRIC_BYTES = 120
"""Its place in the table, and the tuple of its entries."""
_ENTRY_BYTES = 72
"""An entry without its texts."""


class MetadataStore:
    """All metadata of one database; the newest text of a metric comes first.

    ``n_bytes`` is the memory that it takes, about; ``size_max`` the most of it, None for any;
    ``n_dropped`` counts entries that it has kept away.
    """

    def __init__(self) -> None:
        self._by_metric: dict[str, tuple[MetadataEntry, ...]] = {}
        self._has_told = False
        self.is_dirty = False
        self.size_max: int | None = None
        self.n_bytes = 0
        self.n_dropped = 0

    def update(self, entries: Iterable[MetadataEntry]) -> None:
        """Take entries over; known ones move to the front."""
        for entry in entries:
            known = self._by_metric.get(entry.metric, ())
            if known and known[0] == entry:
                continue
            kept = (entry, *(other for other in known if other != entry))[:N_VARIANTS_MAX]
            others_bytes = self.n_bytes - entries_bytes(known)
            while kept and not self._has_room(others_bytes, known, kept):
                kept = kept[:-1]
            if not kept:
                self._drop()
                continue
            self._by_metric[entry.metric] = kept
            self.n_bytes = others_bytes + entries_bytes(kept)
            self.is_dirty = True

    def _has_room(
        self, others_bytes: int, known: Sequence[MetadataEntry], kept: Sequence[MetadataEntry]
    ) -> bool:
        """Whether ``kept`` may take the place of ``known``: above the limit if it is no larger."""
        if self.size_max is None:
            return True
        size = entries_bytes(kept)
        return others_bytes + size <= self.size_max or size <= entries_bytes(known)

    def _drop(self) -> None:
        self.n_dropped += 1
        if not self._has_told:
            self._has_told = True
            _LOG.warning(
                "types, helps and units of further metrics are dropped: metadata take %d bytes of "
                "the %d that they may", self.n_bytes, self.size_max,
            )  # fmt: skip

    def entries(self) -> list[MetadataEntry]:
        """Everything, oldest text of a metric first, so that `update` restores the order."""
        return [entry for known in list(self._by_metric.values()) for entry in reversed(known)]

    def by_metric(self, metric: str | None = None) -> dict[str, tuple[MetadataEntry, ...]]:
        """Entries of one metric, or of all, in the order in which metrics were first seen."""
        if metric is not None:
            known = self._by_metric.get(metric)
            return {} if known is None else {metric: known}
        return dict(self._by_metric)


def entries_bytes(entries: Sequence[MetadataEntry]) -> int:
    """Memory of all entries of a metric, about."""
    if not entries:
        return 0
    texts = [text for entry in entries for text in (entry.metric, entry.help, entry.unit)]
    # Python has short texts only once, and so have we the names of types.
    size = sum(sys.getsizeof(text) for text in texts if len(text) > 1)
    return _METRIC_BYTES + _ENTRY_BYTES * len(entries) + size


def write_metadata(fs: FileSystem, path: str, entries: Iterable[MetadataEntry]) -> None:
    """Write a metadata file and fsync it; raises OSError."""
    texts = [(entry.metric, entry.type, entry.help, entry.unit) for entry in entries]
    pieces = frame(wal_records.METADATA, wal_records.encode_metadata(texts), seq=0)
    fs.write_file(path, b"".join(pieces))


def read_metadata(fs: FileSystem, path: str) -> list[MetadataEntry]:
    """Entries of a metadata file; raises CorruptionError or OSError."""
    record = read_record(_Bytes(fs.read_file(path)), 0)
    if not isinstance(record, Record):
        raise CorruptionError(record.reason, path=path, offset=record.offset)
    if record.type != wal_records.METADATA:
        raise CorruptionError(f"record of type {record.type}", path=path, offset=0)
    return decode_entries(record.payload)


def decode_entries(payload: bytes) -> list[MetadataEntry]:
    """Entries of a record; raises CorruptionError or UnsupportedFormat."""
    return [
        MetadataEntry(metric, sys.intern(kind), help_text, unit)
        for metric, kind, help_text, unit in wal_records.decode_metadata(payload)
    ]


class _Bytes:
    """A `Source` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def is_zero_from(self, offset: int) -> bool:
        return not any(self._data[offset:])
