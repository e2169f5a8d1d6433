"""Sums of lists of native histograms: combine, average, increase.

A list of rows is a slice of ``rows: i64[L]`` given by ``list_offsets: i64[O + 1]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tsengine.kernels import histogram_sums as kernels
from tsengine.kernels.histogram_adding import N_SHAPE, N_STATE, Scratch
from tsengine.kernels.histogram_buckets import columns_of
from tsengine.model.histogram_pairs import check_length, checked_rows, is_reset
from tsengine.model.histograms import (
    CUSTOM_SCHEMA,
    HINT_GAUGE,
    SCHEMA_MAX,
    SCHEMA_MIN,
    Histograms,
    concatenate,
    no_histograms,
)
from tsengine.model.ragged import offsets_of

I64Array = npt.NDArray[np.int64]
F64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

BUCKETS_AT_ONCE = 1 << 22
"""Sums are taken in slabs that can't have more buckets than this, unless one alone has."""


@dataclass(frozen=True, slots=True)
class Combined:
    """Sums or means of O lists of histograms.

    ``is_mixed: bool[O]``: exponential met custom buckets; the row means nothing, Prometheus drops
    the element with a warning. ``reconciled: bool[O]``: custom bounds differed and were reduced to
    the common ones (info). ``hint_clash: bool[O]``: a RESET met a NOT_RESET (warning).
    """

    table: Histograms
    is_mixed: BoolArray
    reconciled: BoolArray
    hint_clash: BoolArray


@dataclass(frozen=True, slots=True)
class Increase:
    """Increases of O lists of consecutive samples, all with the hint GAUGE.

    ``is_mixed: bool[O]``: as in `Combined`. ``reconciled_subtracting, reconciled_adding: bool[O]``:
    custom bounds differed between last and first, or when a sample before a reset was added.
    ``not_counter: bool[O]``: a gauge was among the samples of a counter; ``not_gauge: bool[O]``:
    the first or last sample, taken for a gauge, has another hint.
    """

    table: Histograms
    is_mixed: BoolArray
    reconciled_subtracting: BoolArray
    reconciled_adding: BoolArray
    not_counter: BoolArray
    not_gauge: BoolArray


def combine(
    table: Histograms,
    list_offsets: I64Array,
    rows: I64Array,
    factors: F64Array,
    *,
    as_gauge: bool = False,
) -> Combined:
    """Sum of ``factors[j] * rows[j]`` over each list, in the order of the list, compensated.

    Lists are not empty, ``rows: i64[L]``, ``factors: f64[L]``. Factors (1, -1) subtract; the result
    of Prometheus's operator is a gauge then: ``as_gauge=True``. Results have no empty buckets.
    """
    n_lists = _check_lists(table, list_offsets, rows)
    check_length("factors", factors, len(rows))
    floors = np.full(n_lists, SCHEMA_MAX)
    result, flags = _sums(table, list_offsets, rows, np.asarray(factors, np.float64), floors)
    if as_gauge:
        result = replace(result, hint=np.full(n_lists, HINT_GAUGE, np.uint8))
    return _combined(result, flags)


def subtract(table: Histograms, a: I64Array, b: I64Array) -> Combined:
    """``a[p] - b[p]`` for rows ``a, b: i64[P]``, as gauges."""
    check_length("b", b, len(a))
    rows = np.stack([np.asarray(a, np.int64), np.asarray(b, np.int64)], axis=1).ravel()
    factors = np.tile([1.0, -1.0], len(a))
    return combine(table, 2 * np.arange(len(a) + 1), rows, factors, as_gauge=True)


def average(table: Histograms, list_offsets: I64Array, rows: I64Array) -> Combined:
    """Mean of each list (none is empty): compensated sum / n, or a running mean if it overflows."""
    n_lists = _check_lists(table, list_offsets, rows)
    floors = np.full(n_lists, SCHEMA_MAX)
    return _combined(*_sums(table, list_offsets, rows, None, floors))


