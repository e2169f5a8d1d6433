"""Kernels that sort, merge and place samples: `python -m bench.kernels.bench_merge`.

Prints million samples per second on one thread, best of several runs. The inputs are those of a
head of 10,000 series, of series written by two senders, and of axes shared by a target.
"""

from __future__ import annotations

import time

import numpy as np

from tsengine.kernels.axes import clip_blocks, copy_rows, cut_axes, group_runs, place_series
from tsengine.kernels.merge import settle_rows, slice_run
from tsengine.kernels.sorting import N_DIGITS, order_by_key

N_RUN = 256 * 1024
RNG = np.random.default_rng(3)


def report(name: str, n: int, call, prepare=lambda: ()) -> None:
    best = float("inf")
    for _ in range(7):
        arguments = prepare()
        start = time.perf_counter()
        call(*arguments)
        best = min(best, time.perf_counter() - start)
    print(f"{name:48s} {best * 1e3:8.2f} ms {n / best / 1e6:8.0f} M/s")


def bench_sorting() -> None:
    order, spare = np.empty(N_RUN, np.uint32), np.empty(N_RUN, np.uint32)
    counts = np.empty(N_DIGITS, np.int64)
    for n_series in (1_000, 10_000, 1_000_000, 50_000_000):
        keys = RNG.integers(0, n_series, N_RUN).astype(np.uint32)
        report(
            f"order_by_key, 256 Ki rows of {n_series} series", N_RUN,
            lambda keys=keys: order_by_key(keys, order, spare, counts),
        )  # fmt: skip
    report("np.argsort(kind='stable') of the last", N_RUN, lambda: np.argsort(keys, kind="stable"))


def bench_settling() -> None:
    n_rows, size = 500, 4096
    n = n_rows * size
    offsets = np.arange(n_rows + 1) * size
    spare_t, spare_bits = np.empty(size, np.int64), np.empty(size, np.uint64)
    out = np.empty(n_rows + 1, np.int64)
    bits = RNG.integers(0, 100, n).astype(np.uint64)
    ordered = np.tile(np.arange(size) * 15_000, n_rows)
    half = np.tile(np.arange(size // 2) * 15_000, 2)
    inputs = {
        "in order": ordered,
        "two senders, equal times": np.tile(half, n_rows),
        "two senders, other times": np.tile(half + np.repeat([0, 7], size // 2), n_rows),
        "8 runs": np.tile(np.arange(size) % (size // 8) * 15_000, n_rows),
        "shuffled": RNG.permuted(ordered.reshape(n_rows, size), axis=1).ravel(),
    }
    for name, times in inputs.items():
        report(
            f"settle_rows, {name}", n,
            lambda t, b: settle_rows(offsets, t, b, 1, spare_t, spare_bits, out),
            lambda times=times: (times.copy(), bits.copy()),
        )  # fmt: skip


def bench_slicing() -> None:
    n_series = 100_000
    offsets = np.linspace(0, N_RUN, n_series + 1).astype(np.int64)
    run_refs = np.arange(n_series, dtype=np.uint32)
    times = np.arange(N_RUN)
    for n_wanted in (1_000, 100_000):
        refs = np.sort(RNG.choice(run_refs, n_wanted, replace=False))
        starts, lengths = np.empty(n_wanted, np.int64), np.empty(n_wanted, np.int64)
        report(
            f"slice_run, {n_wanted} of {n_series} series (series/s)", n_wanted,
            lambda refs=refs, starts=starts, lengths=lengths: slice_run(
                run_refs, offsets, times, refs, 0, N_RUN, starts, lengths
            ),
        )  # fmt: skip


def bench_axes() -> None:
    n_series, n_steps = 1000, 2000
    n = n_series * n_steps
    grid = 1 + np.arange(n_steps) * 15_000
    t_ms, offsets = np.tile(grid, n_series), np.arange(n_series + 1) * n_steps
    hashes, heads, groups = (np.empty(n_series, kind) for kind in (np.uint64, np.int64, np.int64))
    report(
        "group_runs, one scrape", n,
        lambda table: group_runs(t_ms, offsets, table, hashes, heads, groups),
        lambda: (np.full(2048, -1, np.int64),),
    )  # fmt: skip
    pieces, piece_starts = np.empty(n_series + 1, np.int64), np.empty(n + 1, np.int64)
    widths = np.array([86_400_000, 21_600_000, 3_600_000, 900_000])
    report(
        "cut_axes, own clocks", n,
        lambda: cut_axes(t_ms, offsets, widths, 8192, pieces, piece_starts),
    )  # fmt: skip
    keep = RNG.random((n_series, n_steps)) < 0.9
    sparse = np.broadcast_to(grid, (n_series, n_steps))[keep]
    sparse_offsets = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    blocks = [np.empty(n_series, np.int64) for _ in range(4)]
    pattern_offsets = np.empty(n_series + 1, np.int64)
    first, length = np.empty(len(sparse), np.int64), np.empty(len(sparse), np.int64)
    report(
        "place_series, a tenth of the rows missing", len(sparse),
        lambda: place_series(
            sparse, sparse_offsets, np.zeros(n_series, np.int64), grid,
            np.array([0, 1]), np.array([0, n_steps]), *blocks, pattern_offsets, first, length,
        ),
    )  # fmt: skip
    pattern_offsets = np.concatenate([[0], pattern_offsets])
    zeros, patterns = np.zeros(n_series, np.int64), np.arange(1, n_series + 1)
    sizes = np.diff(sparse_offsets)
    columns = [np.empty(n_series, np.int64) for _ in range(4)]
    report(
        "clip_blocks with patterns", len(sparse),
        lambda: clip_blocks(
            grid, zeros, sizes, patterns, pattern_offsets, first, length,
            int(grid[10]), int(grid[-10]), *columns,
        ),
    )  # fmt: skip
    out = np.empty(len(sparse), np.int64)
    report(
        "copy_rows with patterns", len(sparse),
        lambda: copy_rows(
            grid, zeros, zeros, sizes, patterns, pattern_offsets, first, length,
            sparse_offsets[:-1], out,
        ),
    )  # fmt: skip


if __name__ == "__main__":
    bench_sorting()
    bench_settling()
    bench_slicing()
    bench_axes()
