"""Queries over series that mix floats and native histograms, through the whole engine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.promql.histogram_notation import HINTS, Noted, columns, from_columns, noted
from tests.reference.memory_source import STALE, MemorySource
from tsengine.errors import QueryError
from tsengine.options import Options
from tsengine.promql.functions import ALL_ON
from tsengine.query.engine import Engine

SOME = settings(max_examples=60, deadline=None)
STEP = 60_000
N_STEPS = 4
HISTOGRAMS = tuple(
    from_columns(columns([noted(keys)]), 0)
    for keys in (
        {"count": 4, "sum": 6, "buckets": [1, 2, 1]},
        {"count": 4, "sum": 6, "buckets": [1, 2, 1], "counter_reset_hint": "gauge"},
        {"schema": 2, "count": 3, "sum": 1, "z_bucket": 1, "n_buckets": [1, 1]},
        {"schema": -53, "custom_values": [1, 5], "count": 6, "sum": 9, "buckets": [1, 2, 3]},
        {"schema": -53, "custom_values": [1], "count": 3, "sum": 2, "buckets": [1, 2]},
    )
)
CELLS = st.none() | st.integers(-2, 3).map(float) | st.sampled_from([*HISTOGRAMS, STALE])
SERIES = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {"__name__": st.sampled_from(["m", "n"])},
            optional={"i": st.sampled_from(["1", "2"]), "le": st.sampled_from(["1", "+Inf"])},
        ),
        st.lists(CELLS, min_size=N_STEPS, max_size=N_STEPS),
    ),
    max_size=6,
    unique_by=lambda pair: tuple(sorted(pair[0].items())),
)
FLOATS_ONLY = (
    "abs(m)", "ln(m)", "sgn(m)", "round(m, 2)", "clamp(m, 0, 1)", "clamp_min(m, 1)", "year(m)",
    "days_in_month(m)", "vector(scalar(m))", "sort(m)", "sort_desc(n)", "min by (i) (m)",
    "max(m)", "stddev by (i) (m)", "stdvar(m)", "quantile by (i) (0.5, m)", "topk(1, m)",
    "bottomk by (i) (1, m)", "m + 1", "2 - m", "m % 2", "1 / m", "m ^ 2", "m > 0", "m != bool 1",
    "1 == m", "m % on (i, le) n", "m >= bool on (i, le) n", "count(m > 0)", "sum(abs(m)) + 1",
    "m atan2 on (i, le) group_left n", "abs(m) or sgn(n)",
)  # fmt: skip
"""Expressions that look at no histogram of `m` and `n`."""
ANY = (
    *FLOATS_ONLY,
    "m", "-m", "+m", "m * 2", "m / 2", "2 * m", "m </ 1", "m >/ 1", "m == on (i, le) n",
    "m + on (i, le) n", "m - on (i, le) n", "m * on (i) group_left n", "m == bool on (i, le) n",
    "m and on (i, le) n", "m or n", "m unless on (i, le) n", "sum(m)", "sum by (i) (m)",
    "avg by (le) ({__name__=~'m|n'})", "sum by (i, le) (m)", "count(m)", "group by (i) (m)",
    "count_values('v', m)", "limitk(1, m)", "limit_ratio(0.5, m)", "histogram_count(m)",
    "histogram_sum(sum(m))", "histogram_avg(m)", "histogram_stddev(m)", "histogram_stdvar(m)",
    "histogram_quantile(0.5, m)", "histogram_fraction(0, 2, {__name__=~'m|n'})",
    "histogram_quantiles(m, 'q', 0.2, 0.9)", "absent(m)", "timestamp(m)", "timestamp(m * 1)",
    "label_replace(m, 'j', '$1', 'i', '(.*)')", "label_join(m, 'i', '', 'none')", "info(m)",
    "m + on (i, le) fill(1) n", "sum(m @ 60) + 0 * sum(m)", "sort_by_label(m, 'i')",
)  # fmt: skip


def engine_of(series):
    source = MemorySource()
    for labels, cells in series:
        times = [t * STEP for t, cell in enumerate(cells) if cell is not None]
        values = [
            columns([cell]) if isinstance(cell, Noted) else cell
            for cell in cells
            if cell is not None
        ]
        source.append(labels, times, values)
    return Engine(source, Options(query_threads=1, features=ALL_ON))


def answer(ask):
    """{labels: cells} of a query, or the error's text."""
    try:
        result = ask()
    except QueryError as error:
        return type(error).__name__
    present = np.ones(result.values.shape, bool) if result.valid is None else result.valid
    found = {}
    for s, labels in enumerate(result.labels):
        cells = [
            None if not present[s, t] else cell_of(result, result.values[s, t : t + 1])
            for t in range(result.values.shape[1])
        ]
        if any(cell is not None for cell in cells):
            found[frozenset(labels.items())] = cells
    return found


def cell_of(result, bits):
    number = int(bits.view(np.uint64)[0])
    if number >> 48 == 0x7FFC:
        histogram = from_columns(result.histograms, number & 0xFFFFFFFF)
        return str(histogram)  # equal for NaN, too
    return repr(float(bits[0]))


def ask_range(engine, text):
    return answer(lambda: engine.query_range(text, 0, (N_STEPS - 1) * STEP, STEP))


@SOME
@given(SERIES, st.sampled_from(FLOATS_ONLY))
def test_what_ignores_histograms_is_as_without_them(series, text):
    without = [
        (labels, [STALE if isinstance(cell, Noted) else cell for cell in cells])
        for labels, cells in series
    ]
    assert ask_range(engine_of(series), text) == ask_range(engine_of(without), text)


@SOME
@given(SERIES, st.sampled_from(ANY))
def test_a_range_query_is_the_instant_queries_of_its_steps(series, text):
    engine = engine_of(series)
    whole = ask_range(engine, text)
    steps = [answer(lambda t=t: engine.query(text, t * STEP)) for t in range(N_STEPS)]
    if isinstance(whole, str):
        assert whole in steps
        return
    assert not any(isinstance(step, str) for step in steps)
    for t, step in enumerate(steps):
        here = {labels: [cells[t]] for labels, cells in whole.items() if cells[t] is not None}
        assert step == here


def test_info_gives_labels_to_histograms_and_takes_none_for_information():
    run = [HISTOGRAMS[0], None, 1.0, HISTOGRAMS[3]]
    engine = engine_of(
        [
            ({"__name__": "m", "instance": "a", "job": "j"}, run),
            ({"__name__": "target_info", "instance": "a", "job": "j", "v": "1"}, [1.0] * 4),
            ({"__name__": "h", "instance": "a", "job": "j", "v": "1"}, [None, *HISTOGRAMS[:3]]),
        ]
    )
    labels = {"__name__": "m", "instance": "a", "job": "j", "v": "1"}
    want = [str(HISTOGRAMS[0]), str(HISTOGRAMS[0]), "1.0", str(HISTOGRAMS[3])]
    assert ask_range(engine, "info(m)") == {frozenset(labels.items()): want}
    text = 'info(m, {__name__="h"})'
    assert list(answer(lambda: engine.query(text, 0)).values()) == [[want[0]]]
    with pytest.raises(QueryError, match="this should be an info metric, with float samples"):
        engine.query(text, STEP)


def test_unary_minus_of_a_counter_is_a_gauge():
    engine = engine_of([({"__name__": "m"}, [HISTOGRAMS[0], None, None, None])])
    result = engine.query("-m", 0)
    assert from_columns(result.histograms, 0).hint == HINTS["gauge"]
