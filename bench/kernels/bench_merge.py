"""Sorting, merging and placing samples: sorting.py, merge.py, axes.py.

The inputs are those of a head of many series, of series written by two senders, and of axes shared
by a target.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tsengine.kernels.axes import (
    N_COLUMNS,
    clip_blocks,
    copy_rows,
    cut_axes,
    find_pieces,
    group_runs,
    place_series,
)
from tsengine.kernels.merge import append_slices, settle_rows, slice_run
from tsengine.kernels.sorting import N_DIGITS, group_by_key, order_by_key
from tsengine.storage.head_read import sort_run

N_RUN = 256 * 1024
SIZE = 4096
N_ROWS = 250
N_SERIES = 1000
N_STEPS = 2000
GRID = 1 + np.arange(N_STEPS) * 15_000


@pytest.mark.parametrize("n_series", [1_000, 10_000, 1_000_000, 50_000_000])
def bench_order_by_key(measure, n_series):
    keys = np.random.default_rng(3).integers(0, n_series, N_RUN).astype(np.uint32)
    order, spare = np.empty(N_RUN, np.uint32), np.empty(N_RUN, np.uint32)
    counts = np.empty(N_DIGITS, np.int64)
    measure(lambda: order_by_key(keys, order, spare, counts), N_RUN, n_bytes=keys.nbytes)


@pytest.mark.parametrize("n_series", [1_000, 100_000])
def bench_group_by_key(measure_inside, n_series):
    rng = np.random.default_rng(3)
    refs = np.resize(rng.permutation(n_series), N_RUN).astype(np.uint32)
    t_ms = 1_700_000_000_000 + np.arange(N_RUN) // n_series * 15_000
    bits = rng.integers(0, 100, N_RUN).astype(np.uint64)
    measure_inside(group_by_key, lambda: sort_run(refs, t_ms, bits), N_RUN)


HALF = np.tile(np.arange(SIZE // 2) * 15_000, 2)
TIMES = {
    "in order": np.arange(SIZE) * 15_000,
    "two senders, equal times": HALF,
    "two senders, other times": HALF + np.repeat([0, 7], SIZE // 2),
    "8 runs": np.arange(SIZE) % (SIZE // 8) * 15_000,
    "shuffled": np.random.default_rng(4).permutation(SIZE) * 15_000,
}


@pytest.mark.parametrize("case", TIMES)
def bench_settle_rows(measure, case):
    n = N_ROWS * SIZE
    times = np.tile(TIMES[case], N_ROWS)
    bits = np.random.default_rng(3).integers(0, 100, n).astype(np.uint64)
    offsets, out = np.arange(N_ROWS + 1) * SIZE, np.empty(N_ROWS + 1, np.int64)
    spare_t, spare_bits = np.empty(SIZE, np.int64), np.empty(SIZE, np.uint64)
    measure(
        lambda t, b: settle_rows(offsets, t, b, 1, spare_t, spare_bits, out), n, n_bytes=16 * n,
        prepare=lambda: (times.copy(), bits.copy()),
    )  # fmt: skip


@pytest.mark.parametrize("n_wanted", [1_000, 100_000])
def bench_slice_run(measure, n_wanted):
    n_series = 100_000
    offsets = np.linspace(0, N_RUN, n_series + 1).astype(np.int64)
    run_refs = np.arange(n_series, dtype=np.uint32)
    refs = np.sort(np.random.default_rng(3).choice(run_refs, n_wanted, replace=False))
    starts, lengths = np.empty(n_wanted, np.int64), np.empty(n_wanted, np.int64)
    call = partial(slice_run, run_refs, offsets, np.arange(N_RUN), refs, 0, N_RUN, starts, lengths)
    measure(call, n_wanted, unit="series", n_bytes=refs.nbytes)


def bench_append_slices(measure):
    """Two or three samples of each series, as a head's run has them."""
    n_series = 100_000
    offsets = np.linspace(0, N_RUN, n_series + 1).astype(np.int64)
    starts, lengths = offsets[:-1], np.diff(offsets)
    t_ms, bits = np.empty(N_RUN, np.int64), np.empty(N_RUN, np.uint64)
    run = (np.arange(N_RUN), np.arange(N_RUN, dtype=np.uint64))
    measure(
        lambda places: append_slices(*run, starts, lengths, places, t_ms, bits), N_RUN,
        n_bytes=16 * N_RUN, prepare=lambda: (starts.copy(),),
    )  # fmt: skip


