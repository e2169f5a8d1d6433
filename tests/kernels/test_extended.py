"""Kernels of `anchored` and `smoothed` against plain Python, over ragged batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_rollups import as_batch, batches, grids, one_row, run
from tests.reference import rangewindows as reference
from tsengine.kernels import counters, extended

SOME = settings(max_examples=80, deadline=None)
LOOKBACKS = st.one_of(st.integers(1, 500), st.integers(100, 60_000))
OPS = {
    "rate": extended.RATE,
    "increase": extended.INCREASE,
    "delta": extended.DELTA,
    "left": extended.LEFT,
    "right": extended.RIGHT,
}


def compare(made, rows, ends_ms, wanted_at):
    out, valid = made
    for s, row in enumerate(rows):
        wanted = [wanted_at(row, end) for end in ends_ms]
        assert [w is not None for w in wanted] == valid[s].tolist()
        numbers = np.array([0.0 if w is None else w for w in wanted])
        got = np.where(valid[s], out[s], 0.0)
        np.testing.assert_allclose(got, numbers, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("smoothed", [False, True])
@SOME
@given(batch=batches(), grid=grids(), lookback_ms=LOOKBACKS)
def test_difference_of_edges_matches_reference(op, smoothed, batch, grid, lookback_ms):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    modifier = extended.SMOOTHED if smoothed else extended.ANCHORED

    def wanted_at(row, end_ms):
        return reference.difference_of_edges(
            op, row, end_ms, range_ms, lookback_ms, smoothed=smoothed
        )

    first = (OPS[op], modifier, lookback_ms)
    with np.errstate(all="ignore"):
        made = run(
            extended.difference_of_edges, first, as_batch(rows, row_axis, axes), ends_ms, range_ms
        )
        compare(made, rows, ends_ms, wanted_at)


@SOME
@given(batches(), grids())
def test_interpolate_instants_matches_reference(batch, grid):
    rows, row_axis, axes = batch
    ends_ms, lookback_ms = grid
    with np.errstate(all="ignore"):
        made = run(
            extended.interpolate_instants, (), as_batch(rows, row_axis, axes), ends_ms, lookback_ms
        )
        compare(
            made,
            rows,
            ends_ms,
            lambda row, end: reference.interpolate_instants(row, end, lookback_ms),
        )


@pytest.mark.parametrize("op", ["changes", "resets"])
@SOME
@given(batch=batches(), grid=grids(), lookback_ms=st.one_of(st.just(0), LOOKBACKS))
def test_count_steps_matches_reference(op, batch, grid, lookback_ms):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    code = {"changes": counters.CHANGES, "resets": counters.RESETS}[op]

    def wanted_at(row, end_ms):
        inside = reference.anchored_window(row, end_ms, range_ms, lookback_ms)
        return reference.count_steps(op, inside, end_ms, range_ms)

    first = (code, lookback_ms)
    made = run(counters.count_steps, first, as_batch(rows, row_axis, axes), ends_ms, range_ms)
    compare(made, rows, ends_ms, wanted_at)


def test_a_reset_between_the_neighbours_of_an_edge_counts_once():
    # Samples at 0, 20, 40, 60 s: 9 8 5 4; the range is (15 s, 55 s].
    _, batch = one_row([9, 8, 5, 4], step_ms=20_000)
    first = (extended.INCREASE, extended.SMOOTHED, 300_000)
    out, valid = run(extended.difference_of_edges, first, batch, [55_000], 40_000)
    # From 6 (zero to 8 in 15 of 20 s) to 3 (zero to 4), and 8 and 5 were lost on the way.
    assert valid.all()
    np.testing.assert_allclose(out, [[3 - 6 + 8 + 5]])
