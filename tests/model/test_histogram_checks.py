"""Tables of histograms: normal form is told from everything else, bounds are kept once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.histogram_tables import plain_rows, table_of, tables
from tsengine.model.histogram_bounds import with_own_bounds
from tsengine.model.histogram_checks import check_histograms
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import KEY_BIAS, concatenate

GOOD = from_list(
    [
        NativeHistogram(count=3.0, sum=1.0, positive={0: 1.0, 4: 2.0}, negative={2: 1.0}),
        NativeHistogram(schema=-53, count=2.0, positive={0: 1.0, 2: 1.0}, custom_bounds=(1.0, 2.0)),
        NativeHistogram(),
    ]
)


@given(tables)
@settings(deadline=None)
def test_tables_in_normal_form_pass(table):
    check_histograms(table)


def changed(name: str, position: int, value: float):
    column = getattr(GOOD, name).copy()
    column[position] = value
    return replace(GOOD, **{name: column})


BROKEN = {
    "dtype": (replace(GOOD, count=GOOD.count.astype(np.float32)), "count is float32"),
    "rows": (replace(GOOD, hint=GOOD.hint[:2]), "hint has 2 rows, not 3"),
    "counts": (replace(GOOD, counts=GOOD.counts[:2]), "5 keys and 2 counts"),
    "offsets": (replace(GOOD, offsets=GOOD.offsets[:3]), "3 offsets for 3"),
    "falling offsets": (changed("offsets", 1, 9), "offsets do not ascend"),
    "bounds offsets": (changed("bounds_offsets", 1, 1), "bounds_offsets do not ascend"),
    "schema": (changed("schema", 0, 9), "a schema is not"),
    "hint": (changed("hint", 0, 4), "a hint is above 3"),
    "count": (changed("count", 0, -1.0), "a count is negative"),
    "zero count": (changed("zero_count", 0, -1.0), "a count is negative"),
    "bounds of exponential": (changed("bounds_id", 0, 0), "have bounds, the others have none"),
    "no bounds": (changed("bounds_id", 1, -1), "have bounds, the others have none"),
    "other bounds": (changed("bounds_id", 1, 1), "a row of bounds does not exist"),
    "zero bucket": (changed("zero_threshold", 1, 0.1), "has a zero bucket"),
    "zero key": (changed("keys", 1, 0), "the key of a bucket is out of range"),
    "large key": (changed("keys", 2, 2 * KEY_BIAS), "the key of a bucket is out of range"),
    "keys": (changed("keys", 2, KEY_BIAS), "keys of a histogram do not ascend"),
    "bucket": (changed("counts", 0, -1.0), "count of a bucket is negative"),
    "empty bucket": (changed("counts", 0, 0.0), "a bucket is empty"),
    "custom index": (changed("keys", 4, KEY_BIAS + 3), "custom bucket is out of range"),
    "bounds": (changed("bounds", 0, 2.0), "custom bounds do not ascend"),
    "NaN bound": (changed("bounds", 1, np.nan), "custom bounds do not ascend"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_everything_else_is_refused(name):
    table, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        check_histograms(table)


def test_the_good_table_is_good():
    check_histograms(GOOD)


@given(st.lists(tables, min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_bounds_in_use_are_kept_once(parts, data):
    table = concatenate(parts)
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(table))), max_size=6))
                    if len(table) else [], np.int64)  # fmt: skip
    table = table.take(rows)
    found = with_own_bounds(table)
    assert plain_rows(found) == plain_rows(table)
    kept = {row[-1] for row in plain_rows(table) if row[-1] is not None}
    assert len(found.bounds_offsets) - 1 == len(kept)
    check_histograms(found)


def test_no_rows_need_no_bounds():
    assert len(with_own_bounds(GOOD.take(np.array([0]))).bounds) == 0
    assert len(with_own_bounds(table_of([])).bounds) == 0