def bench_group_runs(measure):
    t_ms, offsets = np.tile(GRID, N_SERIES), np.arange(N_SERIES + 1) * N_STEPS
    outs = [np.empty(N_SERIES, kind) for kind in (np.uint64, np.int64, np.int64)]
    measure(
        lambda table: group_runs(t_ms, offsets, table, *outs), len(t_ms), n_bytes=t_ms.nbytes,
        prepare=lambda: (np.full(2048, -1, np.int64),),
    )  # fmt: skip


def bench_cut_axes(measure):
    t_ms, offsets = np.tile(GRID, N_SERIES), np.arange(N_SERIES + 1) * N_STEPS
    pieces, starts = np.empty(N_SERIES + 1, np.int64), np.empty(len(t_ms) + 1, np.int64)
    widths = np.array([86_400_000, 21_600_000, 3_600_000, 900_000])
    call = partial(cut_axes, t_ms, offsets, widths, 8192, pieces, starts)
    measure(call, len(t_ms), n_bytes=t_ms.nbytes)


def bench_find_pieces(measure):
    """One series in twenty of a part, the last quarter of its only block."""
    n, wanted = 20 * N_SERIES, np.arange(0, 20 * N_SERIES, 20, dtype=np.uint32)
    none = np.empty(0, np.int64)
    columns, keys = np.empty((N_COLUMNS, N_SERIES), np.int64), np.empty((N_SERIES, 3), np.int64)
    call = partial(
        find_pieces, np.arange(n, dtype=np.uint32), np.arange(n + 1), np.zeros(n, np.uint32),
        np.zeros(n, np.uint16), np.full(n, N_STEPS, np.uint16), np.zeros(n, np.uint32),
        np.zeros(n, np.uint8), GRID[:1].copy(), GRID[-1:].copy(), np.zeros(2, np.int64), none, none,
        np.ones(1, np.bool_), np.zeros(1, np.int64), GRID, wanted, int(GRID[-N_STEPS // 4]),
        int(GRID[-1]), columns, keys,
    )  # fmt: skip
    measure(call, N_SERIES, unit="series", n_bytes=columns.nbytes)


@pytest.mark.parametrize("case", ["place_series", "clip_blocks", "copy_rows"])
def bench_presence(measure, case):
    """Series that lack a tenth of the rows of the axis they share, at random."""
    keep = np.random.default_rng(3).random((N_SERIES, N_STEPS)) < 0.9
    sparse = np.broadcast_to(GRID, keep.shape)[keep]
    offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    zeros, sizes = np.zeros(N_SERIES, np.int64), np.diff(offsets)
    blocks = np.empty((4, N_SERIES), np.int64)
    ends = np.empty(N_SERIES + 1, np.int64)
    first, length = np.empty((2, len(sparse)), np.int64)
    place = partial(
        place_series, sparse, offsets, zeros, GRID, np.array([0, 1]), np.array([0, N_STEPS]),
        *blocks, ends, first, length,
    )  # fmt: skip
    place()
    pattern_offsets = np.concatenate([[0], ends])
    runs = (np.arange(1, N_SERIES + 1), pattern_offsets, first, length)
    out = np.empty(len(sparse), np.int64)
    call = {
        "place_series": place,
        "clip_blocks": partial(
            clip_blocks, GRID, zeros, sizes, *runs, int(GRID[10]), int(GRID[-10]),
            *np.empty((4, N_SERIES), np.int64),
        ),
        "copy_rows": partial(copy_rows, GRID, zeros, zeros, sizes, *runs, offsets[:-1], out),
    }[case]  # fmt: skip
    measure(call, len(sparse), n_bytes=sparse.nbytes)
