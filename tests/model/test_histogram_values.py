"""Single native histograms, their checks, and the way to tables and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tsengine.model.histogram_values import NativeHistogram, from_list, to_list
from tsengine.model.histograms import KEY_BIAS, concatenate

HISTOGRAMS = [
    NativeHistogram(3, 9, 1.5, 0.001, 2, {5: 1, -1: 2}, {0: 1, 7: 3}, hint="gauge"),
    NativeHistogram(-53, 3, 4, positive={0: 1, 2: 2}, custom_bounds=(1.0, 2.5), hint="reset"),
    NativeHistogram(),
    NativeHistogram(-53, 1, 1, positive={2: 1}, custom_bounds=(1.0, 2.5), hint="not_reset"),
    NativeHistogram(-53, 1, 1, positive={0: 1}),
]


def test_a_table_gives_the_histograms_back():
    table = from_list(HISTOGRAMS)
    assert to_list(table) == HISTOGRAMS
    assert to_list(table.take(np.array([3, 0]))) == [HISTOGRAMS[3], HISTOGRAMS[0]]
    assert to_list(concatenate([table, table])) == HISTOGRAMS * 2
    assert to_list(from_list([])) == []


def test_keys_ascend_as_values_do():
    table = from_list(HISTOGRAMS[:1])
    biased = [-(7 + KEY_BIAS), -KEY_BIAS, KEY_BIAS - 1, KEY_BIAS + 5]
    assert table.keys.tolist() == biased
    assert table.counts.tolist() == [3, 1, 2, 1]


def test_equal_bounds_stand_once():
    table = from_list(HISTOGRAMS)
    assert table.bounds_id.tolist() == [-1, 0, -1, 0, 1]
    assert table.bounds.tolist() == [1.0, 2.5]


def test_empty_buckets_are_left_out():
    table = from_list([NativeHistogram(count=1, positive={1: 0.0, 2: 1.0}, negative={3: 0.0})])
    assert to_list(table) == [NativeHistogram(count=1, positive={2: 1.0})]


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        (NativeHistogram(schema=9), "schema is 9"),
        (NativeHistogram(schema=-5), "schema is -5"),
        (NativeHistogram(hint="new"), "hint is 'new'"),
        (NativeHistogram(zero_threshold=-1.0), "zero_threshold is -1.0"),
        (NativeHistogram(zero_threshold=math.nan), "zero_threshold is nan"),
        (NativeHistogram(positive={KEY_BIAS: 1}), "bucket index 1048576"),
        (NativeHistogram(negative={-KEY_BIAS: 1}), "bucket index -1048576"),
        (NativeHistogram(custom_bounds=(1.0,)), "custom_bounds don't go with schema 0"),
        (NativeHistogram(-53, custom_bounds=(1.0, 1.0)), "must strictly ascend"),
        (NativeHistogram(-53, custom_bounds=(1.0, math.inf)), "must be finite"),
        (NativeHistogram(-53, custom_bounds=(math.nan,)), "must be finite"),
        (NativeHistogram(-53, negative={1: 1.0}), "can't be negative"),
        (NativeHistogram(-53, zero_count=1.0), "no zero bucket"),
        (NativeHistogram(-53, positive={1: 1.0}), "bucket index 1 is not within 0 to 0"),
    ],
)
def test_what_is_no_histogram_raises(histogram, message):
    with pytest.raises(ValueError, match=message):
        histogram.validate()
    with pytest.raises(ValueError, match="histogram 1: .*" + message):
        from_list([NativeHistogram(), histogram])
