"""Reading samples among which there may be native histograms or start timestamps.

The hint that a histogram shows is not what was stored but what Prometheus's chunks would say: it
depends on the sample before it. So samples are read from one lookback earlier, with the staleness
markers, and what was only wanted for the hints is left out again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.batch import SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import (
    HINT_GAUGE,
    HINT_NOT_RESET,
    HINT_RESET,
    HINT_UNKNOWN,
    Histograms,
    handles,
    is_handle,
    no_histograms,
    rows_of,
)
from tsengine.model.ragged import expand_ranges
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import derive_hints, is_reset
from tsengine.query.operators.histogram_cells import keep
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    filter_frames,
    trim_frames,
)

_I64 = npt.NDArray[np.int64]
_F64 = npt.NDArray[np.float64]
_BOOL = npt.NDArray[np.bool_]
_Refs = npt.NDArray[np.uint32]


def read_samples(
    ctx: QueryContext,
    refs: _Refs,
    mint: int,
    maxt: int,
    *,
    drop_stale: bool,
    totals_only: bool = False,
    want_starts: bool = False,
    with_values: bool = True,
) -> Samples:
    """Samples with mint <= t <= maxt, hints of histograms as they are seen.

    Parameters
    ----------
    ctx
        The query.
    refs, mint, maxt, drop_stale
        As in `SampleView.read`.
    totals_only
        Leave the buckets of histograms away.
    want_starts
        Whether start timestamps are needed.
    with_values
        Whether floats are needed, and not only which samples there are.

    """
    view = ctx.view
    if view.has_histograms(refs, mint, maxt):
        batch = _read_histograms(
            ctx, refs, mint, maxt, drop_stale=drop_stale, totals_only=totals_only
        )
    else:
        batch = view.read(refs, mint, maxt, drop_stale=drop_stale, with_values=with_values)
    if not want_starts:
        return Samples(batch)
    return Samples(batch, _starts_beside(batch, refs, view.read_start_times(refs, mint, maxt)))


def _read_histograms(
    ctx: QueryContext,
    refs: _Refs,
    mint: int,
    maxt: int,
    *,
    drop_stale: bool,
    totals_only: bool,
) -> FrameBatch:
    batch = ctx.view.read(refs, mint - ctx.lookback_ms, maxt, drop_stale=False)
    if batch.histograms is not None:
        batch = with_hints(batch, batch.histograms, totals_only=totals_only)
    batch = trim_frames(batch, mint)
    if drop_stale:
        kept = batch.values.view(np.uint64) != STALE_BITS
        if not kept.all():
            batch = filter_frames(batch, kept)
    return only_used(batch)


def with_hints(batch: FrameBatch, table: Histograms, *, totals_only: bool = False) -> FrameBatch:
    """The batch with the hints that follow from the order of its samples.

    With `totals_only` buckets are left away. Hints say all that is known of resets then, since the
    buckets can't be asked any more.
    """
    bits = batch.values.view(np.uint64)
    held = is_handle(bits)
    places = np.flatnonzero(held)
    if len(places) == 0:
        return batch
    is_first = np.zeros(len(bits), np.bool_)
    is_first[batch.row_offsets[:-1][np.diff(batch.row_offsets) > 0]] = True
    row = np.cumsum(is_first)[places]
    has_one_before = np.diff(row) == 0
    after = np.flatnonzero(has_one_before) + 1
    # A run of histograms ends at a float and at a staleness marker.
    continues = has_one_before & (np.diff(places) == 1)
    table = table.take(rows_of(bits[places]))
    table = replace(table, hint=_seen_hints(table, after, continues))
    if totals_only:
        unknown = after[table.hint[after] == HINT_UNKNOWN]
        hint = table.hint.copy()
        found = is_reset(table, unknown - 1, unknown)
        hint[unknown] = np.where(found, HINT_RESET, HINT_NOT_RESET)
        table = _totals(replace(table, hint=hint))
    local = np.arange(len(places))
    values = batch.values.copy()
    values[places] = handles(local).view(np.float64)
    return replace(batch, values=values, histograms=table)


def _seen_hints(table: Histograms, after: _I64, continues: _BOOL) -> npt.NDArray[np.uint8]:
    """Hints of a table as a database shows them: a stored RESET only where values don't show it.

    ``after: i64[K]`` are the histograms with another one before them in their series;
    ``continues: bool[N - 1]`` says which of all but the first come right after the one before.
    """
    offsets = np.concatenate(([0], np.flatnonzero(~continues) + 1, [len(table)])).astype(np.int64)
    hint = derive_hints(table, offsets, np.arange(len(table)))
    told = hint == HINT_RESET
    if told.any():
        hint[told] = HINT_UNKNOWN
        stored = after[told[after]]
        untold = replace(table, hint=np.full(len(table), HINT_UNKNOWN, np.uint8))
        hint[stored[~is_reset(untold, stored - 1, stored)]] = HINT_RESET
    return hint


def _totals(table: Histograms) -> Histograms:
    """The table without buckets."""
    n = len(table)
    return replace(
        no_histograms(),
        schema=table.schema,
        hint=table.hint,
        count=table.count,
        sum=table.sum,
        zero_threshold=np.zeros(n),
        zero_count=np.zeros(n),
        offsets=np.zeros(n + 1, np.int64),
        bounds_id=np.full(n, -1, np.int32),
    )


def only_used(batch: FrameBatch) -> FrameBatch:
    """The batch with a table of just the histograms in its values, in their order."""
    table = batch.histograms
    if table is None:
        return batch
    bits = batch.values.view(np.uint64)
    held = is_handle(bits)
    rows = rows_of(bits[held])
    if len(rows) == 0:
        return replace(batch, histograms=None)
    local = np.arange(len(rows))
    if len(rows) == len(table) and bool((rows == local).all()):
        return batch
    values = batch.values.copy()
    values[held] = handles(local).view(np.float64)
    return replace(batch, values=values, histograms=table.take(rows))


def _starts_beside(batch: FrameBatch, refs: _Refs, known: SeriesColumns) -> _I64 | None:
    """Start timestamps beside the values of a batch (0 where unknown), None if none is known."""
    if len(known.t_ms) == 0:
        return None
    sizes = np.diff(known.offsets)
    rows = np.searchsorted(refs, known.refs)
    lengths = np.diff(batch.row_offsets)[rows]
    values_at = expand_ranges(batch.row_offsets[rows], lengths)
    t_ms = batch.t_ms[expand_ranges(batch.axis_offsets[batch.row_axis[rows]], lengths)]
    # Ranks of times make (series, time) one number that sorts the same way.
    times = np.unique(t_ms)
    rank = np.searchsorted(times, known.t_ms)
    here = rank < len(times)
    here[here] = times[rank[here]] == known.t_ms[here]
    series = np.repeat(np.arange(len(rows)), sizes)
    wanted = (series * len(times) + rank)[here]
    have = np.repeat(np.arange(len(rows)), lengths) * len(times) + np.searchsorted(times, t_ms)
    found = np.searchsorted(have, wanted)
    exists = found < len(have)
    exists[exists] = have[found[exists]] == wanted[exists]
    start_ms = np.zeros(len(batch.values), np.int64)
    start_ms[values_at[found[exists]]] = known.bits.view(np.int64)[here][exists]
    return start_ms if start_ms.any() else None


def adopt(ctx: QueryContext, table: Histograms, cells: Cells) -> None:
    """Make handles of a batch's table, among the cells, handles of the query's arena."""
    held = is_handle(cells.values.view(np.uint64)) & cells.valid
    if not held.any():
        return
    rows, local = np.unique(rows_of(cells.values[held].view(np.uint64)), return_inverse=True)
    cells.values[held] = keep(ctx, table.take(rows))[local]


def adopt_values(ctx: QueryContext, batch: FrameBatch) -> _F64:
    """The values of a batch with handles of the query's arena."""
    if batch.histograms is None:
        return batch.values
    values = batch.values.copy()
    bits = values.view(np.uint64)
    held = is_handle(bits)
    values[held] = keep(ctx, batch.histograms)[rows_of(bits[held])]
    return values


def without_series_hints(ctx: QueryContext, values: _F64) -> tuple[_F64, Histograms | None]:
    """Results of a subquery (f64[N]) as samples: handles of a table of their own, hints unknown.

    A hint speaks of the sample before, which need not be the one that the subquery gives before.
    """
    if len(ctx.histograms) == 0:
        return values, None
    held = ctx.histograms.which(values)
    if not held.any():
        return values, None
    bits = values.view(np.uint64)
    rows, local = np.unique(rows_of(bits[held]), return_inverse=True)
    table = ctx.histograms.table().take(rows)
    values = values.copy()
    values[held] = handles(local).view(np.float64)
    return values, replace(table, hint=unknown_unless_gauge(table))


def unknown_unless_gauge(table: Histograms) -> npt.NDArray[np.uint8]:
    """Hints with RESET and NOT_RESET turned into UNKNOWN."""
    return np.where(table.hint == HINT_GAUGE, HINT_GAUGE, HINT_UNKNOWN).astype(np.uint8)
