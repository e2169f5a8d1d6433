"""The engine over an in-memory source: selection, ranges, subqueries, names, limits, results."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import rangewindows as reference
from tests.reference.memory_source import STALE, MemorySource
from tsengine.errors import (
    ParseError,
    QueryCanceled,
    QueryError,
    QueryLimitExceeded,
    QueryTimeout,
)
from tsengine.options import Options
from tsengine.promql.functions import ALL_ON
from tsengine.query.engine import TIME_MS_MAX, Engine


def make_engine(source, **options):
    return Engine(source, Options(query_threads=1, features=ALL_ON, **options))


def by_labels(result, column=0):
    """Present values of one step, by label set."""
    present = np.ones(result.values.shape, bool) if result.valid is None else result.valid
    return {
        tuple(sorted(labels.items())): result.values[s, column]
        for s, labels in enumerate(result.labels)
        if present[s, column]
    }


@pytest.fixture
def source():
    made = MemorySource()
    for k in range(4):
        labels = {"__name__": "requests_total", "job": f"j{k % 2}", "instance": str(k)}
        times = range(0, 600_000, 10_000)
        made.append(labels, times, [t / 1000 * (k + 1) for t in times])
    made.append({"__name__": "gauge", "a": "x"}, [0, 60_000, 120_000], [1.0, np.nan, 3.0])
    made.append({"__name__": "ended"}, [0, 10_000], [1.0, STALE])
    return made


# --- selectors ---------------------------------------------------------------------------------


def test_lookback_is_open_on_the_left_and_closed_on_the_right(source):
    engine = make_engine(source)
    assert by_labels(engine.query("gauge", 120_000)) == {(("__name__", "gauge"), ("a", "x")): 3.0}
    assert len(engine.query("gauge", 419_999).labels) == 1
    assert len(engine.query("gauge", 420_000).labels) == 0
    assert len(engine.query("gauge", 420_000, lookback_ms=300_001).labels) == 1


def test_a_stale_marker_ends_a_series_and_nan_does_not(source):
    engine = make_engine(source)
    assert by_labels(engine.query("ended", 9_999)) == {(("__name__", "ended"),): 1.0}
    assert by_labels(engine.query("ended", 10_000)) == {}
    (value,) = by_labels(engine.query("gauge", 60_000)).values()
    assert np.isnan(value)


def test_ranges_skip_stale_markers(source):
    engine = make_engine(source)
    assert list(by_labels(engine.query("count_over_time(ended[1m])", 10_000)).values()) == [1.0]
    samples = engine.query("ended[1m]", 10_000).samples
    assert samples.t_ms.tolist() == [0]


def test_timestamp_of_a_selector_is_the_sample_s_own(source):
    engine = make_engine(source)
    assert by_labels(engine.query("timestamp(gauge)", 100_000)) == {(("a", "x"),): 60.0}
    assert by_labels(engine.query("timestamp(gauge offset 1m)", 100_000)) == {(("a", "x"),): 0.0}
    assert by_labels(engine.query("timestamp(gauge + 0)", 100_000)) == {(("a", "x"),): 100.0}


def test_at_and_offset_combine(source):
    engine = make_engine(source)
    for text in ("gauge @ 130 offset 10s", "gauge offset 10s @ 130"):
        result = engine.query_range(text, 0, 50_000, 10_000)
        np.testing.assert_array_equal(result.values, np.full((1, 6), 3.0))
    result = engine.query_range("gauge @ end() - on (a) gauge @ start()", 0, 120_000, 60_000)
    np.testing.assert_array_equal(result.values, np.full((1, 3), 2.0))


# --- results -----------------------------------------------------------------------------------


def test_types_of_results(source):
    engine = make_engine(source)
    vector = engine.query("gauge", 0)
    assert (vector.type, vector.values.shape, vector.timestamps.tolist()) == ("vector", (1, 1), [0])
    scalar = engine.query("1 + 2", 5)
    assert (scalar.type, scalar.values.tolist(), scalar.labels) == ("scalar", [[3.0]], [{}])
    assert engine.query_range("1 + 2", 0, 10, 5).type == "matrix"
    text = engine.query('"hello"', 5)
    assert (text.type, text.text) == ("string", "hello")
    matrix = engine.query("gauge[2m]", 120_000)
    assert matrix.type == "matrix"
    assert matrix.samples.t_ms.tolist() == [60_000, 120_000]
    assert matrix.samples.values[1] == 3.0
    assert matrix.samples.offsets.tolist() == [0, 2]
    subquery = engine.query("gauge[2m:30s]", 120_000)
    assert subquery.samples.t_ms.tolist() == [30_000, 60_000, 90_000, 120_000]


@pytest.mark.parametrize("text", ["gauge[5m]", "gauge[5m:1m]", '"text"'])
def test_range_queries_need_a_vector_or_scalar(source, text):
    with pytest.raises(QueryError, match="for range query, must be Scalar or instant Vector"):
        make_engine(source).query_range(text, 0, 10, 5)


def test_range_answers_are_sorted_by_labels():
    source = MemorySource()
    names = ["b", "a", "aa", "ab", "Z"]
    for name in names:
        source.append({"__name__": "m", "l": name}, [0], [1.0])
    source.append({"__name__": "m"}, [0], [1.0])
    result = make_engine(source).query_range("m", 0, 10, 10)
    assert [labels.get("l") for labels in result.labels] == [None, "Z", "a", "aa", "ab", "b"]


def test_rows_that_are_absent_everywhere_are_left_out(source):
    result = make_engine(source).query_range("gauge > 5", 0, 120_000, 60_000)
    assert result.labels == []
    assert result.values.shape == (0, 3)


def test_steps_include_the_end(source):
    engine = make_engine(source)
    assert engine.query_range("time()", 0, 100, 50).timestamps.tolist() == [0, 50, 100]
    assert engine.query_range("time()", 0, 99, 50).timestamps.tolist() == [0, 50]
    with pytest.raises(QueryError, match="zero or negative query resolution"):
        engine.query_range("time()", 0, 100, 0)
    with pytest.raises(QueryError, match="before start"):
        engine.query_range("time()", 100, 0, 1)


# --- names -------------------------------------------------------------------------------------


def two_metrics():
    source = MemorySource()
    for name in ("a_total", "b_total"):
        source.append({"__name__": name, "x": "1"}, range(0, 100_000, 10_000), range(10))
    return source


def test_names_are_dropped_at_once_or_at_the_end():
    text = 'sum by (__name__) (rate({x="1"}[1m]))'
    now = make_engine(two_metrics(), delayed_name_removal=False)
    with pytest.raises(QueryError, match="same labelset"):
        now.query(text, 90_000)
    later = make_engine(two_metrics(), delayed_name_removal=True)
    moved = f'label_replace({text}, "n", "$1", "__name__", "(.*)")'
    assert set(by_labels(later.query(moved, 90_000))) == {(("n", "a_total"),), (("n", "b_total"),)}
    with pytest.raises(QueryError, match="same labelset"):
        later.query(text, 90_000)


@pytest.mark.parametrize("delayed", [False, True])
def test_equal_series_that_never_meet_are_merged(delayed):
    source = MemorySource()
    source.append({"__name__": "a"}, [0, 10_000], [1.0, STALE])
    source.append({"__name__": "b"}, [10_000], [4.0])
    engine = make_engine(source, delayed_name_removal=delayed)
    result = engine.query_range('-{__name__=~"a|b"}', 0, 10_000, 10_000)
    assert result.labels == [{}]
    np.testing.assert_array_equal(result.values, [[-1.0, -4.0]])


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("text", ["last_over_time(m_total[1m])", "first_over_time(m_total[1m])"])
def test_first_and_last_over_time_keep_the_name(delayed, text):
    source = MemorySource()
    source.append({"__name__": "m_total"}, [0], [1.0])
    engine = make_engine(source, delayed_name_removal=delayed)
    assert engine.query(text, 0).labels == [{"__name__": "m_total"}]
    inside = text.replace("m_total[1m]", "abs(m_total)[1m:10s]")
    assert engine.query(inside, 0).labels == [{}]


# --- annotations -------------------------------------------------------------------------------


def test_rates_of_other_names_than_counters_are_noted(source):
    engine = make_engine(source)
    message = (
        "PromQL info: metric might not be a counter, name does not end in "
        '_total/_sum/_count/_bucket: "gauge" (1:6)'
    )
    assert engine.query("rate(gauge[5m])", 60_000).infos == [message]
    assert engine.query("rate(requests_total[5m])", 60_000).infos == []
    assert engine.query("delta(gauge[5m])", 60_000).infos == []
    assert engine.query("rate(nothing[5m])", 60_000).infos == []


def test_equal_parts_are_noted_at_the_last_place(source):
    result = make_engine(source).query("rate(gauge[5m])\n + rate(gauge[5m])", 120_000)
    assert [text[-6:] for text in result.infos] == [" (2:9)"]


def test_equal_parts_inside_equal_parts_are_noted_at_the_last_place(source):
    text = "sum(rate(gauge[5m])) + sum(rate(gauge[5m])) + on () rate(gauge[5m])"
    result = make_engine(source).query(text, 120_000)
    assert [text[-6:] for text in result.infos] == ["(1:58)"]
    once = by_labels(make_engine(source).query("rate(gauge[5m])", 120_000))
    assert list(by_labels(result).values()) == [3 * value for value in once.values()]


def test_an_info_about_a_rate_of_a_subquery_is_at_the_beginning(source):
    """As in Prometheus (3.5 was asked)."""
    (info,) = make_engine(source).query("  abs(rate(gauge[5m:1m]))", 120_000).infos
    assert info.endswith(' "gauge" (1:1)')


def test_infos_are_for_series_with_a_result(source):
    engine = make_engine(source)
    # One sample is in the window, which makes no rate.
    assert engine.query("rate(gauge[1m])", 60_000).infos == []
    assert engine.query("quantile_over_time(2, gauge[1m])", 400_000).warnings == []
    assert engine.query("sum(quantile_over_time(2, gauge[1m]))", 400_000).warnings == []
    assert len(engine.query("sum(quantile_over_time(2, gauge[1m]))", 60_000).warnings) == 1


def test_a_quantile_out_of_range_is_warned_of(source):
    engine = make_engine(source)
    result = engine.query("quantile_over_time(1.5, requests_total[5m])", 60_000)
    assert result.warnings == [
        "PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:20)"
    ]
    assert np.all(result.values == np.inf)
    assert engine.query("quantile_over_time(1.5, nothing[5m])", 60_000).warnings == []


# --- errors and limits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("double_exponential_smoothing(gauge[5m], 0, 0.5)", "invalid smoothing factor"),
        ("double_exponential_smoothing(gauge[5m], 0.5, 1)", "invalid trend factor"),
        ("resets(gauge[5m] smoothed)", "smoothed modifier can only be used with: delta, increase"),
    ],
)
def test_refusals_name_the_reason(source, text, message):
    with pytest.raises(QueryError, match=message):
        make_engine(source).query(text, 120_000)


def test_a_syntax_error_is_a_parse_error(source):
    with pytest.raises(ParseError):
        make_engine(source).query("sum(", 0)


def test_the_sample_budget_is_kept(source):
    assert make_engine(source, max_samples=2000).query("sum(requests_total)", 60_000).labels == [{}]
    with pytest.raises(QueryLimitExceeded, match="too many samples into memory"):
        make_engine(source, max_samples=20).query("rate(requests_total[10m])", 600_000)
    # Neither the grid of a subquery nor that of the query is made before it is checked.
    with pytest.raises(QueryLimitExceeded):
        make_engine(source).query("count_over_time(vector(1)[100y:1ms])", 600_000)
    with pytest.raises(QueryLimitExceeded):
        make_engine(source).query_range("1", 0, 10**15, 1)


def test_the_account_is_even_in_the_end(source):
    """Nothing but the result is held when a query is done, whatever it went through."""
    engine = make_engine(source, max_samples=1200)
    text = " + ".join(["rate(requests_total[1m] offset 1s)"] * 60)
    assert len(engine.query_range(text, 60_000, 500_000, 60_000).labels) == 4


def test_a_query_ends_at_its_deadline_or_when_canceled(source):
    engine = make_engine(source)
    with pytest.raises(QueryTimeout, match="query timed out in query execution"):
        engine.query("gauge", 0, timeout_s=1e-9)
    with pytest.raises(QueryCanceled, match="query was canceled in query execution"):
        engine.query("gauge", 0, cancel=lambda: True)
    canceled = threading.Event()
    assert engine.query("gauge", 0, cancel=canceled.is_set).type == "vector"


def test_times_out_of_range_are_refused(source):
    engine = make_engine(source)
    with pytest.raises(QueryError, match="out of range"):
        engine.query("gauge", TIME_MS_MAX + 1)
    assert engine.query("gauge", -TIME_MS_MAX).labels == []
    assert engine.query("gauge @ 9e15 offset 100y", TIME_MS_MAX).labels == []


def test_a_deep_expression_fails_with_an_error_of_ours(source):
    engine = make_engine(source)
    with pytest.raises(QueryError):
        engine.query("abs(" * 5000 + "gauge" + ")" * 5000, 0)
    assert engine.query("abs(" * 200 + "gauge" + ")" * 200, 0).labels == [{"a": "x"}]
    assert engine.query("+".join(["gauge"] * 200), 0).values.tolist() == [[200.0]]


def test_statistics_count_what_was_read(source):
    stats = make_engine(source).query("sum(rate(requests_total[1m]))", 100_000).stats
    assert stats.n_samples_read == 4 * 6
    assert stats.n_samples_peak >= 4 * 6
    assert stats.evaluate_s > 0


# --- against the reference ---------------------------------------------------------------------

FUNCTIONS = {
    "rate": partial(reference.extrapolate, "rate"),
    "delta": partial(reference.extrapolate, "delta"),
    "irate": partial(reference.last_difference, "irate"),
    "resets": partial(reference.count_steps, "resets"),
    "sum_over_time": partial(reference.sum_windows, "sum"),
    "max_over_time": partial(reference.extreme_windows, "max"),
    "last_over_time": partial(reference.pick_samples, "last"),
}

series = st.dictionaries(
    st.integers(-60, 60).map(lambda t: t * 1000),
    st.one_of(st.integers(0, 9).map(float), st.just(STALE)),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(series, min_size=1, max_size=3),
    st.sampled_from(sorted(FUNCTIONS)),
    st.integers(1, 40),
    st.integers(-30, 30),
    st.integers(-50, 50),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(-50, 50)),
    st.booleans(),
)
def test_rollups_match_the_reference(
    rows, name, range_s, offset_s, start_s, n_steps, at_s, share_axes
):
    source = MemorySource(share_axes=share_axes)
    for k, samples in enumerate(rows):
        source.append({"__name__": "m_total", "k": str(k)}, list(samples), list(samples.values()))
    at = "" if at_s is None else f" @ {at_s}"
    text = f"{name}(m_total[{range_s}s] offset {offset_s}s{at})"
    start_ms = start_s * 1000
    steps = [start_ms + k * 7000 for k in range(n_steps)]
    result = make_engine(source).query_range(text, start_ms, steps[-1], 7000)
    ends = [(step if at_s is None else at_s * 1000) - offset_s * 1000 for step in steps]
    wanted = {}
    for k, samples in enumerate(rows):
        run = sorted((t, v) for t, v in samples.items() if not reference.is_stale(v))
        values = reference.rolled(run, ends, range_s * 1000, FUNCTIONS[name])
        if any(v is not None for v in values):
            wanted[str(k)] = [np.nan if v is None else v for v in values]
    present = result.valid if result.valid is not None else np.ones(result.values.shape, bool)
    got = {
        labels["k"]: np.where(present[s], result.values[s], np.nan)
        for s, labels in enumerate(result.labels)
    }
    assert set(got) == set(wanted)
    for key, values in wanted.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    series,
    st.integers(1, 40),
    st.integers(1, 15),
    st.integers(-30, 30),
    st.integers(-70, 70),
    st.integers(1, 5),
)
def test_subqueries_match_the_reference(samples, range_s, sub_s, offset_s, start_s, n_steps):
    source = MemorySource()
    source.append({"__name__": "m"}, list(samples), list(samples.values()))
    text = f"sum_over_time(m[{range_s}s:{sub_s}s] offset {offset_s}s)"
    steps = [start_s * 1000 + k * 7000 for k in range(n_steps)]
    result = make_engine(source, lookback=8.0).query_range(text, steps[0], steps[-1], 7000)
    run = sorted(samples.items())
    wanted = []
    for step in steps:
        end = step - offset_s * 1000
        points = [
            reference.select_latest(run, t, 8000, want_time=False)
            for t in range(end - range_s * 1000 + 1, end + 1)
            if t % (sub_s * 1000) == 0
        ]
        points = [v for v in points if v is not None]
        wanted.append(sum(points) if points else None)
    if all(v is None for v in wanted):
        assert result.labels == []
        return
    present = result.valid if result.valid is not None else np.ones(result.values.shape, bool)
    assert present[0].tolist() == [v is not None for v in wanted]
    np.testing.assert_array_equal(
        result.values[0][present[0]], [v for v in wanted if v is not None]
    )


QUERIES = (
    "requests_total",
    "rate(requests_total[1m])",
    "sum by (job) (rate(requests_total[1m]))",
    "requests_total offset 30s > 100",
    "max_over_time(rate(requests_total[1m])[3m:20s])",
    "sum_over_time((requests_total @ 100)[3m:20s] @ 200)",
    "absent_over_time(gauge[30s])",
    "absent_over_time(gauge[30s:7s])",
    "predict_linear(requests_total[2m], 60)",
    "deriv(requests_total[2m])",
    "quantile_over_time(scalar(gauge), requests_total[1m])",
    "timestamp(gauge)",
    "topk(2, requests_total)",
    "count(requests_total) + on () group_left () vector(1)",
)


@pytest.mark.parametrize("text", QUERIES)
def test_a_range_query_is_its_instant_queries_side_by_side(source, text):
    engine = make_engine(source)
    result = engine.query_range(text, 0, 600_000, 45_000)
    for column, time_ms in enumerate(range(0, 600_001, 45_000)):
        single = by_labels(engine.query(text, time_ms))
        several = by_labels(result, column)
        assert set(single) == set(several)
        for key, value in single.items():
            np.testing.assert_allclose(several[key], value, rtol=1e-12)


def test_threads_give_the_same_answer(source, monkeypatch):
    monkeypatch.setattr("tsengine.query.scheduler.SLICE_SAMPLES", 1)
    single = make_engine(source)
    engine = Engine(source, Options(query_threads=3, features=ALL_ON))
    for text in QUERIES:
        one = single.query_range(text, 0, 600_000, 45_000)
        many = engine.query_range(text, 0, 600_000, 45_000)
        assert one.labels == many.labels
        np.testing.assert_allclose(one.values, many.values, rtol=1e-12)
    engine.close()


def test_an_error_in_a_slice_reaches_the_caller(source, monkeypatch):
    monkeypatch.setattr("tsengine.query.scheduler.SLICE_SAMPLES", 1)
    started = time.monotonic()

    def read(refs, mint, maxt, *, drop_stale, with_values):
        raise QueryError("no such samples")

    source.read = read
    engine = Engine(source, Options(query_threads=3))
    with pytest.raises(QueryError, match="no such samples"):
        engine.query("requests_total", 0)
    engine.close()
    assert time.monotonic() - started < 60
