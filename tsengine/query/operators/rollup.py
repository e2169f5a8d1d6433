"""Functions of range vectors: one kernel family each, over samples or over a subquery's results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels import counters, extended, rollups, sliding_quantiles, trends
from tsengine.kernels.jit import Kernel
from tsengine.model.frame import FrameBatch
from tsengine.model.labels import LabelRows
from tsengine.model.matchers import METRIC_NAME
from tsengine.options import TYPE_AND_UNIT_LABELS
from tsengine.promql import ast
from tsengine.promql.lexer import quote
from tsengine.query.build import without_parens
from tsengine.query.context import QueryContext
from tsengine.query.operators.aggregate import warn_quantile
from tsengine.query.operators.filling import SeriesSet
from tsengine.query.operators.histogram_edges import between_edges
from tsengine.query.operators.histogram_increase import extrapolating
from tsengine.query.operators.histogram_rollup import (
    counting_steps,
    ignoring,
    last_differing,
    passing,
    summing,
)
from tsengine.query.operators.labelfuncs import labels_of_absent
from tsengine.query.operators.range_notes import SeriesNotes, no_notes
from tsengine.query.operators.select import collect, find_range_series, range_tier_function
from tsengine.query.operators.window_function import (
    Special,
    SummingKernel,
    WindowFunction,
    WindowKernel,
)
from tsengine.query.partials import SumPartial
from tsengine.query.plan import MatrixPlan
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, remove_names

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_SIMPLE: dict[str, tuple[Kernel, int]] = {
    "rate": (counters.extrapolate, counters.RATE),
    "increase": (counters.extrapolate, counters.INCREASE),
    "delta": (counters.extrapolate, counters.DELTA),
    "irate": (counters.last_difference, counters.IRATE),
    "idelta": (counters.last_difference, counters.IDELTA),
    "count_over_time": (rollups.pick_samples, rollups.COUNT),
    "present_over_time": (rollups.pick_samples, rollups.PRESENT),
    "absent_over_time": (rollups.pick_samples, rollups.PRESENT),
    "first_over_time": (rollups.pick_samples, rollups.FIRST),
    "last_over_time": (rollups.pick_samples, rollups.LAST),
    "ts_of_first_over_time": (rollups.pick_samples, rollups.TS_OF_FIRST),
    "ts_of_last_over_time": (rollups.pick_samples, rollups.TS_OF_LAST),
    "sum_over_time": (rollups.sum_windows, rollups.SUM),
    "avg_over_time": (rollups.sum_windows, rollups.AVG),
    "stddev_over_time": (rollups.sum_windows, rollups.STDDEV),
    "stdvar_over_time": (rollups.sum_windows, rollups.STDVAR),
    "min_over_time": (rollups.extreme_windows, rollups.MIN),
    "max_over_time": (rollups.extreme_windows, rollups.MAX),
    "ts_of_min_over_time": (rollups.extreme_windows, rollups.TS_OF_MIN),
    "ts_of_max_over_time": (rollups.extreme_windows, rollups.TS_OF_MAX),
}
"""Functions whose only argument is the range: kernel and op code."""

_STEPS = {"changes": counters.CHANGES, "resets": counters.RESETS}
_EDGES = {"rate": extended.RATE, "increase": extended.INCREASE, "delta": extended.DELTA}
"""Functions that `anchored` and `smoothed` change into differences between a range's ends."""

_EXTRAPOLATED = {"rate": counters.RATE, "increase": counters.INCREASE, "delta": counters.DELTA}
_LAST_DIFFERENCES = {"irate": counters.IRATE, "idelta": counters.IDELTA}
_PICKS = frozenset({"first_over_time", "last_over_time"})
_ANY_TYPE = frozenset(
    {
        "count_over_time", "present_over_time", "absent_over_time", "ts_of_first_over_time",
        "ts_of_last_over_time",
    }
)  # fmt: skip
"""Functions to whose kernels a handle is as good as a number."""
_USE_STARTS = frozenset({"rate", "increase", "irate", "resets"})

