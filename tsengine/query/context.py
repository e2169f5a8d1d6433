"""What every operator of one running query shares: steps, labels, limits, annotations, threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryCanceled, QueryLimitExceeded, QueryTimeout
from tsengine.model.labels import LabelRows
from tsengine.options import Options
from tsengine.promql.ast import Span
from tsengine.query.annotations import Annotations
from tsengine.query.histogram_arena import HistogramArena
from tsengine.query.labelspace import LabelSpace
from tsengine.query.memory import MemoryPool, size_text
from tsengine.query.sample_counts import SampleCounts
from tsengine.query.source import SampleView
from tsengine.query.stepmatrix import BYTES_PER_SAMPLE

_MS = 1000.0
_UNLIMITED = 1 << 62
_ADVICE = "take a larger step, a shorter range or fewer series"
_TOO_MANY_SAMPLES = "query processing would load too many samples into memory in query execution"


class Limits:
    """Deadline, cancellation and budgets of one query. Thread-safe.

    Parameters
    ----------
    max_samples
        Samples the query may hold at once.
    deadline
        On the clock of `time.monotonic`, in seconds.
    is_canceled
        Asked between slices of work; None if nobody can cancel.
    max_bytes
        Memory the query may hold at once.
    pool
        What it shares with the other queries; None if it is alone.

    """

    def __init__(
        self,
        *,
        max_samples: int,
        deadline: float = float("inf"),
        is_canceled: Callable[[], bool] | None = None,
        max_bytes: int = _UNLIMITED,
        pool: MemoryPool | None = None,
    ) -> None:
        self._max_samples = max_samples
        self._deadline = deadline
        self._is_canceled = is_canceled
        self._max_bytes = max_bytes
        self._pool = pool
        self._lock = threading.Lock()
        self._n_held = 0
        self._bytes_beside = 0
        self._bytes_reserved = 0
        self.n_peak = 0
        self.n_read = 0
        self.tiers_read: set[str] = set()
        self.bytes_peak = 0
        self.bytes_estimated = 0

    @property
    def bytes_held(self) -> int:
        """Memory on the query's account now."""
        return self._n_held * BYTES_PER_SAMPLE + self._bytes_beside

    def check(self) -> None:
        """Raise QueryCanceled or QueryTimeout if the query has to end."""
        if self._is_canceled is not None and self._is_canceled():
            raise QueryCanceled("query was canceled in query execution")
        if time.monotonic() > self._deadline:
            raise QueryTimeout("query timed out in query execution")

    def reserve(self, n_bytes: int, reason: str, wish_bytes: int = 0) -> None:
        """Set memory aside before the query reads; waits while other queries hold it.

        Parameters
        ----------
        n_bytes
            What the query is estimated to need at its peak.
        reason
            Where most of it goes, for the refusal.
        wish_bytes
            What it will probably need later; reserved too as far as one query may have it.

        Raises
        ------
        QueryLimitExceeded
            It is more than one query may have.
        QueryTimeout, QueryCanceled
            While waiting.

        """
        self.bytes_estimated = n_bytes
        if n_bytes > self._max_bytes:
            raise QueryLimitExceeded(
                f"query would need about {size_text(n_bytes)} of memory ({reason}), over the "
                f"limit of {size_text(self._max_bytes)}; {_ADVICE}"
            )
        wanted = max(n_bytes, min(wish_bytes, self._max_bytes))
        if self._pool is not None and wanted > self._bytes_reserved:
            self._pool.take(wanted - self._bytes_reserved, self._check_waiting)
            self._bytes_reserved = wanted

    def _check_waiting(self) -> None:
        try:
            self.check()
        except QueryTimeout:
            assert self._pool is not None, "only a pool makes queries wait"
            raise QueryTimeout(
                f"query timed out while waiting for {size_text(self.bytes_estimated)} of memory: "
                f"other queries hold {size_text(self._pool.used)} of the "
                f"{size_text(self._pool.size)} for all"
            ) from None

    def account(self, n_samples: int) -> None:
        """Take samples from the budget; a negative number gives them back.

        Raises
        ------
        QueryLimitExceeded
            More would be held than `max_samples`, or more memory than there is for the query.

        """
        with self._lock:
            self._n_held += n_samples
            self.n_peak = max(self.n_peak, self._n_held)
            too_many = self._n_held > self._max_samples
            missing = self._grow()
        if too_many:
            raise QueryLimitExceeded(_TOO_MANY_SAMPLES)
        if missing:
            raise QueryLimitExceeded(missing)

    def account_bytes(self, n_bytes: int) -> None:
        """Take memory that holds no samples: texts, label sets, buckets of histograms.

        Raises
        ------
        QueryLimitExceeded

        """
        with self._lock:
            self._bytes_beside += n_bytes
            missing = self._grow()
        if missing:
            raise QueryLimitExceeded(missing)

    def _grow(self) -> str:
        """Reserve what is held beyond the reservation; the reason why that is impossible."""
        held = self.bytes_held
        self.bytes_peak = max(self.bytes_peak, held)
        if held > self._max_bytes:
            return (
                f"query needs at least {size_text(held)} of memory, over the limit of "
                f"{size_text(self._max_bytes)}; {_ADVICE}"
            )
        if self._pool is None or held <= self._bytes_reserved:
            return ""
        if not self._pool.try_take(held - self._bytes_reserved):
            return (
                f"query needs at least {size_text(held)} of memory, and all queries together hold "
                f"{size_text(self._pool.used)} of {size_text(self._pool.size)}; try again later"
            )
        self._bytes_reserved = held
        return ""

    def keep(self, n_bytes: int, spare_bytes: int = 0) -> None:
        """Hold no more than the answer, of so many bytes, and give the rest back.

        Of what is reserved, `spare_bytes` more stay reserved, for what is made of the answer.
        """
        with self._lock:
            self._n_held = 0
            self._bytes_beside = n_bytes
            self.bytes_peak = max(self.bytes_peak, n_bytes)
            excess = max(self._bytes_reserved - n_bytes - spare_bytes, 0)
            self._bytes_reserved -= excess
        if self._pool is not None:
            self._pool.give_back(excess)

    def check_steps(self, n_steps: int) -> None:
        """Raise QueryLimitExceeded if a grid alone is beyond the budget, before it is made."""
        if n_steps > self._max_samples:
            raise QueryLimitExceeded(_TOO_MANY_SAMPLES)

    def note_read(self, n_samples: int) -> None:
        """Count samples that were read, for the query's statistics."""
        with self._lock:
            self.n_read += n_samples

    def note_tiers(self, names: Iterable[str]) -> None:
        """Remember what was read, for the query's statistics: ``raw``, ``5m``, ..."""
        with self._lock:
            self.tiers_read.update(names)


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
    counts
        Samples looked at by step, of these steps; None unless the query asks for them.
    memo, shared_keys
        Work that several parts of the query share, and which parts that are; the same in all
        contexts of a query.
    choices
        What selectors read, in words, by the identities of their plans; where there are tiers.

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
    counts: SampleCounts | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    shared_keys: frozenset[Hashable] = field(default_factory=frozenset)
    choices: dict[int, str] = field(default_factory=dict)

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

    def note_labels_of_series(self, labels: LabelRows) -> None:
        """Remember that label sets are those of series: none of them occurs twice."""
        self.memo["labels of series", id(labels)] = labels

    def has_labels_of_series(self, labels: LabelRows) -> bool:
        """Whether label sets are, as they were found, those of series."""
        return ("labels of series", id(labels)) in self.memo

    def add_warning(self, message: str, span: Span) -> None:
        """Add a warning (text without prefix and position)."""
        self.annotations.add_warning(message, span)

    def add_info(self, message: str, span: Span) -> None:
        """Add an info (text without prefix and position)."""
        self.annotations.add_info(message, span)

    def on_steps(self, steps_ms: npt.NDArray[np.int64], step_ms: int) -> QueryContext:
        """The same query on other steps (of a subquery, or the one step of a constant part).

        Samples are counted apart: who asked adds them to his own.
        """
        return replace(
            self,
            steps_ms=steps_ms,
            counts=None if self.counts is None else SampleCounts(steps_ms),
            start_ms=int(steps_ms[0]) if len(steps_ms) else 0,
            end_ms=int(steps_ms[-1]) if len(steps_ms) else 0,
            step_ms=step_ms,
            is_instant=len(steps_ms) == 1,
        )
