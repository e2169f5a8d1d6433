"""Kernels of start timestamps and of positions of windows against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_rollups import SPECIALS, as_batch, batches, grids
from tests.reference import rangewindows as reference
from tsengine.kernels import starts, windows


@pytest.mark.parametrize("op", ["rate", "increase"])
@settings(max_examples=150, deadline=None)
@given(
    batch=batches(st.one_of(st.sampled_from(SPECIALS), st.integers(0, 20).map(float))),
    grid=grids(),
    data=st.data(),
)
def test_extrapolate_from_starts_matches_reference(op, batch, grid, data):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    kinds = st.sampled_from([0, 0, "before", "own", "inside", "far"])
    with_starts = []
    for row in rows:
        samples = []
        for i, (t, v) in enumerate(row):
            before = row[i - 1][0] if i else t - 900
            kind = data.draw(kinds)
            start = {"before": before, "own": t, "inside": (t + before) // 2, "far": before - 1}
            samples.append((t, v, start.get(kind, 0)))
        with_starts.append(samples)
    made = as_batch(rows, row_axis, axes)
    starts_ms = np.array([s for row in with_starts for _, _, s in row], np.int64)
    n_rows, n_steps = len(rows), len(ends_ms)
    out, valid = np.full((n_rows, n_steps), 777.0), np.empty((n_rows, n_steps), np.bool_)
    n_present, overlaps = np.empty(n_rows, np.int64), np.empty(n_rows, np.bool_)
    code = {"rate": starts.RATE, "increase": starts.INCREASE}[op]
    order = np.argsort(made.row_axis, kind="stable")
    status = starts.extrapolate_from_starts(
        code, starts_ms, made.t_ms, made.axis_offsets, made.row_axis, order, made.values,
        made.row_offsets, np.array(ends_ms), range_ms, out, valid, n_present, overlaps,
    )  # fmt: skip
    assert status == 0
    np.testing.assert_array_equal(n_present, valid.sum(axis=1))
    for s, row in enumerate(with_starts):
        with np.errstate(all="ignore"):
            wanted = [reference.extrapolate_from_starts(op, row, end, range_ms) for end in ends_ms]
        assert [w is not None for w, _ in wanted] == valid[s].tolist()
        assert any(flag for _, flag in wanted) == overlaps[s]
        numbers = np.array([0.0 if w is None else w for w, _ in wanted])
        np.testing.assert_allclose(np.where(valid[s], out[s], 0.0), numbers, rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(batch=batches(), grid=grids(), data=st.data())
def test_find_windows_matches_reference(batch, grid, data):
    _, _, axes = batch
    ends_ms, range_ms = grid
    made = as_batch([], [], axes)
    picked = data.draw(st.lists(st.integers(0, len(axes) - 1), max_size=4))
    first, last = np.full((2, len(picked), len(ends_ms)), -1, np.int64)
    windows.find_windows(
        made.t_ms, made.axis_offsets, np.array(picked, np.int64), np.array(ends_ms), range_ms,
        first, last,
    )  # fmt: skip
    for k, axis in enumerate(picked):
        wanted = [reference.find_windows(axes[axis], end, range_ms) for end in ends_ms]
        assert list(zip(first[k].tolist(), last[k].tolist(), strict=True)) == wanted
