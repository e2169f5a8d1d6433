"""`anchored` and `smoothed` where a slice holds native histograms.

The float's side is `kernels.extended`; what is interpolated between two histograms, and how resets
beside the edges count once, follows Prometheus's `promql/functions.go`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import extended
from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_GAUGE,
    HINT_UNKNOWN,
    Histograms,
    concatenate,
)
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import combine, is_reset, scale
from tsengine.query.operators import range_notes as notes
from tsengine.query.operators.histogram_windows import (
    HistogramRows,
    WindowList,
    add,
    drop_mixed,
    find_windows,
    histogram_rows,
    make_lists,
    pick_from_runs,
    pure_windows,
    put,
    split,
    subtract,
)
from tsengine.query.operators.range_notes import Notes, note_rows
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    Special,
    WindowKernel,
    run_kernel,
    running_count,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_MS = 1000.0


def between_edges(kernel: WindowKernel, op: int, modifier: int, lookback_ms: int) -> Special:
    """rate, increase or delta of an anchored or smoothed range (codes of `kernels.extended`)."""
    after_ms = lookback_ms if modifier == extended.SMOOTHED else 0

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        floats, histograms = split(samples)
        run_kernel(kernel, floats.batch, spans, cells)
        reach = Spans(spans.ends_ms + after_ms, spans.range_ms + lookback_ms + after_ms)
        found = histogram_rows(floats, histograms, reach)
        if found is None:
            return
        drop_mixed(found, cells)
        windows = pure_windows(found, spans.ends_ms, 1)
        edges = _find_edges(histograms, found, windows, spans, modifier)
        _put_differences(ctx, op, found, edges, spans, cells)
        cells.recount()

    return fill


@dataclass(frozen=True, slots=True)
class _Edges:
    """Windows from the sample of their left edge to that of their right one.

    ``cuts_left, cuts_right: bool[W]``: the edge lies between that sample and the next one inwards,
    so its value is interpolated.
    """

    windows: WindowList
    cuts_left: _BOOL
    cuts_right: _BOOL


def _find_edges(
    histograms: Samples, found: HistogramRows, windows: WindowList, spans: Spans, modifier: int
) -> _Edges:
    """Which of the samples in reach make the edges; windows without any are left out."""
    t_ms = found.t_ms
    at = np.searchsorted(found.rows, windows.row)
    begin_ms = windows.end_ms - spans.range_ms
    inside, _ = find_windows(histograms, found.rows, spans)
    n_before = np.minimum(inside[at, windows.step], windows.last) - windows.first
    first = np.maximum(windows.first, windows.first + n_before - 1)
    last = windows.last
    is_used = np.ones(len(windows), np.bool_)
    if modifier == extended.SMOOTHED:
        _, at_end = find_windows(histograms, found.rows, Spans(spans.ends_ms - 1, spans.range_ms))
        last = np.minimum(at_end[at, windows.step], last)
        is_used = t_ms[first] <= windows.end_ms
    is_used &= t_ms[last] > begin_ms
    cuts_left = cuts_right = np.zeros(len(windows), np.bool_)
    if modifier == extended.SMOOTHED:
        cuts_left = t_ms[first] < begin_ms
        cuts_right = (last > windows.first) & (t_ms[last] > windows.end_ms)
    edges = replace(windows, first=first, last=last)
    return _Edges(edges.some(is_used), cuts_left[is_used], cuts_right[is_used])


def _put_differences(
    ctx: QueryContext, op: int, found: HistogramRows, edges: _Edges, spans: Spans, cells: Cells
) -> None:
    is_counter = op != extended.DELTA
    edges = _fitting(found, edges, cells, is_counter=is_counter)
    windows = edges.windows
    if len(windows) == 0:
        return
    table = found.table
    resets = found.resets() if is_counter else np.zeros(len(table), np.bool_)
    begin_ms = windows.end_ms - spans.range_ms
    first, last = windows.first, windows.last
    left = _cut(found, edges.cuts_left, first, windows, begin_ms, resets, cells.notes)
    right = _cut(found, edges.cuts_right, last - 1, windows, windows.end_ms, resets, cells.notes)
    n, n_cuts = len(table), len(left)
    both = concatenate([table, left, right])
    left_rows = np.where(edges.cuts_left, n + np.cumsum(edges.cuts_left) - 1, first)
    right_rows = np.where(edges.cuts_right, n + n_cuts + np.cumsum(edges.cuts_right) - 1, last)
    if not is_counter:
        is_gauge = both.hint == HINT_GAUGE
        note_rows(
            cells.notes,
            notes.NOT_GAUGE,
            windows.row[~(is_gauge[left_rows] & is_gauge[right_rows])],
        )
    made, is_result = _differences(
        both, left_rows, right_rows, edges, np.flatnonzero(resets), windows.row, cells.notes
    )
    if op == extended.RATE:
        made = scale(made, np.full(len(made), spans.range_ms / _MS), divide=True)
    made = replace(made, hint=np.full(len(made), HINT_GAUGE, np.uint8))
    put(ctx, cells, windows, made, is_result)


def _fitting(found: HistogramRows, edges: _Edges, cells: Cells, *, is_counter: bool) -> _Edges:
    """Windows of one kind of schema; notes what hints and schemas say."""
    windows = edges.windows
    table = found.table
    n_custom = running_count(table.schema == CUSTOM_SCHEMA)
    inside = n_custom[windows.last + 1] - n_custom[windows.first]
    fits = (inside == 0) | (inside == windows.last - windows.first + 1)
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[~fits])
    if is_counter:
        n_gauges = running_count(table.hint == HINT_GAUGE)
        has_gauge = n_gauges[windows.last + 1] > n_gauges[windows.first]
        note_rows(cells.notes, notes.NOT_COUNTER, windows.row[has_gauge & fits])
    return _Edges(windows.some(fits), edges.cuts_left[fits], edges.cuts_right[fits])


def _cut(
    found: HistogramRows,
    which: _BOOL,
    before: _I64,
    windows: WindowList,
    at_ms: _I64,
    resets: _BOOL,
    noted: Notes,
) -> Histograms:
    """What lies between samples ``before`` and the next ones at some times, where asked for."""
    before, rows = before[which], windows.row[which]
    after = before + 1
    t_ms = found.t_ms
    fraction = (at_ms[which] - t_ms[before]) / (t_ms[after] - t_ms[before])
    made, _ = interpolate(found.table, before, fraction, resets[after], rows, noted)
    return made


def interpolate(
    table: Histograms, before: _I64, fraction: _F64, was_reset: _BOOL, rows: _I64, noted: Notes
) -> tuple[Histograms, _BOOL]:
    """Histograms between rows of a table and the next ones.

    Parameters
    ----------
    table
        Of samples.
    before, fraction
        Rows (i64[K]), and how far it is to the next ones (f64[K], between 0 and 1).
    was_reset
        A counter began at zero in between: bool[K].
    rows, noted
        Series of the slice (i64[K]), and where to note what happens.

    Returns
    -------
    tuple
        K histograms, and which of them mean nothing since the two do not go together.

    """
    after = before + 1
    if len(before) == 0:
        return table.take(before), np.zeros(0, np.bool_)
    rise, is_mixed, reconciled = subtract(table, after, np.where(was_reset, after, before))
    is_mixed &= ~was_reset
    reconciled &= ~is_mixed & ~was_reset
    note_rows(noted, notes.SUBTRACTION_RECONCILED, rows[reconciled])
    rise = scale(rise, fraction)
    from_zero = scale(table.take(after), fraction)
    # Where the sum is not wanted it is one of a histogram with itself, which always goes.
    at = len(table) + np.arange(len(rise))
    base = np.where(was_reset | is_mixed, at, before)
    sums, _, reconciled = add(concatenate([table, rise]), at, base)
    reconciled &= ~is_mixed & ~was_reset
    note_rows(noted, notes.ADDITION_RECONCILED, rows[reconciled])
    made = concatenate([sums, from_zero])
    return made.take(np.where(was_reset, len(sums), 0) + np.arange(len(sums))), is_mixed


def _differences(
    table: Histograms,
    left: _I64,
    right: _I64,
    edges: _Edges,
    resets: _I64,
    rows: _I64,
    noted: Notes,
) -> tuple[Histograms, _BOOL]:
    """Right minus left edges, plus what was there before each of the `resets` between them."""
    windows = edges.windows
    made, is_mixed, reconciled = subtract(table, right, left)
    note_rows(noted, notes.MIXED_SCHEMAS, rows[is_mixed])
    note_rows(noted, notes.SUBTRACTION_RECONCILED, rows[reconciled & ~is_mixed])
    # A left edge that was interpolated has taken care of the reset right after it.
    from_sample = windows.first + 1 + edges.cuts_left
    of, at = pick_from_runs(
        np.searchsorted(resets, from_sample), np.searchsorted(resets, windows.last + 1)
    )
    if len(of) == 0:
        return made, ~is_mixed
    everything = concatenate([table, made])
    lists = make_lists(
        len(windows),
        [
            (np.arange(len(windows)), len(table) + np.arange(len(windows)), 1.0),
            (of, resets[at] - 1, 1.0),
        ],
    )
    sums = combine(everything, *lists)
    failed = is_mixed | sums.is_mixed
    note_rows(noted, notes.MIXED_SCHEMAS, rows[sums.is_mixed])
    note_rows(noted, notes.ADDITION_RECONCILED, rows[sums.reconciled & ~failed])
    return sums.table, ~failed


# --- instants -----------------------------------------------------------------------------------


def between_samples(kernel: WindowKernel) -> Special:
    """A smoothed instant selector: at a sample, between two, or the last one's value."""

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        floats, histograms = split(samples)
        run_kernel(kernel, floats.batch, spans, cells)
        lookback_ms = spans.range_ms
        reach = Spans(spans.ends_ms + lookback_ms, 2 * lookback_ms)
        found = histogram_rows(floats, histograms, reach)
        if found is None:
            return
        drop_mixed(found, cells)
        windows = pure_windows(found, spans.ends_ms, 1)
        upto = find_windows(histograms, found.rows, spans)[1]
        at = np.searchsorted(found.rows, windows.row)
        before = upto[at, windows.step] - 1
        has_before = before >= windows.first
        windows, before = windows.some(has_before), before[has_before]
        _put_instants(ctx, found, windows, before, spans.ends_ms[windows.step], cells)
        cells.recount()

    return fill


