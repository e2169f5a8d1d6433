"""Aggregation kernels against twins that look at one cell at a time."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import aggregate as twin
from tsengine.kernels import aggregate as k

SOME = settings(max_examples=150, deadline=None)
ALL_VALID = np.empty((1, 0), np.bool_)
SPECIAL = (0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1.7e308, -1.7e308, 5e-324, 1e100, -1e100)
numbers = st.one_of(
    st.sampled_from(SPECIAL), st.floats(-1e6, 1e6), st.integers(-5, 5).map(float), st.floats()
)


@st.composite
def grouped(draw, elements=numbers):
    """Values f64[S, T], a mask or None, and groups i64[S] below G."""
    n_rows, n_steps, n_groups = (draw(st.integers(*b)) for b in ((0, 12), (1, 10), (1, 4)))
    cells = draw(
        st.lists(elements, min_size=n_rows * n_steps, max_size=n_rows * n_steps).map(np.array)
    )
    values = cells.astype(np.float64).reshape(n_rows, n_steps)
    groups = np.array(
        draw(st.lists(st.integers(0, n_groups - 1), min_size=n_rows, max_size=n_rows)), np.int64
    )
    valid = None
    if draw(st.booleans()):
        bits = draw(st.integers(0, (1 << (n_rows * n_steps)) - 1))
        flat = [(bits >> i) & 1 for i in range(n_rows * n_steps)]
        valid = np.array(flat, np.bool_).reshape(n_rows, n_steps)
    return values, valid, groups, n_groups


def mask(valid):
    return (ALL_VALID, True) if valid is None else (valid, False)


def same(got, want, tolerance=0.0):
    if math.isnan(want):
        return math.isnan(got)
    return got == want or abs(got - want) <= tolerance * abs(want)


@SOME
@given(grouped())
def test_sums_are_exact_up_to_rounding(case):
    values, valid, groups, n_groups = case
    total = np.zeros((n_groups, values.shape[1]))
    comp = np.zeros_like(total)
    unused = np.zeros((n_groups, 0), np.bool_)
    assert k.add_sum(values, *mask(valid), groups, False, total, comp, unused) == 0
    for g, t, cell in twin.cells(values, valid, groups, n_groups):
        want = twin.add_sum(cell) or 0.0
        got = total[g, t] + comp[g, t]
        size = sum(abs(v) for v in cell)
        # A running sum may overflow although the whole does not.
        if math.isinf(got) or math.isnan(got) or math.isinf(size):
            assert math.isinf(size) or math.isnan(want)
            assert comp[g, t] == 0 or math.isnan(got) or math.isfinite(got)
            if not any(abs(v) > 1e300 and math.isfinite(v) for v in cell):
                assert same(got, want)
            continue
        assert abs(got - want) <= 1e-15 * abs(want) + 1e-30 * size


@SOME
@given(grouped())
def test_scaled_sums_never_overflow(case):
    values, valid, groups, n_groups = case
    total = np.zeros((n_groups, values.shape[1]))
    comp = np.zeros_like(total)
    scaled = np.zeros(total.shape, np.bool_)
    some = k.add_sum(values, *mask(valid), groups, True, total, comp, scaled)
    assert some == scaled.any() or some == 1
    for g, t, cell in twin.cells(values, valid, groups, n_groups):
        want = twin.mean(cell)
        if want is None:
            assert total[g, t] == 0
            continue
        got = total[g, t] / len(cell) + comp[g, t] / len(cell)
        if scaled[g, t]:
            got /= k.SCALE
        size = max(abs(v) for v in cell)
        if math.isfinite(want):
            assert abs(got - want) <= 1e-15 * abs(want) + 1e-30 * size + 1e-300
        else:
            assert same(got, want)


@SOME
@given(grouped(), st.booleans())
def test_extremes(case, want_max):
    values, valid, groups, n_groups = case
    best = np.full((n_groups, values.shape[1]), np.nan)
    k.add_extreme(values, *mask(valid), groups, want_max, best)
    for g, t, cell in twin.cells(values, valid, groups, n_groups):
        want = twin.add_extreme(cell, want_max)
        assert same(best[g, t], math.nan if want is None else want)


@SOME
@given(grouped(st.one_of(st.sampled_from(SPECIAL[:7]), st.floats(-1e6, 1e6))))
def test_moments(case):
    values, valid, groups, n_groups = case
    count, mean, m2 = np.zeros((3, n_groups, values.shape[1]))
    k.add_moments(values, *mask(valid), groups, count, mean, m2)
    for g, t, cell in twin.cells(values, valid, groups, n_groups):
        assert count[g, t] == len(cell)
        want = twin.add_moments(cell)
        if want is None:
            assert m2[g, t] == 0
        elif math.isnan(want):
            assert math.isnan(m2[g, t])
        else:
            size = max(abs(v) for v in cell)
            # A mean is rounded: distances from it are off by an ulp of the values.
            rounding = 1e-15 * size * math.sqrt(want) + 1e-28 * size * size
            assert abs(m2[g, t] / len(cell) - want) <= 1e-13 * want + rounding


@SOME
@given(grouped())
def test_counts(case):
    values, valid, groups, n_groups = case
    valid = np.ones(values.shape, np.bool_) if valid is None else valid
    count = np.zeros((n_groups, values.shape[1]))
    k.count_valid(valid, groups, count)
    for g, t, cell in twin.cells(values, valid, groups, n_groups):
        assert count[g, t] == twin.count_valid(cell)


@SOME
@given(grouped(), st.data())
def test_take_first(case, data):
    values, valid, groups, n_groups = case
    wanted = np.array([data.draw(st.integers(-1, 4)) for _ in range(values.shape[1])], np.int64)
    out = np.ones(values.shape, np.bool_)
    taken = np.zeros((n_groups, values.shape[1]), np.int64)
    k.take_first(*mask(valid), groups, wanted, taken, out)
    present = np.ones(values.shape, np.bool_) if valid is None else valid
    assert out.tolist() == twin.take_first(present, groups, wanted)


@SOME
@given(grouped(), st.booleans(), st.data())
def test_select_extreme(case, want_max, data):
    values, valid, groups, n_groups = case
    wanted = np.array([data.draw(st.integers(-1, 5)) for _ in range(values.shape[1])], np.int64)
    order = np.argsort(groups, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(groups, minlength=n_groups))))
    room = k.BLOCK * min(5, int(np.diff(offsets).max()))
    out = np.zeros(values.shape, np.bool_)
    k.select_extreme(
        values, *mask(valid), order, offsets, wanted, want_max,
        np.empty(room), np.empty(room, np.int64), np.empty(k.BLOCK, np.int64), out,
    )  # fmt: skip
    want = twin.select_extreme(values, valid, groups, n_groups, wanted, want_max)
    assert out.tolist() == want


@SOME
@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_hash_of_rows(pieces, data):
    if pieces:
        rows = data.draw(
            st.lists(st.lists(st.integers(0, len(pieces) - 1), max_size=6), max_size=5)
        )
    else:
        rows = [[]]
    whole = [b"".join(pieces[c] for c in row) for row in rows]
    out = np.empty(len(rows), np.uint64)
    k.hash_label_rows(
        np.frombuffer(b"".join(pieces), np.uint8),
        np.concatenate(([0], np.cumsum([len(p) for p in pieces]))).astype(np.int64),
        np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
        np.array([c for row in rows for c in row], np.int64),
        np.empty(max((len(w) for w in whole), default=0), np.uint8),
        out,
    )
    assert out.tolist() == [twin.hash_label_rows(w) for w in whole]


def test_twin_of_xxh64_gives_published_values():
    # Test vectors of the xxHash specification's reference program (seed 0).
    assert twin.hash_label_rows(b"") == 0xEF46DB3751D8E999
    assert twin.hash_label_rows(b"a") == 0xD24EC4F1A98C6E5B
    assert twin.hash_label_rows(b"abc") == 0x44BC2CF5AD770999
