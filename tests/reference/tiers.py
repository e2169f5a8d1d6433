"""Windows of series as dictionaries: what tiers must behave like, {ref: {end: {column: bits}}}."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from hypothesis import strategies as st

from tests.reference import windowtiers
from tests.reference.samples import STALE, Model
from tsengine.model.frame import FrameBatch
from tsengine.model.ragged import offsets_of
from tsengine.model.windows import TIME_COLUMNS, Column, WindowBatch

Windows = dict[int, dict[int, dict[Column, int]]]
FLOATS = [column for column in Column if column < Column.H_COUNT]
_PLAIN_NAN = 0x7FF8000000000000

NUMBERS = st.one_of(
    st.sampled_from([STALE, _PLAIN_NAN, 0x7FF8000000000123, 0xFFF8000000000000]),
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 0.2, 1e308, float("inf"), -float("inf")]).map(
        windowtiers.bits_of
    ),
    st.integers(-5, 5).map(lambda x: windowtiers.bits_of(float(x))),
    st.integers(-9999, 9999).map(lambda x: windowtiers.bits_of(x / 100)),
)
"""Bits of samples: markers, every kind of NaN, integers, decimals and extremes."""


def models(times: st.SearchStrategy[int], *, n_refs: int = 4) -> st.SearchStrategy[Model]:
    """Series that share times or not."""
    numbers = st.lists(NUMBERS, min_size=12, max_size=12)
    series = st.lists(times, unique=True, max_size=12).flatmap(
        lambda axis: numbers.map(lambda row: dict(zip(sorted(axis), row, strict=False)))
    )
    return st.dictionaries(st.integers(0, n_refs - 1), series, max_size=n_refs)


def frames_of(model: Model, refs: Sequence[int]) -> FrameBatch:
    """Samples of the series ``refs``; series of equal times share an axis."""
    axes: dict[tuple[int, ...], int] = {}
    row_axis = [axes.setdefault(tuple(sorted(model.get(ref, {}))), len(axes)) for ref in refs]
    bits = [model[ref][t] for ref in refs for t in sorted(model.get(ref, {}))]
    return FrameBatch(
        np.array([t for axis in axes for t in axis], np.int64),
        offsets_of(np.array([len(axis) for axis in axes], np.int64)),
        np.array(row_axis, np.int64),
        np.array(bits, np.uint64).view(np.float64),
        offsets_of(np.array([len(model.get(ref, {})) for ref in refs], np.int64)),
    )


def windows_of(model: Model, width_ms: int, *steps_ms: int) -> Windows:
    """Windows of all series; made of narrower windows first if there are ``steps_ms``."""
    found: Windows = {}
    for ref, samples in model.items():
        first, *wider = [*steps_ms, width_ms]
        windows = windowtiers.sum_up_samples(sorted(samples.items()), first)
        for step_ms in wider:
            windows = windowtiers.merge_windows(windows, step_ms)
        if windows:
            found[ref] = {int(w["end"]): {c: _bits(c, w) for c in FLOATS} for w in windows}
    return found


def _bits(column: Column, window: windowtiers.Window) -> int:
    value = window[column.name.lower()]
    return int(value) if column in TIME_COLUMNS else _same_nan(windowtiers.bits_of(float(value)))


def _same_nan(bits: int) -> int:
    return _PLAIN_NAN if bits == 0xFFF8000000000000 else bits


def windows_in(
    batch: WindowBatch, refs: Sequence[int], columns: Collection[Column] = FLOATS
) -> Windows:
    """What a batch holds. The two plain NaN count as one: Python's additions give either."""
    assert batch.n_rows == len(refs)
    assert set(batch.columns) == set(columns)
    found: Windows = {}
    for row, ref in enumerate(refs):
        span = range(*batch.row_offsets[row : row + 2].tolist())
        axis = int(batch.row_axis[row])
        ends = batch.end_ms[slice(*batch.axis_offsets[axis : axis + 2])].tolist()
        assert len(ends) == len(span)
        own = {}
        for end, at in zip(ends, span, strict=True):
            own[end] = {
                c: int(batch.columns[c][at])
                if c in TIME_COLUMNS
                else _same_nan(int(batch.columns[c].view(np.uint64)[at]))
                for c in columns
            }
        if own:
            found[ref] = own
    return found


def clipped(
    windows: Windows, mint: int, maxt: int, columns: Collection[Column] = FLOATS
) -> Windows:
    """Windows whose ends are in a closed range."""
    found = {}
    for ref, own in windows.items():
        inside = {
            end: {c: window[c] for c in columns}
            for end, window in own.items()
            if mint <= end <= maxt
        }
        if inside:
            found[ref] = inside
    return found
