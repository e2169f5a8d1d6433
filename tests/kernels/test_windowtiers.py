from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import windowtiers as reference
from tsengine.kernels.jit import ERR_CORRUPT, OK
from tsengine.kernels.windowtiers import (
    N_TIMES,
    N_VALUES,
    add_window_starts,
    cut_windows,
    derive_column,
    merge_windows,
    sum_up_samples,
)
from tsengine.model.ragged import offsets_of

NUMBERS = st.one_of(
    st.sampled_from(
        [reference.STALE, 0x7FFC000000000003, 0x7FF8000000000000, 0x7FF4000000000001, 0xFFF8 << 48]
    ),
    st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.5, 1e308, -1e308, math.inf, -math.inf, 1e-300]).map(
        reference.bits_of
    ),
    st.integers(-5, 5).map(lambda x: reference.bits_of(float(x))),
    st.floats(allow_nan=False).map(reference.bits_of),
)
AXES = st.lists(
    st.lists(
        st.integers(-40, 40) | st.sampled_from([10**12, 10**12 + 7, -(10**12)]),
        unique=True,
        max_size=25,
    ).map(sorted),
    min_size=1,
    max_size=4,
)


def cut(axes: list[list[int]], width_ms: int):
    offsets = offsets_of(np.array([len(axis) for axis in axes]))
    t_ms = np.array([t for axis in axes for t in axis], np.int64)
    ends, starts = np.empty((2, len(t_ms)), np.int64)
    window_offsets = np.empty(len(axes) + 1, np.int64)
    n = cut_windows(t_ms, offsets, width_ms, ends, starts, window_offsets)
    return t_ms, offsets, ends[:n], starts[:n], window_offsets


@settings(max_examples=100, deadline=None)
@given(AXES, st.integers(1, 20))
def test_cut_windows_matches_reference(axes, width_ms):
    t_ms, _, ends, starts, window_offsets = cut(axes, width_ms)
    for k, expected in enumerate(reference.cut_windows(axes, width_ms)):
        span = slice(*window_offsets[k : k + 2].tolist())
        assert ends[span].tolist() == [end for end, _ in expected]
        assert t_ms[starts[span]].tolist() == [inside[0] for _, inside in expected]


def columns_of(windows):
    values = [[reference.bits_of(float(w[name])) for w in windows] for name in reference.VALUES]
    return values, [[w["first_t"] for w in windows], [w["last_t"] for w in windows]]


def same_bits(found, expected):
    """Bits equal; NaN that are results of additions are any plain NaN in Python."""
    table = np.array(expected, np.uint64)
    nan = np.uint64(0x7FF8000000000000)
    table = np.where(table == np.uint64(0xFFF8 << 48), nan, table)
    got = np.where(found == np.uint64(0xFFF8 << 48), nan, found)
    np.testing.assert_array_equal(got, table.reshape(got.shape))


