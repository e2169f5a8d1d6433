"""Functions rate, increase and delta where a slice holds native histograms or start timestamps.

As those of floats (`kernels.counters`, `kernels.starts`): last minus first plus what resets lost,
extrapolated to the ends of the range. Source: Prometheus `promql/functions.go`, extrapolatedRate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import counters, starts
from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_GAUGE,
    HINT_NOT_RESET,
    HINT_RESET,
    Histograms,
    concatenate,
)
from tsengine.model.ragged import offsets_of
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import increase, scale
from tsengine.query.operators import range_notes as notes
from tsengine.query.operators.histogram_windows import (
    HistogramRows,
    WindowList,
    add,
    drop_mixed,
    find_windows,
    histogram_rows,
    is_overlap,
    pick_from_runs,
    portions,
    pure_windows,
    put,
    split,
)
from tsengine.query.operators.range_notes import note_rows
from tsengine.query.operators.window_function import (
    Cells,
    Samples,
    Spans,
    Special,
    WindowKernel,
    axis_order,
    run_kernel,
    running_count,
)

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

_MS = 1000.0


def extrapolating(kernel: WindowKernel, op: int) -> Special:
    """The functions rate, increase and delta (`op` as in `kernels.counters`)."""

    def fill(ctx: QueryContext, samples: Samples, spans: Spans, cells: Cells) -> None:
        floats, histograms = split(samples)
        overlaps = _extrapolate_floats(kernel, op, floats, spans, cells)
        found = histogram_rows(floats, histograms, spans)
        if found is not None:
            overlaps[found.rows] = _float_overlaps(floats, found, spans)
        note_rows(cells.notes, notes.OVERLAP, np.flatnonzero(overlaps))
        if found is None:
            return
        drop_mixed(found, cells)
        _extrapolate_histograms(ctx, op, found, spans, cells)
        cells.recount()

    return fill


def _extrapolate_floats(
    kernel: WindowKernel, op: int, floats: Samples, spans: Spans, cells: Cells
) -> _BOOL:
    """Fill the cells, and say in which rows start timestamps overlap samples: bool[R]."""
    batch = floats.batch
    overlaps = np.zeros(batch.n_rows, np.bool_)
    if floats.start_ms is None or op == counters.DELTA:
        run_kernel(kernel, batch, spans, cells)
        return overlaps
    starts.extrapolate_from_starts(
        starts.RATE if op == counters.RATE else starts.INCREASE,
        floats.start_ms, batch.t_ms, batch.axis_offsets, batch.row_axis, axis_order(batch),
        batch.values, batch.row_offsets, spans.ends_ms, spans.range_ms,
        cells.values, cells.valid, cells.n_present, overlaps,
    )  # fmt: skip
    return overlaps


def _float_overlaps(floats: Samples, found: HistogramRows, spans: Spans) -> _BOOL:
    """Rows with overlaps in a window of floats alone: bool[len(found.rows)]."""
    if floats.start_ms is None:
        return np.zeros(len(found.rows), np.bool_)
    first, end = find_windows(floats, found.rows, spans)
    is_pure = (found.last == found.first) & (end > first)
    n_overlaps = running_count(is_overlap(floats.start_ms, floats.batch.t_ms[floats.places()]))
    # The first sample of a row is never the second one of a pair in a window.
    inner = n_overlaps[end] - n_overlaps[np.minimum(first + 1, end)]
    return np.asarray((is_pure & (inner > 0)).any(axis=1))


def _extrapolate_histograms(
    ctx: QueryContext, op: int, found: HistogramRows, spans: Spans, cells: Cells
) -> None:
    is_counter = op != counters.DELTA
    windows = pure_windows(found, spans.ends_ms, 1)
    begins = np.zeros(len(windows), np.bool_)
    if found.start_ms is not None and is_counter:
        start = found.start_ms[windows.first]
        begins = (start > windows.end_ms - spans.range_ms) & (start < found.t_ms[windows.first])
        begins &= start != 0
    usable = (windows.last > windows.first) | begins
    windows, begins = windows.some(usable), begins[usable]
    is_reset_at = found.resets() if is_counter else np.zeros(len(found.t_ms), np.bool_)
    several = windows.last > windows.first
    second = np.where(several, windows.first + 1, windows.first)
    # Before a reset right after it the first histogram is of no use, whatever its layout.
    skips_first = several & is_reset_at[second]
    fits = _check_kinds(found, windows, skips_first, cells, is_counter=is_counter)
    windows, begins, skips_first = windows.some(fits), begins[fits], skips_first[fits]
    if is_counter:
        overlaps = running_count(found.overlaps())
        overlapping = overlaps[windows.last + 1] > overlaps[windows.first + 1]
        note_rows(cells.notes, notes.OVERLAP, windows.row[overlapping])
    known = np.where(is_reset_at, HINT_RESET, HINT_NOT_RESET).astype(np.uint8)
    resets = np.flatnonzero(is_reset_at)
    lists = _Lists(
        resets,
        np.searchsorted(resets, windows.first + 2),
        np.searchsorted(resets, windows.last + 1),
    )
    for portion in portions(3 + 2 * np.maximum(lists.to_reset - lists.from_reset, 0)):
        ctx.check()
        part, part_begins = windows.some(portion), begins[portion]
        made, is_result = _increases(
            replace(found.table, hint=known), part, part_begins, lists.some(portion), cells,
            is_counter=is_counter,
        )  # fmt: skip
        factors = _factors(op, found, part, part_begins, spans, made.count)
        grown = scale(made, factors)
        single = part.last == part.first
        hint = np.where(single, found.table.hint[part.first], HINT_GAUGE).astype(np.uint8)
        put(ctx, cells, part, replace(grown, hint=hint), is_result)


@dataclass(frozen=True, slots=True)
class _Lists:
    """Resets inside windows: those of window w are ``resets[from_reset[w]:to_reset[w]]``.

    The one between a window's first two samples is not among them.
    """

    resets: _I64
    from_reset: _I64
    to_reset: _I64

    def some(self, which: slice | _I64) -> _Lists:
        """Those of some windows."""
        return replace(self, from_reset=self.from_reset[which], to_reset=self.to_reset[which])

    def rows(self, windows: WindowList) -> tuple[_I64, _I64]:
        """The samples that make the increase of each window: offsets and rows.

        They are the first two, the last, and those around resets; what is between adds nothing.
        """
        of, at = pick_from_runs(self.from_reset, self.to_reset)
        every = np.arange(len(windows))
        window = np.concatenate((every, every, every, of, of))
        rows = np.concatenate(
            (windows.first, windows.first + 1, windows.last, self.resets[at] - 1, self.resets[at])
        )
        n_rows = int(rows.max(initial=0)) + 1
        keys = np.unique(window * n_rows + rows)
        return offsets_of(np.bincount(keys // n_rows, minlength=len(windows))), keys % n_rows


def _increases(
    table: Histograms,
    windows: WindowList,
    begins: _BOOL,
    lists: _Lists,
    cells: Cells,
    *,
    is_counter: bool,
) -> tuple[Histograms, _BOOL]:
    """Increase of each window, and whether there is one: bool[W].

    Hints of the table say where resets are. ``begins: bool[W]``: a sample of zero stands before the
    first one, which then counts whole.
    """
    several = np.flatnonzero(windows.last > windows.first)
    pairs = windows.some(several)
    offsets, rows = lists.some(several).rows(pairs)
    made = increase(table, offsets, rows, is_counter=is_counter)
    note_rows(cells.notes, notes.MIXED_SCHEMAS, pairs.row[made.is_mixed])
    for bit, flags in (
        (notes.SUBTRACTION_RECONCILED, made.reconciled_subtracting),
        (notes.ADDITION_RECONCILED, made.reconciled_adding),
    ):
        note_rows(cells.notes, bit, pairs.row[flags & ~made.is_mixed])
    if not begins.any():
        return made.table, ~made.is_mixed
    # Every window is now a row: the increase, or the only sample, plus the first one at a start.
    everything = concatenate([table, made.table])
    at = windows.first.copy()
    at[several] = len(table) + np.arange(len(several))
    is_result = np.ones(len(windows), np.bool_)
    is_result[several] = ~made.is_mixed
    adds = np.zeros(len(windows), np.bool_)
    adds[several] = begins[several] & ~made.is_mixed
    sums, is_mixed, reconciled = add(everything, at[adds], windows.first[adds])
    row = windows.row[adds]
    note_rows(cells.notes, notes.MIXED_SCHEMAS, row[is_mixed])
    note_rows(cells.notes, notes.ADDITION_RECONCILED, row[reconciled & ~is_mixed])
    is_result[adds] = ~is_mixed
    at[adds] = len(everything) + np.arange(len(sums))
    return concatenate([everything, sums]).take(at), is_result


def _check_kinds(
    found: HistogramRows, windows: WindowList, skips_first: _BOOL, cells: Cells, *, is_counter: bool
) -> _BOOL:
    """Note what hints and schemas say of windows; windows whose schemas go together: bool[W]."""
    table = found.table
    first, last = windows.first, windows.last
    several = last > first
    is_gauge = table.hint == HINT_GAUGE
    is_custom = table.schema == CUSTOM_SCHEMA
    leading = np.where(skips_first, np.minimum(first + 1, last), first)
    fits: _BOOL = is_custom[leading] == is_custom[last]
    ends_are_gauges = several & (is_gauge[first] | is_gauge[last])
    if is_counter:
        n_custom = running_count(is_custom)
        inner = n_custom[last] - n_custom[np.minimum(first + 1, last)]
        wanted = np.where(is_custom[leading], np.maximum(last - first - 1, 0), 0)
        fits_inside = inner == wanted
        n_gauges = running_count(is_gauge)
        has_gauge = several & (n_gauges[last + 1] > n_gauges[first])
        not_counter = np.where(fits, fits_inside & has_gauge, ends_are_gauges)
        note_rows(cells.notes, notes.NOT_COUNTER, windows.row[not_counter])
        fits &= fits_inside
    else:
        not_gauge = fits & several & ~(is_gauge[first] & is_gauge[last])
        note_rows(cells.notes, notes.NOT_GAUGE, windows.row[not_gauge])
    note_rows(cells.notes, notes.MIXED_SCHEMAS, windows.row[~fits])
    return fits


def _factors(
    op: int, found: HistogramRows, windows: WindowList, begins: _BOOL, spans: Spans, grown: _F64
) -> _F64:
    """By how much increases of the counts `grown` become those of the whole range: f64[W]."""
    first_ms, last_ms = found.t_ms[windows.first], found.t_ms[windows.last]
    head = (first_ms - (windows.end_ms - spans.range_ms)) / _MS
    tail = (windows.end_ms - last_ms) / _MS
    covered = (last_ms - first_ms) / _MS
    gap = covered / np.maximum(windows.last - windows.first, 1)
    head = np.where(head >= gap * 1.1, gap / 2, head)
    tail = np.where(tail >= gap * 1.1, gap / 2, tail)
    if op != counters.DELTA:
        first_count = found.table.count[windows.first]
        with np.errstate(all="ignore"):
            to_zero = covered * (first_count / grown)
        bounded = (grown > 0) & (first_count >= 0) & (to_zero < head)
        head = np.where(bounded, to_zero, head)
    if found.start_ms is not None:
        head = np.where(begins, 0.0, head)
        from_start = (last_ms - found.start_ms[windows.first]) / _MS
        covered = np.where(begins, from_start, covered)
    factors = (covered + head + tail) / covered
    return factors / (spans.range_ms / _MS) if op == counters.RATE else factors
