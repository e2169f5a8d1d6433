"""The algebra of native histograms by examples, many of Prometheus's native_histograms.test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.model.histograms import HINT_GAUGE, HINT_NOT_RESET, HINT_RESET, HINT_UNKNOWN
from tsengine.query import histogram_math as math_of

H_TEST = NativeHistogram(
    schema=0, count=34, sum=123.75, zero_threshold=0.001, zero_count=1,
    positive={0: 2, 1: 4, 2: 8, 3: 16}, negative={0: 1, 1: 2},
)  # fmt: skip
CUSTOM = NativeHistogram(
    schema=-53, count=15, sum=172.5, positive={0: 1, 1: 6, 2: 4, 3: 3, 4: 1},
    custom_bounds=(5.0, 10.0, 15.0, 20.0),
)  # fmt: skip
ONE_ROW = np.array([0])


def trim(histogram, threshold, *, upper):
    table = from_list([histogram])
    return to_list(math_of.trim(table, ONE_ROW, np.array([threshold]), upper=upper))[0]


def combine(histograms, factors=None):
    table = from_list(histograms)
    rows = np.arange(len(histograms))
    factors = np.ones(len(rows)) if factors is None else np.array(factors)
    return math_of.combine(table, np.array([0, len(rows)]), rows, factors)


@pytest.mark.parametrize("upper", [True, False])
def test_trim_at_the_far_end_keeps_all_and_at_the_near_end_nothing(upper):
    far = math.inf if upper else -math.inf
    assert trim(H_TEST, far, upper=upper) == H_TEST
    nothing = trim(H_TEST, -far, upper=upper)
    assert (nothing.count, nothing.sum, nothing.zero_count) == (0, 0, 0)
    assert (nothing.positive, nothing.negative) == ({}, {})


def test_trim_at_zero_splits_the_zero_bucket():
    above = trim(H_TEST, 0.0, upper=False)
    assert (above.count, above.zero_count) == (30.5, 0.5)
    assert above.sum == pytest.approx(120.20840280171308)
    assert (above.positive, above.negative) == (H_TEST.positive, {})
    below = trim(H_TEST, 0.0, upper=True)
    assert (below.count, below.zero_count) == (3.5, 0.5)
    assert below.sum == pytest.approx(-3.5357839059327376)


def test_trim_cuts_an_exponential_bucket_on_a_logarithmic_scale():
    below = trim(H_TEST, 1.4142135624, upper=True)
    assert below.positive == {0: 2, 1: pytest.approx(2)}
    assert (below.count, below.sum) == (pytest.approx(8), pytest.approx(0.2570938865989847))
    above = trim(H_TEST, 1.4142135624, upper=False)
    assert (above.count, above.sum) == (pytest.approx(26), pytest.approx(116.50067065070982))


def test_trim_cuts_a_custom_bucket_linearly_and_drops_an_infinite_one():
    below = trim(CUSTOM, 13.0, upper=True)
    assert below.positive == {0: 1, 1: 6, 2: pytest.approx(2.4)}
    assert below.sum == pytest.approx(1 * 2.5 + 6 * 7.5 + 2.4 * 11.5)
    assert trim(CUSTOM, 50.0, upper=True).positive == {0: 1, 1: 6, 2: 4, 3: 3}


def test_trim_takes_a_zero_bucket_for_one_sided_beside_buckets_of_one_sign():
    histogram = NativeHistogram(
        count=12, sum=8, zero_threshold=0.5, zero_count=2, positive={0: 10}
    )  # fmt: skip
    above = trim(histogram, 0.1, upper=False)
    assert (above.count, above.zero_count) == (pytest.approx(11.6), pytest.approx(1.6))
    assert above.sum == pytest.approx(7.551067811865476)


def test_quantile_of_the_middle_is_a_geometric_mean():
    table = from_list([NativeHistogram(count=4, sum=5, positive={0: 1, 1: 2, 2: 1})])
    values, has_nans = math_of.quantile(table, np.zeros(5, int), np.array([0.5, 0, 1, -1, 2]))
    assert values.tolist() == [pytest.approx(math.sqrt(2)), 0.5, 4.0, -math.inf, math.inf]
    assert not has_nans.any()


def test_quantile_says_when_observations_are_nan():
    table = from_list(
        [
            NativeHistogram(count=3, sum=math.nan),
            NativeHistogram(count=15, sum=math.nan, positive={0: 12}),
        ]
    )
    for q, expected in ((0.81, [math.nan, math.nan]), (0.8, [math.nan, 1.0])):
        values, has_nans = math_of.quantile(table, np.arange(2), np.full(2, q))
        assert values.tolist() == pytest.approx(expected, nan_ok=True)
        assert has_nans.all()


def test_quantile_with_nans_stays_in_its_bucket():
    table = from_list([NativeHistogram(count=5, sum=math.nan, positive={0: 2, 1: 1, 8: 1})])
    values, has_nans = math_of.quantile(table, ONE_ROW, np.array([0.2]))
    assert values[0] == pytest.approx(math.sqrt(0.5))
    assert has_nans[0]


def test_fraction_and_variance():
    table = from_list([NativeHistogram(count=4, sum=5, positive={0: 1, 1: 2, 2: 1})])
    for lower, upper, expected in ((1, 2, 0.5), (0, 8, 1.0), (2, 1, 0.0), (math.nan, 2, math.nan)):
        value, _ = math_of.fraction(table, ONE_ROW, np.array([lower]), np.array([upper]))
        assert value[0] == pytest.approx(expected, nan_ok=True)
    middles = [(math.sqrt(0.5), 1), (math.sqrt(2), 2), (math.sqrt(8), 1)]
    expected = sum(n * (middle - 1.25) ** 2 for middle, n in middles) / 4
    assert math_of.variance(table, ONE_ROW)[0] == pytest.approx(expected)


def test_sum_takes_the_lower_resolution_and_the_larger_zero_bucket():
    fine = NativeHistogram(schema=1, count=5, sum=9, positive={1: 1, 2: 1, 3: 1, 4: 2})
    wide = NativeHistogram(schema=0, count=3, zero_threshold=1.2, zero_count=1, positive={2: 2})
    combined = combine([fine, wide])
    assert to_list(combined.table) == [
        NativeHistogram(
            schema=0, count=8, sum=9, zero_threshold=pytest.approx(math.sqrt(2)), zero_count=2,
            positive={1: 1, 2: 5},
        )
    ]  # fmt: skip


def test_sum_reduces_custom_bounds_to_the_common_ones():
    a = NativeHistogram(-53, 15, 55, positive={0: 1, 1: 2, 2: 5, 3: 7}, custom_bounds=(2, 4, 6))
    b = NativeHistogram(
        -53, 450, 555, positive={i: 10.0 * (i + 1) for i in range(9)},
        custom_bounds=(1, 2, 3, 4, 5, 6, 7, 8),
    )  # fmt: skip
    combined = combine([b, a], [1.0, -1.0])
    (difference,) = to_list(combined.table)
    assert difference.custom_bounds == (2, 4, 6)
    assert difference.positive == {0: 29, 1: 68, 2: 105, 3: 233}
    assert combined.reconciled.tolist() == [True]


def test_sum_is_compensated():
    histograms = [NativeHistogram(sum=s, positive={1: c}) for s, c in ((1, 1), (1e100, 1e100))]
    histograms += [NativeHistogram(sum=1, positive={1: 1})]
    histograms += [NativeHistogram(sum=-1e100, positive={1: -1e100})]
    (total,) = to_list(combine(histograms).table)
    assert (total.sum, total.positive) == (2.0, {1: 2.0})


def test_exponential_and_custom_buckets_do_not_mix():
    assert combine([H_TEST, CUSTOM]).is_mixed.tolist() == [True]
    assert combine([H_TEST, H_TEST]).is_mixed.tolist() == [False]


@pytest.mark.parametrize(
    ("hints", "expected", "clash"),
    [
        (["not_reset", "not_reset"], "not_reset", False),
        (["reset", "not_reset"], "unknown", True),
        (["reset", "unknown", "not_reset"], "unknown", True),
        (["reset", "gauge"], "gauge", False),
        (["unknown", "reset"], "unknown", False),
        (["reset"], "reset", False),
    ],
)
def test_hints_of_sums(hints, expected, clash):
    combined = combine([NativeHistogram(hint=hint) for hint in hints])
    assert to_list(combined.table)[0].hint == expected
    assert combined.hint_clash.tolist() == [clash]


def test_subtract_gives_gauges():
    table = from_list([H_TEST, H_TEST])
    (difference,) = to_list(math_of.subtract(table, ONE_ROW, ONE_ROW + 1).table)
    assert difference == NativeHistogram(zero_threshold=0.001, hint="gauge")


def test_average_goes_on_as_a_running_mean_when_the_sum_overflows():
    huge = 1.5e308
    histograms = [NativeHistogram(count=huge, sum=huge, positive={1: huge}) for _ in range(3)] + [
        NativeHistogram(count=0, sum=0, positive={2: 4.0})
    ]
    table = from_list(histograms)
    mean = to_list(math_of.average(table, np.array([0, 4]), np.arange(4)).table)[0]
    assert mean.count == pytest.approx(0.75 * huge)
    assert mean.positive == {1: pytest.approx(0.75 * huge), 2: pytest.approx(1.0)}
    alone = to_list(math_of.average(table, np.array([0, 1]), ONE_ROW).table)[0]
    assert alone == histograms[0]


def test_scale_by_zero_negative_and_nan():
    table = from_list([H_TEST] * 4)
    scaled = to_list(math_of.scale(table, np.array([0.0, -1.0, math.nan, 0.5])))
    assert scaled[0] == NativeHistogram(zero_threshold=0.001)
    assert scaled[1].hint == "gauge"
    assert scaled[1].positive == {0: -2, 1: -4, 2: -8, 3: -16}
    assert all(math.isnan(c) for c in scaled[2].positive.values())
    assert len(scaled[2].positive) == 4
    assert scaled[3].negative == {0: 0.5, 1: 1}


def test_division_by_zero_removes_the_buckets():
    empty = NativeHistogram()
    halved, broken, none = to_list(
        math_of.scale(from_list([H_TEST, H_TEST, empty]), np.array([2.0, 0.0, 0.0]), divide=True)
    )
    assert halved.count == 17
    assert (broken.count, broken.sum, broken.zero_count) == (math.inf, math.inf, math.inf)
    assert (broken.positive, broken.negative) == ({}, {})
    assert math.isnan(none.count)


COUNTER = [
    NativeHistogram(count=c, sum=c, positive={0: c})
    for c in (5.0, 8.0, 2.0, 4.0, 1.0, 3.0)
]  # fmt: skip


def test_increase_adds_what_was_before_resets():
    table = from_list(COUNTER)
    found = math_of.increase(table, np.array([0, 6]), np.arange(6))
    expected = 3 - 5 + 8 + 4
    assert to_list(found.table) == [
        NativeHistogram(count=expected, sum=expected, positive={0: expected}, hint="gauge")
    ]
    known = np.array([True, False, False, True, False, False])
    found = math_of.increase(table, np.array([0, 6]), np.arange(6), known_resets=known)
    assert to_list(found.table)[0].count == expected + 2


def test_increase_leaves_out_a_first_sample_before_a_reset():
    other = NativeHistogram(schema=-53, count=9, positive={0: 9}, custom_bounds=(1.0,))
    table = from_list([other, *COUNTER[2:4]])
    found = math_of.increase(table, np.array([0, 3]), np.arange(3))
    assert not found.is_mixed[0]
    assert to_list(found.table)[0].positive == {0: 4.0}


def test_increase_and_delta_tell_counters_from_gauges():
    gauge = NativeHistogram(count=1, hint="gauge")
    counter = NativeHistogram(count=2)
    table = from_list([gauge, counter, gauge])
    offsets = np.array([0, 2, 4])
    rows = np.array([0, 1, 0, 2])
    assert math_of.increase(table, offsets, rows).not_counter.tolist() == [True, True]
    delta = math_of.increase(table, offsets, rows, is_counter=False)
    assert delta.not_gauge.tolist() == [True, False]


def test_is_reset_believes_the_hint():
    small, large = NativeHistogram(count=1), NativeHistogram(count=2)
    table = from_list(
        [
            small,
            large,
            NativeHistogram(count=1, hint="not_reset"),
            NativeHistogram(count=3, hint="reset"),
        ]
    )
    found = math_of.is_reset(table, np.array([0, 1, 1, 1]), np.array([1, 0, 2, 3]))
    assert found.tolist() == [False, True, False, True]


def test_derive_hints_as_a_database_does():
    histograms = [
        NativeHistogram(count=1),
        NativeHistogram(count=2),
        NativeHistogram(count=1),
        NativeHistogram(count=3, hint="gauge"),
        NativeHistogram(count=4),
        NativeHistogram(count=5, hint="not_reset"),
        NativeHistogram(count=6, schema=-1),
        NativeHistogram(count=7, schema=-1, hint="reset"),
        NativeHistogram(count=8, schema=-1),
    ]
    table = from_list(histograms)
    hints = math_of.derive_hints(table, np.array([0, 8, 8, 9]), np.arange(9))
    assert hints.tolist() == [
        HINT_UNKNOWN, HINT_NOT_RESET, HINT_UNKNOWN, HINT_GAUGE, HINT_UNKNOWN, HINT_NOT_RESET,
        HINT_UNKNOWN, HINT_RESET, HINT_UNKNOWN,
    ]  # fmt: skip


def test_bounds_and_rules_of_buckets():
    table = from_list([H_TEST, CUSTOM])
    lower, upper = math_of.bucket_bounds(table)
    assert lower.tolist()[:6] == [-2, -1, 0.5, 1, 2, 4]
    assert upper.tolist()[:6] == [-1, -0.5, 1, 2, 4, 8]
    assert lower.tolist()[6:] == [-math.inf, 5, 10, 15, 20]
    assert upper.tolist()[6:] == [5, 10, 15, 20, math.inf]
    assert math_of.bucket_rules(table).tolist() == [1, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0]
    assert [side.tolist() for side in math_of.zero_bounds(table)] == [[-0.001, 0], [0.001, 0]]


def test_spans_and_costs():
    table = from_list(
        [
            NativeHistogram(count=9, positive={-3: 1, -2: 2, 5: 3}, negative={1: 4, 2: 5, 9: 6}),
            NativeHistogram(),
            NativeHistogram(count=1, negative={-1: 7}),
        ]
    )
    positive, negative = math_of.spans_of(table)
    assert positive.span_offsets.tolist() == [0, 2, 2, 2]
    assert positive.offset.tolist() == [-3, 6]
    assert positive.length.tolist() == [2, 1]
    assert positive.counts.tolist() == [1, 2, 3]
    assert negative.span_offsets.tolist() == [0, 2, 2, 3]
    assert negative.offset.tolist() == [1, 6, -1]
    assert negative.length.tolist() == [2, 1, 1]
    assert negative.count_offsets.tolist() == [0, 3, 3, 4]
    assert negative.counts.tolist() == [4, 5, 6, 7]
    # 168 bytes and 8 for the time, for each span and for each bucket, in samples of 16 bytes.
    assert math_of.costs_of(table).tolist() == [(176 + 8 * 10) // 16, 11, (176 + 8 * 2) // 16]
    assert math_of.cost_of(table) == 16 + 11 + 12
    assert math_of.cost_of(from_list([CUSTOM])) == (176 + 8 * (1 + 5 + 4)) // 16


def test_what_does_not_fit_raises():
    table = from_list([H_TEST, H_TEST])
    with pytest.raises(IndexError, match="not in the table of 2"):
        math_of.combine(table, np.array([0, 1]), np.array([2]), np.ones(1))
    with pytest.raises(ValueError, match="every list must have 1 rows"):
        math_of.combine(table, np.array([0, 0, 1]), ONE_ROW, np.ones(1))
    with pytest.raises(ValueError, match="every list must have 2 rows"):
        math_of.increase(table, np.array([0, 1]), ONE_ROW)
    with pytest.raises(ValueError, match="list_offsets must lead from 0 to 1"):
        math_of.average(table, np.array([0, 2]), ONE_ROW)
    with pytest.raises(ValueError, match="factors has 1 items, not 2"):
        math_of.scale(table, np.ones(1))


def test_nothing_gives_nothing():
    table = from_list([])
    none = np.empty(0, np.int64)
    assert len(math_of.combine(table, np.zeros(1, np.int64), none, np.empty(0)).table) == 0
    assert len(math_of.increase(table, np.zeros(1, np.int64), none).table) == 0
    assert len(math_of.derive_hints(table, np.zeros(1, np.int64), none)) == 0
    assert len(math_of.trim(table, none, np.empty(0), upper=True)) == 0
    assert math_of.cost_of(table) == 0
