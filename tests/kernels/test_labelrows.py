from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import labelrows as reference
from tsengine.kernels.labelrows import filter_rows, group_rows


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=30), st.booleans())
def test_group_rows_matches_reference(rows, with_large_ids):
    shift = 2**31 if with_large_ids else 0
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    pairs = np.array([x + shift for row in rows for x in row], np.uint32)
    table = np.full(64, -1, np.int64)
    group_of_row = np.empty(len(rows), np.int64)
    first_row = np.empty(len(rows), np.int64)
    n_groups = group_rows(offsets, pairs, table, group_of_row, first_row)
    groups, first = reference.group_rows(rows)
    assert group_of_row.tolist() == groups
    assert first_row[:n_groups].tolist() == first


def test_a_full_table_is_probed_to_its_end():
    offsets = np.arange(9, dtype=np.int64)
    pairs = np.arange(8, dtype=np.uint32)
    group_of_row = np.empty(8, np.int64)
    n_groups = group_rows(
        offsets, pairs, np.full(8, -1, np.int64), group_of_row, np.empty(8, np.int64)
    )
    assert n_groups == 8
    assert group_of_row.tolist() == list(range(8))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=5).map(tuple), max_size=20),
    st.sets(st.integers(0, 4)),
    st.booleans(),
)
def test_filter_rows_matches_reference(rows, wanted, keep):
    """Pairs 5 to 9 are the query's own; the names of pairs are their numbers modulo 4."""
    own = 2**31 - 5
    pairs = np.array([x + own * (x > 4) for row in rows for x in row], np.uint32)
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    names = np.arange(5, dtype=np.uint32) % 4
    own_names = np.arange(5, 10, dtype=np.uint32) % 4
    out_offsets, out = np.empty(len(rows) + 1, np.int64), np.empty(len(pairs), np.uint32)
    n_left = filter_rows(
        offsets, pairs, names, own_names, np.array(sorted(wanted), np.uint32), keep,
        out_offsets, out,
    )  # fmt: skip
    expected = reference.filter_rows(rows, {x: x % 4 for x in range(10)}, wanted, keep=keep)
    left = out[:n_left].astype(np.int64)
    left[left >= 2**31] -= own
    assert [tuple(left[a:b]) for a, b in pairwise(out_offsets)] == expected
