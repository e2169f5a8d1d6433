"""Selectors, ranges and subqueries over series of native histograms, from the query's text."""

import numpy as np
import pytest

from tests.reference.memory_source import STALE, MemorySource
from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.model.histograms import is_handle
from tsengine.options import Options
from tsengine.promql.functions import ALL_ON, USE_START_TIMESTAMPS
from tsengine.query.engine import Engine

MINUTE = 60_000


def histogram(count, hint="unknown", **more):
    """A histogram of one bucket."""
    return NativeHistogram(
        count=float(count), sum=2.0 * count, positive={1: float(count)}, hint=hint, **more
    )


def source_of(*series, share_axes=True):
    """Series as (labels, samples); a sample is (minute, value) or (minute, value, start in ms)."""
    source = MemorySource(share_axes=share_axes)
    for labels, samples in series:
        source.append(
            labels,
            [s[0] * MINUTE for s in samples],
            [from_list([s[1]]) if isinstance(s[1], NativeHistogram) else s[1] for s in samples],
            [s[2] if len(s) > 2 else 0 for s in samples],
        )
    return source


def engine_of(source, features=ALL_ON, **options):
    return Engine(source, Options(query_threads=1, features=features, **options))


def cells(result):
    """Values at each step by label set: None, a float, or a histogram."""
    made = [] if result.histograms is None else to_list(result.histograms)
    found = {}
    for s, labels in enumerate(result.labels):
        row = []
        for t in range(result.values.shape[1]):
            value = result.values[s, t : t + 1]
            if result.valid is not None and not result.valid[s, t]:
                row.append(None)
            elif is_handle(value.view(np.uint64))[0]:
                row.append(made[int(value.view(np.uint64)[0] & np.uint64((1 << 48) - 1))])
            else:
                row.append(float(value[0]))
        found[tuple(sorted(labels.items()))] = row
    return found


def only_row(result):
    (row,) = cells(result).values()
    return row


H = {"__name__": "h"}


@pytest.mark.parametrize("share_axes", [True, False])
def test_selectors_give_histograms_and_floats(share_axes):
    source = source_of(
        (H, [(0, histogram(1)), (1, histogram(3)), (2, 7.0), (3, STALE)]), share_axes=share_axes
    )
    result = engine_of(source).query_range("h", 0, 4 * MINUTE, MINUTE)
    first, second, third, *rest = only_row(result)
    assert (first.count, second.count, third, rest) == (1.0, 3.0, 7.0, [None, None])


def test_offset_at_and_lookback_reach_histograms():
    engine = engine_of(source_of((H, [(10, histogram(5))])))
    assert only_row(engine.query("h", 14 * MINUTE))[0].count == 5.0
    assert cells(engine.query("h", 15 * MINUTE)) == {}
    assert only_row(engine.query("h offset 10m", 20 * MINUTE))[0].count == 5.0
    pinned = engine.query_range("h @ 600", 0, 30 * MINUTE, 10 * MINUTE)
    assert [h.count for h in only_row(pinned)] == [5.0] * 4


def test_times_of_histograms():
    engine = engine_of(source_of((H, [(10, histogram(5))])))
    assert only_row(engine.query("timestamp(h)", 12 * MINUTE)) == [600.0]


def hints(source, query="h", steps=range(10), **options):
    engine = engine_of(source, **options)
    result = engine.query_range(query, steps[0] * MINUTE, steps[-1] * MINUTE, MINUTE)
    return [getattr(cell, "hint", cell) for cell in only_row(result)]


def test_hints_are_those_of_prometheus_chunks():
    samples = [
        histogram(1), histogram(2), histogram(1), histogram(4), 5.0, histogram(5), histogram(6),
        STALE, histogram(7), histogram(8, "gauge"), histogram(9), histogram(9, schema=1),
        histogram(10, schema=0), histogram(11, "not_reset"), histogram(12, "reset"),
    ]  # fmt: skip
    source = source_of((H, list(enumerate(samples))))
    assert hints(source, steps=range(15)) == [
        "unknown", "not_reset", "unknown", "not_reset", 5.0, "unknown", "not_reset",
        None, "unknown", "gauge", "unknown", "unknown",
        "unknown", "not_reset", "reset",
    ]  # fmt: skip


