"""Exemplars of a database: recent ones in memory, older ones in files, with their own retention.

The log writer adds batches. A freeze of the head takes a *mark*; its flush writes all batches below
the mark to one file, and files are joined when they are many, expired exemplars left out. A delete
takes its exemplars out of memory at once; in files they are hidden, until the next flush joins
these files. Readers take one immutable `ExemplarView`. The manifest names the live files
(docs/format/exemplars.md).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.model.exemplars import ExemplarBatch, join_batches
from tsengine.storage import filenames
from tsengine.storage.exemplar_records import decode_exemplars, encode_exemplars
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.manifest import ExemplarEntry
from tsengine.storage.sealed_file import read_sealed, write_sealed
from tsengine.storage.tombstones import Tombstone

_LOG = logging.getLogger(__name__)

MAGIC = b"TSEXEMPL"
VERSION = 1
FILES_MAX = 8
"""With more files than this a flush joins them all."""
_JOINED_MAX = 4096
"""Exemplars up to which batches in memory are joined."""
_BATCH_BYTES = 560
"""A batch in memory without its rows: three arrays and a tuple."""
_ROW_BYTES = 68
"""An exemplar in memory without its labels' text: 20 in arrays, the others those of an object."""

U32Array = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class ExemplarView:
    """What was stored at one moment: files by their entries, then batches, oldest first.

    ``deletes`` hide exemplars of files that are older than them.
    """

    directory: str
    fs: FileSystem
    files: tuple[ExemplarEntry, ...]
    recent: tuple[ExemplarBatch, ...]
    deletes: tuple[Tombstone, ...] = ()

    def find(self, refs: U32Array, mint: int, maxt: int) -> ExemplarBatch:
        """Exemplars with mint <= t <= maxt of the series ``refs`` (ascending).

        Ordered by series and time; equal ones appear once. Raises StorageError for a file that
        can't be read.
        """
        return _distinct(join_batches(self.matching(refs, mint, maxt)))

    def matching(self, refs: U32Array, mint: int, maxt: int) -> list[ExemplarBatch]:
        """As `find`, in batches as they are stored."""
        try:
            batches = [
                _kept(read_exemplars(self.fs, self.directory, entry), _hiding(self.deletes, entry))
                for entry in self.files
                if entry.mint <= maxt and entry.maxt >= mint
            ]
        except OSError as error:
            raise storage_error(error, "reading exemplars") from error
        return [_matching(batch, refs, mint, maxt) for batch in (*batches, *self.recent)]


