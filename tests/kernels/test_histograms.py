"""Kernels of native histograms against their slow twins, and the constants they share."""

from __future__ import annotations

import math
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import histograms as reference
from tsengine.kernels import histogram_buckets, histogram_sums
from tsengine.kernels.histogram_buckets import columns_of
from tsengine.kernels.jit import ERR_CAPACITY
from tsengine.model import histogram_sums as sums_module
from tsengine.model import histograms as model
from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.query import histogram_math

MAX_FLOAT = 1.7976931348623157e308
BOUNDS = (-5.0, -1.0, 0.0, 0.5, 2.0, 4.0, 8.0)

counts = st.sampled_from([1.0, 2.0, 3.5, 0.125, 1000.0, 7.0])
any_counts = st.sampled_from([0.0, 1.0, -2.0, 3.5, 1e16, -1e16, 1e-3])
hints = st.sampled_from(["unknown", "reset", "not_reset", "gauge"])
thresholds = st.sampled_from([0.0, 2.0**-128, 0.001, 0.25, 0.6, 1.0, 1.7, 4.0, 16.0])
VALUES = st.one_of(
    st.sampled_from([-math.inf, math.inf, math.nan, 0.0, -1.0, 1.0, 2.0, 0.5, -0.001, 0.001]),
    st.floats(-40, 40),
)


@st.composite
def exponential(draw, counts=counts, max_index=8):
    buckets = st.dictionaries(st.integers(-max_index, max_index), counts, max_size=6)
    positive, negative = draw(buckets), draw(st.one_of(st.just({}), buckets))
    zero_count = draw(st.one_of(st.just(0.0), counts))
    total = math.fsum([*positive.values(), *negative.values(), zero_count])
    return NativeHistogram(
        schema=draw(st.sampled_from([-2, -1, 0, 1, 2, 3])),
        count=total + draw(st.sampled_from([0.0, 0.0, 1.0])),
        sum=draw(st.sampled_from([0.0, 5.5, -7.25, 1e9])),
        zero_threshold=draw(thresholds),
        zero_count=zero_count,
        positive=positive,
        negative=negative,
        hint=draw(hints),
    )


@st.composite
def custom(draw, counts=counts):
    bounds = tuple(sorted(draw(st.sets(st.sampled_from(BOUNDS), max_size=5))))
    positive = draw(st.dictionaries(st.integers(0, len(bounds)), counts, max_size=6))
    return NativeHistogram(
        schema=-53,
        count=math.fsum(positive.values()),
        sum=draw(st.sampled_from([0.0, 5.5, -7.25])),
        positive=positive,
        custom_bounds=bounds,
        hint=draw(hints),
    )


def lists_of(histogram, min_size=1, max_size=5):
    return st.lists(st.lists(histogram, min_size=min_size, max_size=max_size), max_size=4)


EXTREMES = [
    (0, 1024, MAX_FLOAT), (0, 1025, math.inf), (0, -1022, 2.0**-1022), (0, -1074, 5e-324),
    (0, -1080, 0.0), (8, 1024 << 8, MAX_FLOAT), (8, (1024 << 8) + 1, math.inf),
    (8, (1024 << 8) - 1, 2.0**1023 * 2.0 ** (255 / 256)), (-4, 64, MAX_FLOAT), (-4, 65, math.inf),
    (-4, -64, 2.0**-1024), (-4, -70, 0.0), (3, -8 * 1050 + 3, 2.0**-1050 * 2.0**0.375),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "index", "expected"), EXTREMES)
def test_bounds_at_the_ends_of_floats(schema, index, expected):
    table = from_list([NativeHistogram(schema=schema, positive={index: 1.0})])
    assert histogram_math.bucket_bounds(table)[1][0] == pytest.approx(expected, rel=1e-14)


@numba.njit
def _first_index_above(threshold, schema):
    return histogram_buckets.first_index_above(threshold, schema)


@numba.njit
def _exponential_bound(index, schema):
    return histogram_buckets.exponential_bound(index, schema)


