"""`info(v, {...})`: series get the labels of the info series (`target_info`, ...) about them.

A series of `v` and an info series belong together if they agree on the identifying labels. Which
info series is the newest may change from step to step, so a series of `v` is cut into *pieces*:
rows with the same info series at all their steps. Names of info metrics are few, series are many:
loops are over names of metrics and labels only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.errors import QueryError
from tsengine.model.labels import NO_ID, LabelRows
from tsengine.model.matchers import METRIC_NAME, Matcher, MatchOp
from tsengine.promql.literals import matches, matches_empty
from tsengine.query.context import QueryContext
from tsengine.query.operators import gotext
from tsengine.query.operators.filling import SeriesSet
from tsengine.query.operators.histogram_cells import histogram_cells
from tsengine.query.operators.room import require_room
from tsengine.query.operators.select import Reach, collect, find_series, latest
from tsengine.query.plan import InfoPlan
from tsengine.query.readings import Aim
from tsengine.query.stepmatrix import StepMatrix, cost, cost_of_cells, merge_same_labels

_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

IDENTIFYING = ("instance", "job")
_DEFAULT_NAME = Matcher(METRIC_NAME, MatchOp.EQUAL, "target_info")
_ANY_INFO_NAME = Matcher(METRIC_NAME, MatchOp.REGEX, ".+_info")
_POSITIVE = (MatchOp.EQUAL, MatchOp.REGEX)


def add_info_labels(ctx: QueryContext, plan: InfoPlan, base: StepMatrix) -> StepMatrix:
    """The vector with labels of info series.

    Raises
    ------
    QueryError
        Two info series stand for one series at a step, or contradict each other on a label, or one
        holds histograms, or two series of the result have become one.

    """
    names = _name_matchers(plan.matchers)
    data = tuple(matcher for matcher in plan.matchers if matcher.name != METRIC_NAME)
    is_info = _is_info_series(ctx, base.labels, names)
    infos = _read_infos(ctx, plan, base, (*names, *data), ~is_info)
    pieces = _cut(ctx, base, infos, is_info, {matcher.name for matcher in data})
    if not all(map(matches_empty, data)):
        pieces = _chosen(ctx, pieces, pieces.has_info | is_info[pieces.row])
    require_room(ctx, cost_of_cells(len(pieces.row) * ctx.n_steps))
    result = StepMatrix(
        labels=pieces.labels,
        values=base.values[pieces.row],
        valid=None if pieces.mask.all() else pieces.mask,
        drop_name=None if base.drop_name is None else base.drop_name[pieces.row],
    )
    return merge_same_labels(ctx.space, result)


def _name_matchers(matchers: tuple[Matcher, ...]) -> tuple[Matcher, ...]:
    """Which metrics are info metrics for this call; by default `target_info`."""
    names = tuple(matcher for matcher in matchers if matcher.name == METRIC_NAME)
    if not names:
        return (_DEFAULT_NAME,)
    if any(matcher.op in _POSITIVE for matcher in names):
        return names
    return (_ANY_INFO_NAME, *names)


def _is_info_series(ctx: QueryContext, labels: LabelRows, names: tuple[Matcher, ...]) -> _BOOL:
    """Which rows are info series themselves, and stay as they are: bool[S]."""
    distinct, code = np.unique(ctx.space.column(labels, METRIC_NAME), return_inverse=True)
    texts = ["" if pair == NO_ID else ctx.space.value_of(pair) for pair in distinct.tolist()]
    found = [all(matches(matcher, text) for matcher in names) for text in texts]
    return np.array(found, np.bool_)[code]


@dataclass(frozen=True, slots=True)
class _Infos:
    """Info series: which one counts at which step.

    ``won: bool[I, T]``: it is the newest of its metric with its identifying labels.
    ``name: i64[I]``: the pair id of its metric name.
    """

    labels: LabelRows
    name: _I64
    won: _BOOL


def _read_infos(
    ctx: QueryContext,
    plan: InfoPlan,
    base: StepMatrix,
    matchers: tuple[Matcher, ...],
    wanted: _BOOL,
) -> _Infos:
    """The info series that may belong to the wanted rows, at the times the base series are from."""
    space = ctx.space
    no_infos = _Infos(space.empty_rows(0), np.empty(0, np.int64), np.empty((0, ctx.n_steps), bool))
    known = {}
    for name in IDENTIFYING:
        pairs = np.unique(space.column(base.labels, name)[wanted])
        if (pairs != NO_ID).any():
            known[name] = pairs[pairs != NO_ID]
    if not known:
        return no_infos
    series = find_series(ctx, matchers, plan.shift, Reach(ctx.lookback_ms, aim=Aim.NEWEST))
    fits = np.ones(len(series.refs), np.bool_)
    for name, pairs in known.items():
        fits &= np.isin(space.column(series.labels, name), pairs)
    rows = np.flatnonzero(fits)
    series = replace(series, refs=series.refs[rows], labels=space.take(series.labels, rows))
    _refuse_histograms(ctx, series)
    # The value of an info series says nothing, its time says which one is the newest.
    times = collect(ctx, series, latest(want_time=True))
    won = _newest(ctx, times, np.any(base.present(), axis=0))
    ctx.account(-cost(times))
    return _Infos(times.labels, space.column(times.labels, METRIC_NAME), won)


def _refuse_histograms(ctx: QueryContext, series: SeriesSet) -> None:
    if not ctx.view.has_histograms(series.refs, series.mint, series.maxt):
        return
    samples = collect(ctx, series, latest(want_time=False))
    ctx.account(-cost(samples))
    cells = histogram_cells(ctx, samples)
    if cells is not None:
        row = np.flatnonzero(cells.any(axis=1))[:1]
        labels = ctx.space.materialise(ctx.space.take(samples.labels, row))[0]
        raise QueryError(
            f"this should be an info metric, with float samples: {gotext.label_set(labels)}"
        )


def _newest(ctx: QueryContext, times: StepMatrix, matters: _BOOL) -> _BOOL:
    """Where each info series is the newest of its metric and identifying labels: bool[I, T].

    ``matters: bool[T]``: steps at which a tie is an error.
    """
    present = times.present()
    group_of_row, first_row = ctx.space.group(
        ctx.space.keep(times.labels, (METRIC_NAME, *IDENTIFYING))
    )
    if len(first_row) == times.n_series:
        return present
    order = np.argsort(group_of_row, kind="stable")
    starts = np.searchsorted(group_of_row[order], np.arange(len(first_row)))
    seen = np.where(present, times.values, -np.inf)
    newest = np.maximum.reduceat(seen[order], starts, axis=0)
    won: _BOOL = present & (seen == newest[group_of_row])
    n_won = np.add.reduceat(won[order].astype(np.int64), starts, axis=0)
    ties = np.argwhere((n_won > 1) & matters)
    if len(ties):
        group, step = ties[np.argmin(ties[:, 1])].tolist()
        _raise_duplicate(ctx, times, np.flatnonzero((group_of_row == group) & won[:, step]), step)
    return won


def _raise_duplicate(ctx: QueryContext, times: StepMatrix, rows: _I64, step: int) -> None:
    first, second = (
        gotext.label_set(labels)
        for labels in ctx.space.materialise(ctx.space.take(times.labels, rows[:2]))
    )
    at_ms = round(times.values[rows[0], step] * 1000)
    raise QueryError(
        f"found duplicate series for info metric: existing {first} @ {at_ms}, "
        f"new {second} @ {at_ms}"
    )


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Rows of the base vector, cut by the info series that belong to them: P pieces.

    ``row: i64[P]`` of the base; ``mask: bool[P, T]``; ``has_info: bool[P]``.
    """

    row: _I64
    mask: _BOOL
    has_info: _BOOL
    labels: LabelRows