def increase(
    table: Histograms,
    list_offsets: I64Array,
    rows: I64Array,
    *,
    is_counter: bool = True,
    known_resets: BoolArray | None = None,
) -> Increase:
    """Last minus first of each list of consecutive samples, at least two, corrected for resets.

    A counter's value before each reset is added; a reset between the first two samples takes the
    first one out altogether. All samples of a counter lower the resolution, also those that are
    neither subtracted nor added. ``known_resets: bool[L]`` marks samples that start timestamps tell
    to be after a reset.

    Rates multiply the result by their factor with `scale`.
    """
    n_lists = _check_lists(table, list_offsets, rows, at_least=2)
    rows = np.asarray(rows, np.int64)
    first, last = list_offsets[:-1], list_offsets[1:] - 1
    is_reset_before = np.zeros(len(rows), np.bool_)
    if is_counter and n_lists:
        follows = np.ones(len(rows), np.bool_)
        follows[first] = False
        at = np.flatnonzero(follows)
        is_reset_before[at] = is_reset(table, rows[at - 1], rows[at])
        if known_resets is not None:
            is_reset_before |= known_resets & follows
    fresh = is_reset_before[first + 1] if n_lists else np.zeros(0, np.bool_)
    schema = table.schema[rows].astype(np.int64)
    schema[first[fresh]] = schema[first[fresh] + 1]
    if is_counter:
        floors = np.minimum.reduceat(schema, first) if n_lists else schema
    else:
        floors = np.minimum(schema[first], schema[last])
    floors = np.maximum(floors, SCHEMA_MIN)
    items = _increase_items(list_offsets, rows, is_reset_before, fresh)
    result, flags = _sums(table, *items, floors)
    is_mixed = (flags & kernels.MIXED) != 0
    hint = table.hint[rows]
    is_gauge = hint == HINT_GAUGE
    none = np.zeros(n_lists, np.bool_)
    not_counter, not_gauge = none, none
    if is_counter and n_lists:
        is_custom = schema == CUSTOM_SCHEMA
        some, every = (f.reduceat(is_custom, first) for f in (np.logical_or, np.logical_and))
        is_mixed = some != every
        not_counter = np.logical_or.reduceat(is_gauge, first)
    elif n_lists:
        not_gauge = ~(is_gauge[first] & is_gauge[last])
    return Increase(
        table=replace(result, hint=np.full(n_lists, HINT_GAUGE, np.uint8)),
        is_mixed=is_mixed,
        reconciled_subtracting=(flags & kernels.RECONCILED_SECOND) != 0,
        reconciled_adding=(flags & kernels.RECONCILED_LATER) != 0,
        not_counter=not_counter,
        not_gauge=not_gauge,
    )


def _increase_items(
    list_offsets: I64Array, rows: I64Array, is_reset_before: BoolArray, fresh: BoolArray
) -> tuple[I64Array, I64Array, F64Array]:
    """The sums that increases are: offsets, rows and factors.

    Each is the last sample, minus the first, plus those before a reset but the first. If the first
    one doesn't count (`fresh`), the second one's layout stands in twice: Prometheus subtracts and
    adds an empty histogram with its bounds.
    """
    first, last = list_offsets[:-1], list_offsets[1:] - 1
    is_added = np.zeros(len(rows), np.bool_)
    is_added[:-1] = is_reset_before[1:]
    is_added[first] = False
    added = np.flatnonzero(is_added)
    n_added = offsets_of(is_added.view(np.int8))[list_offsets]
    offsets = offsets_of(2 + fresh + np.diff(n_added))
    item_rows = np.empty(offsets[-1], np.int64)
    factors = np.ones(offsets[-1])
    at = offsets[:-1]
    item_rows[at] = rows[last]
    item_rows[at + 1] = np.where(fresh, ~rows[first + 1], rows[first])
    factors[at + 1] = -1.0
    item_rows[at[fresh] + 2] = ~rows[first[fresh] + 1]
    of_list = np.repeat(np.arange(len(at)), np.diff(n_added))
    within = np.arange(len(added)) - n_added[of_list]
    item_rows[at[of_list] + 2 + fresh[of_list] + within] = rows[added]
    return offsets, item_rows, factors


def _combined(result: Histograms, flags: npt.NDArray[np.uint8]) -> Combined:
    reconciled = kernels.RECONCILED_SECOND | kernels.RECONCILED_LATER
    return Combined(
        table=result,
        is_mixed=(flags & kernels.MIXED) != 0,
        reconciled=(flags & reconciled) != 0,
        hint_clash=(flags & kernels.HINT_CLASH) != 0,
    )


