"""Samples that may be histograms and may have a start timestamp, as a dictionary.

    {ref: {t: (value, start_ms)}}

A value is the float's bits or a `Histogram`; a start of 0 is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.reference.samples import STALE
from tsengine.model.batch import SampleBatch, SeriesColumns
from tsengine.model.frame import FrameBatch
from tsengine.model.histograms import Histograms, handles, is_handle, rows_of
from tsengine.model.ragged import offsets_of


class Histogram(NamedTuple):
    """One histogram; all floats as bits. ``bounds`` is None for exponential schemas."""

    schema: int
    hint: int
    count: int
    sum: int
    zero_threshold: int
    zero_count: int
    buckets: tuple[tuple[int, int], ...]
    bounds: tuple[int, ...] | None


Sample = tuple["int | Histogram", int]
Rich = dict[int, dict[int, Sample]]


def bits(value: float) -> int:
    return int(np.float64(value).view(np.uint64))


def table_of(rows: Iterable[Histogram]) -> Histograms:
    rows = list(rows)
    bounds = [row.bounds for row in rows if row.bounds is not None]
    ids = np.cumsum([row.bounds is not None for row in rows]) - 1 if rows else np.empty(0)

    def floats(column: Iterable[int]) -> np.ndarray:
        return np.array(list(column), np.uint64).view(np.float64)

    return Histograms(
        schema=np.array([row.schema for row in rows], np.int8),
        hint=np.array([row.hint for row in rows], np.uint8),
        count=floats(row.count for row in rows),
        sum=floats(row.sum for row in rows),
        zero_threshold=floats(row.zero_threshold for row in rows),
        zero_count=floats(row.zero_count for row in rows),
        offsets=offsets_of(np.array([len(row.buckets) for row in rows], np.int64)),
        keys=np.array([key for row in rows for key, _ in row.buckets], np.int32),
        counts=floats(count for row in rows for _, count in row.buckets),
        bounds_id=np.where([row.bounds is not None for row in rows], ids, -1).astype(np.int32),
        bounds_offsets=offsets_of(np.array([len(own) for own in bounds], np.int64)),
        bounds=floats(bound for own in bounds for bound in own),
    )


def rows_of_table(table: Histograms) -> list[Histogram]:
    def ints(column: np.ndarray) -> list[int]:
        return column.view(np.uint64).tolist()

    keys, counts, all_bounds = table.keys.tolist(), ints(table.counts), ints(table.bounds)
    found = []
    for i in range(len(table)):
        span = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        bounds = None
        if table.bounds_id[i] >= 0:
            own = table.bounds_offsets[table.bounds_id[i] :][:2].tolist()
            bounds = tuple(all_bounds[own[0] : own[1]])
        found.append(
            Histogram(
                int(table.schema[i]), int(table.hint[i]),
                ints(table.count)[i], ints(table.sum)[i],
                ints(table.zero_threshold)[i], ints(table.zero_count)[i],
                tuple(zip(keys[span], counts[span], strict=True)), bounds,
            )
        )  # fmt: skip
    return found


def _columns(rows: list[Sample]) -> tuple[np.ndarray, Histograms | None, np.ndarray | None]:
    histograms = [value for value, _ in rows if isinstance(value, Histogram)]
    numbers = iter(handles(np.arange(len(histograms))).tolist())
    bits = [next(numbers) if isinstance(value, Histogram) else value for value, _ in rows]
    starts = np.array([start for _, start in rows], np.int64)
    return (
        np.array(bits, np.uint64),
        table_of(histograms) if histograms else None,
        starts if starts.any() else None,
    )


def batch_of(rows: list[tuple[int, int, Sample]]) -> SampleBatch:
    values, histograms, starts = _columns([sample for _, _, sample in rows])
    return SampleBatch(
        np.array([ref for ref, _, _ in rows], np.uint32),
        np.array([t for _, t, _ in rows], np.int64),
        values, histograms, starts,
    )  # fmt: skip


def columns_of(model: Rich) -> SeriesColumns:
    refs = sorted(ref for ref in model if model[ref])
    times = [(ref, t) for ref in refs for t in sorted(model[ref])]
    values, histograms, starts = _columns([model[ref][t] for ref, t in times])
    return SeriesColumns(
        np.array(refs, np.uint32), offsets_of(np.array([len(model[r]) for r in refs], np.int64)),
        np.array([t for _, t in times], np.int64), values, histograms, starts,
    )  # fmt: skip


def _values(values: np.ndarray, table: Histograms | None) -> list[int | Histogram]:
    rows = rows_of_table(table) if table is not None else []
    used = rows_of(values[is_handle(values)])
    assert sorted(used.tolist()) == list(range(len(rows))), "handles number the table's rows"
    return [
        rows[int(bits) & 0xFFFFFFFFFFFF] if is_one else int(bits)
        for bits, is_one in zip(values.tolist(), is_handle(values).tolist(), strict=True)
    ]


def model_of(columns: SeriesColumns) -> Rich:
    assert (np.diff(columns.refs.astype(np.int64)) > 0).all(), "refs ascend"
    values = _values(columns.bits, columns.histograms)
    starts = [0] * len(values) if columns.start_ms is None else columns.start_ms.tolist()
    times = columns.t_ms.tolist()
    model: Rich = {}
    for row, ref in enumerate(columns.refs.tolist()):
        span = range(int(columns.offsets[row]), int(columns.offsets[row + 1]))
        assert len(span), "no empty series"
        assert (np.diff(columns.t_ms[span.start : span.stop]) > 0).all(), "times ascend strictly"
        model[ref] = {times[i]: (values[i], starts[i]) for i in span}
    return model


def values_of_frames(frames: FrameBatch) -> list[dict[int, int | Histogram]]:
    """Each row as {t: value}."""
    values = _values(frames.values.view(np.uint64), frames.histograms)
    rows = []
    for row in range(frames.n_rows):
        axis = int(frames.row_axis[row])
        t_ms = frames.t_ms[frames.axis_offsets[axis] : frames.axis_offsets[axis + 1]].tolist()
        own = values[int(frames.row_offsets[row]) : int(frames.row_offsets[row + 1])]
        rows.append(dict(zip(t_ms, own, strict=True)))
    return rows


def without_starts(model: Rich) -> Rich:
    return {r: {t: (value, 0) for t, (value, _) in own.items()} for r, own in model.items()}


def starts_of(model: Rich) -> dict[int, dict[int, int]]:
    found = {r: {t: start for t, (_, start) in own.items() if start} for r, own in model.items()}
    return {ref: own for ref, own in found.items() if own}


# ---------------------------------------------------------------------------- strategies

_NUMBERS = st.sampled_from(
    [0, bits(1.0), bits(7.0), bits(0.1), bits(-0.0), bits(np.inf), 0x7FF8000000000001, STALE]
) | st.integers(0, 1000).map(lambda n: bits(float(n)))
_COUNTS = st.integers(1, 50).map(lambda n: bits(float(n))) | st.sampled_from(
    [bits(0.5), bits(-3.0), bits(np.nan), bits(np.inf)]
)
_LAYOUTS = st.sampled_from(
    [
        (3, bits(0.001), None),
        (0, bits(0.001), None),
        (8, bits(0.0), None),
        (-4, bits(-0.0), None),
        (-53, 0, ()),
        (-53, 0, (bits(1.0), bits(2.5))),
        (-53, 0, (bits(1.0), bits(2.5), bits(1e9))),
    ]
)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    schema, threshold, bounds = draw(_LAYOUTS)
    limit = 2**20 - 1
    keys = st.integers(2**20 - 3, 2**20 + 3)
    if bounds is None:
        keys |= keys.map(lambda key: -key) | st.sampled_from(
            [1, -1, 2**20 + limit, -(2**20) - limit]
        )
    buckets = draw(st.dictionaries(keys, _COUNTS, max_size=6))
    return Histogram(
        schema, draw(st.integers(0, 3)), draw(_NUMBERS), draw(_NUMBERS), threshold,
        0 if bounds is not None else draw(_NUMBERS), tuple(sorted(buckets.items())), bounds,
    )  # fmt: skip


_STARTS = st.sampled_from([0, 0, 0, 5, 1_700_000_000_000, -7, 2**53 - 1])
samples = st.tuples(histograms() | _NUMBERS, _STARTS) | st.tuples(_NUMBERS, st.just(0))


def models(
    *, refs: int = 5, times: st.SearchStrategy[int] | None = None
) -> st.SearchStrategy[Rich]:
    times = st.integers(0, 40) if times is None else times
    own = st.dictionaries(times, samples, min_size=1, max_size=12)
    return st.dictionaries(st.integers(0, refs), own, min_size=1, max_size=5)