_KEEP_NAME = frozenset({"first_over_time", "last_over_time"})
_COUNTER_SUFFIXES = ("_total", "_sum", "_count", "_bucket")


def window_function(node: ast.Call, ctx: QueryContext, params: list[_F64]) -> WindowFunction:
    """What a function makes of a window, bound to its parameters (f64[T] each).

    Raises
    ------
    QueryError
        The function is not one of range vectors.

    """
    kernel = _window_kernel(node, ctx, params)
    # Differences between edges and start timestamps do not go together in Prometheus either.
    is_between_edges = node.name in _EDGES and _modifier(node) is not None
    wants_starts = node.name in _USE_STARTS and not is_between_edges
    summing = None
    if _modifier(node) is None and node.name in _EXTRAPOLATED:
        summing = _bind_sums(_EXTRAPOLATED[node.name])
    return WindowFunction(
        kernel,
        _special(node, ctx, kernel),
        wants_starts,
        looks_at_values=node.name not in _ANY_TYPE,
        summing=summing,
    )


def _special(node: ast.Call, ctx: QueryContext, kernel: WindowKernel) -> Special | None:
    """The part of a function for slices that hold more than floats."""
    name = node.name
    if name in _ANY_TYPE:
        return None
    if name in _PICKS:
        return passing(kernel)
    if name in _STEPS:
        return counting_steps(kernel, _STEPS[name])
    modifier = _modifier(node)
    if modifier is not None:
        return between_edges(kernel, _EDGES[name], modifier, ctx.lookback_ms)
    if name in _EXTRAPOLATED:
        return extrapolating(kernel, _EXTRAPOLATED[name])
    if name in _LAST_DIFFERENCES:
        return last_differing(kernel, _LAST_DIFFERENCES[name])
    if name in ("sum_over_time", "avg_over_time"):
        return summing(kernel, is_average=name == "avg_over_time")
    return ignoring(kernel)


def _window_kernel(node: ast.Call, ctx: QueryContext, params: list[_F64]) -> WindowKernel:
    name = node.name
    modifier = _modifier(node)
    if name in _STEPS:
        reach_ms = 0 if modifier is None else ctx.lookback_ms
        return _bind(counters.count_steps, _STEPS[name], reach_ms)
    if modifier is not None:
        op = _EDGES[name]
        return _bind(extended.difference_of_edges, op, modifier, ctx.lookback_ms)
    if name in _SIMPLE:
        kernel, op = _SIMPLE[name]
        return _bind(kernel, op)
    match name:
        case "quantile_over_time":
            return _bind(sliding_quantiles.quantile_windows, sliding_quantiles.QUANTILE, params[0])
        case "mad_over_time":
            return _bind(
                sliding_quantiles.quantile_windows, sliding_quantiles.MAD, np.zeros(ctx.n_steps)
            )
        case "deriv":
            no_seconds = np.zeros(ctx.n_steps)
            return _bind(trends.fit_lines, trends.DERIV, no_seconds, ctx.steps_ms)
        case "predict_linear":
            return _bind(trends.fit_lines, trends.PREDICT, params[0], ctx.steps_ms)
        case "double_exponential_smoothing":
            return _bind(trends.smooth_windows, params[0], params[1])
    raise QueryError(f"function {name}() of a range vector is not supported yet")


def _modifier(node: ast.Call) -> int | None:
    """ANCHORED or SMOOTHED if the function's range is; the planner refuses what can't be."""
    for arg in node.args:
        inner = without_parens(arg)
        if isinstance(inner, ast.MatrixSelector):
            if inner.selector.anchored:
                return extended.ANCHORED
            if inner.selector.smoothed:
                return extended.SMOOTHED
    return None


def _bind(kernel: Kernel, *first: int | _F64 | _I64) -> WindowKernel:
    def call(
        batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
        out: _F64, valid: _BOOL, n_present: _I64,
    ) -> None:  # fmt: skip
        kernel(
            *first, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
            batch.row_offsets, ends_ms, range_ms, out, valid, n_present,
        )  # fmt: skip

    return call