class ExemplarStore:
    """Owns what is live; `add` belongs to the log writer, `write` and `commit` to the flush."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        files: Sequence[ExemplarEntry],
        *,
        n_recent_max: int,
        deletes: Sequence[Tombstone] = (),
    ) -> None:
        self._fs = fs
        self._directory = directory
        self.n_recent_max = n_recent_max
        self._lock = threading.Lock()
        self._files = tuple(files)
        self._recent: deque[ExemplarBatch] = deque()
        self._n_recent = 0
        self._recent_bytes = 0
        self._first = 0
        self._marked = 0
        self._deletes: tuple[Tombstone, ...] = ()
        self._keep_deletes(deletes)

    def add(self, batch: ExemplarBatch) -> None:
        """Take a batch over; of too many unflushed ones the oldest go.

        Small batches are joined with those before them, each exemplar a few times at most: a
        message may have one, and a million batches would take more than what is in them.
        """
        if len(batch) == 0:
            return
        with self._lock:
            recent = self._recent
            self._n_recent += len(batch)
            self._recent_bytes += _bytes_of(batch)
            while self._goes_with_newest(batch):
                batch = join_batches((recent.pop(), batch))
            recent.append(batch)
            while self._n_recent > self.n_recent_max and len(recent) > 1:
                self._take_oldest()

    def _goes_with_newest(self, batch: ExemplarBatch) -> bool:
        """Whether to join a batch with the one before it, which no mark must part from it."""
        if self._first + len(self._recent) <= self._marked:
            return False
        size = len(self._recent[-1])
        size_max = min(_JOINED_MAX, self.n_recent_max // 16)
        return size <= len(batch) <= size_max - size

    def _take_oldest(self) -> None:
        oldest = self._recent.popleft()
        self._first += 1
        self._n_recent -= len(oldest)
        self._recent_bytes -= _bytes_of(oldest)

    def delete(self, tombstone: Tombstone) -> None:
        """Take out what a delete hides of everything that was added so far."""
        with self._lock:
            self._recent = deque(_kept(batch, [tombstone]) for batch in self._recent)
            self._n_recent = sum(len(batch) for batch in self._recent)
            self._recent_bytes = sum(_bytes_of(batch) for batch in self._recent)
            self._keep_deletes((*self._deletes, tombstone))

    def is_hidden_by(self, tombstone: Tombstone) -> bool:
        """Whether a live file may have exemplars that a tombstone hides."""
        with self._lock:
            return any(_hiding([tombstone], entry) for entry in self._files)

    def mark(self) -> int:
        """A number that tells what was added so far from what will be."""
        with self._lock:
            self._marked = self._first + len(self._recent)
            return self._marked

    def view(self) -> ExemplarView:
        """What is stored now."""
        with self._lock:
            recent = tuple(self._recent)
            return ExemplarView(self._directory, self._fs, self._files, recent, self._deletes)

    def refs(self, floor_ms: int | None) -> list[U32Array]:
        """Series of everything stored, files before ``floor_ms`` left out; may repeat.

        What a damaged file held can't be read any more and does not count. Raises OSError.
        """
        view = self.view()
        files = [e for e in view.files if floor_ms is None or e.maxt >= floor_ms]
        found = [batch.refs for batch in view.recent]
        for entry in files:
            try:
                found.append(read_exemplars(self._fs, self._directory, entry).refs)
            except (CorruptionError, UnsupportedFormat) as error:
                _LOG.error("exemplars keep no series: %s", error)
        return found

    def series_among(self, refs: U32Array, mint: int, maxt: int) -> U32Array:
        """Those of the series ``refs`` (ascending) that have exemplars in a closed range.

        A damaged file may have any of them, and may come back. Raises StorageError.
        """
        if len(refs) == 0:
            return refs
        try:
            batches = self.view().matching(refs, mint, maxt)
        except (CorruptionError, UnsupportedFormat) as error:
            _LOG.error("series of exemplars are not known: %s", error)
            return refs
        return np.unique(np.concatenate([refs[:0], *(batch.refs for batch in batches)]))

    @property
    def n_exemplars(self) -> int:
        """Stored exemplars, repeated ones counted each time."""
        with self._lock:
            return self._n_recent + sum(entry.n for entry in self._files)

    @property
    def n_recent(self) -> int:
        """Exemplars in memory."""
        return self._n_recent

    @property
    def n_bytes(self) -> int:
        """Memory that they take, about."""
        return self._recent_bytes + _BATCH_BYTES * len(self._recent)

    @property
    def has_unsaved(self) -> bool:
        """Whether there are some that only the log holds."""
        with self._lock:
            return bool(self._recent)

    def write(
        self, mark: int, new_name: Callable[[], str], floor_ms: int | None, n_max: int
    ) -> tuple[ExemplarEntry | None, tuple[ExemplarEntry, ...]]:
        """Write the batches below a mark to a file, joined with all others if these are many.

        Files in which deletes hide exemplars are joined with it in any case.

        Exemplars before ``floor_ms`` and all but the newest ``n_max`` are left out. Returns the
        new file (None: nothing to write) and the files that stay beside it. Raises OSError.
        """
        with self._lock:
            # In one step: the writer of the log may drop the oldest at any time.
            batches = list(islice(self._recent, max(0, mark - self._first)))
            files, deletes = self._files, self._deletes
        kept = [e for e in files if floor_ms is None or e.maxt >= floor_ms]
        n_in_all = sum(len(b) for b in batches) + sum(e.n for e in kept)
        if len(kept) >= FILES_MAX or n_in_all > n_max:
            joining = kept
        else:
            joining = [entry for entry in kept if _hiding(deletes, entry)]
        read, damaged = self._read_whole(joining, deletes)
        kept = damaged + [entry for entry in kept if entry not in joining]
        batches = read + batches
        joined = join_batches(batches)
        rows = np.arange(len(joined))
        if floor_ms is not None:
            rows = rows[joined.t_ms >= floor_ms]
        rows = np.sort(rows[np.argsort(joined.t_ms[rows], kind="stable")][-n_max:])
        joined = _distinct(joined.take(rows))
        if len(joined) == 0:
            return None, tuple(kept)
        self._fs.mkdir(filenames.exemplars_dir(self._directory))
        name = new_name()
        path = filenames.exemplar_path(self._directory, name)
        size = write_sealed(self._fs, path, encode_exemplars(joined), magic=MAGIC, version=VERSION)
        self._fs.sync_dir(filenames.exemplars_dir(self._directory))
        t_ms = joined.t_ms
        return ExemplarEntry(name, int(t_ms.min()), int(t_ms.max()), len(joined), size), tuple(kept)

    def commit(
        self, mark: int, files: Sequence[ExemplarEntry], saved: Sequence[Tombstone] = ()
    ) -> None:
        """The manifest names ``files`` now, which hold everything below the mark.

        Tombstones ``saved`` have files now, older ones than a new file of exemplars.
        """
        with self._lock:
            while self._recent and self._first < mark:
                self._take_oldest()
            self._files = tuple(files)
            numbered = {tombstone.seq: tombstone for tombstone in saved}
            self._keep_deletes([numbered.get(t.seq, t) for t in self._deletes])

    def _keep_deletes(self, deletes: Sequence[Tombstone]) -> None:
        """Keep those that hide something of a file, or of one that is being written."""
        self._deletes = tuple(
            t
            for t in deletes
            if t.entry is None or any(_hiding([t], entry) for entry in self._files)
        )

    def _read_whole(
        self, entries: Sequence[ExemplarEntry], deletes: Sequence[Tombstone]
    ) -> tuple[list[ExemplarBatch], list[ExemplarEntry]]:
        """Contents of files, and those that can't be read: they stay, and hold up no flush."""
        read: list[ExemplarBatch] = []
        damaged: list[ExemplarEntry] = []
        for entry in entries:
            try:
                batch = read_exemplars(self._fs, self._directory, entry)
                read.append(_kept(batch, _hiding(deletes, entry)))
            except (CorruptionError, UnsupportedFormat, OSError) as error:
                _LOG.error("exemplars are not joined: %s", error)
                damaged.append(entry)
        return read, damaged


