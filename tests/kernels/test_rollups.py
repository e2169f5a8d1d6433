"""Window kernels against plain Python, over ragged batches with shared and own axes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import rangewindows as reference
from tsengine.kernels import counters, rollups, sliding_quantiles, trends, windows
from tsengine.model.frame import FrameBatch

SPECIALS = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e18, 11.25, 5e-324]
STALE = np.array([0x7FF0000000000002], np.uint64).view(np.float64)[0]


@st.composite
def batches(draw, values=None):
    """Axes, and rows on them in any order."""
    if values is None:
        values = st.one_of(
            st.sampled_from(SPECIALS),
            st.floats(-1000, 1000),
            st.integers(0, 20).map(float),
        )
    n_axes = draw(st.integers(1, 3))
    axes = [sorted(draw(st.sets(st.integers(-300, 300), max_size=40))) for _ in range(n_axes)]
    if draw(st.booleans()):
        axes[0] = list(range(-300, 300, draw(st.integers(5, 25))))
    rows = draw(st.lists(st.integers(0, n_axes - 1), max_size=4))
    return (
        [[(t * 100, draw(values)) for t in axes[a]] for a in rows],
        rows,
        [[t * 100 for t in axis] for axis in axes],
    )


@st.composite
def grids(draw):
    start = draw(st.integers(-350, 300)) * 100
    step = draw(st.integers(1, 80)) * 100
    n_steps = draw(st.integers(1, 12))
    ends = [start + k * step for k in range(n_steps)]
    if draw(st.booleans()):
        ends = [start] * n_steps  # what @ makes
    return ends, draw(st.one_of(st.integers(1, 700), st.integers(100, 100000)))


def as_batch(rows, row_axis, axes):
    return FrameBatch(
        t_ms=np.array([t for axis in axes for t in axis], np.int64),
        axis_offsets=np.cumsum([0] + [len(a) for a in axes]).astype(np.int64),
        row_axis=np.array(row_axis, np.int64),
        values=np.array([v for row in rows for _, v in row], np.float64),
        row_offsets=np.cumsum([0] + [len(r) for r in rows]).astype(np.int64),
    )


def run(kernel, first, batch, ends_ms, range_ms):
    n_rows, n_steps = batch.n_rows, len(ends_ms)
    out = np.full((n_rows, n_steps), 777.0)
    valid = np.empty((n_rows, n_steps), np.bool_)
    n_present = np.empty(n_rows, np.int64)
    order = np.argsort(batch.row_axis, kind="stable")
    status = kernel(
        *first, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
        batch.row_offsets, np.array(ends_ms, np.int64), range_ms, out, valid, n_present,
    )  # fmt: skip
    assert status == 0
    np.testing.assert_array_equal(n_present, valid.sum(axis=1))
    return out, valid


def compare(made, rows, ends_ms, range_ms, function, rtol=1e-9, atol=0.0):
    out, valid = made
    for s, row in enumerate(rows):
        wanted = reference.rolled(row, ends_ms, range_ms, function)
        assert [w is not None for w in wanted] == valid[s].tolist()
        numbers = np.array([0.0 if w is None else w for w in wanted])
        got = np.where(valid[s], out[s], 0.0)
        np.testing.assert_allclose(got, numbers, rtol=rtol, atol=atol)


SIMPLE = [
    (counters.extrapolate, counters.RATE, partial(reference.extrapolate, "rate")),
    (counters.extrapolate, counters.INCREASE, partial(reference.extrapolate, "increase")),
    (counters.extrapolate, counters.DELTA, partial(reference.extrapolate, "delta")),
    (counters.last_difference, counters.IRATE, partial(reference.last_difference, "irate")),
    (counters.last_difference, counters.IDELTA, partial(reference.last_difference, "idelta")),
    (rollups.pick_samples, rollups.COUNT, partial(reference.pick_samples, "count")),
    (rollups.pick_samples, rollups.PRESENT, partial(reference.pick_samples, "present")),
    (rollups.pick_samples, rollups.FIRST, partial(reference.pick_samples, "first")),
    (rollups.pick_samples, rollups.LAST, partial(reference.pick_samples, "last")),
    (rollups.pick_samples, rollups.TS_OF_FIRST, partial(reference.pick_samples, "ts_of_first")),
    (rollups.pick_samples, rollups.TS_OF_LAST, partial(reference.pick_samples, "ts_of_last")),
    (rollups.sum_windows, rollups.SUM, partial(reference.sum_windows, "sum")),
    (rollups.sum_windows, rollups.AVG, partial(reference.sum_windows, "avg")),
    (rollups.sum_windows, rollups.STDDEV, partial(reference.sum_windows, "stddev")),
    (rollups.sum_windows, rollups.STDVAR, partial(reference.sum_windows, "stdvar")),
    (rollups.extreme_windows, rollups.MIN, partial(reference.extreme_windows, "min")),
    (rollups.extreme_windows, rollups.MAX, partial(reference.extreme_windows, "max")),
    (rollups.extreme_windows, rollups.TS_OF_MIN, partial(reference.extreme_windows, "ts_of_min")),
    (rollups.extreme_windows, rollups.TS_OF_MAX, partial(reference.extreme_windows, "ts_of_max")),
]


@pytest.mark.parametrize(("kernel", "op", "function"), SIMPLE)
@settings(max_examples=60, deadline=None)
@given(batch=batches(), grid=grids())
def test_simple_functions_match_reference(kernel, op, function, batch, grid):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    with np.errstate(all="ignore"):
        made = run(kernel, (op,), as_batch(rows, row_axis, axes), ends_ms, range_ms)
        compare(made, rows, ends_ms, range_ms, function)


@settings(max_examples=100, deadline=None)
@given(batches(st.sampled_from([*SPECIALS, STALE])), grids(), st.booleans())
def test_select_latest_matches_reference(batch, grid, want_time):
    rows, row_axis, axes = batch
    ends_ms, lookback_ms = grid
    op = windows.TIME_S if want_time else windows.VALUE
    out, valid = run(
        windows.select_latest, (op,), as_batch(rows, row_axis, axes), ends_ms, lookback_ms
    )
    for s, row in enumerate(rows):
        wanted = [
            reference.select_latest(row, end, lookback_ms, want_time=want_time) for end in ends_ms
        ]
        assert [w is not None for w in wanted] == valid[s].tolist()
        numbers = np.array([w for w in wanted if w is not None], np.float64)
        np.testing.assert_array_equal(out[s][valid[s]].view(np.uint64), numbers.view(np.uint64))


@settings(max_examples=100, deadline=None)
@given(batches(), grids(), st.sampled_from([0.0, 0.25, 0.5, 0.99, 1.0, -1.0, 2.0, np.nan]))
def test_quantiles_match_reference(batch, grid, q):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    frames = as_batch(rows, row_axis, axes)
    qs = np.full(len(ends_ms), q)
    with np.errstate(all="ignore"):
        for op, name in ((sliding_quantiles.QUANTILE, "quantile"), (sliding_quantiles.MAD, "mad")):
            made = run(sliding_quantiles.quantile_windows, (op, qs), frames, ends_ms, range_ms)
            function = partial(reference.quantile_windows, name, q=q)
            compare(made, rows, ends_ms, range_ms, function)


@settings(max_examples=100, deadline=None)
@given(
    batches(st.one_of(st.floats(-1000, 1000), st.sampled_from([np.nan, np.inf, 7.0]))),
    grids(),
    st.sampled_from([0.0, 60.0, -5.0, np.nan, np.inf]),
)
def test_lines_match_reference(batch, grid, ahead_s):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    frames = as_batch(rows, row_axis, axes)
    ahead = np.full(len(ends_ms), ahead_s)
    origins = np.full(len(ends_ms), 4321, np.int64)
    with np.errstate(all="ignore"):
        for op, name in ((trends.DERIV, "deriv"), (trends.PREDICT, "predict")):
            made = run(trends.fit_lines, (op, ahead, origins), frames, ends_ms, range_ms)
            function = partial(reference.fit_lines, name, ahead_s=ahead_s, origin_ms=4321)
            compare(made, rows, ends_ms, range_ms, function)


@settings(max_examples=60, deadline=None)
@given(batches(), grids(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_smoothing_matches_reference(batch, grid, level, trend):
    rows, row_axis, axes = batch
    ends_ms, range_ms = grid
    factors = (np.full(len(ends_ms), level), np.full(len(ends_ms), trend))
    with np.errstate(all="ignore"):
        made = run(
            trends.smooth_windows, factors, as_batch(rows, row_axis, axes), ends_ms, range_ms
        )
        function = partial(reference.smooth_windows, level_factor=level, trend_factor=trend)
        compare(made, rows, ends_ms, range_ms, function)


def one_row(values, step_ms=1000):
    rows = [[(k * step_ms, float(v)) for k, v in enumerate(values)]]
    return rows, as_batch(rows, [0], [[t for t, _ in rows[0]]])


@pytest.mark.parametrize("op", ["rate", "increase"])
def test_a_huge_value_spoils_no_later_window(op):
    values = [0.0, 1e18, 0.0, *range(5, 60)]
    rows, batch = one_row(values)
    ends = [k * 1000 for k in range(60)]
    code = {"rate": counters.RATE, "increase": counters.INCREASE}[op]
    made = run(counters.extrapolate, (code,), batch, ends, 10_000)
    compare(made, rows, ends, 10_000, partial(reference.extrapolate, op), rtol=1e-15)


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e18, np.inf])
def test_many_resets_are_as_exact_by_prefix_sums(scale):
    rng = np.random.default_rng(7)
    values = rng.random(2000)
    values[3] *= scale
    rows, batch = one_row(values)
    ends = list(range(0, 2_000_000, 50_000))
    with np.errstate(all="ignore"):
        made = run(counters.extrapolate, (counters.INCREASE,), batch, ends, 500_000)
        compare(made, rows, ends, 500_000, partial(reference.extrapolate, "increase"), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e9, 1e18, 1e300, np.inf, np.nan])
@pytest.mark.parametrize("name", ["sum", "avg"])
def test_long_sums_are_as_exact_by_prefix_sums(name, scale):
    rng = np.random.default_rng(8)
    values = rng.normal(0, 1, 1000)
    values[3] *= scale
    values[500:600] = 0
    rows, batch = one_row(values)
    ends = list(range(0, 1_000_000, 5_000))
    op = {"sum": rollups.SUM, "avg": rollups.AVG}[name]
    with np.errstate(all="ignore"):
        made = run(rollups.sum_windows, (op,), batch, ends, 90_000)
        function = partial(reference.sum_windows, name)
        compare(made, rows, ends, 90_000, function, rtol=1e-12)


def test_bounds_at_the_ends_of_time():
    far = 1 << 61
    rows = [[(-far, 1.0), (0, 2.0), (far, 3.0)]]
    batch = as_batch(rows, [0], [[-far, 0, far]])
    out, valid = run(rollups.pick_samples, (rollups.COUNT,), batch, [-far, 0, far], far)
    assert valid.all()
    np.testing.assert_array_equal(out, [[1, 1, 1]])


def exact_extreme(inside, name):
    """Value or time in ms of the extreme, by comparing one after the other."""
    best = None
    for t, v in inside:
        if np.isnan(v):
            continue
        is_better = best is None or (v > best[1] if "max" in name else v < best[1])
        if is_better or (name.startswith("ts") and v == best[1]):
            best = (t, v)
    best = inside[-1] if best is None else best
    return best[0] / 1000 if name.startswith("ts") else best[1]


EXTREMES = {
    "min": rollups.MIN, "max": rollups.MAX, "ts_of_min": rollups.TS_OF_MIN,
    "ts_of_max": rollups.TS_OF_MAX,
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf]), max_size=60),
    st.integers(1, 20),
    st.integers(1, 30),
)
def test_extremes_are_exact_to_the_bit(name, values, step, range_):
    rows, batch = one_row(values)
    ends = list(range(0, 70_000, step * 1000))
    out, valid = run(rollups.extreme_windows, (EXTREMES[name],), batch, ends, range_ * 1000)
    for t, end in enumerate(ends):
        inside = [(at, v) for at, v in rows[0] if end - range_ * 1000 < at <= end]
        assert valid[0, t] == bool(inside)
        if inside:
            wanted = np.array(exact_extreme(inside, name))
            got = out[0, t : t + 1]
            assert (
                got.view(np.uint64)[0] == wanted.view(np.uint64) or np.isnan([got[0], wanted]).all()
            )


def exact_rate(inside, end_ms, range_ms, *, per_second):
    """Prometheus's extrapolatedRate of a counter without resets, operation by operation."""
    (first_ms, first), (last_ms, last) = inside[0], inside[-1]
    covered = (last_ms - first_ms) / 1000
    gap = covered / (len(inside) - 1)
    head, tail = (first_ms - (end_ms - range_ms)) / 1000, (end_ms - last_ms) / 1000
    head = head if head < gap * 1.1 else gap / 2
    tail = tail if tail < gap * 1.1 else gap / 2
    increase = last - first
    if increase > 0 and first >= 0:
        head = min(head, covered * (first / increase))
    factor = (covered + head + tail) / covered
    return increase * (factor / (range_ms / 1000) if per_second else factor)


