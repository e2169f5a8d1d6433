"""What every operator of one running query shares: steps, labels, limits, annotations, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryCanceled, QueryLimitExceeded, QueryTimeout
from tsengine.options import Options
from tsengine.promql.ast import Span
from tsengine.query.annotations import Annotations
from tsengine.query.histogram_arena import HistogramArena
from tsengine.query.labelspace import LabelSpace
from tsengine.query.source import SampleView

_MS = 1000.0
_TOO_MANY_SAMPLES = "query processing would load too many samples into memory in query execution"


class Limits:
    """Deadline, cancellation and sample budget of one query. Thread-safe.

    Parameters
    ----------
    max_samples
        Samples the query may hold at once.
    deadline
        On the clock of `time.monotonic`, in seconds.
    is_canceled
        Asked between slices of work; None if nobody can cancel.

    """

    def __init__(
        self,
        *,
        max_samples: int,
        deadline: float = float("inf"),
        is_canceled: Callable[[], bool] | None = None,
    ) -> None:
        self._max_samples = max_samples
        self._deadline = deadline
        self._is_canceled = is_canceled
        self._lock = threading.Lock()
        self._n_held = 0
        self.n_peak = 0
        self.n_read = 0

    def check(self) -> None:
        """Raise QueryCanceled or QueryTimeout if the query has to end."""
        if self._is_canceled is not None and self._is_canceled():
            raise QueryCanceled("query was canceled in query execution")
        if time.monotonic() > self._deadline:
            raise QueryTimeout("query timed out in query execution")

    def account(self, n_samples: int) -> None:
        """Take samples from the budget; a negative number gives them back.

        Raises
        ------
        QueryLimitExceeded
            More would be held than `max_samples`.

        """
        with self._lock:
            self._n_held += n_samples
            self.n_peak = max(self.n_peak, self._n_held)
            too_many = self._n_held > self._max_samples
        if too_many:
            raise QueryLimitExceeded(_TOO_MANY_SAMPLES)

    def check_steps(self, n_steps: int) -> None:
        """Raise QueryLimitExceeded if a grid alone is beyond the budget, before it is made."""
        if n_steps > self._max_samples:
            raise QueryLimitExceeded(_TOO_MANY_SAMPLES)

    def note_read(self, n_samples: int) -> None:
        """Count samples that were read, for the query's statistics."""
        with self._lock:
            self.n_read += n_samples


@dataclass(slots=True)
class QueryContext:
    """One query, or the inner grid of one of its subqueries.

    Parameters
    ----------
    steps_ms
        i64[T], ascending.
    start_ms, end_ms, step_ms
        Of these steps; `step_ms` is 0 for an instant query.
    query_start_ms, query_end_ms, query_step_ms
        Of the outermost query: what `@ start()`, `start()`, `range()`, ... mean everywhere.
    lookback_ms
        Of this query.
    histograms
        The native histograms that matrices of the query hold handles of; the same in all contexts
        of a query.
    memo, shared_keys
        Work that several parts of the query share, and which parts that are; the same in all
        contexts of a query.

    """

    steps_ms: npt.NDArray[np.int64]
    start_ms: int
    end_ms: int
    step_ms: int
    is_instant: bool
    space: LabelSpace
    view: SampleView
    options: Options
    limits: Limits
    annotations: Annotations
    lookback_ms: int
    query_start_ms: int
    query_end_ms: int
    query_step_ms: int
    pool: ThreadPoolExecutor | None = None
    n_threads: int = 1
    delayed_name_removal: bool = False
    features: frozenset[str] = field(default_factory=frozenset)
    histograms: HistogramArena = field(default_factory=HistogramArena)
    memo: dict[Any, Any] = field(default_factory=dict)
    shared_keys: frozenset[Hashable] = field(default_factory=frozenset)

    @property
    def n_steps(self) -> int:
        """T."""
        return len(self.steps_ms)

    def steps_s(self) -> npt.NDArray[np.float64]:
        """Evaluation times in seconds: f64[T]."""
        return self.steps_ms / _MS

    def check(self) -> None:
        """Raise QueryCanceled or QueryTimeout if the query has to end."""
        self.limits.check()

    def account(self, n_samples: int) -> None:
        """Take samples from the budget; raises QueryLimitExceeded."""
        self.limits.account(n_samples)

    def add_warning(self, message: str, span: Span) -> None:
        """Add a warning (text without prefix and position)."""
        self.annotations.add_warning(message, span)

    def add_info(self, message: str, span: Span) -> None:
        """Add an info (text without prefix and position)."""
        self.annotations.add_info(message, span)

    def on_steps(self, steps_ms: npt.NDArray[np.int64], step_ms: int) -> QueryContext:
        """The same query on other steps (of a subquery, or the one step of a constant part)."""
        return replace(
            self,
            steps_ms=steps_ms,
            start_ms=int(steps_ms[0]) if len(steps_ms) else 0,
            end_ms=int(steps_ms[-1]) if len(steps_ms) else 0,
            step_ms=step_ms,
            is_instant=len(steps_ms) == 1,
        )
