"""Removing old backups, then the contents that no backup needs any more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tsengine.backup import leases, places, record
from tsengine.backup.store import ObjectStore, StoreOptions, open_store
from tsengine.clock import Clock, system_clock


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What went. ``is_postponed``: a backup was being made, so contents stay for the next time."""

    removed: tuple[str, ...]
    n_contents: int
    n_bytes: int
    is_postponed: bool


def prune_backups(
    dest: str | os.PathLike[str],
    *,
    keep: int | None = None,
    keep_within_ms: int | None = None,
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
        all stay. The newest one always stays.

    Raises
    ------
    StorageError
        The place can't be reached, or a record can't be read: no content is removed then.

    """
    store = open_store(dest, options)
    with leases.hold(store, leases.PRUNE) as lease:
        lease.remove_stale()
        names = places.backup_names(store)
        kept = plan_keep(names, keep, keep_within_ms, clock())
        removed = tuple(name for name in names if name not in kept)
        # Records first: what an interruption leaves is contents without use, not the reverse.
        store.delete([record.record_key(name) for name in removed])
        if lease.others(leases.BACKUP):
            return PruneReport(removed, 0, 0, is_postponed=True)
        n_contents, n_bytes = _remove_unused(store, lease)
    return PruneReport(removed, n_contents, n_bytes, is_postponed=False)


def plan_keep(
    names: Sequence[str], keep: int | None, keep_within_ms: int | None, now_ms: int
) -> frozenset[str]:
    """Which of some backups (oldest first) stay."""
    if keep is None and keep_within_ms is None:
        return frozenset(names)
    newest = max(1, keep or 0)
    kept = set(names[-newest:])
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
    lease.renew()
    store.delete([found.key for found in unused])
    return len(unused), sum(found.size for found in unused)
