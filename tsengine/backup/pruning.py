"""Removing old backups, then the contents that no backup needs any more."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tsengine.backup import leases, places, record
from tsengine.backup.store import ObjectStore, StoreOptions, open_store
from tsengine.clock import Clock, system_clock

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What went. ``is_postponed``: a backup was made or read, contents stay for the next time."""

    removed: tuple[str, ...]
    n_contents: int
    n_bytes: int
    is_postponed: bool


def prune_backups(
    dest: str | os.PathLike[str],
    *,
    keep: int | None = None,
    keep_within_ms: int | None = None,
    protect: Collection[str] = (),
    options: StoreOptions | None = None,
    clock: Clock = system_clock,
) -> PruneReport:
    """Remove all backups but those to keep, and contents that none of these needs.

    Parameters
    ----------
    keep
        The newest that many stay.
    keep_within_ms
        Those not older than this stay. With both, a backup stays for either reason; with neither,
        all stay. The newest one always stays. Backups dated in the future, by a clock that was
        wrong, stay until their time has come, and are not counted.
    protect
        Names of backups that stay in any case.

    Raises
    ------
    StorageError
        There are no backups, the place can't be reached, or a record can't be read: no content is
        removed then.

    """
    store = open_store(dest, options)
    places.require_place(store)
    with leases.hold(store, leases.PRUNE) as lease:
        lease.remove_leftovers()
        names = places.backup_names(store)
        kept = plan_keep(names, keep, keep_within_ms, clock()) | set(protect)
        removed = tuple(name for name in names if name not in kept)
        # Records first: what an interruption leaves is contents without use, not the reverse.
        store.delete([record.record_key(name) for name in removed])
        # Who begins to read later sees only records that stay.
        if lease.others(leases.BACKUP) or lease.others(leases.READ):
            return PruneReport(removed, 0, 0, is_postponed=True)
        n_contents, n_bytes = _remove_unused(store, lease)
    return PruneReport(removed, n_contents, n_bytes, is_postponed=False)


def plan_keep(
    names: Sequence[str], keep: int | None, keep_within_ms: int | None, now_ms: int
) -> frozenset[str]:
    """Which of some backups (oldest first) stay; those after ``now_ms`` do, and do not count."""
    if keep is None and keep_within_ms is None:
        return frozenset(names)
    past = [name for name in names if record.time_of_name(name) <= now_ms]
    kept = set(past[-max(1, keep or 0) :]) | set(names[len(past) :])
    if keep_within_ms is not None:
        kept |= {n for n in names if record.time_of_name(n) >= now_ms - keep_within_ms}
    return frozenset(kept)


def _remove_unused(store: ObjectStore, lease: leases.Lease) -> tuple[int, int]:
    stored = store.list(record.CONTENTS)
    used = {
        file.key
        for name in places.backup_names(store)
        for file in places.read_record(store, name).files
    }
    unused = [found for found in stored if found.key not in used]
    for start in range(0, len(unused), _AT_ONCE):
        lease.ensure()
        store.delete([found.key for found in unused[start : start + _AT_ONCE]])
    return len(unused), sum(found.size for found in unused)
