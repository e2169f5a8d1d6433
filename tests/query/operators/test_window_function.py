"""Frames with samples left out, against lists."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_rollups import as_batch, batches
from tsengine.query.operators.window_function import Samples, filter_frames, trim_frames


def rows_of_frames(batch):
    """(time, value) lists of the rows; each must be as long as its axis."""
    found = []
    for s in range(batch.n_rows):
        axis = batch.row_axis[s]
        t_ms = batch.t_ms[batch.axis_offsets[axis] : batch.axis_offsets[axis + 1]]
        values = batch.values[batch.row_offsets[s] : batch.row_offsets[s + 1]]
        found.append(list(zip(t_ms.tolist(), values.tolist(), strict=True)))
    assert batch.axis_offsets[-1] == len(batch.t_ms)
    return found


NUMBERS = st.integers(0, 9).map(float)


@settings(max_examples=150, deadline=None)
@given(batch=batches(NUMBERS), data=st.data())
def test_filtered_frames_hold_what_was_kept(batch, data):
    rows, row_axis, axes = batch
    made = as_batch(rows, row_axis, axes)
    n = len(made.values)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    left = filter_frames(made, kept)
    flags = iter(kept.tolist())
    assert rows_of_frames(left) == [[s for s in row if next(flags)] for row in rows]
    for s, axis in enumerate(made.row_axis):
        if len(rows[s]) and kept[made.row_offsets[s] : made.row_offsets[s + 1]].all():
            assert left.row_axis[s] == axis, "rows that lose nothing share their axes on"


@settings(max_examples=100, deadline=None)
@given(batch=batches(NUMBERS), mint=st.integers(-40_000, 40_000))
def test_trimmed_frames_begin_at_a_time(batch, mint):
    rows, row_axis, axes = batch
    left = trim_frames(as_batch(rows, row_axis, axes), mint)
    assert rows_of_frames(left) == [[s for s in row if s[0] >= mint] for row in rows]
    assert left.row_axis.tolist() == row_axis


def test_start_timestamps_are_filtered_beside_their_values():
    batch = as_batch([[(1, 5.0), (2, 6.0), (3, 7.0)]], [0], [[1, 2, 3]])
    samples = Samples(batch, np.array([10, 0, 30]))
    left = samples.filtered(np.array([True, False, True]))
    assert left.start_ms.tolist() == [10, 30]
    assert left.batch.t_ms[left.places()].tolist() == [1, 3]