def _bind_sums(op: int) -> SummingKernel:
    def call(
        batch: FrameBatch, order: _I64, ends_ms: _I64, range_ms: int,
        groups: _I64, n_present: _I64, partial: SumPartial,
    ) -> None:  # fmt: skip
        partial.fold(
            lambda *sums: counters.extrapolate_sums(
                op, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
                batch.row_offsets, ends_ms, range_ms, *sums, n_present,
            ),
            groups,
        )  # fmt: skip

    return call


def check_parameters(
    node: ast.Call, params: list[_F64], steps_with_samples: Callable[[], _BOOL]
) -> None:
    """Refuse parameters at steps where there is a series to use them on.

    Parameters
    ----------
    node, params
        The function and its parameters, f64[T] each.
    steps_with_samples
        bool[T]: whether any series has a sample in its window; asked only if it matters.

    Raises
    ------
    QueryError
        A smoothing factor is outside (0, 1); NaN is not.

    """
    if node.name != "double_exponential_smoothing":
        return
    bad = [(factor <= 0.0) | (factor >= 1.0) for factor in params]
    if not any(steps.any() for steps in bad):
        return
    matters = steps_with_samples()
    for factor, steps, name in zip(params, bad, ("smoothing", "trend"), strict=True):
        refused = factor[steps & matters]
        if len(refused):
            raise QueryError(
                f"invalid {name} factor. Expected: 0 < {name[0]}f < 1, got: {refused[0]:f}"
            )


def parameter_steps(params: list[ScalarSteps]) -> list[_F64]:
    """Scalar arguments as arrays for kernels: f64[T] each."""
    return [np.ascontiguousarray(param.values) for param in params]


def keeps_name(node: ast.Call) -> bool:
    """Whether a function of a range vector leaves the metric name alone."""
    return node.name in _KEEP_NAME


@dataclass(frozen=True, slots=True)
class PreparedRollup:
    """A function of a range selector before any sample is read; ``params: f64[T]`` each."""

    node: ast.Call
    params: list[_F64]
    series: SeriesSet
    function: WindowFunction
    notes: SeriesNotes


def evaluate_rollup(
    node: ast.Call, source: MatrixPlan, ctx: QueryContext, params: list[ScalarSteps]
) -> StepMatrix:
    """A function of a range selector at every step."""
    rollup = prepare_rollup(node, source, ctx, params)
    matrix = collect(ctx, rollup.series, rollup.function, rollup.notes)
    return finish_rollup(node, ctx, matrix, rollup.params)


def prepare_rollup(
    node: ast.Call, source: MatrixPlan, ctx: QueryContext, params: list[ScalarSteps]
) -> PreparedRollup:
    """Series and kernel of a function of a range selector; everything that may be refused is."""
    steps = parameter_steps(params)
    series = find_range_series(ctx, source, node)
    if len(series.refs):
        present = WindowFunction(_bind(*_SIMPLE["present_over_time"]))
        check_parameters(
            node, steps, lambda: np.asarray(collect(ctx, series, present).present().any(axis=0))
        )
    notes = no_notes(series.labels, span_of_range(node), series.inexact_text(ctx))
    function = window_function(node, ctx, steps)
    function = replace(
        function,
        of_windows=range_tier_function(ctx, node, source),
        at_steps=lambda some: _at_steps(function, node, ctx, steps, some),
    )
    return PreparedRollup(node, steps, series, function, notes)


def _at_steps(
    function: WindowFunction, node: ast.Call, ctx: QueryContext, params: list[_F64], steps: slice
) -> WindowFunction:
    """The function with its parameters at some of the steps."""
    part = ctx.on_steps(ctx.steps_ms[steps], ctx.step_ms)
    made = window_function(node, part, [param[steps] for param in params])
    return replace(made, of_windows=function.of_windows)


def span_of_range(node: ast.Call) -> ast.Span:
    """Where annotations about the windows of a function point to: its first argument."""
    if isinstance(without_parens(node.args[0]), ast.Subquery):
        # Prometheus has lost the place of a subquery by then and names the text's beginning.
        return ast.Span(0, 0)
    return node.args[0].span


