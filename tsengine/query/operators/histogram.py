"""Functions of histograms.

A classic histogram is a group of series that differ only in `le`; a step of it is made of the
buckets present there. Storage holds no native histograms, so functions that only these have answer
with nothing, as they do for floats in Prometheus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels.quantiles import bucket_fractions, bucket_quantiles
from tsengine.model.labels import NO_ID, LabelRows
from tsengine.model.matchers import METRIC_NAME
from tsengine.promql import ast
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.operators import gotext
from tsengine.query.operators.aggregate import rows_by_group, slices_of_groups, warn_quantile
from tsengine.query.operators.room import require_room
from tsengine.query.operators.rows import stack_rows
from tsengine.query.partials import valid_or_dummy
from tsengine.query.scheduler import run_slices
from tsengine.query.stepmatrix import (
    EvalValue,
    ScalarSteps,
    StepMatrix,
    StringValue,
    merge_same_labels,
    remove_names,
    take_rows,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]

_BUCKET_LABEL = "le"
_MONOTONICITY = (
    "input to histogram_quantile needed to be fixed for monotonicity (see "
    "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
)

NATIVE_ONLY = (
    "histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar",
)  # fmt: skip
"""Functions that look at native histograms only."""


def of_native_histograms(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Nothing: floats are ignored."""
    return take_rows(ctx.space, _vector(args[0]), np.empty(0, np.int64))


def _vector(value: EvalValue) -> StepMatrix:
    assert isinstance(value, StepMatrix), "the type check lets only a vector through"
    return value


def _scalar(value: EvalValue) -> _F64:
    assert isinstance(value, ScalarSteps), "the type check lets only a scalar through"
    return value.values


# --- classic histograms -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Classic:
    """Buckets of G classic histograms, group after group and by ascending upper bound.

    Parameters
    ----------
    buckets
        The S buckets that have an upper bound.
    order, offsets
        Rows of `buckets` group after group, i64[S], and the groups' bounds, i64[G + 1].
    bounds
        Upper bounds in the sequence of `order`: f64[S].
    labels
        Of the histograms, without `le`.
    drop_name
        Marks of the histograms, or None.
    n_largest
        Buckets of the largest group.

    """

    buckets: StepMatrix
    order: _I64
    offsets: _I64
    bounds: _F64
    labels: LabelRows
    drop_name: npt.NDArray[np.bool_] | None
    n_largest: int

    def result(self, values: _F64, valid: npt.NDArray[np.bool_]) -> StepMatrix:
        """One row per histogram."""
        return StepMatrix(self.labels, values, None if valid.all() else valid, self.drop_name)


def _classic_histograms(ctx: QueryContext, vector: StepMatrix, span: ast.Span) -> _Classic:
    space = ctx.space
    le = space.column(vector.labels, _BUCKET_LABEL)
    distinct, code = np.unique(le, return_inverse=True)
    texts = ["" if pair == NO_ID else space.value_of(pair) for pair in distinct.tolist()]
    parsed = [gotext.parse_float(text) for text in texts]
    bounds = np.array([np.nan if bound is None else bound for bound in parsed])[code]
    has_bound = ~np.isnan(bounds)
    bad_rows = np.flatnonzero(~has_bound)
    if len(bad_rows):
        _warn_bad_buckets(ctx, vector, bad_rows, [texts[c] for c in code[bad_rows]], span)
        vector = take_rows(space, vector, np.flatnonzero(has_bound))
        bounds = bounds[has_bound]
    rest = space.drop(vector.labels, (_BUCKET_LABEL,))
    group_of_row, first_row = space.group(rest)
    _, offsets, n_largest = rows_by_group(group_of_row, len(first_row))
    order = np.lexsort((bounds, group_of_row))
    marks = None if vector.drop_name is None else vector.drop_name[first_row]
    labels = space.take(rest, first_row)
    return _Classic(vector, order, offsets, bounds[order], labels, marks, n_largest)


def _warn_bad_buckets(
    ctx: QueryContext, vector: StepMatrix, rows: _I64, texts: list[str], span: ast.Span
) -> None:
    present = np.any(vector.present()[rows], axis=1)
    names = _metric_names(ctx, vector.labels, rows)
    problems = {
        (text, name) for text, name, shown in zip(texts, names, present, strict=True) if shown
    }
    for text, name in sorted(problems):
        message = f'bucket label "le" is missing or has a malformed value of {quote(text)}'
        ctx.add_warning(message + _for_metric(name), span)


def _metric_names(ctx: QueryContext, labels: LabelRows, rows: _I64) -> list[str]:
    """Metric names of rows, for messages; empty where the name is gone already."""
    pairs = ctx.space.column(labels, METRIC_NAME)[rows]
    return ["" if pair == NO_ID else ctx.space.value_of(pair) for pair in pairs.tolist()]


def _for_metric(name: str) -> str:
    return f" for metric name {quote(name)}" if name else ""


# --- quantiles --------------------------------------------------------------------------------


@dataclass(slots=True)
class _Fixes:
    """Where counts had to be raised, over everything that one message covers."""

    low: float
    high: float
    difference: float
    n: int
    first_ms: int
    last_ms: int

    def include(self, other: _Fixes) -> None:
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.difference = max(self.difference, other.difference)
        self.n += other.n
        self.first_ms = min(self.first_ms, other.first_ms)
        self.last_ms = max(self.last_ms, other.last_ms)

    def text(self) -> str:
        first, last = (
            f"{np.datetime64(int(t_ms / 1000), 's')}Z" for t_ms in (self.first_ms, self.last_ms)
        )
        return (
            f", from buckets {gotext.general(self.low)} to {gotext.general(self.high)}, with a max"
            f" diff of {self.difference:.2g}, over {self.n} samples from {first} to {last}"
        )


