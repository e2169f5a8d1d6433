from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import sorting as reference
from tsengine.kernels.jit import OK
from tsengine.kernels.sorting import N_DIGITS, order_by_key


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
