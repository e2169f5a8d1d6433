from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import merge as reference
from tests.reference.merge import STALE
from tsengine.kernels.merge import append_slices, settle_rows, slice_run

I64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 12) | I64
BITS = st.integers(0, 3) | st.integers(0, 2**64 - 1) | st.just(STALE)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.tuples(TIMES, BITS), max_size=40), max_size=6), st.booleans())
def test_settle_rows_matches_reference(rows, drop_stale):
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    t_ms = np.array([t for row in rows for t, _ in row], np.int64)
    bits = np.array([b for row in rows for _, b in row], np.uint64)
    longest = max((len(row) for row in rows), default=0)
    out = np.empty(len(offsets), np.int64)
    n = settle_rows(
        offsets, t_ms, bits, int(drop_stale),
        np.empty(longest, np.int64), np.empty(longest, np.uint64), out,
    )  # fmt: skip
    expected = reference.settle_rows(rows, drop_stale=drop_stale)
    assert n == out[-1] == sum(len(row) for row in expected)
    for row, start, end in zip(expected, out[:-1], out[1:], strict=True):
        assert t_ms[start:end].tolist() == [t for t, _ in row]
        assert bits[start:end].tolist() == [b for _, b in row]


def test_settle_rows_sorts_long_rows_stably():
    rng = np.random.default_rng(3)
    t_ms = rng.integers(0, 500, 5000)
    bits = np.arange(5000, dtype=np.uint64)
    rows = [list(zip(t_ms.tolist(), bits.tolist(), strict=True))]
    out = np.empty(2, np.int64)
    n = settle_rows(
        np.array([0, 5000]), t_ms, bits, 0, np.empty(5000, np.int64), np.empty(5000, np.uint64), out
    )
    (expected,) = reference.settle_rows(rows, drop_stale=False)
    assert list(zip(t_ms[:n].tolist(), bits[:n].tolist(), strict=True)) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 60) | st.integers(0, 2**32 - 1),
        st.lists(TIMES, min_size=1, max_size=8, unique=True),
        max_size=30,
    ),
    st.sets(st.integers(0, 60) | st.integers(0, 2**32 - 1), max_size=30),
    TIMES,
    TIMES,
)
def test_slice_run_matches_reference(series, refs, mint, maxt):
    run = [(ref, sorted(times)) for ref, times in sorted(series.items())]
    wanted = sorted(refs)
    offsets = np.cumsum([0, *(len(times) for _, times in run)]).astype(np.int64)
    starts = np.empty(len(wanted), np.int64)
    lengths = np.empty(len(wanted), np.int64)
    n = slice_run(
        np.array([ref for ref, _ in run], np.uint32), offsets,
        np.array([t for _, times in run for t in times], np.int64),
        np.array(wanted, np.uint32), mint, maxt, starts, lengths,
    )  # fmt: skip
    expected = reference.slice_run(run, wanted, mint, maxt)
    assert lengths.tolist() == [0 if found is None else found[1] for found in expected]
    for found, start in zip(expected, starts.tolist(), strict=True):
        assert found is None or found[0] == start
    assert n == lengths.sum()


@settings(deadline=None)
@given(
    st.lists(st.tuples(TIMES, BITS), max_size=30),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 5)), max_size=12),
)
def test_append_slices_matches_reference(run, rows):
    slices = [(start, min(n, max(len(run) - start, 0))) for _, start, n in rows]
    starts, lengths = np.array(slices, np.int64).reshape(-1, 2).T.copy()
    held = [[(-1, 0)] * n for n, _, _ in rows]
    n_held = np.array([n for n, _, _ in rows], np.int64)
    ends = np.cumsum(n_held + lengths)
    places = ends - lengths
    n_samples = int(ends[-1]) if rows else 0
    t_ms, bits = np.full(n_samples, -1, np.int64), np.zeros(n_samples, np.uint64)
    append_slices(
        np.array([t for t, _ in run], np.int64), np.array([b for _, b in run], np.uint64),
        starts, lengths, places, t_ms, bits,
    )  # fmt: skip
    expected = [sample for row in reference.append_slices(run, slices, held) for sample in row]
    assert list(zip(t_ms.tolist(), bits.tolist(), strict=True)) == expected
    assert places.tolist() == ends.tolist()
