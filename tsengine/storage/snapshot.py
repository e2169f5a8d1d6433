"""Snapshots: a second database directory of hard links to the sealed files of a first one.

Sealed files never change (docs/format/directory.md), so links are enough and a snapshot takes no
space until one of the two databases drops a file. What grows, the last segment of the log, is
copied. A snapshot is built under another name and moved to its own when its manifest is in place:
under its own name it is whole. Any process may make one, the writer too. It holds the lock of the
folder that it builds (`folder_lock.py`), so that no other takes that for a leftover.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from tsengine.errors import CorruptionError, StorageError
from tsengine.storage import filenames, manifest, wal_records
from tsengine.storage.filesystem import FileSystem, remove_tree, storage_error
from tsengine.storage.folder_lock import FolderLock, remove_unless_held
from tsengine.storage.manifest import Manifest
from tsengine.storage.wal_format import END_UNKNOWN
from tsengine.storage.wal_reader import list_segments, replay

_TRIES_MIN = 10
_TRY_S = 30.0
_PAUSE_S_MAX = 0.2
_FREE_TRIES = 2
"""Before the writer is stopped for a moment, if that can be."""
_COPY_BYTES = 4 << 20
_SYNC_ALONE_MAX = 64
_SYNC_THREADS = 16
_sleep = time.sleep
NO_LINKS = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """What a snapshot consists of; paths are relative to the database.

    Parameters
    ----------
    current
        The manifest, as it will stand in the snapshot.
    sealed
        Files to link.
    growing
        ``(path, size)`` of the log's last segment, to be copied up to its last whole record.

    """

    current: Manifest
    sealed: tuple[str, ...]
    growing: tuple[str, int] | None


Stop = Callable[[], contextlib.AbstractContextManager[None]]
"""Keeps the writer from committing anything meanwhile."""


def make_snapshot(
    fs: FileSystem, directory: str, dest: str, *, with_log: bool, stop: Stop | None = None
) -> Manifest:
    """Make the new directory ``dest``, a database with what ``directory`` holds.

    Parameters
    ----------
    with_log
        Also take the log, and with it the samples that are in no part yet. Without it the
        snapshot is what the last flush committed; but the log is taken if there are deletes in it.
    stop
        Of the writer itself: used when it commits so often that no attempt comes through.

    Raises
    ------
    StorageError
        ``dest`` is there already, or can't be made; nothing is left of the attempt.
    CorruptionError
        A file that the manifest names is missing.

    """
    dest = os.path.abspath(dest)
    if fs.exists(dest):
        raise StorageError(f"{dest} is there already")
    building = filenames.unfinished_snapshot(dest, secrets.token_hex(4))
    try:
        with pinned(fs, directory, building, with_log=with_log, durable=True, stop=stop) as current:
            if fs.exists(dest):
                raise StorageError(f"{dest} is there already")
            fs.rename(building, dest)
            fs.sync_dir(os.path.dirname(dest))
    except OSError as error:
        raise storage_error(error, f"making the snapshot {dest}") from error
    return current


@contextlib.contextmanager
def pinned(
    fs: FileSystem,
    directory: str,
    folder: str,
    *,
    with_log: bool,
    durable: bool = False,
    stop: Stop | None = None,
) -> Iterator[Manifest]:
    """A snapshot in the new folder ``folder``, until the end of the ``with`` statement.

    It is removed then, if it still has that name. A name of `filenames.unfinished_snapshot` in the
    database's own folder is removed by the next start of a writer when this process was killed.

    Parameters
    ----------
    with_log, stop
        As of `make_snapshot`.
    durable
        Whether it outlives a power cut.

    Raises
    ------
    OSError, StorageError, CorruptionError

    """
    lock = FolderLock(folder)
    try:
        yield _build(fs, directory, folder, lock, with_log=with_log, durable=durable, stop=stop)
    finally:
        with contextlib.suppress(OSError):
            if fs.exists(folder):
                remove_tree(fs, folder)
        lock.release()


def remove_abandoned(fs: FileSystem, directory: str) -> None:
    """Remove unfinished snapshots of processes that were killed, as far as that is known."""
    folder = filenames.snapshots_dir(directory)
    with contextlib.suppress(FileNotFoundError):
        for name in fs.listdir(folder):
            if filenames.is_unfinished_snapshot(name):
                with contextlib.suppress(OSError):
                    remove_unless_held(fs, os.path.join(folder, name), if_unknown=False)


def snapshot_path(directory: str, now_ms: int) -> str:
    """A new path inside the database for a snapshot; named as Prometheus does."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    name = f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"
    return os.path.join(filenames.snapshots_dir(directory), name)


