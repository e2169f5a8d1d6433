"""Functions of range vectors where a slice holds native histograms or start timestamps.

What is drawn from floats alone still comes from the kernels; this file gives the `special` parts of
`window_function.WindowFunction`. Rules are Prometheus's (`promql/functions.go`). Increases are in
`histogram_increase`, ranges with `anchored` and `smoothed` in `histogram_edges`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import counters
from tsengine.model.histograms import (
    HINT_GAUGE,
    Histograms,
    concatenate,
    rows_of,
)
from tsengine.model.ragged import offsets_of
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import average, combine, equal, is_reset, scale
from tsengine.query.operators import range_notes as notes
from tsengine.query.operators.histogram_reading import adopt
from tsengine.query.operators.histogram_windows import (
    HistogramRows,
    WindowList,
    drop_mixed,
    find_windows,
    histogram_rows,
    is_start_reset,
    mixed_windows,
    pick_from_runs,
    portions,
    pure_windows,
    put,
    split,
    subtract,
)
from tsengine.query.operators.range_notes import note_rows
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    Special,
    WindowKernel,
    run_kernel,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_MS = 1000.0


def passing(kernel: WindowKernel) -> Special:
    """A kernel that only picks values, histograms among them."""

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        run_kernel(kernel, samples.batch, spans, cells)
        table = samples.batch.histograms
        if table is not None:
            adopt(ctx, table, cells)

    return fill


def ignoring(kernel: WindowKernel) -> Special:
    """A kernel of floats that leaves histograms aside."""

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        floats, histograms = split(samples)
        run_kernel(kernel, floats.batch, spans, cells)
        found = histogram_rows(floats, histograms, spans)
        if found is not None:
            mixed = mixed_windows(found)
            note_rows(cells.notes, notes.IGNORED, found.rows[mixed.any(axis=1)])

    return fill


# --- sums ---------------------------------------------------------------------------------------


def summing(kernel: WindowKernel, *, is_average: bool) -> Special:
    """The functions sum_over_time and avg_over_time."""

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        floats, histograms = split(samples)
        run_kernel(kernel, floats.batch, spans, cells)
        found = histogram_rows(floats, histograms, spans)
        if found is None:
            return
        drop_mixed(found, cells)
        windows = pure_windows(found, spans.ends_ms, 1)
        for portion in portions(windows.last - windows.first + 1):
            ctx.check()
            _sum_windows(ctx, found, windows.some(portion), cells, is_average=is_average)
        cells.recount()

    return fill


def _sum_windows(
    ctx: QueryContext, found: HistogramRows, windows: WindowList, cells: Cells, *, is_average: bool
) -> None:
    offsets = offsets_of(windows.last - windows.first + 1)
    _, rows = pick_from_runs(windows.first, windows.last + 1)
    if is_average:
        made = average(found.table, offsets, rows)
    else:
        made = combine(found.table, offsets, rows, np.ones(len(rows)))
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[made.is_mixed])
    note_rows(cells.notes, notes.HINTS_CLASH, windows.row[made.hint_clash & ~made.is_mixed])
    reconciled = made.reconciled & ~made.is_mixed
    note_rows(cells.notes, notes.AGGREGATION_RECONCILED, windows.row[reconciled])
    put(ctx, cells, windows, made.table, ~made.is_mixed)


# --- last differences ---------------------------------------------------------------------------


def last_differing(kernel: WindowKernel, op: int) -> Special:
    """The functions irate and idelta (`op` as in `kernels.counters`)."""
    is_rate = op == counters.IRATE

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        run_kernel(kernel, samples.batch, spans, cells)
        rows = np.arange(samples.batch.n_rows)
        first, end = find_windows(samples, rows, spans)
        row, step = np.nonzero(end - first >= 2)
        last = end[row, step] - 1
        windows = WindowList(row, step, last - 1, last, spans.ends_ms[step])
        t_ms = samples.batch.t_ms[samples.places()]
        after_start = np.zeros(len(windows), np.bool_)
        if samples.start_ms is not None and is_rate:
            after_start = is_start_reset(
                samples.start_ms[last - 1], t_ms[last - 1], samples.start_ms[last], t_ms[last]
            )
        seconds = (t_ms[last] - t_ms[last - 1]) / _MS
        held = samples.handles()
        floats = after_start & ~held[last] & ~held[last - 1]
        cells.values[row[floats], step[floats]] = (
            samples.batch.values[last[floats]] / seconds[floats]
        )
        mixed = held[last] != held[last - 1]
        cells.valid[row[mixed], step[mixed]] = False
        note_rows(cells.notes, notes.MIXED, row[mixed])
        both = held[last] & held[last - 1]
        cells.valid[row[both], step[both]] = False
        table = samples.batch.histograms
        if table is not None and both.any():
            _differences(
                ctx, samples, table, windows.some(both), after_start[both], seconds[both], cells,
                is_rate=is_rate,
            )  # fmt: skip
        cells.recount()

    return fill


def _differences(
    ctx: QueryContext,
    samples: Samples,
    table: Histograms,
    windows: WindowList,
    after_start: _BOOL,
    seconds: _F64,
    cells: Cells,
    *,
    is_rate: bool,
) -> None:
    """Differences of two histograms each; of a counter that was reset the last one alone."""
    bits = samples.batch.values.view(np.uint64)
    before, after = rows_of(bits[windows.first]), rows_of(bits[windows.last])
    gauge_before, gauge_after = (table.hint[rows] == HINT_GAUGE for rows in (before, after))
    alone = np.zeros(len(windows), np.bool_)
    if is_rate:
        alone = after_start | is_reset(table, before, after)
        note_rows(cells.notes, notes.NOT_COUNTER, windows.row[gauge_before | gauge_after])
    else:
        note_rows(cells.notes, notes.NOT_GAUGE, windows.row[~(gauge_before & gauge_after)])
    made, is_mixed, reconciled = subtract(table, after, np.where(alone, after, before))
    is_mixed &= ~alone
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[is_mixed])
    reconciled &= ~is_mixed & ~alone
    note_rows(cells.notes, notes.SUBTRACTION_RECONCILED, windows.row[reconciled])
    if alone.any():
        both = concatenate([made, table])
        made = both.take(np.where(alone, len(made) + after, np.arange(len(made))))
    if is_rate:
        made = scale(made, seconds, divide=True)
    made = replace(made, hint=np.full(len(made), HINT_GAUGE, np.uint8))
    put(ctx, cells, windows, made, ~is_mixed)


# --- steps --------------------------------------------------------------------------------------


def counting_steps(kernel: WindowKernel, op: int) -> Special:
    """The functions changes and resets (`op` as in `kernels.counters`)."""
    sign = -1.0 if op == counters.RESETS else 1.0

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        # A line that goes one up, or down, at each step has the same number of them.
        line = (sign * np.cumsum(_steps(op, samples))).astype(np.float64)
        run_kernel(kernel, replace(samples.batch, values=line, histograms=None), spans, cells)

    return fill


def _steps(op: int, samples: Samples) -> _BOOL:
    """Samples that differ from the one before in their row, or are below it: bool[N]."""
    batch = samples.batch
    values, held = batch.values, samples.handles()
    is_first = np.zeros(len(values), np.bool_)
    is_first[batch.row_offsets[:-1][np.diff(batch.row_offsets) > 0]] = True
    after = np.flatnonzero(~is_first)
    before = after - 1
    found = held[after] != held[before]
    floats = ~held[after] & ~held[before]
    left, right = values[before], values[after]
    if op == counters.RESETS:
        with np.errstate(invalid="ignore"):
            found |= floats & (right < left)
    else:
        found |= floats & (left != right) & ~(np.isnan(left) & np.isnan(right))
    both = np.flatnonzero(held[after] & held[before])
    if len(both) and batch.histograms is not None:
        bits = values.view(np.uint64)
        rows = rows_of(bits[before[both]]), rows_of(bits[after[both]])
        test = is_reset if op == counters.RESETS else _differ
        found[both] |= test(batch.histograms, *rows)
    if samples.start_ms is not None and op == counters.RESETS:
        t_ms = batch.t_ms[samples.places()]
        tells = is_start_reset(
            samples.start_ms[before], t_ms[before], samples.start_ms[after], t_ms[after]
        )
        found |= tells & (held[after] == held[before])
    steps = np.zeros(len(values), np.bool_)
    steps[after] = found
    return steps


def _differ(table: Histograms, before: _I64, after: _I64) -> _BOOL:
    return ~equal(table, before, after)