def read_exemplars(fs: FileSystem, directory: str, entry: ExemplarEntry) -> ExemplarBatch:
    """All exemplars of a file; raises CorruptionError, UnsupportedFormat or OSError."""
    path = filenames.exemplar_path(directory, entry.name)
    payload = read_sealed(fs, path, magic=MAGIC, version=VERSION, what="an exemplar file")
    try:
        batch = decode_exemplars(payload)
    except CorruptionError as error:
        raise CorruptionError(str(error), path=path) from error
    if len(batch) != entry.n:
        raise CorruptionError(f"{len(batch)} exemplars instead of {entry.n}", path=path)
    return batch


def _hiding(deletes: Sequence[Tombstone], entry: ExemplarEntry) -> list[Tombstone]:
    """Those that may hide something of a file: they touch it, and are newer.

    A tombstone with a file is newer than files of lower numbers; one that only the log has is newer
    than all, since the flush that writes exemplars of later records writes its file too.
    """
    file_number = filenames.parse_exemplar_name(entry.name)
    assert file_number is not None, "manifests name files of ours"
    return [
        tombstone
        for tombstone in deletes
        if tombstone.touches(entry.mint, entry.maxt)
        and (tombstone.file_number is None or tombstone.file_number > file_number)
    ]


def _kept(batch: ExemplarBatch, deletes: Sequence[Tombstone]) -> ExemplarBatch:
    """A batch without what deletes hide."""
    is_hidden = np.zeros(len(batch), np.bool_)
    for tombstone in deletes:
        inside = (batch.t_ms >= tombstone.mint) & (batch.t_ms <= tombstone.maxt)
        is_hidden |= inside & np.isin(batch.refs, tombstone.refs)
    return batch.take(np.flatnonzero(~is_hidden)) if is_hidden.any() else batch


def _bytes_of(batch: ExemplarBatch) -> int:
    return _ROW_BYTES * len(batch) + sum(map(len, batch.labels))


def _matching(batch: ExemplarBatch, refs: U32Array, mint: int, maxt: int) -> ExemplarBatch:
    wanted = (batch.t_ms >= mint) & (batch.t_ms <= maxt) & np.isin(batch.refs, refs)
    return batch if wanted.all() else batch.take(np.flatnonzero(wanted))


def _distinct(batch: ExemplarBatch) -> ExemplarBatch:
    """Ordered by series and time (arrival decides among equals), without repeated exemplars."""
    order = np.lexsort((batch.t_ms, batch.refs))
    seen: set[tuple[int, int, bytes, bytes]] = set()
    kept = []
    for row in order.tolist():
        key = (
            int(batch.refs[row]),
            int(batch.t_ms[row]),
            batch.values[row].tobytes(),
            batch.labels[row],
        )
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return batch.take(np.array(kept, np.int64))
