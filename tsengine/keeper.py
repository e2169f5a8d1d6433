"""How a database is kept: flushes, merges, tiers, copies, options. `Database` inherits it."""

from __future__ import annotations

import os
from typing import Any

from tsengine.backup.making import BackupReport, Verify, make_backup
from tsengine.backup.places import Progress
from tsengine.backup.store import StoreOptions
from tsengine.clock import Clock
from tsengine.options import Options
from tsengine.query.engine import Engine
from tsengine.storage.database import StorageDatabase
from tsengine.storage.retention_report import RetentionPlan
from tsengine.storage.snapshot import snapshot_path


class Keeper:
    """Administration; any thread."""

    _storage: StorageDatabase
    _engine: Engine
    _clock: Clock
    options: Options
    path: str

    def flush(self) -> None:
        """Write the recent samples as a part; returns when it is committed."""
        self._storage.flush()

    def compact(self) -> None:
        """Merge all parts; returns when it is done."""
        self._storage.compact()

    def build_tiers(self) -> None:
        """Build the tiers of all UTC days that have ended; returns when it is done.

        They are built in the background too, some time after a day's end (`Options.tier_delay`);
        this builds them now. Days in which samples arrive meanwhile are left for later.
        """
        self._storage.build_tiers()

    def pause_background(self) -> None:
        """Do nothing in the background but write recent samples as parts, until resumed.

        What is under way is given up and begun again later; returns when nothing runs any more.
        Calls as `compact` work meanwhile.
        """
        self._storage.maintenance.pause()

    def resume_background(self) -> None:
        """Go on after `pause_background`."""
        self._storage.maintenance.resume()

    def snapshot(
        self, dest: str | os.PathLike[str] | None = None, *, skip_head: bool = False
    ) -> str:
        """Copy the database as it is now to a new directory; returns that directory's path.

        The copy is a database of its own: open it, move it, write to it. It is made of hard links,
        at once and without taking space; on another disk the files are copied. What is acknowledged
        before the call is in it.

        Parameters
        ----------
        dest
            Must not exist. None makes a name of the time in the folder ``snapshots`` of the
            database's own directory.
        skip_head
            Leave out what is not in parts yet, which saves writing a part.

        Raises
        ------
        StorageError
            `dest` exists, or can't be written; nothing is left behind then.

        """
        path = snapshot_path(self.path, self._clock()) if dest is None else os.fspath(dest)
        self._storage.snapshot(path, skip_head=skip_head)
        return path

    def backup(
        self,
        dest: str | os.PathLike[str],
        *,
        options: StoreOptions | None = None,
        verify: Verify = "new",
        progress: Progress | None = None,
    ) -> BackupReport:
        """Add a backup to a place, a directory or ``s3://bucket/prefix``; see `make_backup`.

        What is acknowledged before the call is in it. Appends and queries go on meanwhile.
        """
        if not self._storage.read_only:
            self.flush()
        return make_backup(
            self.path, dest, options=options, verify=verify, progress=progress,
            with_log=self._storage.read_only, cold_endpoint_of=self._cold_endpoint_of,
            clock=self._clock,
        )  # fmt: skip

    def _cold_endpoint_of(self, url: str) -> str | None:
        return self.options.cold_endpoint_url if url == self.options.cold_url else None

    def reconfigure(self, **changes: Any) -> None:
        """Change options of the open database: all that are named or, on an error, none.

        Raises
        ------
        OptionsError
            An option is out of its range, or only opening the database anew can change it; those
            that may change are `tsengine.options.RUNTIME_OPTIONS`.

        """
        self.options = self._storage.reconfigure(changes)
        self._engine.reconfigure(self.options)

    def retention_plan(self, **changes: Any) -> RetentionPlan:
        """What retention would remove now, with some options changed; removes nothing.

        Works on a database opened with ``read_only`` too.

        Parameters
        ----------
        changes
            ``retention``, ``retention_size``, ``retention_rules`` and ``tiers`` instead of those
            the database was opened with.

        Raises
        ------
        OptionsError
            An option is out of its range, or a rule has no selector.

        """
        return self._storage.retention_plan(changes)

    def stats(self) -> dict[str, int | float]:
        """Counts and sizes as plain numbers."""
        stats: dict[str, int | float] = dict(self._storage.stats())
        stats["query_memory_bytes"] = stats["memory_bytes:queries"] = self._engine.memory.used
        stats["query_memory_limit_bytes"] = self._engine.memory.size
        return stats

    @property
    def recovery_problems(self) -> list[str]:
        """What the start found damaged, as readable lines; empty when all was well."""
        return self._storage.recovery.lines()