@pytest.mark.parametrize("schema", [-4, -1, 0, 3, 8])
@pytest.mark.parametrize(
    "threshold", [5e-324, 1e-310, 2.0**-1022, 2.0**-128, 0.001, 1.0, 1.5, 4.0, 1e300, MAX_FLOAT]
)
def test_first_index_above_is_that_of_the_first_bucket_that_ends_above(threshold, schema):
    index = int(_first_index_above(threshold, schema))
    bound_of = _exponential_bound
    assert bound_of(index - 1, schema) <= threshold < bound_of(index, schema)


few = settings(max_examples=50, deadline=None)
LISTS = st.one_of(
    lists_of(exponential()),
    lists_of(exponential(any_counts)),
    lists_of(custom()),
    lists_of(st.one_of(exponential(), custom())),
)


def as_rows(lists):
    """A table of all histograms, offsets of the lists, rows."""
    table = from_list([h for histograms in lists for h in histograms])
    offsets = np.cumsum([0] + [len(histograms) for histograms in lists])
    return table, offsets, np.arange(len(table))


def close(a, b):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12, nan_ok=True)


def assert_same(found, expected):
    """Two histograms are equal but for rounding; a bucket of rounding errors is an empty one."""
    assert found.schema == expected.schema
    assert found.hint == expected.hint
    assert found.custom_bounds == expected.custom_bounds
    for name in ("count", "sum", "zero_count", "zero_threshold"):
        assert close(getattr(found, name), getattr(expected, name)), name
    for name in ("positive", "negative"):
        a, b = getattr(found, name), getattr(expected, name)
        for index in {*a, *b}:
            assert close(a.get(index, 0.0), b.get(index, 0.0)), (name, index)


def test_constants_are_those_of_the_model():
    assert histogram_buckets.KEY_BIAS == model.KEY_BIAS
    assert histogram_buckets.CUSTOM_SCHEMA == model.CUSTOM_SCHEMA


def test_bounds_are_powers_of_two_within_prometheus_rounding():
    exact = 2.0 ** (np.arange(256) / 256 - 1)
    np.testing.assert_allclose(histogram_buckets.BOUNDS, exact, rtol=1e-15)
    assert histogram_buckets.BOUNDS[128] == 0.7071067811865475
    assert histogram_buckets.BOUNDS[64] == 0.5946035575013605


@few
@given(LISTS)
def test_sum_histograms_matches_reference(lists):
    table, offsets, rows = as_rows(lists)
    found = histogram_math.combine(table, offsets, rows, np.ones(len(rows)))
    for o, histograms in enumerate(lists):
        expected, reconciled = reference.sum_histograms(histograms, [1.0] * len(histograms))
        assert found.is_mixed[o] == (expected is None)
        assert found.reconciled[o] == bool(reconciled)
        if expected is not None:
            assert_same(to_list(found.table)[o], expected)
            seen = {h.hint for h in histograms}
            assert found.hint_clash[o] == ({"reset", "not_reset"} <= seen)


@few
@given(LISTS, st.lists(st.sampled_from([1.0, -1.0, 0.5, 2.0]), min_size=20, max_size=20))
def test_sum_histograms_with_factors_matches_reference(lists, factors):
    table, offsets, rows = as_rows(lists)
    factors = factors[: len(rows)]
    found = histogram_math.combine(table, offsets, rows, np.array(factors), as_gauge=True)
    for o, histograms in enumerate(lists):
        expected, _ = reference.sum_histograms(histograms, factors[offsets[o] : offsets[o + 1]])
        if expected is not None:
            assert_same(to_list(found.table)[o], replace(expected, hint="gauge"))


def test_the_sum_of_one_histogram_keeps_the_sign_of_zero():
    negative, positive = NativeHistogram(sum=-0.0), NativeHistogram(sum=0.0)
    table, offsets, rows = as_rows([[negative], [positive], [negative, negative]])
    sums = histogram_math.combine(table, offsets, rows, np.ones(len(rows))).table.sum
    assert np.signbit(sums).tolist() == [True, False, False]
    means = histogram_math.average(table, offsets, rows).table.sum
    assert np.signbit(means).tolist() == [True, False, False]
    turned = histogram_math.combine(table, offsets, rows, -np.ones(len(rows))).table.sum
    assert np.signbit(turned).tolist() == [False, True, False]


