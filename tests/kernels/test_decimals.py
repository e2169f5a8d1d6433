import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import decimals as reference
from tsengine.kernels.decimals import NO_EXPONENT, decimal_exponent

DECIMALS = st.builds(lambda m, k: m / 10**k, st.integers(-(10**9), 10**9), st.integers(0, 16))
EDGES = st.sampled_from([0.0, 2.0**53, 2.0**53 - 1, 1 - 2.0**53, 2.0**52 + 0.5, 5e-324, 1e308])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(DECIMALS, max_size=40)
    | st.lists(DECIMALS | EDGES | st.floats(allow_nan=False, allow_infinity=False), max_size=8),
    st.integers(0, 140),
)
def test_decimal_exponent_matches_reference(values, n_before):
    values = [1.0] * n_before + [value + 0.0 for value in values]
    m = np.full(len(values), 77, np.int64)
    k = decimal_exponent(np.array(values, np.float64), m)
    expected_k, expected_m = reference.decimal_exponent(values)
    assert k == expected_k
    assert m.tolist() == (expected_m if k >= 0 else [77] * len(values))


def test_division_gives_what_parsing_gave():
    for digits in range(12):
        values = [float(f"{m}e-{digits}") for m in (1, 3, 123456789, 999999, 2000)]
        m = np.empty(len(values), np.int64)
        k = decimal_exponent(np.array(values), m)
        assert k == digits
        assert m.tolist() == [1, 3, 123456789, 999999, 2000]
        assert (m / 10.0**k).tolist() == values


def test_too_many_digits_are_none():
    m = np.empty(2, np.int64)
    assert decimal_exponent(np.array([1e15 + 0.5, 1e-15]), m) == NO_EXPONENT
    assert decimal_exponent(np.array([0.1, 1 / 3]), m) == NO_EXPONENT
