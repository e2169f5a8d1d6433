from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import logcolumns as reference
from tsengine.kernels.logcolumns import write_columns

anywhere = st.integers(-(2**63), 2**63 - 1)
steps = st.integers(0, 3) | st.integers(-300, 300) | st.integers(-(2**33), 2**33) | anywhere


@st.composite
def columns(draw, n: int, n_bits: int, first):
    """Near one value, at even steps, or anything; wrapping around where it must."""
    start = draw(first)
    shape = draw(st.sampled_from(["near", "steps", "any"]))
    if shape == "any":
        values = [draw(first) for _ in range(n)]
    elif shape == "near":
        span = draw(st.sampled_from([0, 255, 256, 65_535, 65_536, 2**31]))
        values = [start + draw(st.integers(0, span)) for _ in range(n)]
    else:
        step, values = draw(steps), [start]
        for _ in range(n - 1):
            values.append(values[-1] + step + draw(st.integers(0, 2)))
        values = values[:n]
    return [value % 2**n_bits for value in values]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(0, 12))
def test_write_columns_matches_reference(data, n):
    times = data.draw(columns(n, 64, anywhere))
    refs = data.draw(columns(n, 32, st.integers(0, 2**32 - 1)))
    t_ms = np.array(times, np.uint64).view(np.int64)
    out, layout = np.full(12 * n + 3, 7, np.uint8), np.full(6, -1, np.int64)
    size = write_columns(t_ms, np.array(refs, np.uint32), out, layout)
    expected, expected_layout = reference.write_columns(t_ms.tolist(), refs)
    assert out[:size].tobytes() == expected
    assert (layout.view(np.uint64)).tolist() == expected_layout
    assert (out[12 * n :] == 7).all()
