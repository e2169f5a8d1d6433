from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import histogramcolumns as reference
from tsengine.kernels.histogramcolumns import (
    FIRST_SPECIAL,
    fill_buckets,
    gather_components,
    list_buckets,
    match_times,
    place_components,
)
from tsengine.kernels.jit import ERR_CORRUPT, OK
from tsengine.model.ragged import offsets_of

KEYS = st.integers(-6, 6) | st.integers(-(2**21) + 1, 2**21 - 1)
BITS = st.integers(1, 3) | st.integers(1, 2**64 - 1)
TIMES = st.lists(
    st.integers(0, 20) | st.integers(-(2**63), 2**63 - 1), max_size=15, unique=True
).map(sorted)
HISTOGRAMS = st.dictionaries(KEYS, BITS, max_size=8).map(lambda own: sorted(own.items()))
GROUPS = st.lists(st.lists(HISTOGRAMS, min_size=1, max_size=7), max_size=5)


def ragged(runs, dtype=np.int64):
    items = [item for run in runs for item in run]
    return offsets_of(np.array([len(run) for run in runs], np.int64)), np.array(items, dtype)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TIMES, TIMES), max_size=5))
def test_match_times_matches_reference(pairs):
    offsets, t_ms = ragged([run for run, _ in pairs])
    other_offsets, other_t = ragged([other for _, other in pairs])
    out = np.full(len(t_ms), -7)
    n_found = match_times(
        offsets[:-1], np.diff(offsets), t_ms, other_offsets[:-1], other_offsets[1:], other_t, out
    )
    expected = []
    for (run, other), start in zip(pairs, other_offsets[:-1].tolist(), strict=True):
        expected += [start + i if i >= 0 else -1 for i in reference.match_times(run, other)]
    assert out.tolist() == expected
    assert n_found == sum(i >= 0 for i in expected)


@settings(max_examples=200, deadline=None)
@given(GROUPS, st.data())
def test_buckets_become_columns_as_in_the_reference(groups, data):
    histograms = [own for group in groups for own in group]
    group_offsets = offsets_of(np.array([len(group) for group in groups], np.int64))
    offsets, keys = ragged([[key for key, _ in own] for own in histograms], np.int32)
    counts = ragged([[bits for _, bits in own] for own in histograms], np.uint64)[1]
    out_keys, out_offsets = np.empty(len(keys), np.int32), np.empty(len(groups) + 1, np.int64)
    first, last = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    n = list_buckets(group_offsets, offsets, keys, out_keys, first, last, out_offsets)
    found = list(zip(out_keys[:n].tolist(), first.tolist(), last.tolist(), strict=False))
    expected, columns = [], []
    for group, base in zip(groups, group_offsets.tolist(), strict=False):
        listed = reference.list_buckets(group)
        expected += [(key, base + i, base + j) for key, i, j in listed]
        columns += reference.fill_buckets(group)
    assert found == expected
    assert np.diff(out_offsets).tolist() == [len(reference.list_buckets(g)) for g in groups]

    lo = data.draw(st.integers(0, n))
    hi = data.draw(st.integers(lo, n))
    positions = offsets_of(last[lo:hi] - first[lo:hi] + 1)
    out = np.zeros(positions[-1], np.uint64)
    status = fill_buckets(
        group_offsets, offsets, keys, counts, out_offsets, out_keys, first, positions[:-1],
        lo, hi, out,
    )  # fmt: skip
    assert status == OK
    assert out.tolist() == [bits for column in columns[lo:hi] for bits in column]


def place(group_t, slots, pieces, n_wanted):
    """``(status, rows, sizes)`` of pieces (key, times, bits) in one group, and their columns."""
    positions = offsets_of(np.array([len(times) for _, times, _ in pieces], np.int64))
    columns = (
        np.array([key for key, _, _ in pieces], np.int64),
        np.diff(positions),
        positions[:-1],
        np.array([bits for _, _, own in pieces for bits in own], np.uint64),
    )
    keys, sizes, starts, bits = columns
    rows, out_sizes = np.full(len(pieces), -1), np.zeros(n_wanted, np.int64)
    status = place_components(
        np.array([0, len(group_t)]), np.array(group_t, np.int64), np.array(slots, np.int64),
        np.zeros(len(pieces), np.int64), keys,
        np.array([times[0] for _, times, _ in pieces], np.int64),
        np.array([times[-1] for _, times, _ in pieces], np.int64),
        sizes, starts, bits, rows, out_sizes,
    )  # fmt: skip
    return status, rows, out_sizes, columns


@settings(max_examples=200, deadline=None)
@given(TIMES.filter(bool), st.data())
def test_components_become_histograms_as_in_the_reference(times, data):
    wanted = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    slots = [sum(wanted[:i]) if w else -1 for i, w in enumerate(wanted)]
    special = st.integers(FIRST_SPECIAL, FIRST_SPECIAL + 3)
    keys = sorted(data.draw(st.sets(special | KEYS, max_size=8)))
    pieces, placed = [], []
    for key in keys:
        row = data.draw(st.integers(0, len(times) - 1))
        end = data.draw(st.integers(row + 1, len(times)))
        bits = data.draw(st.lists(BITS | st.just(0), min_size=end - row, max_size=end - row))
        pieces.append((key, times[row:end], bits))
        placed.append((key, row, bits))
        assert reference.place_components(times, times[row:end]) == row
    status, rows, sizes, (piece_keys, piece_sizes, positions, bits) = place(
        times, slots, pieces, sum(wanted)
    )
    assert status == OK
    assert rows.tolist() == [row for _, row, _ in placed]
    numbers, buckets = reference.gather_components(len(times), placed)
    numbers = [own for own, is_wanted in zip(numbers, wanted, strict=True) if is_wanted]
    buckets = [own for own, is_wanted in zip(buckets, wanted, strict=True) if is_wanted]
    assert sizes.tolist() == [len(own) for own in buckets]
    offsets = offsets_of(sizes)
    out_numbers = np.zeros(4 * len(numbers), np.uint64)
    out_keys, out_counts = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.uint64)
    gather_components(
        np.array(slots), rows, piece_keys, piece_sizes, positions, bits, len(numbers),
        offsets[:-1].copy(), out_numbers, out_keys, out_counts,
    )  # fmt: skip
    assert out_numbers.reshape(4, -1).T.tolist() == numbers
    flat = [item for own in buckets for item in own]
    assert list(zip(out_keys.tolist(), out_counts.tolist(), strict=True)) == flat


def test_pieces_off_their_groups_rows_are_refused():
    times, slots = [10, 20, 30], [0, 1, 2]
    assert place(times, slots, [(5, [20, 30], [1, 1])], 3)[0] == OK
    for piece in ([15], [20, 40], [30, 40], [10, 30], [40], [10, 20, 30, 40]):
        assert reference.place_components(times, piece) is None
        assert place(times, slots, [(5, piece, [1] * len(piece))], 3)[0] == ERR_CORRUPT
