"""Kernels over windows of tiers against plain Python, and against the kernels of samples."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import rangewindows as of_samples
from tests.reference import windowrollups as reference
from tests.reference.windowtiers import STALE, bits_of, sum_up_samples
from tsengine.kernels import windowrollups as kernels

WIDTH = 1000
COLUMNS = {
    kernels.add_windows: ("count", "sum"),
    kernels.extrapolate_windows: ("count", "first", "last", "first_t", "last_t", "resets"),
    kernels.latest_of_windows: ("count", "last", "last_t", "stale"),
}
SPECIALS = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e18, 11.25, 1e-300]
CASES = [
    (kernels.add_windows, kernels.SUM, partial(reference.add_windows, "sum")),
    (kernels.add_windows, kernels.AVG, partial(reference.add_windows, "avg")),
    (kernels.extrapolate_windows, kernels.RATE, partial(reference.extrapolate_windows, "rate")),
    (
        kernels.extrapolate_windows,
        kernels.INCREASE,
        partial(reference.extrapolate_windows, "increase"),
    ),
    (kernels.extrapolate_windows, kernels.DELTA, partial(reference.extrapolate_windows, "delta")),
    (
        kernels.latest_of_windows,
        kernels.VALUE,
        partial(reference.latest_of_windows, want_time=False),
    ),
    (
        kernels.latest_of_windows,
        kernels.TIME_S,
        partial(reference.latest_of_windows, want_time=True),
    ),
]


@st.composite
def rows_of_samples(draw, values):
    """Rows of (t_ms, value), some at the same times; a value may be a staleness marker."""
    times = [sorted(draw(st.sets(st.integers(-80, 80), max_size=40))) for _ in range(2)]
    if draw(st.booleans()):
        times[0] = list(range(-80, 80, draw(st.integers(1, 6))))
    rows = []
    for axis in draw(st.lists(st.integers(0, 1), max_size=4)):
        rows.append([(t * 150, draw(values)) for t in times[axis]])
    return rows


def samples_with(values):
    return rows_of_samples(st.one_of(values, values, values, st.just(None)))


@st.composite
def grids(draw):
    start, step = draw(st.integers(-14, 14)), draw(st.integers(0, 6))
    ends = [(start + k * step) * WIDTH for k in range(draw(st.integers(1, 12)))]
    return ends, draw(st.integers(1, 12)) * WIDTH


def to_windows(row):
    return sum_up_samples([(t, STALE if v is None else bits_of(v)) for t, v in row], WIDTH)


def run(kernel, op, rows, ends_ms, range_ms):
    """Rows of windows with equal ends share an axis."""
    ends = [tuple(w["end"] for w in row) for row in rows]
    axes = sorted(set(ends))
    columns = [
        np.array([w[name] for row in rows for w in row], np.int64 if "_t" in name else np.float64)
        for name in COLUMNS[kernel]
    ]
    row_axis = np.array([axes.index(e) for e in ends], np.int64)
    out = np.full((len(rows), len(ends_ms)), 777.0)
    valid, n_present = np.empty(out.shape, np.bool_), np.empty(len(rows), np.int64)
    status = kernel(
        op, np.array([e for axis in axes for e in axis], np.int64),
        np.cumsum([0] + [len(axis) for axis in axes]).astype(np.int64), row_axis,
        np.argsort(row_axis, kind="stable"), *columns,
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        np.array(ends_ms, np.int64), range_ms, out, valid, n_present,
    )  # fmt: skip
    assert status == 0
    np.testing.assert_array_equal(n_present, valid.sum(axis=1))
    return out, valid


def compare(made, rows, ends_ms, range_ms, function, rtol=1e-9, atol=0.0):
    out, valid = made
    for s, row in enumerate(rows):
        wanted = [function(row, end, range_ms) for end in ends_ms]
        assert [w is not None for w in wanted] == valid[s].tolist()
        numbers = np.array([0.0 if w is None else w for w in wanted])
        np.testing.assert_allclose(np.where(valid[s], out[s], 0.0), numbers, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("kernel", "op", "function"), CASES)
@settings(max_examples=50, deadline=None)
@given(
    samples=samples_with(st.one_of(st.sampled_from(SPECIALS), st.integers(0, 20).map(float))),
    grid=grids(),
)
def test_kernels_match_their_twins(kernel, op, function, samples, grid):
    rows = [to_windows(row) for row in samples]
    with np.errstate(all="ignore"):
        compare(run(kernel, op, rows, *grid), rows, *grid, function)


def from_samples(name, op):
    function = getattr(of_samples, name)

    def compute(row, end_ms, range_ms):
        inside = of_samples.window([s for s in row if s[1] is not None], end_ms, range_ms)
        return function(op, inside, end_ms, range_ms)

    return compute


@pytest.mark.parametrize(
    ("kernel", "op", "function"),
    [
        (kernels.add_windows, kernels.SUM, from_samples("sum_windows", "sum")),
        (kernels.add_windows, kernels.AVG, from_samples("sum_windows", "avg")),
        (kernels.extrapolate_windows, kernels.RATE, from_samples("extrapolate", "rate")),
        (kernels.extrapolate_windows, kernels.INCREASE, from_samples("extrapolate", "increase")),
        (kernels.extrapolate_windows, kernels.DELTA, from_samples("extrapolate", "delta")),
    ],
)
@settings(max_examples=50, deadline=None)
@given(samples=samples_with(st.integers(0, 1000).map(lambda n: n / 4)), grid=grids())
def test_windows_tell_what_samples_tell(kernel, op, function, samples, grid):
    made = run(kernel, op, [to_windows(row) for row in samples], *grid)
    compare(made, samples, *grid, function, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(samples=samples_with(st.sampled_from(SPECIALS)), grid=grids(), cut=st.integers(0, WIDTH))
def test_the_newest_of_windows_is_the_newest_sample(samples, grid, cut):
    ends_ms, lookback_ms = grid[0], grid[1] + cut  # the lookback need not be a multiple
    stale = np.array([STALE], np.uint64).view(np.float64)[0]
    rows = [[(t, stale if v is None else v) for t, v in row] for row in samples]
    made = run(
        kernels.latest_of_windows, kernels.VALUE, [to_windows(row) for row in samples], ends_ms,
        lookback_ms,
    )  # fmt: skip
    compare(made, rows, ends_ms, lookback_ms, partial(of_samples.select_latest, want_time=False))


def test_ranges_that_share_many_windows():
    """Prefix sums, and where one window outweighs all others by far."""
    rng = np.random.default_rng(3)
    values = rng.normal(10, 3, 3000)
    values[1500] = 1e30
    counter = np.cumsum(rng.integers(0, 9, 3000)) % 400.0
    ends, range_ms = [k * WIDTH for k in range(400)], 90 * WIDTH
    for numbers, kernel, op, function in (
        (values, kernels.add_windows, kernels.AVG, from_samples("sum_windows", "avg")),
        (counter, kernels.extrapolate_windows, kernels.RATE, from_samples("extrapolate", "rate")),
    ):
        row = [(k * 150 - 9000, float(v)) for k, v in enumerate(numbers)]
        made = run(kernel, op, [to_windows(row)], ends, range_ms)
        compare(made, [row], ends, range_ms, function)


def test_losses_that_differences_of_sums_would_swallow():
    row = []
    for k in range(400):
        row += [(k * 1000 + 300, 5.0), (k * 1000 + 600, 1.0)]
    row[10] = (row[10][0], 1e25)
    ends, range_ms = [k * WIDTH for k in range(60, 400)], 60 * WIDTH
    made = run(kernels.extrapolate_windows, kernels.INCREASE, [to_windows(row)], ends, range_ms)
    compare(made, [row], ends, range_ms, from_samples("extrapolate", "increase"))
