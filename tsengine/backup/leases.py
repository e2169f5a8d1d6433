"""Who works at a place for backups: contents are removed only while nobody makes a backup.

A lease is an object in `running/`. Each side puts its own first and looks for the other's then, so
of two at least one sees the other: a backup waits for pruning to end, and pruning leaves contents
for the next time. The lease of a killed process counts until it is `_STALE_MS` old by the store's
clock; holders renew theirs.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

from tsengine.backup.record import LEASES
from tsengine.backup.store import ObjectStore
from tsengine.errors import StorageError

BACKUP = "backup"
PRUNE = "prune"
_RENEW_S = 300.0
_STALE_MS = 6 * 3600 * 1000
_PATIENCE_S = 600.0
_NAP_S = 1.0


class Lease:
    """One holder's lease; made by `hold`."""

    def __init__(self, store: ObjectStore, kind: str) -> None:
        self._store = store
        self.key = f"{LEASES}/{kind}-{secrets.token_hex(8)}"
        self._renewed_s = time.monotonic()
        store.replace(self.key, b"")

    def renew(self) -> None:
        """Call from time to time while the work goes on."""
        if time.monotonic() - self._renewed_s > _RENEW_S:
            self._renewed_s = time.monotonic()
            self._store.replace(self.key, b"")

    def others(self, kind: str) -> list[str]:
        """Keys of other holders' leases of a kind."""
        leases = {found.key: found.modified_ms for found in self._store.list(LEASES)}
        now_ms = leases.get(self.key, max(leases.values(), default=0))
        return [
            key
            for key, modified_ms in leases.items()
            if key != self.key
            and key.startswith(f"{LEASES}/{kind}-")
            and now_ms - modified_ms < _STALE_MS
        ]

    def wait_for_others(self, kind: str) -> None:
        """Return when nobody else holds one of that kind; raises StorageError after minutes."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while others := self.others(kind):
            if time.monotonic() > deadline_s:
                raise StorageError(
                    f"{self._store.url}: {others[0]} says that other work goes on there; if that "
                    "is not so, remove that object"
                )
            time.sleep(_NAP_S)

    def remove_stale(self) -> None:
        """Remove leases of killed processes."""
        leases = {found.key: found.modified_ms for found in self._store.list(LEASES)}
        now_ms = leases.get(self.key, 0)
        self._store.delete([key for key, at in leases.items() if now_ms - at >= _STALE_MS])


@contextlib.contextmanager
def hold(store: ObjectStore, kind: str) -> Iterator[Lease]:
    """Hold a lease; it is given back whatever happens, but for a kill."""
    lease = Lease(store, kind)
    try:
        yield lease
    finally:
        with contextlib.suppress(StorageError):
            store.delete([lease.key])
