"""What the fuzzer relies on for native histograms: data, messages, comparison, explanations."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

from tests.differential.cases import Case
from tests.differential.clocks import BASE_MS, END_MS, STALE, STALE_BITS
from tests.differential.compare import answers_differ, points_of, same_histogram
from tests.differential.explained import explanation
from tests.differential.grammar import Node, Times
from tests.differential.messages import histogram_field, write_messages
from tests.differential.native_data import make_native_series
from tests.differential.native_grammar import make_query
from tests.http import wire
from tests.reference.histogramwire import read_histogram
from tests.reference.remote_write import bits_of
from tsengine.model.histogram_values import NativeHistogram

SERIES = make_native_series(1)


def values_of(name):
    return [[value for _, value in samples]
            for labels, samples in SERIES if labels["__name__"] == name]  # fmt: skip


def is_stale(value):
    number = value.sum if isinstance(value, NativeHistogram) else value
    return bits_of(number) == STALE_BITS


def test_data_are_the_same_for_a_seed():
    assert repr(make_native_series(1)) == repr(SERIES)
    assert repr(make_native_series(2)) != repr(SERIES)
    for _, samples in SERIES:
        times = [t for t, _ in samples]
        assert times == sorted(set(times))
        assert BASE_MS <= times[0] <= times[-1] <= END_MS + 1


def test_data_have_all_kinds_of_histograms():
    everything = [value for _, samples in SERIES for _, value in samples]
    histograms = [value for value in everything if isinstance(value, NativeHistogram)]
    assert {one.schema for one in histograms} >= {-53, 0, 1, 3}
    assert len({one.custom_bounds for one in histograms}) >= 4
    assert {one.hint for one in histograms} == {"unknown", "not_reset", "gauge"}
    assert {isinstance(one.count, int) for one in histograms} == {True, False}
    assert any(one.negative and one.positive and one.zero_count for one in histograms)
    assert any(is_stale(value) for value in everything if isinstance(value, float))
    assert any(is_stale(one) for one in histograms)
    assert any(math.isinf(one.sum) for one in histograms)


def test_counters_fall_and_mixed_series_change_their_kind():
    falls = [
        b.count < a.count
        for values in values_of("request_seconds")
        for a, b in pairwise(value for value in values if not is_stale(value))
    ]
    assert 0 < sum(falls) < len(falls) / 10
    for values in values_of("mixed")[:3]:
        kinds = [isinstance(value, float) for value in values]
        assert sum(a != b for a, b in pairwise(kinds)) > 3


def test_counts_fit_the_buckets():
    for _, samples in SERIES:
        for _, value in samples:
            if isinstance(value, NativeHistogram):
                buckets = (*value.positive.values(), *value.negative.values(), value.zero_count)
                assert value.count == sum(buckets)


def test_messages_hold_all_samples():
    found = {}
    for message in write_messages(SERIES):
        seen = set()
        for number, data in wire.fields(message):
            assert number == 1
            labels, samples = {}, []
            for inner, content in wire.fields(data):
                if inner == 1:
                    pair = dict(wire.fields(content))
                    labels[pair[1].decode()] = pair[2].decode()
                elif inner == 2:
                    t_ms, value = wire._decode_samples(content)
                    samples.append((t_ms, bits_of(value)))
                else:
                    t_ms, value = read_histogram(content)
                    samples.append((t_ms, _comparable(value)))
            key = tuple(sorted(labels.items()))
            assert key not in seen
            seen.add(key)
            found.setdefault(key, []).extend(samples)
    assert found == {
        tuple(sorted(labels.items())): [
            (t, _comparable(v) if isinstance(v, NativeHistogram) else bits_of(v))
            for t, v in samples
        ]
        for labels, samples in SERIES
    }


def _comparable(histogram):
    return dataclasses.replace(histogram, sum=bits_of(histogram.sum))


def test_kinds_of_samples_are_told_apart():
    plain, whole = NativeHistogram(0, 1.0, 2.0), NativeHistogram(0, 1, 2.0, zero_count=1)
    runs = (
        [1.0, STALE, 2.0], [plain, plain], [plain, whole], [1.0, plain, 1.0, 2.0],
        [plain, STALE, plain],
    )  # fmt: skip
    n_messages = [
        len(write_messages([({"__name__": "m"}, list(enumerate(values)))])) for values in runs
    ]
    assert n_messages == [1, 1, 2, 3, 3]


def test_spans_of_buckets_below_and_above_zero():
    histogram = NativeHistogram(
        schema=2, count=12, sum=0.5, zero_threshold=0.01, zero_count=2, negative={-3: 4},
        positive={-5: 1, -4: 3, 0: 2}, hint="gauge",
    )  # fmt: skip
    assert read_histogram(histogram_field(BASE_MS, histogram)) == (BASE_MS, histogram)
    floats = dataclasses.replace(histogram, count=12.0, zero_count=2.0)
    assert read_histogram(histogram_field(-1, floats)) == (-1, histogram)


def test_queries_about_floats_do_not_change_with_the_share():
    floats = [str(make_query(3, number, 0)[0]) for number in range(300)]
    some = [str(make_query(3, number, 0.4)[0]) for number in range(300)]
    same = sum(a == b for a, b in zip(floats, some, strict=True))
    assert 120 < same < 240
    assert some == [str(make_query(3, number, 0.4)[0]) for number in range(300)]
    assert any("request_seconds" in text for text in some)
    assert not any("request_seconds" in text for text in floats)


def shown(count="3", total="1.5", buckets=((0, "1", "2", "1"), (0, "2", "4", "2"))):
    return {"count": count, "sum": total, "buckets": [list(bucket) for bucket in buckets]}


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (shown(), True),
        (shown(count="3.0000000001"), True),
        (shown(count="3.00001"), False),
        (shown(total="1.6"), False),
        (shown(total="NaN"), False),
        (shown(buckets=[(0, "1", "2", "1")]), False),
        (shown(buckets=[(0, "1", "2", "1"), (0, "2", "4", "2"), (0, "4", "8", "1e-12")]), True),
        (shown(buckets=[(0, "1", "2", "1"), (0, "2", "4", "2"), (0, "4", "8", "1e-3")]), False),
        (shown(buckets=[(1, "1", "2", "1"), (0, "2", "4", "2")]), False),
        (shown(buckets=[(0, "1", "2", "1"), (0, "2", "4", "NaN")]), False),
    ],
)
def test_histograms(other, equal):
    assert same_histogram(shown(), other) == equal
    assert same_histogram(other, shown()) == equal
    assert (answers_differ(vector(shown()), vector(other)) is None) == equal
    assert answers_differ(vector(shown()), vector("3"))[0] == "value"


def vector(*values, warnings=(), **labels):
    rows = [
        {
            "metric": {"n": str(n), **labels},
            "histogram" if isinstance(value, dict) else "value": [1, value],
        }
        for n, value in enumerate(values)
    ]
    data = {"resultType": "vector", "result": rows}
    return {"status": "success", "data": data, "warnings": list(warnings), "infos": []}


def test_points_of_both_kinds_are_in_order():
    row = {"metric": {}, "values": [[1, "5"], [3, "6"]], "histograms": [[2, shown()]]}
    assert [t for t, _ in points_of(row)] == [1, 2, 3]
    assert points_of({"metric": {}, "histogram": [7, shown()]}) == [[7, shown()]]


def explained(op, expected, actual, operand=None, other_operand=None, others=()):
    """The name of the rule for one function of one operand.

    Both agree on the operand if only one is given. `others`: answers to other texts.
    """
    part = Node("v", ("request_seconds",))
    node = Node("v", (f"{op}(", part, ")"), op)
    answers = {
        str(part): (operand, other_operand or operand),
        str(node): (expected, actual),
        **{text: (answer, answer) for text, answer in others},
    }

    def ask(node, times):
        unknown = vector(), vector("0")
        return Case(node, times, *answers.get(str(node), unknown), ask)

    return explanation(ask(node, Times(0, 0, 0)))


def scaled(factor):
    buckets = [(0, "1", "2", str(factor)), (0, "2", "4", str(2 * factor))]
    return shown(str(3 * factor), str(1.5 * factor), buckets)


def test_only_a_smaller_rate_is_one_that_is_limited():
    operand = vector()
    name = "rate of histograms limited to zero"
    assert explained("rate", vector(shown()), vector(scaled(0.75)), operand) == name
    assert explained("rate", vector(shown()), vector(scaled(1.25)), operand) is None
    assert explained("avg", vector(shown()), vector(scaled(0.75)), operand) is None
    crooked = {**scaled(0.75), "count": "2.5"}
    assert explained("rate", vector(shown()), vector(crooked), operand) is None


def test_zero_buckets_explain_values_within_them_only():
    name = "empty buckets in the database"
    operand = vector(shown(buckets=[(3, "-0.5", "0.5", "3")]))
    ask = "histogram_quantile"
    assert explained(ask, vector("0"), vector("-0.5"), operand) == name
    assert explained(ask, vector("0"), vector("-0.75"), operand) is None
    two_sided = [(1, "-2", "-1", "1"), (3, "-0.5", "0.5", "1"), (0, "1", "2", "1")]
    assert explained(ask, vector("0"), vector("-0.5"), vector(shown(buckets=two_sided))) is None


def test_sums_of_other_bounds_need_the_warning_of_one_side_and_the_info_of_the_other():
    warning = 'vector contains histograms with incompatible custom buckets for metric name "m"'
    expected = vector(warnings=[warning])
    actual = vector(shown())
    assert explained("sum", expected, actual, vector()) is None
    actual["infos"] = ["mismatched custom buckets were reconciled during aggregation"]
    assert explained("sum", expected, actual, vector()) == "custom bounds reconciled"
    assert explained("sum", vector(), actual, vector()) is None


def test_a_fraction_is_explained_if_it_was_no_number():
    name = "histogram_fraction below the lowest bound"
    ask = "histogram_fraction"
    assert explained(ask, vector("NaN"), vector("0.5"), vector("1")) == name
    assert explained(ask, vector("0.25"), vector("0.5"), vector("1")) is None


def test_rounding_explains_only_what_a_slight_change_of_the_operand_does():
    operands = vector("1"), vector("0.9999999999999999")
    differing = ("floor", vector("1"), vector("0"), *operands)
    plain = "floor((request_seconds * 1))"
    factors = ("1.0000000000000004", "0.9999999999999996", "1.0000000000000018",
               "0.9999999999999982")  # fmt: skip
    steady = [(f"floor((request_seconds * {factor}))", vector("1")) for factor in factors]
    assert explained(*differing, [(plain, vector("1")), *steady]) is None
    steady[1] = (steady[1][0], vector("0"))
    assert explained(*differing, [(plain, vector("1")), *steady]) == "rounding made larger"
    same = ("floor", vector("1"), vector("0"), vector("1"), None)
    assert explained(*same, [(plain, vector("1")), *steady]) is None


def test_a_mean_is_right_if_it_is_the_sum_over_the_count():
    expected, actual = vector(scaled(1)), vector(scaled(1.5))
    quotient = "(sum(request_seconds) / count(request_seconds))"

    def mean(answer):
        return explained("avg", expected, actual, vector(), others=[(quotient, answer)])

    assert mean(expected) is None
    assert mean(actual) == "mean of histograms of several layouts"
