"""What the pieces of `StorageDatabase` share: fields, the state, and whether it may be used.

The pieces are base classes of it: finding and making series in `series_lane`, appends in
`append_lane`, reads in `database_reads`. `StorageDatabase` itself sets the fields.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from tsengine.clock import Clock
from tsengine.errors import Closed, ReadOnly
from tsengine.options import Options
from tsengine.storage.axis_cache import AxisCache
from tsengine.storage.catalog import Catalog
from tsengine.storage.cold import ColdFileSystem
from tsengine.storage.disk_watch import DiskWatch
from tsengine.storage.exemplars import ExemplarStore
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.held_refs import HeldRefs
from tsengine.storage.maintenance import Maintenance
from tsengine.storage.memory import StorageMemory
from tsengine.storage.metadata_store import MetadataStore
from tsengine.storage.recovery import RecoveryReport
from tsengine.storage.retention_policy import RetentionPolicy
from tsengine.storage.state import State
from tsengine.storage.wal import Wal


class DatabaseCore:
    """Fields of one open database."""

    axis_cache: AxisCache
    directory: str
    options: Options
    read_only: bool
    catalog: Catalog
    cold: ColdFileSystem | None
    disk: DiskWatch
    exemplars: ExemplarStore
    held_refs: HeldRefs
    memory: StorageMemory
    metadata: MetadataStore
    recovery: RecoveryReport
    retention: RetentionPolicy
    _clock: Clock
    _closed: bool
    _fs: FileSystem
    _log: Wal | None
    _maintenance: Maintenance | None
    _n_shed: int
    _pid: int
    _room: threading.Condition
    _state: State
    _state_lock: threading.Lock

    @property
    def state(self) -> State:
        """The present state; immutable."""
        return self._state

    def change_state(self, change: Callable[[State], State]) -> None:
        """Replace the state; readers that pinned the old one keep it."""
        with self._state_lock:
            self._state = change(self._state)
        with self._room:
            self._room.notify_all()

    def now_ms(self) -> int:
        """The database's clock."""
        return self._clock()

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise Closed("the database was opened by another process; open it again after a fork")
        if self._closed:
            raise Closed("the database is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise ReadOnly("the database was opened with read_only=True")
