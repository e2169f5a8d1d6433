"""Reading a place for backups: its records, the choice of one, and checking all contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tsengine.backup import leases, record
from tsengine.backup.contents import content_problem, in_parallel
from tsengine.backup.record import BackupRecord
from tsengine.backup.store import ObjectStore, StoreOptions, open_store
from tsengine.errors import CorruptionError, StorageError, UnsupportedFormat
from tsengine.storage import filenames

Progress = Callable[[int, int], None]
"""Called with (bytes done, in all)."""


class NoSuchBackup(StorageError):
    """A place has no backup of a name."""


@dataclass(slots=True)
class BackupCheck:
    """What `check_backups` found: problems with the key of the object, notes that harm nothing."""

    n_backups: int = 0
    n_contents: int = 0
    n_bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def require_place(store: ObjectStore) -> None:
    """Raise StorageError unless a backup was ever begun there."""
    try:
        store.read(record.MARKER)
    except FileNotFoundError:
        if not backup_names(store):
            raise StorageError(
                f"{store.url} has no backups: there is no {record.MARKER} in it"
            ) from None


def backup_names(store: ObjectStore) -> list[str]:
    """Names of all whole backups, oldest first."""
    names = (record.name_of_key(found.key) for found in store.list(record.RECORDS))
    return sorted(name for name in names if name is not None)


def read_record(store: ObjectStore, name: str) -> BackupRecord:
    """The record of a backup.

    Raises
    ------
    StorageError
        There is no such backup; CorruptionError and UnsupportedFormat as in `record.decode`.

    """
    key = record.record_key(name)
    try:
        data = store.read(key)
    except FileNotFoundError:
        raise NoSuchBackup(f"{store.url} has no backup {name!r}") from None
    found = record.decode(data, f"{store.url}/{key}")
    if found.name != name:
        raise CorruptionError(f"the record is that of {found.name}", path=f"{store.url}/{key}")
    return found


def list_backups(
    dest: str | os.PathLike[str],
    options: StoreOptions | None = None,
    *,
    on_damaged: Callable[[str, StorageError], None] | None = None,
) -> list[BackupRecord]:
    """All backups at a place, oldest first.

    Parameters
    ----------
    on_damaged
        Called with the key of a record that can't be read and the reason; the others are listed
        all the same. None raises the reason.

    Raises
    ------
    StorageError
        The place can't be reached, or nobody ever made a backup there.

    """
    store = open_store(dest, options)
    require_place(store)
    listed = []
    for name, found in _all_records(store):
        if isinstance(found, BackupRecord):
            listed.append(found)
        elif on_damaged is None:
            raise found
        else:
            on_damaged(record.record_key(name), found)
    return listed


def _all_records(store: ObjectStore) -> Iterator[tuple[str, BackupRecord | StorageError]]:
    """Names with records, or with what is wrong with them; without those that go meanwhile."""
    for name in backup_names(store):
        try:
            yield name, read_record(store, name)
        except NoSuchBackup:
            continue
        except (CorruptionError, UnsupportedFormat) as error:
            yield name, error


def choose_backup(store: ObjectStore, *, at_ms: int | None, name: str | None) -> BackupRecord:
    """The backup of that name, or the newest that is not later than ``at_ms`` (None: of all).

    Raises
    ------
    StorageError
        There is none; the text says which there are.

    """
    if name is not None:
        return read_record(store, name)
    require_place(store)
    names = backup_names(store)
    if not names:
        raise StorageError(f"{store.url} has no backups")
    fitting = [n for n in names if at_ms is None or record.time_of_name(n) <= at_ms]
    if not fitting:
        raise StorageError(f"{store.url} has no backup of that time or before; first: {names[0]}")
    return read_record(store, fitting[-1])


def check_backups(
    dest: str | os.PathLike[str],
    options: StoreOptions | None = None,
    progress: Progress | None = None,
) -> BackupCheck:
    """Read back every content that a backup at a place needs, and compare sizes and checksums.

    Raises
    ------
    StorageError
        The place can't be reached, or nobody ever made a backup there.

    """
    store = open_store(dest, options)
    require_place(store)
    with leases.hold_if_possible(store, leases.READ):
        return _check(store, progress)


def _check(store: ObjectStore, progress: Progress | None) -> BackupCheck:
    report = BackupCheck()
    needed: dict[str, tuple[int, str]] = {}
    databases: set[str] = set()
    for name, found in _all_records(store):
        if not isinstance(found, BackupRecord):
            report.problems.append((record.record_key(name), str(found)))
            continue
        report.n_backups += 1
        databases.add(found.database_id)
        if filenames.MANIFEST not in {file.path for file in found.files}:
            report.problems.append((record.record_key(name), "the backup has no manifest"))
        needed |= {file.key: (file.size, file.sha256) for file in found.files}
    problem = _marker_problem(store, databases)
    if problem is not None:
        report.problems.append((record.MARKER, problem))
    stored = {found.key: found.size for found in store.list(record.CONTENTS)}
    n_unused = len(stored.keys() - needed.keys())
    if n_unused:
        report.notes.append(f"{n_unused} contents are used by no backup; pruning removes them")
    report.n_contents, report.n_bytes = len(needed), sum(size for size, _ in needed.values())
    done = 0

    def verify(item: tuple[str, tuple[int, str]]) -> str | None:
        return content_problem(store, item[0], *item[1])

    for (key, (size, _)), problem in in_parallel(store, verify, sorted(needed.items())):
        if problem is not None:
            report.problems.append((key, problem))
        done += size
        if progress is not None:
            progress(done, report.n_bytes)
    return report


def _marker_problem(store: ObjectStore, databases: set[str]) -> str | None:
    """What is wrong with the object that says whose backups are there; None for nothing."""
    try:
        owner = record.database_of_marker(store.read(record.MARKER), record.MARKER)
    except FileNotFoundError:
        return "is missing" if databases else None
    except (CorruptionError, UnsupportedFormat) as error:
        return str(error)
    if databases - {owner}:
        return f"names the database {owner}, not that of the backups"
    return None
