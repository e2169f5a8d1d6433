from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import axes as reference
from tsengine.kernels import axes
from tsengine.kernels.axes import clip_blocks, copy_rows, cut_axes, group_runs, place_series
from tsengine.kernels.jit import ERR_CAPACITY, ERR_CORRUPT, OK

I64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-40, 40) | st.integers(-(2**53), 2**53)


def concatenated(runs: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(run) for run in runs)]).astype(np.int64)
    return np.array([x for run in runs for x in run], np.int64), offsets


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2) | I64, max_size=9), max_size=30), st.booleans())
def test_group_runs_matches_reference(runs, crowded):
    data, offsets = concatenated(runs)
    n = len(runs)
    size = 1 << max(1, (2 * n - 1).bit_length())
    table = np.full(size if crowded else 4 * size, -1, np.int64)
    hashes, heads, groups = np.empty(n, np.uint64), np.empty(n, np.int64), np.empty(n, np.int64)
    n_groups = group_runs(data, offsets, table, hashes, heads, groups)
    expected_groups, expected_heads = reference.group_runs(runs)
    assert groups.tolist() == expected_groups
    assert heads[:n_groups].tolist() == expected_heads


def test_group_runs_tells_apart_what_differs_in_one_bit():
    rng = np.random.default_rng(1)
    base = rng.integers(-(2**62), 2**62, 37)
    runs = [base.tolist()]
    for k in range(len(base)):
        for bit in (0, 1, 31, 32, 62):
            changed = base.copy()
            changed[k] ^= 1 << bit
            runs.append(changed.tolist())
    data, offsets = concatenated(runs)
    n = len(runs)
    table = np.full(1024, -1, np.int64)
    groups = np.empty(n, np.int64)
    hashes = np.empty(n, np.uint64)
    assert group_runs(data, offsets, table, hashes, np.empty(n, np.int64), groups) == n
    assert len(np.unique(hashes)) == n


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sets(TIMES, max_size=30), max_size=5),
    st.lists(st.integers(1, 50) | st.integers(1, 2**40), min_size=1, max_size=3, unique=True),
    st.integers(1, 9),
)
def test_cut_axes_matches_reference(axes, widths, n_rows_max):
    runs = [sorted(axis) for axis in axes]
    t_ms, offsets = concatenated(runs)
    pieces = np.empty(len(offsets), np.int64)
    starts = np.empty(len(t_ms), np.int64)
    widths = sorted(widths, reverse=True)
    n = cut_axes(t_ms, offsets, np.array(widths), n_rows_max, pieces, starts)
    assert pieces[-1] == n
    for axis, run in enumerate(runs):
        ends = np.append(starts[pieces[axis] : pieces[axis + 1]], offsets[axis + 1])
        cut = [t_ms[a:b].tolist() for a, b in pairwise(ends)]
        assert cut == reference.cut_axes(run, widths, n_rows_max)