@pytest.mark.parametrize("unit", [5e-324, 1e-300, 1e-9, 1.0, 1e15])
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 300), st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(2, 9),
    st.booleans(),
)  # fmt: skip
def test_counters_that_begin_near_zero_are_exact_to_the_bit(unit, start, steps, range_, per_second):
    values = (start + np.cumsum(steps)) * unit
    rows, batch = one_row(values)
    ends = list(range(0, 45_000, 700))
    op = counters.RATE if per_second else counters.INCREASE
    out, valid = run(counters.extrapolate, (op,), batch, ends, range_ * 1000)
    for t, end in enumerate(ends):
        inside = [(at, v) for at, v in rows[0] if end - range_ * 1000 < at <= end]
        assert valid[0, t] == (len(inside) > 1)
        if len(inside) > 1:
            assert out[0, t] == exact_rate(inside, end, range_ * 1000, per_second=per_second)


@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0), (0.0, 1.0, -0.0), (-0.0, -0.0, 0.0)])
@pytest.mark.parametrize("grows", [False, True])
def test_the_zero_that_leaves_a_sorted_window_is_the_one_that_left(zeros, grows):
    """They are equal, but not the same: what stays is seen in the answer."""
    values = [*zeros, *zeros[::-1], *zeros]
    times = list(range(1, len(values) + 1))
    rows = as_batch([[(t, v) for t, v in zip(times, values, strict=True)]], [0], [times])
    first = 2 if grows else len(zeros)
    ends_ms = list(range(first, len(values) + len(zeros)))
    out, valid = run(
        sliding_quantiles.quantile_windows,
        (sliding_quantiles.QUANTILE, np.zeros(len(ends_ms))), rows, ends_ms, len(zeros),
    )  # fmt: skip
    assert valid.all()
    n_checked = 0
    for end, found in zip(ends_ms, out[0].tolist(), strict=True):
        window = [v for t, v in zip(times, values, strict=True) if end - len(zeros) < t <= end]
        # With zeros of both signs it depends on how they were sorted.
        if len({np.copysign(1.0, v) for v in window if v == 0.0}) == 1:
            assert str(found) == str(reference.quantile(0.0, window))
            n_checked += 1
    assert n_checked