def _put_instants(
    ctx: QueryContext,
    found: HistogramRows,
    windows: WindowList,
    before: _I64,
    times_ms: _I64,
    cells: Cells,
) -> None:
    """Fill the cells of windows whose newest sample up to the time is `before`."""
    table = found.table
    is_exact = found.t_ms[before] == times_ms
    is_last = ~is_exact & (before == windows.last)
    ready = is_exact | is_last
    taken = table.take(before[ready])
    # A value that is carried on says nothing of what lies between two samples.
    hint = np.where(is_last[ready], HINT_UNKNOWN, taken.hint).astype(np.uint8)
    every = np.ones(len(taken), np.bool_)
    put(ctx, cells, windows.some(ready), replace(taken, hint=hint), every)
    inner = ~ready
    windows, before, times_ms = windows.some(inner), before[inner], times_ms[inner]
    after = before + 1
    is_custom = table.schema == CUSTOM_SCHEMA
    fits = is_custom[before] == is_custom[after]
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[~fits])
    windows, before, after, times_ms = windows.some(fits), before[fits], after[fits], times_ms[fits]
    is_gauge = (table.hint[before] == HINT_GAUGE) & (table.hint[after] == HINT_GAUGE)
    was_reset = ~is_gauge & is_reset(table, before, after)
    t_ms = found.t_ms
    fraction = (times_ms - t_ms[before]) / (t_ms[after] - t_ms[before])
    made, is_mixed = interpolate(table, before, fraction, was_reset, windows.row, cells.notes)
    put(ctx, cells, windows, made, ~is_mixed)
