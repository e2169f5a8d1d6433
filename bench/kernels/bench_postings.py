"""Finding series: postings.py, labelrows.py. 100,000 series with ten labels each."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tsengine.kernels import labelrows
from tsengine.kernels import postings as kernels

N_SERIES = 100_000
N_LABELS = 10
N_PAIRS = 20_000
RNG = np.random.default_rng(1)
OFFSETS = np.arange(N_SERIES + 1) * N_LABELS
PAIRS = (
    RNG.integers(0, N_PAIRS // N_LABELS, (N_SERIES, N_LABELS)) * N_LABELS + np.arange(N_LABELS)
).astype(np.uint32)
PAIRS = PAIRS.ravel()
"""Pair p belongs to the label p % 10."""
REFS = np.arange(0, N_SERIES, 2, dtype=np.uint32)


def bench_sort_postings(measure):
    scratch = np.empty((4, len(PAIRS)), np.uint32)
    counts = np.empty(kernels.DIGIT_BUCKETS, np.int64)
    call = partial(kernels.sort_postings, OFFSETS, PAIRS, 0, N_SERIES, *scratch, counts)
    measure(call, len(PAIRS), unit="entries", n_bytes=PAIRS.nbytes)


def bench_bucket_postings(measure):
    refs = np.empty(len(PAIRS), np.uint32)
    measure(
        lambda ends: kernels.bucket_postings(OFFSETS, PAIRS, 0, N_SERIES, ends, refs), len(PAIRS),
        unit="entries", n_bytes=PAIRS.nbytes, prepare=lambda: (np.zeros(N_PAIRS, np.int64),),
    )  # fmt: skip


def bench_gather_rows(measure):
    out_offsets, out = np.empty(len(REFS) + 1, np.int64), np.empty(len(REFS) * N_LABELS, np.uint32)
    call = partial(kernels.gather_rows, REFS, OFFSETS, PAIRS, out_offsets, out)
    measure(call, len(REFS), unit="series", n_bytes=out.nbytes)


def bench_find_in_rows(measure):
    names = (np.arange(N_PAIRS) % N_LABELS).astype(np.uint32)
    call = partial(
        kernels.find_in_rows, REFS, OFFSETS, PAIRS, names, 7, np.empty(len(REFS), np.int64)
    )
    measure(call, len(REFS), unit="series", n_bytes=4 * len(REFS) * N_LABELS)


def bench_mark_runs(measure):
    starts = np.arange(0, len(REFS), 500)
    call = partial(
        kernels.mark_runs, REFS, starts, starts + 500, True, np.zeros(N_SERIES, np.bool_)
    )
    measure(call, len(REFS), unit="series", n_bytes=REFS.nbytes)


@pytest.mark.parametrize("mode", ["PREFIX", "SUFFIX", "CONTAINS"])
def bench_match_texts(measure, mode):
    texts = [f"host-{i:05d}.eu-west-1.compute.internal:9100".encode() for i in range(N_PAIRS)]
    data = np.frombuffer(b"".join(texts), np.uint8)
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in texts])))
    needle = np.frombuffer({"PREFIX": b"host-01", "SUFFIX": b":9100"}.get(mode, b"west-1.c"), "u1")
    call = partial(
        kernels.match_texts, data, offsets, np.arange(N_PAIRS, dtype=np.uint32), needle,
        getattr(kernels, mode), np.empty(N_PAIRS, np.bool_),
    )  # fmt: skip
    measure(call, N_PAIRS, unit="texts", n_bytes=data.nbytes)


def bench_filter_rows(measure):
    """One label of each series, as `by` keeps it."""
    names = (np.arange(int(PAIRS.max()) + 1) % 10).astype(np.uint32)
    outs = np.empty(N_SERIES + 1, np.int64), np.empty(len(PAIRS), np.uint32)
    no_names, wanted = np.empty(0, np.uint32), np.array([3], np.uint32)
    call = partial(labelrows.filter_rows, OFFSETS, PAIRS, names, no_names, wanted, True, *outs)
    measure(call, N_SERIES, unit="series", n_bytes=PAIRS.nbytes)


def bench_group_rows(measure):
    """Label sets of which each occurs four times, as after `by`."""
    offsets, rows = OFFSETS[: N_SERIES + 1], np.tile(PAIRS[: len(PAIRS) // 4], 4)
    outs = np.empty((2, N_SERIES), np.int64)
    measure(
        lambda table: labelrows.group_rows(offsets, rows, table, *outs), N_SERIES, unit="series",
        n_bytes=rows.nbytes, prepare=lambda: (np.full(1 << 18, -1, np.int64),),
    )  # fmt: skip