@few
@given(LISTS)
def test_means_match_reference(lists):
    table, offsets, rows = as_rows(lists)
    found = histogram_math.average(table, offsets, rows)
    for o, histograms in enumerate(lists):
        expected = reference.mean_of(histograms)
        assert found.is_mixed[o] == (expected is None)
        if expected is not None:
            assert_same(to_list(found.table)[o], expected)


@few
@given(LISTS)
def test_slabs_do_not_show(lists):
    table, offsets, rows = as_rows(lists)
    whole = histogram_math.combine(table, offsets, rows, np.ones(len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums_module, "BUCKETS_AT_ONCE", 3)
        parts = histogram_math.combine(table, offsets, rows, np.ones(len(rows)))
    keep = ~whole.is_mixed
    assert [h for h, k in zip(to_list(parts.table), keep, strict=True) if k] == [
        h for h, k in zip(to_list(whole.table), keep, strict=True) if k
    ]
    np.testing.assert_array_equal(parts.reconciled, whole.reconciled)


@few
@given(LISTS)
def test_bound_sums_bounds_the_buckets(lists):
    table, offsets, rows = as_rows(lists)
    n_buckets, n_bounds = np.empty((2, len(lists)), np.int64)
    largest = histogram_sums.bound_sums(columns_of(table), offsets, rows, n_buckets, n_bounds)
    assert largest == np.diff(table.offsets).max(initial=0)
    for o, histograms in enumerate(lists):
        assert n_buckets[o] <= max(reference.bound_sums(histograms), 0)


def test_sum_histograms_does_not_write_beyond_its_columns():
    table = from_list([NativeHistogram(positive={i: 1.0}) for i in range(4)])
    columns = columns_of(table)
    offsets, rows, one = np.array([0, 4]), np.arange(4), np.array([8])
    for n_scratch, n_out in ((3, 4), (4, 3)):
        code = histogram_sums.sum_histograms(
            columns, offsets, rows, np.ones(4), one, False,
            sums_module._scratch(n_scratch, 1, 0), sums_module._sums_columns(1, n_out, one * 0),
        )  # fmt: skip
        assert code == ERR_CAPACITY


pairs = st.one_of(
    st.tuples(exponential(), exponential()),
    st.tuples(custom(), custom()),
    st.tuples(st.one_of(exponential(), custom()), st.one_of(exponential(), custom())),
)


@st.composite
def grown(draw):
    """A histogram and one that can follow it: some buckets more, a wider layout now and then."""
    before = draw(st.one_of(exponential(max_index=4), custom()))
    after, _ = reference.sum_histograms(
        [before, replace(draw(st.just(before)), positive={}, negative={}, zero_count=0.0)], [1, 0.5]
    )
    more = {
        i: c + draw(st.sampled_from([0.0, 0.0, 1.0, -0.125])) for i, c in after.positive.items()
    }
    after = replace(after, positive=more, count=before.count + 1)
    if before.schema != -53:
        wider = replace(
            NativeHistogram(schema=draw(st.sampled_from([-2, 0, 3]))),
            zero_threshold=draw(thresholds),
        )
        after, _ = reference.sum_histograms([after, wider], [1.0, 1.0])
    return before, replace(after, hint=draw(hints))


@few
@given(st.lists(st.one_of(pairs, grown()), max_size=8))
def test_detect_resets_matches_reference(pairs):
    table = from_list([h for pair in pairs for h in pair])
    before, after = np.arange(0, 2 * len(pairs), 2), np.arange(1, 2 * len(pairs), 2)
    found = histogram_math.is_reset(table, before, after)
    assert found.tolist() == [reference.detect_resets(*pair) for pair in pairs]


@few
@given(
    st.lists(
        st.one_of(pairs, exponential().map(lambda h: (h, replace(h, hint="gauge")))), max_size=8
    )
)
def test_equal_histograms_matches_reference(pairs):
    table = from_list([h for pair in pairs for h in pair])
    a, b = np.arange(0, 2 * len(pairs), 2), np.arange(1, 2 * len(pairs), 2)
    normal = to_list(table)
    expected = [
        reference.equal_histograms(normal[2 * p], normal[2 * p + 1]) for p in range(len(pairs))
    ]
    assert histogram_math.equal(table, a, b).tolist() == expected


nan_sums = st.booleans().map(lambda is_nan: math.nan if is_nan else 1.0)
HISTOGRAMS = st.lists(
    st.tuples(st.one_of(exponential(), custom()), nan_sums).map(
        lambda pair: replace(pair[0], sum=pair[0].sum * pair[1])
    ),
    min_size=1,
    max_size=6,
)


@few
@given(
    HISTOGRAMS, st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, math.nan]))
)
def test_histogram_quantiles_matches_reference(histograms, q):
    table = from_list(histograms)
    rows = np.arange(len(histograms))
    values, has_nans = histogram_math.quantile(table, rows, np.full(len(rows), q))
    for h, value, flag in zip(histograms, values, has_nans, strict=True):
        expected, expected_flag = reference.histogram_quantiles(h, q)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
        assert flag == expected_flag


