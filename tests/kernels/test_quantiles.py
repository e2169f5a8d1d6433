"""Quantile kernels against sorting and lists."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import aggregate as cells_twin
from tests.reference import quantiles as twin
from tsengine.kernels import quantiles as k

SOME = settings(max_examples=150, deadline=None)
ALL_VALID = np.empty((1, 0), np.bool_)
numbers = st.one_of(
    st.sampled_from([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0]),
    st.integers(-4, 4).map(float),
    st.floats(-1e6, 1e6),
)
quantiles = st.one_of(
    st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, -0.5, 1.5, np.nan, np.inf, -np.inf])
)
bounds = st.one_of(
    st.sampled_from([np.inf, 0.0, 1.0, -1.0, -np.inf, 2.5]), st.integers(-5, 9).map(float)
)


@st.composite
def grouped(draw, elements):
    n_rows, n_steps, n_groups = (draw(st.integers(*b)) for b in ((0, 14), (1, 10), (1, 3)))
    size = n_rows * n_steps
    values = np.array(draw(st.lists(elements, min_size=size, max_size=size)), np.float64)
    groups = draw(st.lists(st.integers(0, n_groups - 1), min_size=n_rows, max_size=n_rows))
    valid = None
    if draw(st.booleans()):
        bits = draw(st.integers(0, (1 << size) - 1))
        valid = np.array([(bits >> i) & 1 for i in range(size)], np.bool_)
        valid = valid.reshape(n_rows, n_steps)
    return values.reshape(n_rows, n_steps), valid, np.array(groups, np.int64), n_groups


def layout(groups, n_groups, bound_of_row=None):
    """Order, offsets, and the size of the largest group."""
    if bound_of_row is None:
        order = np.argsort(groups, kind="stable")
    else:
        order = np.lexsort((bound_of_row, groups))
    sizes = np.bincount(groups, minlength=n_groups)
    return order, np.concatenate(([0], np.cumsum(sizes))), int(sizes.max())


def mask(valid):
    return (ALL_VALID, True) if valid is None else (valid, False)


def assert_same(got, want):
    if math.isnan(want) or math.isinf(want):
        np.testing.assert_equal(got, want)
    else:
        assert abs(got - want) <= 1e-12 * max(1.0, abs(want))


@SOME
@given(grouped(numbers), st.data())
def test_group_quantiles(case, data):
    values, valid, groups, n_groups = case
    n_steps = values.shape[1]
    q = np.array([data.draw(quantiles) for _ in range(n_steps)])
    order, offsets, largest = layout(groups, n_groups)
    out, out_valid = np.empty((n_groups, n_steps)), np.empty((n_groups, n_steps), np.bool_)
    counters = np.empty((2, k.BLOCK), np.int64)
    k.group_quantiles(
        values, *mask(valid), order, offsets, q, np.empty(k.BLOCK * largest), *counters,
        out, out_valid,
    )  # fmt: skip
    for g, t, cell in cells_twin.cells(values, valid, groups, n_groups):
        want = twin.group_quantiles(cell, float(q[t]))
        assert out_valid[g, t] == (want is not None)
        if want is not None:
            assert_same(out[g, t], want)


@SOME
@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 2**32), st.booleans())
def test_group_quantiles_of_many(n, q, seed, few_distinct):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, n).astype(float) if few_distinct else rng.normal(size=n)
    out, out_valid = np.empty((1, 1)), np.empty((1, 1), np.bool_)
    counters = np.empty((2, k.BLOCK), np.int64)
    k.group_quantiles(
        values[:, None].copy(), ALL_VALID, True, np.arange(n), np.array([0, n]), np.array([q]),
        np.empty(k.BLOCK * n), *counters, out, out_valid,
    )  # fmt: skip
    assert_same(out[0, 0], twin.group_quantiles(values.tolist(), q))


def cells_of_buckets(case, bound_of_row):
    values, valid, groups, n_groups = case
    for g in range(n_groups):
        for t in range(values.shape[1]):
            yield (
                g,
                t,
                [
                    (float(bound_of_row[r]), float(values[r, t]))
                    for r in range(len(groups))
                    if groups[r] == g and (valid is None or valid[r, t])
                ],
            )


counts = st.one_of(st.integers(0, 9).map(float), st.floats(0, 100), st.just(3.0000000000000004))


@SOME
@given(grouped(counts), st.data())
def test_bucket_quantiles(case, data):
    values, valid, groups, n_groups = case
    n_steps = values.shape[1]
    bound_of_row = np.array([data.draw(bounds) for _ in groups], np.float64)
    q = np.array([data.draw(quantiles) for _ in range(n_steps)])
    order, offsets, largest = layout(groups, n_groups, bound_of_row)
    out, out_valid = np.empty((n_groups, n_steps)), np.empty((n_groups, n_steps), np.bool_)
    fixes = np.tile([np.inf, -np.inf, 0.0], (n_groups, 1))
    fix_steps = np.zeros(3 * n_groups, np.int64)
    k.bucket_quantiles(
        values, *mask(valid), order, offsets, bound_of_row[order], q,
        np.empty(largest), np.empty(largest), out, out_valid, fixes, fix_steps,
    )  # fmt: skip
    raised = {}
    for g, t, buckets in cells_of_buckets(case, bound_of_row):
        want, raises = twin.bucket_quantiles(buckets, float(q[t]))
        assert out_valid[g, t] == (want is not None)
        if want is not None:
            assert_same(out[g, t], want)
        if raises:
            raised.setdefault(g, []).append((t, raises))
    for g in range(n_groups):
        steps = [t for t, _ in raised.get(g, [])]
        every = [r for _, raises in raised.get(g, []) for r in raises]
        assert fix_steps[3 * g] == len(steps)
        if steps:
            assert (fix_steps[3 * g + 1], fix_steps[3 * g + 2]) == (steps[0], steps[-1])
            assert fixes[g].tolist() == [
                min(b for b, _ in every), max(b for b, _ in every), max(d for _, d in every)
            ]  # fmt: skip


@SOME
@given(grouped(counts), st.data())
def test_bucket_fractions(case, data):
    values, valid, groups, n_groups = case
    n_steps = values.shape[1]
    bound_of_row = np.array([data.draw(bounds) for _ in groups], np.float64)
    lower = np.array([data.draw(st.one_of(numbers, bounds)) for _ in range(n_steps)])
    upper = np.array([data.draw(st.one_of(numbers, bounds)) for _ in range(n_steps)])
    order, offsets, largest = layout(groups, n_groups, bound_of_row)
    out, out_valid = np.empty((n_groups, n_steps)), np.empty((n_groups, n_steps), np.bool_)
    k.bucket_fractions(
        values, *mask(valid), order, offsets, bound_of_row[order], lower, upper,
        np.empty(largest), np.empty(largest), out, out_valid,
    )  # fmt: skip
    for g, t, buckets in cells_of_buckets(case, bound_of_row):
        want = twin.bucket_fractions(buckets, float(lower[t]), float(upper[t]))
        assert out_valid[g, t] == (want is not None)
        if want is not None:
            assert_same(out[g, t], want)
