"""Element-wise kernels against Go's rules in Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import elementwise as twin
from tsengine.kernels import elementwise as k

numbers = st.one_of(st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0]), st.floats())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20))
def test_clamp_cells(cells):
    values, low, high = np.array(cells).T.copy()
    out = np.empty((1, len(cells)))
    k.clamp_cells(values[None, :], low, high, out)
    want = np.array([twin.clamp_cells(*cell) for cell in cells])
    np.testing.assert_array_equal(out[0], want)
    is_number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(out[0])[is_number], np.signbit(want)[is_number])