def finish_rollup(
    node: ast.Call,
    ctx: QueryContext,
    matrix: StepMatrix,
    params: list[_F64],
    marks: _BOOL | None = None,
) -> StepMatrix:
    """Annotate, then take the names, or turn presence into absence.

    Parameters
    ----------
    node, ctx, params
        The function, the query, the function's parameters f64[T].
    matrix
        What the kernel made; rows without any result are gone, names are still there.
    marks
        bool[S]: series of the operand that have lost their name.

    """
    annotate(node, ctx, _labels_of_floats(ctx, matrix), matrix, params)
    if node.name == "absent_over_time":
        return _absence(node, ctx, matrix)
    if keeps_name(node):
        return StepMatrix(matrix.labels, matrix.values, matrix.valid, marks)
    return remove_names(ctx.space, matrix, delayed=ctx.delayed_name_removal, merge=False)


def _labels_of_floats(ctx: QueryContext, matrix: StepMatrix) -> LabelRows:
    """Series of a result that hold any float."""
    if len(ctx.histograms) == 0:
        return matrix.labels
    floats = matrix.present() & ~ctx.histograms.which(matrix.values)
    return ctx.space.take(matrix.labels, np.flatnonzero(floats.any(axis=1)))


def annotate(
    node: ast.Call,
    ctx: QueryContext,
    labels: LabelRows,
    result: StepMatrix,
    params: list[_F64],
) -> None:
    """Warnings and infos that parameters and names give rise to, as Prometheus has them.

    Parameters
    ----------
    node, ctx, params
        The function, the query, the function's parameters f64[T].
    labels
        Series that have a result that is a float, with their names.
    result
        The results, or an aggregation of them: says at which steps there are any.

    """
    span = span_of_range(node)
    if node.name == "quantile_over_time" and result.n_series:
        used = params[0][result.present().any(axis=0)]
        for q in np.unique(used):
            if not 0.0 <= q <= 1.0:
                warn_quantile(ctx, q, span)
    if node.name in ("rate", "increase"):
        _doubt_counters(ctx, labels, span)


def _doubt_counters(ctx: QueryContext, labels: LabelRows, span: ast.Span) -> None:
    """Say which series do not look like counters by their type label, or else by their name."""
    names = ctx.space.column(labels, METRIC_NAME)
    if TYPE_AND_UNIT_LABELS not in ctx.features:
        # Most queries are about one metric.
        is_one = len(names) > 0 and bool((names == names[0]).all())
        for pair in np.unique(names[:1] if is_one else names).tolist():
            if pair < 0:
                continue
            name = ctx.space.value_of(pair)
            if not name.endswith(_COUNTER_SUFFIXES):
                ctx.add_info(
                    "metric might not be a counter, name does not end in "
                    f"_total/_sum/_count/_bucket: {quote(name)}",
                    span,
                )
        return
    types = ctx.space.column(labels, "__type__")
    for name_pair, type_pair in np.unique(np.stack((names, types)), axis=1).T.tolist():
        kind = ctx.space.value_of(type_pair) if type_pair >= 0 else ""
        name = ctx.space.value_of(name_pair) if name_pair >= 0 else ""
        if name and kind not in ("counter", "histogram"):
            ctx.add_info(
                'metric might not be a counter, __type__ label is not set to "counter" or '
                f'"histogram", got {quote(kind)}: {quote(name)}',
                span,
            )


def _absence(node: ast.Call, ctx: QueryContext, matrix: StepMatrix) -> StepMatrix:
    """1 at the steps at which no series has a sample."""
    absent: _BOOL = np.logical_not(matrix.present().any(axis=0, keepdims=True))
    if not absent.any():
        return StepMatrix(ctx.space.empty_rows(0), np.empty((0, ctx.n_steps)), None)
    labels = ctx.space.from_dicts([labels_of_absent(node.args[0])])
    return StepMatrix(labels, np.ones((1, ctx.n_steps)), None if absent.all() else absent)