@few
@given(HISTOGRAMS, VALUES, VALUES)
def test_histogram_fractions_matches_reference(histograms, lower, upper):
    table = from_list(histograms)
    rows = np.arange(len(histograms))
    values, has_nans = histogram_math.fraction(
        table, rows, np.full(len(rows), lower), np.full(len(rows), upper)
    )
    for h, value, flag in zip(histograms, values, has_nans, strict=True):
        expected, expected_flag = reference.histogram_fractions(h, lower, upper)
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)
        assert flag == expected_flag


@few
@given(HISTOGRAMS)
def test_histogram_variances_matches_reference(histograms):
    table = from_list(histograms)
    found = histogram_math.variance(table, np.arange(len(histograms)))
    expected = [reference.histogram_variances(h) for h in histograms]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@few
@given(HISTOGRAMS)
def test_bucket_bounds_matches_reference(histograms):
    table = from_list(histograms)
    found = list(zip(*(side.tolist() for side in histogram_math.bucket_bounds(table)), strict=True))
    expected = [pair for h in histograms for pair in reference.bucket_bounds(h)]
    np.testing.assert_allclose(
        np.array(found).reshape(-1, 2), np.array(expected).reshape(-1, 2), rtol=1e-14
    )


@few
@given(HISTOGRAMS, VALUES, st.booleans())
def test_trim_histograms_matches_reference(histograms, threshold, upper):
    table = from_list(histograms)
    rows = np.arange(len(histograms))[::-1]
    found = histogram_math.trim(table, rows, np.full(len(rows), threshold), upper=upper)
    for h, trimmed in zip(reversed(histograms), to_list(found), strict=True):
        assert_same(trimmed, reference.trim_histograms(h, threshold, upper))


SERIES = st.one_of(
    lists_of(exponential(), min_size=2, max_size=6),
    lists_of(custom(), min_size=2, max_size=6),
    lists_of(st.one_of(exponential(), custom()), min_size=2, max_size=4),
)


@few
@given(SERIES)
def test_increases_match_reference(lists):
    table, offsets, rows = as_rows(lists)
    found = histogram_math.increase(table, offsets, rows)
    for o, samples in enumerate(lists):
        expected = reference.increase_of(samples)
        assert found.is_mixed[o] == (expected is None)
        if expected is not None:
            assert_same(to_list(found.table)[o], expected)
        assert found.not_counter[o] == any(h.hint == "gauge" for h in samples)


@few
@given(SERIES)
def test_deltas_are_last_minus_first(lists):
    table, offsets, rows = as_rows(lists)
    found = histogram_math.increase(table, offsets, rows, is_counter=False)
    for o, samples in enumerate(lists):
        floor = max(min(samples[0].schema, samples[-1].schema), -4)
        expected, _ = reference.sum_histograms([samples[-1], samples[0]], [1.0, -1.0], floor)
        assert found.is_mixed[o] == (expected is None)
        if expected is not None:
            assert_same(to_list(found.table)[o], replace(expected, hint="gauge"))
        assert found.not_gauge[o] == (samples[0].hint != "gauge" or samples[-1].hint != "gauge")
