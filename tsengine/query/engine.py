"""The query engine: a text in, columns out.

Wires parser, plan, evaluation and the final clean-up; what things mean is elsewhere. An engine is
for any number of threads; each query has a context of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from tsengine.errors import InvalidQueryType, QueryError
from tsengine.model.labels import LabelRows
from tsengine.options import Options
from tsengine.promql.ast import ValueType
from tsengine.promql.durations import resolve_durations
from tsengine.promql.parser import DEPTH_MAX, parse
from tsengine.query import plan as p
from tsengine.query.annotations import Annotations
from tsengine.query.build import QueryTimes, build
from tsengine.query.context import Limits, QueryContext
from tsengine.query.evaluate import evaluate, evaluate_range
from tsengine.query.explain import explain
from tsengine.query.labelspace import LabelSpace
from tsengine.query.optimize import optimize, shared_keys
from tsengine.query.source import SampleSource
from tsengine.query.stepmatrix import (
    SAME_LABELSET,
    RangeVector,
    ScalarSteps,
    StepMatrix,
    StringValue,
    merge_same_labels,
    take_rows,
)

TIME_MS_MAX = 1 << 60
"""Times further from the epoch are refused: arithmetic on them could overflow."""

ResultType = Literal["vector", "matrix", "scalar", "string"]


@dataclass(frozen=True, slots=True)
class QueryStats:
    """What a query cost. Times in seconds; `n_peak` is the most samples held at once."""

    plan_s: float = 0.0
    evaluate_s: float = 0.0
    finish_s: float = 0.0
    n_samples_read: int = 0
    n_samples_peak: int = 0


@dataclass(slots=True)
class QueryResult:
    """The answer to a query.

    Parameters
    ----------
    type
        ``vector`` (one step), ``matrix``, ``scalar`` (one step, one row) or ``string``.
    rows, space
        Label sets of the S series, and what their ids mean; `labels` makes dicts of them.
    timestamps
        i64[T], ms.
    values
        f64[S, T], C-contiguous.
    valid
        bool[S, T], or None if every cell is present.
    samples
        The answer if it is a range vector; then `values` is empty and T is 0.
    text
        The answer if it is a string.
    warnings, infos
        All that were collected.

    """

    type: ResultType
    rows: LabelRows
    space: LabelSpace
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_] | None = None
    samples: RangeVector | None = None
    text: str | None = None
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)
    stats: QueryStats = field(default_factory=QueryStats)
    _labels: list[dict[str, str]] | None = None

    @property
    def labels(self) -> list[dict[str, str]]:
        """One dict per series, in the order of the rows; made when first asked for."""
        if self._labels is None:
            self._labels = self.space.materialise(self.rows)
        return self._labels


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

    """

    def __init__(
        self,
        source: SampleSource,
        options: Options | None = None,
        *,
        pool: ThreadPoolExecutor | None = None,
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

        Raises
        ------
        QueryError
            See `tsengine.errors`.

        """
        grid = _Grid(time_ms, time_ms, 0)
        return self._run(expr, grid, lookback_ms=lookback_ms, timeout_s=timeout_s, cancel=cancel)

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
        return self._run(expr, grid, lookback_ms=lookback_ms, timeout_s=timeout_s, cancel=cancel)

    def explain(self, expr: str, start_ms: int, end_ms: int, step_ms: int) -> str:
        """The plan of a query as text; `step_ms` is 0 for an instant query."""
        return explain(self._plan(expr, _Grid(start_ms, end_ms, step_ms)))

    def _plan(self, text: str, grid: _Grid) -> p.Plan:
        depth = min(self._options.max_depth, DEPTH_MAX)
        expr = parse(text, features=self._options.features, max_depth=depth)
        expr = resolve_durations(
            expr, start_ms=grid.start_ms, end_ms=grid.end_ms, step_ms=grid.step_ms
        )
        plan = build(expr, QueryTimes(grid.start_ms, grid.end_ms))
        return optimize(plan, n_steps=grid.n_steps)

    def _run(
        self,
        text: str,
        grid: _Grid,
        *,
        lookback_ms: int | None,
        timeout_s: float | None,
        cancel: Callable[[], bool] | None,
    ) -> QueryResult:
        started = time.monotonic()
        limits = Limits(
            max_samples=self._options.max_samples,
            deadline=started + min(timeout_s or np.inf, self._options.query_timeout),
            is_canceled=cancel,
        )
        limits.check_steps(grid.n_steps)
        try:
            plan = self._plan(text, grid)
            _check_type(plan, grid)
            planned = time.monotonic()
            ctx = self._context(text, grid, plan, limits, lookback_ms)
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
        result = _finish(value, ctx, is_instant=grid.is_instant)
        result.warnings = ctx.annotations.warnings
        result.infos = ctx.annotations.infos
        result.stats = QueryStats(
            plan_s=planned - started,
            evaluate_s=evaluated - planned,
            finish_s=time.monotonic() - evaluated,
            n_samples_read=limits.n_read,
            n_samples_peak=limits.n_peak,
        )
        return result

    def _context(
        self, text: str, grid: _Grid, plan: p.Plan, limits: Limits, lookback_ms: int | None
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
            shared_keys=shared_keys(plan),
        )


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


def _finish(
    value: StepMatrix | ScalarSteps | StringValue | RangeVector,
    ctx: QueryContext,
    *,
    is_instant: bool,
) -> QueryResult:
    """Remove the names that were marked, unite or refuse equal series, sort."""
    space, steps_ms = ctx.space, ctx.steps_ms
    if isinstance(value, StringValue):
        nothing = np.empty((0, len(steps_ms)))
        rows = space.empty_rows(0)
        return QueryResult("string", rows, space, steps_ms, nothing, text=value.text)
    if isinstance(value, ScalarSteps):
        rows = space.empty_rows(1)
        values = np.ascontiguousarray(value.values)[np.newaxis, :]
        return QueryResult("scalar" if is_instant else "matrix", rows, space, steps_ms, values)
    if isinstance(value, RangeVector):
        samples = _sorted_samples(space, value)
        no_steps, no_values = np.empty(0, np.int64), np.empty((len(samples.labels), 0))
        return QueryResult("matrix", samples.labels, space, no_steps, no_values, samples=samples)
    matrix = _without_marked_names(space, _present_rows(space, value))
    if not is_instant:
        matrix = _reordered(space, matrix, space.sort_order(matrix.labels))
    return QueryResult(
        "vector" if is_instant else "matrix",
        matrix.labels,
        space,
        steps_ms,
        np.ascontiguousarray(matrix.values),
        matrix.valid,
    )


def _present_rows(space: LabelSpace, matrix: StepMatrix) -> StepMatrix:
    """Without rows that hold nothing, and without validity if nothing is absent."""
    if matrix.valid is None:
        return matrix
    n_present = np.count_nonzero(matrix.valid, axis=1)
    if not n_present.all():
        matrix = _reordered(space, matrix, np.flatnonzero(n_present))
    if int(n_present.sum()) == matrix.values.size:
        return StepMatrix(matrix.labels, matrix.values, None, matrix.drop_name)
    return matrix


def _reordered(space: LabelSpace, matrix: StepMatrix, order: npt.NDArray[np.int64]) -> StepMatrix:
    n_rows = matrix.n_series
    if len(order) == n_rows and bool((order == np.arange(n_rows)).all()):
        return matrix
    return take_rows(space, matrix, order)


def _without_marked_names(space: LabelSpace, matrix: StepMatrix) -> StepMatrix:
    marks = matrix.drop_name
    if marks is not None and marks.any():
        labels = _drop_marked(space, matrix.labels, marks)
        matrix = StepMatrix(labels, matrix.values, matrix.valid, None)
    return merge_same_labels(space, matrix)


def _drop_marked(space: LabelSpace, labels: LabelRows, marks: npt.NDArray[np.bool_]) -> LabelRows:
    bare = space.drop_name(labels)
    if marks.all():
        return bare
    both = space.concat([labels, bare])
    return space.take(both, np.arange(len(labels)) + len(labels) * marks)


def _sorted_samples(space: LabelSpace, vector: RangeVector) -> RangeVector:
    labels = vector.labels
    if vector.drop_name is not None:
        labels = _drop_marked(space, labels, vector.drop_name)
        if len(space.group(labels)[1]) < len(labels):
            raise QueryError(SAME_LABELSET)
    order = space.sort_order(labels)
    lengths = np.diff(vector.offsets)[order]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    at = np.repeat(vector.offsets[:-1][order] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return RangeVector(space.take(labels, order), offsets, vector.t_ms[at], vector.values[at])
