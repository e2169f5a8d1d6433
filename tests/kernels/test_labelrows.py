import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import labelrows as reference
from tsengine.kernels.labelrows import group_rows


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