def _chosen(ctx: QueryContext, pieces: _Pieces, wanted: _BOOL) -> _Pieces:
    at = np.flatnonzero(wanted)
    labels = ctx.space.take(pieces.labels, at)
    return _Pieces(pieces.row[at], pieces.mask[at], pieces.has_info[at], labels)


def _cut(
    ctx: QueryContext, base: StepMatrix, infos: _Infos, is_info: _BOOL, wanted: set[str]
) -> _Pieces:
    """Join with one info metric after the other; `wanted` label names, all if empty."""
    space = ctx.space
    rows = np.arange(base.n_series)
    no_info = np.zeros(len(rows), np.bool_)
    pieces = _Pieces(rows, base.present(), no_info, base.labels)
    both = space.keep(space.concat([base.labels, infos.labels]), IDENTIFYING)
    groups = space.group(both)[0]
    base_group = np.where(is_info, NO_ID, groups[: len(rows)])
    info_group = groups[len(rows) :]
    brought = space.drop(infos.labels, (METRIC_NAME, *IDENTIFYING))
    if wanted:
        brought = space.keep(brought, wanted)
    for name in np.unique(infos.name).tolist():
        mine = np.flatnonzero(infos.name == name)
        partners = _partners(base_group[pieces.row], info_group[mine])
        pieces = _join(
            ctx, base.labels, pieces, partners, infos.won[mine], space.take(brought, mine)
        )
    return pieces


