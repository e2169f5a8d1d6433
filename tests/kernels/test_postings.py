"""Postings kernels against sorted() and sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import postings as reference
from tsengine.kernels import postings as kernels

keys = st.integers(0, 3) | st.integers(0, 5000) | st.integers(0, 2**32 - 1)
row_lists = st.lists(st.lists(keys, max_size=5), max_size=20)


def csr(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64)
    return offsets, np.array([key for row in rows for key in row], np.uint32)


@given(row_lists, st.data())
@settings(deadline=None, max_examples=300)
def test_sort_postings_matches_reference(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    last = data.draw(st.integers(first, len(rows)))
    offsets, pairs = csr(rows)
    arrays = np.empty((4, int(offsets[last] - offsets[first])), np.uint32)
    counts = np.empty(kernels.DIGIT_BUCKETS, np.int64)
    where = kernels.sort_postings(offsets, pairs, first, last, *arrays, counts)
    found = list(zip(*arrays[2 * where : 2 * where + 2].tolist(), strict=True))
    assert found == reference.sort_postings(rows, first, last)


@given(st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=20), st.data())
@settings(deadline=None, max_examples=300)
def test_bucket_postings_matches_reference(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    last = data.draw(st.integers(first, len(rows)))
    offsets, pairs = csr(rows)
    refs = np.empty(int(offsets[last] - offsets[first]), np.uint32)
    ends = np.zeros(31, np.int64)
    kernels.bucket_postings(offsets, pairs, first, last, ends, refs)
    borders = [0, *ends.tolist()]
    found = {key: refs[borders[key] : borders[key + 1]].tolist() for key in range(31)}
    expected = reference.bucket_postings(rows, first, last)
    assert {key: refs for key, refs in found.items() if refs} == expected


small_rows = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=20)


@given(small_rows, st.lists(st.integers(0, 19), max_size=10), st.integers(0, 3))
@settings(deadline=None, max_examples=200)
def test_gather_rows_and_find_in_rows_match_reference(rows, picks, name):
    refs = [pick % len(rows) for pick in picks]
    wanted = np.array(refs, np.uint32)
    offsets, pairs = csr(rows)
    expected = reference.gather_rows(rows, refs)
    out_offsets, out = np.empty(len(refs) + 1, np.int64), np.empty(sum(map(len, expected)), "u4")
    kernels.gather_rows(wanted, offsets, pairs, out_offsets, out)
    for made, right in zip((out_offsets, out), csr(expected), strict=True):
        np.testing.assert_array_equal(made, right)
    pair_names = [pair % 4 for pair in range(10)]
    column = np.empty(len(refs), np.int64)
    kernels.find_in_rows(wanted, offsets, pairs, np.array(pair_names, np.uint32), name, column)
    assert column.tolist() == reference.find_in_rows(rows, refs, pair_names, name)


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4),
    st.lists(st.booleans(), max_size=30),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_mark_runs_matches_reference(refs, cuts, marks, value):
    runs = [tuple(sorted((min(a, len(refs)), min(b, len(refs))))) for a, b in cuts]
    starts, ends = np.array(runs, np.int64).reshape(-1, 2).T.copy()
    made = np.array(marks, np.bool_)
    kernels.mark_runs(np.array(refs, np.uint32), starts, ends, value, made)
    assert made.tolist() == reference.mark_runs(refs, runs, value, marks)


texts = st.text("ab", max_size=6).map(str.encode)


@given(st.lists(texts, min_size=1, max_size=10), st.lists(st.integers(0, 9)), texts)
@settings(deadline=None, max_examples=200)
def test_match_texts_matches_reference(held, picks, needle):
    symbols = [pick % len(held) for pick in picks]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in held]))).astype(np.int64)
    data = np.frombuffer(b"".join(held), np.uint8)
    out = np.empty(len(symbols), np.bool_)
    for mode in (kernels.PREFIX, kernels.SUFFIX, kernels.CONTAINS):
        kernels.match_texts(
            data, offsets, np.array(symbols, np.uint32), np.frombuffer(needle, np.uint8), mode, out
        )
        assert out.tolist() == reference.match_texts(held, symbols, needle, mode)