def _build(
    fs: FileSystem,
    directory: str,
    building: str,
    lock: FolderLock,
    *,
    with_log: bool,
    durable: bool,
    stop: Stop | None,
) -> Manifest:
    """Fill ``building`` and hold it; tried again when the writer replaced a file meanwhile."""
    missing_before: str | None = None
    until_s = time.monotonic() + _TRY_S
    n_tries = 0
    while n_tries < _TRIES_MIN or time.monotonic() < until_s:
        n_tries += 1
        with contextlib.nullcontext() if stop is None or n_tries <= _FREE_TRIES else stop():
            current = manifest.load(fs, directory)
            missing: str | None = None
            lock.take(fs)
            try:
                # Deletes that only the log knows: without them the samples would come back.
                takes_log = with_log or _log_has_deletes(fs, directory, current)
                plan = plan_snapshot(fs, directory, current, with_log=takes_log)
                folders = _link_all(fs, directory, building, plan)
                if durable:
                    _sync_all(fs, folders)
            except FileNotFoundError as error:
                missing = str(error.filename)
            else:
                if not takes_log or _log_is_same(fs, directory, plan):
                    # Last: a folder without a manifest is no database.
                    manifest.swap(fs, building, current)
                    return current
        if fs.exists(building):
            remove_tree(fs, building)
        lock.release()
        is_same = manifest.load(fs, directory).generation == current.generation
        if missing is not None and is_same and missing == missing_before:
            raise CorruptionError("the file is missing", path=missing)
        # Once may be a file that was just moved to an object store: its stub is there instead.
        missing_before = missing
        _sleep(min(0.01 * n_tries, _PAUSE_S_MAX))
    raise StorageError(f"{directory} changes too fast to take a snapshot; try again")


def plan_snapshot(
    fs: FileSystem, directory: str, current: Manifest, *, with_log: bool
) -> SnapshotPlan:
    """Which files a snapshot has; raises FileNotFoundError when one is gone."""
    sealed = list(sealed_files(fs, directory, current))
    growing = None
    if with_log:
        segments = [n for n in list_segments(fs, directory) if n >= current.wal_floor]
        sealed += [_relative_wal(number) for number in segments[:-1]]
        if segments:
            last = segments[-1]
            growing = _relative_wal(last), _whole_size(fs, directory, last, current.database_id)
    return SnapshotPlan(current, tuple(sealed), growing)


def sealed_files(fs: FileSystem, directory: str, current: Manifest) -> Iterator[str]:
    """Relative paths of all files that a manifest names, those inside of parts too."""
    for folder, names in (
        (filenames.CATALOG_DIR, current.catalog_segments),
        (filenames.METADATA_DIR, [current.metadata_file] if current.metadata_file else []),
        (filenames.EXEMPLARS_DIR, [entry.name for entry in current.exemplar_files]),
        (filenames.TOMBSTONES_DIR, [entry.name for entry in current.tombstones]),
    ):
        yield from (os.path.join(folder, name) for name in names)
    for folder, entries in (
        (filenames.PARTS_DIR, current.parts), (filenames.TIERS_DIR, current.tiers),
    ):  # fmt: skip
        for entry in entries:
            yield from files_below(fs, directory, os.path.join(folder, entry.name))