def test_a_hint_is_known_from_one_lookback_earlier():
    source = source_of((H, [(0, histogram(1)), (4, histogram(2)), (12, histogram(3))]))
    assert hints(source, steps=range(6, 8)) == ["not_reset", "not_reset"]
    assert hints(source, steps=range(16, 17)) == ["unknown"]


def test_a_stored_reset_that_values_show_is_unknown():
    source = source_of((H, [(0, histogram(5)), (1, histogram(3, "reset"))]))
    assert hints(source, steps=range(2)) == ["unknown", "unknown"]


def test_functions_of_totals_tell_of_resets():
    falling = source_of(
        ({**H, "a": "1"}, [(0, histogram(5)), (1, histogram(6))]),
        ({**H, "a": "2"}, [(0, histogram(5)), (1, histogram(3))]),
    )
    engine = engine_of(falling)
    whole = engine.query("histogram_quantile(0.5, sum(h))", MINUTE)
    assert whole.warnings == []
    totals = engine.query("histogram_count(sum(h))", MINUTE)
    assert only_row(totals) == [9.0]
    assert totals.warnings == [
        "PromQL warning: conflicting counter resets during histogram aggregation (1:21)"
    ]
    # A reset of which only buckets tell is one below a function of totals too.
    moved = NativeHistogram(count=5.0, sum=10.0, positive={2: 5.0})
    engine = engine_of(source_of((H, [(0, histogram(5)), (1, moved)])))
    assert only_row(engine.query("histogram_count(irate(h[5m]))", MINUTE)) == [5.0 / 60]
    assert only_row(engine.query("histogram_count(resets(h[5m]) * h)", MINUTE)) == [5.0]


def test_range_vectors_hold_histograms():
    engine = engine_of(source_of((H, [(0, histogram(1)), (1, STALE), (2, 4.0), (3, histogram(2))])))
    result = engine.query("h[10m]", 3 * MINUTE)
    table = to_list(result.histograms)
    values = result.samples.values
    assert result.samples.t_ms.tolist() == [0, 2 * MINUTE, 3 * MINUTE]
    assert is_handle(values.view(np.uint64)).tolist() == [True, False, True]
    assert values[1] == 4.0
    assert sorted(h.count for h in table) == [1.0, 2.0]


@pytest.mark.parametrize("modifier", ["anchored", "smoothed"])
def test_ranges_with_edges_refuse_histograms_as_answer(modifier):
    engine = engine_of(source_of((H, [(0, histogram(1))])))
    with pytest.raises(QueryError, match=f"^{modifier} modifier is not supported with histograms"):
        engine.query(f"h[10m] {modifier}", MINUTE)


def test_subqueries_forget_hints_but_gauges():
    source = source_of((H, [(0, histogram(1)), (1, histogram(2)), (2, histogram(3, "gauge"))]))
    query = "last_over_time(h[1m:1m])"
    assert hints(source, query, range(3)) == ["unknown", "unknown", "gauge"]
    assert hints(source, "h", range(3)) == ["unknown", "not_reset", "gauge"]


def test_constant_parts_are_repeated():
    engine = engine_of(source_of((H, [(0, histogram(1)), (1, histogram(3))])))
    result = engine.query_range("rate(h[2m] @ 60)", 0, 5 * MINUTE, MINUTE)
    assert [h.count for h in only_row(result)] == [pytest.approx(2 / 60 * 1.5 / 2)] * 6


@pytest.mark.parametrize("delayed", [False, True])
def test_aggregations_see_what_slices_can_not_fold(delayed):
    many = [({**H, "i": str(i)}, [(0, histogram(i)), (1, histogram(2 * i))]) for i in range(1, 20)]
    engine = engine_of(source_of(*many), delayed_name_removal=delayed)
    assert only_row(engine.query("sum(h)", MINUTE))[0].count == 380.0
    assert only_row(engine.query("count(h)", MINUTE)) == [19.0]
    grown = only_row(engine.query("sum(increase(h[1m1ms]))", MINUTE))[0]
    assert grown.count == pytest.approx(190.0 * (60.001 / 60.0))
    mixed = engine_of(source_of(*many, ({**H, "i": "f"}, [(1, 1.0)])))
    result = mixed.query("sum(h)", MINUTE)
    assert cells(result) == {}
    assert result.warnings == [
        "PromQL warning: encountered a mix of histograms and floats for aggregation (1:5)"
    ]


