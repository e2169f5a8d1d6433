"""When heads become parts. A thread of its own: a flush must never wait for a long merge."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tsengine.errors import Closed, TsengineError
from tsengine.model.machine import GIVE_BACK_SAMPLES, give_back_memory
from tsengine.storage.checkpoint import Checkpointer
from tsengine.storage.memory_saving import MemorySaving

if TYPE_CHECKING:
    from tsengine.storage.database import StorageDatabase

_LOG = logging.getLogger(__name__)
_TICK_S = 1.0
_RETRY_S = 10.0
_RETRY_S_MIN = 1.0
_REST_S = 5.0
"""So long after a flush its free memory goes back: the next one soon would take it anew."""


class Flusher:
    """Flushes of one writable database; callers of `flush` do it in their own thread.

    ``on_flushed`` is called after each flush. The thread lets idle memory go as well.
    """

    def __init__(
        self,
        database: StorageDatabase,
        checkpointer: Checkpointer,
        on_flushed: Callable[[], None],
        saving: MemorySaving,
    ) -> None:
        self._database = database
        self._checkpointer = checkpointer
        self._on_flushed = on_flushed
        self._saving = saving
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._wanted = threading.Event()
        self._retry_now = threading.Event()
        self._last_flush = time.monotonic()
        self._failed_s = -_RETRY_S
        self._n_flushes = self._n_failures = 0
        self._has_free_memory = False
        self._thread = threading.Thread(target=self._loop, name="tsengine-flush", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; returns when no flush runs in any thread."""
        self._stopping.set()
        self._wanted.set()
        self._retry_now.set()
        if self._thread.ident is not None:  # Else it was never started.
            self._thread.join()
        with self._lock:
            pass

    def counters(self) -> dict[str, int]:
        """Numbers for stats."""
        return {"flushes": self._n_flushes, "flush_failures": self._n_failures}

    def request(self) -> None:
        """Ask the thread to flush soon."""
        self._wanted.set()

    def retry(self) -> None:
        """Try a flush that failed again now; the disk takes writes again.

        Not if it failed a moment ago: what such a short failure hit is likely to fail again.
        """
        if time.monotonic() - self._failed_s >= _RETRY_S_MIN:
            self._retry_now.set()

    def flush(self, *, force: bool = False) -> None:
        """Flush what the head holds now; returns when it is committed.

        With `force` also if there is nothing new: the log is cut and trimmed in any case.
        """
        with self._lock:
            if self._stopping.is_set():
                raise Closed("the database is closed")
            n_samples = self._flush_frozen()
            if force or self._has_unsaved():
                self._database.freeze()
                # Who asked before has got it: the head that was full is frozen.
                self._wanted.clear()
                n_samples += self._flush_frozen()
                self._n_flushes += 1
            self._last_flush = time.monotonic()
        self._has_free_memory |= n_samples >= GIVE_BACK_SAMPLES
        self._on_flushed()

    def _flush_frozen(self) -> int:
        """Flush what is frozen; returns how many samples that were."""
        n_samples = 0
        for waiting in self._database.state.frozen:
            n_samples += waiting.head.n_samples
            self._checkpointer.flush(waiting)
            self._saving.note(waiting.head.view(), waiting.next_ref)
        return n_samples

    def _has_unsaved(self) -> bool:
        database = self._database
        return (
            database.state.head.n_samples > 0
            or database.metadata.is_dirty
            or database.exemplars.has_unsaved
            or database.durable_ref > self._checkpointer.saved_ref
            or any(tombstone.entry is None for tombstone in database.state.tombstones)
        )

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait(_TICK_S)
            if self._stopping.is_set():
                return
            self._saving.run_if_due(self._wanted.is_set)
            due = self._wanted.is_set() or self._is_due()
            self._wanted.clear()
            if not due:
                self._rest()
                continue
            self._retry_now.clear()
            try:
                self.flush()
                # Whoever asks first would wait for it.
                self._database.state.catalog.prepare()
            except TsengineError as error:
                if self._stopping.is_set():
                    return
                _LOG.error("flush failed, it is tried again: %s", error)
                self._failed()
            except Exception:
                _LOG.exception("flush failed by a fault of ours; it is tried again")
                self._failed()

    def _rest(self) -> None:
        if self._has_free_memory and time.monotonic() - self._last_flush > _REST_S:
            self._has_free_memory = False
            give_back_memory()

    def _failed(self) -> None:
        self._n_failures += 1
        self._failed_s = time.monotonic()
        self._retry_now.wait(_RETRY_S)
        self._wanted.set()

    def _is_due(self) -> bool:
        database = self._database
        old = time.monotonic() - self._last_flush > database.options.head_age_s_max
        large = database.log_size_bytes > database.options.wal_size_bytes_max
        return (old or large) and self._has_unsaved()
