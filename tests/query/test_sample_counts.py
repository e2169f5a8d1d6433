"""Samples looked at by step, against Prometheus's rules written out slowly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.test_engine import make_engine
from tests.reference.memory_source import STALE, MemorySource
from tsengine.query.sample_counts import SampleCounts, _in_windows

TIMES = range(0, 600_000, 10_000)


@pytest.fixture(params=[True, False], ids=["shared axes", "own axes"])
def engine(request):
    source = MemorySource(share_axes=request.param)
    for k in range(4):
        source.append({"__name__": "m_total", "i": str(k)}, TIMES, range(60))
    source.append({"__name__": "gappy"}, [0, 10_000, 300_000], [1.0, STALE, 2.0])
    return make_engine(source)


def counts(engine, expr, start_ms=0, end_ms=600_000, step_ms=60_000):
    stats = engine.query_range(expr, start_ms, end_ms, step_ms, count_samples=True).stats
    return stats.samples_total_per_step.tolist(), stats.samples_read_per_step.tolist()


def windows(range_ms, steps, new_from=None):
    """Samples of one series in (t - range, t], only those after `new_from(t)` when given."""
    out = []
    for k, t in enumerate(steps):
        left = t - range_ms
        if new_from is not None and k:
            left = max(left, new_from(k))
        out.append(sum(left < sample <= t for sample in TIMES))
    return out


def test_instant_selectors_look_at_one_sample_a_step(engine):
    assert counts(engine, "m_total") == ([4] * 11, [4] * 11)
    # Stale from 10 s on; the sample at 300 s is looked at up to 599 s.
    assert counts(engine, "gappy") == ([1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0],) * 2


@pytest.mark.parametrize("expr", ["rate(m_total[2m])", "sum(rate(m_total[2m]))"])
def test_ranges_count_windows_and_read_new_samples_once(engine, expr):
    steps = list(range(0, 600_001, 60_000))
    total, read = counts(engine, expr)
    assert total == [4 * n for n in windows(120_000, steps)]
    assert read == [4 * n for n in windows(120_000, steps, lambda k: steps[k - 1])]
    assert sum(read) == 4 * 60


def test_windows_with_gaps_between_them(engine):
    steps = list(range(0, 600_001, 60_000))
    total, read = counts(engine, "count_over_time(m_total[20s])")
    assert total == read == [4 * n for n in windows(20_000, steps)]


def test_equal_parts_count_each_time(engine):
    total, _ = counts(engine, "m_total + m_total")
    assert total == [8] * 11


def test_parts_that_are_the_same_at_every_step(engine):
    total, read = counts(engine, "m_total @ 300")
    assert (total, read) == ([4] * 11, [4] + [0] * 10)


def test_subqueries(engine):
    total, read = counts(engine, "max_over_time(m_total[2m:1m])")
    # Two points of four series in each window; the inner selector read one sample at each point.
    assert total == [4] + [8] * 10
    assert read == [4] * 11
    stats = engine.query("m_total[2m:1m]", 600_000, count_samples=True).stats
    assert (stats.samples_total_per_step.sum(), stats.samples_read_per_step.sum()) == (8, 8)
    stats = engine.query("m_total[2m]", 590_000, count_samples=True).stats
    assert (stats.samples_total_per_step.sum(), stats.samples_read_per_step.sum()) == (48, 48)


def test_nothing_is_counted_unasked(engine):
    assert engine.query("m_total", 0).stats.samples_total_per_step is None


def test_subqueries_wider_than_their_use_leave_gaps_out():
    outer = SampleCounts(np.array([100_000, 200_000]))
    inner = SampleCounts(np.arange(10_000, 210_000, 10_000))
    inner.add(np.ones(20, np.int64), np.ones(20, np.int64))
    outer.add_subquery(inner, 0, 50_000)
    assert outer.read.tolist() == [5, 5]
    assert outer.total.tolist() == [0, 0]


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 50), max_size=30).map(sorted),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 20)), min_size=1, max_size=8),
)
def test_counting_in_windows(times, gaps):
    ends = np.cumsum([gap for gap, _ in gaps])
    lefts = np.maximum.accumulate(ends - [width for _, width in gaps])
    t_ms, weights = np.array(times, np.int64), np.arange(len(times)) + 1
    slow = [
        int(weights[(t_ms > left) & (t_ms <= end)].sum())
        for left, end in zip(lefts, ends, strict=True)
    ]
    assert _in_windows(t_ms, weights, lefts, ends).tolist() == slow
