"""Partials: slices of rows added and merged in any way give what one pass gives."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import aggregate as twin
from tests.reference.vectors import _folded
from tsengine.query.partials import PARTIAL_OPS, make_partial

SOME = settings(max_examples=100, deadline=None)
numbers = st.one_of(
    st.integers(-5, 5).map(float),
    st.sampled_from([np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 1e100, -1e100, -0.0]),
    st.floats(-1e3, 1e3),
)


@st.composite
def slices(draw):
    """(values, valid or None, groups) of several slices, with G groups and T steps."""
    n_groups, n_steps = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    made = []
    for _ in range(draw(st.integers(0, 4))):
        n_rows = draw(st.integers(0, 4))
        size = n_rows * n_steps
        values = np.array(draw(st.lists(numbers, min_size=size, max_size=size)), np.float64)
        groups = draw(st.lists(st.integers(0, n_groups - 1), min_size=n_rows, max_size=n_rows))
        valid = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
        made.append(
            (
                values.reshape(n_rows, n_steps),
                None if valid is None else np.array(valid, np.bool_).reshape(n_rows, n_steps),
                np.array(groups, np.int64),
            )
        )
    return made, n_groups, n_steps


@pytest.mark.parametrize("op", sorted(PARTIAL_OPS))
@SOME
@given(slices(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_merged_slices(op, case, starts_partial):
    made, n_groups, n_steps = case
    partials = [make_partial(op, n_groups, n_steps)]
    for piece, is_new in zip(made, starts_partial, strict=False):
        if is_new:
            partials.append(make_partial(op, n_groups, n_steps))
        partials[-1].add(*piece)
    first, *others = partials
    for other in others:
        first.merge(other)
    values, valid = first.finish()
    for g in range(n_groups):
        for t in range(n_steps):
            cell = [v for piece in made for v in twin.column(*piece, g, t)]
            assert valid[g, t] == bool(cell)
            if cell:
                check(op, cell, values[g, t])


def check(op, cell, got):
    size = max((abs(v) for v in cell if math.isfinite(v)), default=0.0)
    if op == "sum" and size > 1e300:
        return  # whether a running sum overflows depends on the order
    if op in ("stddev", "stdvar") and size > 1e90:
        return  # squares of these overflow or swallow everything else
    want = _folded(op, cell, None)
    if math.isnan(want) or math.isinf(want):
        np.testing.assert_equal(got, want)
        return
    power = {"stdvar": 2, "stddev": 1}.get(op, 1)
    slack = 1e-7 if op == "stddev" else 1e-13 if op == "stdvar" else 1e-30
    assert abs(got - want) <= 1e-12 * abs(want) + slack * size**power


def test_partial_is_not_changed_by_being_merged_or_finished():
    one, two = make_partial("avg", 1, 1), make_partial("avg", 1, 1)
    one.add(np.array([[1.0]]), None, np.array([0]))
    two.add(np.array([[3.0]]), None, np.array([0]))
    one.merge(two)
    assert one.finish()[0] == 2.0
    assert one.finish()[0] == 2.0
    assert two.finish()[0] == 3.0


def test_average_of_numbers_whose_sum_overflows():
    big = 9.988465674311579e307
    for n_first in range(5):
        parts = [make_partial("avg", 1, 1), make_partial("avg", 1, 1)]
        for idx in range(4):
            parts[idx >= n_first].add(np.array([[big]]), None, np.array([0]))
        parts[0].merge(parts[1])
        assert parts[0].finish()[0] == big