def test_warnings_name_each_metric_once():
    both = [(0, histogram(1)), (1, 2.0)]
    source = source_of(
        *(({"__name__": name, "i": i}, both) for name in ("a", "b") for i in ("1", "2"))
    )
    result = engine_of(source).query('rate({__name__=~"a|b"}[5m])', MINUTE)
    assert cells(result) == {}
    assert result.warnings == [
        'PromQL warning: encountered a mix of histograms and floats for metric name "a" (1:6)',
        'PromQL warning: encountered a mix of histograms and floats for metric name "b" (1:6)',
    ]
    assert result.infos == []


def test_aggregations_pass_warnings_of_smoothed_selectors_on():
    both = [(0, histogram(1)), (1, 2.0)]
    source = source_of(*(({**H, "i": str(i)}, both) for i in range(9)))
    result = engine_of(source).query("sum(h smoothed)", MINUTE)
    assert cells(result) == {}
    assert result.warnings == [
        'PromQL warning: encountered a mix of histograms and floats for metric name "h" (1:5)'
    ]


def test_histograms_weigh_more_than_one_sample():
    wide = NativeHistogram(count=200.0, positive=dict.fromkeys(range(200), 1.0))
    engine = engine_of(source_of((H, [(0, wide)])), max_samples=60)
    with pytest.raises(QueryLimitExceeded):
        engine.query("h", 0)
    engine_of(source_of((H, [(0, histogram(1))])), max_samples=60).query("h", 0)


# --- start timestamps -----------------------------------------------------------------------


COUNTER = {"__name__": "c_total"}
STARTS = [(1, 5.0, 30_000), (2, 9.0, 30_000), (3, 12.0, 150_000), (4, STALE), (5, histogram(3), 1)]


def test_start_timestamps_of_samples():
    engine = engine_of(source_of((COUNTER, STARTS), ({**COUNTER, "a": "1"}, [(3, 4.0)])))
    result = engine.query_range("start_timestamp(c_total)", 0, 5 * MINUTE, MINUTE)
    assert cells(result) == {
        (): [None, 30.0, 30.0, 150.0, None, 0.001],
        (("a", "1"),): [None, None, None, 0.0, 0.0, 0.0],
    }
    shifted = engine.query("start_timestamp(c_total @ 120 offset 1m)", 9 * MINUTE)
    assert cells(shifted) == {(): [30.0]}


def test_start_timestamps_need_the_feature_and_a_selector():
    source = source_of((COUNTER, STARTS))
    assert cells(engine_of(source).query("start_timestamp(c_total + 0)", MINUTE)) == {}
    without = engine_of(source, ALL_ON - {USE_START_TIMESTAMPS})
    assert cells(without.query("start_timestamp(c_total)", MINUTE)) == {}


def test_rates_use_start_timestamps_if_asked_to():
    source = source_of((COUNTER, [(1, 5.0, 30_000), (2, 9.0, 30_000), (3, 12.0, 150_000)]))
    query = "increase(c_total[4m])"
    plain = engine_of(source, ALL_ON - {USE_START_TIMESTAMPS}).query(query, 3 * MINUTE)
    # 7 in 2 minutes, extrapolated by half a gap to the left.
    assert only_row(plain) == [pytest.approx(7 * 2.5 / 2)]
    used = engine_of(source).query(query, 3 * MINUTE)
    # 5 since the start, 4 more, 12 since the reset at 2m30s; nothing to extrapolate.
    assert only_row(used) == [21.0]
    assert only_row(engine_of(source).query("resets(c_total[4m])", 3 * MINUTE)) == [1.0]
    assert only_row(engine_of(source).query("irate(c_total[4m])", 3 * MINUTE)) == [0.2]


def test_overlapping_starts_are_told_also_where_slices_are_folded():
    overlapping = [(1, 1.0, 1), (2, 2.0, 2), (3, 3.0, 3)]
    source = source_of(*(({**COUNTER, "i": str(i)}, overlapping) for i in range(8)))
    for query, column in (("sum(rate(c_total[5m]))", 10), ("rate(c_total[5m])", 6)):
        result = engine_of(source).query(query, 3 * MINUTE)
        assert result.warnings == [
            "PromQL warning: sample has start time that overlaps with previous sample timestamp "
            f'for metric "c_total" (1:{column})'
        ]
