from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import sorting as reference
from tsengine.kernels.jit import OK
from tsengine.kernels.sorting import N_DIGITS, group_by_key, order_by_key


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.integers(0, 2**32 - 1) | st.integers(0, 3) | st.sampled_from([2**11, 2**22, 2**31]),
        max_size=200,
    )
)
def test_order_by_key_matches_reference(keys):
    keys_in = np.array(keys, np.uint32)
    keys_in.flags.writeable = False
    order = np.empty(len(keys), np.uint32)
    spare = np.empty(len(keys), np.uint32)
    assert order_by_key(keys_in, order, spare, np.empty(N_DIGITS, np.int64)) == OK
    assert order.tolist() == reference.order_by_key(keys)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([0, 7, 2**32 - 40]),
    st.lists(st.tuples(st.integers(0, 30), st.integers(-3, 3), st.integers(0, 2**64 - 1))),
)
def test_group_by_key_matches_reference(lowest, rows):
    n = len(rows)
    keys = np.array([lowest + key for key, _, _ in rows], np.uint32)
    t_ms, bits = (np.array([r[1] for r in rows], np.int64), np.array([r[2] for r in rows], "u8"))
    places, out_keys = np.full(31, 9, np.uint32), np.empty(31, np.uint32)
    offsets, falls = np.empty(32, np.int64), np.empty(1, np.int64)
    out_t_ms, out_bits = np.empty(n, np.int64), np.empty(n, np.uint64)
    n_keys = group_by_key(
        keys, t_ms, bits, lowest, places, out_keys, offsets, out_t_ms, out_bits, falls
    )
    found = (out_keys[:n_keys], offsets[: n_keys + 1], out_t_ms, out_bits)
    expected = reference.group_by_key(keys.tolist(), t_ms.tolist(), bits.tolist())
    assert (*(array.tolist() for array in found), int(falls[0])) == expected
