"""Windows of a tier and samples that it has not seen, made one. Pure, no I/O.

Samples that a window was made of may be gone, so it can't be made again. Where there is no window
for a late sample, or samples are there for all that a window has, samples alone count. Else late
samples before its first or behind its last one are added in the order of time; those in between
change count, sum, least and greatest, but not what a counter lost. One that stands at the time of
another is no further sample: nothing changes by it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.kernels.bits import STALE_BITS
from tsengine.model.histograms import Histograms, concatenate, is_handle, no_histograms
from tsengine.model.windows import HANDLE_COLUMNS, TIME_COLUMNS, Column, WindowBatch
from tsengine.storage.pieces import I64Array, expand_ranges, group_equal_runs, offsets_of
from tsengine.storage.tier_columns import ends_of
from tsengine.storage.tier_histograms import Columns
from tsengine.storage.tier_last import SampleRows
from tsengine.storage.tier_windows import renumbered, wider_windows, windows_of_samples

BoolArray = npt.NDArray[np.bool_]

_BEFORE, _KNOWN, _AMONG, _AFTER, _ALONE, _NOWHERE = range(6)
"""Where samples go in their window, and windows of one cell in the order of time."""

_FLOATS = (Column.COUNT, Column.FIRST_T, Column.LAST_T)
_HISTOGRAMS = (Column.H_COUNT, Column.H_FIRST_T, Column.H_LAST_T)


def with_late(
    known: WindowBatch,
    old: SampleRows,
    new: SampleRows,
    width_ms: int,
    columns: Collection[Column],
) -> WindowBatch:
    """Windows of a tier with the samples that it lacks.

    Parameters
    ----------
    known
        The tier's, with `sources_of_wider` of the columns.
    old
        Samples of the same rows from sources that the tier may have seen, markers included.
    new
        Those from sources that it has not seen.
    width_ms
        Of the windows that are returned, a multiple of the tier's.
    columns
        Of the windows that are returned.

    """
    every = SampleRows.joined([old, new])
    if len(every.rows) == 0:
        return wider_windows(known, width_ms, columns)
    # What came since may have taken the place of a sample of another kind.
    is_whole = are_whole(known, old) | are_whole(known, every)
    place = _places(known, every, ~_are_among(every, old), is_whole)
    pieces = [(_KNOWN, _taken(known, np.flatnonzero(~is_whole)))]
    for where in (_BEFORE, _AMONG, _AFTER, _ALONE):
        own = every.take(np.flatnonzero(place == where))
        if len(own.rows):
            frames = own.frames(known.n_rows)
            pieces.append((where, windows_of_samples(frames, known.width_ms, known.columns)))
    return wider_windows(_in_order(pieces), width_ms, columns)


def _are_among(samples: SampleRows, others: SampleRows) -> BoolArray:
    """Which samples have the row and the time of one of others: bool[N]."""
    if len(others.rows) == 0:
        return np.zeros(len(samples.rows), np.bool_)
    first = min(int(samples.t_ms.min()), int(others.t_ms.min()))
    span = max(int(samples.t_ms.max()), int(others.t_ms.max())) - first + 1
    return np.isin(
        samples.rows * span + (samples.t_ms - first), others.rows * span + (others.t_ms - first)
    )


def cells_of(known: WindowBatch, samples: SampleRows) -> I64Array:
    """The window of each sample, -1 where the tier has none: i64[N]."""
    found = np.full(len(samples.rows), -1)
    if known.n_windows == 0 or len(samples.rows) == 0:
        return found
    width = known.width_ms
    ends, wanted_ends = ends_of(known) // width, -(-samples.t_ms // width)
    first = min(int(ends.min()), int(wanted_ends.min()))
    n = max(int(ends.max()), int(wanted_ends.max())) - first + 1
    rows = np.repeat(np.arange(known.n_rows), np.diff(known.row_offsets))
    cells = rows * n + (ends - first)
    wanted = samples.rows * n + (wanted_ends - first)
    at = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
    return np.where(cells[at] == wanted, at, -1)


def are_whole(known: WindowBatch, samples: SampleRows) -> BoolArray:
    """Windows of which all samples are there, as far as they tell: bool[windows].

    Those are the first, the last and as many as were counted; a marker, where one was the last. Of
    two markers at the end of a window the earlier one, alone, passes for the last.
    """
    cell = cells_of(known, samples)
    kinds = _kinds(known, samples, cell)
    is_whole = np.ones(known.n_windows, np.bool_)
    for kind in kinds:
        counts = [
            _counts(kind.cell[some], known.n_windows)
            for some in (kind.is_inside, kind.is_first, kind.is_last)
        ]
        is_whole &= (kind.n == 0) | ((counts[0] >= kind.n) & (counts[1] > 0) & (counts[2] > 0))
    if Column.STALE in known.columns:
        # The marker may be gone where the samples before it are there.
        at = np.flatnonzero((cell >= 0) & (samples.bits == STALE_BITS))
        own = cell[at][samples.t_ms[at] > _last_of_all(known, kinds)[cell[at]]]
        is_whole &= (known.columns[Column.STALE] == 0) | (_counts(own, known.n_windows) > 0)
    return is_whole


def _places(
    known: WindowBatch, samples: SampleRows, is_new: BoolArray, is_whole: BoolArray
) -> npt.NDArray[np.int64]:
    """Where each sample goes; ``is_whole`` tells the known windows that are made anew."""
    cell = cells_of(known, samples)
    kinds = _kinds(known, samples, cell)
    place = np.where(cell < 0, _ALONE, _BEFORE)
    n_samples = np.zeros(known.n_windows)
    for kind in kinds:
        is_among = is_new[kind.at] & ~(kind.is_first | kind.is_last)
        outside = np.where(kind.is_before, _BEFORE, _AFTER)
        own = np.where(kind.is_inside, np.where(is_among, _AMONG, _NOWHERE), outside)
        has_others = kind.n[kind.cell] > 0
        place[kind.at[has_others]] = own[has_others]
        n_samples += kind.n
    at = np.flatnonzero((cell >= 0) & (samples.bits == STALE_BITS))
    is_behind = samples.t_ms[at] > _last_of_all(known, kinds)[cell[at]]
    place[at] = np.where((n_samples[cell[at]] > 0) & is_behind, _AFTER, _NOWHERE)
    at = np.flatnonzero(cell >= 0)
    place[at[is_whole[cell[at]]]] = _ALONE
    return place


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """Floats or histograms: what windows of a tier know of them, and samples in these windows.

    ``n: f64[windows]`` how many, ``last_ms: i64[windows]``; of K samples ``at: i64[K]`` their
    positions, ``cell: i64[K]`` their windows, and whether they are before the first of these or
    from that to the last, the first itself, the last: bool[K].
    """

    n: npt.NDArray[np.float64]
    last_ms: I64Array
    at: I64Array
    cell: I64Array
    is_before: BoolArray
    is_inside: BoolArray
    is_first: BoolArray
    is_last: BoolArray


def _kinds(known: WindowBatch, samples: SampleRows, cell: I64Array) -> list[_Kind]:
    """Those of which there are columns; ``cell`` is that of `cells_of`."""
    is_histogram = is_handle(samples.bits)
    is_float = ~is_histogram & (samples.bits != STALE_BITS)
    kinds = []
    for columns, is_kind in ((_FLOATS, is_float), (_HISTOGRAMS, is_histogram)):
        if columns[0] not in known.columns:
            continue
        n, first_ms, last_ms = (known.columns[column] for column in columns)
        at = np.flatnonzero((cell >= 0) & is_kind)
        own, t_ms = cell[at], samples.t_ms[at]
        first, last = first_ms[own], last_ms[own]
        kinds.append(
            _Kind(
                n.view(np.float64), last_ms.view(np.int64), at, own,
                is_before=t_ms < first,
                is_inside=(t_ms >= first) & (t_ms <= last),
                is_first=t_ms == first,
                is_last=t_ms == last,
            )
        )  # fmt: skip
    return kinds


def _last_of_all(known: WindowBatch, kinds: Sequence[_Kind]) -> I64Array:
    """The time of the last sample of any kind that windows know of: i64[windows]."""
    last_ms = np.full(known.n_windows, -(2**63))
    for kind in kinds:
        last_ms = np.where(kind.n > 0, np.maximum(last_ms, kind.last_ms), last_ms)
    return last_ms


def _counts(at: I64Array, n: int) -> I64Array:
    return np.bincount(at, minlength=n)


def _taken(windows: WindowBatch, kept: I64Array) -> WindowBatch:
    """Some windows of a batch, ascending."""
    rows = np.repeat(np.arange(windows.n_rows), np.diff(windows.row_offsets))[kept]
    columns = {column: values[kept] for column, values in windows.columns.items()}
    return _batch(windows, rows, ends_of(windows)[kept], columns, windows.histograms)


def _in_order(pieces: Sequence[tuple[int, WindowBatch]]) -> WindowBatch:
    """Windows of several batches, those of one row and end one after the other by their places."""
    batches = [batch for _, batch in pieces]
    rows = np.concatenate([np.repeat(np.arange(b.n_rows), np.diff(b.row_offsets)) for b in batches])
    ends = np.concatenate([ends_of(batch) for batch in batches])
    places = np.repeat([where for where, _ in pieces], [b.n_windows for b in batches])
    order = np.lexsort((places, ends, rows))
    tables = [no_histograms() if b.histograms is None else b.histograms for b in batches]
    n_before = offsets_of(np.array([len(table) for table in tables]))
    columns: Columns = {}
    for column in batches[0].columns:
        values = [batch.columns[column].view(np.int64) for batch in batches]
        if column in HANDLE_COLUMNS:
            values = [
                renumbered(bits.view(np.uint64), int(n)).view(np.int64)
                for bits, n in zip(values, n_before[:-1], strict=True)
            ]
        ordered = np.concatenate(values)[order]
        columns[column] = ordered if column in TIME_COLUMNS else ordered.view(np.float64)
    _settle_among(columns, np.flatnonzero(places[order] == _AMONG))
    table = concatenate(tables) if n_before[-1] else None
    return _batch(batches[0], rows[order], ends[order], columns, table)


def _settle_among(columns: Columns, at: I64Array) -> None:
    """Let windows of samples in between begin and end as the known one before each ends."""
    if Column.COUNT in columns:
        columns[Column.STALE][at] = columns[Column.STALE][at - 1]
    for n_column, ends, times, losses in (
        (
            Column.COUNT,
            (Column.FIRST, Column.LAST),
            (Column.FIRST_T, Column.LAST_T),
            (Column.RESETS, 0.0),
        ),
        (
            Column.H_COUNT,
            (Column.H_FIRST, Column.H_LAST),
            (Column.H_FIRST_T, Column.H_LAST_T),
            (Column.H_RESETS, np.nan),
        ),
    ):
        if n_column not in columns:
            continue
        n = columns[n_column]
        own = at[(n[at] > 0) & (n[at - 1] > 0)]
        for first, last in (ends, times):
            bits = columns[last].view(np.int64)
            bits[own] = bits[own - 1]
            columns[first].view(np.int64)[own] = bits[own]
        columns[losses[0]][own] = losses[1]


def _batch(
    like: WindowBatch,
    rows: I64Array,
    ends: I64Array,
    columns: Columns,
    table: Histograms | None,
) -> WindowBatch:
    """Windows of as many rows as ``like`` has, in the order of (row, end)."""
    row_offsets = offsets_of(np.bincount(rows, minlength=like.n_rows))
    row_axis, heads = group_equal_runs(ends, row_offsets)
    sizes = np.diff(row_offsets)[heads]
    return WindowBatch(
        like.width_ms,
        ends[expand_ranges(row_offsets[heads], sizes)],
        offsets_of(sizes),
        row_axis,
        row_offsets,
        columns,
        table,
    )
