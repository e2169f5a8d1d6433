"""Uses a database directory without opening it: `check`, `inspect`, `snapshot`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from tsengine.backup.store import open_cold_store
from tsengine.clock import system_clock
from tsengine.errors import (
    CorruptionError,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    UnsupportedFormat,
)
from tsengine.options import Options
from tsengine.storage import filenames, manifest
from tsengine.storage.catalog import Catalog
from tsengine.storage.catalog_file import read_catalog_segment
from tsengine.storage.cold import ColdFileSystem, logical_sizes
from tsengine.storage.cold_cache import BlockCache
from tsengine.storage.deleting import hidden_by
from tsengine.storage.exemplars import read_exemplars
from tsengine.storage.filesystem import FileSystem, LocalFileSystem, storage_error
from tsengine.storage.lock import DirectoryLock
from tsengine.storage.manifest import Manifest, PartEntry, TierEntry
from tsengine.storage.metadata_store import read_metadata
from tsengine.storage.part_checking import check_part, check_part_series, check_tier
from tsengine.storage.part_reader import component_bytes
from tsengine.storage.quarantine import OF_PARTS, Damaged, named, put_aside
from tsengine.storage.recovery import RecoveryReport, recover, replay_log
from tsengine.storage.snapshot import files_below, make_snapshot
from tsengine.storage.tombstones import read_tombstone
from tsengine.storage.wal_reader import list_segments

_TRIES = 10
_OF_THE_FILE = frozenset({errno.EIO, errno.ENOENT, errno.ENOTDIR})
"""The disk can't read it, or it is not there; other errors are of this process."""

_Found = TypeVar("_Found")

ProblemKind = Literal["damage", "missing", "unreachable", "unreadable"]
Progress = Callable[[int, int], None]
"""Called with (files or parts checked, in all)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Acknowledged data that is lost or can't be read.

    ``damage`` is known to be wrong. What is ``missing`` from an object store, or ``unreachable``
    there, is named by the object's URL; ``unreadable`` is what could not be read for a reason that
    may be another than the file (no permission, too many open files). These are never put aside.
    """

    file: str
    offset: int | None
    text: str
    kind: ProblemKind = "damage"


