"""Windows of native histograms: which samples they hold, and lists of samples to be combined.

A slice is split into its floats and its histograms, each with axes of their own. Of the histograms
sample i is row i of their table, so a position of a sample is a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import windows as window_kernels
from tsengine.model.histograms import Histograms
from tsengine.model.ragged import expand_ranges, offsets_of
from tsengine.query.context import QueryContext
from tsengine.query.histogram_math import combine, is_reset
from tsengine.query.operators.histogram_cells import keep
from tsengine.query.operators.histogram_reading import only_used
from tsengine.query.operators.range_notes import MIXED, note_rows
from tsengine.query.operators.window_function import Cells, Samples, Spans

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

LIST_SIZE_MAX = 1 << 20
"""Samples that the windows of one step of work list together (one window may list more)."""


@dataclass(frozen=True, slots=True)
class HistogramRows:
    """The rows of a slice that hold histograms, without their floats.

    ``table`` has one row a sample, ``t_ms: i64[N]`` their times, ``start_ms: i64[N]`` their start
    timestamps or None, ``is_first: bool[N]`` the first ones of the rows. ``rows: i64[R]`` are rows
    of the slice; their samples in (end - range, end] are ``[first, last)``: i64[R, T] each.
    ``n_floats: i64[R, T]`` counts the floats there.
    """

    table: Histograms
    t_ms: _I64
    start_ms: _I64 | None
    is_first: _BOOL
    rows: _I64
    first: _I64
    last: _I64
    n_floats: _I64

    def resets(self) -> _BOOL:
        """Samples with a counter reset since the one before in their row: bool[N]."""
        after = np.flatnonzero(~self.is_first)
        found = np.zeros(len(self.t_ms), np.bool_)
        found[after] = is_reset(self.table, after - 1, after)
        if self.start_ms is not None:
            found[after] |= is_start_reset(
                self.start_ms[after - 1], self.t_ms[after - 1], self.start_ms[after],
                self.t_ms[after],
            )  # fmt: skip
        return found

    def overlaps(self) -> _BOOL:
        """Samples that begin before the one before them; see `is_overlap`."""
        found = np.zeros(len(self.t_ms), np.bool_)
        if self.start_ms is not None:
            found = is_overlap(self.start_ms, self.t_ms)
            found[self.is_first] = False
        return found


@dataclass(frozen=True, slots=True)
class WindowList:
    """W windows of histograms.

    ``row, step: i64[W]`` say where in the slice's cells, ``first, last: i64[W]`` which samples
    (closed), ``end_ms: i64[W]`` where each ends.
    """

    row: _I64
    step: _I64
    first: _I64
    last: _I64
    end_ms: _I64

    def __len__(self) -> int:
        return len(self.row)

    def some(self, which: _BOOL | _I64 | slice) -> WindowList:
        """Those at some positions, or where a mask says so."""
        return WindowList(
            self.row[which], self.step[which], self.first[which], self.last[which],
            self.end_ms[which],
        )  # fmt: skip


def is_start_reset(before_start: _I64, before_ms: _I64, start: _I64, t_ms: _I64) -> _BOOL:
    """Whether start timestamps tell of a reset between samples; see `kernels.starts`."""
    is_known = (start != 0) & (start < t_ms)
    is_delta = (start == before_ms) & (before_start != 0) & (before_start < before_ms)
    return np.asarray(is_known & ((start > before_ms) | is_delta))


def is_overlap(start_ms: _I64, t_ms: _I64) -> _BOOL:
    """Samples that begin before the one before, and not where that one begins: bool[N]."""
    found = np.zeros(len(t_ms), np.bool_)
    begin = start_ms[1:]
    found[1:] = (begin != 0) & (begin < t_ms[:-1]) & (begin != start_ms[:-1])
    return found


def split(samples: Samples) -> tuple[Samples, Samples]:
    """Floats and histograms of a slice; both have all its rows."""
    held = samples.handles()
    floats, histograms = samples.filtered(~held), samples.filtered(held)
    return (
        Samples(replace(floats.batch, histograms=None), floats.start_ms),
        Samples(only_used(histograms.batch), histograms.start_ms),
    )


def find_windows(samples: Samples, rows: _I64, spans: Spans) -> tuple[_I64, _I64]:
    """Positions of the values in each window of some rows, half-open: i64[R, T] each."""
    batch = samples.batch
    axes, of_row = np.unique(batch.row_axis[rows], return_inverse=True)
    shape = (len(axes), len(spans.ends_ms))
    first, last = np.empty(shape, np.int64), np.empty(shape, np.int64)
    window_kernels.find_windows(
        batch.t_ms, batch.axis_offsets, axes, spans.ends_ms, spans.range_ms, first, last
    )
    base = batch.row_offsets[rows][:, np.newaxis]
    return first[of_row] + base, last[of_row] + base


def histogram_rows(floats: Samples, histograms: Samples, spans: Spans) -> HistogramRows | None:
    """Windows of the rows with histograms; None if there is no such row."""
    batch = histograms.batch
    if batch.histograms is None:
        return None
    rows = np.flatnonzero(np.diff(batch.row_offsets))
    first, last = find_windows(histograms, rows, spans)
    from_float, to_float = find_windows(floats, rows, spans)
    is_first = np.zeros(len(batch.values), np.bool_)
    is_first[batch.row_offsets[rows]] = True
    return HistogramRows(
        table=batch.histograms,
        t_ms=batch.t_ms[histograms.places()],
        start_ms=histograms.start_ms,
        is_first=is_first,
        rows=rows,
        first=first,
        last=last,
        n_floats=to_float - from_float,
    )


def pure_windows(found: HistogramRows, ends_ms: _I64, n_least: int) -> WindowList:
    """Windows of at least so many histograms and no float; ``ends_ms: i64[T]`` are their ends."""
    wanted = (found.last - found.first >= n_least) & (found.n_floats == 0)
    at, step = np.nonzero(wanted)
    return WindowList(
        found.rows[at], step, found.first[wanted], found.last[wanted] - 1, ends_ms[step]
    )


def mixed_windows(found: HistogramRows) -> _BOOL:
    """Windows with floats and histograms: bool[R, T]."""
    return np.asarray((found.n_floats > 0) & (found.last > found.first))


def drop_mixed(found: HistogramRows, cells: Cells) -> None:
    """Take the results of windows with floats and histograms away, with a warning."""
    mixed = mixed_windows(found)
    if mixed.any():
        cells.valid[found.rows] &= ~mixed
        note_rows(cells.notes, MIXED, found.rows[mixed.any(axis=1)])


def portions(sizes: _I64) -> Iterator[slice]:
    """Runs of windows that list at most `LIST_SIZE_MAX` samples together."""
    offsets = offsets_of(sizes)
    start = 0
    while start < len(sizes):
        end = int(np.searchsorted(offsets, offsets[start] + LIST_SIZE_MAX, side="right")) - 1
        end = max(end, start + 1)
        yield slice(start, end)
        start = end


def make_lists(n_lists: int, parts: Sequence[tuple[_I64, _I64, float]]) -> tuple[_I64, _I64, _F64]:
    """Lists of rows with factors, for `histogram_math.combine`.

    Parameters
    ----------
    n_lists
        How many.
    parts
        Each says which lists (i64[P]) get which rows (i64[P]) with which factor; in a list rows
        stand in the order of the parts.

    Returns
    -------
    tuple
        ``offsets: i64[n_lists + 1]``, ``rows: i64[P]``, ``factors: f64[P]``.

    """
    lists = np.concatenate([part[0] for part in parts])
    order = np.argsort(lists, kind="stable")
    rows = np.concatenate([part[1] for part in parts])[order]
    factors = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])[order]
    return offsets_of(np.bincount(lists, minlength=n_lists)), rows.astype(np.int64), factors


def pick_from_runs(starts: _I64, ends: _I64) -> tuple[_I64, _I64]:
    """Items ``starts[k]:ends[k]`` of all k, as (k, item): i64[P] each; none if an end is below."""
    sizes = np.maximum(ends - starts, 0)
    return np.repeat(np.arange(len(starts)), sizes), expand_ranges(starts, sizes)


def put(
    ctx: QueryContext, cells: Cells, windows: WindowList, table: Histograms, is_result: _BOOL
) -> None:
    """Put the histogram of each window that has a result (``bool[W]``) into its cell."""
    done = np.flatnonzero(is_result)
    if len(done) == 0:
        return
    where = (windows.row[done], windows.step[done])
    cells.values[where] = keep(ctx, table if len(done) == len(table) else table.take(done))
    cells.valid[where] = True


def subtract(table: Histograms, left: _I64, right: _I64) -> tuple[Histograms, _BOOL, _BOOL]:
    """Left minus right rows: results, which of them mean nothing, where bounds were reconciled."""
    return _pairwise(table, left, right, -1.0)


def add(table: Histograms, left: _I64, right: _I64) -> tuple[Histograms, _BOOL, _BOOL]:
    """Left plus right rows, as `subtract`."""
    return _pairwise(table, left, right, 1.0)


def _pairwise(
    table: Histograms, left: _I64, right: _I64, factor: float
) -> tuple[Histograms, _BOOL, _BOOL]:
    offsets = np.arange(len(left) + 1, dtype=np.int64) * 2
    rows = np.column_stack((left, right)).reshape(-1)
    made = combine(table, offsets, rows, np.tile([1.0, factor], len(left)))
    return made.table, made.is_mixed, made.reconciled