def files_below(fs: FileSystem, directory: str, relative: str) -> Iterator[str]:
    """Paths, relative to ``directory``, of the files in a folder; NotADirectoryError for a file."""
    for name in fs.listdir(os.path.join(directory, relative)):
        path = os.path.join(relative, name)
        try:
            yield from files_below(fs, directory, path)
        except NotADirectoryError:
            yield path


def _relative_wal(number: int) -> str:
    return os.path.join(filenames.WAL_DIR, filenames.wal_name(number))


def _whole_size(fs: FileSystem, directory: str, segment: int, database_id: str) -> int:
    """Bytes up to the last whole record; all bytes if the segment is damaged."""
    size = fs.size(filenames.wal_path(directory, segment))
    records = replay(
        fs, directory, first_segment=segment, database_id=database_id, read_only=True
    )  # fmt: skip
    for record in records:
        if record.segment != segment:
            break  # the log went on meanwhile; the caller sees that too
    number, end = records.report.previous
    return size if number != segment or end == END_UNKNOWN else end


def _log_has_deletes(fs: FileSystem, directory: str, current: Manifest) -> bool:
    records = replay(
        fs, directory, first_segment=current.wal_floor, database_id=current.database_id,
        read_only=True,
    )  # fmt: skip
    return any(record.type == wal_records.TOMBSTONE for record in records)


def _log_is_same(fs: FileSystem, directory: str, plan: SnapshotPlan) -> bool:
    """Whether no flush committed and no segment was begun since the plan was made.

    Else the plan's parts and segments may lack samples that moved from one to the other.
    """
    if manifest.load(fs, directory).wal_floor != plan.current.wal_floor:
        return False
    segments = list_segments(fs, directory)
    last = None if plan.growing is None else os.path.basename(plan.growing[0])
    return (filenames.wal_name(segments[-1]) if segments else None) == last


def _link_all(fs: FileSystem, directory: str, building: str, plan: SnapshotPlan) -> list[str]:
    """Make all folders and links; returns the folders, inner ones first."""
    folders = {os.path.join(building, name) for name in filenames.DIRS}
    folders |= {os.path.dirname(os.path.join(building, path)) for path in plan.sealed}
    for folder in sorted(folders):
        fs.mkdir(folder)
    for path in plan.sealed:
        link_or_copy(fs, os.path.join(directory, path), os.path.join(building, path))
    if plan.growing is not None:
        path, size = plan.growing
        copy_file(fs, os.path.join(directory, path), os.path.join(building, path), size)
    parents = {os.path.dirname(folder) for folder in folders} | {building}
    return sorted(folders | parents, key=len, reverse=True)


def _sync_all(fs: FileSystem, folders: list[str]) -> None:
    """Sync folders; many at once, so that the file system commits them together."""
    if len(folders) <= _SYNC_ALONE_MAX:
        for folder in folders:
            fs.sync_dir(folder)
        return
    with ThreadPoolExecutor(_SYNC_THREADS, "tsengine-sync") as pool:
        for _ in pool.map(fs.sync_dir, folders):
            pass


def link_or_copy(fs: FileSystem, source: str, target: str) -> None:
    """Give a sealed file a second name; where that can't be (another disk), copy it durably."""
    try:
        fs.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if filenames.is_stub(source):
            # Whether others need its object is told by the number of its links.
            raise StorageError(
                f"{target} would be on another disk, or one without hard links, and share objects "
                "of the store with this database, and either could remove them; "
                "make a backup instead"
            ) from error
        copy_file(fs, source, target)


def copy_file(fs: FileSystem, source: str, target: str, size: int | None = None) -> None:
    """Copy the first ``size`` bytes (None: all) to a new file and sync it; not its name."""
    reading = fs.open_read(source)
    try:
        end = reading.size if size is None else min(size, reading.size)
        writing = fs.open_append(target)
        try:
            for offset in range(0, end, _COPY_BYTES):
                writing.write(reading.pread(offset, min(_COPY_BYTES, end - offset)))
            writing.datasync()
        finally:
            writing.close()
    finally:
        reading.close()
