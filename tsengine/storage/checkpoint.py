"""Makes frozen heads durable as parts and commits every change of the manifest.

The order is the promise (design: flush order): catalog segment, metadata, tombstones, exemplars,
part, all fsynced; then the manifest by one rename; only then the log is trimmed. A crash in between
leaves files that no manifest names; the next start removes them.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsengine.errors import TsengineError
from tsengine.model.batch import SeriesColumns
from tsengine.storage import filenames, manifest
from tsengine.storage.catalog import CatalogView
from tsengine.storage.catalog_file import write_catalog_segment
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.head import Head, HeadView
from tsengine.storage.manifest import ExemplarEntry, Manifest, PartEntry, TombstoneEntry
from tsengine.storage.mask import Mask
from tsengine.storage.metadata_store import write_metadata
from tsengine.storage.part_reader import PartReader
from tsengine.storage.part_writer import write_part
from tsengine.storage.spans import without_hidden
from tsengine.storage.state import FrozenHead
from tsengine.storage.tombstones import Tombstone, write_tombstone

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_CHUNK_SAMPLES = 512 * 1024
_CHUNK_SERIES = 64 * 1024
_CHUNK_HISTOGRAM_BYTES = 32 * 1024 * 1024


class Checkpointer:
    """Owns the manifest of a writable database. One flush at a time; commits may interleave."""

    def __init__(self, database: StorageDatabase, fs: FileSystem, current: Manifest) -> None:
        self._database = database
        self._fs = fs
        self._directory = database.directory
        self._manifest = current
        self._replaced_exemplars: list[str] = []
        self._commit_lock = threading.Lock()
        self.n_commits = 0

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

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing is committed meanwhile; who wants to waits."""
        with self._commit_lock:
            yield

    def commit(self, change: Callable[[Manifest], Manifest], new_paths: Sequence[str] = ()) -> None:
        """Replace the manifest on disk by one rename, then in memory.

        ``new_paths`` are what the changed manifest names for the first time; they are removed if
        it is certain that it does not hold. Or a full disk would be filled by its own retries.
        """
        with self._commit_lock:
            changed = change(self._manifest)
            try:
                manifest.swap(self._fs, self._directory, changed)
            except BaseException:
                if not self._may_hold(changed):
                    self.discard(new_paths)
                raise
            self._manifest = changed
            self.n_commits += 1

    def _may_hold(self, changed: Manifest) -> bool:
        """Whether a failed swap may have put the manifest in place."""
        try:
            return manifest.load(self._fs, self._directory).generation == changed.generation
        except TsengineError:
            return True

    def discard(self, paths: Sequence[str]) -> None:
        """Remove files and part folders that no manifest names.

        What can't be removed is an orphan, which the next start removes.
        """
        for path in paths:
            with contextlib.suppress(OSError):
                remove_tree(self._fs, path)

    def flush(self, frozen: FrozenHead) -> None:
        """Write one frozen head as a level-0 part, commit it, trim the log.

        After an error nothing has changed but that the metadata are dirty; it may be tried again.
        """
        written: list[str] = []
        had_dirty_metadata = self._database.metadata.is_dirty
        try:
            self._flush(frozen, written)
        except BaseException as error:
            # The file that was written may not be named by any manifest.
            self._database.metadata.is_dirty |= had_dirty_metadata
            if isinstance(error, OSError):
                raise storage_error(error, "flushing the head") from error
            raise
        self._database.trim_log(frozen.wal_floor)

    def _flush(self, frozen: FrozenHead, written: list[str]) -> None:
        database = self._database
        head = frozen.head
        state = database.state
        # Not what retention hides: it may lie on an older part, which has it too.
        mask = Mask(state.tombstones) if state.tombstones else None
        try:
            segment = self._write_catalog(frozen, written)
            metadata_file = self._write_metadata(written)
            saved = self._write_tombstones(frozen, written)
            exemplar_files = self._write_exemplars(frozen, written)
            entry = self._write_head(head, mask, written)
            part = None
            if entry is not None:
                part = PartReader.open(self._fs, written[-1], entry)
        except BaseException:
            self.discard(written)
            raise

        def change(current: Manifest) -> Manifest:
            segments = current.catalog_segments + (() if segment is None else (segment,))
            return current.with_changes(
                parts=current.parts + (() if entry is None else (entry,)),
                catalog_segments=segments,
                metadata_file=metadata_file or current.metadata_file,
                exemplar_files=exemplar_files,
                tombstones=_with_entries(current.tombstones, saved),
                wal_floor=frozen.wal_floor,
                next_ref=max(current.next_ref, frozen.next_ref),
                next_seq=max(current.next_seq, frozen.next_seq),
            )

        previous = self._manifest.exemplar_files
        self.commit(change, written)
        database.exemplars.commit(frozen.exemplar_mark, exemplar_files, saved)
        self._drop_exemplar_files(set(previous) - set(exemplar_files))
        database.change_state(lambda state: state.with_flushed(frozen, part, saved))

    def _write_catalog(self, frozen: FrozenHead, written: list[str]) -> str | None:
        first = self._manifest.next_ref
        if frozen.next_ref <= first:
            return None
        payload = self._database.encode_series(first, frozen.next_ref - first)
        name = filenames.catalog_name(self.new_file_number())
        path = filenames.catalog_path(self._directory, name)
        written.append(path)
        write_catalog_segment(self._fs, path, payload)
        self._fs.sync_dir(os.path.dirname(path))
        return name

    def _write_metadata(self, written: list[str]) -> str | None:
        store = self._database.metadata
        if not store.is_dirty:
            return None
        # Cleared first: what comes in while the file is written makes it dirty again.
        store.is_dirty = False
        name = filenames.metadata_name(self.new_file_number())
        path = filenames.metadata_path(self._directory, name)
        written.append(path)
        write_metadata(self._fs, path, store.entries())
        self._fs.sync_dir(os.path.dirname(path))
        return name

    def _write_tombstones(self, frozen: FrozenHead, written: list[str]) -> list[Tombstone]:
        """Give files to the tombstones whose records go with the log; before exemplars get one."""
        saved: list[Tombstone] = []
        for tombstone in self._database.state.tombstones:
            if tombstone.entry is None and tombstone.seq <= frozen.tombstone_seq:
                name = filenames.tombstone_name(self.new_file_number())
                written.append(filenames.tombstone_path(self._directory, name))
                entry = write_tombstone(self._fs, self._directory, name, tombstone)
                saved.append(replace(tombstone, entry=entry))
        return saved

    def _write_exemplars(self, frozen: FrozenHead, written: list[str]) -> tuple[ExemplarEntry, ...]:
        """Files of all exemplars below the mark: those that stay, and a new one if need be."""

        def new_name() -> str:
            name = filenames.exemplar_name(self.new_file_number())
            written.append(filenames.exemplar_path(self._directory, name))
            return name

        database = self._database
        made, kept = database.exemplars.write(
            frozen.exemplar_mark,
            new_name,
            database.exemplar_floor(),
            database.options.exemplars_kept,
        )
        return kept if made is None else (*kept, made)

    def _drop_exemplar_files(self, replaced: set[ExemplarEntry]) -> None:
        """Remove what the flush before replaced: a query that began then may still read it."""
        self.discard(self._replaced_exemplars)
        self._replaced_exemplars = [
            filenames.exemplar_path(self._directory, file.name) for file in replaced
        ]

    def _write_head(self, head: Head, mask: Mask | None, written: list[str]) -> PartEntry | None:
        if head.n_samples == 0:
            return None
        catalog = self._database.state.catalog
        name = filenames.part_name(self.new_file_number())
        written.append(filenames.part_dir(self._directory, name))
        return write_part(
            self._fs,
            os.path.join(self._directory, filenames.PARTS_DIR),
            name,
            chunks_of_head(head.view(), mask),
            targets=lambda refs: targets_of(catalog, refs),
            seq_min=head.seq_min,
            seq_max=head.seq_max,
            level=0,
            is_quick=True,
        )


