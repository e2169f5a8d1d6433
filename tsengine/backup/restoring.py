"""Restoring: every file of a backup into an empty directory, the manifest last.

While it goes on a file named `restoring` stands in the directory; with that and without a manifest
nobody opens it, and the same restore may be run again: files that arrived whole are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

from tsengine.backup import leases, places
from tsengine.backup.contents import in_parallel, sha256_of_file
from tsengine.backup.places import Progress
from tsengine.backup.record import BackupFile, BackupRecord
from tsengine.backup.store import ObjectStore, StoreOptions, open_store
from tsengine.errors import CorruptionError, StorageError
from tsengine.storage import filenames, manifest
from tsengine.storage.filesystem import FileSystem, LocalFileSystem, storage_error


def restore_backup(
    dest: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    at_ms: int | None = None,
    name: str | None = None,
    options: StoreOptions | None = None,
    progress: Progress | None = None,
    fs: FileSystem | None = None,
) -> BackupRecord:
    """Bring a backup back as the database directory ``path``.

    Parameters
    ----------
    dest
        Where the backups are.
    path
        Must not exist, be empty, or be what an interrupted restore of the same backup left.
    at_ms
        Take the newest backup that is not later; None takes the newest of all.
    name
        Take this one.

    Raises
    ------
    StorageError
        There is no such backup, ``path`` is in use, or something can't be read or written.
    CorruptionError
        A content is missing or damaged.

    """
    fs = fs or LocalFileSystem()
    store = open_store(dest, options, fs)
    places.require_place(store)
    with leases.hold_if_possible(store, leases.READ):
        return _restore(fs, store, os.path.abspath(path), at_ms, name, progress)


def _restore(
    fs: FileSystem,
    store: ObjectStore,
    directory: str,
    at_ms: int | None,
    name: str | None,
    progress: Progress | None,
) -> BackupRecord:
    chosen = places.choose_backup(store, at_ms=at_ms, name=name)
    try:
        _prepare(fs, directory, chosen)
        _fetch_all(fs, store, directory, chosen, progress)
        # Found out before it counts: the manifest reads, and its files are there.
        manifest.load(fs, directory)
        fs.unlink(filenames.restoring_path(directory))
        fs.sync_dir(directory)
    except OSError as error:
        raise storage_error(error, f"restoring into {directory}") from error
    return chosen


def _prepare(fs: FileSystem, directory: str, chosen: BackupRecord) -> None:
    """Make the directory and put the mark in it, or find the mark of the same restore."""
    fs.mkdir(directory)
    mark = filenames.restoring_path(directory)
    names = fs.listdir(directory)
    content = f"backup {chosen.name}\n".encode()
    if os.path.basename(mark) in names:
        before = fs.read_file(mark)
        if before not in (b"", content):
            text = before.decode("utf-8", "replace").strip()
            raise StorageError(
                f"{directory} has what an interrupted restore of another backup left ({text}); "
                "finish that one, or empty the directory"
            )
    elif names:
        raise StorageError(f"{directory} is not empty; a restore needs an empty directory")
    fs.write_file(mark, content)
    fs.sync_dir(directory)
    fs.sync_dir(os.path.dirname(directory))


def _fetch_all(
    fs: FileSystem,
    store: ObjectStore,
    directory: str,
    chosen: BackupRecord,
    progress: Progress | None,
) -> None:
    files = [file for file in chosen.files if file.path != filenames.MANIFEST]
    last = [file for file in chosen.files if file.path == filenames.MANIFEST]
    if not last:
        raise CorruptionError("the backup has no manifest", path=f"{store.url}/{chosen.key}")
    folders = {os.path.join(directory, folder) for folder in filenames.DIRS}
    folders |= {os.path.dirname(_target(directory, file)) for file in files}
    for folder in sorted(folders):
        fs.mkdir(folder)
    done = 0

    def fetch(file: BackupFile) -> None:
        _fetch(fs, store, _target(directory, file), file)

    def report(file: BackupFile) -> None:
        nonlocal done
        done += file.size
        if progress is not None:
            progress(done, chosen.size_bytes)

    for file, _ in in_parallel(store, fetch, files):
        report(file)
    parents = {os.path.dirname(folder) for folder in folders}
    for folder in sorted(folders | parents, key=len, reverse=True):
        fs.sync_dir(folder)
    fetch(last[0])
    fs.sync_dir(directory)
    report(last[0])


def _target(directory: str, file: BackupFile) -> str:
    return os.path.join(directory, *file.path.split("/"))


def _fetch(fs: FileSystem, store: ObjectStore, target: str, file: BackupFile) -> None:
    """One file, unless it is there whole already."""
    where = f"{store.url}/{file.key}"
    if fs.exists(target) and sha256_of_file(fs, target) == file.sha256:
        return
    temporary = target + filenames.TMP_SUFFIX
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(temporary)
    try:
        _download(fs, store.stream(file.key), temporary, file, where)
    except FileNotFoundError:
        raise CorruptionError(f"the content of {file.path} is missing", path=where) from None
    fs.rename(temporary, target)


def _download(
    fs: FileSystem, pieces: Iterator[bytes], temporary: str, file: BackupFile, where: str
) -> None:
    digest = hashlib.sha256()
    writing = fs.open_append(temporary)
    try:
        for piece in pieces:
            digest.update(piece)
            writing.write(piece)
        writing.datasync()
    finally:
        writing.close()
    if digest.hexdigest() != file.sha256:
        raise CorruptionError(f"the content of {file.path} has another checksum", path=where)
