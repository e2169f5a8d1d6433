"""What storage needs from a log: append in order, cut, trim. The local `Wal` is one.

A log gives every entry a sequence, makes it durable, then hands it on in the order of the
sequences. A replicated log would fulfil the same protocol.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


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
    """Says when an entry or a cut is done. One waits, or several do."""

    __slots__ = ("_done", "_error")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._error: BaseException | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Return when the entry is durable and visible.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds; the entry may still become durable.
        Full, Closed, StorageError
            The entry was not made durable.

        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"the log did not answer within {timeout} s")
        if self._error is not None:
            raise self._error

    @property
    def is_done(self) -> bool:
        """Whether `wait` would return (or raise) at once."""
        return self._done.is_set()

    def complete(self, error: BaseException | None = None) -> None:
        """Let everybody who waits go on. For the log only."""
        self._error = error
        self._done.set()


class IngestLog(Protocol):
    """An ordered, durable log. `append` and `cut` may be called from any thread."""

    def append(self, entry: LogEntry) -> Ticket:
        """Queue an entry and give it its sequence; raises Overloaded, Full or Closed."""
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