def chunks_of_head(view: HeadView, mask: Mask | None = None) -> Iterator[SeriesColumns]:
    """A head's samples in pieces of series, so that a flush needs little memory beside the head.

    What a mask hides is left out.
    """
    refs = view.refs()
    n_chunks = max(
        1,
        -(-view.n_samples // _CHUNK_SAMPLES),
        -(-len(refs) // _CHUNK_SERIES),
        -(-view.histogram_bytes // _CHUNK_HISTOGRAM_BYTES),
    )
    for piece in np.array_split(refs, min(n_chunks, max(1, len(refs)))):
        if len(piece):
            columns = view.collect(piece, view.mint, view.maxt, with_starts=True)
            spans = None
            if mask is not None:
                spans = mask.spans(columns.refs, view.seq_max, view.mint, view.maxt)
            yield columns if spans is None else without_hidden(columns, spans)


def _with_entries(
    known: Sequence[TombstoneEntry], saved: Sequence[Tombstone]
) -> tuple[TombstoneEntry, ...]:
    added = [tombstone.entry for tombstone in saved if tombstone.entry is not None]
    return tuple(sorted((*known, *added), key=lambda entry: entry.seq))


def targets_of(catalog: CatalogView, refs: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """A number per series that is equal for series of one scrape target; -1 where unknown.

    Series of one target are told by their labels ``job`` and ``instance``.
    """
    job = catalog.pair_column(refs, "job").astype(np.int64)
    instance = catalog.pair_column(refs, "instance").astype(np.int64)
    target = ((job + 1) << 32) + instance + 1
    return np.where(target == 0, -1, target)
