"""Makes frozen heads durable as parts and commits every change of the manifest.

The order is the promise (design: flush order): catalog segment, metadata, part, all fsynced; then
the manifest by one rename; only then the log is trimmed. A crash in between leaves files that no
manifest names; the next start removes them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsengine.errors import StorageError
from tsengine.model.batch import SeriesColumns
from tsengine.storage import filenames, manifest
from tsengine.storage.catalog import CatalogView
from tsengine.storage.catalog_file import write_catalog_segment
from tsengine.storage.filesystem import FileSystem, storage_error
from tsengine.storage.head import HeadView
from tsengine.storage.manifest import Manifest, PartEntry
from tsengine.storage.metadata_store import write_metadata
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.state import FrozenHead

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_CHUNK_SAMPLES = 2 * 1024 * 1024


class Checkpointer:
    """Owns the manifest of a writable database. One flush at a time; commits may interleave."""

    def __init__(self, database: StorageDatabase, fs: FileSystem, current: Manifest) -> None:
        self._database = database
        self._fs = fs
        self._directory = database.directory
        self._manifest = current
        self._commit_lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What is committed."""
        return self._manifest

    @property
    def saved_ref(self) -> int:
        """Series below it are in catalog segments."""
        return self._manifest.next_ref

    def new_file_number(self) -> int:
        """A number that no file of this database has had."""
        with self._commit_lock:
            number = self._manifest.next_file_number
            # Not written at once: a crash loses only numbers of files nobody names.
            self._manifest = self._manifest.with_changes(next_file_number=number + 1)
            return number

    def commit(self, change: Callable[[Manifest], Manifest]) -> None:
        """Replace the manifest on disk by one rename, then in memory."""
        with self._commit_lock:
            changed = change(self._manifest)
            manifest.swap(self._fs, self._directory, changed)
            self._manifest = changed

    def flush(self, frozen: FrozenHead) -> None:
        """Write one frozen head as a level-0 part, commit it, trim the log."""
        database = self._database
        catalog = database.state.catalog
        try:
            segment = self._write_catalog(frozen)
            metadata_file = self._write_metadata()
            entry = self._write_head(frozen, catalog)
        except OSError as error:
            raise storage_error(error, "flushing the head") from error
        part = None
        if entry is not None:
            path = filenames.part_dir(self._directory, entry.name)
            part = PartReader.open(self._fs, path, entry)

        def change(current: Manifest) -> Manifest:
            segments = current.catalog_segments + (() if segment is None else (segment,))
            return current.with_changes(
                parts=current.parts + (() if entry is None else (entry,)),
                catalog_segments=segments,
                metadata_file=metadata_file or current.metadata_file,
                wal_floor=frozen.wal_floor,
                next_ref=max(current.next_ref, frozen.next_ref),
                next_seq=max(current.next_seq, frozen.next_seq),
            )

        self.commit(change)
        database.change_state(lambda state: state.with_flushed(frozen, part))
        database.trim_log(frozen.wal_floor)

    def _write_catalog(self, frozen: FrozenHead) -> str | None:
        first = self._manifest.next_ref
        if frozen.next_ref <= first:
            return None
        payload = self._database.encode_series(first, frozen.next_ref - first)
        name = filenames.catalog_name(self.new_file_number())
        path = filenames.catalog_path(self._directory, name)
        write_catalog_segment(self._fs, path, payload)
        self._fs.sync_dir(os.path.dirname(path))
        return name

    def _write_metadata(self) -> str | None:
        store = self._database.metadata
        if not store.is_dirty:
            return None
        # Cleared first: what comes in while the file is written makes it dirty again.
        store.is_dirty = False
        name = filenames.metadata_name(self.new_file_number())
        path = filenames.metadata_path(self._directory, name)
        try:
            write_metadata(self._fs, path, store.entries())
            self._fs.sync_dir(os.path.dirname(path))
        except OSError:
            store.is_dirty = True
            raise
        return name

    def _write_head(self, frozen: FrozenHead, catalog: CatalogView) -> PartEntry | None:
        head = frozen.head
        if head.n_samples == 0:
            return None
        return write_part(
            self._fs,
            os.path.join(self._directory, filenames.PARTS_DIR),
            filenames.part_name(self.new_file_number()),
            chunks_of_head(head.view()),
            targets=lambda refs: targets_of(catalog, refs),
            seq_min=head.seq_min,
            seq_max=head.seq_max,
            level=0,
        )


def chunks_of_head(view: HeadView) -> Iterator[SeriesColumns]:
    """A head's samples in pieces of series, so that a flush needs little memory beside the head."""
    refs = view.refs()
    n_chunks = max(1, -(-view.n_samples // _CHUNK_SAMPLES))
    for piece in np.array_split(refs, min(n_chunks, max(1, len(refs)))):
        if len(piece):
            yield view.collect(piece, view.mint, view.maxt)


def targets_of(catalog: CatalogView, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """A number per series that is equal for series of one scrape target; -1 where unknown.

    Series of one target are told by their labels ``job`` and ``instance``.
    """
    job = catalog.pair_column(refs, "job").astype(np.int64)
    instance = catalog.pair_column(refs, "instance").astype(np.int64)
    target = ((job + 1) << 32) + instance + 1
    return np.where(target == 0, -1, target)


def check_space(fs: FileSystem, directory: str, needed: int) -> None:
    """Raise StorageError if a merge would not fit on the disk."""
    free = fs.free_bytes(directory)
    if free < needed:
        raise StorageError(f"a merge needs {needed} bytes free, the disk has {free}")
