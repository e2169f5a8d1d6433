"""What storage needs from a log: append in order, cut, trim. The local `Wal` is one.

A log gives every entry a sequence, makes it durable, then hands it on in the order of the
sequences. A replicated log would fulfil the same protocol.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

_LOG = logging.getLogger(__name__)

OnDone = Callable[[BaseException | None], None]


@dataclass(slots=True)
class LogEntry:
    """What is made durable at once and acknowledged at once.

    Parameters
    ----------
    records
        ``(type, payload)`` in the order in which they shall be replayed; types are those of
        `storage.wal_records`. May be empty: such an entry only keeps its place in the order.
    n_bytes
        What the entry weighs in the queue, usually the decompressed size of the request.
    item
        Anything; comes back in ``on_durable`` and ``on_failed``.
    seq
        Set by the log at append; higher means later. Sequences of entries that failed are lost.

    """

    records: tuple[tuple[int, bytes], ...]
    n_bytes: int
    item: object = None
    seq: int = -1


class Ticket:
    """Says when an entry or a cut is done. One waits, or several do.

    Parameters
    ----------
    on_done
        Called in the thread that wrote it with the error, or None, before those who wait go on. It
        must be short and must not raise.

    """

    __slots__ = ("_error", "_gate", "_is_done", "_on_done")

    def __init__(self, on_done: OnDone | None = None) -> None:
        self._on_done = on_done
        self._error: BaseException | None = None
        self._is_done = False
        # Closed until it is done. A bare lock: an Event is a good part of a small append.
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self, timeout: float | None = None) -> None:
        """Return when the entry is durable and visible.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds; the entry may still become durable.
        Full, Closed, StorageError
            The entry was not made durable.

        """
        if not self._is_done:
            if not self._gate.acquire(timeout=-1 if timeout is None else timeout):
                raise TimeoutError(f"the log did not answer within {timeout} s")
            self._gate.release()
        if self._error is not None:
            raise self._error

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return (or raise) at once."""
        return self._is_done

    def complete(self, error: BaseException | None = None) -> None:
        """Let everybody who waits go on. For the log only, once."""
        self._error = error
        self._is_done = True
        try:
            if self._on_done is not None:
                self._on_done(error)
        except Exception:  # The caller's bug: the log must live on.
            _LOG.exception("who was told that an append is done failed")
        self._gate.release()


class IngestLog(Protocol):
    """An ordered, durable log. `append` and `cut` may be called from any thread."""

    def append(self, entry: LogEntry, on_done: OnDone | None = None) -> Ticket:
        """Queue an entry and give it its sequence; raises Overloaded, Full or Closed.

        ``on_done`` is that of the ticket.
        """
        ...

    def gathering(self) -> AbstractContextManager[None]:
        """Let what is appended inside be made durable together.

        For short stretches: all entries wait for their end. Only a cut, much that is queued, and
        `hurry` don't. Who ends it may write all that is queued itself, so the caller has no lock
        then that the callbacks or ``on_failed`` take.
        """
        ...

    def skip(self) -> int:
        """A sequence that no entry gets, above those of all entries so far."""
        ...

    def hurry(self) -> None:
        """Take up what is queued though somebody gathers."""
        ...

    def cut(self, on_cut: Callable[[int], None]) -> Ticket:
        """Queue an ordered marker.

        ``on_cut(new_segment)`` runs in the log's thread when everything appended before is in
        segments below ``new_segment`` and went through ``on_durable``; what comes after goes to
        ``new_segment`` or later ones.
        """
        ...

    def trim(self, first_kept_segment: int) -> None:
        """Remove the segments below ``first_kept_segment``."""
        ...

    def close(self) -> None:
        """Write what is queued, then stop."""
        ...
