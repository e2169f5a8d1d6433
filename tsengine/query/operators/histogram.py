"""Functions of histograms, classic and native ones in one vector.

A classic histogram is a group of series that differ only in `le`; a step of it is made of the
buckets present there. Where a native histogram with the same labels stands beside it, neither has a
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.kernels.quantiles import bucket_fractions, bucket_quantiles
from tsengine.model.labels import NO_ID, LabelRows
from tsengine.promql import ast
from tsengine.promql.lexer import quote
from tsengine.query.context import QueryContext
from tsengine.query.operators import gotext
from tsengine.query.operators.aggregate import rows_by_group, slices_of_groups, warn_quantile
from tsengine.query.operators.histogram_cells import (
    floats_only,
    for_metric,
    metric_names,
    without_cells,
)
from tsengine.query.operators.matching import present_groups
from tsengine.query.operators.native_functions import (
    Natives,
    find_natives,
    native_fractions,
    native_quantiles,
    told_names,
)
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
_CONFLICT = "vector contains a mix of classic and native histograms"
_MONOTONICITY = (
    "input to histogram_quantile needed to be fixed for monotonicity (see "
    "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
)


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

    def group_of_bucket(self) -> _I64:
        """The histogram that each bucket belongs to: i64[S]."""
        group = np.empty(len(self.order), np.int64)
        group[self.order] = np.repeat(np.arange(len(self.labels)), np.diff(self.offsets))
        return group

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
    names = metric_names(ctx, vector.labels, rows)
    problems = {
        (text, name) for text, name, shown in zip(texts, names, present, strict=True) if shown
    }
    for text, name in sorted(problems):
        message = f'bucket label "le" is missing or has a malformed value of {quote(text)}'
        ctx.add_warning(message + for_metric(name), span)


# --- classic beside native ones ---------------------------------------------------------------


def _histograms(
    ctx: QueryContext, vector: StepMatrix, span: ast.Span
) -> tuple[_Classic, Natives | None]:
    """Both kinds of histograms of a vector, without those that contradict each other."""
    natives = find_natives(ctx, vector)
    classic = _classic_histograms(ctx, floats_only(ctx, vector), span)
    if natives is None:
        return classic, None
    partner = _partners(ctx, classic.labels, natives.vector.labels)
    rows = np.flatnonzero(partner != NO_ID)
    group_of_bucket = classic.group_of_bucket()
    n_groups = len(classic.labels)
    here = present_groups(classic.buckets.valid, group_of_bucket, n_groups, ctx.n_steps)
    conflict = natives.cells[rows] & here[partner[rows]]
    if not conflict.any():
        return classic, natives
    for name in told_names(ctx, natives.vector, rows[conflict.any(axis=1)]):
        ctx.add_warning(_CONFLICT + for_metric(name), span)
    gone = np.zeros((n_groups, ctx.n_steps), np.bool_)
    gone[partner[rows]] = conflict
    cells = natives.cells.copy()
    cells[rows] &= ~conflict
    buckets = without_cells(classic.buckets, gone[group_of_bucket])
    return replace(classic, buckets=buckets), replace(natives, cells=cells)


def _partners(ctx: QueryContext, classic: LabelRows, native: LabelRows) -> _I64:
    """The classic histogram of the same labels for each native one, NO_ID if there is none."""
    group_of_row, first_row = ctx.space.group(ctx.space.concat([classic, native]))
    partner_of_group = np.full(len(first_row), NO_ID, np.int64)
    partner_of_group[group_of_row[: len(classic)]] = np.arange(len(classic))
    return partner_of_group[group_of_row[len(classic) :]]


def _united(ctx: QueryContext, classic: StepMatrix, native: StepMatrix) -> StepMatrix:
    return merge_same_labels(ctx.space, stack_rows(ctx.space, [classic, native]))


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
        names = metric_names(ctx, classic.labels, fixed)
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
        ctx.add_info(_MONOTONICITY + for_metric(name) + fixes.text(), span)


def _check_quantiles(ctx: QueryContext, q: _F64, span: ast.Span) -> None:
    bad = q[~((q >= 0) & (q <= 1))]
    for value in np.unique(bad):
        warn_quantile(ctx, float(value), span)


def histogram_quantile(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Quantile of each histogram."""
    q, vector, span = _scalar(args[0]), _vector(args[1]), node.args[1].span
    _check_quantiles(ctx, q, node.args[0].span)
    classic, natives = _histograms(ctx, vector, span)
    fixes: dict[str, _Fixes] = {}
    result = _quantiles(ctx, classic, q, fixes)
    _tell_fixes(ctx, fixes, span)
    if natives is not None:
        result = _united(ctx, result, native_quantiles(ctx, natives, q, span))
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)


def histogram_quantiles(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Several quantiles of each histogram, told apart by a label."""
    vector, label, span = _vector(args[0]), args[1], node.args[0].span
    assert isinstance(label, StringValue), "the type check lets only a string through"
    if not gotext.is_label_name(label.text):
        raise QueryError(f"invalid label name {quote(label.text)}")
    space = ctx.space
    for arg, quantile in zip(node.args[2:], args[2:], strict=True):
        _check_quantiles(ctx, _scalar(quantile), arg.span)
    classic, natives = _histograms(ctx, vector, span)
    fixes: dict[str, _Fixes] = {}
    parts = []
    for quantile in args[2:]:
        q = _scalar(quantile)
        result = _quantiles(ctx, classic, q, fixes)
        if natives is not None:
            result = _united(ctx, result, native_quantiles(ctx, natives, q, span))
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
    _tell_fixes(ctx, fixes, span)
    united = merge_same_labels(space, stack_rows(space, parts))
    return remove_names(space, united, delayed=ctx.delayed_name_removal)


def histogram_fraction(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Share of the observations of each histogram between two values."""
    lower, upper, span = _scalar(args[0]), _scalar(args[1]), node.args[2].span
    classic, natives = _histograms(ctx, _vector(args[2]), span)
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
    if natives is not None:
        result = _united(ctx, result, native_fractions(ctx, natives, lower, upper, span))
    return remove_names(ctx.space, result, delayed=ctx.delayed_name_removal)
