"""Making a backup: pin the database by a snapshot, send what the store lacks, write the record.

Contents are kept by their checksum, so what a former backup sent is not sent again; sealed files
never change, so most are not even read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tsengine.backup import leases, places, record
from tsengine.backup.contents import content_problem, in_parallel, sha256_of_file
from tsengine.backup.places import Progress
from tsengine.backup.record import BackupFile, BackupRecord
from tsengine.backup.store import ObjectStore, StoreOptions, open_store
from tsengine.clock import Clock, system_clock
from tsengine.errors import CorruptionError, ObjectMissing, StorageError
from tsengine.storage import filenames
from tsengine.storage.cold import ColdFileSystem, read_stub
from tsengine.storage.cold_cache import BlockCache
from tsengine.storage.filesystem import FileSystem, LocalFileSystem, storage_error
from tsengine.storage.manifest import Manifest
from tsengine.storage.snapshot import pinned, remove_abandoned

Verify = Literal["new", "all", "none"]
_STAGING = "backup"


@dataclass(frozen=True, slots=True)
class BackupReport:
    """A backup that was made, and how many of its contents were sent and read back."""

    record: BackupRecord
    n_sent: int
    n_verified: int


def make_backup(
    path: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    options: StoreOptions | None = None,
    verify: Verify = "new",
    progress: Progress | None = None,
    with_log: bool = True,
    cold_endpoint_of: Callable[[str], str | None] = lambda url: None,
    clock: Clock = system_clock,
    fs: FileSystem | None = None,
) -> BackupReport:
    """Add a backup of the database in a directory to a place; a writer may be using both.

    Parameters
    ----------
    dest
        A directory, or ``s3://bucket/prefix``. It holds the backups of one database.
    verify
        ``new``: contents that were sent are read back and compared. ``all``: also those that
        former backups sent; damaged ones are sent again. ``none``: trust the store.
    with_log
        Take the log too, and with it samples that are in no part yet.
    cold_endpoint_of
        The endpoint of the object store of a URL that has moved parts, None for the one that they
        were moved to.

    Raises
    ------
    StorageError
        The directory can't be read, the place can't be written or is another database's, or what
        was read back differs. No backup is made then; what was sent is used by the next attempt.

    """
    fs = fs or LocalFileSystem()
    store = open_store(dest, options, fs)
    directory = os.path.abspath(path)
    cold = ColdFileSystem(
        fs,
        BlockCache(filenames.cold_cache_dir(directory), lambda: 0),
        lambda url, endpoint_url: open_store(url, StoreOptions(endpoint_url=endpoint_url)),
        cold_endpoint_of,
    )
    staging = filenames.unfinished_snapshot(
        os.path.join(filenames.snapshots_dir(directory), _STAGING), secrets.token_hex(4)
    )
    try:
        # By this file system, which removes objects that only a killed backup still had stubs of.
        remove_abandoned(cold, directory)
        with pinned(cold, directory, staging, with_log=with_log) as current:
            name = record.new_name(clock())
            return _send(cold, store, staging, current, name, verify, progress)
    except OSError as error:
        raise storage_error(error, f"backing up {directory}") from error


def _send(
    fs: ColdFileSystem,
    store: ObjectStore,
    staging: str,
    current: Manifest,
    name: str,
    verify: Verify,
    progress: Progress | None,
) -> BackupReport:
    _claim(store, current.database_id)
    with leases.hold(store, leases.BACKUP) as lease:
        lease.wait_for_others(leases.PRUNE)
        lease.remove_leftovers()
        try:
            files = _describe(fs, staging, _newest_files(store))
        except FileNotFoundError:
            raise _gone(staging) from None
        _check_whole(files, current, staging)
        stored = {found.key: found.size for found in store.list(record.CONTENTS)}
        by_key = {file.key: file for file in files}
        missing = {key for key, file in by_key.items() if stored.get(key) != file.size}
        to_do = [by_key[key] for key in sorted(missing if verify == "new" else by_key)]
        n_bytes, done = sum(file.size for file in to_do), 0

        def send(file: BackupFile) -> bool:
            return _send_one(fs, store, staging, file, verify, is_missing=file.key in missing)

        n_sent = new_bytes = 0
        for file, was_sent in in_parallel(store, send, to_do):
            lease.ensure()
            n_sent += was_sent
            new_bytes += file.size if was_sent else 0
            done += file.size
            if progress is not None:
                progress(done, n_bytes)
        made = _record_of(current, name, files, new_bytes)
        # Somebody who took this lease for a dead one's may have removed contents.
        lease.renew()
        lease.ensure()
        if not store.create(made.key, made.encode()):
            raise StorageError(f"{store.url}: there is a backup {name} already")
    if places.read_record(store, name) != made:
        raise StorageError(f"{store.url}/{made.key} was read back differently")
    return BackupReport(made, n_sent, 0 if verify == "none" else len(to_do))


def _claim(store: ObjectStore, database_id: str) -> None:
    """Make the place this database's; raises StorageError if it is another's."""
    try:
        data = store.read(record.MARKER)
    except FileNotFoundError:
        store.create(record.MARKER, record.marker(database_id))
        data = store.read(record.MARKER)
    owner = record.database_of_marker(data, f"{store.url}/{record.MARKER}")
    if owner != database_id:
        raise StorageError(
            f"{store.url} has the backups of another database ({owner}, this one is "
            f"{database_id}); choose another place"
        )


def _newest_files(store: ObjectStore) -> dict[str, BackupFile]:
    """Files of the newest backup that can be read, by path."""
    for name in reversed(places.backup_names(store)):
        with contextlib.suppress(StorageError):
            return {file.path: file for file in places.read_record(store, name).files}
    return {}


def _describe(
    fs: ColdFileSystem, staging: str, known: dict[str, BackupFile]
) -> tuple[BackupFile, ...]:
    """All files below a folder, by path; those in an object store as if they were here."""
    files: dict[str, BackupFile] = {}
    for folder, _, names in os.walk(staging, onerror=_raise):
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, staging).replace(os.sep, "/")
            if filenames.is_stub(relative):
                own = relative.removesuffix(filenames.STUB_SUFFIX)
                stub = read_stub(fs, path.removesuffix(filenames.STUB_SUFFIX))
                if stub is None:
                    raise _gone(staging)
                files[own] = BackupFile(own, stub.size, stub.sha256, 0)
                continue
            status = os.stat(path)
            before = known.get(relative)
            facts = status.st_size, status.st_mtime_ns
            if before is not None and (before.size, before.modified_ns) == facts:
                files.setdefault(relative, before)
            else:
                files.setdefault(
                    relative,
                    BackupFile(relative, facts[0], sha256_of_file(fs.inner, path), facts[1]),
                )
    return tuple(files[path] for path in sorted(files))


def _raise(error: OSError) -> None:
    raise error


def _gone(staging: str) -> StorageError:
    return StorageError(
        f"{staging} lost files while the backup was made; a process that opened the database to "
        "write removes what it takes for leftovers: make the backup again"
    )


def _check_whole(files: tuple[BackupFile, ...], current: Manifest, staging: str) -> None:
    """Raise StorageError unless what no database can do without is there.

    Who removes the folder begins with the catalog.
    """
    needed = {f"{filenames.CATALOG_DIR}/{name}" for name in current.catalog_segments}
    if (needed | {filenames.MANIFEST}) - {file.path for file in files}:
        raise _gone(staging)


def _fetch(fs: ColdFileSystem, path: str, file: BackupFile) -> None:
    """Bring a file here that is in an object store, and look whether it is what was moved."""
    stub = read_stub(fs, path)
    if stub is None:
        raise _gone(os.path.dirname(path))
    where = f"{stub.url}/{stub.key}"
    digest = hashlib.sha256()
    writing = fs.open_append(path)
    try:
        for piece in fs.store(stub.url, stub.endpoint_url).stream(stub.key):
            digest.update(piece)
            writing.write(piece)
    except FileNotFoundError:
        raise ObjectMissing(
            f"{where} ({file.path}): the store has no such object, or no such bucket", path=where
        ) from None
    finally:
        writing.close()
    if digest.hexdigest() != file.sha256:
        raise CorruptionError(f"the object of {file.path} has another checksum", path=where)


def _send_one(
    fs: ColdFileSystem,
    store: ObjectStore,
    staging: str,
    file: BackupFile,
    verify: Verify,
    *,
    is_missing: bool,
) -> bool:
    """Bring one content to the store and look at it as ``verify`` says; whether it was sent."""
    if not is_missing and (
        verify != "all" or content_problem(store, file.key, file.size, file.sha256) is None
    ):
        return False
    path = os.path.join(staging, *file.path.split("/"))
    is_cold = not fs.exists(path)
    if is_cold:
        _fetch(fs, path, file)
    store.upload(file.key, path)
    if is_cold:
        fs.unlink(path)
    if verify != "none":
        problem = content_problem(store, file.key, file.size, file.sha256)
        if problem is not None:
            store.delete([file.key])
            raise StorageError(
                f"{store.url}/{file.key} ({file.path}): after it was sent it {problem}"
            )
    return True


def _record_of(
    current: Manifest, name: str, files: tuple[BackupFile, ...], new_bytes: int
) -> BackupRecord:
    parts = current.parts
    return BackupRecord(
        name=name,
        database_id=current.database_id,
        mint=min((part.mint for part in parts), default=None),
        maxt=max((part.maxt for part in parts), default=None),
        n_samples=sum(part.n_samples for part in parts),
        new_bytes=new_bytes,
        files=files,
    )
