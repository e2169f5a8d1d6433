"""Who works at a place for backups: contents are removed only while nobody makes or reads one.

A lease is an object in `running/` that says who holds it. Each side puts its own first and looks
for the other's then, so of two at least one sees the other: a backup waits for pruning to end, and
pruning leaves contents for the next time. A thread renews a lease while it is held. That of a
killed process expires after minutes, by the store's clock, and is removed by whoever comes next.
Who was held up so long that its own may have expired (`ensure`) gives up what it does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

from tsengine.backup.record import LEASES
from tsengine.backup.store import ObjectStore
from tsengine.errors import StorageError

_LOG = logging.getLogger(__name__)
BACKUP = "backup"
PRUNE = "prune"
READ = "read"
"""A restore or a check: any number at once, beside backups too."""
_EXPIRY_S = 300.0
_RENEW_S = 30.0
_SURE_S = _EXPIRY_S / 2
"""Work that must not outlive the lease begins up to this age; one request takes less than that."""
_PATIENCE_S = 2 * _EXPIRY_S
_NAP_S = 1.0


class Lease:
    """One holder's lease; made by `hold`. Thread-safe."""

    def __init__(self, store: ObjectStore, kind: str) -> None:
        self._store = store
        self.key = f"{LEASES}/{kind}-{secrets.token_hex(8)}"
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._is_lost = False
        self._renewed_s = _clock_s()
        holder = {"holder": f"process {os.getpid()} on {socket.gethostname()}", "work": kind}
        self._content = json.dumps(holder).encode() + b"\n"
        store.replace(self.key, self._content)
        self._thread = threading.Thread(target=self._keep, name="tsengine-lease", daemon=True)
        self._thread.start()

    def ensure(self) -> None:
        """Return if the lease counts for some minutes more.

        Raises
        ------
        StorageError
            It may have expired, and others may have gone on.

        """
        if _clock_s() - self._renewed_s > _RENEW_S:
            self.renew()
        if self._is_lost or _clock_s() - self._renewed_s > _SURE_S:
            raise StorageError(
                f"{self._store.url}: {self.key} could not be renewed in time, so others may have "
                "gone on there; run it again"
            )

    def renew(self) -> None:
        """Let it begin anew, unless somebody has removed it. Raises StorageError."""
        with self._lock:
            now_s = _clock_s()
            if self.key not in self._all():
                self._is_lost = True
            elif not self._done.is_set():
                self._store.replace(self.key, self._content)
                self._renewed_s = now_s

    def others(self, kind: str) -> list[str]:
        """Keys of other holders' leases of a kind."""
        leases = self._all()
        now_ms = leases.get(self.key, max(leases.values(), default=0))
        return [
            key
            for key, modified_ms in leases.items()
            if key != self.key
            and key.startswith(f"{LEASES}/{kind}-")
            and now_ms - modified_ms < _EXPIRY_S * 1000
        ]

    def wait_for_others(self, kind: str) -> None:
        """Return when nobody else holds one of that kind; raises StorageError after minutes."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while others := self.others(kind):
            if time.monotonic() > deadline_s:
                raise StorageError(
                    f"{self._store.url}: other work goes on there: {others[0]}, "
                    f"{self._holder(others[0])}; try again when that has ended"
                )
            time.sleep(_NAP_S)

    def remove_leftovers(self) -> None:
        """Remove what killed processes left: expired leases, and what was being written."""
        leases = self._all()
        now_ms = leases.get(self.key, 0)
        before_ms = now_ms - round(_EXPIRY_S * 1000)
        self._store.delete([key for key, at_ms in leases.items() if at_ms <= before_ms])
        self._store.remove_unfinished(before_ms)

    def give_back(self) -> None:
        """End it."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(StorageError, OSError):
            self._store.delete([self.key])

    def _all(self) -> dict[str, int]:
        """When each lease was renewed, by its key."""
        return {found.key: found.modified_ms for found in self._store.list(LEASES)}

    def _holder(self, key: str) -> str:
        with contextlib.suppress(StorageError, OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._store.read(key))["holder"])
        return "by an unknown process"

    def _keep(self) -> None:
        while not self._done.wait(_RENEW_S):
            try:
                self.renew()
            except (StorageError, OSError) as error:
                _LOG.warning("%s could not be renewed: %s", self.key, error)


@contextlib.contextmanager
def hold(store: ObjectStore, kind: str) -> Iterator[Lease]:
    """Hold a lease; it is given back whatever happens, but for a kill."""
    lease = Lease(store, kind)
    try:
        yield lease
    finally:
        lease.give_back()


@contextlib.contextmanager
def hold_if_possible(store: ObjectStore, kind: str) -> Iterator[None]:
    """Hold a lease, or none where nothing may be written: then nothing keeps pruning away."""
    try:
        lease = Lease(store, kind)
    except (StorageError, OSError) as error:
        _LOG.warning("%s: pruning is not kept away: %s", store.url, error)
        yield
        return
    try:
        yield
    finally:
        lease.give_back()


def _clock_s() -> float:
    """Seconds that go on while the machine sleeps, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