def _quantiles(
    ctx: QueryContext, classic: _Classic, q: _F64, fixes_by_name: dict[str, _Fixes]
) -> StepMatrix:
    n_groups, n_steps = len(classic.labels), ctx.n_steps
    values, valid = np.empty((n_groups, n_steps)), np.empty((n_groups, n_steps), np.bool_)
    fixes = np.tile([np.inf, -np.inf, 0.0], (n_groups, 1))
    fix_steps = np.zeros(3 * n_groups, np.int64)
    cells, all_valid = valid_or_dummy(classic.buckets.valid)

    def work(number: int, groups: range) -> None:
        part = slice(groups.start, groups.stop)
        bucket_quantiles(
            classic.buckets.values, cells, all_valid, classic.order,
            classic.offsets[groups.start : groups.stop + 1], classic.bounds, q,
            np.empty(classic.n_largest), np.empty(classic.n_largest), values[part], valid[part],
            fixes[part], fix_steps[3 * groups.start : 3 * groups.stop],
        )  # fmt: skip

    run_slices(ctx, slices_of_groups(ctx, classic.buckets, n_groups), work)
    n_fixes, first, last = fix_steps.reshape(n_groups, 3).T
    fixed = np.flatnonzero(n_fixes)
    # Unlike warnings about buckets, this info names the metric only under delayed name removal.
    names = [""] * len(fixed)
    if ctx.delayed_name_removal:
        names = _metric_names(ctx, classic.labels, fixed)
    for group, name in zip(fixed, names, strict=True):
        low, high, difference = fixes[group].tolist()
        found = _Fixes(
            low=low,
            high=high,
            difference=difference,
            n=int(n_fixes[group]),
            first_ms=int(ctx.steps_ms[first[group]]),
            last_ms=int(ctx.steps_ms[last[group]]),
        )
        if name in fixes_by_name:
            fixes_by_name[name].include(found)
        else:
            fixes_by_name[name] = found
    return classic.result(values, valid)


def _tell_fixes(ctx: QueryContext, fixes_by_name: dict[str, _Fixes], span: ast.Span) -> None:
    for name, fixes in fixes_by_name.items():
        ctx.add_info(_MONOTONICITY + _for_metric(name) + fixes.text(), span)


def _check_quantiles(ctx: QueryContext, q: _F64, span: ast.Span) -> None:
    bad = q[~((q >= 0) & (q <= 1))]
    for value in np.unique(bad):
        warn_quantile(ctx, float(value), span)


def histogram_quantile(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Quantile of each classic histogram."""
    q, vector = _scalar(args[0]), _vector(args[1])
    _check_quantiles(ctx, q, node.args[0].span)
    classic = _classic_histograms(ctx, vector, node.args[1].span)
    fixes: dict[str, _Fixes] = {}
    result = _quantiles(ctx, classic, q, fixes)
    _tell_fixes(ctx, fixes, node.args[1].span)
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)


def histogram_quantiles(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Several quantiles of each classic histogram, told apart by a label."""
    vector, label = _vector(args[0]), args[1]
    assert isinstance(label, StringValue), "the type check lets only a string through"
    if not gotext.is_label_name(label.text):
        raise QueryError(f"invalid label name {quote(label.text)}")
    space = ctx.space
    for arg, quantile in zip(node.args[2:], args[2:], strict=True):
        _check_quantiles(ctx, _scalar(quantile), arg.span)
    classic = _classic_histograms(ctx, vector, node.args[0].span)
    fixes: dict[str, _Fixes] = {}
    parts = []
    for quantile in args[2:]:
        q = _scalar(quantile)
        result = _quantiles(ctx, classic, q, fixes)
        # A quantile that changes over time is a series of its own at each of its values.
        distinct = np.unique(q)
        require_room(ctx, result.values.size * len(distinct))
        for value in distinct:
            here = np.isnan(q) if np.isnan(value) else q == value
            pair = space.intern(label.text, gotext.open_metrics(float(value)))
            column = np.full(result.n_series, pair, np.int64)
            labels = space.set_column(result.labels, label.text, column)
            valid = result.valid if here.all() else result.present() & here
            parts.append(replace(result, labels=labels, valid=valid))
    _tell_fixes(ctx, fixes, node.args[0].span)
    united = merge_same_labels(space, stack_rows(space, parts))
    return remove_names(space, united, delayed=ctx.delayed_name_removal)


def histogram_fraction(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Share of the observations of each classic histogram between two values."""
    lower, upper = _scalar(args[0]), _scalar(args[1])
    classic = _classic_histograms(ctx, _vector(args[2]), node.args[2].span)
    shape = (len(classic.labels), ctx.n_steps)
    values, valid = np.empty(shape), np.empty(shape, np.bool_)
    cells, all_valid = valid_or_dummy(classic.buckets.valid)

    def work(number: int, groups: range) -> None:
        part = slice(groups.start, groups.stop)
        bucket_fractions(
            classic.buckets.values, cells, all_valid, classic.order,
            classic.offsets[groups.start : groups.stop + 1], classic.bounds, lower, upper,
            np.empty(classic.n_largest), np.empty(classic.n_largest), values[part], valid[part],
        )  # fmt: skip

    run_slices(ctx, slices_of_groups(ctx, classic.buckets, len(classic.labels)), work)
    result = classic.result(values, valid)
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)
