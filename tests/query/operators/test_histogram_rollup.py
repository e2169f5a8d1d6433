"""Functions of windows of floats and native histograms against plain Python, sample by sample."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.operators.support import make_context
from tests.reference import histograms as algebra
from tests.reference import histogramwindows as reference
from tests.reference import rangewindows
from tests.reference.histograms import CUSTOM
from tsengine.model.frame import FrameBatch
from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.model.histograms import handles, is_handle, rows_of
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.query.operators import range_notes
from tsengine.query.operators.rollup import window_function
from tsengine.query.operators.select import select_function
from tsengine.query.operators.window_function import Samples, Spans, new_cells
from tsengine.query.plan import SelectPlan, Shift

LOOKBACK_MS = 300_000
NAMES = {
    "mixed": range_notes.MIXED,
    "not a counter": range_notes.NOT_COUNTER,
    "not a gauge": range_notes.NOT_GAUGE,
    "mixed schemas": range_notes.MIXED_SCHEMAS,
    "clash": range_notes.HINTS_CLASH,
    "reconciled": range_notes.AGGREGATION_RECONCILED,
    "subtracted": range_notes.SUBTRACTION_RECONCILED,
    "added": range_notes.ADDITION_RECONCILED,
    "ignored": range_notes.IGNORED,
    "overlap": range_notes.OVERLAP,
}


@st.composite
def layouts(draw):
    """An empty histogram: the layout of some."""
    if draw(st.integers(0, 3)) == 0:
        return NativeHistogram(CUSTOM, custom_bounds=draw(st.sampled_from([(1.0, 2.0), (1.0,)])))
    threshold = draw(st.sampled_from([0.0, 0.0, 0.25, 1.0]))
    return NativeHistogram(draw(st.integers(0, 2)), zero_threshold=threshold)


@st.composite
def observations(draw, layout):
    """A histogram of this layout with small whole counts."""
    low = 0 if layout.schema == CUSTOM else -1
    high = len(layout.custom_bounds) if layout.schema == CUSTOM else 4
    sides = st.dictionaries(st.integers(low, high), st.integers(1, 5).map(float), max_size=3)
    positive = draw(sides)
    negative = {} if layout.schema == CUSTOM else draw(sides)
    if layout.zero_threshold:
        positive = {i: c for i, c in positive.items() if i > 2}
        negative = {i: c for i, c in negative.items() if i > 2}
    zero = 0.0 if layout.schema == CUSTOM else float(draw(st.integers(0, 3)))
    return replace(
        layout,
        count=sum(positive.values()) + sum(negative.values()) + zero,
        sum=float(draw(st.integers(-20, 50))),
        zero_count=zero,
        positive=positive,
        negative=negative,
    )


@st.composite
def series(draw, *, start_times=False):
    """Samples of one series; hints never deny a reset that the values show."""
    kind = draw(st.sampled_from(["histograms", "histograms", "mixed", "floats"]))
    times = sorted(draw(st.sets(st.integers(0, 60), max_size=14)))
    rows, last = [], None
    for t in times:
        start = 0
        if start_times and draw(st.booleans()):
            start = (t + draw(st.integers(-6, 1))) * 10_000 + draw(st.sampled_from([0, 0, 1]))
        if kind == "floats" or (kind == "mixed" and draw(st.integers(0, 3)) == 0):
            rows.append((t * 10_000, float(draw(st.integers(-2, 9))), start))
            continue
        if last is None or draw(st.integers(0, 2)) == 0:
            new = draw(observations(draw(layouts())))
        else:
            more = draw(observations(replace(last, positive={}, negative={}, hint="unknown")))
            new, _ = algebra.sum_histograms([last, more], [1.0, 1.0])
        hints = ["unknown", "unknown", "reset"]
        if draw(st.integers(0, 4)) == 0:
            hints = ["gauge"]
        elif last is not None and not algebra.detect_resets(last, replace(new, hint="unknown")):
            hints.append("not_reset")
        last = replace(new, hint=draw(st.sampled_from(hints)))
        rows.append((t * 10_000, last, start))
    return rows


GRIDS = st.tuples(
    st.integers(-3, 60).map(lambda t: t * 10_000),
    st.integers(1, 15).map(lambda t: t * 10_000 + 1),
    st.integers(1, 8),
    st.sampled_from([10_000, 55_000, 120_000, 605_000]),
)


def as_samples(rows):
    """Rows as a batch, each on an axis of its own or on that of an equal one."""
    axes, row_axis, values, found = [], [], [], []
    for row in rows:
        times = [t for t, _, _ in row]
        if times not in axes:
            axes.append(times)
        row_axis.append(axes.index(times))
        for _, value, _ in row:
            if isinstance(value, NativeHistogram):
                found.append(value)
                value = handles(np.array([len(found) - 1])).view(np.float64)[0]
            values.append(value)
    starts = np.array([s for row in rows for _, _, s in row], np.int64)
    batch = FrameBatch(
        t_ms=np.array([t for axis in axes for t in axis], np.int64),
        axis_offsets=np.cumsum([0] + [len(a) for a in axes]).astype(np.int64),
        row_axis=np.array(row_axis, np.int64),
        values=np.array(values, np.float64),
        row_offsets=np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        histograms=from_list(found) if found else None,
    )
    return Samples(batch, starts if starts.any() else None)


def fill(function, rows, grid):
    """Cells as lists of None, float or histogram, and the names of notes, per row."""
    first_ms, step_ms, n_steps, range_ms = grid
    ends_ms = first_ms + step_ms * np.arange(n_steps)
    ctx = make_context(n_steps)
    ctx.steps_ms = ends_ms
    cells = new_cells(len(rows), n_steps)
    function = function(ctx)
    function.fill(ctx, as_samples(rows), Spans(ends_ms, range_ms), cells)
    np.testing.assert_array_equal(cells.n_present, cells.valid.sum(axis=1))
    made = to_list(ctx.histograms.table()) if len(ctx.histograms) else []
    bits = cells.values.view(np.uint64)
    held, at = is_handle(bits), rows_of(bits)
    return ends_ms.tolist(), [
        (
            [
                None
                if not cells.valid[s, t]
                else made[at[s, t]]
                if held[s, t]
                else float(cells.values[s, t])
                for t in range(n_steps)
            ],
            {name for name, bit in NAMES.items() if cells.notes[s] & bit},
        )
        for s in range(len(rows))
    ]


def compare(function, rows, grid, expected):
    """`expected` gives the cell of a row at an end, and adds to the notes it is given."""
    ends_ms, found = fill(function, rows, grid)
    for row, (cells, names) in zip(rows, found, strict=True):
        notes = set()
        for end_ms, cell in zip(ends_ms, cells, strict=True):
            assert_same(cell, expected(row, end_ms, notes))
        assert names == notes, row


def assert_same(found, wanted):
    assert type(found) is type(wanted), (found, wanted)
    if not isinstance(wanted, NativeHistogram):
        assert found == wanted or found == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)
        return
    for name in ("schema", "zero_threshold", "custom_bounds", "hint"):
        assert getattr(found, name) == getattr(wanted, name), (name, found, wanted)
    for name in ("count", "sum", "zero_count"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), rel=1e-9, abs=1e-9)
    for name in ("positive", "negative"):
        mine, theirs = getattr(found, name), getattr(wanted, name)
        for i in mine.keys() | theirs.keys():
            assert mine.get(i, 0.0) == pytest.approx(theirs.get(i, 0.0), rel=1e-9, abs=1e-9), name


def call(text):
    """The window function of a call, as `fill` takes it."""
    node = parse(text, features=ALL_ON)
    return lambda ctx: window_function(node, ctx, [np.full(ctx.n_steps, 0.5)] * 2)


ROWS = st.lists(series(), min_size=1, max_size=3)
ROWS_WITH_STARTS = st.lists(series(start_times=True), min_size=1, max_size=3)


@pytest.mark.parametrize("op", ["rate", "increase", "delta"])
@settings(max_examples=60, deadline=None)
@given(rows=ROWS_WITH_STARTS, grid=GRIDS)
def test_increases(op, rows, grid):
    def expected(row, end_ms, notes):
        if op == "delta":
            row = [(t, v, 0) for t, v, _ in row]
        return reference.extrapolated(op, row, end_ms, grid[3], notes)

    compare(call(f"{op}(m[1m])"), rows, grid, expected)


@pytest.mark.parametrize("op", ["irate", "idelta"])
@settings(max_examples=60, deadline=None)
@given(rows=ROWS_WITH_STARTS, grid=GRIDS)
def test_last_differences(op, rows, grid):
    def expected(row, end_ms, notes):
        return reference.last_difference(op, reference.inside(row, end_ms, grid[3]), notes)

    compare(call(f"{op}(m[1m])"), rows, grid, expected)


@pytest.mark.parametrize("op", ["sum", "avg"])
@settings(max_examples=60, deadline=None)
@given(rows=ROWS, grid=GRIDS)
def test_sums(op, rows, grid):
    def expected(row, end_ms, notes):
        window = reference.inside(row, end_ms, grid[3])
        return reference.sum_over_time(window, notes, mean=op == "avg")

    compare(call(f"{op}_over_time(m[1m])"), rows, grid, expected)


@pytest.mark.parametrize("op", ["changes", "resets"])
@pytest.mark.parametrize("modifier", ["", " anchored"])
@settings(max_examples=40, deadline=None)
@given(rows=ROWS_WITH_STARTS, grid=GRIDS)
def test_steps(op, modifier, rows, grid):
    def expected(row, end_ms, notes):
        window = reference.inside(row, end_ms, grid[3])
        before = reference.inside(row, end_ms - grid[3], LOOKBACK_MS)
        if modifier and window:
            window = before[-1:] + window
        return reference.count_steps(op, window)

    compare(call(f"{op}(m[1m]{modifier})"), rows, grid, expected)


PICKS = {
    "count_over_time": lambda window: float(len(window)),
    "present_over_time": lambda window: 1.0,
    "first_over_time": lambda window: window[0][1],
    "last_over_time": lambda window: window[-1][1],
    "ts_of_first_over_time": lambda window: window[0][0] / 1000,
    "ts_of_last_over_time": lambda window: window[-1][0] / 1000,
}


@pytest.mark.parametrize("name", PICKS)
@settings(max_examples=30, deadline=None)
@given(rows=ROWS, grid=GRIDS)
def test_picks(name, rows, grid):
    def expected(row, end_ms, notes):
        window = reference.inside(row, end_ms, grid[3])
        return PICKS[name](window) if window else None

    compare(call(f"{name}(m[1m])"), rows, grid, expected)


OF_FLOATS = {
    "min_over_time(m[1m])": lambda w: rangewindows.extreme_windows("min", w, 0, 0),
    "max_over_time(m[1m])": lambda w: rangewindows.extreme_windows("max", w, 0, 0),
    "ts_of_max_over_time(m[1m])": lambda w: rangewindows.extreme_windows("ts_of_max", w, 0, 0),
    "stdvar_over_time(m[1m])": lambda w: rangewindows.sum_windows("stdvar", w, 0, 0),
    "stddev_over_time(m[1m])": lambda w: rangewindows.sum_windows("stddev", w, 0, 0),
    "quantile_over_time(0.5, m[1m])": lambda w: rangewindows.quantile_windows(
        "quantile", w, 0, 0, 0.5
    ),
    "mad_over_time(m[1m])": lambda w: rangewindows.quantile_windows("mad", w, 0, 0, 0.5),
}


@pytest.mark.parametrize("text", OF_FLOATS)
@settings(max_examples=30, deadline=None)
@given(rows=ROWS, grid=GRIDS)
def test_functions_of_floats_ignore_histograms(text, rows, grid):
    def expected(row, end_ms, notes):
        window = reference.inside(row, end_ms, grid[3])
        return reference.of_floats(OF_FLOATS[text], window, notes)

    compare(call(text), rows, grid, expected)


@pytest.mark.parametrize(
    "text", ["deriv(m[1m])", "predict_linear(m[1m], 5)", "double_exponential_smoothing(m[1m],1,1)"]
)
def test_a_line_through_one_float_is_none_but_says_why(text):
    h = NativeHistogram(count=1.0, positive={0: 1.0})
    rows = [[(0, 1.0, 0), (10_000, h, 0)], [(0, 1.0, 0)], [(0, h, 0)]]
    _, found = fill(call(text), rows, (10_000, 1, 1, 60_000))
    assert found == [([None], {"ignored"}), ([None], set()), ([None], set())]


@pytest.mark.parametrize("op", ["rate", "increase", "delta"])
@pytest.mark.parametrize("modifier", ["anchored", "smoothed"])
@settings(max_examples=60, deadline=None)
@given(rows=ROWS, grid=GRIDS)
def test_edges(op, modifier, rows, grid):
    smoothed = modifier == "smoothed"

    def expected(row, end_ms, notes):
        after_ms = LOOKBACK_MS if smoothed else 0
        reach = reference.inside(row, end_ms + after_ms, grid[3] + LOOKBACK_MS + after_ms)
        if all(isinstance(v, float) for _, v, _ in reach):
            floats = [(t, v) for t, v, _ in reach]
            return rangewindows.difference_of_edges(
                op, floats, end_ms, grid[3], LOOKBACK_MS, smoothed=smoothed
            )
        return reference.edges(op, row, end_ms, grid[3], LOOKBACK_MS, notes, smoothed=smoothed)

    compare(call(f"{op}(m[1m] {modifier})"), rows, grid, expected)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, grid=GRIDS)
def test_smoothed_instants(rows, grid):
    plan = SelectPlan(parse("m smoothed", features=ALL_ON), Shift())

    def expected(row, end_ms, notes):
        reach = reference.inside(row, end_ms + grid[3], 2 * grid[3])
        if all(isinstance(v, float) for _, v, _ in reach):
            floats = [(t, v) for t, v, _ in reach]
            return rangewindows.interpolate_instants(floats, end_ms, grid[3])
        return reference.instant(row, end_ms, grid[3], notes)

    compare(lambda ctx: select_function(plan), rows, grid, expected)