@settings(max_examples=200, deadline=None)
@given(st.sets(I64, max_size=30), st.integers(1, 9))
def test_cut_axes_loses_no_row_at_the_ends_of_int64(axis, n_rows_max):
    t_ms = np.array(sorted(axis), np.int64)
    starts = np.empty(len(t_ms), np.int64)
    n = cut_axes(
        t_ms, np.array([0, len(t_ms)]), np.array([86_400_000, 900_000]), n_rows_max,
        np.empty(2, np.int64), starts,
    )  # fmt: skip
    sizes = np.diff(np.append(starts[:n], len(t_ms)))
    assert sizes.sum() == len(t_ms)
    assert ((sizes > 0) & (sizes <= n_rows_max)).all()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_place_series_matches_reference(data):
    axes = [sorted(axis) for axis in data.draw(st.lists(st.sets(TIMES, min_size=1), min_size=1))]
    cuts = [data.draw(st.sets(st.integers(1, len(axis)))) - {len(axis)} for axis in axes]
    pieces = [
        [axis[a:b] for a, b in zip([0, *sorted(cut)], [*sorted(cut), len(axis)], strict=True)]
        for axis, cut in zip(axes, cuts, strict=True)
    ]
    chosen = data.draw(st.lists(st.integers(0, len(axes) - 1), max_size=6))
    series = [
        sorted(data.draw(st.just(set(axes[k])) | st.sets(st.sampled_from(axes[k]), min_size=1)))
        for k in chosen
    ]
    axis_t, _ = concatenated([piece for own in pieces for piece in own])
    piece_starts = np.cumsum([0, *(len(piece) for own in pieces for piece in own)])
    piece_offsets = np.cumsum([0, *(len(own) for own in pieces)])
    t_ms, offsets = concatenated(series)
    capacity = sum(len(pieces[k]) for k in chosen)
    series_blocks = np.empty(len(series), np.int64)
    block_piece, first, start = (np.empty(capacity, np.int64) for _ in range(3))
    runs = np.empty(capacity + 1, np.int64)
    run_first, run_length = np.empty(len(t_ms), np.int64), np.empty(len(t_ms), np.int64)
    n = place_series(
        t_ms, offsets, np.array(chosen, np.int64), axis_t, piece_offsets, piece_starts,
        series_blocks, block_piece, first, start, runs, run_first, run_length,
    )  # fmt: skip
    expected = [
        (int(piece_offsets[k]) + piece, row, size, presence)
        for k, own in zip(chosen, series, strict=True)
        for piece, row, size, presence in reference.place_series(own, pieces[k])
    ]
    assert n == len(expected) == series_blocks.sum()
    assert block_piece[:n].tolist() == [block[0] for block in expected]
    assert first[:n].tolist() == [block[1] for block in expected]
    assert np.diff(np.append(start[:n], len(t_ms))).tolist() == [block[2] for block in expected]
    for block, (_, _, size, presence) in enumerate(expected):
        own = [False] * len(presence)
        for run in range(runs[block], runs[block + 1]):
            for row in range(run_first[run], run_first[run] + run_length[run]):
                own[row] = True
        if runs[block] == runs[block + 1]:
            own = [True] * size
        assert own == presence


def test_place_series_refuses_what_is_not_on_the_axis():
    def place(t_ms: list[int], capacity: int) -> int:
        spare = [np.empty(8, np.int64) for _ in range(6)]
        return place_series(
            np.array(t_ms), np.array([0, len(t_ms)]), np.array([0]), np.array([10, 20, 30, 40]),
            np.array([0, 2]), np.array([0, 2, 4]),
            spare[0], np.empty(capacity, np.int64), *spare[1:],
        )  # fmt: skip

    assert place([10, 30], 8) == 2
    assert place([10, 15], 8) == ERR_CORRUPT
    assert place([15], 8) == ERR_CORRUPT
    assert place([41], 8) == ERR_CORRUPT
    assert place([10, 30], 1) == ERR_CAPACITY


PRESENCE = st.lists(st.booleans(), min_size=1, max_size=20).map(lambda p: [True, *p, True])


