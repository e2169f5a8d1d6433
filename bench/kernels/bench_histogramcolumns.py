"""Native histograms to columns and back: histogramcolumns.py.

One series of 1000 counter histograms of 40 buckets, as `bench.histograms` stores them.
"""

from __future__ import annotations

import numpy as np

from tsengine.kernels.histogramcolumns import (
    fill_buckets,
    gather_components,
    list_buckets,
    match_times,
    place_components,
)

N_BUCKETS = 40
N = 1000
GROUP = np.array([0, N])
OFFSETS = np.arange(N + 1) * N_BUCKETS
KEYS = np.tile(np.arange(N_BUCKETS, dtype=np.int32), N) + np.int32(1 << 20)
COUNTS = np.random.default_rng(3).integers(1, 1000, len(KEYS)).astype(np.float64).view(np.uint64)
TIMES = 1 + np.arange(N) * 15_000
FIRST = np.zeros(N_BUCKETS, np.int64)
POSITIONS = np.arange(N_BUCKETS) * N


def bench_list_buckets(measure):
    keys, first = np.empty(len(KEYS), np.int32), np.empty(len(KEYS), np.int64)
    last, offsets = np.empty(len(KEYS), np.int64), np.empty(2, np.int64)
    measure(
        lambda: list_buckets(GROUP, OFFSETS, KEYS, keys, first, last, offsets), len(KEYS),
        n_bytes=KEYS.nbytes,
    )  # fmt: skip


def bench_fill_buckets(measure):
    out = np.zeros(len(KEYS), np.uint64)
    bucket_offsets = np.array([0, N_BUCKETS])
    measure(
        lambda: fill_buckets(
            GROUP, OFFSETS, KEYS, COUNTS, bucket_offsets, KEYS[:N_BUCKETS], FIRST, POSITIONS,
            0, N_BUCKETS, out,
        ),
        len(KEYS), n_bytes=COUNTS.nbytes,
    )  # fmt: skip


def bench_match_times(measure):
    times, out = np.tile(TIMES, 40), np.empty(40 * N, np.int64)
    starts, sizes = np.arange(40) * N, np.full(40, N)
    measure(
        lambda: match_times(starts, sizes, times, starts, starts + sizes, times, out), len(times),
        n_bytes=times.nbytes,
    )  # fmt: skip


PIECES = (np.zeros(N_BUCKETS, np.int64), np.arange(N_BUCKETS) + (1 << 20))
PIECE_SIZES = np.full(N_BUCKETS, N)
SLOTS = np.arange(N)


def bench_place_components(measure):
    groups, keys = PIECES
    first_t, last_t = np.full(N_BUCKETS, TIMES[0]), np.full(N_BUCKETS, TIMES[-1])
    rows, sizes = np.empty(N_BUCKETS, np.int64), np.zeros(N, np.int64)
    measure(
        lambda: place_components(
            GROUP, TIMES, SLOTS, groups, keys, first_t, last_t, PIECE_SIZES, POSITIONS, COUNTS,
            rows, sizes,
        ),
        len(COUNTS), n_bytes=COUNTS.nbytes,
    )  # fmt: skip


def bench_gather_components(measure):
    _, keys = PIECES
    numbers, out_keys = np.zeros(4 * N, np.uint64), np.empty(len(KEYS), np.int32)
    out_counts = np.empty(len(KEYS), np.uint64)
    measure(
        lambda: gather_components(
            SLOTS, FIRST, keys, PIECE_SIZES, POSITIONS, COUNTS, N, OFFSETS[:-1].copy(), numbers,
            out_keys, out_counts,
        ),
        len(COUNTS), n_bytes=COUNTS.nbytes,
    )  # fmt: skip
