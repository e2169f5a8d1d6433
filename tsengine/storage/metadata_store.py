"""Type, help and unit of metrics: small, whole in memory, saved with each flush.

Written by the log writer only; `entries` may be called from any thread. The file is one record of
type METADATA, framed as in the log (docs/format/wal.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from tsengine.codecs.records import Record, frame, read_record
from tsengine.errors import CorruptionError
from tsengine.model.metadata import MetadataEntry
from tsengine.storage import wal_records
from tsengine.storage.filesystem import FileSystem

N_VARIANTS_MAX = 8
"""Different texts kept for one metric: targets of different versions may disagree."""


class MetadataStore:
    """All metadata of one database; the newest text of a metric comes first."""

    def __init__(self) -> None:
        self._by_metric: dict[str, tuple[MetadataEntry, ...]] = {}
        self.is_dirty = False

    def update(self, entries: Iterable[MetadataEntry]) -> None:
        """Take entries over; known ones move to the front."""
        for entry in entries:
            known = self._by_metric.get(entry.metric, ())
            if known and known[0] == entry:
                continue
            others = tuple(other for other in known if other != entry)
            self._by_metric[entry.metric] = (entry, *others)[:N_VARIANTS_MAX]
            self.is_dirty = True

    def entries(self) -> list[MetadataEntry]:
        """Everything, oldest text of a metric first, so that `update` restores the order."""
        return [entry for known in list(self._by_metric.values()) for entry in reversed(known)]

    def by_metric(self, metric: str | None = None) -> dict[str, tuple[MetadataEntry, ...]]:
        """Entries of one metric, or of all, in the order in which metrics were first seen."""
        if metric is not None:
            known = self._by_metric.get(metric)
            return {} if known is None else {metric: known}
        return dict(self._by_metric)


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
    return [MetadataEntry(*texts) for texts in wal_records.decode_metadata(record.payload)]


class _Bytes:
    """A `Source` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def is_zero_from(self, offset: int) -> bool:
        return not any(self._data[offset:])