def _partners(left: _I64, right: _I64) -> tuple[_I64, _I64]:
    """All pairs of positions with equal groups: i64[Q] of the left, i64[Q] of the right."""
    order = np.argsort(right, kind="stable")
    starts = np.searchsorted(right[order], left, side="left")
    sizes = np.searchsorted(right[order], left, side="right") - starts
    pair_left = np.repeat(np.arange(len(left)), sizes)
    first = np.cumsum(sizes) - sizes
    return pair_left, order[starts[pair_left] + np.arange(len(pair_left)) - first[pair_left]]


def _join(
    ctx: QueryContext,
    base_labels: LabelRows,
    pieces: _Pieces,
    partners: tuple[_I64, _I64],
    won: _BOOL,
    brought: LabelRows,
) -> _Pieces:
    """Cut pieces by the series of one info metric, and give them its labels.

    ``won: bool[K, T]`` and `brought` (the labels it adds) of the metric's K series.
    """
    space = ctx.space
    at, info = partners
    require_room(ctx, cost_of_cells((len(at) + len(pieces.row)) * ctx.n_steps))
    with_info = pieces.mask[at] & won[info]
    rest = pieces.mask.copy()
    if len(at):
        # Pairs of one piece stand side by side.
        firsts = np.flatnonzero(np.diff(at, prepend=-1))
        rest[at[firsts]] &= ~np.logical_or.reduceat(with_info, firsts, axis=0)
    both = _Pieces(
        row=np.concatenate((pieces.row, pieces.row[at])),
        mask=np.concatenate((rest, with_info)),
        has_info=np.concatenate((pieces.has_info, np.ones(len(at), np.bool_))),
        labels=space.take(pieces.labels, np.concatenate((np.arange(len(pieces.row)), at))),
    )
    is_used: _BOOL = np.any(both.mask, axis=1)
    source = np.concatenate((np.full(len(pieces.row), NO_ID), info))[is_used]
    both = _chosen(ctx, both, is_used)
    labels = both.labels
    for name in space.names(brought):
        mine = space.column(base_labels, name)[both.row]
        present = space.column(labels, name)
        column = np.where(source == NO_ID, NO_ID, space.column(brought, name)[source])
        # What the base series has itself stays as it is.
        adds = (column != NO_ID) & (mine == NO_ID)
        if (adds & (present != NO_ID) & (present != column)).any():
            raise QueryError(f"conflicting label: {name}")
        labels = space.set_column(labels, name, np.where(adds, column, present))
    return replace(both, labels=labels)
