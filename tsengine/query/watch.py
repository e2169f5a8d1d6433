"""A look at a running query from outside, and a hold on the memory of its answer."""

from __future__ import annotations

import threading
from types import TracebackType

from tsengine.query.context import Limits


class QueryWatch:
    """Hand one to a query to see how far it is, from any thread.

    The memory of the answer then stays on the query's account until `close`, so that who turns it
    into a text can put that beside it (`hold`). Without a watch the account is closed when the
    query returns. Use it for one query, in a ``with`` statement.

    Parameters
    ----------
    text_bytes_per_sample
        What the caller is going to hold for each sample of the answer beside it; reserved before
        the query reads, so that a finished query need not be refused.

    """

    def __init__(self, text_bytes_per_sample: int = 0) -> None:
        self.text_bytes_per_sample = text_bytes_per_sample
        self._limits: Limits | None = None
        self._lock = threading.Lock()
        self._is_done = False
        self._is_abandoned = False

    def attach(self, limits: Limits) -> None:
        """Look at this query from now on; for the engine."""
        self._limits = limits

    @property
    def samples_read(self) -> int:
        """Samples decoded so far."""
        return 0 if self._limits is None else self._limits.n_read

    @property
    def memory_bytes(self) -> int:
        """Memory on the query's account now."""
        return 0 if self._limits is None else self._limits.bytes_held

    def hold(self, n_bytes: int) -> None:
        """Put more memory on the query's account.

        Raises
        ------
        QueryLimitExceeded
            It is more than the query may have, or than there is.

        """
        if self._limits is not None:
            self._limits.account_bytes(n_bytes)

    def keep(self, n_bytes: int) -> None:
        """Hold only so many bytes from now on, those of the finished text."""
        with self._lock:
            self._is_done = True
            if self._limits is not None:
                self._limits.keep(0 if self._is_abandoned else n_bytes)

    def close(self) -> None:
        """Give everything back; again is fine."""
        self.keep(0)

    def abandon(self) -> None:
        """Nobody wants the answer any more: it is given up now, or when it is finished."""
        with self._lock:
            self._is_abandoned = True
            if self._is_done and self._limits is not None:
                self._limits.keep(0)

    def __enter__(self) -> QueryWatch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
