"""Reads without values: the same samples, and markers are where they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.samples import STALE
from tests.storage.test_select import N_SERIES, source_rows, stack
from tsengine.storage import select


@settings(max_examples=60, deadline=None)
@given(
    st.lists(source_rows(), max_size=3),
    st.lists(st.lists(source_rows(), max_size=2), max_size=1),
    st.sampled_from([(-(2**62), 2**62), (0, 30), (5, 4_000_000)]),
    st.booleans(),
)
def test_only_values_may_differ(parts, heads, span, drop_stale):
    refs = np.arange(N_SERIES * 3 + 1, dtype=np.uint32)
    with stack(parts, heads) as (readers, views, _):
        whole = select.read_frames(readers, views, refs, *span, drop_stale=drop_stale)
        bare = select.read_frames(
            readers, views, refs, *span, drop_stale=drop_stale, with_values=False
        )
    np.testing.assert_array_equal(bare.t_ms, whole.t_ms)
    np.testing.assert_array_equal(bare.axis_offsets, whole.axis_offsets)
    np.testing.assert_array_equal(bare.row_axis, whole.row_axis)
    np.testing.assert_array_equal(bare.row_offsets, whole.row_offsets)
    bits, wanted = bare.values.view(np.uint64), whole.values.view(np.uint64)
    np.testing.assert_array_equal(bits == STALE, wanted == STALE)
    assert set(bits[bits != wanted].tolist()) <= {0}


def test_blocks_without_markers_are_not_decoded():
    rows = [(ref, t, 7) for t in range(50) for ref in range(4)]
    marked = [(9, t, STALE if t == 20 else 7) for t in range(50)]
    refs = np.array([0, 1, 2, 3, 9], np.uint32)
    with stack([rows + marked], []) as (readers, views, _):
        frames = select.read_frames(
            readers, views, refs, 0, 60, drop_stale=False, with_values=False
        )
        assert frames.values[:200].tolist() == [0.0] * 200
        bits = frames.values[200:].view(np.uint64).tolist()
        assert bits[20] == STALE
        assert bits[19] == bits[21] == 7
