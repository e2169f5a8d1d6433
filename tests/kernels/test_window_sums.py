"""Kernels that add results of windows up, against the kernels of both steps and plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.test_rollups import SPECIALS, STALE, as_batch, batches, grids, run
from tests.reference import rangewindows as reference
from tsengine.kernels import counters, windows
from tsengine.kernels.aggregate import add_sum, count_valid

N_GROUPS = 3
OPS = [(counters.RATE, "rate"), (counters.INCREASE, "increase"), (counters.DELTA, "delta")]


def states(n_steps, *, may_scale):
    """``total, comp, scaled, count`` of groups that have seen nothing."""
    shape = (N_GROUPS, n_steps)
    scaled = np.zeros(shape if may_scale else (N_GROUPS, 0), np.bool_)
    return np.zeros(shape), np.zeros(shape), scaled, np.zeros(shape)


def fused(kernel, first, batch, ends_ms, range_ms, groups, *, may_scale):
    made = states(len(ends_ms), may_scale=may_scale)
    n_present = np.full(batch.n_rows, -1)
    order = np.argsort(batch.row_axis, kind="stable")
    any_scaled = kernel(
        *first, batch.t_ms, batch.axis_offsets, batch.row_axis, order, batch.values,
        batch.row_offsets, np.array(ends_ms, np.int64), range_ms, groups, may_scale, *made,
        n_present,
    )  # fmt: skip
    return any_scaled, made, n_present


def in_two_steps(kernel, first, batch, ends_ms, range_ms, groups, *, may_scale):
    total, comp, scaled, count = states(len(ends_ms), may_scale=may_scale)
    out, valid = run(kernel, first, batch, ends_ms, range_ms)
    order = np.argsort(batch.row_axis, kind="stable")
    any_scaled = 0
    for s in order:
        row = slice(s, s + 1)
        is_full = bool(valid[s].all())
        mask = np.empty((1, 0), np.bool_) if is_full else valid[row]
        if valid[s].any():
            any_scaled |= add_sum(
                out[row], mask, is_full, groups[row], may_scale, total, comp, scaled
            )
        count_valid(valid[row], groups[row], count)
    return any_scaled, (total, comp, scaled, count), valid.sum(axis=1)


def compare(kernel, one_by_one, op, args):
    got, wanted = (
        fused(kernel, op[0], *args[0], **args[1]),
        in_two_steps(one_by_one, op[1], *args[0], **args[1]),
    )
    assert got[0] == wanted[0]
    for mine, theirs in zip(got[1], wanted[1], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert got[2].tolist() == wanted[2].tolist()


@st.composite
def groupings(draw):
    return np.array(draw(st.lists(st.integers(0, N_GROUPS - 1), min_size=4, max_size=4)), np.int64)


@pytest.mark.parametrize(("op", "name"), OPS)
@settings(max_examples=60, deadline=None)
@given(batches(), grids(), groupings(), st.booleans())
def test_sums_of_rates_are_those_of_two_kernels(op, name, batch, grid, groups, may_scale):
    with np.errstate(all="ignore"):
        rows = as_batch(*batch)
        args = (rows, *grid, groups[: rows.n_rows]), {"may_scale": may_scale}
        compare(counters.extrapolate_sums, counters.extrapolate, ((op,), (op,)), args)


@settings(max_examples=100, deadline=None)
@given(batches(st.sampled_from([*SPECIALS, STALE])), grids(), groupings(), st.booleans())
def test_sums_of_newest_values_are_those_of_two_kernels(batch, grid, groups, may_scale):
    rows = as_batch(*batch)
    args = (rows, *grid, groups[: rows.n_rows]), {"may_scale": may_scale}
    compare(windows.latest_sums, windows.select_latest, ((), (windows.VALUE,)), args)


def check(made, cells):
    _, (total, comp, _, count), _ = made
    for g in range(N_GROUPS):
        for t, numbers in enumerate(cells[g]):
            assert count[g, t] == len(numbers)
            np.testing.assert_allclose(
                total[g, t] + comp[g, t], math.fsum(numbers), rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize(("op", "name"), OPS)
@settings(max_examples=40, deadline=None)
@given(batches(st.integers(0, 1000).map(float)), grids(), groupings())
def test_sums_of_rates_match_reference(op, name, batch, grid, groups):
    rows = as_batch(*batch)
    groups = groups[: rows.n_rows]
    made = fused(counters.extrapolate_sums, (op,), rows, *grid, groups, may_scale=False)
    check(made, reference.extrapolate_sums(name, batch[0], groups.tolist(), N_GROUPS, *grid))


@settings(max_examples=40, deadline=None)
@given(batches(st.one_of(st.just(STALE), st.floats(-1e3, 1e3))), grids(), groupings())
def test_sums_of_newest_values_match_reference(batch, grid, groups):
    rows = as_batch(*batch)
    groups = groups[: rows.n_rows]
    made = fused(windows.latest_sums, (), rows, *grid, groups, may_scale=False)
    check(made, reference.latest_sums(batch[0], groups.tolist(), N_GROUPS, *grid))


@pytest.mark.parametrize("jitter_ms", [0, 2])
def test_windows_in_step_with_samples(jitter_ms):
    """A step is as long as samples are apart: rows are read from end to end."""
    n = 200
    rng = np.random.default_rng(1)
    axis = [k * 15_000 + 700 + int(rng.integers(0, jitter_ms + 1)) for k in range(n)]
    rows = [list(zip(axis, np.cumsum(rng.integers(0, 9, n)) + 50.0, strict=True)) for _ in range(4)]
    rows[2][120:] = [(t, v - 700) for t, v in rows[2][120:]]
    rows[3][90] = (rows[3][90][0], STALE)
    batch = as_batch(rows, [0] * 4, [axis])
    groups = np.array([0, 1, 0, 1])
    ends = [axis[-1] - 15_000 * k for k in range(100, -1, -1)]
    args = (batch, ends, 300_000, groups), {"may_scale": True}
    for op, _ in OPS:
        compare(counters.extrapolate_sums, counters.extrapolate, ((op,), (op,)), args)
    compare(windows.latest_sums, windows.select_latest, ((), (windows.VALUE,)), args)
    made = fused(counters.extrapolate_sums, (0,), *args[0], may_scale=False)
    cells = reference.extrapolate_sums("rate", rows[:3], [0, 1, 0], 3, ends, 300_000)
    np.testing.assert_allclose(made[1][0][0], [math.fsum(c) for c in cells[0]], rtol=1e-9)