@dataclass(slots=True)
class CheckReport:
    """What `check` found. ``notes`` are harmless: torn tails, leftovers of a crash."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_parts: int = 0
    n_samples: int = 0
    n_series: int = 0
    quarantined: list[str] = field(default_factory=list)
    """Folders that damaged files were moved to."""

    def blame(self, error: StorageError, path: str) -> None:
        """Count an error of a file as damage."""
        if isinstance(error, CorruptionError):
            self.problems.append(Problem(error.path or path, error.offset, error.reason))
        else:
            self.problems.append(Problem(path, None, str(error)))


def check(
    path: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    quarantine: bool = False,
    cold_endpoint_url: str | None = None,
) -> CheckReport:
    """Read everything and verify every checksum and every value.

    Parameters
    ----------
    quarantine
        Put parts, parts of tiers, exemplars and metadata whose own bytes are damaged aside, each
        into a folder of its own in ``quarantine/``, so that the rest works without them; no parts
        while the catalog is damaged. Without it nothing is changed. `bring_back` is the way back.
    cold_endpoint_url
        Of the object store that has moved parts; None takes the one that they were moved to.

    Raises
    ------
    StorageError
        There is no database, or its manifest can't be read.
    Locked
        With `quarantine`: somebody has the directory open for writing.
    UnsupportedFormat
        It was written by a newer version.

    """
    directory = os.fspath(path)
    fs = _with_cold(directory, cold_endpoint_url)
    if not quarantine:
        return _Checking(fs, directory).run(progress)
    manifest.load(fs, directory)  # before the lock, which makes a file
    lock = DirectoryLock(fs, directory)
    try:
        checking = _Checking(fs, directory)
        checking.run(progress)
        checking.put_aside()
    finally:
        lock.release()
    return checking.report


def snapshot(
    path: str | os.PathLike[str], dest: str | os.PathLike[str], *, skip_head: bool = False
) -> None:
    """Copy a database to a new directory, by hard links where that can be; see `Database.snapshot`.

    Needs no open database; a writer may be using the directory.

    Raises
    ------
    StorageError
        There is no database, or `dest` exists or can't be written.

    """
    make_snapshot(LocalFileSystem(), os.fspath(path), os.fspath(dest), with_log=not skip_head)


class _Checking:
    """One look at everything that a manifest names."""

    def __init__(self, fs: FileSystem, directory: str) -> None:
        self._fs = fs
        self._directory = directory
        self._current = manifest.load(fs, directory)
        self._damaged: list[Damaged] = []
        self._has_catalog = True
        self._n_done = 0
        self.report = CheckReport(n_parts=len(self._current.parts))

    def run(self, progress: Progress | None) -> CheckReport:
        """Look at all files."""
        fs, directory, current = self._fs, self._directory, self._current
        catalog = self._check_catalog()
        if current.metadata_file is not None:
            name = filenames.metadata_path(directory, current.metadata_file)
            self._guarded(name, partial(read_metadata, fs, name))
        for file in current.exemplar_files:
            path = filenames.exemplar_path(directory, file.name)
            self._guarded(path, partial(read_exemplars, fs, directory, file))
        for tombstone in current.tombstones:
            path = filenames.tombstone_path(directory, tombstone.name)
            self._guarded(path, partial(read_tombstone, fs, directory, tombstone))
        for part in current.parts:
            path = filenames.part_dir(directory, part.name)
            n_samples = self._guarded(path, partial(check_part, fs, path, part))
            self.report.n_samples += n_samples or 0
            self._check_surroundings(path, part, part, catalog)
            self._report(progress)
        for tier in current.tiers:
            path = filenames.tier_dir(directory, tier.name)
            self._guarded(path, partial(check_tier, fs, path, tier))
            self._check_surroundings(path, tier, tier.part, catalog)
            self._report(progress)
        self._check_log(catalog)
        self.report.n_series = catalog.n_series
        for name in manifest.orphans(fs, directory, current):
            self.report.notes.append(f"{name}: left over from a crash, removed at the next start")
        return self.report

    def _report(self, progress: Progress | None) -> None:
        self._n_done += 1
        if progress is not None:
            progress(self._n_done, len(self._current.parts) + len(self._current.tiers))

    def put_aside(self) -> None:
        """Move what is damaged to the quarantine; needs the directory's lock."""
        going = [item for item in self._damaged if item.can_go]
        for item in self._damaged:
            if not item.can_go:
                self.report.notes.append(
                    f"{item.folder}/{item.name}: can't be put aside, the rest would be wrong "
                    "without it; restore it from a backup"
                )
        parts = [item for item in going if item.folder in OF_PARTS]
        if parts and not self._has_catalog:
            going = [item for item in going if item not in parts]
            self.report.notes.append(
                f"{len(parts)} damaged parts are not put aside while the catalog is damaged: "
                "restore its segments first, and check again"
            )
        self.report.quarantined = put_aside(
            self._fs, self._directory, self._current, going, system_clock()
        )

    def _check_catalog(self) -> Catalog:
        catalog = _empty_catalog(self._current)
        for name in self._current.catalog_segments:
            path = filenames.catalog_path(self._directory, name)
            # What comes after a segment that can't be read does not follow on the ones before.
            read = _add_segment if self._has_catalog else _read_segment
            n_before = len(self.report.problems)
            self._guarded(path, partial(read, self._fs, catalog, path))
            self._has_catalog &= len(self.report.problems) == n_before
        return catalog

    def _check_surroundings(
        self, path: str, entry: PartEntry | TierEntry, part: PartEntry, catalog: Catalog
    ) -> None:
        """Compare a part that is fine with what the manifest and the catalog say."""
        if any(problem.file.startswith(path) for problem in self.report.problems):
            return
        self._guarded(path, partial(self._compare_numbers, path, part), is_own=False)
        if self._has_catalog:
            read = partial(check_part_series, self._fs, path, entry, catalog)
            self._guarded(path, read, is_own=False)

    def _compare_numbers(self, path: str, entry: PartEntry) -> None:
        folder, name = os.path.split(path)
        size = sum(logical_sizes(self._fs, folder, files_below(self._fs, folder, name)).values())
        if size != entry.size_bytes:
            raise CorruptionError(f"{size} bytes, the manifest says {entry.size_bytes}", path=path)
        next_seq = self._current.next_seq
        # Those of tiers may be of deletes that only the log has.
        if entry in self._current.parts and entry.seq_max >= next_seq:
            raise CorruptionError(
                f"sequence {entry.seq_max} is not below the manifest's {next_seq}", path=path
            )

    def _check_log(self, catalog: Catalog) -> None:
        log, report = self._replay(catalog), self.report
        report.n_samples += log.n_replayed_samples
        report.problems += [Problem(*found) for found in log.damage]
        folder = filenames.wal_dir(self._directory)
        if not self._has_catalog:
            log.n_orphan_samples = log.n_lost_series = 0  # Who knows.
        if log.n_orphan_samples:
            text = f"{log.n_orphan_samples} samples of series that were lost with damage"
            report.problems.append(Problem(folder, None, text))
        if log.n_lost_series:
            text = f"the labels of {log.n_lost_series} series were lost with damage"
            report.problems.append(Problem(folder, None, text))
        for name, offset, size in log.torn_tails:
            report.notes.append(
                f"{name}: unfinished write of {size} bytes at byte {offset}, ignored"
            )

    def _replay(self, catalog: Catalog) -> RecoveryReport:
        """Replay the log, that of a newer manifest if a running writer has trimmed it meanwhile."""
        current = self._current
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                log = replay_log(self._fs, self._directory, current, catalog)
                newest = manifest.load(self._fs, self._directory)
                if newest.wal_floor == current.wal_floor:
                    return log.report
            current = manifest.load(self._fs, self._directory)
            catalog = _empty_catalog(current)
            with contextlib.suppress(FileNotFoundError):
                for name in current.catalog_segments:
                    path = filenames.catalog_path(self._directory, name)
                    _add_segment(self._fs, catalog, path)
        raise StorageError(f"{self._directory} changes too fast to be checked; try again")

    def _guarded(
        self, path: str, read: Callable[[], _Found], *, is_own: bool = True
    ) -> _Found | None:
        """Run a reader and count what it raises as a problem of `path`.

        It is damaged if its own bytes are wrong, or the disk can't read them; not if this process
        may not, or ``is_own`` is False: then something else may be wrong as well.
        """
        folder, name = os.path.split(path)
        n_before = len(self.report.problems)
        try:
            try:
                return read()
            except FileNotFoundError:
                if not self._is_named(os.path.basename(folder), name):
                    self.report.notes.append(f"{path}: replaced by the writer while it was checked")
                    return None
                return read()  # it may have been moved to an object store just then
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                text = str(storage_error(error, "unreadable"))
                file = str(error.filename or path)
                self.report.problems.append(Problem(file, None, text, "unreadable"))
                return None
            self.report.blame(storage_error(error, "unreadable"), path)
        except UnsupportedFormat:
            raise  # No damage: this program is too old.
        except StoreUnavailable as error:
            kind: ProblemKind = "missing" if isinstance(error, ObjectMissing) else "unreachable"
            self.report.problems.append(Problem(error.path or path, None, str(error), kind))
            return None
        except CorruptionError as error:
            self.report.blame(error, path)
        except StorageError as error:
            self.report.problems.append(Problem(path, None, str(error), "unreadable"))
            return None
        if not is_own:
            self.report.notes.append(f"{path}: its own bytes are fine, it is not put aside")
            return None
        texts = tuple(
            f"{problem.file}: {problem.text}" for problem in self.report.problems[n_before:]
        )
        self._damaged.append(Damaged(os.path.basename(folder), name, texts))
        return None

    def _is_named(self, folder: str, name: str) -> bool:
        """Whether the manifest that is in place now names a file."""
        newest = manifest.load(self._fs, self._directory)
        return (folder, name) in named(newest)


