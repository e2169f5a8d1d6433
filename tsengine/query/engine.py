"""The query engine: a text in, columns out.

Wires parser, plan, evaluation and the final clean-up; what things mean is elsewhere. An engine is
for any number of threads; each query has a context of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import InvalidQueryType, QueryError
from tsengine.options import Options
from tsengine.promql.ast import ValueType
from tsengine.promql.parser import DEPTH_MAX
from tsengine.query import plan as p
from tsengine.query.annotations import Annotations
from tsengine.query.answer import QueryResult, QueryStats, finish
from tsengine.query.context import Limits, QueryContext
from tsengine.query.estimate import Estimate, estimate
from tsengine.query.evaluate import evaluate, evaluate_range
from tsengine.query.explain import explain
from tsengine.query.labelspace import LabelSpace
from tsengine.query.memory import MemoryPool, memory_shares
from tsengine.query.planning import Planned, make_plan
from tsengine.query.sample_counts import SampleCounts
from tsengine.query.source import SampleSource
from tsengine.query.stepmatrix import RangeVector, ScalarSteps, StepMatrix, StringValue
from tsengine.query.watch import QueryWatch

TIME_MS_MAX = 1 << 60
"""Times further from the epoch are refused: arithmetic on them could overflow."""

_BYTES_PER_RAW_SAMPLE = 48
"""A sample as it is read, and once more as it is sent."""


class Engine:
    """Evaluates PromQL over a source of samples.

    Parameters
    ----------
    source
        The database.
    options
        Lookback, features, limits, number of threads.
    pool
        Threads for slices of queries; None makes an own pool, ended by `close`.
    memory_left
        Bytes that all else leaves to queries at a moment, see `MemoryPool`; None for no such bound.

    """

    def __init__(
        self,
        source: SampleSource,
        options: Options | None = None,
        *,
        pool: ThreadPoolExecutor | None = None,
        memory_left: Callable[[int], int] | None = None,
    ) -> None:
        self._source = source
        self._options = options or Options()
        self._n_threads = self._options.query_threads or os.cpu_count() or 1
        self._own_pool: ThreadPoolExecutor | None = None
        if pool is None and self._n_threads > 1:
            # The calling thread works too, hence one less.
            pool = self._own_pool = ThreadPoolExecutor(
                self._n_threads - 1, thread_name_prefix="tsengine-query"
            )
        self._pool = pool
        self._query_memory, total = _shares(self._options)
        self.memory = MemoryPool(total, memory_left)

    def reconfigure(self, options: Options) -> None:
        """Evaluate by other options from now on; queries under way keep theirs."""
        self._options = options
        self._query_memory, self.memory.size_max = _shares(options)

    def close(self) -> None:
        """End the engine's own threads."""
        if self._own_pool is not None:
            self._own_pool.shutdown(wait=True)

    def query(
        self,
        expr: str,
        time_ms: int,
        *,
        lookback_ms: int | None = None,
        timeout_s: float | None = None,
        cancel: Callable[[], bool] | None = None,
        watch: QueryWatch | None = None,
        count_samples: bool = False,
    ) -> QueryResult:
        """Evaluate at one time.

        Parameters
        ----------
        expr
            PromQL.
        time_ms
            Milliseconds since the epoch.
        lookback_ms, timeout_s
            Instead of the options'; a timeout can only be shortened.
        cancel
            Asked between slices of work whether to give up.
        watch
            Looks at the query while it runs, and keeps its memory until it is closed.
        count_samples
            Whether `QueryStats` has samples by step.

        Raises
        ------
        QueryError
            See `tsengine.errors`.

        """
        grid = _Grid(time_ms, time_ms, 0)
        limits = self._limits(timeout_s, cancel, watch)
        with _account(limits, watch):
            return self._run(
                expr, grid, limits, lookback_ms, watch=watch, count_samples=count_samples
            )

    def query_range(
        self,
        expr: str,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        *,
        lookback_ms: int | None = None,
        timeout_s: float | None = None,
        cancel: Callable[[], bool] | None = None,
        watch: QueryWatch | None = None,
        count_samples: bool = False,
    ) -> QueryResult:
        """Evaluate at ``start, start + step, ...`` up to and including `end`; else as `query`."""
        if step_ms < 1:
            raise QueryError(
                "zero or negative query resolution step widths are not accepted. "
                "Try a positive integer"
            )
        if end_ms < start_ms:
            raise QueryError("end timestamp must not be before start time")
        grid = _Grid(start_ms, end_ms, step_ms)
        limits = self._limits(timeout_s, cancel, watch)
        with _account(limits, watch):
            return self._run(
                expr, grid, limits, lookback_ms, watch=watch, count_samples=count_samples
            )

    @contextmanager
    def holding(self, n_samples: int) -> Iterator[None]:
        """Memory for samples that are read and answered without a query, as long as they are.

        Raises
        ------
        QueryLimitExceeded, QueryTimeout
            It is more than one query may have, or others held it for too long.

        """
        limits = self._limits(None, None, None)
        try:
            limits.reserve(n_samples * _BYTES_PER_RAW_SAMPLE, f"{n_samples} samples")
            yield
        finally:
            limits.keep(0)

    def explain(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> str:
        """The plan of a query as text; `step_ms` is 0 for an instant query."""
        grid = _Grid(start_ms, end_ms, step_ms)
        limits = self._limits(None, None, None)
        limits.check_steps(grid.n_steps)
        planned = self._plan(expr, grid)
        ctx = self._context(expr, grid, planned, limits, None)
        if ctx.view.tier_widths_ms:
            # What selectors read is chosen when their series are looked up.
            estimate(planned.plan, ctx)
        return explain(planned.plan, ctx.choices)

    def _plan(self, text: str, grid: _Grid) -> Planned:
        return make_plan(
            text, start_ms=grid.start_ms, end_ms=grid.end_ms, step_ms=grid.step_ms,
            n_steps=grid.n_steps, features=self._options.features,
            max_depth=min(self._options.max_depth, DEPTH_MAX),
        )  # fmt: skip

    def _limits(
        self,
        timeout_s: float | None,
        cancel: Callable[[], bool] | None,
        watch: QueryWatch | None,
    ) -> Limits:
        limits = Limits(
            max_samples=self._options.max_samples,
            deadline=time.monotonic() + min(timeout_s or np.inf, self._options.query_timeout),
            is_canceled=cancel,
            max_bytes=self._query_memory,
            pool=self.memory,
        )
        if watch is not None:
            watch.attach(limits)
        return limits

    def _run(
        self,
        text: str,
        grid: _Grid,
        limits: Limits,
        lookback_ms: int | None,
        *,
        watch: QueryWatch | None,
        count_samples: bool,
    ) -> QueryResult:
        started = time.monotonic()
        limits.check_steps(grid.n_steps)
        try:
            found = self._plan(text, grid)
            plan = found.plan
            _check_type(plan, grid)
            planned = time.monotonic()
            ctx = self._context(text, grid, found, limits, lookback_ms)
            if count_samples:
                ctx.counts = SampleCounts(ctx.steps_ms)
            needs = estimate(plan, ctx)
            limits.reserve(needs.n_bytes, needs.reason, wish_bytes=_with_text(needs, watch))
            is_range = p.value_type(plan) is ValueType.MATRIX
            value: StepMatrix | ScalarSteps | StringValue | RangeVector
            if is_range:
                assert isinstance(plan, p.MatrixPlan | p.SubqueryPlan), "only these are ranges"
                value = evaluate_range(plan, ctx)
            else:
                value = evaluate(plan, ctx)
            evaluated = time.monotonic()
        except RecursionError as error:
            raise QueryError("expression is nested too deeply") from error
        if isinstance(value, StepMatrix) and not grid.is_instant:
            limits.account_bytes(value.values.nbytes)  # It may be put in order by a copy.
        result = finish(value, ctx, is_instant=grid.is_instant)
        result.warnings = ctx.annotations.warnings
        result.infos = ctx.annotations.infos
        result.stats = QueryStats(
            plan_s=planned - started,
            evaluate_s=evaluated - planned,
            finish_s=time.monotonic() - evaluated,
            n_samples_read=limits.n_read,
            n_samples_peak=limits.n_peak,
            memory_peak_bytes=limits.bytes_peak,
            memory_estimated_bytes=limits.bytes_estimated,
            tiers=tuple(sorted(limits.tiers_read)),
            steps_ms=None if ctx.counts is None else ctx.counts.steps_ms,
            samples_total_per_step=None if ctx.counts is None else ctx.counts.total,
            samples_read_per_step=None if ctx.counts is None else ctx.counts.read,
        )
        result.plan, result.choices = plan, ctx.choices
        spare = 0 if watch is None else result.n_samples * watch.text_bytes_per_sample
        limits.keep(result.size_bytes, spare)
        return result

    def _context(
        self, text: str, grid: _Grid, planned: Planned, limits: Limits, lookback_ms: int | None
    ) -> QueryContext:
        view = self._source.view()
        options = self._options
        return QueryContext(
            steps_ms=grid.steps(),
            start_ms=grid.start_ms,
            end_ms=grid.end_ms,
            step_ms=grid.step_ms,
            is_instant=grid.is_instant,
            space=LabelSpace(view.dictionary),
            view=view,
            options=options,
            limits=limits,
            annotations=Annotations(text),
            lookback_ms=lookback_ms or round(options.lookback * 1000),
            query_start_ms=grid.start_ms,
            query_end_ms=grid.end_ms,
            query_step_ms=grid.step_ms,
            pool=self._pool,
            n_threads=self._n_threads,
            delayed_name_removal=options.delayed_name_removal,
            features=options.features,
            shared_keys=planned.shared_keys,
        )


def _shares(options: Options) -> tuple[int, int]:
    return memory_shares(options.query_memory, options.query_memory_total, options.memory)


def _with_text(needs: Estimate, watch: QueryWatch | None) -> int:
    """The answer and the text that a watching caller makes of it."""
    if watch is None:
        return 0
    return needs.answer_bytes + needs.answer_samples * watch.text_bytes_per_sample


@contextmanager
def _account(limits: Limits, watch: QueryWatch | None) -> Iterator[None]:
    """Close the account of a query that failed, or that nobody watches."""
    is_watched = False
    try:
        yield
        is_watched = watch is not None
    finally:
        if not is_watched:
            limits.keep(0)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Steps of a query; `step_ms` is 0 for an instant query."""

    start_ms: int
    end_ms: int
    step_ms: int

    def __post_init__(self) -> None:
        for time_ms in (self.start_ms, self.end_ms):
            if not -TIME_MS_MAX <= time_ms <= TIME_MS_MAX:
                raise QueryError(f"time {time_ms} ms is out of range")

    @property
    def is_instant(self) -> bool:
        return self.step_ms == 0

    @property
    def n_steps(self) -> int:
        return 1 if self.is_instant else (self.end_ms - self.start_ms) // self.step_ms + 1

    def steps(self) -> npt.NDArray[np.int64]:
        if self.is_instant:
            return np.array([self.start_ms], np.int64)
        return np.arange(self.start_ms, self.end_ms + 1, self.step_ms, dtype=np.int64)


def _check_type(plan: p.Plan, grid: _Grid) -> None:
    made = p.value_type(plan)
    if not grid.is_instant and made not in (ValueType.VECTOR, ValueType.SCALAR):
        raise InvalidQueryType(
            f'invalid expression type "{made.value}" for range query, '
            "must be Scalar or instant Vector"
        )