@settings(max_examples=300, deadline=None)
@given(st.sets(I64, min_size=40, max_size=60), st.lists(PRESENCE, max_size=5), I64 | TIMES, I64)
def test_clip_blocks_and_copy_rows_match_reference(times, presences, mint, maxt):
    axis = sorted(times)
    starts = np.arange(len(presences))
    pattern_offsets, run_first, run_length = [0, 0], [], []
    for presence in presences:
        row = 0
        while row < len(presence):
            size = 0
            while row + size < len(presence) and presence[row + size]:
                size += 1
            if size:
                run_first.append(row)
                run_length.append(size)
            row += size + 1
        pattern_offsets.append(len(run_first))
    sizes = np.array([sum(presence) for presence in presences], np.int64)
    n = len(presences)
    # A contiguous block has pattern 0, or one whose only run says the same.
    patterns = np.array(
        [0 if all(p) and k % 2 else k + 1 for k, p in enumerate(presences)], np.int64
    )
    runs = (
        np.array(pattern_offsets),
        np.array(run_first, np.int64),
        np.array(run_length, np.int64),
    )
    lo, hi, first_t, last_t = (np.empty(n, np.int64) for _ in range(4))
    total = clip_blocks(
        np.array(axis), starts, sizes, patterns, *runs, mint, maxt, lo, hi, first_t, last_t
    )
    expected: list[int] = []
    for k, presence in enumerate(presences):
        own = reference.present_times(axis, k, presence)
        inside = reference.clip_blocks(own, mint, maxt)
        if inside is None:
            assert lo[k] == hi[k]
            continue
        assert (lo[k], hi[k]) == (inside[0], inside[1] + 1)
        assert (first_t[k], last_t[k]) == (own[inside[0]], own[inside[1]])
        expected += reference.copy_rows(axis, k, presence, int(lo[k]), int(hi[k] - lo[k]))
    assert total == len(expected)
    out = np.empty(total, np.int64)
    counts = hi - lo
    positions = np.cumsum(counts) - counts
    assert copy_rows(np.array(axis), starts, lo, counts, patterns, *runs, positions, out) == OK
    assert out.tolist() == expected


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(-5, 200), st.integers(-5, 200), st.randoms())
def test_find_pieces_matches_reference(data, mint, maxt, rnd):
    axis_times = [sorted(rnd.sample(range(200), 30)) for _ in range(3)]
    series: dict[int, list[tuple[int, int, list[bool]]]] = {}
    for ref in sorted(rnd.sample(range(40), rnd.randint(0, 12))):
        series[ref] = []
        for _ in range(rnd.randint(1, 3)):
            first_row = rnd.randint(0, 9)
            presence = [True, *(rnd.random() < 0.8 for _ in range(rnd.randint(0, 18))), True]
            series[ref].append((rnd.randint(0, 2), first_row, presence))
    blocks = [block for own in series.values() for block in own]
    pattern_offsets, run_first, run_length, patterns = [0, 0], [], [], []
    for _, _, presence in blocks:
        if all(presence) and rnd.random() < 0.5:
            patterns.append(0)
            continue
        starts = [k for k, p in enumerate(presence) if p and (k == 0 or not presence[k - 1])]
        for first in starts:
            gaps = [k for k in range(first, len(presence)) if not presence[k]]
            run_first.append(first)
            run_length.append((gaps[0] if gaps else len(presence)) - first)
        patterns.append(len(pattern_offsets) - 1)
        pattern_offsets.append(len(run_first))
    refs = sorted(data.draw(st.sets(st.integers(0, 45), max_size=12)))
    expected = reference.find_pieces(series, axis_times, refs, mint, maxt)

    def find(is_known, capacity):
        pieces = np.zeros((axes.N_COLUMNS, capacity), np.int64)
        keys = np.zeros((capacity, 3), np.int64)
        n = axes.find_pieces(
            np.array(sorted(series), np.uint32),
            np.cumsum([0, *(len(series[ref]) for ref in sorted(series))]),
            np.array([block[0] for block in blocks], np.uint32),
            np.array([block[1] for block in blocks], np.uint16),
            np.array([sum(block[2]) for block in blocks], np.uint16),
            np.array(patterns, np.uint32),
            np.arange(len(blocks)).astype(np.uint8),
            np.array([times[0] for times in axis_times]),
            np.array([times[-1] for times in axis_times]),
            np.array(pattern_offsets), np.array(run_first, np.int64),
            np.array(run_length, np.int64), np.array(is_known), np.array([0, 30, 60]),
            np.concatenate(axis_times), np.array(refs, np.uint32), mint, maxt, pieces, keys,
        )  # fmt: skip
        return n, pieces, keys

    n, pieces, keys = find([True] * 3, 50)
    assert n == len(expected)
    columns = (axes.ROW, axes.BLOCK, axes.LOW, axes.SIZE, axes.FIRST_T, axes.LAST_T)
    assert list(zip(*(pieces[column, :n].tolist() for column in columns), strict=True)) == expected
    for k in range(n):
        block = int(pieces[axes.BLOCK, k])
        axis, first_row, _ = blocks[block]
        assert pieces[axes.START, k] == 30 * axis + first_row
        assert pieces[axes.FLAGS, k] == block
        assert keys[k].tolist() == [
            axis, patterns[block] << 16 | first_row, expected[k][2] << 16 | expected[k][3]
        ]  # fmt: skip
    # Without room, or an axis that is needed, it says so.
    assert find([True] * 3, n // 2)[0] == n
    if expected:
        axis = blocks[expected[0][1]][0]
        assert find([k != axis for k in range(3)], 50)[0] == axes.UNKNOWN_AXIS