def _with_cold(directory: str, endpoint_url: str | None) -> FileSystem:
    """The local files, and those in an object store, which are not cached: all is to be read."""
    cache = BlockCache(filenames.cold_cache_dir(directory), lambda: 0)
    return ColdFileSystem(LocalFileSystem(), cache, open_cold_store, lambda url: endpoint_url)


def _add_segment(fs: FileSystem, catalog: Catalog, path: str) -> None:
    catalog.decode_series(read_catalog_segment(fs, path))


def _read_segment(fs: FileSystem, catalog: Catalog, path: str) -> None:
    read_catalog_segment(fs, path)


def _empty_catalog(current: Manifest) -> Catalog:
    options = Options()
    return Catalog(
        secret=bytes.fromhex(current.secret), limits=options.labels, max_series=options.max_series
    )


def inspect(path: str | os.PathLike[str], *, tombstones: bool = False) -> dict[str, Any]:
    """What a directory holds, as plain values: format, parts, sizes, bytes per sample.

    ``component_bytes`` is the share of a part's size that histograms and start timestamps have.
    With `tombstones` there are also those, and how many samples each still hides: for that the
    catalog, the log and some axes are read.
    """
    fs = LocalFileSystem()
    directory = os.fspath(path)
    current = manifest.load(fs, directory)
    parts = [
        {
            "name": entry.name,
            "level": entry.level,
            "mint": entry.mint,
            "maxt": entry.maxt,
            "samples": entry.n_samples,
            "series": entry.n_series,
            "size_bytes": entry.size_bytes,
            "component_bytes": component_bytes(fs, filenames.part_dir(directory, entry.name)),
            "bytes_per_sample": round(entry.size_bytes / max(1, entry.n_samples), 3),
        }
        for entry in current.parts
    ]
    segments = [n for n in list_segments(fs, directory) if n >= current.wal_floor]
    wal_bytes = sum(fs.size(filenames.wal_path(directory, number)) for number in segments)
    catalog_bytes = sum(
        fs.size(filenames.catalog_path(directory, name)) for name in current.catalog_segments
    )
    samples = sum(entry.n_samples for entry in current.parts)
    part_bytes = sum(entry.size_bytes for entry in current.parts)
    return {
        "directory": directory,
        "format_version": current.format_version,
        "database_id": current.database_id,
        "generation": current.generation,
        "series_in_catalog": current.next_ref,
        "catalog_bytes": catalog_bytes,
        "samples_in_parts": samples,
        "part_bytes": part_bytes,
        "bytes_per_sample": round((part_bytes + catalog_bytes) / max(1, samples), 3),
        "wal_segments": len(segments),
        "wal_bytes": wal_bytes,
        "parts": parts,
        **({"tombstones": _tombstones(fs, directory)} if tombstones else {}),
    }


def _tombstones(fs: FileSystem, directory: str) -> list[dict[str, Any]]:
    """The tombstones by age; ``bytes`` are about those that the hidden samples take in parts."""
    state = recover(fs, directory, Options(), read_only=True).state
    found = []
    try:
        for tombstone in state.tombstones:
            samples, n_bytes = hidden_by(tombstone, state)
            found.append(
                {
                    "sequence": tombstone.seq,
                    "mint": tombstone.mint,
                    "maxt": tombstone.maxt,
                    "series": len(tombstone.refs),
                    "samples": samples,
                    "bytes": n_bytes,
                    "file": None if tombstone.entry is None else tombstone.entry.name,
                }
            )
    finally:
        for part in state.parts:
            part.close()
        for tier in state.tiers:
            tier.close()
    return found