@settings(max_examples=200, deadline=None)
@given(st.data(), AXES, st.integers(1, 20), st.integers(1, 4))
def test_windows_match_reference(data, axes, width_ms, factor):
    row_axis = data.draw(st.lists(st.integers(0, len(axes) - 1), max_size=5))
    rows = [
        data.draw(st.lists(NUMBERS, min_size=len(axes[a]), max_size=len(axes[a]))) for a in row_axis
    ]
    t_ms, offsets, ends, starts, window_offsets = cut(axes, width_ms)
    row_of = np.array(row_axis, np.int64)
    row_offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    bits = np.array([x for row in rows for x in row], np.uint64)
    bits.flags.writeable = False
    out_offsets = offsets_of(np.diff(window_offsets)[row_of])
    out = np.empty((N_VALUES, out_offsets[-1]))
    out_t = np.empty((N_TIMES, out_offsets[-1]), np.int64)
    status = sum_up_samples(
        t_ms, offsets, row_of, bits.view(np.float64), row_offsets, starts, window_offsets,
        out_offsets, out, out_t,
    )  # fmt: skip
    assert status == OK
    fine = []
    for s, row in enumerate(rows):
        span = slice(*out_offsets[s : s + 2].tolist())
        windows = reference.sum_up_samples(list(zip(axes[row_axis[s]], row, strict=True)), width_ms)
        values, times = columns_of(windows)
        same_bits(out.view(np.uint64)[:, span], values)
        assert out_t[:, span].tolist() == times
        fine.append(windows)

    wide_ms = factor * width_ms
    axis_ends = [ends[slice(*window_offsets[k : k + 2])].tolist() for k in range(len(axes))]
    _, fine_offsets, _, starts, wide_offsets = cut(axis_ends, wide_ms)
    merged_offsets = offsets_of(np.diff(wide_offsets)[row_of])
    merged = np.empty((N_VALUES, merged_offsets[-1]))
    merged_t = np.empty((N_TIMES, merged_offsets[-1]), np.int64)
    status = merge_windows(
        fine_offsets, row_of, out, out_t[0], out_t[1], out_offsets, starts, wide_offsets,
        merged_offsets, merged, merged_t,
    )  # fmt: skip
    assert status == OK
    for s, windows in enumerate(fine):
        span = slice(*merged_offsets[s : s + 2].tolist())
        values, times = columns_of(reference.merge_windows(windows, wide_ms))
        same_bits(merged.view(np.uint64)[:, span], values)
        assert merged_t[:, span].tolist() == times


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), NUMBERS, NUMBERS), max_size=6), max_size=4),
    st.sampled_from(["sum", "min", "max", "resets"]),
    st.booleans(),
)
def test_derived_columns_match_reference(rows, name, gaps_only):
    flat = [window for row in rows for window in row]
    count = np.array([w[0] for w in flat], np.float64)
    first, last = (np.array([w[k] for w in flat], np.uint64).view(np.float64) for k in (1, 2))
    row_offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    wanted = np.arange(0, len(rows), 2)
    before = np.where(np.arange(len(flat)) % 3 == 0, np.nan, 77.0)
    out = before.copy()
    code = reference.VALUES.index(name)
    status = derive_column(code, int(gaps_only), wanted, row_offsets, count, first, last, out)
    assert status == OK
    for s, row in enumerate(rows):
        expected = before[slice(*row_offsets[s : s + 2].tolist())].tolist()
        if s % 2 == 0:
            expected = [
                reference.derive_column(name, n, *map(reference.number_of, xy))
                if math.isnan(old) or not gaps_only
                else old
                for (n, *xy), old in zip(row, expected, strict=True)
            ]
        found = out[slice(*row_offsets[s : s + 2].tolist())]
        same_bits(found.view(np.uint64), [reference.bits_of(x) for x in expected])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=4),
    st.sampled_from([None, None, None, 9.0, -1.0, 0.5, math.nan, math.inf]),
)
def test_times_match_reference(axes, rows, damage):
    row_axis = np.array([axis % len(axes) for axis in rows], np.int64)
    axis_offsets = offsets_of(np.array([len(axis) for axis in axes]))
    end_ms = 8 * np.arange(axis_offsets[-1]) - 16
    row_offsets = offsets_of(np.diff(axis_offsets)[row_axis])
    since = np.array([float(x) for axis in row_axis for x in axes[axis]])
    expected = [
        reference.add_window_starts(int(end_ms[axis_offsets[axis] + k]), 8, x)
        for axis in row_axis
        for k, x in enumerate(axes[axis])
    ]
    if damage is not None and len(since):
        since[-1] = damage
    out = since.view(np.int64)
    status = add_window_starts(end_ms, axis_offsets, row_axis, row_offsets, 8, since, out)
    if damage is not None and len(since):
        assert status == ERR_CORRUPT
    else:
        assert status == OK
        assert out.tolist() == expected