def _sums(
    table: Histograms,
    list_offsets: I64Array,
    rows: I64Array,
    factors: F64Array | None,
    floors: I64Array,
) -> tuple[Histograms, npt.NDArray[np.uint8]]:
    """Sums (means without factors) of the lists and their flags, slab after slab."""
    n_lists = len(list_offsets) - 1
    if n_lists == 0:
        return no_histograms(), np.zeros(0, np.uint8)
    list_offsets = np.ascontiguousarray(list_offsets, np.int64)
    rows = np.ascontiguousarray(rows, np.int64)
    columns = columns_of(table)
    n_buckets, n_bounds = np.empty((2, n_lists), np.int64)
    largest = kernels.bound_sums(columns, list_offsets, rows, n_buckets, n_bounds)
    longest = int(np.diff(table.bounds_offsets).max(initial=0))
    scratch = _scratch(int(n_buckets.max()), largest, longest)
    all_buckets = offsets_of(n_buckets)
    tables, flags = [], []
    start = 0
    while start < n_lists:
        full = all_buckets[start] + BUCKETS_AT_ONCE
        end = max(start + 1, int(np.searchsorted(all_buckets, full, side="right")) - 1)
        out = _sums_columns(end - start, int(n_buckets[start:end].sum()), n_bounds[start:end])
        used = kernels.sum_histograms(
            columns,
            list_offsets[start : end + 1],
            rows,
            np.empty(0) if factors is None else factors,
            floors[start:end],
            factors is None,
            scratch,
            out,
        )
        assert used >= 0, "bound_sums bounds the buckets of sums"
        tables.append(_table_of_sums(table, out, used))
        flags.append(out.flags)
        start = end
    return concatenate(tables), np.concatenate(flags)


def _scratch(n_buckets: int, n_row: int, n_bounds: int) -> Scratch:
    return Scratch(
        keys=np.empty(n_buckets, np.int32),
        counts=np.empty(n_buckets),
        compensations=np.empty(n_buckets),
        row_keys=np.empty(n_row, np.int32),
        row_counts=np.empty(n_row),
        row_compensations=np.empty(n_row),
        bounds=np.empty(n_bounds),
        next_bounds=np.empty(n_bounds),
        state=np.empty(N_STATE),
        shape=np.empty(N_SHAPE, np.int64),
    )


def _sums_columns(n: int, n_buckets: int, n_bounds: I64Array) -> kernels.Sums:
    return kernels.Sums(
        schema=np.empty(n, np.uint8),
        hint=np.empty(n, np.uint8),
        total=np.empty(n),
        sum=np.empty(n),
        zero_threshold=np.empty(n),
        zero_count=np.empty(n),
        offsets=np.empty(n + 1, np.int64),
        keys=np.empty(n_buckets, np.int32),
        counts=np.empty(n_buckets),
        bounds_id=np.empty(n, np.int32),
        bounds_offsets=np.empty(n + 1, np.int64),
        bounds=np.empty(int(n_bounds.sum())),
        flags=np.empty(n, np.uint8),
        used=np.empty(1, np.int64),
    )


def _table_of_sums(table: Histograms, out: kernels.Sums, used: int) -> Histograms:
    """Histograms of a slab; new custom bounds stand behind those of the operands."""
    ends = out.bounds_offsets[1 : int(out.used[0]) + 1]
    bounds_offsets, bounds = table.bounds_offsets, table.bounds
    if len(ends):
        bounds_offsets = np.concatenate([bounds_offsets, bounds_offsets[-1] + ends])
        bounds = np.concatenate([bounds, out.bounds[: ends[-1]]])
    return Histograms(
        schema=out.schema.view(np.int8),
        hint=out.hint,
        count=out.total,
        sum=out.sum,
        zero_threshold=out.zero_threshold,
        zero_count=out.zero_count,
        offsets=out.offsets,
        keys=out.keys[:used].copy(),
        counts=out.counts[:used].copy(),
        bounds_id=out.bounds_id,
        bounds_offsets=bounds_offsets,
        bounds=bounds,
    )


def _check_lists(
    table: Histograms, list_offsets: I64Array, rows: I64Array, *, at_least: int = 1
) -> int:
    """Number of lists, if they are well formed."""
    checked_rows(table, rows)
    if len(list_offsets) == 0 or list_offsets[0] != 0 or list_offsets[-1] != len(rows):
        raise ValueError(f"list_offsets must lead from 0 to {len(rows)}")
    if np.any(np.diff(list_offsets) < at_least):
        raise ValueError(f"every list must have {at_least} rows or more")
    return len(list_offsets) - 1
