"""Answers from windows of tiers against answers from samples, over a source that has both."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.promql.histogram_notation import columns
from tests.query.test_engine import make_engine
from tests.query.test_native_queries import HISTOGRAMS
from tests.reference.memory_source import STALE, MemorySource
from tsengine.errors import QueryError
from tsengine.model.histograms import CUSTOM_SCHEMA
from tsengine.options import TYPE_AND_UNIT_LABELS, Options
from tsengine.promql.functions import ALL_ON, USE_START_TIMESTAMPS
from tsengine.query.engine import Engine
from tsengine.query.explain import explain

SOME = settings(max_examples=40, deadline=None)
MINUTE = 60_000
HOUR = 60 * MINUTE
WIDTHS = (MINUTE, 5 * MINUTE)
NO_STARTS = ALL_ON - {USE_START_TIMESTAMPS, TYPE_AND_UNIT_LABELS}

RANGES = (
    "avg_over_time(m[%s])", "sum_over_time(m[%s])", "min_over_time(m[%s])", "max_over_time(m[%s])",
    "count_over_time(m[%s])", "first_over_time(m[%s])", "last_over_time(m[%s])",
    "present_over_time(m[%s])", "absent_over_time(m[%s])", "ts_of_first_over_time(m[%s])",
    "ts_of_last_over_time(m[%s])", "rate(m[%s])", "increase(m[%s])", "delta(m[%s])",
    "sum by (i) (rate(m[%s]))", "max(avg_over_time(m[%s] offset 5m))", "rate(m[%s] @ 3600)",
    "count(last_over_time(m[%s])) - count(sum_over_time(m[%s]))", "topk(1, increase(m[%s]))",
)  # fmt: skip
NEWEST = (
    "m", "sum by (i) (m)", "timestamp(m)", "m offset 5m", "m @ 3600", "count(m)", "m * 2 + m",
    "max_over_time(m[10m:5m])",
)  # fmt: skip
NEED_SAMPLES = (
    "stddev_over_time(m[%s])", "quantile_over_time(0.5, m[%s])", "irate(m[%s])",
    "changes(m[%s])", "deriv(m[%s])", "rate(m[%s] anchored)", "increase(m[%s] smoothed)",
    "double_exponential_smoothing(m[%s], 0.5, 0.5)", "ts_of_max_over_time(m[%s])",
    "predict_linear(m[%s], 600)", "resets(m[%s])", "stdvar_over_time(m[%s])",
)  # fmt: skip

FLOATS = st.integers(0, 200).map(lambda n: n / 4)
SAMPLES = st.one_of(FLOATS, FLOATS, FLOATS, FLOATS, st.sampled_from([STALE, np.nan]))
GRIDS = st.tuples(st.integers(0, 30), st.integers(1, 6), st.integers(0, 12))
"""First step, step, number of steps after it, in widths of the coarsest tier."""


@st.composite
def series(draw, values=SAMPLES):
    """Samples of up to four series: times in seconds, values."""
    times = sorted(draw(st.sets(st.integers(0, 4 * 3600), max_size=60)))
    every = list(range(draw(st.integers(0, 60)), 4 * 3600, draw(st.sampled_from([37, 60, 150]))))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        axis = draw(st.sampled_from([times, every]))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        some = draw(st.lists(values, min_size=1, max_size=12))
        rows.append((axis, [some[k] for k in rng.integers(0, len(some), len(axis))]))
    return rows


def sources(rows, *, share_axes=True, floors=None, widths=WIDTHS):
    """The same series without and with tiers."""
    made = []
    for tiers in ((), widths):
        source = MemorySource(share_axes=share_axes, tiers=tiers, floors=floors if tiers else None)
        for k, (times, values) in enumerate(rows):
            labels = {"__name__": "m", "i": str(k % 2), "k": str(k)}
            source.append(labels, [t * 1000 for t in times], values)
        made.append(source)
    return made


def engine(source, **options):
    return Engine(source, Options(query_threads=1, features=NO_STARTS, **options))


def answer(source, expr, grid):
    """The answer as dicts of steps to values by labels; the result too."""
    result = engine(source).query_range(expr, *grid)
    present = np.ones(result.values.shape, bool) if result.valid is None else result.valid
    rows = {}
    for s, labels in enumerate(result.labels):
        steps = np.flatnonzero(present[s])
        rows[tuple(sorted(labels.items()))] = dict(
            zip(steps.tolist(), result.values[s, steps], strict=True)
        )
    return rows, result


def assert_same(got, want):
    assert got.keys() == want.keys()
    for labels, cells in want.items():
        assert got[labels].keys() == cells.keys(), labels
        for step, value in cells.items():
            np.testing.assert_allclose(
                got[labels][step], value, rtol=1e-9, atol=1e-9, err_msg=f"{labels} {step}"
            )


def grid_of(numbers, width=WIDTHS[-1]):
    first, step, n = numbers
    return first * width, (first + step * n) * width, step * width


@SOME
@given(
    rows=series(), expr=st.sampled_from(RANGES), range_text=st.sampled_from(["5m", "10m", "1h"]),
    numbers=GRIDS, share_axes=st.booleans(),
)  # fmt: skip
def test_ranges_of_whole_windows_are_exact(rows, expr, range_text, numbers, share_axes):
    plain, tiered = sources(rows, share_axes=share_axes)
    expr, grid = expr.replace("%s", range_text), grid_of(numbers)
    got, result = answer(tiered, expr, grid)
    want, _ = answer(plain, expr, grid)
    assert_same(got, want)
    assert {width for width, _, _ in tiered.windows_read} == {5 * MINUTE}
    assert result.stats.tiers == ("300000ms",)
    assert not [info for info in result.infos if "windows" in info]


@SOME
@given(
    rows=series(), expr=st.sampled_from(NEWEST), numbers=GRIDS,
    lookback_ms=st.sampled_from([5 * MINUTE, 7 * MINUTE, 61_001, HOUR]), share_axes=st.booleans(),
)  # fmt: skip
def test_newest_samples_at_ends_of_windows_are_exact(rows, expr, numbers, lookback_ms, share_axes):
    plain, tiered = sources(rows, share_axes=share_axes)
    grid = grid_of(numbers)
    answers = []
    for source in (tiered, plain):
        result = engine(source).query_range(expr, *grid, lookback_ms=lookback_ms)
        present = np.ones(result.values.shape, bool) if result.valid is None else result.valid
        answers.append((result.labels, present.tolist(), np.where(present, result.values, 0)))
    assert answers[0][:2] == answers[1][:2]
    np.testing.assert_allclose(answers[0][2], answers[1][2], rtol=1e-9)
    assert {width for width, _, _ in tiered.windows_read} == {5 * MINUTE}


@SOME
@given(
    rows=series(), expr=st.sampled_from(RANGES + NEED_SAMPLES), numbers=GRIDS,
    shift=st.sampled_from([1000, 30_000, 90_000]),
)  # fmt: skip
def test_samples_answer_what_windows_can_not(rows, expr, numbers, shift):
    plain, tiered = sources(rows)
    for range_text, moved in (("90s", 0), ("5m", shift)):
        first, last, step = grid_of(numbers)
        grid = (first + moved, last + moved, step)
        if "@" in expr and moved:
            continue
        text = expr.replace("%s", range_text)
        got, result = answer(tiered, text, grid)
        want, plain_result = answer(plain, text, grid)
        assert_same(got, want)
        assert result.infos == plain_result.infos
        assert result.stats.tiers == ("raw",)
    assert tiered.windows_read == []


@SOME
@given(rows=series(), expr=st.sampled_from(NEED_SAMPLES), numbers=GRIDS)
def test_other_functions_read_samples(rows, expr, numbers):
    plain, tiered = sources(rows)
    text, grid = expr.replace("%s", "10m"), grid_of(numbers)
    assert_same(answer(tiered, text, grid)[0], answer(plain, text, grid)[0])
    assert tiered.windows_read == []


def test_the_finest_width_that_fits_is_taken_where_the_coarsest_does_not():
    plain, tiered = sources([(range(0, 7200, 15), range(480))])
    for expr, step in (("rate(m[7m])", 5), ("rate(m[5m])", 3), ("m", 2)):
        grid = (30 * MINUTE, 60 * MINUTE, step * MINUTE)
        got, result = answer(tiered, expr, grid)
        assert_same(got, answer(plain, expr, grid)[0])
        assert result.stats.tiers == ("60000ms",)


# --- where samples are gone ---------------------------------------------------------------------

STEADY = [(range(15, 6 * 3600 + 1, 15), np.arange(1, 6 * 240 + 1) * 3.0)]
GONE = {0: 4 * HOUR}


@SOME
@given(
    rows=series(), expr=st.sampled_from(RANGES), numbers=GRIDS,
    floors=st.sampled_from([{0: 2 * HOUR}, {0: 3 * HOUR, MINUTE: HOUR}]),
)  # fmt: skip
def test_aligned_ranges_stay_exact_where_samples_are_gone(rows, expr, numbers, floors):
    plain, tiered = sources(rows, floors=floors)
    text, grid = expr.replace("%s", "10m"), grid_of(numbers)
    got, result = answer(tiered, text, grid)
    assert_same(got, answer(plain, text, grid)[0])
    assert not [info for info in result.infos if "windows" in info]


def test_one_query_reads_all_there_is():
    floors = {0: 4 * HOUR, MINUTE: 2 * HOUR}
    plain, tiered = sources(STEADY, floors=floors)
    # Steps are not those of the coarse windows: finer ones from two hours on, samples from four.
    grid = (30_000, 6 * HOUR - 30_000, MINUTE)
    got, result = answer(tiered, "count_over_time(m[1m])", grid)
    want, _ = answer(plain, "count_over_time(m[1m])", grid)
    assert result.stats.tiers == ("300000ms", "60000ms", "raw")
    (got,), (want,) = got.values(), want.values()
    from_samples = [step for step in want if step * MINUTE - 30_000 >= 4 * HOUR]
    assert [got[step] for step in from_samples] == [want[step] for step in from_samples]
    assert {got[step] for step in got if step > 5} == {4.0}  # scaled back from rounded ranges
    assert result.infos == [
        "PromQL info: answered from 1m and 5m windows, not exact: samples before "
        "1970-01-01T04:00:00Z are downsampled (1:17)"
    ]


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("rate(m[90s])", 0.2), ("increase(m[90s])", 18.0), ("delta(m[90s])", 18.0),
        ("count_over_time(m[90s])", 6.0), ("sum(increase(m[90s]))", 18.0),
        ("present_over_time(m[90s])", 1.0), ("count_over_time(m[10s])", 4 / 6),
    ],
)  # fmt: skip
def test_rounded_ranges_are_scaled_back(expr, value):
    _, tiered = sources(STEADY, floors=GONE)
    result = engine(tiered).query(expr, 2 * HOUR + 10_000)
    np.testing.assert_allclose(result.values, [[value]], rtol=1e-9)
    (info,) = [info for info in result.infos if "windows" in info]
    place = expr.index("m[") + 1
    assert info == (
        "PromQL info: answered from 1m windows, not exact: samples before 1970-01-01T04:00:00Z "
        f"are downsampled (1:{place})"
    )


def test_inexact_answers_of_values_are_those_of_the_windows():
    _, tiered = sources(STEADY, floors=GONE)
    at = 2 * HOUR + 10_000  # in the window of the samples 481 to 484
    for expr, value in (
        ("avg_over_time(m[30s])", 3 * np.mean(range(477, 485))),
        ("min_over_time(m[30s])", 3 * 477),
        ("max_over_time(m[30s])", 3 * 484),
        ("last_over_time(m[5s])", 3 * 484),
        ("first_over_time(m[5s])", 3 * 481),
    ):
        result = engine(tiered).query(expr, at)
        np.testing.assert_allclose(result.values, [[value]], rtol=1e-9, err_msg=expr)
        assert len(result.infos) == 1
        assert result.stats.tiers == ("60000ms",)


def test_instant_selectors_read_the_last_of_windows():
    _, tiered = sources(STEADY, floors=GONE, widths=(10 * MINUTE,))
    # The lookback is shorter than the windows.
    result = engine(tiered).query("m", 2 * HOUR + 9 * MINUTE)
    assert result.values.tolist() == [[480 * 3.0]]
    assert len(result.infos) == 1
    exact = engine(tiered).query("m", 2 * HOUR)
    assert exact.values.tolist() == [[480 * 3.0]]
    assert exact.infos == []
    assert exact.stats.tiers == ("600000ms",)


def test_a_stale_series_ends_with_its_window():
    rows = [([60, 120, 200], [1.0, 2.0, STALE])]
    _, tiered = sources(rows, floors=GONE)
    instants = {
        seconds: engine(tiered).query("m", seconds * 1000).values.tolist()
        for seconds in (130, 180, 230, 240, 245)
    }
    assert instants == {130: [[2.0]], 180: [[2.0]], 230: [[2.0]], 240: [], 245: []}


def test_other_functions_see_one_sample_a_window():
    _, tiered = sources(STEADY, floors=GONE)
    at = 2 * HOUR + 10_000
    result = engine(tiered).query("quantile_over_time(1, m[3m])", at)
    assert result.values.tolist() == [[480 * 3.0]]
    assert len(result.infos) == 1
    (value,) = engine(tiered).query("irate(m[5s])", at).values
    np.testing.assert_allclose(value, [0.2])  # of the last samples of two windows
    grid = (at, 6 * HOUR, 10 * MINUTE)
    made, result = answer(tiered, "quantile_over_time(0, m[2m])", grid)
    (cells,) = made.values()
    assert len(cells) == 24
    # From the fifth hour on all samples count again.
    assert cells[23] == 3.0 * ((at + 230 * MINUTE - 2 * MINUTE) // 15_000 + 1)
    parameters = "double_exponential_smoothing(m[2m], time() / 1e6, time() / 1e6)"
    np.testing.assert_allclose(
        next(iter(answer(tiered, parameters, grid)[0].values()))[23],
        engine(tiered).query(parameters, at + 230 * MINUTE).values[0, 0],
    )


def test_range_vectors_give_what_is_left():
    _, tiered = sources(STEADY, floors=GONE)
    result = engine(tiered).query("m[2m]", 2 * HOUR)
    assert result.samples.t_ms.tolist() == [2 * HOUR - MINUTE, 2 * HOUR]
    assert len(result.infos) == 1
    result = engine(tiered).query("m[2m]", 5 * HOUR)
    assert len(result.samples.t_ms) == 8
    assert result.infos == []


def test_nothing_is_said_where_nothing_is_found():
    _, tiered = sources([([5 * 3600], [1.0])], floors=GONE)
    for expr in ("rate(m[90s])", "m", "stddev_over_time(m[3m])", "sum(sum_over_time(m[90s]))"):
        result = engine(tiered).query_range(expr, 10_000, 3 * HOUR, 7 * MINUTE)
        assert (result.labels, result.infos) == ([], []), expr


def test_what_is_not_found_because_ranges_are_cut_otherwise_is_said():
    _, tiered = sources([([7210, 7700], [1.0, 2.0])], floors=GONE, widths=(10 * MINUTE,))
    result = engine(tiered).query("m", 7_220_000)
    assert (result.labels, len(result.infos)) == ([], 1), "the first of the window was there"
    rows = [([7190, 7210, 7490], [TABLES[0], TABLES[0], 1.0])]
    _, tiered = sources(rows, floors=GONE, widths=(5 * MINUTE,))
    result = engine(tiered).query("avg_over_time(m[30s])", 7_220_000)
    assert result.labels == []
    assert len([info for info in result.infos if "5m windows" in info]) == 1


def test_windows_look_no_further_back_because_another_is_in_doubt():
    """Lookbacks are shorter than the windows."""
    rows = [([3660, 7140, 10_000], [1.0, 2.0, 4.0])]
    plain, tiered = sources(rows, floors={0: 6 * HOUR}, widths=(HOUR,))
    tiered.doubtful_spans = lambda width, *_: [(HOUR + 1, 2 * HOUR)] if width else []
    grid = (2 * HOUR, 5 * HOUR, HOUR)
    got, result = answer(tiered, "m", grid)
    assert got == answer(plain, "m", grid)[0]
    assert [list(cells) for cells in got.values()] == [[0]]
    assert result.stats.tiers == ("3600000ms",)
    assert len(result.infos) == 1


def test_without_a_tier_that_reaches_further_samples_answer():
    _, tiered = sources(STEADY, floors={0: 4 * HOUR, MINUTE: 5 * HOUR}, widths=(MINUTE,))
    result = engine(tiered).query("sum_over_time(m[30s])", 3 * HOUR + 1)
    assert (result.labels, result.infos, result.stats.tiers) == ([], [], ("raw",))


# --- what it costs and says ---------------------------------------------------------------------


def test_explain_names_what_is_read():
    _, tiered = sources(STEADY, floors={0: 4 * HOUR, MINUTE: 2 * HOUR})
    text = engine(tiered).explain("sum(rate(m[10m])) + sum(m)", 0, 6 * HOUR, 10 * MINUTE)
    assert text.splitlines() == [
        "binary +",
        "  aggregate in slices sum",
        "    rollup rate",
        "      samples of m{} over 600000 ms from 5m windows",
        "  aggregate in slices sum",
        "    latest samples of m{} from 5m windows",
    ]
    text = engine(tiered).explain("rate(m[1m])", 30_000, 6 * HOUR, 30 * MINUTE)
    assert text.splitlines()[1] == (
        "  samples of m{} over 60000 ms from 5m windows (not exact), "
        "1m windows (not exact) from 1970-01-01T02:30:30Z, samples from 1970-01-01T04:30:30Z"
    )
    result = engine(tiered).query("deriv(m[1m]) + deriv(m[1m])", 6 * HOUR)
    assert explain(result.plan, result.choices).count(" from samples") == 2


def test_start_timestamps_are_only_beside_samples():
    _, tiered = sources(STEADY)
    result = make_engine(tiered).query("rate(m[10m])", HOUR)
    assert result.stats.tiers == ("raw",)
    assert make_engine(tiered).query("delta(m[10m])", HOUR).stats.tiers == ("300000ms",)


def test_windows_are_counted():
    _, tiered = sources(STEADY)
    result = engine(tiered).query_range(
        "avg_over_time(m[1h])", 2 * HOUR, 4 * HOUR, HOUR, count_samples=True
    )
    assert result.stats.n_samples_read == 36
    assert result.stats.samples_total_per_step.tolist() == [12, 12, 12]
    assert result.stats.samples_read_per_step.tolist() == [12, 12, 12]
    with pytest.raises(QueryError, match="too many samples"):
        engine(tiered, max_samples=20).query("avg_over_time(m[6h])", 6 * HOUR)


def test_readings_count_at_their_steps():
    _, tiered = sources(STEADY, floors={0: 4 * HOUR})
    grid = (3 * HOUR + 30_000, 5 * HOUR + 30_000, 2 * HOUR)
    result = engine(tiered).query_range("avg_over_time(m[2m])", *grid, count_samples=True)
    assert result.stats.samples_total_per_step.tolist() == [2, 8]
    result = engine(tiered).query_range("m", *grid, count_samples=True)
    assert result.stats.samples_total_per_step.tolist() == [1, 1]


# --- native histograms --------------------------------------------------------------------------

TABLES = [columns([h]) for h in HISTOGRAMS]
OF_HISTOGRAMS = (
    "histogram_count(sum_over_time(m[%s]))", "histogram_sum(avg_over_time(m[%s]))",
    "count_over_time(m[%s])", "histogram_quantile(0.7, last_over_time(m[%s]))",
    "histogram_avg(first_over_time(m[%s]))", "present_over_time(m[%s])", "absent_over_time(m[%s])",
    "min_over_time(m[%s])", "ts_of_last_over_time(m[%s])", "ts_of_first_over_time(m[%s])",
    "histogram_count(m)", "m", "timestamp(m)", "histogram_sum(sum(m))", "avg_over_time(m[%s])",
    "sum(sum_over_time(m[%s]))",
)  # fmt: skip
DIFFERENCES = (
    "histogram_count(rate(m[%s]))", "histogram_sum(increase(m[%s]))", "rate(m[%s])",
    "histogram_quantile(0.5, sum(rate(m[%s])))", "histogram_count(delta(m[%s]))",
)  # fmt: skip


def assert_same_results(tiered, plain, expr, grid):
    got, result = answer(tiered, expr, grid)
    want, plain_result = answer(plain, expr, grid)
    if result.histograms is not None or plain_result.histograms is not None:
        for made in (result, plain_result):
            assert made.histograms is not None
        np.testing.assert_array_equal(result.histograms.schema, plain_result.histograms.schema)
        for column in ("count", "sum", "zero_count"):
            np.testing.assert_allclose(
                getattr(result.histograms, column), getattr(plain_result.histograms, column),
                rtol=1e-9, atol=1e-9,
            )  # fmt: skip
        np.testing.assert_array_equal(result.valid, plain_result.valid)
        return result, plain_result
    assert_same(got, want)
    return result, plain_result


@SOME
@given(
    rows=series(st.one_of(FLOATS, st.sampled_from([*TABLES, STALE]))),
    expr=st.sampled_from(OF_HISTOGRAMS), numbers=GRIDS,
)  # fmt: skip
def test_windows_of_mixed_series(rows, expr, numbers):
    plain, tiered = sources(rows)
    text = expr.replace("%s", "10m")
    result, plain_result = assert_same_results(tiered, plain, text, grid_of(numbers))
    clash = "conflicting counter resets"  # hints of neighbours are not kept
    assert [w for w in result.warnings if clash not in w] == [
        w for w in plain_result.warnings if clash not in w
    ]
    assert tiered.windows_read


def growing(steps):
    """A counter of one layout that is reset now and then."""
    total, made = 0.0, []
    for step in steps:
        total = 1.0 if step is None else total + step
        base = TABLES[0]
        made.append(
            replace(
                base,
                count=np.array([4 * total]),
                sum=np.array([6 * total]),
                counts=base.counts * total,
            )
        )
    return made


def test_histograms_behind_the_end_of_a_rounded_range():
    """The aggregation must not take handles for floats."""
    times = [7100, 7200, 7220]
    rows = [(times, [1.0, 2.0, TABLES[0]]) for _ in range(4)]
    _, tiered = sources(rows, floors=GONE)
    result = engine(tiered).query("sum(last_over_time(m[30s]))", 7_205_000)
    assert result.histograms is not None
    assert result.histograms.count.tolist() == [16.0]


def test_histograms_of_rounded_ranges_are_scaled_back():
    times = list(range(15, 6 * 3600, 15))
    tables = [
        replace(TABLES[0], count=4.0 * n, sum=6.0 * n, counts=TABLES[0].counts * n[0])
        for n in (np.array([float(k + 1)]) for k in range(len(times)))
    ]
    _, tiered = sources([(times, tables)], floors=GONE)
    at = 2 * HOUR + 10_000
    for expr, value in (
        ("histogram_count(increase(m[90s]))", 4 * 6.0),
        ("histogram_sum(rate(m[90s]))", 6 / 15),
        ("histogram_count(sum_over_time(m[30s]))", 4 * np.arange(477, 485).sum() / 4),
        ("count_over_time(m[90s])", 6.0),
        ("sum(histogram_count(increase(m[90s])))", 4 * 6.0),
    ):
        result = engine(tiered).query(expr, at)
        np.testing.assert_allclose(result.values, [[value]], rtol=1e-9, err_msg=expr)
        assert len([info for info in result.infos if "1m windows" in info]) == 1
    # One series has floats beside it in the cells that are scaled.
    labels = {"__name__": "m", "i": "9", "k": "9"}
    tiered.append(labels, [t * 1000 for t in times], [float(k) for k in range(len(times))])
    result = engine(tiered).query("increase(m[90s])", at)
    assert result.histograms.count.tolist() == [4 * 6.0]
    np.testing.assert_allclose(result.values[1], [6.0], rtol=1e-9)


@SOME
@given(
    steps=st.lists(st.one_of(st.integers(1, 9).map(float), st.none()), min_size=20, max_size=90),
    expr=st.sampled_from(DIFFERENCES),
    numbers=st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(0, 8)),
    floats_from=st.sampled_from([10**9, 3000]),
)
def test_increases_of_histogram_counters(steps, expr, numbers, floats_from):
    times = [20 + 45 * k for k in range(len(steps))]
    values = [
        value if t < floats_from else float(t)
        for t, value in zip(times, growing(steps), strict=True)
    ]
    plain, tiered = sources([(times, values)])
    result, plain_result = assert_same_results(
        tiered, plain, expr.replace("%s", "10m"), grid_of(numbers)
    )
    assert result.warnings == plain_result.warnings
    assert tiered.windows_read


def test_a_range_with_buckets_of_another_kind_inside_a_window_has_no_increase():
    other = next(table for table in TABLES if table.schema[0] == CUSTOM_SCHEMA)
    times = [20 + 45 * k for k in range(60)]
    values = [*growing([1.0] * 60)]
    values[24] = other
    assert 15 * 60 < times[23] < times[25] < 20 * 60
    plain, tiered = sources([(times, values)])
    for expr in ("increase(m[10m])", "rate(m[5m])", "delta(m[10m])"):
        grid = (10 * MINUTE, 45 * MINUTE, 5 * MINUTE)
        result, plain_result = assert_same_results(tiered, plain, expr, grid)
        assert result.warnings == plain_result.warnings
        assert len(result.values) == 1
        assert expr.startswith("delta") or any("mix of" in text for text in result.warnings)
    assert tiered.windows_read
